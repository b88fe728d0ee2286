"""Do explanations point at the right photograph, and do confidences mean what they say?

    python -m smcl.experiments.pointing --dataset DATA --mentions image_dependent.json [--preset paper] [--systems smcl]

Beside the file of mentions must lie `showing_images.json`, which names the image that shows each image-dependent
mention. An explanation takes each image out of a post in turn and frames those without which something else is more
probable (`MultiImageNERPipeline.explain`). Pointing accuracy is the share of mentions, found right, whose own
photograph is framed, or is the one that the mention's probability needs most. The expected calibration error is that
of `run_ner_multiimage.py --calibrate`, with the temperature fitted on validation posts.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from smcl import pipeline_smcl
from smcl.baselines import SYSTEMS, context_columns, reads_pixels
from smcl.dataset_scripts.command_line import run_main
from smcl.dataset_scripts.row_checks import NOT_TAGGED
from smcl.pipeline_smcl import EntityExplanation, ImageEvidence, MultiImageNERPipeline
from smcl.train.calibration import calibrate
from smcl.train.collator import SMCLDataCollator
from smcl.train.data import name_tags
from smcl.train.image_cache import ImageFeatures

from .disturb import name_of, stored_images
from .plan import Plan, mentions_digest, parse_plan, plan_parser, read_mentions, read_showing
from .robustness import has_model, open_run
from .run_all import run_all
from .runs import Measured, digest_of_code, write
from .significance import entities_of
from .table2 import NAMES, system_cell
from .tables import NOT_MEASURED, describe, markdown, mean_and_deviation, notes, write_table

# What can tell one image of several from the others: the image with the highest value.
POINTERS: dict[str, Callable[[ImageEvidence], float | None]] = {
    "removal": lambda image: -image.score_without,
    "fusion attention": lambda image: image.fusion_attention,
    "guidance attention": lambda image: image.guidance_attention,
}
SPLITS = {"test": "all", "image-dependent": "image-dependent", "others": "others"}


def framed(explained: EntityExplanation) -> set[int]:
    """Return the images without which something else is more probable, which figures frame."""
    group = explained.entity["entity_group"]
    return {number for number, image in enumerate(explained.images) if image.label_without != group}


def point(explained: EntityExplanation, shown: int) -> dict[str, bool | float]:
    """Tell whether the explanation of a mention points at the photograph that shows it.

    Args:
        explained ([`EntityExplanation`]): The mention.
        shown (`int`): The number of that photograph among the post's images.

    Returns:
        `dict`: `"framed"`, whether it is framed, and `"another framed"`, whether any other is. In posts with several
        images, for each of `POINTERS` that the model has whether it is the image with the highest value, and
        `"chance"`, the probability that a drawn image is it.
    """
    frames = framed(explained)
    found: dict[str, bool | float] = {"framed": shown in frames, "another framed": bool(frames - {shown})}
    if len(explained.images) > 1:
        for name, value in POINTERS.items():
            values = [value(image) for image in explained.images]
            if None not in values:
                found[name] = values.index(max(values)) == shown
        found["chance"] = 1 / len(explained.images)
    return found


def measure_pointing(
    pipe: MultiImageNERPipeline,
    posts: Dataset,
    labels: list[str],
    mentions: dict,
    showing: dict,
    on_extra_images: str = "error",
) -> dict[str, Any]:
    """Explain all posts, and count where the explanations of their mentions point.

    Args:
        pipe ([`MultiImageNERPipeline`]): The model.
        posts (`Dataset`): Test posts.
        labels (`list[str]`): Label names by id.
        mentions (`dict`): Spans of the image-dependent mentions by post id.
        showing (`dict`): For each of these the file name of the image that shows it, or `None`.
        on_extra_images (`str`, *optional*, defaults to `"error"`): With more images than the model takes; with
            `"first"`, the others are not in the post.

    Returns:
        `dict`: `shown`, the number of mentions whose photograph is in the post; `right`, how many of these are found
        with their words and type; the share of each outcome of `point` among those; and `others framed`, how many of
        the other mentions found right have any image framed, as a share.
    """
    outcomes: dict[str, list[float]] = {}
    others, shown_mentions, right = [], 0, 0
    for post, stored in zip(tqdm(posts, disable=None), stored_images(posts), strict=True):
        (images,) = pipe.processor.limit_images([stored], on_extra_images)
        names = [name_of(image) for image in images]
        shown = {
            tuple(span): names.index(name)
            for span, name in zip(mentions[post["id"]], showing[post["id"]], strict=True)
            if name in names
        }
        gold = entities_of(name_tags(post["ner_tags"], labels))
        shown_mentions += len(shown)
        if not names or not gold:
            continue
        shown_post = {"text": post["tokens"], "images": post["images"]}
        for explained in pipe.explain(shown_post, on_extra_images=on_extra_images).entities:
            first, last = explained.entity["words"]
            if (first, last + 1, explained.entity["entity_group"]) not in gold:
                continue
            if (first, last + 1) in shown:
                right += 1
                for name, outcome in point(explained, shown[first, last + 1]).items():
                    outcomes.setdefault(name, []).append(float(outcome))
            elif not any(first < end and start <= last for start, end in mentions[post["id"]]):
                others.append(float(bool(framed(explained))))
    shares = {name: statistics.fmean(values) for name, values in outcomes.items()}
    counts = {"shown": shown_mentions, "right": right, "several": len(outcomes.get("chance", []))}
    return counts | shares | ({"others framed": statistics.fmean(others)} if others else {})


def mask_tags(posts: Dataset, mentions: dict[str, list], inside: bool) -> Dataset:
    """Leave the tags of words inside, or outside, image-dependent mentions; the other words count as not tagged."""

    def kept(tags: list[int], spans: list) -> list[int]:
        words = {word for start, end in spans for word in range(start, end)}
        return [tag if (word in words) == inside else NOT_TAGGED for word, tag in enumerate(tags)]

    tags = [kept(tags, mentions[post_id]) for tags, post_id in zip(posts["ner_tags"], posts["id"], strict=True)]
    feature = posts.features["ner_tags"]
    return posts.remove_columns("ner_tags").add_column("ner_tags", tags, feature=feature)


def examine(plan: Plan, measured: Measured) -> dict[str, Any]:
    """Measure pointing and calibration of a cell's model, and keep what was found beside it.

    Args:
        plan ([`Plan`]): The plan.
        measured ([`Measured`]): A cell with its model.
    """
    run = open_run(plan, measured, ["validation", "test"])
    mentions, showing = read_mentions(plan.mentions), read_showing(plan.mentions)
    pipe = MultiImageNERPipeline(run.model.eval(), run.processor, device=run.arguments.training.device)
    data = run.arguments.data
    pointing = measure_pointing(pipe, run.posts["test"], run.labels, mentions, showing, data.on_extra_images)
    features = ImageFeatures(run.model, run.processor, plan.arguments.get("image_cache"), data.on_extra_images)
    posts = {split: features.replace_images(run.posts[split], disable_tqdm=True) for split in ("validation", "test")}
    posts |= {part: mask_tags(posts["test"], mentions, part == "image-dependent") for part in [*SPLITS][1:]}
    trainer = run.build_trainer()
    trainer.data_collator = SMCLDataCollator(run.processor, features, data.max_length, data.on_extra_images)
    calibration = {}
    try:
        # Of a part without any predicted entity, there is no error to tell.
        calibration = {name: x for name, x in calibrate(trainer, posts).items() if not math.isnan(x)}
    except ValueError as error:
        sys.stderr.write(f"{measured.folder}: {error}\n")
    found = {"pointing": pointing, "calibration": calibration}
    write(found, kept_path(plan, measured))
    return found


def made_by() -> str:
    """Tell the code that explains and counts from others."""
    return digest_of_code(__file__, pipeline_smcl.__file__)


def kept_path(plan: Plan, measured: Measured) -> Path:
    """Return where what was found of a cell is kept, as long as this module, explanations and mentions are the same."""
    return measured.folder / f"pointing-{made_by()}-{mentions_digest(plan.mentions)}.json"


def lay_out(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table: a row for each measure, a column for each system.

    Args:
        found (`dict[str, list[dict]]`): What `examine` returned for each seed of each system.
    """

    def column(part: str, name: str, scale: float = 1) -> list[str]:
        values = {title: [one[part][name] for one in each if name in one[part]] for title, each in found.items()}
        if scale == 1:
            return [mean_and_deviation(x) for x in values.values()]
        return [f"{statistics.fmean(x):.1f}" if x else NOT_MEASURED for x in values.values()]

    rows = [
        ["image-dependent mentions whose photograph is in the post", *column("pointing", "shown", 0)],
        ["of these found right", *column("pointing", "right", 0)],
        ["its photograph is framed, %", *column("pointing", "framed")],
        ["another image is framed, %", *column("pointing", "another framed")],
        ["found right in posts with several images", *column("pointing", "several", 0)],
        *(
            [f"{how}: its photograph has the most, %", *column("pointing", name)]
            for name, how in zip(POINTERS, ("loss by removal", *[*POINTERS][1:]), strict=True)
        ),
        ["by chance, %", *column("pointing", "chance")],
        ["other mentions found right with any image framed, %", *column("pointing", "others framed")],
        *(
            [f"calibration error, {part}, {when}", *column("calibration", f"{split}_ece{key}")]
            for split, part in SPLITS.items()
            for key, when in (("_before", "as trained"), ("", "with temperature"))
        ),
    ]
    return markdown(["", *found], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    names = [name for name in NAMES if reads_pixels(SYSTEMS[name]) and not context_columns(SYSTEMS[name])]
    parser.add_argument(
        "--systems", nargs="+", choices=names, default=["smcl", "umt-mi", "tpm-mi"], help="(%(default)s)"
    )
    plan, options = parse_plan("pointing", parser, argv)
    if plan.mentions is None or read_showing(plan.mentions) is None:
        parser.error(
            "Expected --mentions, the image_dependent.json of the data set, with showing_images.json beside it, which "
            "names the image that shows each mention: the maker of natural posts writes both."
        )
    if plan.ignores_images:
        parser.error("--ignore_images takes away what explanations are about: leave that out.")
    if "validation" not in plan.splits:
        parser.error("--eval_strategy no: the temperature is fitted on the validation split. Leave that argument out.")
    cells = {cell.title: cell for cell in map(system_cell, options.systems)}
    measured = run_all(replace(plan, keep_models=True), cells)
    found: dict[str, list[dict[str, Any]]] = {title: [] for title in cells}
    for title, runs in measured.items():
        for one in runs:
            kept = kept_path(plan, one)
            if kept.is_file():
                found[title].append(json.loads(kept.read_text(encoding="utf-8")))
            elif plan.run and has_model(one):
                sys.stderr.write(f"{title}, seed {one.record['seed']}: explanations\n")
                found[title].append(examine(plan, one))
    remarks = [
        "Mean ± sample standard deviation over the seeds whose model was kept. A mention is found right with its very "
        "words and type. Framed: without that image, something else is more probable of these words. The calibration "
        "error is the expected one over predicted entities, ten bins, in percent, before and after a temperature is "
        "fitted on validation posts; entities that lie partly in an image-dependent mention count under all alone.",
    ]
    everything = [m for runs in measured.values() for m in runs]
    data = {"made_by": made_by(), "found": found, "runs": {title: describe(runs) for title, runs in measured.items()}}
    title = f"Pointing and calibration, {plan.data_name}"
    write_table(plan, title, lay_out(found), data, [*remarks, *notes(plan, everything)])


if __name__ == "__main__":
    run_main(main)

"""Robustness: F1 when the images of the test posts are disturbed, on image-dependent mentions and on all others.

    python -m smcl.experiments.robustness --dataset DATA --mentions image_dependent.json [--preset paper]
    python -m smcl.experiments.robustness ... --systems smcl umt-mi --disturbances missing exchanged

Models are trained on posts as they are. Draws `robustness.png` beside the table; needs matplotlib
(`pip install "smcl[plot]"`). Without `--mentions`, all mentions are scored together.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from smcl.dataset_scripts.command_line import run_main
from smcl.dataset_scripts.files import write_whole
from smcl.dataset_scripts.gate import has_images
from smcl.run_ner_multiimage import predict
from smcl.train.arguments import parse_arguments
from smcl.train.build import Run, prepare
from smcl.train.collator import SMCLDataCollator
from smcl.train.data import UnreadableError, load_posts
from smcl.train.image_cache import ImageFeatures

from . import disturb, image_dependent
from .plan import Plan, mentions_digest, parse_plan, plan_parser, read_mentions, read_showing, to_argv
from .run_all import run_all
from .runs import PREDICTING, Measured, digest_of_code
from .significance import count_posts, f1_of
from .table2 import AS_PRINTED, system_cell
from .tables import describe, markdown, mean_and_deviation, notes, write_table

SYSTEMS = {
    "smcl": system_cell("smcl"),
    "smcl-as-printed": AS_PRINTED,
    "umt-mi": system_cell("umt-mi"),
    "tpm-mi": system_cell("tpm-mi"),
}
COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#CC79A7")
ALL = ("all",)
PARTS = ("image-dependent", "others")
# By kind and level.
Disturbance = tuple[str, int]


def has_model(measured: Measured) -> bool:
    """Tell whether the model of a cell was kept."""
    return (measured.folder / "run" / "model.safetensors").is_file()


def open_run(plan: Plan, measured: Measured, splits: Sequence[str] = ("test",)) -> Run:
    """Load the model of a cell and the posts of the plan, as predicting again does."""
    given = {name: plan.arguments[name] for name in PREDICTING if name in plan.arguments} | {"disable_tqdm": "true"}
    places = {"dataset": plan.dataset, "model": str(measured.folder / "run"), "output_dir": tempfile.gettempdir()}
    return prepare(parse_arguments(to_argv(given | places)), list(splits))


def made_by() -> str:
    """Tell the code that disturbs posts from others."""
    return digest_of_code(disturb.__file__)


def prediction_path(plan: Plan, measured: Measured, disturbance: Disturbance) -> Path:
    """Return where predictions of disturbed posts go, which are kept while disturbance and mentions are the same."""
    if not disturbance[1]:
        return measured.folder / "run" / "predictions.jsonl"
    # Which photographs are irrelevant, the file of mentions tells.
    parts = [*map(str, disturbance), made_by(), *filter(None, [mentions_digest(plan.mentions)])]
    return measured.folder / "robustness" / f"{'-'.join(parts)}.jsonl"


def predict_disturbed(plan: Plan, measured: Measured, disturbances: Sequence[Disturbance]) -> None:
    """Predict disturbed test posts by the model of a cell, as far as that has not been done.

    Args:
        plan ([`Plan`]): The plan.
        measured ([`Measured`]): A cell with its model.
        disturbances (`Sequence[tuple[str, int]]`): Kinds and levels.
    """
    left = [one for one in disturbances if not prediction_path(plan, measured, one).is_file()]
    if not left:
        return
    run = open_run(plan, measured)
    posts, data = run.posts["test"], run.arguments.data
    # Each different image is encoded once, for all seeds if the encoder is frozen.
    features = ImageFeatures(run.model, run.processor, plan.arguments.get("image_cache"), data.on_extra_images)
    trainer = run.build_trainer()
    trainer.data_collator = SMCLDataCollator(run.processor, features, data.max_length, data.on_extra_images)
    pool = find_pool(plan, posts)
    for kind, level in left:
        changed = disturb.disturb(posts, kind, level, pool, run.model.config.max_images)
        path = prediction_path(plan, measured, (kind, level))
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as unfinished:
            predict(trainer, features.replace_images(changed, disable_tqdm=True), run.labels, unfinished)


def check_images(plan: Plan) -> None:
    """Refuse models and test posts without images, which can't be disturbed, before anything is trained.

    Raises:
        ValueError: if there are none.
    """
    if plan.ignores_images:
        raise ValueError("--ignore_images takes away what is disturbed here: leave that out.")
    # Data that can't be read is told by `run_all`, with the way to make it.
    with suppress(UnreadableError):
        if not has_images(load_posts(plan.dataset, ["test"], **plan.reading)["test"]):
            raise ValueError(f"No post of the test split of {plan.dataset} has an image that could be disturbed.")


def find_pool(plan: Plan, posts: Dataset) -> list[tuple[int, disturb.Stored]]:
    """Find the photographs that may be added to posts as irrelevant ones."""
    mentions = None if plan.mentions is None else read_mentions(plan.mentions)
    showing = None if plan.mentions is None else read_showing(plan.mentions)
    return disturb.irrelevant_photographs(disturb.stored_images(posts), posts["id"], mentions, showing)


def score(plan: Plan, path: Path) -> dict[str, float]:
    """Return the F1 of predictions on each part of the mentions."""
    if plan.mentions is None:
        counts = count_posts(image_dependent.read_predictions(path))
        return {"all": float(f1_of(counts.sum(axis=0)))}
    found = image_dependent.score(path, read_mentions(plan.mentions))
    return {part: found[part]["f1"] for part in PARTS}


# F1 by system, kind, level and part, one for each seed.
Scores = dict[str, dict[str, dict[int, dict[str, list[float]]]]]


def collect(plan: Plan, found: dict[str, list[Measured]], kinds: Sequence[str]) -> Scores:
    """Predict what has not been, with `plan.run`, and score it.

    Args:
        plan ([`Plan`]): The plan.
        found (`dict[str, list[Measured]]`): The seeds of each system that were measured.
        kinds (`Sequence[str]`): Disturbances.

    Returns:
        `dict`: F1 by system, kind, level and part of the mentions, a list with one for each seed.
    """
    every = [(kind, level) for kind in kinds for level in disturb.LEVELS[kind]]
    parts = ALL if plan.mentions is None else PARTS
    scores: Scores = {}
    for title, cells in found.items():
        levels = {kind: disturb.LEVELS[kind] for kind in kinds}
        scores[title] = {k: {level: {part: [] for part in parts} for level in x} for k, x in levels.items()}
        for measured in cells:
            if plan.run and has_model(measured):
                sys.stderr.write(f"{title}, seed {measured.record['seed']}: disturbed posts\n")
                predict_disturbed(plan, measured, every)
            for kind, level in every:
                path = prediction_path(plan, measured, (kind, level))
                # Seeds without a model would change the mean at level 0 alone.
                if path.is_file() and all(prediction_path(plan, measured, one).is_file() for one in every):
                    for part, f1 in score(plan, path).items():
                        scores[title][kind][level][part].append(f1)
    return scores


def draw(scores: Scores, path: Path) -> None:
    """Draw a panel for each disturbance and part of the mentions, a line for each system.

    Args:
        scores (`dict`): What `collect` returned.
        path (`Path`): The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    from matplotlib.figure import Figure

    first = next(iter(scores.values()))
    parts = list(next(iter(next(iter(first.values())).values())))
    figure = Figure(figsize=(3 * len(first), 2.7 * len(parts)), layout="constrained")
    panels = figure.subplots(len(parts), len(first), squeeze=False, sharey="row")
    for line, part in zip(panels, parts, strict=True):
        for axes, kind in zip(line, first, strict=True):
            for (title, by_kind), colour in zip(scores.items(), COLOURS, strict=False):
                here = {level: [100 * f1 for f1 in by_part[part]] for level, by_part in by_kind[kind].items()}
                here = {level: f1 for level, f1 in here.items() if f1}
                means = [statistics.fmean(f1) for f1 in here.values()]
                spans = [statistics.stdev(f1) if len(f1) > 1 else 0 for f1 in here.values()]
                axes.errorbar(list(here), means, spans, marker="o", color=colour, capsize=3, label=title)
            axes.set_xticks(disturb.LEVELS[kind])
            axes.set_xlabel(f"{kind} {'(number)' if kind == 'irrelevant' else '(%)'}")
        line[0].set_ylabel(f"F1, {part}")
    panels[0][0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def lay_out(scores: Scores) -> str:
    """Return the table: a row for each disturbance and level, columns for each system and part."""
    first = next(iter(scores.values()))
    rows = []
    for kind, by_level in first.items():
        for level, parts in by_level.items():
            cells = [mean_and_deviation(by_kind[kind][level][part]) for part in parts for by_kind in scores.values()]
            rows.append([kind, str(level), *cells])
    parts = list(next(iter(next(iter(first.values())).values())))
    return markdown(["", "level", *(f"{title}, {part}" for part in parts for title in scores)], rows)


def _remarks(found: dict[str, list[Measured]], kinds: Sequence[str], knows_shown: bool) -> Iterator[str]:
    yield (
        "Strict F1 of the test split in percent, mean ± sample standard deviation over seeds; the models were trained "
        "on posts as they are. " + "; ".join(f"{kind}: {disturb.MEANINGS[kind]}" for kind in kinds) + "."
    )
    if "irrelevant" in kinds and not knows_shown:
        yield (
            "Which images show a mention is not known (no showing_images.json beside --mentions): any image of another "
            "post was taken for an irrelevant one, and some mislead."
        )
    gone = {
        title: [str(m.record["seed"]) for m in cells if not has_model(m) and not (m.folder / "robustness").is_dir()]
        for title, cells in found.items()
    }
    for title, seeds in gone.items():
        if seeds:
            yield (
                f"{title}: the models of the seeds {', '.join(seeds)} were not kept, so these are left out; delete "
                "their folders to train them again."
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="(default: all)")
    parser.add_argument(
        "--disturbances", nargs="+", choices=disturb.LEVELS, default=list(disturb.LEVELS), help="(default: all)"
    )
    plan, options = parse_plan("robustness", parser, argv)
    plan = replace(plan, keep_models=True)
    if plan.run:
        with parser.errors_in_one_line():
            check_images(plan)
    found = run_all(plan, {SYSTEMS[name].title: SYSTEMS[name] for name in options.systems})
    scores = collect(plan, found, options.disturbances)
    draw(scores, plan.folder / "robustness.png")
    knows_shown = plan.mentions is not None and read_showing(plan.mentions) is not None
    everything = [m for cells in found.values() for m in cells]
    remarks = [*_remarks(found, options.disturbances, knows_shown), *notes(plan, everything)]
    data = {"made_by": made_by(), "f1": scores, "runs": {title: describe(cells) for title, cells in found.items()}}
    write_table(plan, f"Robustness, {plan.data_name}", lay_out(scores), data, remarks)


if __name__ == "__main__":
    run_main(main)

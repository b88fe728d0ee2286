"""CP-MNER, real paragraphs of Chinese characters with one image each: do images help, and with which types?

python -m smcl.experiments.cp_mner --dataset data/cp_mner --vision_model VISION
python -m smcl.experiments.cp_mner --dataset data/cp_mner --vision_model VISION --text_model TEXT --learning_rate 1e-4

Without --text_model, the text encoder is a small untrained BERT over the characters of the training split, with enough
positions for the longest post of all splits, so that none is cut.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from datasets import DatasetDict
from transformers import AutoConfig, set_seed

from smcl.dataset_scripts.command_line import run_main
from smcl.train.data import label_names, load_posts, name_tags

from .comparison import Row, compare
from .icon_demo import save_text_encoder
from .plan import Plan, list_splits, parse_plan, plan_parser, read_overrides, reading_of, to_argv
from .runs import Cell, Measured, measure
from .significance import METHOD, Difference, bootstrap_difference
from .tables import describe, interval, markdown, mean_and_deviation, notes, scores, write_table

WITH, WITHOUT = "SMCL", "SMCL without images"
# Nothing of the text encoder is pretrained: the rates of fine-tuning would leave it untrained.
SETUP = {
    "learning_rate": "2e-3",
    "head_learning_rate": "2e-3",
    "num_train_epochs": "4",
    "early_stopping_patience": "2",
    "per_device_train_batch_size": "8",
    "train_sampling_strategy": "group_by_length",
}
CELLS = {
    "HBiLSTM-CRF": ("text", Cell("HBiLSTM-CRF", {"system": "hbilstm-crf", "learning_rate": "3e-3"})),
    "BERT-CRF": ("text", Cell("BERT-CRF", {"system": "bert-crf"})),
    WITHOUT: ("text", Cell(WITHOUT, {"ignore_images": "true"})),
    WITH: ("image", Cell(WITH)),
}
REMARKS = [
    f"{WITHOUT} is trained and tested without any. The default rates were chosen once, by the validation F1 of seed 42 "
    "in runs of two epochs: BERT-CRF 46.3 at 1e-3 and 49.7 at 2e-3, which SMCL takes over; HBiLSTM-CRF 3.3 at 1e-3 "
    "(batches of 16) and, after one epoch, 63.0 at 3e-3. Few epochs leave all of them short of what they can learn."
]


def positions_of(posts: DatasetDict) -> int:
    """Return how many positions hold every post with [CLS] and [SEP], each character by itself; a multiple of 64."""
    longest = max(sum(map(len, words)) for split in posts.values() for words in split["tokens"])
    return -(-(longest + 2) // 64) * 64


def count_types(posts: DatasetDict, split: str) -> Counter[str]:
    """Count the entities of each type in a split, in the order of the labels."""
    names = label_names(posts)
    counts = Counter({name.removeprefix("B-"): 0 for name in names if name.startswith("B-")})
    tags = (tag for row in posts[split]["ner_tags"] for tag in name_tags(row, names))
    counts.update(tag.removeprefix("B-") for tag in tags if tag and tag.startswith("B-"))
    return counts


def default_arguments(options: argparse.Namespace, rest: Sequence[str], posts: DatasetDict) -> list[str]:
    """Return the arguments of this experiment that the user's stand above; make the text encoder if there is none.

    Args:
        options (`argparse.Namespace`): What `plan_parser`'s parser read.
        rest (`Sequence[str]`): What it did not know.
        posts (`DatasetDict`): The data.

    Returns:
        `list[str]`: arguments of the run script.

    Raises:
        ValueError: with `--no_run`, if there is no text encoder.
    """
    setup = dict(SETUP)
    if "text_model" not in read_overrides(rest):
        name = options.dataset_name or Path(options.dataset).resolve().name
        folder = options.results / "cp_mner" / name / "text"
        if not options.no_run:
            set_seed(0)
            # Characters that training meets once are unknown to it, so that the unknown one is learned.
            save_text_encoder(posts["train"]["tokens"], folder, positions_of(posts), least_count=2, num_heads=2)
        elif not folder.is_dir():
            raise ValueError(
                f"`--no_run` shows what was measured before, and there is no text encoder in {folder} that it could "
                "have been measured with: leave `--no_run` out, or name that of earlier runs by `--text_model`."
            )
        setup["text_model"] = str(folder)
    return to_argv(setup)


def tell_lengths(posts: DatasetDict, text_model: str) -> list[str]:
    """Say how long posts are, and of what kind and for how long ones the text encoder is."""
    config = AutoConfig.from_pretrained(text_model)
    lengths = sorted(len(words) for split in posts.values() for words in split["tokens"])
    return [
        f"Posts have {lengths[0]} to {lengths[-1]} characters, half of them more than {lengths[len(lengths) // 2]}. "
        f"The text encoder of BERT-CRF and SMCL, the same for all seeds, is of type {config.model_type}: "
        f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.max_position_embeddings} positions."
    ]


def keep_type(run: Sequence[dict], entity_type: str) -> list[dict]:
    """Blank out the entities of all other types in predicted posts."""

    def kept(tags: list[str | None]) -> list[str | None]:
        return [tag if tag is None or tag[2:] == entity_type else "O" for tag in tags]

    return [post | {name: kept(post[name]) for name in ("gold", "predicted")} for post in run]


def compare_types(found: dict[str, list[Measured]], types: Sequence[str]) -> dict[str, Difference]:
    """Compare the F1 of each type with and without images, on the seeds that both have.

    Args:
        found (`dict[str, list[Measured]]`): The runs of each row.
        types (`Sequence[str]`): The types.

    Returns:
        `dict` from types to [`Difference`]s, with minus without images; empty if no seed was measured of both.
    """
    seeds = set.intersection(*({m.record["seed"] for m in found[title]} for title in (WITH, WITHOUT)))
    if not seeds:
        return {}
    runs = [[m.predictions() for m in found[title] if m.record["seed"] in seeds] for title in (WITH, WITHOUT)]
    return {
        name: bootstrap_difference(*([keep_type(run, name) for run in system] for system in runs)) for name in types
    }


def tell_types(differences: dict[str, Difference]) -> list[str]:
    """Say which types images help or hurt, by the intervals."""
    if not differences:
        return []
    kinds = {
        "Images help": [name for name, gap in differences.items() if gap.low > 0],
        "images hurt": [name for name, gap in differences.items() if gap.high < 0],
    }
    told = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in kinds.items())
    return [
        f"{told}, by the 95 % intervals; of the other types they can't tell. Of {len(differences)} types that do not "
        "differ, about one would show an interval without 0 by chance."
    ]


def tell_blind(found: dict[str, list[Measured]]) -> list[str]:
    """Say what becomes of the model trained with images when all are taken away."""
    runs = found[WITH]
    if not runs:
        return []
    gap = bootstrap_difference([m.predictions() for m in runs], [m.predictions(without_images=True) for m in runs])
    return [
        f"{WITH}, trained with images and tested without: F1 {mean_and_deviation(scores(runs, 'without_images'))}; "
        f"its F1 with images is {interval(gap)} points above."
    ]


def write_types(plan: Plan, found: dict[str, list[Measured]], posts: DatasetDict) -> None:
    """Write the table of types: numbers of entities, F1 of each row, and what images change.

    Args:
        plan ([`Plan`]): The plan.
        found (`dict[str, list[Measured]]`): The runs of each row.
        posts (`DatasetDict`): The data.
    """
    counts = {split: count_types(posts, split) for split in ("train", "test")}
    types = sorted(counts["train"], key=lambda name: -counts["train"][name])
    differences = compare_types(found, types)
    rows, data = [], {}
    for name in types:
        gap = differences.get(name)
        cells = [mean_and_deviation(scores(measured, name=f"{name}_f1")) for measured in found.values()]
        rows.append([name, *(str(counts[split][name]) for split in counts), *cells, interval(gap)])
        data[name] = {split: counts[split][name] for split in counts} | {"difference": gap and asdict(gap)}
    heads = ["", "entities: training", "test", *found, f"{WITH} − without"]
    about = (
        'Strict F1 of each type in percent. "− without": what images change, with the 95 % confidence interval of the '
        f"{METHOD}."
    )
    remarks = [about, *tell_types(differences), *tell_blind(found)]
    everything = [m for measured in found.values() for m in measured]
    write_table(
        replace(plan, experiment="cp_mner_types"),
        f"CP-MNER by type, {plan.data_name}",
        markdown(heads, rows),
        {"types": data, "runs": {title: describe(measured) for title, measured in found.items()}},
        [*remarks, *notes(plan, everything)],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--rows", nargs="+", choices=CELLS, default=tuple(CELLS), help="which to run (default: all)")
    argv = sys.argv[1:] if argv is None else list(argv)
    options, rest = parser.parse_known_args(argv)
    with parser.errors_in_one_line():
        given = read_overrides(rest)
        posts = load_posts(options.dataset, list_splits(given), ignore_images=True, **reading_of(given))
        defaults = default_arguments(options, rest, posts)
    plan, options = parse_plan("cp_mner", parser, [*defaults, *argv])
    remarks = [*tell_lengths(posts, plan.arguments["text_model"]), *REMARKS]
    rows = [Row(title, cell, group=reads, run=title in options.rows) for title, (reads, cell) in CELLS.items()]
    compare(plan, f"CP-MNER: with and without images, {plan.data_name}", rows, WITH, remarks)
    unmeasured = replace(plan, run=False)
    write_types(plan, {title: measure(unmeasured, cell) for title, (_, cell) in CELLS.items()}, posts)


if __name__ == "__main__":
    run_main(main)

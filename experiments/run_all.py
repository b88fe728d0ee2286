"""All cells of an experiment: what they still need, what they would take (`--dry_run`), and running them."""

import glob
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from datasets import Dataset

from smcl.baselines import SYSTEMS, context_columns, how_to_make, needed_encoders
from smcl.dataset_scripts.annotators import describe_model
from smcl.dataset_scripts.label_files import check_files
from smcl.dataset_scripts.report import content_digest
from smcl.dataset_scripts.split_files import open_builder
from smcl.train.data import UnreadableError, label_names, load_posts, load_split, name_tags

from .estimate import estimate
from .plan import Plan, read_mentions, read_report
from .runs import Cell, Measured, arguments_of, find, is_tested_blind, measure_all
from .significance import entities_of

WEIGHTS = ("*.safetensors", "*.bin")
PARTS = {"text": "text", "vision": "image"}

K = TypeVar("K", bound=Hashable)


def run_all(plan: Plan, cells: Mapping[K, Cell], asked: Sequence[K] | None = None) -> dict[K, list[Measured]]:
    """Measure the cells of an experiment, as far as that has not been done; with `--dry_run`, end with an estimate.

    Args:
        plan ([`Plan`]): The plan; with `run=False`, nothing is run.
        cells (`Mapping`): What to measure.
        asked (`Sequence`, *optional*): Which of them to run; the others are only looked up. By default all.

    Returns:
        `dict`: the seeds that were measured of each cell, now or before.

    Raises:
        SystemExit: with status 0 after a dry run; with status 1 and one line if the data set or an encoder can't be
            found, all runs failed, or there is nothing measured to show.
    """
    if not plan.run:
        measured = plan.results.glob(f"*/{glob.escape(plan.data_name)}/*/seed-*/cell.json")
        if not Path(plan.dataset).exists() and not any(measured):
            end(plan, f"there is neither a data set {plan.dataset} nor a result of {plan.data_name} in {plan.results}")
        return measure_all(plan, cells)
    asked = list(cells if asked is None else asked)
    before = {key: sum(find(plan, cells[key], seed) is not None for seed in plan.seeds) for key in asked}
    left = {key: cells[key] for key in asked if before[key] < len(plan.seeds)}
    ready = check_needs(plan, left)
    if plan.dry_run:
        estimate(plan, [(cell, len(plan.seeds) - before[key]) for key, cell in ready.items()], sum(before.values()))
        sys.exit(0)
    found = measure_all(plan, cells, ready)
    if ready and all(len(found[key]) == before[key] for key in ready):
        end(plan, "all runs failed, for the reasons above. `--no_run` shows what was measured before")
    if not any(found[key] for key in asked):
        end(plan, "none of its cells could be run")
    return found


def end(plan: Plan, reason: object) -> None:
    """End an experiment with status 1 and one line."""
    sys.exit(f"{plan.experiment}: {reason}")


def check_needs(plan: Plan, cells: Mapping[K, Cell]) -> dict[K, Cell]:
    """Look before the first run whether data, columns and encoders are there, and say what is not.

    Args:
        plan ([`Plan`]): The plan.
        cells (`Mapping`): What is to be run.

    Returns:
        `dict`: those whose data set has all columns that they read; the others are told, with the command.

    Raises:
        SystemExit: if the data set or an encoder can't be found; names it, and how to get it.
    """
    if not cells:
        return {}
    try:
        columns = _read_columns(plan)
        _check_content(plan)
        lacking = lacking_columns(plan, cells, columns)
        if lacking:
            sys.stderr.write(f"not measured: {tell_lacking(cells, lacking, plan.dataset)}\n")
        ready = {key: cell for key, cell in cells.items() if key not in lacking}
        _check_encoders(plan, list(cells.values()))
    except ValueError as error:
        end(plan, error)
    return ready


def _read_columns(plan: Plan) -> set[str]:
    """Check the data as runs do, and return the columns that all splits have.

    Raises:
        ValueError: if the data set is missing, and how to make it; if runs would refuse it, or the file of mentions.
    """
    splits, reading = plan.splits, plan.reading
    try:
        posts = load_posts(plan.dataset, splits, ignore_images=True, **reading)
    except UnreadableError as error:
        if Path(plan.dataset).exists():
            raise
        raise ValueError(
            f"There is no data set {plan.dataset}, neither as a folder nor on the Hub. From MNER-MI as published, "
            f"`python -m smcl.dataset_scripts.mner_mi --source DIR --output {plan.dataset}` makes it (--plus for "
            "MNER-MI-Plus); docs/data.md has the other converters."
        ) from error
    if plan.mentions is not None:
        unknown = set(posts["test"]["id"]) - read_mentions(plan.mentions).keys()
        if unknown:
            raise ValueError(
                f"{len(unknown)} posts of the test split, such as {min(unknown)!r}, are not in {plan.mentions}: "
                "expected the image_dependent.json that was written with this data set as --mentions."
            )
        _check_mentions(posts["test"], plan.mentions)
    config_name = reading["config_name"]
    features = check_files(open_builder(plan.dataset, config_name), splits, reading["columns"], ignore_images=True)
    loaded = [load_split(plan.dataset, split, features=features, config_name=config_name) for split in splits]
    return set.intersection(*(set(split.column_names) for split in loaded))


def _check_content(plan: Plan) -> None:
    """Refuse posts that changed since their converter reported on them, by which cells are known."""
    for split, about in read_report(plan.dataset).get("splits", {}).items():
        if content_digest(load_split(plan.dataset, split, config_name=plan.reading["config_name"])) != about["sha256"]:
            raise ValueError(
                f"The posts of {split} in {plan.dataset} are not those that its report.json tells of, by which results "
                "are known. Convert them again, or remove report.json: the data is then known by its files."
            )


def _check_mentions(posts: Dataset, path: Path) -> None:
    """Refuse a file of mentions of which one is none of its post's: another data set may number its posts alike."""
    mentions, names = read_mentions(path), label_names({"test": posts})
    for post in posts.select_columns(["id", "ner_tags"]):
        gold = {(first, end) for first, end, _ in entities_of(name_tags(post["ner_tags"], names))}
        if other := [span for span in mentions[post["id"]] if tuple(span) not in gold]:
            raise ValueError(
                f"{path}: {other[0]} of post {post['id']!r} is no entity there, so this is of another data set. "
                "Expected the image_dependent.json that was written with this one as --mentions."
            )


def lacking_columns(plan: Plan, cells: Mapping[K, Cell], columns: set[str] | None = None) -> dict[K, list[str]]:
    """Find the cells whose system reads columns that the data set lacks.

    Args:
        plan ([`Plan`]): The plan.
        cells (`Mapping`): The cells.
        columns (`set[str]`, *optional*): The columns that there are; by default they are looked up.

    Returns:
        `dict`: what each of them lacks; of cells that take all images away, nothing.

    Raises:
        ValueError: if the data set can't be read.
    """
    read = {key: context_columns(SYSTEMS[cell.system]) for key, cell in cells.items() if is_tested_blind(plan, cell)}
    if columns is None:
        columns = _read_columns(plan) if any(read.values()) else set()
    lacking = {key: [column for column in names if column not in columns] for key, names in read.items()}
    return {key: names for key, names in lacking.items() if names}


def tell_lacking(cells: Mapping[K, Cell], lacking: Mapping[K, Sequence[str]], dataset: str) -> str:
    """Say which columns cells lack, and the command that makes them.

    Args:
        cells (`Mapping`): The cells.
        lacking (`Mapping`): The columns that some of them lack.
        dataset (`str`): What to call the data set in the command.

    Returns:
        `str`: two sentences.
    """
    said = []
    for key, columns in lacking.items():
        listed = " and ".join(f"`{column}`" for column in columns)
        said.append(f"{cells[key].title} needs column{'s' * (len(columns) > 1)} {listed}")
    every = list(dict.fromkeys(column for columns in lacking.values() for column in columns))
    return f"{'; '.join(said)}. Make them by `{how_to_make(every, dataset)}`."


def _check_encoders(plan: Plan, cells: Sequence[Cell]) -> None:
    """Look whether the encoders of all cells are there; a `ValueError` names those that are not, and who needs them."""
    needing: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for part in needed_encoders(SYSTEMS[cell.system]):
            name = arguments_of(plan, cell)[f"{part}_model"]
            needing.setdefault((part, name), []).append(cell.title)
    missing = []
    for (part, name), titles in needing.items():
        try:
            describe_model(name)
            folder = Path(name)
            if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
                raise ValueError(f"The folder {name} holds no weights.")
        except ValueError as error:
            where = "Give another" if Path(name).exists() else f"Get it by `hf download {name}`, or give a folder"
            missing.append(
                f"{', '.join(dict.fromkeys(titles))} need{'s' * (len(titles) == 1)} the {PARTS[part]} encoder {name}: "
                f"{error} {where} by --{part}_model."
            )
    if missing:
        raise ValueError(" ".join(missing))

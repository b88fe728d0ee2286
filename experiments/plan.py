"""What every experiment's command line has in common: data, preset, overrides, seeds."""

import argparse
import hashlib
import json
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.hf_argparser import string_to_bool

from smcl.dataset_scripts.columns import parse_columns
from smcl.dataset_scripts.command_line import CommandParser, positive
from smcl.dataset_scripts.fingerprints import file_digest
from smcl.dataset_scripts.schema import parse_json
from smcl.publish.run_record import read_object
from smcl.run_ner_multiimage import needed_splits
from smcl.train.arguments import RUN_ARGUMENTS, parse_arguments

from . import paper
from .threads import choose_threads

# Arguments of run_ner_multiimage.py. The paper names no batch size: it searched 8 to 32.
PRESETS = {
    "paper": paper.SETUP | {"per_device_train_batch_size": "16"},
    "small": {
        "freeze_vision": "true",
        "learning_rate": "1e-4",
        "head_learning_rate": "1e-3",
        "num_train_epochs": "4",
        "early_stopping_patience": "5",
        "per_device_train_batch_size": "16",
    },
}
# What a preset sets for single systems. Prompts stand among the words in each layer's attention: learnt at ten times
# the encoders' rate they drown them. Natural posts, validation, 4 epochs: TPM-MI F1 0.15, here 0.76 (seed 0);
# VisualPT-MoE 0.15, 0.51 and 0.16, here 0.61, 0.62 and 0.62 (seeds 0 to 2). HVPNeT learns at both: 0.67, and 0.65.
PROMPTS = {"head_learning_rate": PRESETS["small"]["learning_rate"]}
SYSTEM_PRESETS = {"small": {"tpm-mi": PROMPTS, "visualpt-moe": PROMPTS}}
SEEDS = {"paper": paper.SEEDS, "small": 3}
# What an experiment sets for each run; given for all of them, these would be ignored or stop its runs from being runs.
RESERVED = {"dataset", "do_eval", "do_predict", "do_train", "input", "model", "output", "output_dir"}
RESERVED |= {"overwrite_output_dir", "resume_from_checkpoint", "seed", "split", "system"}


@dataclass(frozen=True)
class Plan:
    """What an experiment runs on, and how.

    Args:
        experiment (`str`): Its name, that of the module.
        dataset (`str`): Folder or Hub name of the data.
        data_name (`str`): What to call the data in results.
        arguments (`dict`): Arguments of `run_ner_multiimage.py` that all cells share; of several values, a list.
        of_systems (`dict[str, dict[str, str]]`): Those of single systems, above these, by the system's name.
        seeds (`tuple[int, ...]`): One run for each.
        results (`Path`): Where results go.
        threads (`int`): Threads of each run.
        mentions (`Path`, *optional*): An `image_dependent.json`, to score these mentions apart.
        run (`bool`): Whether to run what has not been measured yet.
        preset (`str`): Name of the preset, for the record.
        dry_run (`bool`): Whether to estimate what the runs would take, in place of running them.
        jobs (`int`): Runs at once.
        keep_models (`bool`): Whether to keep the model of each seed; otherwise that of the first.
    """

    experiment: str
    dataset: str
    data_name: str
    arguments: dict[str, str | list[str]]
    seeds: tuple[int, ...]
    results: Path
    threads: int = 1
    mentions: Path | None = None
    run: bool = True
    preset: str = "small"
    dry_run: bool = False
    jobs: int = 1
    keep_models: bool = False
    of_systems: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where this experiment's cells and tables on this data go."""
        return self.results / self.experiment / self.data_name

    @property
    def reading(self) -> dict[str, Any]:
        """How its runs read the data: options of `load_posts`."""
        return reading_of(self.arguments)

    @property
    def ignores_images(self) -> bool:
        """Whether its runs take all images away."""
        return is_true(self.arguments, "ignore_images")

    @property
    def splits(self) -> list[str]:
        """The splits that its runs read."""
        return list_splits(self.arguments)

    @property
    def uses_gpu(self) -> bool:
        """Whether its runs are on a GPU."""
        return torch.cuda.is_available() and not is_true(self.arguments, "use_cpu")


def is_true(arguments: Mapping[str, str | list[str]], name: str) -> bool:
    """Tell whether an argument that is on or off is on, in whichever of the ways that the run script reads."""
    return string_to_bool(arguments.get(name, "false"))


def reading_of(arguments: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """Return the options of `load_posts` among arguments of the run script; as there, a text is one pair of columns."""
    columns = arguments.get("columns", [])
    return {
        "columns": parse_columns([columns] if isinstance(columns, str) else columns),
        "config_name": arguments.get("dataset_config_name"),
        "tag_scheme": arguments.get("tag_scheme"),
    }


def list_splits(arguments: Mapping[str, str | list[str]]) -> list[str]:
    """List the splits that runs of such arguments read: without evaluation, none for validation."""
    given = parse_arguments(to_argv({**arguments, "do_train": "true", "do_predict": "true"}))
    return needed_splits(given.training, given.model.calibrate)


def plan_parser(description: str) -> CommandParser:
    """Build the parser that all experiments share; arguments that it does not know are those of the run script."""
    epilog = "All other arguments go to run_ner_multiimage.py, such as --num_train_epochs 8."
    # `--seed` is the run script's, and no short form of `--seeds`.
    parser = CommandParser(description, passes_on=RUN_ARGUMENTS, epilog=epilog, allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="a folder written by a converter, or a Hub name")
    parser.add_argument("--dataset_name", help="what to call it in results (default: the folder's name)")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="sizes and rates (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds (default: 0-2, with --preset paper 0-4)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results (%(default)s)")
    chosen = "threads of each run (default: the fastest in a few steps; with --preset paper or several --jobs 1)"
    parser.add_argument("--threads", type=positive, help=chosen)
    parser.add_argument("--jobs", type=positive, default=1, help="runs at once, each with its threads (%(default)s)")
    parser.add_argument("--mentions", type=Path, help="image_dependent.json of photo posts, to score these apart")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--no_run", action="store_true", help="only write the table of what was measured before")
    ways.add_argument("--dry_run", action="store_true", help="only estimate hours and memory, from a few steps of each")
    return parser


def read_overrides(rest: Sequence[str]) -> dict[str, str | list[str]]:
    """Read arguments of the run script as it would: `--name value` and `--flag`s as strings, several values as a list.

    Raises:
        ValueError: if a value has no name.
    """
    found: dict[str, list[str]] = {}
    values = None
    for part in rest:
        if part.startswith("--"):
            name, equals, value = part[2:].partition("=")
            name = name.replace("-", "_")
            # Given twice, the last one counts, but of columns all.
            earlier = found.get(name, []) if name == "columns" else []
            values = found[name] = [*earlier, *([value] if equals else [])]
        elif values is None:
            raise ValueError(f"Got {part!r} where an argument `--name` was expected: write `--name value`.")
        else:
            values.append(part)
    return {name: values[0] if len(values) == 1 else values or "true" for name, values in found.items()}


def read_mentions(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Read the spans of image-dependent mentions by post id.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    try:
        mentions = parse_json(path.read_bytes())
    except (OSError, ValueError):
        mentions = None
    if not isinstance(mentions, dict):
        raise ValueError(f"Expected the image_dependent.json of the data set as --mentions, found none at {path}.")
    for post, spans in mentions.items():
        if not isinstance(spans, list) or not all(map(_is_span, spans)):
            raise ValueError(
                f"{path}: expected a list of [first word, last word + 1] for post {post!r}, got {str(spans)[:80]}."
            )
    return mentions


def _is_span(span: Any) -> bool:
    numbers = isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)
    return numbers and 0 <= span[0] < span[1]


def mentions_digest(mentions: Path | None) -> str:
    """Return 8 hex digits that tell files of mentions, with what shows them, apart; an empty text for none."""
    if mentions is None:
        return ""
    total = hashlib.sha256()
    for path in (mentions, mentions.with_name("showing_images.json")):
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()[:8]


def read_showing(mentions: Path) -> dict[str, list[str | None]] | None:
    """Read which image shows each image-dependent mention: `showing_images.json` beside the file of mentions.

    Returns:
        `dict`: by post id, for each mention in order the file's name or `None`; `None` if there is no such file.

    Raises:
        ValueError: if the file is not of these mentions.
    """
    path = mentions.with_name("showing_images.json")
    if not path.is_file():
        return None
    try:
        showing = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        showing = None
    counts = {post_id: len(spans) for post_id, spans in read_mentions(mentions).items()}
    if not isinstance(showing, dict) or {post_id: len(names) for post_id, names in showing.items()} != counts:
        raise ValueError(f"Expected in {path} an image, or null, for each mention of {mentions}.")
    return showing


def make_plan(experiment: str, options: argparse.Namespace, rest: Sequence[str]) -> Plan:
    """Put preset and overrides together, and check them before anything runs.

    Args:
        experiment (`str`): Name of the module.
        options (`argparse.Namespace`): What `plan_parser`'s parser read.
        rest (`Sequence[str]`): What it did not know.

    Returns:
        [`Plan`].

    Raises:
        ValueError: if a run sets an argument itself, or encoders or the file of mentions are missing.
    """
    overrides = read_overrides(rest)
    arguments = PRESETS[options.preset] | overrides
    of_systems = {
        system: {name: value for name, value in own.items() if name not in overrides}
        for system, own in SYSTEM_PRESETS.get(options.preset, {}).items()
    }
    if reserved := sorted(RESERVED & set(arguments)):
        raise ValueError(f"Each run sets {', '.join('--' + name for name in reserved)} itself: leave that out.")
    if options.seeds is not None and len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"--seeds {' '.join(map(str, options.seeds))}: each counts once. Leave out the others.")
    if options.seeds is not None and min(options.seeds) < 0:
        raise ValueError(f"--seeds {min(options.seeds)}: expected whole numbers of at least 0.")
    missing = [f"--{name}" for name in ("text_model", "vision_model") if name not in arguments]
    if missing:
        raise ValueError(f"Expected {' and '.join(missing)}: the preset {options.preset!r} brings no encoders.")
    if options.mentions:
        read_mentions(options.mentions)
        read_showing(options.mentions)
    parse_arguments(to_argv(arguments))
    seeds = tuple(range(SEEDS[options.preset])) if options.seeds is None else tuple(options.seeds)
    data_name = options.dataset_name or Path(options.dataset).resolve().name
    if data_name in (".", "..") or re.search(r"[/\\]", data_name):
        raise ValueError(f"--dataset_name {data_name}: it is the name of a folder of results. Leave out / and \\.")
    return Plan(
        experiment,
        options.dataset,
        data_name,
        arguments,
        seeds,
        options.results,
        options.threads or 1,
        options.mentions,
        not options.no_run,
        options.preset,
        dry_run=options.dry_run,
        jobs=options.jobs,
        of_systems=of_systems,
    )


def to_argv(arguments: dict[str, str | list[str]]) -> list[str]:
    """Write arguments, each with one value or several, as a command line."""
    values = {name: [value] if isinstance(value, str) else value for name, value in arguments.items()}
    return [part for name, parts in values.items() for part in (f"--{name}", *parts)]


def parse_plan(experiment: str, parser: CommandParser, argv: Sequence[str] | None) -> tuple[Plan, argparse.Namespace]:
    """Parse an experiment's command line; ends with a message if it can't be run."""
    # A run that is ended by a signal must not leave its child at work.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options, rest = parser.parse_known_args(argv)
    with parser.errors_in_one_line():
        plan = make_plan(experiment, options, rest)
        if options.threads is None and plan.run and plan.preset == "small" and plan.jobs == 1 and not plan.uses_gpu:
            batch_size = int(plan.arguments["per_device_train_batch_size"])
            plan = replace(plan, threads=choose_threads(plan.arguments["text_model"], batch_size))
        return plan, options


def read_report(dataset: str) -> dict[str, Any]:
    """Read the `report.json` of a data set in a folder; empty if there is none; a `ValueError` names an odd one."""
    path = Path(dataset) / "report.json"
    report = read_object(path, set()) if path.is_file() else {}
    splits = report.get("splits", {})
    if not isinstance(splits, dict) or not all(isinstance(x, dict) and "sha256" in x for x in splits.values()):
        raise ValueError(
            f"{path} does not tell the `sha256` of each split, as a converter's report does. Convert the data again, "
            "or remove that file."
        )
    return report


def data_digests(dataset: str) -> dict[str, str]:
    """Return the SHA-256 of each split and of each column of context, from the data set's report.

    Without one, a folder is known by its files, and a data set of the Hub by its name.
    """
    report = read_report(dataset)
    digests = {split: about["sha256"] for split, about in report.get("splits", {}).items()}
    if not digests:
        folder = Path(dataset)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "report.json"]
        files = {str(path.relative_to(folder)): path for path in paths}
        digests = {name: file_digest(path).hex() for name, path in files.items()} or {"name": dataset}
    for column, about in report.get("context", {}).items():
        digests |= {f"{split} {column}": digest for split, digest in about["sha256"].items()}
    return digests

"""What a run of the command line leaves beside the model that it saved: `run.json`, from which a card is made."""

import csv
import importlib.metadata
import json
import os
import platform
import re
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils.sha import sha_fileobj
from transformers.utils import logging

from ..crf_smcl import entity_types
from ..dataset_scripts.context import CONTEXT_FEATURES, column_digest
from ..dataset_scripts.files import is_same_folder
from ..dataset_scripts.row_checks import NOT_TAGGED
from ..pipeline_smcl import find_entities

logger = logging.get_logger("smcl")

RUN_FILE, REPORT_FILE = "run.json", "report.json"
PACKAGES = ("smcl", "torch", "transformers", "datasets")
# Training arguments that a card tells besides the command, which leaves out what has its default.
SETTINGS = (
    "seed",
    "learning_rate",
    "head_learning_rate",
    "vision_learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "num_train_epochs",
    "early_stopping_patience",
    "weight_decay",
    "warmup_steps",
    "bf16",
    "fp16",
)
EXAMPLES = 3
# Images that a converter left out. Reports of older versions know no ambiguous ones.
LOST = ("missing", "ambiguous", "broken")
# What a card reads of each run, and of each split of a converter's report.
RUN_KEYS = {"command", "finished", "seconds", "resumed_from", "stages", "started_from", "ignore_images", "settings"}
RUN_KEYS |= {"data", "versions", "hardware", "energy_kwh", "results"}
SPLIT_KEYS = {"posts", "words", "entities", "images", "images_per_post", "mapped_tags", "sha256"}
SPLIT_KEYS |= {"missing_images", "repaired_images", "broken_images", "illegal_transitions"}
# What it reads of each column of context, and what it tells of one that a model was trained on.
CONTEXT_KEYS = {"made_by", "model", "settings", "read", "limit", "failed", "sha256"}
MAKER_KEYS = ("made_by", "model", "revision", "fingerprint", "settings", "versions")
# argparse also takes `--hub-token`, and any beginning that is clear.
_TOKEN_NAME = re.compile("--hub[_-]t(o(k(en?)?)?)?")
# As the Hub makes them, wherever they stand: in a URL, in JSON.
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


class RunRecord:
    """Watches a run of `run_ner_multiimage.py` from its start and notes it at its end.

    Args:
        argv (`Sequence[str]`): Its arguments, or the one YAML or JSON file that holds them. The token is not kept.
    """

    def __init__(self, argv: Sequence[str]):
        self.argv, self.started = list(argv), time.time()

    def write(self, model_arguments, data_arguments, training_arguments, dataset: DatasetDict, resumed_from) -> None:
        """Add this run to the `run.json` of its output folder, if the model that it scored lies there.

        A model that was trained on from a saved one keeps the runs of that. A run that applies a model from elsewhere
        says nothing about what may lie in its output folder, and is not noted.

        Args:
            model_arguments (`ModelArguments`): Those of the run.
            data_arguments (`DataArguments`): Likewise.
            training_arguments (`SMCLTrainingArguments`): Likewise.
            dataset (`DatasetDict`): The splits that were used.
            resumed_from (`str`, *optional*): The checkpoint that training went on from.
        """
        folder, start = Path(training_arguments.output_dir), model_arguments.model
        is_same = is_same_folder(start, folder)
        if not (training_arguments.do_train or model_arguments.calibrate or is_same):
            return
        stages = {
            "train": training_arguments.do_train,
            "calibration": model_arguments.calibrate,
            "eval": training_arguments.do_eval,
            "test": training_arguments.do_predict,
        }
        run = {
            "command": command_line(self.argv, training_arguments.hub_token),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 1),
            "resumed_from": resumed_from and Path(resumed_from).name,
            "stages": [stage for stage, is_done in stages.items() if is_done],
            "started_from": {
                key: _origin(getattr(model_arguments, key))
                for key in ("model", "text_model", "vision_model")
                if getattr(model_arguments, key) is not None
            },
            "freeze_vision": model_arguments.freeze_vision,
            "ignore_images": data_arguments.ignore_images,
            "settings": {name: getattr(training_arguments, name) for name in SETTINGS},
            "data": describe_data(
                data_arguments.dataset, dataset, data_arguments.ignore_images, data_arguments.dataset_config_name
            ),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "hardware": describe_hardware(training_arguments.device, training_arguments.world_size),
            "energy_kwh": self.read_energy(folder) if training_arguments.do_train else None,
            "weights": hash_weights(folder),
            "results": {},
        }
        for stage in run["stages"]:
            run["results"] |= json.loads((folder / f"{stage}_results.json").read_text(encoding="utf-8-sig"))
        # Where training went on in the same folder, the weights of before are gone.
        runs = [] if start is None else earlier_runs(start, check=not (training_arguments.do_train and is_same))
        (folder / RUN_FILE).write_text(json.dumps({"runs": [*runs, run]}, indent=2, default=str) + "\n", "utf-8")

    def read_energy(self, folder: Path) -> float | None:
        """Read what codecarbon measured of this run (`--report_to codecarbon`), in kWh; `None` if it did not."""
        path = folder / "emissions.csv"
        if not path.is_file() or path.stat().st_mtime < self.started:
            return None
        with path.open(encoding="utf-8", newline="") as file:
            return float(list(csv.DictReader(file))[-1]["energy_consumed"])


def read_runs(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the runs that made a saved model, in their order.

    Args:
        folder (`str` or `os.PathLike`): The model's folder.

    Returns:
        `list[dict]`: none if nothing was recorded there.

    Raises:
        ValueError: if the file is not as a run leaves it.
    """
    path = Path(folder, RUN_FILE)
    if not path.is_file():
        return []
    runs = read_object(path, {"runs"})["runs"]
    if not isinstance(runs, list) or not all(isinstance(run, dict) and RUN_KEYS <= run.keys() for run in runs):
        raise ValueError(
            f"Expected {path} to hold runs with {', '.join(sorted(RUN_KEYS))}. Remove it if it was edited."
        )
    return runs


def read_object(path: Path, keys: Set[str]) -> dict[str, Any]:
    """Read an object of JSON.

    Args:
        path (`Path`): The file.
        keys (`Set[str]`): What it must have.

    Returns:
        `dict`.

    Raises:
        ValueError: if the file holds anything else; names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"Expected {path} to hold JSON, and can't read it: {error}") from error
    if not isinstance(value, dict) or not keys <= value.keys():
        raise ValueError(f"Expected {path} to hold an object of JSON with {', '.join(sorted(keys))}.")
    return value


def earlier_runs(folder: str | os.PathLike, check: bool) -> list[dict[str, Any]]:
    """Read the runs that made a model which another run started from; a warning tells of those that are left out.

    Args:
        folder (`str` or `os.PathLike`): The model's folder.
        check (`bool`): Whether its weights still lie there, to be compared.

    Returns:
        `list[dict]`: none if the record is broken or of other weights; the run is over, and must not end on that.
    """
    try:
        runs = read_runs(folder)
    except ValueError as error:
        logger.warning(f"The record of this run tells of no earlier ones. {error}")
        return []
    if runs and check and not tells_of(runs, folder):
        logger.warning(f"The {len(runs)} runs in {Path(folder, RUN_FILE)} are of other weights: they are left out.")
        return []
    return runs


def hash_weights(folder: str | os.PathLike) -> dict[str, str]:
    """Take the SHA-256 of each file of a saved model's weights.

    Args:
        folder (`str` or `os.PathLike`): The model's folder.

    Returns:
        `dict[str, str]`: hexadecimal, by file name.
    """
    hashes = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            hashes[path.name] = sha_fileobj(file).hex()
    return hashes


def tells_of(runs: Sequence[dict[str, Any]], folder: str | os.PathLike) -> bool:
    """Tell whether runs are of the weights that lie in a folder: a run that broke off leaves new ones and no record.

    Args:
        runs (`Sequence[dict]`): Runs, as [`read_runs`] returns them; the last one counts.
        folder (`str` or `os.PathLike`): The model's folder.

    Returns:
        `bool`.
    """
    return runs[-1].get("weights") == hash_weights(folder)


def command_line(argv: Sequence[str], token: str | None = None) -> str:
    """Write arguments out as a command that a shell reads, without the token.

    Args:
        argv (`Sequence[str]`): Arguments, or one YAML or JSON file of them.
        token (`str`, *optional*): The token, where it is known; what looks like one is left out in any case.

    Returns:
        `str`: the command.
    """
    argv = [str(argument) for argument in argv]
    if len(argv) == 1 and argv[0].endswith((".yaml", ".yml", ".json")):
        import yaml

        text = Path(argv[0]).read_text(encoding="utf-8-sig")
        # JSON is YAML, unless it is indented by tabs.
        given = json.loads(text) if argv[0].endswith(".json") else yaml.safe_load(text)
        # As it is written: `no` may be a choice as well as a truth.
        written = {} if argv[0].endswith(".json") else yaml.load(text, yaml.BaseLoader)
        told = {name: text for name, text in written.items() if text in ("yes", "no")}
        given |= {name: text for name, text in told.items() if isinstance(given.get(name), bool)}
        argv = [part for name, value in given.items() if value is not None for part in _as_arguments(name, value)]
    kept, is_secret = [], False
    for argument in argv:
        name, separator, _ = argument.partition("=")
        names_secret = bool(_TOKEN_NAME.fullmatch(name))
        if is_secret:
            argument = "TOKEN"
        elif separator and names_secret:
            argument = f"{name}=TOKEN"
        kept.append(_TOKEN.sub("TOKEN", argument.replace(token, "TOKEN") if token else argument))
        is_secret = names_secret and not separator
    return shlex.join(["python", "run_ner_multiimage.py", *kept])


def _as_arguments(name: str, value: Any) -> list[str]:
    """Write an entry of a file of arguments as argparse reads it."""
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


def describe_data(
    name: str, dataset: DatasetDict, ignore_images: bool = False, config_name: str | None = None
) -> dict[str, Any]:
    """Tell which data were used: their name, the posts and SHA-256 of each split, and mentions of each type.

    Args:
        name (`str`): Folder or Hub name.
        dataset (`DatasetDict`): The splits that were used, with the columns of context that the system reads.
        ignore_images (`bool`, *optional*, defaults to `False`): Whether images and context were taken away.
        config_name (`str`, *optional*): Which configuration was used of a data set that holds several.

    Returns:
        `dict`: what stands in the converter's `report.json` is `None` where there is no report, or one of other data;
        of streams, also posts and mentions.
    """
    try:
        report = read_report(name) or {"splits": {}}
    except ValueError as error:
        # Data of others may have a file of that name; a run that is over must not end on it.
        logger.warning(f"The record of this run tells no hashes of the data {name}. {error}")
        report = {"splits": {}}
    splits = {}
    for split, posts in dataset.items():
        told = report["splits"].get(split, {})
        # Tags that were mended since, or another data set of as many posts, have another hash.
        # Of a stream, nobody knows what it holds.
        streams = isinstance(posts, IterableDataset)
        told = told if told and not streams and _is_of(told, posts) else {}
        splits[split] = {
            "posts": None if streams else len(posts),
            "sha256": told.get("sha256"),
            "images": told.get("images"),
        }
        lost = [told.get(f"{state}_images", {"count": 0})["count"] for state in LOST if told]
        splits[split]["lost_images"] = sum(lost) if told else None
    origin = _origin(name)
    title = (report.get("name") or Path(name).resolve().name) if origin["is_local"] else name
    title = title if config_name is None else f"{title}, {config_name}"
    mentions = count_mentions(dataset["train"]) if isinstance(dataset.get("train"), Dataset) else None
    context = {} if ignore_images else _describe_context(report.get("context", {}), dataset)
    return {**origin, "title": title, "splits": splits, "mentions": mentions, "context": context}


def _describe_context(context: dict[str, Any], dataset: DatasetDict) -> dict[str, dict[str, Any] | None]:
    """Tell what each column of context that was read was made by; `None` where a report does not, or is of another."""
    found = {}
    for column in CONTEXT_FEATURES:
        parts = {split: posts for split, posts in dataset.items() if column in (posts.column_names or ())}
        told = context.get(column, {})
        is_of = told and all(
            isinstance(posts, Dataset) and told["sha256"].get(split) == column_digest(_stored(posts, column))
            for split, posts in parts.items()
        )
        if parts:
            found[column] = {key: told[key] for key in MAKER_KEYS if key in told} if is_of else None
    return found


def _stored(posts: Dataset, column: str) -> Iterator[Any]:
    for rows in posts.with_format("arrow").select_columns(column).iter(1000):
        yield from rows[column].to_pylist()


def _is_of(told: dict[str, Any], posts: Dataset) -> bool:
    """Tell whether a split of a report has as many posts, words and entities of each type as the posts."""
    labels = posts.features["ner_tags"].feature.names
    columns = posts.select_columns("ner_tags")["ner_tags"]
    tags = Counter(tag for post in columns for tag in tag_names(post, labels))
    entities = {label[2:]: count for label, count in tags.items() if label.startswith("B-")}
    expected = {name: count for name, count in told["entities"].items() if count and name != "total"}
    return (told["posts"], told["words"], expected) == (len(posts), tags.total(), entities)


def tag_names(tags: Sequence[int], labels: Sequence[str]) -> list[str]:
    """Name the tags of a post; that of a word which nobody tagged is its number, and of no entity."""
    return [str(NOT_TAGGED) if tag == NOT_TAGGED else labels[tag] for tag in tags]


def read_report(name: str | os.PathLike) -> dict[str, Any] | None:
    """Read a data set's `report.json` from its folder or from the Hub.

    Args:
        name (`str`): Folder or Hub name.

    Returns:
        `dict`, *optional*: `None` if there is none.

    Raises:
        ValueError: if the file is not as a converter writes it.
    """
    path = Path(name, REPORT_FILE)
    if not Path(name).exists():
        try:
            path = Path(hf_hub_download(name, REPORT_FILE, repo_type="dataset"))
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled):
            return None
    if not path.is_file():
        return None
    report = read_object(path, {"name", "splits", "duplicate_ids"})
    splits = report["splits"]
    if not isinstance(splits, dict) or not all(isinstance(s, dict) and SPLIT_KEYS <= s.keys() for s in splits.values()):
        raise ValueError(
            f"Expected {path} to tell {', '.join(sorted(SPLIT_KEYS))} of each split. Run the converter again."
        )
    context = report.get("context", {})
    if not isinstance(context, dict) or not all(
        isinstance(c, dict) and CONTEXT_KEYS <= c.keys() for c in context.values()
    ):
        raise ValueError(
            f"Expected {path} to tell {', '.join(sorted(CONTEXT_KEYS))} of each column of context. Run "
            "`python -m smcl.dataset_scripts.enrich` again."
        )
    return report


def count_mentions(posts: Dataset) -> dict[str, dict[str, Any]]:
    """Count the entities of each type, and name those that are mentioned most often.

    Args:
        posts (`Dataset`): Posts with `tokens` and `ner_tags`.

    Returns:
        `dict`: for each type its `count` and at most `EXAMPLES` `examples`.
    """
    labels = posts.features["ner_tags"].feature.names
    mentions: dict[str, Counter] = defaultdict(Counter)
    for post in posts.select_columns(["tokens", "ner_tags"]):
        for first, last, name in find_entities(tag_names(post["ner_tags"], labels)):
            mentions[name][" ".join(post["tokens"][first : last + 1])] += 1
    return {
        name: {
            "count": mentions[name].total(),
            "examples": [words for words, _ in mentions[name].most_common(EXAMPLES)],
        }
        for name in entity_types(labels)
    }


def describe_hardware(device: torch.device, processes: int) -> str:
    """Name what a run computed on; each of its processes has one GPU."""
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _origin(name: str) -> dict[str, Any]:
    """Tell a folder of this machine from a name on the Hub, while both can be told apart."""
    return {"name": name, "is_local": Path(name).exists()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


__all__ = [
    "REPORT_FILE",
    "RUN_FILE",
    "RunRecord",
    "command_line",
    "read_object",
    "read_report",
    "read_runs",
    "tells_of",
]

"""Publish a saved model, a converted data set or the metric on the Hugging Face Hub, complete and with a card.

    python -m smcl.publish FOLDER NAME [--private] [--license ID] [--revision BRANCH] [--token TOKEN]
    python -m smcl.publish FOLDER NAME --output NEW_FOLDER
    python -m smcl.publish --metric NAME [--output NEW_FOLDER]

Of a model, weights, configuration, code, tokenizer and image processor are uploaded, with `handler.py` and
`requirements.txt` for the Hub's hosted inference endpoints; of a data set, its Parquet files and `report.json`; and
`README.md`, the card. Nothing else that may lie in FOLDER is: no checkpoint, optimizer, log or
prediction. `--metric` uploads the strict entity score of training as a Space, for others to `evaluate.load(NAME)`.
`--output` writes what would be uploaded into a new folder, and reaches nothing.
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import HfApi, RepoCard, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from transformers.trainer_utils import HubStrategy

from ..configuration_smcl import SMCLConfig
from ..dataset_scripts.command_line import CommandParser, say
from ..dataset_scripts.fingerprints import is_hub_name
from ..predict import handler, load_pipeline
from .dataset_card import check_report, dataset_card, parquet_files
from .metric import write_metric
from .model_card import model_card
from .run_record import REPORT_FILE, RUN_FILE, read_object, read_report, read_runs, tells_of

T = TypeVar("T")

CARD_FILE = "README.md"
# What the code that travels with a model imports, by the names of packages.
REQUIRED = ("torch", "transformers", "pytorch-crf", "numpy", "pillow", "safetensors")
# Files of an earlier upload that this one replaces, where it has none of that name.
REPLACED = {
    "model": ["*.safetensors", "*.safetensors.index.json", "*_smcl.py"],
    "dataset": ["data/*.parquet"],
    "space": [],
}


def publish(
    folder: str | os.PathLike,
    name: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a model or a data set, complete and with a card.

    Args:
        folder (`str` or `os.PathLike`): A saved SMCL model, or a data set that a converter wrote.
        name (`str`): `"namespace/name"` on the Hub, or `"name"` in one's own namespace; made if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private; by default as the namespace has it.
        license (`str`, *optional*): Identifier of the licence, such as `"apache-2.0"`; by default not recorded.
        revision (`str`, *optional*): Branch to upload to, made if need be; `main` by default.
        token (`str`, *optional*): A token that may write there; by default that of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: the address of the commit.

    Raises:
        ValueError: if the folder holds neither, is incomplete, or the Hub refuses; says what to do.
    """
    kind = find_kind(folder)
    check_license(license)
    name = claim_repository(name, kind, private=private, token=token)
    with tempfile.TemporaryDirectory() as staging:
        complete(folder, staging, name, license=license)
        return _upload(staging, kind, name, revision, token)


def publish_metric(
    name: str, *, private: bool | None = None, revision: str | None = None, token: str | None = None
) -> str:
    """Upload the strict entity score, so that others load it by `evaluate.load(name)`.

    Args:
        name (`str`): As in [`publish`]; of a Space.
        private (`bool`, *optional*): As in [`publish`].
        revision (`str`, *optional*): As in [`publish`].
        token (`str`, *optional*): As in [`publish`].

    Returns:
        `str`: the address of the commit.

    Raises:
        ValueError: if the Hub refuses; says what to do.
    """
    name = claim_repository(name, "space", private=private, token=token)
    with tempfile.TemporaryDirectory() as staging:
        complete_metric(staging, name)
        return _upload(staging, "space", name, revision, token)


def _upload(staging: str, kind: str, name: str, revision: str | None, token: str | None) -> str:
    """Upload all of a folder, and return the address of the commit."""
    api = HfApi()
    if revision not in (None, "main"):
        _ask(name, lambda: api.create_branch(name, repo_type=kind, branch=revision, exist_ok=True, token=token))
    commit = _ask(
        name,
        lambda: api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=staging,
            revision=revision,
            token=token,
            delete_patterns=REPLACED[kind],
            commit_message=f"Publish the {'metric' if kind == 'space' else kind}",
        ),
    )
    return commit.commit_url


def claim_repository(name: str, kind: str, private: bool | None = None, token: str | None = None) -> str:
    """Make sure that a repository exists and may be written to.

    Args:
        name (`str`): `"namespace/name"`, or `"name"` in one's own namespace.
        kind (`str`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): As in [`publish`].

    Returns:
        `str`: its full name.

    Raises:
        ValueError: if the Hub refuses, or can't be reached.
    """
    settings = {"repo_type": kind, "private": private, "token": token, "exist_ok": True}
    settings |= {"space_sdk": "static"} if kind == "space" else {}
    return _ask(name, lambda: HfApi().create_repo(name, **settings)).repo_id


def _ask(name: str, call: Callable[[], T]) -> T:
    """Call the Hub; turn its refusals into errors that say what to do."""
    try:
        return call()
    except OfflineModeIsEnabled as error:
        raise ValueError(f"Publishing {name} needs the Hub: unset HF_HUB_OFFLINE.") from error
    except HFValidationError as error:
        raise ValueError(f"{name!r} can't be a name on the Hub, expected 'namespace/name': {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or str(error).splitlines()[0]
        if status not in (401, 403):
            raise ValueError(f"The Hub ({constants.ENDPOINT}) answered with status {status}: {said}") from error
        what = "does not know the token" if status == 401 else f"does not let this token write to {name}"
        raise ValueError(
            f"The Hub ({constants.ENDPOINT}) {what}: {said} Log in by `hf auth login` with a token that may write "
            "there, or give it by HF_TOKEN or `--token` (`--hub_token` in training)."
        ) from error
    except HTTPError as error:
        raise ValueError(
            f"The Hub ({constants.ENDPOINT}) can't be reached: {error}. Publishing {name} needs a network; `python -m "
            "smcl.publish FOLDER NAME --output NEW_FOLDER` needs none, and writes what would be uploaded."
        ) from error


def find_kind(folder: str | os.PathLike) -> str:
    """Tell by its files whether a folder holds a model or a data set.

    Args:
        folder (`str` or `os.PathLike`): The folder.

    Returns:
        `str`: `"model"` or `"dataset"`.

    Raises:
        ValueError: if it holds neither.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return "model"
    if (folder / REPORT_FILE).is_file() and (folder / "data").is_dir():
        return "dataset"
    raise ValueError(
        f"Expected {folder} to hold a saved model (config.json, model.safetensors) or a data set as the converters "
        f"write it ({REPORT_FILE}, data/*.parquet), found neither."
    )


def complete(folder: str | os.PathLike, output: str | os.PathLike, name: str, *, license: str | None = None) -> None:
    """Write all that a published model or data set consists of into a folder.

    Args:
        folder (`str` or `os.PathLike`): As in [`publish`].
        output (`str` or `os.PathLike`): Where to; an empty or a new folder.
        name (`str`): Its name on the Hub, for the card.
        license (`str`, *optional*): As in [`publish`].

    Raises:
        ValueError: if the folder holds neither or is incomplete, or the output is not empty.
    """
    folder, output = Path(folder), Path(output)
    kind = find_kind(folder)
    check_license(license)
    _make_output(output, name)
    try:
        card = (_complete_model if kind == "model" else _complete_dataset)(folder, output, name, license)
    except ValueError:
        # Nothing is left in the way of the next try.
        shutil.rmtree(output)
        raise
    (output / CARD_FILE).write_text(f"{card}\n", encoding="utf-8")


def complete_metric(output: str | os.PathLike, name: str) -> None:
    """Write all that the published strict entity score consists of into a folder.

    Args:
        output (`str` or `os.PathLike`): Where to; an empty or a new folder.
        name (`str`): Its name on the Hub.

    Raises:
        ValueError: if the output is not empty, or the name can't be one on the Hub.
    """
    output = Path(output)
    _make_output(output, name)
    (output / CARD_FILE).write_text(f"{write_metric(output, name)}\n", encoding="utf-8")


def _make_output(output: Path, name: str) -> None:
    """Make a folder for what is to be published; refuse one that holds files, and a name that the Hub would refuse."""
    _ask(name, lambda: validate_repo_id(name))
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise ValueError(f"Expected an empty or a new folder to write to, but {output} holds files.")


def check_license(license: str | None) -> None:
    """Refuse what can't be a licence on the Hub, which would refuse the card.

    Args:
        license (`str`, *optional*): As in [`publish`].

    Raises:
        ValueError: if it is no identifier in small letters.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise ValueError(
            f"Expected a licence's identifier as the Hub lists it, such as 'apache-2.0' or 'other', got {license!r}."
        )


def check_model_type(model_type: str) -> None:
    """Refuse a model whose code does not travel with it.

    Args:
        model_type (`str`): The `model_type` of its configuration.

    Raises:
        ValueError: if strangers could not load it.
    """
    if model_type != SMCLConfig.model_type:
        raise ValueError(
            f"Only SMCL models are published: the code of a model of type {model_type!r} does not travel with it, so "
            "nobody could load it."
        )


def _complete_model(folder: Path, output: Path, name: str, license: str | None) -> RepoCard:
    """Save a model with its processor and code anew, and return its card."""
    check_model_type(read_object(folder / "config.json", {"model_type"})["model_type"])
    pipe = load_pipeline(folder)
    model = pipe.model
    for part in (model.config.text_config, model.config.vision_config):
        # Where an encoder lies, or lay, on somebody's machine is nobody's business.
        encoder = part._name_or_path
        part._name_or_path = encoder if is_hub_name(encoder) and not Path(encoder).exists() else ""
    pipe.save_pretrained(output)
    others = [path.name for path in sorted(output.glob("*.py")) if _differs(path, folder / path.name)]
    if others:
        raise ValueError(
            f"The code beside the model in {folder} is of another version than this package ({', '.join(others)}), and "
            "its scores were measured with that. Install that version; or remove those files and score the model anew: "
            f"`run_ner_multiimage.py --model {folder} --output_dir {folder} --do_predict --dataset DATA`."
        )
    shutil.copyfile(handler.__file__, output / "handler.py")
    (output / "requirements.txt").write_text(f"{requirements()}\n", encoding="utf-8")
    runs, results = read_runs(folder), folder / "all_results.json"
    if runs and not tells_of(runs, folder):
        raise ValueError(
            f"{RUN_FILE} in {folder} tells of other weights than those beside it, as after a training that broke off. "
            f"Score these: `run_ner_multiimage.py --model {folder} --output_dir {folder} --do_predict --dataset DATA`; "
            f"or remove {RUN_FILE} and all_results.json."
        )
    results = read_object(results, set()) if results.is_file() else {}
    with _naming(folder / RUN_FILE if runs else folder / "all_results.json", "a run", "Remove it if it was edited."):
        return model_card(name, model.config, model.num_parameters(), runs, results, license)


@contextmanager
def _naming(path: Path, origin: str, fix: str) -> Iterator[None]:
    """Name the file that a card is written from, if what it holds is not as it must be, deep within."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {path} to tell all as {origin} leaves it, and no card can be written from it: "
            f"{type(error).__name__}: {error}. {fix}"
        ) from error


def requirements() -> str:
    """Return what a published model needs to be loaded, as lines of a requirements.txt: what this package asks for."""
    asked = importlib.metadata.requires("smcl") or []
    names = {line: re.match(r"[\w.-]+", line)[0].lower() for line in asked if "extra ==" not in line}
    return "\n".join(line for name in REQUIRED for line in asked if names.get(line) == name)


def _differs(path: Path, other: Path) -> bool:
    return other.is_file() and other.read_bytes() != path.read_bytes()


def _complete_dataset(folder: Path, output: Path, name: str, license: str | None) -> RepoCard:
    """Copy a data set, and return its card."""
    report = read_report(folder)
    files = parquet_files(folder, report)
    labels = Features.from_arrow_schema(pq.read_schema(files[0]))["ner_tags"].feature.names
    with _naming(folder / REPORT_FILE, "a converter", "Run the converter again."):
        card = dataset_card(name, report, labels, sum(path.stat().st_size for path in files), license)
    check_report(files, report)
    (output / "data").mkdir()
    for path in files:
        shutil.copyfile(path, output / "data" / path.name)
    shutil.copyfile(folder / REPORT_FILE, output / REPORT_FILE)
    return card


def claim_for_training(arguments: Any, model_type: str, saves_model: bool) -> dict[str, Any] | None:
    """Take over `--push_to_hub` from Trainer, which would upload the whole output folder, and before there are scores.

    Args:
        arguments (`SMCLTrainingArguments`): Those of the run; `push_to_hub` is switched off.
        model_type (`str`): The `model_type` of the model's configuration.
        saves_model (`bool`): Whether the run saves a model.

    Returns:
        `dict`, *optional*: arguments of [`publish`] for when the run is over; `None` if nothing is uploaded here.

    Raises:
        ValueError: if the model can't be published or the Hub refuses, before hours of work.
    """
    if not arguments.push_to_hub:
        return None
    arguments.push_to_hub = False
    check_model_type(model_type)
    if not saves_model:
        raise ValueError(
            "`--push_to_hub` uploads the model that a run saves, with `--do_train` or `--calibrate`. A saved folder is "
            "published by `python -m smcl.publish FOLDER NAME`."
        )
    if arguments.hub_always_push:
        raise ValueError("`--hub_always_push` is about uploads during training; the finished model is uploaded once.")
    strategy = HubStrategy(arguments.hub_strategy)
    if strategy not in (HubStrategy.EVERY_SAVE, HubStrategy.END):
        raise ValueError(
            f"`--hub_strategy {strategy.value}` would upload checkpoints for resuming; only the finished "
            "model is published: leave it out."
        )
    if arguments.process_index > 0:
        return None
    name = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
    settings = {"private": arguments.hub_private_repo, "token": arguments.hub_token}
    name = claim_repository(name, "model", **settings)
    return {"name": name, "revision": arguments.hub_revision, **settings}


def _publish(given: argparse.Namespace) -> str:
    where = {"private": given.private, "revision": given.revision, "token": given.token}
    if given.metric is not None:
        return f"Published: {publish_metric(given.metric, **where)}\n"
    return f"Published: {publish(given.folder, given.name, license=given.license, **where)}\n"


def _write(given: argparse.Namespace) -> str:
    if given.metric is not None:
        complete_metric(given.output, given.metric)
    else:
        complete(given.folder, given.output, given.name, license=given.license)
    name, kind = (given.metric, "space") if given.metric else (given.name, find_kind(given.folder))
    return f"Written: {given.output}. Upload it by `hf upload {name} {given.output} . --type {kind}`.\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__, prog="python -m smcl.publish")
    parser.add_argument("folder", nargs="?", help="a saved model, or a data set that a converter wrote")
    parser.add_argument("name", nargs="?", help="where to: NAMESPACE/NAME, or NAME in your own namespace")
    parser.add_argument("--metric", metavar="NAME", help="publish the strict entity score there, in place of a folder")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--license", metavar="ID", help="licence of the weights or the data, such as apache-2.0")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to upload to, made if need be (main)")
    parser.add_argument("--token", help="token that may write (that of `hf auth login` or HF_TOKEN)")
    parser.add_argument("--output", metavar="NEW_FOLDER", help="write there what would be uploaded, and upload nothing")
    given = parser.parse_args(argv)
    if given.metric is None and given.name is None:
        parser.error("expected FOLDER and NAME, or --metric NAME")
    if given.metric is not None and (given.folder, given.license) != (None, None):
        parser.error("--metric takes no FOLDER and no --license: its code is this package's")
    with parser.errors_in_one_line():
        say(_write(given) if given.output else _publish(given))

"""One cell of a table: one system, one seed, one data set, run by the command line in a process of its own.

A finished cell is kept, with its predictions, as `results/<experiment>/<data>/<cell>-<settings>/seed-N/cell.json`,
where `<settings>` are 8 hex digits of the SHA-256 of all arguments, of the data and of the encoders: with anything
changed, it is another cell. Cells of equal settings are shared between experiments. A cell counts as measured as long
as the code is the same; one of older code is run anew, and the old one kept as `seed-N-<code>`. A killed cell goes on
where it stopped.
"""

import ast
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from filelock import FileLock, Timeout

import smcl
from smcl import baselines
from smcl.baselines import SYSTEMS, reads_images
from smcl.dataset_scripts.files import write_whole
from smcl.dataset_scripts.fingerprints import fingerprint
from smcl.modeling_smcl import SMCLTaggingModel
from smcl.publish.run_record import read_object

from . import image_dependent
from .plan import Plan, data_digests, is_true, mentions_digest, read_mentions, to_argv

ROOT = Path(smcl.__file__).parent
RUN_SCRIPT = ROOT / "run_ner_multiimage.py"
# What predicting again, without images, must share with the run.
PREDICTING = (
    *("dataset_config_name", "columns", "tag_scheme", "max_length", "on_extra_images", "per_device_eval_batch_size"),
    *("use_cpu", "bf16", "fp16", "disable_tqdm"),
)
# Fields of the configuration of one system or another that a run may set.
SWITCHES = {name for system in SYSTEMS.values() for name in system.config_class.switches}
# What a cell that has begun was begun by.
BEGUN = "begun.json"

T, K = TypeVar("T"), TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Cell:
    """What one row of a table runs.

    Args:
        title (`str`): How tables name it.
        arguments (`dict`): Arguments of the run script, on top of the plan's; `system` among them. Those with several
            values have a list.
    """

    title: str
    arguments: dict[str, str | list[str]] = field(default_factory=dict)

    @property
    def system(self) -> str:
        """Name of the system."""
        return self.arguments.get("system", "smcl")


@dataclass
class Measured:
    """A finished cell.

    Attributes:
        folder (`Path`): Where it lies.
        record (`dict`): Its `cell.json`.
    """

    folder: Path
    record: dict[str, Any]

    def predictions(self, without_images: bool = False) -> list[dict]:
        """Read its predictions of the test split; an empty list if there are none."""
        path = self.folder / ("without_images" if without_images else "run") / "predictions.jsonl"
        return image_dependent.read_predictions(path) if path.is_file() else []


def lacking_switches(plan: Plan, system: str) -> list[str]:
    """Return those arguments of the plan that set a field of other systems' configurations and not of this one's."""
    own = SYSTEMS[system].config_class.switches if system in SYSTEMS else plan.arguments
    return [name for name in plan.arguments if name in SWITCHES and name not in own]


def arguments_of(plan: Plan, cell: Cell) -> dict[str, str | list[str]]:
    """Return the arguments of the run script for a cell: those of the plan and its system, and above them its own.

    Fields of a configuration that the system does not have, such as `max_images` where none is read, are left out.
    """
    lacking = lacking_switches(plan, cell.system)
    shared = {name: value for name, value in plan.arguments.items() if name not in lacking}
    return shared | {"system": cell.system} | plan.of_systems.get(cell.system, {}) | cell.arguments


def stages(plan: Plan) -> dict[str, str]:
    """Return the arguments that say what a run does: all that the splits it reads allow."""
    return {"do_train": "true", "do_eval": str("validation" in plan.splits).lower(), "do_predict": "true"}


def is_tested_blind(plan: Plan, cell: Cell) -> bool:
    """Tell whether a cell's model is tested a second time without images: it reads some, and was trained on them."""
    return reads_images(SYSTEMS[cell.system]) and not is_true(arguments_of(plan, cell), "ignore_images")


@lru_cache
def _identify(dataset: str, *encoders: str) -> tuple[dict[str, str], list[str]]:
    return data_digests(dataset), [fingerprint(name) for name in encoders]


def settings_of(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Return all that decides a cell's result but the seed.

    Args:
        plan ([`Plan`]): The plan.
        cell ([`Cell`]): The cell.

    Returns:
        `dict`: `arguments` of the run script without places, `data` and `encoders` by their SHA-256.
    """
    arguments = arguments_of(plan, cell)
    places = ("text_model", "vision_model")
    data, encoders = _identify(plan.dataset, *(arguments[name] for name in places))
    kept = {name: value for name, value in arguments.items() if name not in places}
    return {"arguments": kept, "data": data, "encoders": dict(zip(places, encoders, strict=True))}


def digest(settings: dict[str, Any]) -> str:
    """Return 8 hex digits that tell settings apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def cell_folder(plan: Plan, cell: Cell, seed: int) -> Path:
    """Return where a cell goes."""
    name = "".join(x if x.isalnum() else "-" for x in cell.title.lower()).strip("-")
    return plan.folder / f"{name}-{digest(settings_of(plan, cell))}" / f"seed-{seed}"


def find(plan: Plan, cell: Cell, seed: int) -> Measured | None:
    """Find a finished cell of these very settings and the present code, in whichever experiment it was run.

    Args:
        plan ([`Plan`]): The plan.
        cell ([`Cell`]): The cell.
        seed (`int`): The seed.

    Returns:
        [`Measured`], or `None` if it has not been measured.
    """
    settings = settings_of(plan, cell)
    pattern = f"*/{glob.escape(plan.data_name)}/*-{digest(settings)}/seed-{seed}/cell.json"
    for path in sorted(plan.results.glob(pattern)):
        record = read_object(path, {"settings", "code", "scores"})
        if record["settings"] == settings and is_current(record):
            measured = Measured(path.parent, record)
            _score_mentions(plan, measured)
            return measured
    return None


def is_current(record: dict[str, Any]) -> bool:
    """Tell whether a `cell.json` is of the present code."""
    system = record["settings"]["arguments"]["system"]
    return system in SYSTEMS and record["code"] == code_digest(system)


def _score_mentions(plan: Plan, measured: Measured) -> None:
    """Add the scores of image-dependent mentions and of all others, if they can be told and are not there yet."""
    scored_by = mentions_digest(plan.mentions)
    if plan.mentions is None or measured.record.get("mentions") == scored_by:
        return
    mentions = read_mentions(plan.mentions)
    scores = image_dependent.score(measured.folder / "run" / "predictions.jsonl", mentions)
    measured.record["scores"] |= {name: scores[name] for name in ("image-dependent", "others")}
    measured.record["mentions"] = scored_by
    write(measured.record, measured.folder / "cell.json")


def write(value: Any, path: Path) -> None:
    """Write JSON so that a killed run leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as unfinished:
        unfinished.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def measure(plan: Plan, cell: Cell) -> list[Measured]:
    """Run a cell for each seed, as far as that has not been done.

    Args:
        plan ([`Plan`]): The plan; with `run=False`, nothing is run.
        cell ([`Cell`]): The cell.

    Returns:
        `list[Measured]`: those seeds that were measured; a run that failed is told and missing here.
    """
    return measure_all(plan, {cell.title: cell})[cell.title]


def measure_all(plan: Plan, cells: Mapping[K, Cell], asked: Collection[K] | None = None) -> dict[K, list[Measured]]:
    """Run cells for each seed, `plan.jobs` at once, as far as that has not been done.

    A cell that another process is at is waited for when all others are done, and run only if that one failed.

    Args:
        plan ([`Plan`]): The plan; with `run=False`, nothing is run.
        cells (`Mapping`): The cells.
        asked (`Collection`, *optional*): Which of them to run, by default all; the others are only looked up.

    Returns:
        `dict`: for each cell those seeds that were measured; a run that failed is told and missing here.
    """
    every = [(key, seed) for key in cells for seed in plan.seeds]
    found = {(key, seed): find(plan, cells[key], seed) for key, seed in every}
    left = [(key, seed) for key, seed in every if found[key, seed] is None and (asked is None or key in asked)]
    for timeout in (0, -1) if plan.run else ():
        busy = []

        def take(one: tuple[K, int], timeout: float = timeout, busy: list = busy) -> None:
            key, seed = one
            try:
                found[one] = _take(plan, cells[key], seed, timeout)
            except Timeout:
                busy.append(one)

        at_once(plan.jobs, take, left)
        left = busy
    return {key: [m for seed in plan.seeds if (m := found[key, seed]) is not None] for key in cells}


def _take(plan: Plan, cell: Cell, seed: int, timeout: float) -> Measured | None:
    """Run one cell that no other process is at, unless one has just done it; `filelock.Timeout` says that one is."""
    folder = cell_folder(plan, cell, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The system takes the lock of a killed process away.
    with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=timeout):
        if (measured := find(plan, cell, seed)) is not None:
            return measured
        if cell.system in SYSTEMS:
            _set_aside(folder, code_digest(cell.system))
        return _run(plan, cell, seed)


def _set_aside(folder: Path, code: str) -> None:
    """Keep a cell of other code, finished or not, under another name: a run that goes on is of one code."""
    told = next((path for name in ("cell.json", BEGUN) if (path := folder / name).is_file()), None)
    earlier = read_object(told, {"code"})["code"] if told else "unknown" if any(folder.glob("run/*")) else code
    if earlier != code:
        shutil.rmtree(folder.with_name(f"{folder.name}-{earlier}"), ignore_errors=True)
        folder.rename(folder.with_name(f"{folder.name}-{earlier}"))
    folder.mkdir(exist_ok=True)
    write({"code": code}, folder / BEGUN)


def at_once(jobs: int, do: Callable[[T], None], tasks: Sequence[T]) -> None:
    """Do tasks, several at once; if this process is ended, so are the runs that it started."""
    if jobs == 1:
        for task in tasks:
            do(task)
        return
    pool = ThreadPoolExecutor(jobs)
    try:
        for _ in pool.map(do, tasks):
            pass
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in psutil.Process().children(recursive=True):
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _run(plan: Plan, cell: Cell, seed: int) -> Measured | None:
    """Run one cell; `None` if it failed."""
    if cell.system not in SYSTEMS:
        sys.stderr.write(f"{cell.title}: there is no system {cell.system!r} here.\n")
        return None
    folder = cell_folder(plan, cell, seed)
    output = folder / "run"
    resumed = any(output.glob("checkpoint-*"))
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {cell.title}, seed {seed}: {folder}\n")
    start = time.monotonic()
    arguments = arguments_of(plan, cell)
    arguments |= {"dataset": plan.dataset, "output_dir": str(output), "seed": str(seed)}
    arguments |= stages(plan)
    arguments |= {"resume_from_checkpoint" if resumed else "overwrite_output_dir": "true"}
    arguments |= {"disable_tqdm": "true"}
    if not _call(arguments, folder, plan.threads):
        return None
    results = json.loads((output / "all_results.json").read_text(encoding="utf-8-sig"))
    seconds = round(time.monotonic() - start, 1)
    scores = {"test": _scores(results, "test_"), "validation": _scores(results, "eval_")}
    if is_tested_blind(plan, cell):
        again = {name: arguments[name] for name in PREDICTING if name in arguments}
        again |= {"dataset": plan.dataset, "model": str(output), "output_dir": str(folder / "without_images")}
        if not _call(again | {"do_predict": "true", "ignore_images": "true"}, folder, plan.threads):
            return None
        results_without = json.loads((folder / "without_images" / "all_results.json").read_text(encoding="utf-8-sig"))
        scores["without_images"] = _scores(results_without, "test_")
    record = {
        "title": cell.title,
        "experiment": plan.experiment,
        "data_name": plan.data_name,
        "seed": seed,
        "settings": settings_of(plan, cell),
        "scores": scores,
        "epochs": results.get("epoch"),
        "seconds": seconds,
        "resumed": resumed,
        "code": code_digest(cell.system),
        **circumstances(plan.threads, plan.uses_gpu),
    }
    measured = Measured(folder, record)
    write(record, folder / "cell.json")
    _score_mentions(plan, measured)
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    if seed != plan.seeds[0] and not plan.keep_models:
        # One model of each cell is enough for figures.
        (output / "model.safetensors").unlink(missing_ok=True)
    return measured


def _call(arguments: dict[str, str | list[str]], folder: Path, threads: int) -> bool:
    """Call the run script and tell whether it succeeded; what it prints goes to `log.txt`."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, str(RUN_SCRIPT), *to_argv(arguments)]
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        status = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().split("\n")
        sys.stderr.write(f"  failed with status {status}: {lines[-1][:300]} (all of it in {folder / 'log.txt'})\n")
    return status == 0


def _scores(results: dict[str, Any], prefix: str) -> dict[str, float]:
    """Pick one split's scores, overall and by type."""
    endings = ("precision", "recall", "f1", "support")
    return {
        name.removeprefix(prefix): value
        for name, value in results.items()
        if name.startswith(prefix) and name.rpartition("_")[2] in endings
    }


def circumstances(threads: int, use_gpu: bool = False) -> dict[str, Any]:
    """Return what a measurement depends on besides the code.

    Args:
        threads (`int`): Threads of PyTorch in each process.
        use_gpu (`bool`, *optional*, defaults to `False`): Whether it is of the GPU.

    Returns:
        `dict`: `versions` by package, `device`, `threads`, `cores`, and `load_average`, how many processes were at work
        on this machine in the last minute.
    """
    packages = ("torch", "transformers", "datasets", "smcl")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name() if use_gpu else f"CPU {platform.machine()}",
        "threads": threads,
        "cores": os.cpu_count(),
        "load_average": psutil.getloadavg()[0],
    }


def code_files(system: type[SMCLTaggingModel]) -> list[Path]:
    """List the files that decide what a run of a system comes to.

    Args:
        system (`type[SMCLTaggingModel]`): The system.

    Returns:
        `list[Path]`: those that travel with a model but for the pipeline, which comes after the tags; those of
        training; and of baselines/ the system's own and those that it takes classes and functions from, in turn.
    """
    names = [system.__module__]
    for name in names:
        # What a module holds says where it comes from; a module itself, by its name.
        holds = {getattr(x, "__module__", getattr(x, "__name__", None)) for x in vars(sys.modules[name]).values()}
        names += [x for x in sorted(map(str, holds - {*names})) if x.startswith(f"{baselines.__name__}.")]
    own = {Path(sys.modules[name].__file__) for name in names}
    travelling = {*ROOT.glob("*_smcl.py")} - {ROOT / "pipeline_smcl.py"}
    return sorted(travelling | {*ROOT.glob("train/*.py")} | own)


@lru_cache
def statements(path: Path) -> str:
    """Return the code of a file without what changes no result: comments, docstrings and layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                is_text = [isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant) for x in block]
                setattr(node, name, [x for x, text in zip(block, is_text, strict=True) if not text])
    return ast.unparse(tree)


def digest_of_code(*paths: str | Path) -> str:
    """Return 8 hex digits of the SHA-256 of the `statements` in files."""
    return hashlib.sha256("".join(statements(Path(path)) for path in paths).encode()).hexdigest()[:8]


@lru_cache
def code_digest(system: str) -> str:
    """Return the `digest_of_code` of `code_files` of the system of this name."""
    return digest_of_code(*code_files(SYSTEMS[system]))

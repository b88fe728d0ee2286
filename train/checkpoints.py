"""Checkpoints of a training run: which are complete, and which to go on from."""

import json
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..dataset_scripts.files import is_same_folder
from .run_settings import SETTINGS_NAME

logger = logging.get_logger(__name__)

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
# What a run may do, as its files of scores are named.
STAGES = ("all", "train", "eval", "test", "calibration")


def checkpoint_faults(folder: str | Path) -> list[str]:
    """Name what keeps a checkpoint from being resumed.

    Trainer writes a checkpoint in its final place, file by file, and removes old ones file by file: where a run was
    killed, a folder may lack files, or hold one that is cut off. Of DeepSpeed's files, only those that are there are
    checked.

    Args:
        folder (`str` or `Path`): The checkpoint.

    Returns:
        `list[str]`: its missing and cut files; none if it is complete.
    """
    folder = Path(folder)
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    weights = (
        json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()
        if _is_whole(index)
        else [SAFE_WEIGHTS_NAME]
    )
    random_states = [path.name for path in folder.glob("rng_state_*.pth")] or ["rng_state.pth"]
    optimizer = {"FSDP": ["optimizer.bin", "pytorch_model_fsdp.bin"], "whole models": ["optimizer.pt"]}
    deepspeed = [str(path.relative_to(folder)) for path in sorted(folder.glob("global_step*/*.pt"))]
    states = ["config.json", TRAINER_STATE_NAME, "scheduler.pt", *random_states]
    states += optimizer.get(sharding_of(folder), deepspeed)
    states += [name for name in (SETTINGS_NAME,) if (folder / name).exists()]
    faults = [name for name in (*sorted(set(weights)), *states) if not _is_whole(folder / name)]
    if TRAINER_STATE_NAME not in faults and not _has_progress(folder / TRAINER_STATE_NAME):
        faults.append(TRAINER_STATE_NAME)
    return faults


def _has_progress(path: Path) -> bool:
    """Tell whether a file says how far a run had come, as this transformers reads it."""
    try:
        state = TrainerState.load_from_json(str(path))
    except (TypeError, ValueError):
        return False
    return isinstance(state.global_step, int) and isinstance(state.train_batch_size, int)


def sharding_of(folder: str | Path) -> str:
    """Tell what wrote a checkpoint: `"DeepSpeed"`, `"FSDP"`, or else `"whole models"`."""
    if any(Path(folder).glob("global_step*")):
        return "DeepSpeed"
    return "FSDP" if any(Path(folder).glob("pytorch_model_fsdp*")) else "whole models"


def _is_whole(path: Path) -> bool:
    """Tell whether a file is there to its end and undamaged; of weights, the header alone is read."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8-sig"))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        else:
            # `torch.save` writes a zip file, whose checksums PyTorch does not look at.
            with zipfile.ZipFile(path) as file:
                return file.testzip() is None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError):
        return False
    return True


def find_checkpoints(output_dir: str | Path) -> list[Path]:
    """List the folders of checkpoints, complete or not, in the order of their steps."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name.rpartition("-")[2]))


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """Find the checkpoint to resume from; warn of incomplete ones that had to be skipped.

    Args:
        output_dir (`str` or `Path`): Output folder of a training run.

    Returns:
        `str`, *optional*: the complete checkpoint of the most steps.
    """
    last, skipped = None, []
    for folder in reversed(find_checkpoints(output_dir)):
        faults = checkpoint_faults(folder)
        if not faults:
            last = str(folder)
            break
        skipped.append(f"{folder.name} ({', '.join(faults)})")
    if skipped:
        logger.warning(
            f"Skipped {len(skipped)} incomplete checkpoints of {output_dir}, here with what is missing or cut off: "
            f"{'; '.join(skipped)}."
        )
    return last


def checkpoint_to_resume(arguments: TrainingArguments) -> str | None:
    """Read `resume_from_checkpoint`.

    Args:
        arguments (`TrainingArguments`): With a checkpoint, or `"true"` for the last complete one of `output_dir`.

    Returns:
        `str`, *optional*: the checkpoint; none if training starts from the beginning.

    Raises:
        ValueError: if the checkpoint named is incomplete.
    """
    # A command line gives strings, a YAML or JSON file may give booleans.
    given = str(arguments.resume_from_checkpoint)
    if given.lower() in ("none", "false"):
        return None
    if given.lower() == "true":
        last = last_complete_checkpoint(arguments.output_dir)
        start = "from the beginning: no complete checkpoint is there yet" if last is None else f"from {last}"
        logger.warning(f"Training in {arguments.output_dir} starts {start}.")
        return last
    if faults := checkpoint_faults(given):
        raise ValueError(
            f"`--resume_from_checkpoint {given}` is no complete checkpoint: missing or cut off: {', '.join(faults)}. "
            "Give `true` for the last complete checkpoint of the output folder."
        )
    return given


def check_overwrites(arguments: TrainingArguments, checkpoint: str | None, calibrated: str | None = None) -> None:
    """Refuse to train, or to save a calibrated model, over an earlier run without being asked to.

    Args:
        arguments (`SMCLTrainingArguments`): Those of the run.
        checkpoint (`str`, *optional*): What training goes on from.
        calibrated (`str`, *optional*): The saved model that is calibrated without being trained: it may be replaced.

    Raises:
        ValueError: if `output_dir` holds a trained model, or a complete checkpoint of one, that this run would replace.
    """
    if is_same_folder(calibrated, arguments.output_dir) or not (arguments.do_train or calibrated is not None):
        return
    if arguments.overwrite_output_dir and checkpoint is not None:
        raise ValueError(
            f"`--overwrite_output_dir` would remove {checkpoint}, which `--resume_from_checkpoint` goes on from: leave "
            "one of them out."
        )
    folder = Path(arguments.output_dir)
    goes_on = checkpoint is not None and Path(checkpoint).resolve().parent == folder.resolve()
    if arguments.overwrite_output_dir or goes_on:
        return
    weights = [name for name in WEIGHTS if (folder / name).is_file()]
    checkpoints = [path.name for path in find_checkpoints(folder) if not checkpoint_faults(path)]
    if weights or checkpoints:
        resuming = " To go on from its last checkpoint: `--resume_from_checkpoint true`." if checkpoints else ""
        raise ValueError(
            f"`--output_dir {folder}` holds a trained model ({', '.join(weights + checkpoints)}). Choose another "
            f"folder, or give `--overwrite_output_dir` to train anew and replace it.{resuming}"
        )


def has_weights(folder: Path) -> bool:
    """Tell whether a folder holds the weights of a model."""
    return any((folder / name).is_file() for name in WEIGHTS)


def clear_earlier_run(folder: str | Path) -> None:
    """Remove what an earlier run would leave among the files of a new one: its checkpoints, scores and predictions.

    The model and its record are replaced when the new ones are there.

    Args:
        folder (`str` or `Path`): Output folder of a training run.
    """
    for checkpoint in find_checkpoints(folder):
        shutil.rmtree(checkpoint)
    for name in (*(f"{stage}_results.json" for stage in STAGES), "predictions.jsonl", TRAINER_STATE_NAME):
        Path(folder, name).unlink(missing_ok=True)


__all__ = [
    "check_overwrites",
    "checkpoint_faults",
    "checkpoint_to_resume",
    "clear_earlier_run",
    "find_checkpoints",
    "has_weights",
    "last_complete_checkpoint",
    "sharding_of",
]

"""What a training run must share with the checkpoint that it goes on from, beyond the model: rates, batches, posts."""

import hashlib
import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments

from .data import list_lengths

SETTINGS_NAME = "run_settings.json"
# Training arguments. How long a run trains, and when it evaluates, saves, logs and stops early may change.
ARGUMENTS = (
    *("optim", "optim_args", "learning_rate", "head_learning_rate", "vision_learning_rate"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "seed", "data_seed"),
    *("train_sampling_strategy", "label_smoothing_factor", "gather_losses"),
)
# What posts are told from others by; images by their number alone.
IMAGES = ("images", "image_rows")
COLUMNS = ("id", "tokens", "ner_tags", *IMAGES)
# What the collator makes of a post.
READING = ("max_length", "on_extra_images")


def describe_posts(posts: Any) -> str | None:
    """Tell posts from others: their number, and a hash of their ids, words, tags and numbers of images.

    Args:
        posts (`Dataset`): Posts in the schema; of anything else, such as a stream, nothing is told.

    Returns:
        `str`, *optional*: such as `"1686 posts (5d3a90c1)"`.
    """
    if not isinstance(posts, Dataset):
        return None
    digest = hashlib.sha256()
    for name in COLUMNS:
        if name in posts.column_names:
            values = list_lengths(posts, name) if name in IMAGES else posts.with_format(None)[name][:]
            digest.update(json.dumps(values, default=str).encode())
    return f"{len(posts)} posts ({digest.hexdigest()[:8]})"


def run_settings(arguments: TrainingArguments, collator: Any, posts: dict[str, str | None]) -> dict[str, Any]:
    """Collect the settings of a run.

    Args:
        arguments (`TrainingArguments`): Its training arguments.
        collator ([`SMCLDataCollator`] or another): Its collator.
        posts (`dict[str, str]`): By split, what `describe_posts` tells.

    Returns:
        `dict`: values as JSON has them, by how a message names them.
    """
    given = arguments.to_dict()
    settings = {f"`--{name}`": given[name] for name in ARGUMENTS if name in given}
    sizes = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps, arguments.world_size
    settings["posts of a step (`--per_device_train_batch_size` x `--gradient_accumulation_steps` x processes)"] = (
        sizes[0] * sizes[1] * sizes[2]
    )
    settings |= {f"`--{name}`": getattr(collator, name) for name in READING if hasattr(collator, name)}
    settings |= {f"{split} data": told for split, told in posts.items() if told is not None}
    return json.loads(json.dumps(settings, default=str))


def changed_settings(folder: str | Path, settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare the settings of a run with those that a checkpoint was made with.

    Args:
        folder (`str` or `Path`): The checkpoint; one without `run_settings.json`, which others wrote, tells nothing.
        settings (`dict`): Of `run_settings`.

    Returns:
        `dict`: what differs, then and now.
    """
    path = Path(folder, SETTINGS_NAME)
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
    return {name: (saved[name], now) for name, now in settings.items() if name in saved and saved[name] != now}


__all__ = ["SETTINGS_NAME", "changed_settings", "describe_posts", "run_settings"]

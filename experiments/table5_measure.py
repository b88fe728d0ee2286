"""What one system costs, measured in a process of its own; `smcl.experiments.table5` calls it for each in turn.

python -m smcl.experiments.table5_measure FILE POSTS [arguments of run_ner_multiimage.py]
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from torch import nn
from transformers import EarlyStoppingCallback

from smcl.dataset_scripts.command_line import run_main
from smcl.run_ner_multiimage import needed_splits
from smcl.train.arguments import parse_arguments
from smcl.train.build import prepare
from smcl.train.dry_run import peak_process_memory

from .runs import write


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count parameters by part.

    Args:
        model (`nn.Module`): A system.

    Returns:
        `dict[str, int]`: for the parts of the model below its head, then of the head, each parameter once.
    """
    seen: set[int] = set()
    base = model.base_model
    parts = [*base.named_children(), *((name, part) for name, part in model.named_children() if part is not base)]
    counts = {name: _count(part.parameters(), seen) for name, part in parts}
    counts["other"] = _count(model.parameters(), seen)
    return {name: count for name, count in counts.items() if count}


def _count(parameters, seen: set[int]) -> int:
    new = {id(p): p.numel() for p in parameters if id(p) not in seen}
    seen.update(new)
    return sum(new.values())


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> float:
    """Return the most memory that was in use, in MB: of the GPU, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_process_memory() / 1e6


def measure_cost(argv: Sequence[str], num_posts: int) -> dict[str, Any]:
    """Build a system, train it for an epoch over some posts, and predict some.

    Args:
        argv (`Sequence[str]`): Arguments of the run script.
        num_posts (`int`): Most posts to train on and to predict.

    Returns:
        `dict`: `parameters` by part; `encoding_seconds` for all images of the training and validation splits, with a
        frozen image encoder; `epoch_seconds`, scaled to the whole training split; `posts_per_second` at inference;
        `peak_memory` in MB.
    """
    arguments = parse_arguments(list(argv))
    training = arguments.training
    training.do_train = training.do_predict = True
    splits = needed_splits(training, arguments.model.calibrate)
    training.eval_strategy = training.save_strategy = "no"
    training.load_best_model_at_end, training.num_train_epochs = False, 1
    run = prepare(arguments, splits)
    few = DatasetDict({split: posts.select(range(min(num_posts, len(posts)))) for split, posts in run.posts.items()})
    start = _clock()
    trainer = run.build_trainer(few)
    encoding = _clock() - start
    trainer.remove_callback(EarlyStoppingCallback)
    posts = few["test"]
    trainer.predict(posts.select(range(min(len(posts), training.per_device_eval_batch_size))))
    start = _clock()
    trainer.train()
    epoch = _clock() - start
    start = _clock()
    trainer.predict(posts)
    predicting = _clock() - start
    return {
        "parameters": count_parameters(run.model),
        "encoding_seconds": encoding if arguments.model.freeze_vision else None,
        "epoch_seconds": epoch / len(few["train"]) * len(run.posts["train"]),
        "posts_per_second": len(posts) / predicting,
        "peak_memory": peak_memory(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    path, num_posts, *rest = sys.argv[1:] if argv is None else argv
    write(measure_cost(rest, int(num_posts)), Path(path))


if __name__ == "__main__":
    run_main(main)

"""A dry run of the command line: do data, model, memory and time suffice? Nothing is written but a report."""

import copy
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict, IterableDatasetDict
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils import logging

from .. import processing_smcl
from ..dataset_scripts.command_line import say
from ..dataset_scripts.context import CONTEXT_FEATURES
from ..dataset_scripts.row_checks import NOT_TAGGED
from ..processing_smcl import SMCLProcessor
from .arguments import SMCLTrainingArguments
from .build import Run
from .collator import SMCLDataCollator
from .data import cut_stream, list_lengths, refuse_posts
from .samplers import context_counts
from .trainer import SMCLTrainer

# Posts of each stream that are looked at, or as many as give a batch of the largest and usual ones.
STREAMED_POSTS = 200
# Batches of usual posts that are timed, after one of the largest.
TIMED_BATCHES = 2


class Clock(TrainerCallback):
    """Notes when each training step and evaluation ended, and shows that there is progress.

    Args:
        bar (`tqdm`): Where.
    """

    def __init__(self, bar: tqdm):
        self.bar = bar
        self.times: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Note the time."""
        self.times.append(_now(args.device))
        self.bar.update()

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Note the time."""
        self.times.append(_now(args.device))
        self.bar.update()


def dry_run(run: Run, check_posts: bool = True) -> dict[str, Any]:
    """Check a run and print what it will take.

    Reads every post with all of its images, trains one step on the longest texts with the most images and two on
    usual posts, and evaluates such batches. The model is changed by it. Of streams, the first posts stand for all.

    Args:
        run ([`Run`]): What the run works with.
        check_posts (`bool`, *optional*, defaults to `True`): Whether to read every post, or only what is tried.

    Returns:
        `dict`: `peak_memory_gb`; `step_seconds` if it trains; `total_seconds` of the whole run, without stopping early,
        and `seconds` of each of its parts: `images` (read or encoded once), `training`, `evaluation`, `prediction`.

    Raises:
        ValueError: if the output folder can't be written to, images can't be used, or memory does not suffice.
        FloatingPointError: if the loss is not finite.
    """
    dataset, arguments = run.posts, run.arguments.training
    streamed_posts = max(STREAMED_POSTS, *(_batch_size(arguments, split) for split in dataset))
    if run.arguments.data.streaming:
        dataset = _first_posts(dataset, streamed_posts)
    if arguments.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(arguments.device)
    cut_off = _check_posts(dataset, run) if check_posts else []
    with tempfile.TemporaryDirectory() as folder:
        few = DatasetDict(
            {split: _few_posts(posts, _batch_size(arguments, split), run.processor) for split, posts in dataset.items()}
        )
        start = time.perf_counter()
        trainer = run.build_trainer(few, _quiet(arguments, f"{folder}/output"), f"{folder}/images")
        seconds_per_image = (time.perf_counter() - start) / max(1, _count_images(few, ("train", "validation")))
        try:
            batch_seconds = _measure(trainer, few)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"Memory does not suffice for the longest texts with the most images: {error} Lower "
                "`--per_device_train_batch_size` (with more `--gradient_accumulation_steps`) or "
                "`--per_device_eval_batch_size`, or give `--bf16 true` or `--freeze_vision`."
            ) from error
    if trainer.data_collator.features is None:
        seconds_per_image = 0.0
    times = _whole_run(dataset, arguments, batch_seconds, seconds_per_image)
    used, available = _memory(arguments.device)
    if trainer.is_world_process_zero():
        lines = _describe_streams(dataset, streamed_posts) if run.arguments.data.streaming else []
        lines += _describe_data(dataset)
        lines += [f"beyond the length, and cut off: {', '.join(cut_off)}"] if cut_off else []
        lines += ["", *_describe_model(trainer, arguments.output_dir)]
        lines += [f"memory   {used:.2f} GB at most, of {available:.1f} GB", ""]
        lines += _describe_times(dataset, arguments, batch_seconds, times)
        say("\n".join(lines) + "\n")
    step = {"step_seconds": batch_seconds["train"]} if "train" in batch_seconds else {}
    return {"peak_memory_gb": used, **step, "total_seconds": sum(times.values()), "seconds": times}


def _now(device: torch.device) -> float:
    """Return the time in seconds, when a device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _quiet(arguments: SMCLTrainingArguments, output_dir: str) -> SMCLTrainingArguments:
    """Return arguments that train a few steps in the order of the posts, and save, evaluate and send nothing."""
    quiet = copy.copy(arguments)
    quiet.output_dir, quiet.report_to, quiet.push_to_hub = output_dir, [], False
    quiet.eval_strategy = quiet.save_strategy = quiet.logging_strategy = "no"
    quiet.load_best_model_at_end = quiet.eval_on_start = False
    quiet.train_sampling_strategy, quiet.max_steps = "sequential", 1 + TIMED_BATCHES
    return quiet


def _batch_size(arguments: SMCLTrainingArguments, split: str) -> int:
    """Return the posts of a training step, or of a batch of evaluation, in all processes."""
    if split == "train":
        return arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    return arguments.eval_batch_size * arguments.world_size


def _first_posts(streams: IterableDatasetDict, count: int) -> DatasetDict:
    """Return the first posts of each stream, in memory."""
    return DatasetDict({split: next(cut_stream(posts, count)) for split, posts in streams.items()})


def _few_posts(posts: Dataset, batch_size: int, processor: SMCLProcessor) -> Dataset:
    """Return a batch of the longest texts with the most context and images of any post, and some of usual posts."""

    def most(sizes: list[int]) -> list[int]:
        order = sorted(enumerate(sizes), key=lambda pair: -pair[1])
        return [order[row % len(order)][0] for row in range(batch_size)]

    # In memory: `map` and its like would write files.
    few = posts.select(most(list_lengths(posts, "tokens")))[:]
    context = context_counts(posts, processor)
    if any(context) or "images" in few:
        rows = posts.select(most(context if any(context) else list_lengths(posts, "images")))[:]
        # What is said of images stays with them.
        few |= {name: rows[name] for name in ("images", *CONTEXT_FEATURES) if name in few}
    usual = posts.select(random.Random(0).choices(range(len(posts)), k=TIMED_BATCHES * batch_size))[:]
    return Dataset.from_dict({name: few[name] + usual[name] for name in few}, features=posts.features)


def _count_images(dataset: DatasetDict, splits: tuple[str, ...]) -> int:
    there = [dataset[split] for split in splits if split in dataset and "images" in dataset[split].column_names]
    return sum(sum(list_lengths(posts, "images")) for posts in there)


def _check_posts(dataset: DatasetDict, run: Run) -> list[str]:
    """Have the collator read every post, with all of its images, as the run will.

    Returns:
        `list[str]`: for each split with words beyond the length, how many are cut off.

    Raises:
        ValueError: if posts can't be used; names some, and the reason of the first.
    """
    arguments, data, told = run.arguments.training, run.arguments.data, []
    # The cache of images is not asked: it may hold what is no longer in the data set.
    check = PostCheck(SMCLDataCollator(run.processor, None, data.max_length, data.on_extra_images))
    for split, posts in dataset.items():
        loader = DataLoader(posts, None, collate_fn=check, num_workers=arguments.dataloader_num_workers)
        results = tqdm(loader, f"Checking {split}", unit=" posts", disable=bool(arguments.disable_tqdm))
        num_cut, errors = zip(*results, strict=True)
        broken = [row for row, error in enumerate(errors) if error is not None]
        refuse_posts(split, posts, broken, f"can't be used. The first: {errors[broken[0]]}" if broken else "")
        if total := sum(num_cut):
            told.append(f"{total} words of {sum(map(bool, num_cut))} posts of {split}")
    return told


class PostCheck:
    """Reads a post as a batch of its own.

    Args:
        collator ([`SMCLDataCollator`]): Reads it.
    """

    def __init__(self, collator: SMCLDataCollator):
        self.collator = collator

    def __call__(self, post: dict[str, Any]) -> tuple[int, str | None]:
        """Return how many of its words are cut off, and why it can't be read, if it can't."""
        logger = logging.get_logger(processing_smcl.__name__)
        level = logger.level
        # What is cut off is counted here.
        logger.setLevel(logging.ERROR)
        try:
            batch = self.collator([post])
        except ValueError as error:
            return 0, str(error)
        finally:
            logger.setLevel(level)
        return len(post["tokens"]) - int(batch["word_mask"].sum()), None


def _measure(trainer: SMCLTrainer, few: DatasetDict) -> dict[str, float]:
    """Train and evaluate a few batches; return the seconds of one of usual posts for each split."""
    has_training = trainer.train_dataset is not None
    evaluated = [split for split in ("validation", "test") if split in few]
    for callback in (PrinterCallback, ProgressCallback, EarlyStoppingCallback):
        trainer.remove_callback(callback)
    total = (1 + TIMED_BATCHES) * has_training + 2 * len(evaluated)
    seconds = {}
    with tqdm(total=total, desc="Trying batches", disable=bool(trainer.args.disable_tqdm)) as bar:
        clock = Clock(bar)
        trainer.add_callback(clock)
        if has_training:
            trainer.train()
            trainer._check_losses()
            seconds["train"] = (clock.times[-1] - clock.times[0]) / TIMED_BATCHES
        for split in evaluated:
            posts = trainer.eval_dataset if split == "validation" else few[split]
            size = len(posts) // (1 + TIMED_BATCHES)
            trainer.evaluate(posts.select(range(size)))
            trainer.evaluate(posts.select(range(size, len(posts))))
            seconds[split] = (clock.times[-1] - clock.times[-2]) / TIMED_BATCHES
    return seconds


def _num_steps(dataset: DatasetDict, arguments: SMCLTrainingArguments) -> int:
    if arguments.max_steps > 0:
        return arguments.max_steps
    return math.ceil(arguments.num_train_epochs * math.ceil(len(dataset["train"]) / _batch_size(arguments, "train")))


def _whole_run(
    dataset: DatasetDict, arguments: SMCLTrainingArguments, batch_seconds: dict[str, float], seconds_per_image: float
) -> dict[str, float]:
    """Return the seconds that each part of the whole run takes, if it does not stop early."""
    passes = {
        split: math.ceil(len(posts) / _batch_size(arguments, split)) * batch_seconds[split]
        for split, posts in dataset.items()
    }
    times = {}
    if arguments.do_train:
        if seconds_per_image:
            times["images"] = seconds_per_image * _count_images(dataset, ("train", "validation"))
        steps = _num_steps(dataset, arguments)
        epochs = steps / math.ceil(len(dataset["train"]) / _batch_size(arguments, "train"))
        every = arguments.eval_steps or 1
        rounds = {"no": 0, "epoch": math.ceil(epochs), "steps": steps / (every if every >= 1 else every * steps)}
        times["training"] = steps * batch_seconds["train"]
        times["evaluation"] = rounds[str(getattr(arguments.eval_strategy, "value", arguments.eval_strategy))]
        times["evaluation"] *= passes.get("validation", 0)
    if arguments.do_eval:
        times["evaluation"] = times.get("evaluation", 0) + passes["validation"]
    if arguments.do_predict:
        times["prediction"] = passes["test"]
    return times


def _memory(device: torch.device) -> tuple[float, float]:
    """Return the most memory that was used and what there is, in GB: of the GPU, or of this process and machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9, torch.cuda.mem_get_info(device)[1] / 1e9
    return peak_process_memory() / 1e9, psutil.virtual_memory().total / 1e9


def peak_process_memory() -> int:
    """Return the most bytes of memory that this process has had in use."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux's getrusage would count what the parent had when it started this process.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.peak_wset
    # There is none on Windows.
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _describe_streams(dataset: DatasetDict, count: int) -> list[str]:
    """Say which posts of streams, of which `count` at most were looked at, were not."""
    cut = ", ".join(f"{len(posts)} of {split}" for split, posts in dataset.items() if len(posts) == count)
    if not cut:
        return []
    return [
        f"Of the streams, only the first posts were checked ({cut}): those behind them may still hold faults.",
        "The table is of these posts, and evaluation and prediction are timed for them alone.",
        "",
    ]


def _describe_data(dataset: DatasetDict) -> list[str]:
    """Return a table of what is in each split."""
    labels = next(iter(dataset.values())).features["ner_tags"].feature.names
    types, untagged = [label[2:] for label in labels if label.startswith("B-")], {}
    lines = [f"{'split':<12}{'posts':>9}{'words':>9}{'images':>9}" + "".join(f"{name:>9}" for name in types)]
    for split, posts in dataset.items():
        counts = Counter()
        for rows in posts.with_format("arrow").select_columns("ner_tags").iter(10_000):
            tags = pc.value_counts(pc.list_flatten(rows["ner_tags"])).to_pylist()
            counts.update({tag["values"]: tag["counts"] for tag in tags})
        untagged[split] = counts[NOT_TAGGED]
        numbers = [len(posts), counts.total(), _count_images(dataset, (split,))]
        numbers += [counts[labels.index(f"B-{name}")] for name in types]
        lines.append(f"{split:<12}" + "".join(f"{number:>9}" for number in numbers))
    told = [f"{count} words of {split}" for split, count in untagged.items() if count]
    return lines + ([f"not tagged (-100): {', '.join(told)}"] if told else [])


def _describe_model(trainer: SMCLTrainer, output_dir: str) -> list[str]:
    """Return the size of the model and of what is saved."""
    parameters = list(trainer.model.parameters())
    numbers = [sum(p.numel() for p in chosen) for chosen in (parameters, [p for p in parameters if p.requires_grad])]
    lines = [f"model    {type(trainer.model).__name__}, {numbers[0] / 1e6:.1f} million parameters"]
    if trainer.train_dataset is not None:
        lines[0] += f", {numbers[1] / 1e6:.1f} of them trained"
        path = Path(output_dir).absolute()
        free = shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
        # Weights, and two moments of AdamW of each that is trained.
        size = sum(p.nbytes for p in parameters) + 2 * sum(p.nbytes for p in parameters if p.requires_grad)
        lines.append(f"disk     {size / 1e9:.2f} GB for each checkpoint, {free / 1e9:.1f} GB free")
    return lines


def _describe_times(
    dataset: DatasetDict, arguments: SMCLTrainingArguments, batch_seconds: dict[str, float], times: dict[str, float]
) -> list[str]:
    """Return what a batch and each part of the run takes."""
    lines = []
    if "train" in batch_seconds:
        size, steps = _batch_size(arguments, "train"), _num_steps(dataset, arguments)
        lines.append(f"time     {batch_seconds['train']:.3f} s for a step of {size} posts, {steps} steps")
    lines.append(f"         {_duration(sum(times.values()))} for the whole run at most")
    return lines + [f"         {_duration(seconds):>10}  {part}" for part, seconds in times.items()]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


__all__ = ["dry_run"]

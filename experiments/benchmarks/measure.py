"""What the benchmarks share: base-size models with random weights, batches like MNER-MI's, clocks, and results."""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn
from transformers import AutoModel, BertConfig, ViTConfig, ViTImageProcessorPil

from smcl.configuration_smcl import SMCLConfig
from smcl.dataset_scripts.command_line import CommandParser, positive
from smcl.dataset_scripts.schema import LABELS
from smcl.experiments.runs import write
from smcl.experiments.tables import spread
from smcl.losses_smcl import real_image_indices
from smcl.processing_smcl import SMCLProcessor, load_tokenizer
from smcl.train.dry_run import peak_process_memory

# Images of the posts of a batch, again and again: about as many as in each data set.
RESULTS = Path("experiments/benchmarks/results")
IMAGE_COUNTS = {"MNER-MI": (3, 2, 4, 3), "MNER-MI-Plus": (4, 1, 2, 1)}
IMAGE_SIZE = (640, 480)
WORDS = (12, 36)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What a script is tried out on, or where size doesn't matter.
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

Posts = dict[str, list]

# The C library keeps freed memory by rules that depend on the order of sizes. Children of this environment give back
# all but small pieces, so that what they have is what they use.
GIVE_BACK_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# Where Linux forgets the peak so far, that of building; elsewhere it counts.
FORGET_PEAK = Path("/proc/self/clear_refs")


class Memory(NamedTuple):
    """MB of a process: before what is measured runs, and at most while it does."""

    built: float
    peak: float

    @property
    def of_run(self) -> float:
        """What the run needs beyond what was there before."""
        return self.peak - self.built


class Seconds(NamedTuple):
    """What a call took by the clock, and of processor time, which tells more where other programs run beside."""

    clock: float
    processor: float


def take_turns(systems: dict[str, Callable[[], object]], repeats: int, calls: int = 1) -> dict[str, list[Seconds]]:
    """Time systems in turn, so that whatever else the machine does slows all of them.

    Args:
        systems (`dict[str, Callable]`): What to time, by name.
        repeats (`int`): Rounds, after one that warms up.
        calls (`int`, *optional*, defaults to 1): Calls of a turn; several for what is over too soon for the clock, and
            for the processor to have its code at hand.

    Returns:
        `dict[str, list[Seconds]]`: what a call of each system took, by round.
    """
    taken: dict[str, list[Seconds]] = {name: [] for name in systems}
    for round_number in range(repeats + 1):
        for name, run in systems.items():
            start, start_of_processor = time.perf_counter(), time.process_time()
            for _ in range(calls):
                run()
            clock, processor = time.perf_counter() - start, time.process_time() - start_of_processor
            seconds = Seconds(clock / calls, processor / calls)
            if round_number:
                taken[name].append(seconds)
    return taken


def summarise(taken: dict[str, list[Seconds]], first: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return each system's seconds, and its time over that of the `first`, taken within each round."""
    return {
        name: {
            "seconds": spread([x.clock for x in times]),
            "ratio": spread([a.clock / b.clock for a, b in zip(times, taken[first], strict=True)]),
            "processor_ratio": spread([a.processor / b.processor for a, b in zip(times, taken[first], strict=True)]),
        }
        for name, times in taken.items()
    }


def circumstances_line(results: dict) -> str:
    """Write `smcl.experiments.runs.circumstances` as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    load = f"load {results['load_average']:.1f} at the start"
    return f"{results['device']}, {results['threads']} of {results['cores']} cores, {load}; {versions}.\n"


def timing_parser(about: str, repeats: int = 5, threads: int | None = 1) -> argparse.ArgumentParser:
    """Build the parser of a benchmark.

    Args:
        about (`str`): The module's docstring.
        repeats (`int`, *optional*, defaults to 5): How often each is timed by default.
        threads (`int`, *optional*, defaults to 1): Threads of PyTorch by default; `None` if they can't be chosen.
    """
    parser = CommandParser(about)
    if threads is not None:
        parser.add_argument("--threads", type=positive, default=threads, help="threads of PyTorch (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=repeats, help="how often each is timed (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    return parser


def add_posts_arguments(parser: argparse.ArgumentParser, num_posts: int | None = None) -> None:
    """Add the arguments of benchmarks that draw posts, with a size of batches if that can be chosen."""
    parser.add_argument("--text_model", required=True, help="folder or Hub name of a tokenizer")
    if num_posts is not None:
        parser.add_argument("--posts", type=positive, default=num_posts, help="posts of a batch (%(default)s)")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of benchmarks that look at a trained model on posts."""
    parser.add_argument("--model", required=True, help="folder of a trained model with its processor")
    parser.add_argument("--dataset", required=True, help="folder or Hub name of a data set; its test split is taken")


def save(results: dict, folder: Path, name: str, table: Callable[[dict], str]) -> None:
    """Write results as JSON and print their table."""
    write(results, folder / f"{name}.json")
    sys.stdout.write(table(results))


def base_config(**kwargs) -> SMCLConfig:
    """Return a configuration of the paper's size."""
    id2label = dict(enumerate(LABELS))
    return SMCLConfig(text_config=BertConfig(), vision_config=ViTConfig(), id2label=id2label, **kwargs)


def base_processor(text_model: str) -> SMCLProcessor:
    """Return a processor of images for the base-size ViT with the tokenizer of any text encoder."""
    return SMCLProcessor(ViTImageProcessorPil(), load_tokenizer(text_model))


def image_counts(data: str, num_posts: int) -> list[int]:
    """Return the number of images of each post of a batch like those of a data set."""
    pattern = IMAGE_COUNTS[data]
    return [pattern[i % len(pattern)] for i in range(num_posts)]


def make_posts(processor: SMCLProcessor, image_counts: Sequence[int], words: tuple[int, int] = WORDS) -> Posts:
    """Draw posts: words of the tokenizer's, tags, and photographs of noise, so many for each post."""
    draw = random.Random(0)
    vocabulary = sorted(word for word in processor.tokenizer.get_vocab() if word.isalpha())
    sentences = [draw.choices(vocabulary, k=draw.randint(*words)) for _ in image_counts]
    noise = np.random.default_rng(0)
    shape = (*IMAGE_SIZE[::-1], 3)
    images = [[Image.fromarray(noise.integers(0, 256, shape, np.uint8)) for _ in range(n)] for n in image_counts]
    return {"words": sentences, "images": images, "labels": [[draw.randint(0, 1) for _ in s] for s in sentences]}


def to_inputs(processor: SMCLProcessor, posts: Posts, dtype: torch.dtype, device: str = "cpu") -> dict:
    """Process posts to tensors, with what the trainer adds."""
    max_length = BertConfig().max_position_embeddings
    inputs = processor(**posts, max_length=max_length, return_tensors="pt")
    inputs["image_indices"] = real_image_indices(inputs["image_mask"])
    inputs = dict(inputs.to(device))
    return inputs | {"pixel_values": inputs["pixel_values"].to(dtype)}


class BareEncoders(nn.Module):
    """The floor: the stock text encoder, and the stock ViT over the real images."""

    def __init__(self, config: SMCLConfig, dtype: torch.dtype):
        super().__init__()
        self.text, self.vision = (
            AutoModel.from_config(part, dtype=dtype, add_pooling_layer=False)
            for part in (config.text_config, config.vision_config)
        )

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states of tokens, and of the patches of images `(num_images, 3, height, width)`."""
        text = self.text(input_ids, attention_mask).last_hidden_state
        return text, self.vision(pixel_values=images).last_hidden_state


def floor_inputs(inputs: dict) -> dict[str, torch.Tensor]:
    """Return the inputs of `BareEncoders`, real images picked out beforehand."""
    images = inputs["pixel_values"].flatten(0, 1)[real_image_indices(inputs["image_mask"])]
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "images": images}


def _measure_memory(build: Callable[..., Callable[[], object]], *args) -> Memory:
    run = build(*args)
    built = psutil.Process().memory_info().rss
    if FORGET_PEAK.exists():
        FORGET_PEAK.write_text("5")
    run()
    return Memory(built / 1e6, peak_process_memory() / 1e6)


def memory_of(build: Callable[..., Callable[[], object]], *args) -> Memory:
    """Return what a process of its own needs to build something by a function of a module, and to run it once.

    Args:
        build (`Callable`): Returns what to run, a function without arguments.
        *args: Its arguments.

    Returns:
        [`Memory`].
    """
    os.environ.update(GIVE_BACK_MEMORY)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure_memory, build, *args).result()

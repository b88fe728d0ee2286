"""How many threads small models train fastest with, here and now.

More threads pay where matrices are large and cores are idle. On a busy machine, or with the small encoders of the demo,
threads wait for one another at each step: two can take many times as long as one.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

# Of a post, with the special tokens.
NUM_TOKENS = 32
STEPS = 5


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastest_threads(step: Callable[[], object], most: int, steps: int = STEPS) -> tuple[int, dict[int, float]]:
    """Time a few steps with 1, 2, 4, ... threads, and with as many as there may be.

    The numbers take turns, so that whatever else the machine does slows all of them.

    Args:
        step (`Callable`): What to time.
        most (`int`): The largest number of threads.
        steps (`int`, *optional*, defaults to 5): How often each is timed, after one step that is not.

    Returns:
        `tuple[int, dict[int, float]]`: the number with the shortest median, and the median of each, in seconds. PyTorch
        has as many threads as before.
    """
    numbers = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})
    before, seconds = torch.get_num_threads(), {number: [] for number in numbers}
    try:
        for turn in range(steps + 1):
            for number in numbers:
                torch.set_num_threads(number)
                start = time.perf_counter()
                step()
                if turn:
                    seconds[number].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    medians = {number: statistics.median(taken) for number, taken in seconds.items()}
    return min(medians, key=medians.get), medians


def training_step(config: PreTrainedConfig, batch_size: int) -> Callable[[], None]:
    """Return a training step of an untrained text encoder; no random number of the caller's is drawn.

    Args:
        config (`PreTrainedConfig`): Of the text encoder.
        batch_size (`int`): Posts of a batch.

    Returns:
        `Callable`: forward and backward pass on a batch of `NUM_TOKENS` tokens a post.
    """
    with torch.random.fork_rng(devices=[]):
        model = AutoModel.from_config(config)
    input_ids = torch.arange(batch_size * NUM_TOKENS).remainder(config.vocab_size).reshape(batch_size, NUM_TOKENS)

    def step() -> None:
        with torch.random.fork_rng(devices=[]):
            model(input_ids=input_ids).last_hidden_state.mean().backward()

    return step


def choose_threads(text_model: str, batch_size: int) -> int:
    """Choose the number of threads for training on the CPU, and print what was measured.

    Args:
        text_model (`str`): Folder or Hub name of the text encoder; of it, only the configuration is read.
        batch_size (`int`): Posts of a batch.

    Returns:
        `int`: at least 1, at most the cores that this process may use.

    Raises:
        OSError: if there is no such text encoder.
    """
    most = count_cores()
    if most == 1:
        return 1
    threads, seconds = fastest_threads(training_step(AutoConfig.from_pretrained(text_model), batch_size), most)
    measured = ", ".join(f"{number}: {1000 * taken:.0f} ms" for number, taken in seconds.items())
    sys.stderr.write(f"Threads: {threads} (a step of the text encoder takes with {measured}; --threads sets them)\n")
    return threads


__all__ = ["choose_threads", "count_cores", "fastest_threads", "training_step"]

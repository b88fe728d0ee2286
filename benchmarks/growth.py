"""Measure how time and memory grow with posts in a batch, words, images of a post, and posts of a data set.

    python -m smcl.benchmarks.growth --text_model TEXT [--threads 1] [--output benchmarks/results]

Models are small, 4 layers of 256 each with random weights, so that what lies around the encoders weighs more than at
base size. Time and memory are those of forward passes and decoding; memory is what a process of its own has at most.
*Growth* is the exponent that fits the times best: 1 is linear, below 1 a fixed part weighs in, 2 is quadratic.
"""

import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import BertConfig, ViTConfig

from smcl.configuration_smcl import SMCLConfig
from smcl.experiments.tables import markdown
from smcl.modeling_smcl import SMCLForTokenClassification

from .measure import (
    add_posts_arguments,
    base_config,
    base_processor,
    circumstances,
    circumstances_line,
    make_parser,
    make_posts,
    memory_of,
    save,
    spread,
    take_turns,
    to_inputs,
    written,
)

SIZE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
VALUES = {
    "posts in a batch": (1, 2, 4, 8, 16),
    "words of a post": (16, 32, 64, 128, 256),
    "images of a post": (1, 2, 4, 8, 16),
    "posts of a data set": (8, 16, 32, 64),
}
BATCH, IMAGES, NUM_WORDS = 4, 2, 24


def small_config() -> SMCLConfig:
    """Return a configuration with small encoders and room for 16 images."""
    encoders = {"text_config": BertConfig(**SIZE), "vision_config": ViTConfig(**SIZE)}
    return SMCLConfig(**encoders, id2label=base_config().id2label, max_images=max(VALUES["images of a post"]))


def make_run(text_model: str, what: str, value: int) -> Callable[[], object]:
    """Return a run over random posts of which one number is given, and the others are what they usually are."""
    posts = {"posts in a batch": value, "posts of a data set": value}.get(what, BATCH)
    images = value if what == "images of a post" else IMAGES
    words = value if what == "words of a post" else NUM_WORDS
    size = posts if what != "posts of a data set" else BATCH
    processor = base_processor(text_model)
    processor.max_images = max(VALUES["images of a post"])
    torch.manual_seed(0)
    model = SMCLForTokenClassification(small_config()).eval()
    batch = to_inputs(processor, make_posts(processor, [images] * size, (words, words)), torch.float32)
    batch.pop("labels")

    @torch.no_grad()
    def run() -> None:
        for _ in range(posts // size):
            model.decode(model(**batch).logits, batch["word_mask"])

    return run


def run_once(text_model: str, what: str, value: int) -> None:
    """Run once, in a process of its own whose memory is measured."""
    make_run(text_model, what, value)()


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Return p of the power law cost ~ value^p that fits best on logarithmic scales."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def compare(text_model: str, threads: int, repeats: int) -> dict:
    """Measure each kind of growth."""
    results = circumstances(threads) | {"repeats": repeats, "tables": {}}
    torch.set_num_threads(threads)
    for what, values in VALUES.items():
        taken = take_turns({value: make_run(text_model, what, value) for value in values}, repeats)
        seconds = {value: spread([x.processor for x in times]) for value, times in taken.items()}
        memory = {value: memory_of(run_once, text_model, what, value) for value in values}
        medians = [seconds[value]["median"] for value in values]
        upper = len(values) // 2
        results["tables"][what] = {
            "seconds": seconds,
            "memory": memory,
            "exponent": exponent(values, medians),
            "exponent_upper_half": exponent(values[upper:], medians[upper:]),
        }
    return results


def table(results: dict) -> str:
    """Return the results as Markdown tables."""
    parts = []
    for what, grown in results["tables"].items():
        least = min(grown["memory"].values())
        rows = [
            [str(value), written(grown["seconds"][value], 0, 1000), f"{grown['memory'][value] - least:.0f}"]
            for value in grown["seconds"]
        ]
        parts.append(markdown([what, "processor time, ms", "memory over the least, MB"], rows))
        upper = grown["exponent_upper_half"]
        parts.append(f"Growth of time: {grown['exponent']:.2f} over all, {upper:.2f} over the upper half.\n")
    return "\n".join(parts) + "\n" + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `growth.json` and print tables.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = make_parser(__doc__)
    add_posts_arguments(parser)
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    save(compare(arguments.text_model, arguments.threads, arguments.repeats), arguments.output, "growth", table)


if __name__ == "__main__":
    main()

"""Measure how time and memory grow with posts in a batch, words, images of a post, and posts of a data set.

    python -m smcl.experiments.benchmarks.growth --text_model TEXT [--threads 1] [--output FOLDER]

Models are small, 4 layers of 256 each with random weights, so that what lies around the encoders weighs more than at
base size. Time and memory are those of forward passes and decoding; memory is what a process of its own needs for
them beyond what it had when all was built. A data set is predicted by the trainer in batches of 4, from JPEG files on.
*Growth* is the exponent that fits the times best: 1 is linear, below 1 a fixed part weighs in, 2 is quadratic.
"""

import io
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import BertConfig, ViTConfig

from smcl.configuration_smcl import SMCLConfig
from smcl.dataset_scripts.command_line import run_main
from smcl.dataset_scripts.schema import FEATURES
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, spread, written
from smcl.modeling_smcl import SMCLForTokenClassification
from smcl.processing_smcl import SMCLProcessor
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.collator import SMCLDataCollator
from smcl.train.trainer import SMCLTrainer

from .measure import (
    Memory,
    add_posts_arguments,
    base_config,
    base_processor,
    circumstances_line,
    make_posts,
    memory_of,
    save,
    take_turns,
    timing_parser,
    to_inputs,
)

SIZE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
DATA_SET = "posts of a data set"
VALUES = {
    "posts in a batch": (1, 2, 4, 8, 16),
    "words of a post": (16, 32, 64, 128, 256),
    "images of a post": (1, 2, 4, 8, 16),
    DATA_SET: (16, 32, 64, 128),
}
REMARKS = {
    "posts in a batch": "Images are encoded 8 at a time, so memory grows by the pixels and the text alone.",
    "words of a post": "Most of the time goes into the images, which are as many. Attention among tokens grows with "
    "their square, the larger rest of the text encoder with their number.",
    "images of a post": "Memory as with posts. Attention among the images of a post is next to nothing.",
    DATA_SET: "Memory is that of a batch.",
}
MOST_IMAGES = max(VALUES["images of a post"])
BATCH, IMAGES, NUM_WORDS = 4, 2, 24


def small_model() -> SMCLForTokenClassification:
    """Return a model with small encoders and room for 16 images."""
    encoders = {"text_config": BertConfig(**SIZE), "vision_config": ViTConfig(**SIZE)}
    torch.manual_seed(0)
    return SMCLForTokenClassification(SMCLConfig(**encoders, id2label=base_config().id2label, max_images=MOST_IMAGES))


def make_run(text_model: str, what: str, value: int) -> Callable[[], object]:
    """Return a run over random posts of which one number is given, and the others are what they usually are."""
    processor, model = base_processor(text_model), small_model().eval()
    processor.max_images = MOST_IMAGES
    if what == DATA_SET:
        return make_prediction(processor, model, value)
    num_posts = value if what == "posts in a batch" else BATCH
    images = value if what == "images of a post" else IMAGES
    words = value if what == "words of a post" else NUM_WORDS
    batch = to_inputs(processor, make_posts(processor, [images] * num_posts, (words, words)), torch.float32)
    batch.pop("labels")
    return torch.no_grad()(lambda: model.decode(model(**batch).logits, batch["word_mask"]))


def make_prediction(
    processor: SMCLProcessor, model: SMCLForTokenClassification, num_posts: int
) -> Callable[[], object]:
    """Return the prediction of a data set's tags, from its JPEG files on."""
    posts = make_posts(processor, [IMAGES] * num_posts, (NUM_WORDS, NUM_WORDS))
    rows = []
    for index, (words, images, tags) in enumerate(zip(*posts.values(), strict=True)):
        files = [{"bytes": encode_jpeg(image), "path": None} for image in images]
        row = {"id": str(index), "tokens": words, "ner_tags": tags, "images": files, "source": "random"}
        rows.append(FEATURES.encode_example(row))
    data = Dataset.from_list(rows, features=FEATURES)
    arguments = SMCLTrainingArguments(
        output_dir=tempfile.gettempdir(),
        per_device_eval_batch_size=BATCH,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = SMCLTrainer(model, arguments, data_collator=SMCLDataCollator(processor))
    return lambda: trainer.predict(data)


def encode_jpeg(image: Image.Image) -> bytes:
    """Return an image as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


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
        memory = {value: memory_of(make_run, text_model, what, value) for value in values}
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
        rows = [
            [str(value), written(grown["seconds"][value], 0, 1000), f"{Memory(*grown['memory'][value]).of_run:.0f}"]
            for value in grown["seconds"]
        ]
        parts.append(markdown([what, "processor time, ms", "memory of the run, MB"], rows))
        upper = grown["exponent_upper_half"]
        growth = f"Growth of time: {grown['exponent']:.2f} over all, {upper:.2f} over the upper half."
        parts.append(f"{growth} {REMARKS[what]}\n")
    return "\n".join(parts) + "\n" + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `growth.json` and print tables.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__)
    add_posts_arguments(parser)
    arguments = parser.parse_args(argv)
    save(compare(arguments.text_model, arguments.threads, arguments.repeats), arguments.output, "growth", table)


if __name__ == "__main__":
    run_main(main)

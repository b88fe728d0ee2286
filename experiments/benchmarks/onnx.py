"""Compare PyTorch, ONNX and int8 ONNX on a test split: size, tags, speed.

    python -m smcl.experiments.benchmarks.onnx --model demo/model --dataset demo/data [--threads 1] [--output FOLDER]

Times are medians of inputs to tags, forward pass and Viterbi, without reading and scaling of images. The systems take
turns on each batch, so that whatever else the machine does slows all of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from smcl.dataset_scripts.command_line import require, run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown
from smcl.modeling_smcl import SMCLForTokenClassification
from smcl.predict.onnx_export import export_onnx
from smcl.predict.onnx_tagger import OnnxTagger
from smcl.processing_smcl import SMCLProcessor
from smcl.train.data import load_posts, name_tags
from smcl.train.metrics import entity_metrics
from smcl.train.trainer import word_tags

from .measure import add_model_arguments, save, timing_parser

SIZES = (1, 16)
PYTORCH = "PyTorch"

Batch = dict[str, np.ndarray]
# Inputs to emissions and tags.
System = Callable[[Batch], tuple[np.ndarray, np.ndarray]]


def make_batches(processor: SMCLProcessor, posts: Dataset, size: int) -> list[Batch]:
    """Process posts, so many at a time."""
    slices = (posts[start : start + size] for start in range(0, len(posts), size))
    return [
        dict(processor(words=rows["tokens"], images=rows["images"], return_tensors="np", on_extra_images="first"))
        for rows in slices
    ]


def pytorch_system(model: SMCLForTokenClassification, forward: Callable | None = None) -> System:
    """Return the model as a function of NumPy inputs, by another `forward` of it if given."""
    forward = model if forward is None else forward

    @torch.no_grad()
    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        logits = forward(**inputs).logits.float()
        return logits.numpy(), model.decode(logits, inputs["word_mask"]).numpy()

    return run


def onnx_system(folder: Path, threads: int) -> System:
    """Return an export as a function of NumPy inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    tagger = OnnxTagger(folder, options)

    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        logits = tagger.logits(**batch)
        return logits, tagger.decode(logits, batch["word_mask"])

    return run


def score(systems: dict[str, System], batches: list[Batch], gold: list[list[str]], labels: list[str]) -> dict:
    """Return each system's strict F1, and how far it is from the first: in emissions, and in posts with other tags."""
    first = next(iter(systems))
    outputs = {name: [run(batch) for batch in batches] for name, run in systems.items()}
    tags = {name: [post for _, ids in pairs for post in word_tags(ids, labels)] for name, pairs in outputs.items()}
    real = [batch["attention_mask"].astype(bool) for batch in batches]
    expected = [logits[mask] for (logits, _), mask in zip(outputs[first], real, strict=True)]
    return {
        name: {
            "f1": entity_metrics(gold, tags[name])["f1"],
            "posts_with_other_tags": sum(a != b for a, b in zip(tags[name], tags[first], strict=True)),
            "max_difference": max(
                float(np.abs(logits[mask] - want).max())
                for (logits, _), mask, want in zip(pairs, real, expected, strict=True)
            ),
        }
        for name, pairs in outputs.items()
    }


def measure_speed(systems: dict[str, System], batches: list[Batch], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each system for a batch; the systems take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for repeat in range(repeats + 1):
        for batch in batches:
            for name, run in systems.items():
                start = time.perf_counter()
                run(batch)
                if repeat:  # The first round is for warming up.
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) * 1000 for name, times in seconds.items()}


def compare(model_folder: str, dataset: str, threads: int, repeats: int, max_batches: int) -> dict:
    """Export a model both ways and measure all three."""
    import onnxruntime

    about = circumstances(threads)
    torch.set_num_threads(threads)
    model = SMCLForTokenClassification.from_pretrained(model_folder).eval()
    processor = SMCLProcessor.from_pretrained(model_folder)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    posts = load_posts(dataset, ["test"], labels=labels)["test"]
    gold = [name_tags(tags, labels) for tags in posts["ner_tags"]]
    systems, size = {PYTORCH: pytorch_system(model)}, {PYTORCH: _bytes(Path(model_folder), "*.safetensors")}
    with tempfile.TemporaryDirectory() as root:
        for name, quantize in (("ONNX", False), ("ONNX int8", True)):
            folder = Path(root, name)
            export_onnx(model, folder, processor, quantize)
            systems[name], size[name] = onnx_system(folder, threads), _bytes(folder, "model.onnx*")
        batches = {count: make_batches(processor, posts, count) for count in SIZES}
        results = score(systems, batches[16], gold, labels)
        for count in SIZES:
            times = measure_speed(systems, batches[count][:max_batches], repeats)
            for name, milliseconds in times.items():
                results[name] |= {
                    f"milliseconds_{count}": milliseconds,
                    f"speed_ratio_{count}": times[PYTORCH] / milliseconds,
                }
    for name in systems:
        results[name]["bytes"] = size[name]
    about["versions"]["onnxruntime"] = onnxruntime.__version__
    return {"posts": len(posts), **about, "systems": results}


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    heads = ["", "MB", "F1", "posts with other tags", "largest difference", "ms, 1 post", "ms, 16 posts"]
    rows = []
    for name, row in results["systems"].items():
        cells = [name, f"{row['bytes'] / 1e6:.1f}", f"{row['f1']:.4f}"]
        cells += [f"{row['posts_with_other_tags']} of {results['posts']}", f"{row['max_difference']:.1e}"]
        cells += [f"{row[f'milliseconds_{count}']:.1f}" for count in SIZES]
        rows.append([*cells, " / ".join(f"{row[f'speed_ratio_{count}']:.1f}" for count in SIZES)])
    return markdown([*heads, "speed, 1 / 16"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `onnx.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, repeats=10)
    add_model_arguments(parser)
    parser.add_argument("--max_batches", type=int, default=32, help="how many batches of each size are timed")
    arguments = parser.parse_args(argv)
    with parser.errors_in_one_line():
        require("This benchmark", "smcl[onnx]", "onnx", "onnxruntime", "onnxscript")
    results = compare(arguments.model, arguments.dataset, arguments.threads, arguments.repeats, arguments.max_batches)
    save(results, arguments.output, "onnx", table)


if __name__ == "__main__":
    run_main(main)

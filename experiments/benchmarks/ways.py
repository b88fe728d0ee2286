"""Compare ways to the same tags on a CPU: numbers, compilation, ONNX and OpenVINO, beside the two bare encoders.

    python -m smcl.experiments.benchmarks.ways --text_model TEXT --model FOLDER --dataset DATA [--posts 8] [--threads 1]

Speed and memory are of base size, with random weights, on posts like MNER-MI's; F1 is that of the trained model in
FOLDER on the test split of DATA. All ways start at the processor's tensors and end with tags. OpenVINO is measured
where it is installed; it reads the ONNX graph. *Text encoder* is what its forward pass takes of the floor's time: no
more than that could be won by packing texts without padding.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smcl.dataset_scripts.command_line import require, run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import NOT_MEASURED, markdown, written
from smcl.modeling_smcl import SMCLForTokenClassification
from smcl.predict.onnx_export import export_onnx
from smcl.predict.onnx_tagger import OnnxTagger
from smcl.processing_smcl import SMCLProcessor
from smcl.train.data import load_posts, name_tags

from .measure import (
    BareEncoders,
    Memory,
    add_posts_arguments,
    base_config,
    base_processor,
    circumstances_line,
    floor_inputs,
    image_counts,
    make_posts,
    memory_of,
    save,
    summarise,
    take_turns,
    timing_parser,
)
from .onnx import Batch, System, make_batches, onnx_system, pytorch_system, score

FLOOR, TEXT = "two bare encoders, float32", "text encoder, float32"
# The first is what the others' tags are compared with.
WAYS = ("float32", "float32, compiled", "bfloat16", "bfloat16, compiled", "ONNX", "ONNX int8", "OpenVINO")
BATCH = 16


class OpenVinoSession:
    """The ONNX graph under OpenVINO, as `OnnxTagger` calls a session of ONNX Runtime.

    Args:
        path (`Path`): The graph.
        threads (`int`): Threads to compute with.
    """

    def __init__(self, path: Path, threads: int):
        import openvino

        self.compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of these names."""
        outputs = self.compiled(inputs)
        return [outputs[name] for name in names]


def exported(folder: Path, way: str) -> Path:
    """Return where the graph of a way lies, in the folder of its model."""
    return folder / ("int8" if way == "ONNX int8" else "onnx")


def make_way(folder: Path, way: str, threads: int) -> System:
    """Build a way from a saved model and its exports."""
    torch.set_num_threads(threads)
    if way.startswith("ONNX"):
        return onnx_system(exported(folder, way), threads)
    if way == "OpenVINO":
        tagger = OnnxTagger(exported(folder, way))
        tagger.session = OpenVinoSession(exported(folder, way) / "model.onnx", threads)
        return lambda batch: (logits := tagger.logits(**batch), tagger.decode(logits, batch["word_mask"]))
    numbers, _, compiled = way.partition(", ")
    model = SMCLForTokenClassification.from_pretrained(folder, dtype=getattr(torch, numbers)).eval()
    return pytorch_system(model, torch.compile(model) if compiled else None)


def make_run(folder: Path, way: str, threads: int, batch: Batch) -> Callable[[], object]:
    """Return the run of a way on a batch, in a process of its own whose memory is measured."""
    system = make_way(folder, way, threads)
    return lambda: system(batch)


def make_floor(folder: Path, batch: Batch) -> dict[str, Callable[[], object]]:
    """Return the floor, and the text encoder alone, on a batch."""
    config = SMCLForTokenClassification.config_class.from_pretrained(folder)
    bare = BareEncoders(config, torch.float32).eval()
    real = floor_inputs({name: torch.from_numpy(array) for name, array in batch.items()})
    text = {name: real[name] for name in ("input_ids", "attention_mask")}
    return {FLOOR: torch.no_grad()(lambda: bare(**real)), TEXT: torch.no_grad()(lambda: bare.text(**text))}


def save_exports(model: SMCLForTokenClassification, processor: SMCLProcessor, folder: Path) -> None:
    """Save a model, and its graphs beside it."""
    model.save_pretrained(folder)
    for way in ("ONNX", "ONNX int8"):
        export_onnx(model, exported(folder, way), processor, quantize=way.endswith("int8"))


def installed_ways() -> list[str]:
    """List the ways whose packages are there."""
    return [way for way in WAYS if way != "OpenVINO" or importlib.util.find_spec("openvino")]


def measure_speed(text_model: str, num_posts: int, threads: int, repeats: int) -> dict[str, Any]:
    """Time the ways at base size in turn, and measure size, and memory in processes of their own."""
    processor, results = base_processor(text_model), {}
    posts = make_posts(processor, image_counts("MNER-MI", num_posts))
    batch = dict(processor(words=posts["words"], images=posts["images"], return_tensors="np"))
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        save_exports(SMCLForTokenClassification(base_config()).eval(), processor, folder)
        ways = {way: make_run(folder, way, threads, batch) for way in installed_ways()}
        taken = summarise(take_turns(make_floor(folder, batch) | ways, repeats), FLOOR)
        del ways
        for way in installed_ways():
            memory = memory_of(make_run, folder, way, threads, batch)
            results[way] = {"memory": memory, "bytes": size_of(folder, way)}
    return {name: results.get(name, {}) | times for name, times in taken.items()}


def size_of(folder: Path, way: str) -> int:
    """Return the bytes of the weights that a way loads; of bfloat16, those that it would be saved in."""
    if way.startswith(("ONNX", "Open")):
        return sum(path.stat().st_size for path in exported(folder, way).glob("model.onnx*"))
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return weights // 2 if way.startswith("bfloat16") else weights


def measure_f1(model_folder: str, dataset: str, threads: int) -> dict[str, Any]:
    """Score each way of a trained model on a test split."""
    model = SMCLForTokenClassification.from_pretrained(model_folder, dtype=torch.float32).eval()
    processor = SMCLProcessor.from_pretrained(model_folder)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    posts = load_posts(dataset, ["test"], labels=labels)["test"]
    gold = [name_tags(tags, labels) for tags in posts["ner_tags"]]
    with tempfile.TemporaryDirectory() as root:
        save_exports(model, processor, Path(root))
        # Compiled anew for each of many lengths, and to the same numbers: not scored.
        ways = [way for way in installed_ways() if "compiled" not in way]
        systems = {way: make_way(Path(root), way, threads) for way in ways}
        scored = score(systems, make_batches(processor, posts, BATCH), gold, labels)
    return {"posts": len(posts), "ways": scored}


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    heads = ["", "times as fast as the floor", "in processor time", "F1", "posts with other tags"]
    heads += ["peak memory, MB", "weights, MB"]
    rows, speed, f1 = [], results["speed"], results["f1"]
    for way in (FLOOR, *WAYS):
        if way not in speed:
            rows.append([way, *[NOT_MEASURED] * (len(heads) - 1)])
            continue
        cells = [way, *(written(inverse(speed[way][ratio])) for ratio in ("ratio", "processor_ratio"))]
        scored = f1["ways"].get(way)
        cells += [f"{100 * scored['f1']:.2f}", f"{scored['posts_with_other_tags']}"] if scored else ["", ""]
        cells += ["", ""]
        if "memory" in speed[way]:
            cells[-2:] = [f"{Memory(*speed[way]['memory']).peak:.0f}", f"{speed[way]['bytes'] / 1e6:.0f}"]
        rows.append(cells)
    seconds, share = speed[FLOOR]["seconds"]["median"], speed[TEXT]["ratio"]["median"]
    remark = (
        f"\nThe floor took {seconds / results['posts']:.2f} s a post, of which the text encoder {share:.1%}. "
        f"{results['posts']} posts at once; F1 of {f1['posts']} posts. Peak memory is that of a whole process. "
    )
    return markdown(heads, rows) + remark + circumstances_line(results)


def inverse(ratio: dict[str, float]) -> dict[str, float]:
    """Turn times over the floor's into how many times as fast."""
    return {"median": 1 / ratio["median"], "least": 1 / ratio["most"], "most": 1 / ratio["least"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `ways.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__)
    add_posts_arguments(parser, num_posts=8)
    parser.add_argument("--model", required=True, help="folder of a trained model with its processor")
    parser.add_argument("--dataset", required=True, help="folder or Hub name of a data set; its test split is scored")
    arguments = parser.parse_args(argv)
    with parser.errors_in_one_line():
        require("This benchmark", "smcl[onnx]", "onnx", "onnxruntime", "onnxscript")
    results = circumstances(arguments.threads) | {"posts": arguments.posts, "repeats": arguments.repeats}
    results["f1"] = measure_f1(arguments.model, arguments.dataset, arguments.threads)
    results["speed"] = measure_speed(arguments.text_model, arguments.posts, arguments.threads, arguments.repeats)
    save(results, arguments.output, "ways", table)


if __name__ == "__main__":
    run_main(main)

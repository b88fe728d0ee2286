"""Measure base-size SMCL on a CUDA device within 8 minutes: posts a second, share of the peak, parts of a step.

    python -m smcl.experiments.benchmarks.gpu --text_model TEXT [--minutes 8] [--output FOLDER]
    python -m smcl.experiments.benchmarks.gpu --text_model TEXT --device cpu    # tries the script out on tiny models

Times are those of CUDA events, with SDPA: inference in bfloat16, training as `--bf16 true` does, float32 weights under
autocast. UMT-MI and TPM-MI read the same posts, which are like MNER-MI's; what `torch.compile` brings is measured last.
Host synchronisation is looked for by `torch.cuda.set_sync_debug_mode("error")`. What no time is left for is not
measured.
"""

import re
import time
from collections.abc import Callable, Sequence
from datetime import date

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, ViTConfig

from smcl.baselines import SYSTEMS
from smcl.dataset_scripts.command_line import run_main
from smcl.dataset_scripts.schema import LABELS
from smcl.experiments.runs import circumstances, write
from smcl.experiments.tables import NOT_MEASURED, markdown, spread, written
from smcl.modeling_smcl import SMCLTaggingModel

from .measure import (
    TINY,
    BareEncoders,
    add_posts_arguments,
    base_processor,
    circumstances_line,
    floor_inputs,
    image_counts,
    make_posts,
    save,
    timing_parser,
    to_inputs,
)

MINUTES = 8.0
SIZES = {"cuda": (16, 64), "cpu": (2,)}
# Compiling takes minutes, most of them for training, and can't be stopped: one size, and only this system.
COMPILED_SIZE = {"cuda": 64, "cpu": 2}
COMPILING_MINUTES = 3.0
RIVALS = {"SMCL": "smcl", "UMT-MI": "umt-mi", "TPM-MI": "tpm-mi"}
# Dense bfloat16 FLOP a second of the matrix units, by what the device's name contains; from the vendor's data sheets.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}

Stages = dict[str, Callable[[], object]]


def peak_of(device: str) -> float | None:
    """Return the peak of a device by its name; `None` if it is not known."""
    words = re.split(r"[\s-]+", device)
    return next((peak for name, peak in PEAKS.items() if set(name.split()) <= set(words)), None)


def seconds_of(run: Callable[[], object], device: str, repeats: int, deadline: float) -> list[float]:
    """Time a run after two that warm up, on CUDA by events; none after the deadline on the clock `time.monotonic`."""
    taken: list[float] = []
    for _ in range(2):
        if time.monotonic() > deadline:
            return taken
        run()
    for _ in range(repeats):
        if time.monotonic() > deadline:
            break
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            taken.append(start.elapsed_time(end) / 1000)
        else:
            before = time.perf_counter()
            run()
            taken.append(time.perf_counter() - before)
    return taken


def count_flops(run: Callable[[], object]) -> int:
    """Count the floating-point operations of matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def find_synchronisation(run: Callable[[], object], device: str) -> str:
    """Say whether a run makes the host wait for the GPU: `"none"`, or what PyTorch says of the first place."""
    if device != "cuda":
        return NOT_MEASURED
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def make_model(system: str, device: str, dtype: torch.dtype) -> SMCLTaggingModel:
    """Make a system of random weights: of base size on CUDA, tiny elsewhere."""
    sizes = {} if device == "cuda" else TINY
    model_class = SYSTEMS[system]
    config = model_class.config_class(
        text_config=BertConfig(**sizes), vision_config=ViTConfig(**sizes), id2label=dict(enumerate(LABELS))
    )
    return model_class._from_config(config, dtype=dtype).to(device)


def inference_of(model: SMCLTaggingModel, inputs: dict, forward: Callable | None = None) -> Callable[[], object]:
    """Return the run from inputs to tags, by another `forward` of the model if given."""
    model.eval()
    forward = model if forward is None else forward
    given = {name: value for name, value in inputs.items() if name != "labels"}
    return torch.no_grad()(lambda: model.decode(forward(**given).logits, given["word_mask"]))


def training_of(model: SMCLTaggingModel, inputs: dict, forward: Callable | None = None) -> Stages:
    """Return a training step and what it begins with, by another `forward` of the model if given."""
    model.train()
    forward = model if forward is None else forward
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    device_type = next(model.parameters()).device.type

    def loss() -> torch.Tensor:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(**inputs).loss

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"forward for training": loss, "forward and backward": lambda: loss().backward(), "training step": step}


class Measurement:
    """What is measured on one device, as long as there is time.

    Args:
        text_model (`str`): Folder or Hub name of a tokenizer.
        device (`str`): `"cuda"` or `"cpu"`.
        repeats (`int`): How often each stage is timed.
        minutes (`float`): What there is time for.
    """

    def __init__(self, text_model: str, device: str, repeats: int, minutes: float):
        self.device, self.repeats = device, repeats
        self.deadline = time.monotonic() + minutes * 60
        about = circumstances(torch.get_num_threads(), use_gpu=device == "cuda")
        self.results = about | {"date": date.today().isoformat(), "repeats": repeats}
        self.results |= {"sizes": {}, "peak_memory": {}, "synchronisation": {}}
        self.peak = peak_of(about["device"])
        self.processor = base_processor(text_model)

    def run(self, keep: Callable[[], object]) -> None:
        """Measure all stages at each size, then the compiled ones, as long as there is time; `keep` after each part."""
        for size in SIZES[self.device]:
            self.measure_size(size)
            keep()
        self.measure_compiled(COMPILED_SIZE[self.device])

    def inputs(self, size: int, dtype: torch.dtype) -> dict:
        """Draw posts, as many as asked, and process them."""
        return to_inputs(self.processor, make_posts(self.processor, image_counts("MNER-MI", size)), dtype, self.device)

    def time(self, size: int, name: str, run: Callable[[], object], count: bool = True) -> None:
        """Time a stage of a size; operations in compiled code can't be counted."""
        seconds = seconds_of(run, self.device, self.repeats, self.deadline)
        if seconds:
            taken = spread(seconds)
            share = count_flops(run) / taken["median"] / self.peak if self.peak and count else None
            row = {"seconds": taken, "posts_per_second": size / taken["median"], "share_of_peak": share}
            self.results["sizes"].setdefault(size, {})[name] = row

    def measure_size(self, size: int) -> None:
        """Measure the floor, and each system's inference and training, at one size."""
        half, full = self.inputs(size, torch.bfloat16), self.inputs(size, torch.float32)
        for title, system in RIVALS.items():
            model = make_model(system, self.device, torch.bfloat16)
            if title == "SMCL":
                bare = BareEncoders(model.config, torch.bfloat16).to(self.device).eval()
                real = floor_inputs(half)
                self.time(size, "two bare encoders", torch.no_grad()(lambda bare=bare, real=real: bare(**real)))
                self.measure_decoding(model, half, size)
            self.time(size, f"{title}, inference", inference_of(model, half))
            model = make_model(system, self.device, torch.float32)
            stages = training_of(model, full)
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            for name, run in stages.items():
                if title == "SMCL" or name == "training step":
                    self.time(size, f"{title}, {name}", run)
                    model.zero_grad()
            if self.device == "cuda":
                key = f"{title}, training, {size} posts"
                self.results["peak_memory"][key] = torch.cuda.max_memory_allocated() / 1e6
            if title == "SMCL" and size == SIZES[self.device][0]:
                self.results["synchronisation"]["training step"] = find_synchronisation(
                    stages["training step"], self.device
                )

    def measure_decoding(self, model: SMCLTaggingModel, inputs: dict, size: int) -> None:
        """Time decoding alone, and look for waiting in it and in inference, once."""
        mask = inputs["word_mask"]
        logits = torch.randn(*mask.shape, model.config.num_labels, device=self.device)
        stages = {"decoding": lambda: model.decode(logits, mask), "inference": inference_of(model, inputs)}
        self.time(size, "SMCL, decoding alone", stages["decoding"])
        if size == SIZES[self.device][0]:
            found = {name: find_synchronisation(run, self.device) for name, run in stages.items()}
            self.results["synchronisation"] |= found

    def measure_compiled(self, size: int) -> None:
        """Measure what `torch.compile` brings, if there is time for compiling."""
        if self.deadline - time.monotonic() < COMPILING_MINUTES * 60:
            return
        model = make_model("smcl", self.device, torch.bfloat16)
        run = inference_of(model, self.inputs(size, torch.bfloat16), torch.compile(model))
        self.time(size, "SMCL, inference, compiled", run, count=False)
        model = make_model("smcl", self.device, torch.float32)
        run = training_of(model, self.inputs(size, torch.float32), torch.compile(model))["training step"]
        self.time(size, "SMCL, training step, compiled", run, count=False)


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    rows = []
    for size, stages in results["sizes"].items():
        for name, row in stages.items():
            share = NOT_MEASURED if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
            rows.append([str(size), name, written(row["seconds"], 2, 1000), f"{row['posts_per_second']:.0f}", share])
    parts = [markdown(["posts", "", "ms", "posts/s", "share of the matrix units' peak"], rows)]
    parts += [f"Peak memory, {name}: {peak:.0f} MB.\n" for name, peak in results["peak_memory"].items()]
    parts += [f"Host synchronisation, {name}: {found}.\n" for name, found in results["synchronisation"].items()]
    return "\n".join(parts) + f"\nMeasured on {results['date']}. " + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `gpu.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, threads=None)
    add_posts_arguments(parser)
    parser.add_argument("--device", choices=list(SIZES), default="cuda", help="'cpu' only tries the script out")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what there is time for (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device was found. Nothing was measured; `--device cpu` tries the script out.")
    measurement = Measurement(arguments.text_model, arguments.device, arguments.repeats, arguments.minutes)
    name = "gpu" if arguments.device == "cuda" else "gpu_tried_on_cpu"
    try:
        measurement.run(keep=lambda: write(measurement.results, arguments.output / f"{name}.json"))
    finally:
        save(measurement.results, arguments.output, name, table)


if __name__ == "__main__":
    run_main(main)

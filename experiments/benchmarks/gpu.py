"""Measure base-size SMCL on a CUDA device within 8 minutes: posts a second, share of the peak, parts of a step.

    python -m smcl.experiments.benchmarks.gpu --text_model TEXT [--output FOLDER]
    python -m smcl.experiments.benchmarks.gpu --text_model TEXT --device cpu    # tries the script out on tiny models

Times are those of CUDA events, in bfloat16 with SDPA, as it is and compiled; posts are like MNER-MI's. Host
synchronisation is looked for by `torch.cuda.set_sync_debug_mode("error")`. What no time is left for is not measured.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, ViTConfig

from smcl.configuration_smcl import SMCLConfig
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import NOT_MEASURED, markdown, spread, written
from smcl.modeling_smcl import SMCLForTokenClassification

from .measure import (
    BareEncoders,
    add_posts_arguments,
    base_config,
    base_processor,
    circumstances_line,
    floor_inputs,
    image_counts,
    make_posts,
    save,
    timing_parser,
    to_inputs,
)

MINUTES = 8
TRAINING = ("forward for training", "forward and backward", "training step")
SIZES = {"cuda": (16, 64, 128), "cpu": (2,)}
# Dense bfloat16 FLOP a second of the matrix units, by what the device's name contains; from the vendor's data sheets.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def peak_of(device: str) -> float | None:
    """Return the peak of a device by its name; `None` if it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


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


def make_stages(model: SMCLForTokenClassification, inputs: dict, config: SMCLConfig) -> dict[str, Callable[[], object]]:
    """Return the runs whose times are compared, from the floor to a training step."""
    bare = BareEncoders(config, model.dtype).to(model.device).eval()
    real = floor_inputs(inputs)
    labels = inputs["labels"]
    given = {name: value for name, value in inputs.items() if name != "labels"}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    logits = torch.randn(*labels.shape, config.num_labels, device=model.device)
    compiled = torch.compile(model)

    def infer(module: Callable) -> None:
        model.decode(module(**given).logits, given["word_mask"])

    def train() -> None:
        model(**given, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    without_gradient = torch.no_grad()
    return {
        "floor": without_gradient(lambda: bare(**real)),
        "inference": without_gradient(lambda: infer(model)),
        "inference, compiled": without_gradient(lambda: infer(compiled)),
        "decoding alone": lambda: model.decode(logits, given["word_mask"]),
        "forward for training": lambda: model(**given, labels=labels),
        "forward and backward": lambda: model(**given, labels=labels).loss.backward(),
        "training step": train,
    }


def measure(text_model: str, device: str, repeats: int) -> dict:
    """Measure all stages at each size, as long as there is time."""
    deadline = time.monotonic() + MINUTES * 60
    about = circumstances(torch.get_num_threads(), use_gpu=device == "cuda")
    results = about | {"repeats": repeats, "sizes": {}, "peak_memory": {}}
    tiny = {"text_config": BertConfig(**TINY), "vision_config": ViTConfig(**TINY)}
    config = base_config() if device == "cuda" else SMCLConfig(**tiny, id2label=base_config().id2label)
    processor = base_processor(text_model)
    model = SMCLForTokenClassification._from_config(config, dtype=torch.bfloat16).to(device).eval()
    peak = peak_of(results["device"])
    for size in SIZES[device]:
        posts = make_posts(processor, image_counts("MNER-MI", size))
        stages = make_stages(model, to_inputs(processor, posts, torch.bfloat16, device), config)
        rows = results["sizes"][size] = {}
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for name, run in stages.items():
            model.train(name in TRAINING)
            seconds = seconds_of(run, device, repeats, deadline)
            if not seconds:
                continue
            taken = spread(seconds)
            row = rows[name] = {"seconds": taken, "posts_per_second": size / taken["median"]}
            row["share_of_peak"] = (
                count_flops(run) / taken["median"] / peak if peak and "compiled" not in name else None
            )
            model.zero_grad()
        if size == SIZES[device][0]:
            found = results["synchronisation"] = {}
            for name in ("inference", "decoding alone", "training step"):
                model.train(name in TRAINING)
                found[name] = find_synchronisation(stages[name], device)
        if device == "cuda":
            results["peak_memory"][size] = torch.cuda.max_memory_allocated() / 1e6
    return results


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    rows = []
    for size, stages in results["sizes"].items():
        for name, row in stages.items():
            share = "not known" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
            rows.append([str(size), name, written(row["seconds"], 2, 1000), f"{row['posts_per_second']:.0f}", share])
    parts = [markdown(["posts", "", "ms", "posts/s", "share of the matrix units' peak"], rows)]
    parts += [f"Peak memory with {size} posts: {peak:.0f} MB.\n" for size, peak in results["peak_memory"].items()]
    parts += [f"Host synchronisation, {name}: {found}.\n" for name, found in results["synchronisation"].items()]
    return "\n".join(parts) + "\n" + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `gpu.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, threads=None)
    add_posts_arguments(parser)
    parser.add_argument("--device", choices=list(SIZES), default="cuda", help="'cpu' only tries the script out")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device was found. Nothing was measured; `--device cpu` tries the script out.")
    results = measure(arguments.text_model, arguments.device, arguments.repeats)
    save(results, arguments.output, "gpu" if arguments.device == "cuda" else "gpu_tried_on_cpu", table)


if __name__ == "__main__":
    main()

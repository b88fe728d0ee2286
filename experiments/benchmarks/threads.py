"""Time a model's forward pass with one thread and with all, and compiled.

    python -m smcl.experiments.benchmarks.threads --model demo/model --dataset demo/data [--output FOLDER]

On the first posts of the test split, on the CPU. The ways take turns. "Compiled" is `torch.compile(model)` with one
thread; what its first call takes is given apart. It needs a C++ compiler.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, written
from smcl.experiments.threads import count_cores
from smcl.modeling_smcl import SMCLForTokenClassification
from smcl.processing_smcl import SMCLProcessor
from smcl.train.data import load_posts

from .measure import add_model_arguments, circumstances_line, save, summarise, take_turns, timing_parser

SIZES = (1, 16)
ONE_THREAD = "1 thread"
CALLS = 5


@torch.no_grad()
def forward(model: Callable, inputs: dict[str, torch.Tensor], threads: int) -> torch.Tensor:
    """Run a model, with so many threads from now on."""
    torch.set_num_threads(threads)
    return model(**inputs).logits


def compare(model_folder: str, dataset: str, repeats: int, backend: str = "inductor") -> dict:
    """Time each way for one post and for a batch.

    Args:
        model_folder (`str`): Folder of a trained model with its processor.
        dataset (`str`): Folder or Hub name of a data set.
        repeats (`int`): Rounds.
        backend (`str`, *optional*, defaults to `"inductor"`): What compiles.

    Returns:
        `dict`: the `ways` by number of posts, with `ratio` their time over that of one thread; `compiling`, the seconds
        of each first call; `megabytes` of the weights.
    """
    results = circumstances(1) | {"repeats": repeats, "ways": {}, "compiling": {}}
    model = SMCLForTokenClassification.from_pretrained(model_folder).eval()
    results["megabytes"] = model.get_memory_footprint() / 1e6
    processor = SMCLProcessor.from_pretrained(model_folder)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    posts = load_posts(dataset, ["test"], labels=labels)["test"][: max(SIZES)]
    compiled, cores, before = torch.compile(model, backend=backend), count_cores(), torch.get_num_threads()
    for size in SIZES:
        inputs = processor(words=posts["tokens"][:size], images=posts["images"][:size], on_extra_images="first")
        start = time.perf_counter()
        torch.testing.assert_close(forward(compiled, inputs, 1), forward(model, inputs, 1), atol=1e-3, rtol=1e-3)
        results["compiling"][size] = time.perf_counter() - start
        ways = {ONE_THREAD: partial(forward, model, inputs, 1)}
        if cores > 1:
            ways[f"{cores} threads"] = partial(forward, model, inputs, cores)
        ways["compiled"] = partial(forward, compiled, inputs, 1)
        results["ways"][size] = summarise(take_turns(ways, repeats, CALLS), ONE_THREAD)
    torch.set_num_threads(before)
    return results


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    rows = []
    for size, ways in results["ways"].items():
        for name, row in ways.items():
            first = results["compiling"][size] if name == "compiled" else None
            times = written(row["seconds"], 1, 1000), written(row["ratio"], 2), written(row["processor_ratio"], 2)
            rows.append([str(size), name, *times, "" if first is None else f"{first:.0f}"])
    heads = ["posts", "", "ms", "time over 1 thread's", "in processor time", "first call, s"]
    weights = f"Weights: {results['megabytes']:.1f} MB in float32. "
    return markdown(heads, rows) + "\n" + weights + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `threads.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, threads=None)
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    save(compare(arguments.model, arguments.dataset, arguments.repeats), arguments.output, "threads", table)


if __name__ == "__main__":
    run_main(main)

"""Compare the CRF with pytorch-crf's: decoding, and loss with gradients.

    python -m smcl.experiments.benchmarks.crf [--threads 1] [--output FOLDER]

64 posts, 9 labels, all posts of the same number of words. Both decode to the same tags and have the same likelihoods,
which is checked first; they take turns of 10 calls.
"""

from collections.abc import Callable, Sequence

import torch
from torchcrf import CRF

from smcl.crf_smcl import LinearChainCRF
from smcl.dataset_scripts.command_line import run_main
from smcl.dataset_scripts.schema import LABELS
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, written

from .measure import circumstances_line, save, summarise, take_turns, timing_parser

POSTS = 64
LENGTHS = (16, 32, 64, 128, 256, 512)
STOCK, OURS = "pytorch-crf", "smcl"
CALLS = 10


def make_systems(num_words: int) -> dict[str, dict[str, Callable[[], object]]]:
    """Return both CRFs' decoding, and loss with gradients, on the same random scores."""
    torch.manual_seed(0)
    ours, stock = LinearChainCRF(LABELS, constrain_bio=False), CRF(len(LABELS), batch_first=True)
    stock.load_state_dict(ours.state_dict())
    emissions = torch.randn(POSTS, num_words, len(LABELS), requires_grad=True)
    tags, mask = torch.randint(len(LABELS), (POSTS, num_words)), torch.ones(POSTS, num_words, dtype=torch.bool)
    likelihoods = {
        STOCK: lambda: stock(emissions, tags, mask, reduction="none"),
        OURS: lambda: ours.log_likelihood(emissions, tags, mask),
    }
    decoders = {
        STOCK: torch.no_grad()(lambda: stock.decode(emissions, mask)),
        OURS: lambda: ours.decode(emissions, mask),
    }
    if decoders[STOCK]() != decoders[OURS]().tolist():
        raise RuntimeError(f"The CRFs decode {num_words} words to other tags.")
    torch.testing.assert_close(likelihoods[OURS](), likelihoods[STOCK](), rtol=1e-4, atol=1e-3)

    def step(likelihood: Callable[[], torch.Tensor]) -> None:
        emissions.grad = None
        (-likelihood().mean()).backward()

    steps = {name: lambda f=likelihood: step(f) for name, likelihood in likelihoods.items()}
    return {"decode": decoders, "loss and gradients": steps}


def compare(threads: int, repeats: int, lengths: Sequence[int] = LENGTHS) -> dict:
    """Time both at each length; `ratio` is time over ours."""
    results = circumstances(threads) | {"posts": POSTS, "repeats": repeats, "lengths": {}}
    torch.set_num_threads(threads)
    for length in lengths:
        results["lengths"][length] = {
            task: summarise(take_turns(systems, repeats, CALLS), OURS) for task, systems in make_systems(length).items()
        }
    return results


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    heads, rows = ["words"], []
    for task in next(iter(results["lengths"].values())):
        heads += [f"{task}: {STOCK}, ms", f"{OURS}, ms", "times as fast", "in processor time"]
    for length, tasks in results["lengths"].items():
        rows.append([str(length)])
        for systems in tasks.values():
            rows[-1] += [written(systems[name]["seconds"], 2, 1000) for name in (STOCK, OURS)]
            rows[-1] += [written(systems[STOCK][ratio], 1) for ratio in ("ratio", "processor_ratio")]
    return markdown(heads, rows) + "\n" + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `crf.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    arguments = timing_parser(__doc__, repeats=15).parse_args(argv)
    save(compare(arguments.threads, arguments.repeats), arguments.output, "crf", table)


if __name__ == "__main__":
    run_main(main)

"""Compare a training step at base size, forward and backward, with that of the two bare encoders.

    python -m smcl.experiments.benchmarks.training_step --text_model TEXT [--posts 4] [--threads 1] [--output FOLDER]

See `inference.py` for the posts. *Floor*: the encoders of `inference`'s floor, and backward from the mean
of their last states. *SMCL*: all losses. Neither steps an optimizer. In bfloat16, both compute by autocast, as with
`--bf16`.
"""

from collections.abc import Callable, Sequence

import torch

from smcl.configuration_smcl import SMCLConfig
from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, written
from smcl.modeling_smcl import SMCLForTokenClassification

from .inference import FLOOR, SMCL
from .measure import (
    DTYPES,
    IMAGE_COUNTS,
    BareEncoders,
    add_posts_arguments,
    base_config,
    base_processor,
    circumstances_line,
    floor_inputs,
    image_counts,
    make_posts,
    save,
    summarise,
    take_turns,
    timing_parser,
    to_inputs,
)


def make_steps(config: SMCLConfig, inputs: dict, numbers: str) -> dict[str, Callable[[], object]]:
    """Return the steps as functions without arguments, on the same inputs; `numbers` is a key of `DTYPES`."""
    bare = BareEncoders(config, torch.float32).train()
    model = SMCLForTokenClassification(config).train()
    real = floor_inputs(inputs)

    def mixed() -> torch.autocast:
        return torch.autocast("cpu", DTYPES[numbers], enabled=numbers != "float32")

    def floor() -> None:
        bare.zero_grad()
        with mixed():
            loss = sum(states.float().mean() for states in bare(**real))
        loss.backward()

    def step() -> None:
        model.zero_grad()
        with mixed():
            loss = model(**inputs).loss
        loss.backward()

    return {FLOOR: floor, SMCL: step}


def compare(text_model: str, num_posts: int, threads: int, repeats: int) -> dict:
    """Time both on posts of both kinds."""
    results = circumstances(threads) | {"posts": num_posts, "repeats": repeats, "runs": []}
    torch.set_num_threads(threads)
    processor, config = base_processor(text_model), base_config()
    for data in IMAGE_COUNTS:
        counts = image_counts(data, num_posts)
        inputs = to_inputs(processor, make_posts(processor, counts), torch.float32)
        for numbers in DTYPES:
            systems = summarise(take_turns(make_steps(config, inputs, numbers), repeats), FLOOR)
            about = {"data": data, "numbers": numbers, "images": sum(counts)}
            results["runs"].append(about | {"systems": systems})
    return results


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    heads = ["posts like", "numbers", "images", "floor, s", "SMCL, s", "SMCL / floor", "in processor time"]
    rows = []
    for row in results["runs"]:
        cells = [row["data"], row["numbers"], f"{row['images']} of {4 * results['posts']}"]
        cells += [written(row["systems"][name]["seconds"]) for name in (FLOOR, SMCL)]
        cells += [written(row["systems"][SMCL][ratio], 3) for ratio in ("ratio", "processor_ratio")]
        rows.append(cells)
    return markdown(heads, rows) + f"\n{results['posts']} posts. " + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `training_step.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__)
    add_posts_arguments(parser, num_posts=4)
    arguments = parser.parse_args(argv)
    results = compare(arguments.text_model, arguments.posts, arguments.threads, arguments.repeats)
    save(results, arguments.output, "training_step", table)


if __name__ == "__main__":
    run_main(main)

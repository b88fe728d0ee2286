"""Measure all that docs/results.md shows, in order, and write it; what has been measured before is not run again.

    python -m smcl.experiments.results --natural DATA MADE --text_model TEXT --vision_model VISION [--jobs 2]
    python -m smcl.experiments.results --natural DATA MADE --icons DATA TEXT VISION --cp_mner DATA ...
    python -m smcl.experiments.results ... --dry_run

DATA is a folder that a converter wrote; MADE is what `smcl.dataset_scripts.natural_posts` wrote, with
`image_dependent.json` and `showing_images.json`. What is left out is not measured, and its tables in `--results` stay
as they are. First, all experiments estimate what they still have to run; cells that several of them share count in
each. With `--dry_run`, that is all. Other arguments go to every experiment, such as `--num_train_epochs 8`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from smcl.dataset_scripts.command_line import CommandParser, positive, run_main
from smcl.train.arguments import RUN_ARGUMENTS

from . import report

Step = tuple[str, list[str]]

MULTI_IMAGE = ["--systems", "umt-mi", "tpm-mi", "smcl"]
FIVE_SEEDS = ["--seeds", *"01234"]
# It trains on few posts, so that there is no training to estimate.
NOT_ESTIMATED = ("table5",)
# By data set, modules with their own options. The first two keep the models that they look into; others share cells.
EXPERIMENTS: dict[str, list[Step]] = {
    "natural posts": [
        ("robustness", []),
        ("pointing", []),
        ("table2", []),
        # The rows of the other systems stay, with their three seeds.
        ("table2", [*FIVE_SEEDS, *MULTI_IMAGE]),
        ("table3", []),
        ("mendings", []),
        ("figure6", []),
        ("table6", []),
        ("figures_5_7", []),
        ("table5", []),
        ("search", []),
    ],
    "natural posts, full scale": [("table2", MULTI_IMAGE)],
    "natural posts, another seed": [("table2", ["--systems", "bert-crf", "umt-mi", "tpm-mi", "smcl"])],
    "hard icon posts": [("table2", ["--systems", "bert-crf", "umt-mi", "tpm-mi", "smcl"]), ("table3", [])],
    "CP-MNER": [("cp_mner", [])],
}


def list_steps(options: argparse.Namespace, rest: Sequence[str]) -> Iterator[Step]:
    """List what is to be run.

    Args:
        options (`argparse.Namespace`): Those of `make_options`.
        rest (`Sequence[str]`): Arguments of every experiment.

    Yields:
        `tuple[str, list[str]]`: a module of this package, and its arguments.
    """
    encoders = [f"--{name}={value}" for name in ("text_model", "vision_model") if (value := getattr(options, name))]
    shared = ["--results", str(options.results), "--jobs", str(options.jobs), *rest]
    given = {
        "natural posts": options.natural,
        "natural posts, full scale": options.natural_full,
        "natural posts, another seed": options.natural_seed,
        "hard icon posts": options.icons,
        "CP-MNER": options.cp_mner,
    }
    for name, places in given.items():
        if not places:
            continue
        dataset, *others = places
        arguments = ["--dataset", dataset, "--dataset_name", name, *shared]
        if name == "hard icon posts":
            arguments += [f"--text_model={others[0]}", f"--vision_model={others[1]}"]
        elif name == "CP-MNER":
            # It makes a text encoder of its own for Chinese.
            arguments += [one for one in encoders if one.startswith("--vision_model")]
        else:
            arguments += [*encoders, "--mentions", str(Path(others[0], "image_dependent.json"))]
        for module, own in EXPERIMENTS[name]:
            yield module, [*arguments, *own]


def make_options() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = CommandParser(__doc__, passes_on=RUN_ARGUMENTS, allow_abbrev=False)
    made = {"nargs": 2, "metavar": ("DATA", "MADE")}
    parser.add_argument("--natural", **made, help="natural posts, at the scale of all experiments")
    parser.add_argument("--natural_full", **made, help="natural posts at full scale, for the three multi-image systems")
    parser.add_argument("--natural_seed", **made, help="natural posts of another seed, for the ranking of systems")
    parser.add_argument("--icons", nargs=3, metavar=("DATA", "TEXT", "VISION"), help="hard icon posts, encoders")
    parser.add_argument("--cp_mner", nargs=1, metavar="DATA", help="CP-MNER")
    parser.add_argument("--text_model", help="text encoder, but for icon posts and CP-MNER")
    parser.add_argument("--vision_model", help="image encoder, but for icon posts")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"), help="file to write (%(default)s)")
    parser.add_argument("--jobs", type=positive, default=2, help="runs at once, each with its threads (%(default)s)")
    parser.add_argument("--dry_run", action="store_true", help="only estimate")
    return parser


def run_steps(steps: Sequence[Step]) -> list[str]:
    """Run experiments one after the other; one that ends with an error does not keep the others from running.

    Returns:
        `list[str]`: which ones did.
    """
    failed = []
    for module, arguments in steps:
        sys.stderr.write(f"== {module} {' '.join(arguments)}\n")
        try:
            import_module(f".{module}", __package__).main(arguments)
        except SystemExit as end:
            # A dry run ends with 0. A signal ends all.
            if isinstance(end.code, int) and end.code > 128:
                raise
            if end.code:
                sys.stderr.write(f"{end.code}\n" if isinstance(end.code, str) else "")
                failed.append(f"{module} on {arguments[3]}")
    return failed


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; ends with status 1 and a list if an experiment failed.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = make_options()
    options, rest = parser.parse_known_args(argv)
    steps = list(list_steps(options, rest))
    if not steps:
        parser.error("Expected the data sets to measure: --natural DATA MADE, or another of those in --help.")
    tried = [(module, [*arguments, "--dry_run"]) for module, arguments in steps if module not in NOT_ESTIMATED]
    failed = run_steps(tried)
    if failed or options.dry_run:
        sys.exit(f"These can't be run: {'; '.join(failed)}." if failed else 0)
    failed = run_steps(steps)
    report.main(["--results", str(options.results), "--output", str(options.output)])
    if failed:
        sys.exit(f"These failed: {'; '.join(failed)}. Call this again to go on with them.")


if __name__ == "__main__":
    run_main(main)

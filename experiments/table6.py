"""Table 6: kinds of errors of two systems, with tests of their difference, beside the paper's numbers.

    python -m smcl.experiments.table6 --dataset DATA [--preset paper] [--systems tpm-mi smcl]

What counts as which error stands in `smcl.experiments.errors`.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from smcl.dataset_scripts.command_line import run_main

from . import errors, paper
from .comparison import paired_difference
from .plan import Plan, parse_plan, plan_parser
from .run_all import run_all
from .runs import Measured
from .significance import METHOD, bootstrap_sum, check_same_posts, mcnemar, right_entities
from .table2 import NAMES, system_cell
from .tables import NOT_MEASURED, describe, interval, markdown, notes, number, write_table

PAPER_KINDS = errors.ERRORS[:3]


def compare_errors(first: Sequence[Measured], second: Sequence[Measured]) -> dict:
    """Compare the errors of two systems, mean over seeds.

    Args:
        first (`Sequence[Measured]`): Runs of one system.
        second (`Sequence[Measured]`): Runs of the other, of the same seeds.

    Returns:
        `dict`: `counts` of each system, `(len(COUNTS),)`, mean over runs; `differences`, second minus first, by kind;
        `mcnemar`, a test for each pair of runs; `f1`, the difference in F1.
    """
    check_same_posts([m.predictions() for m in (*first, *second)])
    counts = [
        np.stack([errors.count_errors(m.predictions(), m.predictions(without_images=True)) for m in runs])
        for runs in (first, second)
    ]
    # shape: (num_runs, num_posts, num_kinds)
    per_post = counts[1] - counts[0]
    differences = {name: bootstrap_sum(per_post[:, :, row]) for row, name in enumerate(errors.COUNTS)}
    pairs = zip(first, second, strict=True)
    return {
        "counts": [c.sum(axis=1).mean(axis=0) for c in counts],
        "differences": differences,
        "mcnemar": [mcnemar(*(right_entities(m.predictions()) for m in pair)) for pair in pairs],
        "f1": paired_difference(second, first),
    }


def format_errors(titles: Sequence[str], found: dict | None) -> str:
    """Lay the comparison out.

    Args:
        titles (`Sequence[str]`): Names of the two systems.
        found (`dict`, *optional*): What `compare_errors` returned; `None` if there is nothing to compare.

    Returns:
        `str`: Markdown.
    """
    heads = ["", *titles, "difference [95 %]", *(f"% of {titles[0]}'s: {title}" for title in titles)]
    heads += [f"paper, {data}: {title}" for data in paper.DATA_SETS for title in paper.TABLE_6]
    rows = []
    total = 0.0
    if found:
        total = sum(found["counts"][0][errors.COUNTS.index(kind)] for kind in PAPER_KINDS)
    for row, name in enumerate(errors.COUNTS):
        cells = [NOT_MEASURED] * 5
        if found:
            counts, gap = [c[row] for c in found["counts"]], found["differences"][name]
            shares = [f"{100 * count / total:.1f}" if total and name in PAPER_KINDS else "" for count in counts]
            cells = [f"{count:.1f}" for count in counts]
            cells += [f"{gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]", *shares]
        printed = [paper.TABLE_6[title][data][row] for data in (0, 1) for title in paper.TABLE_6] if row < 3 else []
        rows.append([name, *cells, *(number(x, 1) for x in printed or [None] * 4)])
    return markdown(heads, rows)


def _tests(titles: Sequence[str], found: dict | None, seeds: Sequence[int]) -> list[str]:
    """Say what the tests found."""
    if not found:
        return []
    each = [
        f"seed {seed}: {test.only_second} only by {titles[1]}, {test.only_first} only by {titles[0]}, p = {test.p:.2g}"
        for seed, test in zip(seeds, found["mcnemar"], strict=True)
    ]
    return [
        f"F1 of {titles[1]} minus {titles[0]}: {interval(found['f1'])} points ({METHOD}).",
        f"McNemar's exact test over gold entities found right: {'; '.join(each)}.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--systems", nargs=2, choices=NAMES, default=["tpm-mi", "smcl"], help="which two to compare")
    plan, options = parse_plan("table6", parser, argv)
    write_errors(plan, options.systems)


def write_errors(plan: Plan, systems: Sequence[str]) -> None:
    """Run two systems and write the table of their errors."""
    cells = [system_cell(name, plan.dataset) for name in systems]
    measured = list(run_all(plan, dict(enumerate(cells))).values())
    seeds = sorted(set.intersection(*({m.record["seed"] for m in runs} for runs in measured)))
    runs = [[m for m in one if m.record["seed"] in seeds] for one in measured]
    titles = [cell.title for cell in cells]
    found = compare_errors(*runs) if seeds else None
    remarks = [
        f"Numbers of errors in the test split, mean over seeds; intervals by the {METHOD}.",
        "A gold entity that is not predicted is a modality "
        "conflict if the same model predicts it when all images are taken away; else type confusion if its very words "
        "are predicted with another type; else a boundary error if an entity that shares a word with it is predicted; "
        "else missed. Spurious: predicted without a word in common with any gold entity. Rescued, no error: predicted "
        f"with images and not without. The percentages are of {titles[0]}'s errors of the first three kinds, as the "
        "paper's seem to be; it does not say how it tells the kinds, so its numbers can't be compared with these one "
        "by one.",
        *_tests(titles, found, seeds),
    ]
    data = {"systems": titles, "runs": {title: describe(one) for title, one in zip(titles, runs, strict=True)}}
    if found:
        data["counts"] = {
            title: dict(zip(errors.COUNTS, map(float, row), strict=True))
            for title, row in zip(titles, found["counts"], strict=True)
        }
        data["differences"] = {name: asdict(gap) for name, gap in found["differences"].items()}
        data["mcnemar"] = [{"seed": s} | asdict(test) for s, test in zip(seeds, found["mcnemar"], strict=True)]
        data["f1"] = asdict(found["f1"])
    everything = [m for one in runs for m in one]
    title = f"Table 6: errors, {plan.data_name}"
    write_table(plan, title, format_errors(titles, found), data, [*remarks, *notes(plan, everything)])


if __name__ == "__main__":
    run_main(main)

"""What each difference from the paper gives: SMCL with one part as printed, and the paper's model with one part mended.

    python -m smcl.experiments.mendings --dataset DATA [--mentions image_dependent.json] [--parts head union]

docs/architecture.md says what the parts are.
"""

from collections.abc import Sequence
from dataclasses import asdict

from smcl.configuration_smcl import PRINTED_PARTS
from smcl.dataset_scripts.command_line import run_main

from .comparison import paired_difference
from .plan import Plan, parse_plan, plan_parser, read_mentions
from .run_all import run_all
from .runs import Cell, Measured
from .significance import METHOD
from .table2 import AS_PRINTED, system_cell
from .tables import describe, interval, markdown, mean_and_deviation, notes, scores, write_table

SMCL = system_cell("smcl")


def make_cells() -> dict[str, Cell]:
    """Return SMCL, the paper's model, and what lies one part from either, by title."""
    cells = [SMCL, AS_PRINTED]
    for part in PRINTED_PARTS:
        others = [other for other in PRINTED_PARTS if other != part]
        cells += [Cell(with_printed(part), {"as_printed": [part]}), Cell(with_mended(part), {"as_printed": others})]
    return {cell.title: cell for cell in cells}


def with_printed(part: str) -> str:
    """Name SMCL with one part as printed."""
    return f"SMCL, {part} as printed"


def with_mended(part: str) -> str:
    """Name the paper's model with one part mended."""
    return f"{AS_PRINTED.title}, {part} mended"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=PRINTED_PARTS, default=PRINTED_PARTS, help="which to run (default: all)"
    )
    plan, options = parse_plan("mendings", parser, argv)
    asked = [title for part in options.parts for title in (with_printed(part), with_mended(part))]
    write_mendings(plan, run_all(plan, make_cells(), [SMCL.title, AS_PRINTED.title, *asked]))


def write_mendings(plan: Plan, found: dict[str, list[Measured]]) -> None:
    """Write the table of all parts, as far as they were measured.

    Args:
        plan ([`Plan`]): The plan.
        found (`dict[str, list[Measured]]`): The measured seeds of `make_cells`, by title.
    """
    spans = None if plan.mentions is None else read_mentions(plan.mentions)
    # How scores name a part of the mentions, and whether it is that of the image-dependent ones.
    splits = {"test": None} if spans is None else {"image-dependent": True, "others": False}

    def cells(title: str, reference: str) -> list[str]:
        pair = found[title], found[reference]
        gaps[title] = {split: paired_difference(*pair, spans, where) for split, where in splits.items()}
        written = []
        for split, gap in gaps[title].items():
            written.append(mean_and_deviation(scores(found[title], split)))
            written += [] if title == reference else [interval(gap)]
        return written

    gaps: dict[str, dict] = {}
    pairs = {part: (with_printed(part), with_mended(part)) for part in PRINTED_PARTS}
    rows = [
        [part, _seeds(found, *titles), *cells(titles[0], SMCL.title), *cells(titles[1], AS_PRINTED.title)]
        for part, titles in pairs.items()
    ]
    whole = [x for title in (SMCL.title, AS_PRINTED.title) for cell in cells(title, title) for x in (cell, "")]
    shown = ["F1" if split == "test" else f"F1 {split}" for split in splits]
    ways = [f"{way}: {name}" for way in ("as printed", "mended") for name in shown]
    heads = ["", "seeds", *(head for way in ways for head in (way, "− whole"))]
    about = (
        'Strict F1 of the test split in percent. "As printed": SMCL with that part as the paper prints it, and the '
        'difference from SMCL; "mended": the paper\'s model with that part as here, and the difference from the '
        f"paper's model; each with its 95 % confidence interval by the {METHOD}; of one seed, over posts alone. "
        '"Seeds": those of either model; differences are over those that both sides have. The row of none is SMCL and '
        "the paper's model themselves."
    )
    data = {
        title: {"seeds": describe(runs), "differences": {k: gap and asdict(gap) for k, gap in gaps[title].items()}}
        for title, runs in found.items()
    }
    everything = [m for runs in found.values() for m in runs]
    title = f"SMCL and the paper as printed, one difference at a time, {plan.data_name}"
    table = markdown(heads, [["none", _seeds(found, SMCL.title, AS_PRINTED.title), *whole], *rows])
    write_table(plan, title, table, {"mendings": data}, [about, *notes(plan, everything)])


def _seeds(found: dict[str, list[Measured]], *titles: str) -> str:
    """Write how many seeds of models were measured, once if it is the same number."""
    return ", ".join(dict.fromkeys(str(len(found[title])) for title in titles))


if __name__ == "__main__":
    run_main(main)

"""Table 2: systems that read text, one image or all, beside the paper's numbers.

python -m smcl.experiments.table2 --dataset DATA [--preset paper]
python -m smcl.experiments.table2 --dataset DATA --text_model TEXT --vision_model VISION [--systems bert-crf smcl]
"""

from collections.abc import Sequence

from smcl.baselines import SYSTEMS, needed_encoders, reads_images

from . import paper
from .comparison import Row, compare
from .plan import parse_plan, plan_parser
from .runs import Cell

TITLES = {title.lower(): title for title in paper.TABLE_2}
# The paper's systems that are published numbers here, and nothing else.
PUBLISHED_ONLY = tuple(title for name, title in TITLES.items() if name not in SYSTEMS)
# In the paper's order; systems that it does not have come last.
NAMES = tuple(sorted(SYSTEMS, key=lambda name: [*TITLES, *SYSTEMS].index(name)))


def is_from_scratch(name: str) -> bool:
    """Tell whether nothing of a system is pretrained; the rates of fine-tuning would leave it untrained."""
    return not needed_encoders(SYSTEMS[name])


def system_cell(name: str) -> Cell:
    """Return the cell of a system.

    Args:
        name (`str`): One of `NAMES`.

    Returns:
        [`Cell`].
    """
    rate = {"learning_rate": "1e-3"} if is_from_scratch(name) else {}
    return Cell(TITLES.get(name, name), {"system": name} | rate)


def make_rows(systems: Sequence[str]) -> list[Row]:
    """Return the rows of the paper's systems and of all others here.

    Args:
        systems (`Sequence[str]`): Which to run.
    """
    rows = []
    for title, (group, first, second) in paper.TABLE_2.items():
        cell = None if title in PUBLISHED_ONLY else system_cell(title.lower())
        rows.append(Row(title, cell, (first[2], second[2]), group, title.lower() in systems))
    for name in NAMES:
        if name not in TITLES:
            group = "images" if reads_images(SYSTEMS[name]) else "text"
            rows.append(Row(name, system_cell(name), group=group, run=name in systems))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=NAMES, help="which to run (default: all)")
    plan, options = parse_plan("table2", parser, argv)
    scratch = [system_cell(name).title for name in NAMES if is_from_scratch(name)]
    remarks = [
        f"{', '.join(PUBLISHED_ONLY)} are the paper's numbers only. {' and '.join(scratch)} are trained at the rate "
        "1e-3, as nothing of them is pretrained; the paper does not say theirs. Few epochs, which are enough for "
        "pretrained encoders, leave them far from what they can learn."
    ]
    compare(plan, f"Table 2: systems, {plan.data_name}", make_rows(options.systems), "SMCL", remarks)


if __name__ == "__main__":
    main()

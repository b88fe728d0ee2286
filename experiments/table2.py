"""Table 2: systems that read text, one image or all, beside the paper's numbers.

python -m smcl.experiments.table2 --dataset DATA [--preset paper]
python -m smcl.experiments.table2 --dataset DATA --text_model TEXT --vision_model VISION [--systems bert-crf smcl]
"""

import sys
from collections.abc import Sequence

from smcl.baselines import SYSTEMS, context_columns, how_to_make, needed_encoders, reads_images
from smcl.predict.inputs import ParquetFiles, open_input

from . import paper
from .comparison import Row, compare
from .plan import parse_plan, plan_parser
from .runs import Cell

TITLES = {title.lower(): title for title in paper.TABLE_2}
# In the paper's order; systems that it does not have come last.
NAMES = tuple(sorted(SYSTEMS, key=lambda name: [*TITLES, *SYSTEMS].index(name)))
# The paper to the letter; what is better otherwise, and why, stands in docs/architecture.md.
AS_PRINTED = Cell("SMCL as printed", {"as_printed": "true"})


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
    """Return the rows of the paper's systems, its own also `as_printed`, and of all others here.

    Args:
        systems (`Sequence[str]`): Which to run.
    """
    rows = []
    for title, (group, first, second) in paper.TABLE_2.items():
        paper_f1 = (first[2], second[2])
        rows.append(Row(title, system_cell(title.lower()), paper_f1, group, title.lower() in systems))
    rows.append(Row(AS_PRINTED.title, AS_PRINTED, group="images", run="smcl" in systems))
    for name in NAMES:
        if name not in TITLES:
            group = "images" if reads_images(SYSTEMS[name]) else "text"
            rows.append(Row(name, system_cell(name), group=group, run=name in systems))
    return rows


def missing_columns(dataset: str) -> dict[str, list[str]]:
    """Find the systems that a data set has not all columns for.

    Args:
        dataset (`str`): Folder or Hub name.

    Returns:
        `dict[str, list[str]]`: the columns that each of them lacks, by the system's name.

    Raises:
        ValueError: if the data set can't be read.
    """
    posts = open_input(dataset, "train")
    names = posts.column_names() if isinstance(posts, ParquetFiles) else []
    lacking = {name: [x for x in context_columns(SYSTEMS[name]) if x not in names] for name in NAMES}
    return {name: columns for name, columns in lacking.items() if columns}


def needs(name: str, columns: Sequence[str]) -> str:
    """Say which columns a system needs."""
    listed = " and ".join(f"`{column}`" for column in columns)
    return f"{TITLES.get(name, name)} needs column{'s' * (len(columns) > 1)} {listed}"


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
        f"{' and '.join(scratch)} are trained at the rate 1e-3, as nothing of them is pretrained; the paper does not "
        "say theirs. Few epochs, which are enough for pretrained encoders, leave them far from what they can learn."
    ]
    lacking = missing_columns(plan.dataset) if plan.run else {}
    lacking = {name: columns for name, columns in lacking.items() if name in options.systems}
    if lacking:
        every = list(dict.fromkeys(column for columns in lacking.values() for column in columns))
        said = "; ".join(needs(name, columns) for name, columns in lacking.items())
        remarks.append(f"Not measured: {said}. Make them by `{how_to_make(every, plan.data_name)}`.")
        sys.stderr.write(f"not measured: {said}. Make them by `{how_to_make(every, plan.dataset)}`.\n")
    rows = make_rows([name for name in options.systems if name not in lacking])
    compare(plan, f"Table 2: systems, {plan.data_name}", rows, "SMCL", remarks)


if __name__ == "__main__":
    main()

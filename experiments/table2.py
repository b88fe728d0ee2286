"""Table 2: systems that read text, one image or all, beside the paper's numbers.

python -m smcl.experiments.table2 --dataset DATA [--preset paper]
python -m smcl.experiments.table2 --dataset DATA --text_model TEXT --vision_model VISION [--systems bert-crf smcl]
"""

from collections.abc import Sequence

from smcl.baselines import SYSTEMS, needed_encoders, reads_images
from smcl.dataset_scripts.command_line import run_main

from . import paper
from .comparison import Row, compare
from .plan import parse_plan, plan_parser, read_report
from .runs import Cell

# What a report calls the maker of sentences over objects.
TEMPLATE = "template"
TITLES = {title.lower(): title for title in paper.TABLE_2}
# In the paper's order; systems that it does not have come last.
NAMES = tuple(sorted(SYSTEMS, key=lambda name: [*TITLES, *SYSTEMS].index(name)))
# The paper to the letter; what is better otherwise, and why, stands in docs/architecture.md.
AS_PRINTED = Cell("SMCL as printed", {"as_printed": "true"})


def is_from_scratch(name: str) -> bool:
    """Tell whether nothing of a system is pretrained; the rates of fine-tuning would leave it untrained."""
    return not needed_encoders(SYSTEMS[name])


def system_cell(name: str, dataset: str = "") -> Cell:
    """Return the cell of a system.

    Args:
        name (`str`): One of `NAMES`.
        dataset (`str`, *optional*): The data set: a system whose context there is not of the kind that is its own is
            called so.

    Returns:
        [`Cell`].
    """
    rate = {"learning_rate": "1e-3"} if is_from_scratch(name) else {}
    title = TITLES.get(name, name)
    is_template = (
        name == "pgim" and read_report(dataset).get("context", {}).get("knowledge", {}).get("model") == TEMPLATE
    )
    return Cell(f"{title}, template knowledge" if is_template else title, {"system": name} | rate)


def make_rows(systems: Sequence[str], dataset: str = "") -> list[Row]:
    """Return the rows of the paper's systems, its own also `as_printed`, and of all others here.

    Args:
        systems (`Sequence[str]`): Which to run.
        dataset (`str`, *optional*): The data set, as in [`system_cell`].

    Returns:
        `list[Row]`: where something stands in for a system of the paper's, both, the paper's with its number.
    """
    rows = []
    for title, (group, first, second) in paper.TABLE_2.items():
        paper_f1, cell, asked = (first[2], second[2]), system_cell(title.lower(), dataset), title.lower() in systems
        if cell.title == title:
            rows.append(Row(title, cell, paper_f1, group, asked))
        else:
            rows += [Row(title, None, paper_f1, group), Row(cell.title, cell, group=group, run=asked)]
    rows.append(Row(AS_PRINTED.title, AS_PRINTED, group=paper.TABLE_2["SMCL"][0], run="smcl" in systems))
    for name in NAMES:
        if name not in TITLES:
            group = "images" if reads_images(SYSTEMS[name]) else "text"
            rows.append(Row(name, system_cell(name), group=group, run=name in systems))
    return rows


def tell_context(dataset: str) -> list[str]:
    """Say what each column of context was made by, from the report of a data set in a folder.

    Args:
        dataset (`str`): Folder or Hub name.

    Returns:
        `list[str]`: a sentence; none without such columns.
    """
    context = read_report(dataset).get("context", {})
    made = "; ".join(f"`{column}` by {about['made_by']}" for column, about in context.items())
    return [f"Columns of context were made: {made}."] if made else []


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
    rows = make_rows(options.systems, plan.dataset)
    if any(row.cell is None for row in rows):
        remarks.append(
            "PGIM's knowledge is written by a language model, here by a template: so it is not measured, and stands "
            "beside what was."
        )
    compare(plan, f"Table 2: systems, {plan.data_name}", rows, "SMCL", [*tell_context(plan.dataset), *remarks])


if __name__ == "__main__":
    run_main(main)

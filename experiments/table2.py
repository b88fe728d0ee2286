"""Table 2: systems that read text, one image or all, beside the paper's numbers.

python -m smcl.experiments.table2 --dataset DATA [--preset paper]
python -m smcl.experiments.table2 --dataset DATA --text_model TEXT --vision_model VISION [--systems bert-crf smcl]
"""

from collections.abc import Sequence

from . import paper
from .comparison import Row, compare
from .plan import make_parser, parse_plan
from .runs import Cell

# The paper's systems that are published numbers here, and nothing else.
PUBLISHED_ONLY = ("OCSGA", "UMGF", "MAF", "ITA", "VisualPT-MoE", "PGIM")
# Nothing of these is pretrained, and the rates of fine-tuning would leave them untrained.
FROM_SCRATCH = {"bilstm-crf": {"learning_rate": "1e-3"}, "hbilstm-crf": {"learning_rate": "1e-3"}}
NAMES = tuple(name.lower() for name in paper.TABLE_2 if name not in PUBLISHED_ONLY)


def system_cell(name: str) -> Cell:
    """Return the cell of a system.

    Args:
        name (`str`): One of `NAMES`.

    Returns:
        [`Cell`].
    """
    title = next(title for title in paper.TABLE_2 if title.lower() == name)
    return Cell(title, {"system": name} | FROM_SCRATCH.get(name, {}))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=NAMES, help="which to run (default: all)")
    plan, options = parse_plan("table2", parser, argv)
    rows = []
    for title, (group, first, second) in paper.TABLE_2.items():
        cell = None if title in PUBLISHED_ONLY else system_cell(title.lower())
        rows.append(Row(title, cell, (first[2], second[2]), group, title.lower() in options.systems))
    remarks = [
        f"{', '.join(PUBLISHED_ONLY)} are the paper's numbers only. BiLSTM-CRF and HBiLSTM-CRF are trained at the rate "
        "1e-3, as nothing of them is pretrained; the paper does not say theirs. Few epochs, which are enough for "
        "pretrained encoders, leave them far from what they can learn."
    ]
    compare(plan, f"Table 2: systems, {plan.data_name}", rows, "SMCL", remarks)


if __name__ == "__main__":
    main()

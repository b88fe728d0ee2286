"""Table 3: SMCL without each of its parts, beside the paper's numbers.

python -m smcl.experiments.table3 --dataset DATA [--preset paper]
python -m smcl.experiments.table3 --dataset DATA --text_model TEXT --vision_model VISION
"""

from collections.abc import Sequence

from smcl.dataset_scripts.command_line import run_main

from . import paper
from .comparison import Row, compare
from .plan import parse_plan, plan_parser
from .runs import Cell
from .table2 import AS_PRINTED

SWITCHES = {
    "SMCL": {},
    "w/o SFM": {"use_fusion": "false"},
    "w/o RE": {"use_refinement": "false"},
    "w/o AE": {"use_alignment": "false"},
    "w/o AE+RE": {"use_alignment": "false", "use_refinement": "false"},
    "w/o IGM": {"use_image_guidance": "false"},
    "with threshold": {"guidance_filter": "score"},
    AS_PRINTED.title: AS_PRINTED.arguments,
}
REMARK = (
    "SFM: symmetric fusion, else concatenation and one transformer layer; AE, RE: alignment and refinement encoders; "
    "AE+RE: one projection in place of both; IGM: image guidance of the text encoder; threshold: image keys of scores "
    "below the post's mean are dropped (guidance_filter score, after Eq. 4). As printed: the paper to the letter; what "
    "is otherwise here, and why, stands in docs/architecture.md."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    plan, _ = parse_plan("table3", plan_parser(__doc__), argv)
    rows = [
        Row(title, Cell(title, switches), tuple(scores[2] for scores in paper.TABLE_3.get(title, ())) or (None, None))
        for title, switches in SWITCHES.items()
    ]
    compare(plan, f"Table 3: ablations, {plan.data_name}", rows, "SMCL", [REMARK])


if __name__ == "__main__":
    run_main(main)

"""Figure 6: how F1 depends on K, alpha, beta and the learning rate, each changed alone, beside the paper's numbers.

    python -m smcl.experiments.figure6 --dataset DATA [--preset paper] [--variables cmd_order learning_rate]

Draws `figure6.png` beside the table; needs matplotlib (`pip install "smcl[plot]"`).
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from smcl.dataset_scripts.command_line import require, run_main

from . import paper
from .plan import Plan, parse_plan, plan_parser
from .run_all import run_all
from .runs import Cell, Measured
from .tables import describe, markdown, mean_and_deviation, notes, number, scores, write_table

# Steps through the ranges of Table 4.
VALUES = {
    "cmd_order": (2, 3, 4, 5),
    "similarity_weight": (0.1, 0.2, 0.3, 0.4, 0.5),
    "difference_weight": (0.1, 0.2, 0.3, 0.4),
    "learning_rate": (1e-5, 3e-5, 5e-5, 7e-5),
}
SYMBOLS = {"cmd_order": "K", "similarity_weight": "α", "difference_weight": "β", "learning_rate": "learning rate"}


def points(plan: Plan, variable: str) -> list[tuple[float, Cell]]:
    """List the values of one variable with what to run for each.

    The cell at the baseline is that of SMCL in the other tables. Learning rates are the paper's, times the plan's rate
    over the paper's 3e-5, and with them the rate of the new layers.

    Args:
        plan ([`Plan`]): The plan.
        variable (`str`): One of `VALUES`.

    Returns:
        `list[tuple[float, Cell]]`: the paper's value and the cell.
    """
    found = []
    for value in VALUES[variable]:
        changed = {}
        if value != paper.BASELINE[variable]:
            changed = {variable: str(value)}
            if variable == "learning_rate":
                factor = value / paper.BASELINE[variable]
                names = ("learning_rate", "head_learning_rate", "vision_learning_rate")
                rates = [name for name in names if name in plan.arguments]
                changed = {name: f"{factor * float(plan.arguments[name]):.3g}" for name in rates}
        found.append((value, Cell(f"SMCL {variable} {value:g}" if changed else "SMCL", changed)))
    return found


def draw(measured: dict[str, dict[float, list[Measured]]], path: Path) -> None:
    """Draw a panel for each variable: F1 minus that of the baseline, here and in the paper as far as printed.

    Args:
        measured (`dict`): By variable and value the measured seeds.
        path (`Path`): The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(measured), 3), layout="constrained")
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, (variable, by_value) in zip(panels, measured.items(), strict=True):
        here = {value: [100 * x for x in scores(found)] for value, found in by_value.items() if found}
        base = here.get(paper.BASELINE[variable])
        # Without the baseline there is nothing to draw differences from.
        here = here if base else {}
        gaps = [statistics.fmean(x) - statistics.fmean(base) for x in here.values()]
        spans = [statistics.stdev(x) if len(x) > 1 else 0 for x in here.values()]
        axes.errorbar(
            list(here), gaps, spans, marker="o", color="#0072B2", capsize=3, label="here, with standard deviation"
        )
        top = paper.FIGURE_6[variable][paper.BASELINE[variable]][0]
        printed = {value: f1[0] - top for value, f1 in paper.FIGURE_6[variable].items()}
        axes.plot(list(printed), list(printed.values()), "s--", color="#E69F00", label="paper, MNER-MI")
        axes.set(
            xlabel=SYMBOLS[variable] + (" (paper's scale)" if variable == "learning_rate" else ""),
            ylabel="F1 minus the baseline's",
        )
        axes.set_xticks(VALUES[variable])
    figure.axes[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--variables", nargs="+", choices=VALUES, default=list(VALUES), help="(default: all four)")
    plan, options = parse_plan("figure6", parser, argv)
    with parser.errors_in_one_line():
        require("`figure6.png`", "smcl[plot]", "matplotlib")
        # The rate is the plan's, which the paper's values are scaled to.
        if given := [name for name in options.variables if name in plan.arguments and name != "learning_rate"]:
            raise ValueError(
                f"Figure 6 changes --{given[0]} itself, from the paper's {paper.BASELINE[given[0]]}: leave that out, "
                "or leave it out of --variables."
            )
    cells = {(variable, value): cell for variable in options.variables for value, cell in points(plan, variable)}
    measured: dict[str, dict[float, list[Measured]]] = {variable: {} for variable in options.variables}
    rows, data = [], {}
    for (variable, value), found in run_all(plan, cells).items():
        measured[variable][value] = found
        cell = cells[variable, value]
        printed = paper.FIGURE_6[variable].get(value, (None, None))
        used = cell.arguments.get(variable, plan.arguments.get(variable, str(value)))
        here = [f"{value:g}", used, mean_and_deviation(scores(found))]
        rows.append([SYMBOLS[variable], *here, *map(number, printed)])
        data.setdefault(variable, {})[str(value)] = {"used": used, "paper_f1": printed, "seeds": describe(found)}
    draw(measured, plan.folder / "figure6.png")
    heads = ["", "paper's value", "value here", "F1", "paper: MNER-MI", "paper: MNER-MI-Plus"]
    remarks = [
        "One variable is changed at a time. The paper's numbers are those in its Section 4.5.2; it gives the weights' "
        'effects beyond bounds ("alpha > 0.4"), which stand at the ends of the ranges here. Learning rates: here the '
        "paper's value times this plan's rate over 3e-5.",
    ]
    everything = [m for by_value in measured.values() for found in by_value.values() for m in found]
    title = f"Figure 6: sensitivity, {plan.data_name}"
    write_table(plan, title, markdown(heads, rows), {"variables": data}, [*remarks, *notes(plan, everything)])


if __name__ == "__main__":
    run_main(main)

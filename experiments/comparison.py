"""Tables of systems or variants of one, one row each: what Tables 2 and 3 share."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from .plan import Plan
from .runs import Cell, Measured, measure
from .significance import Difference, bootstrap_difference
from .tables import describe, interval, markdown, notes, number, scores, spread, write_table


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        title (`str`): What stands in front.
        cell ([`Cell`], *optional*): What to run; none where the paper's number is all there is.
        paper (`tuple`, *optional*): The paper's F1 on MNER-MI and on MNER-MI-Plus.
        group (`str`): What the system reads.
        run (`bool`): Whether to run it now; otherwise it is only looked up.
    """

    title: str
    cell: Cell | None
    paper: tuple[float | None, float | None] = (None, None)
    group: str = ""
    run: bool = True


def compare(plan: Plan, title: str, rows: Sequence[Row], reference: str, remarks: Sequence[str]) -> None:
    """Run all rows and write their table, each with its difference from one of them.

    Args:
        plan ([`Plan`]): The plan.
        title (`str`): Heading of the table.
        rows (`Sequence[Row]`): The rows.
        reference (`str`): Title of the row to compare the others with.
        remarks (`Sequence[str]`): What to know about the table.
    """
    found = {row.title: measure(replace(plan, run=plan.run and row.run), row.cell) if row.cell else [] for row in rows}
    differences = {row.title: paired_difference(found[row.title], found[reference]) for row in rows}
    table = markdown(_heads(plan, rows, reference), [_cells(plan, row, found, differences, reference) for row in rows])
    data = {
        row.title: {
            "paper_f1": row.paper,
            "seeds": describe(found[row.title]),
            "difference": asdict(differences[row.title]) if differences[row.title] else None,
        }
        for row in rows
    }
    everything = [m for measured in found.values() for m in measured]
    about = (
        f'Strict entity-level scores of the test split in percent. "− {reference}": difference in F1, with the 95 % '
        "confidence interval of the paired bootstrap over test posts (2000 samples, mean over seeds)."
    )
    write_table(plan, title, table, {"rows": data}, [about, *remarks, *notes(plan, everything)])


def paired_difference(measured: Sequence[Measured], reference: Sequence[Measured]) -> Difference | None:
    """Compare cells on the seeds that both have; `None` if there are none."""
    seeds = {m.record["seed"] for m in measured} & {m.record["seed"] for m in reference}
    first, second = ([m.predictions() for m in cells if m.record["seed"] in seeds] for cells in (measured, reference))
    return bootstrap_difference(first, second) if seeds else None


def _heads(plan: Plan, rows: Sequence[Row], reference: str) -> list[str]:
    heads = ["", *(["reads"] if any(row.group for row in rows) else []), "P", "R", "F1"]
    if plan.mentions is not None:
        heads += ["F1 image-dependent", "F1 others"]
    return [*heads, f"− {reference}", "seeds", "paper: MNER-MI", "paper: MNER-MI-Plus"]


def _cells(plan: Plan, row: Row, found: dict, differences: dict, reference: str) -> list[str]:
    measured = found[row.title]
    cells = [row.title, *([row.group] if row.group else [])]
    cells += [spread(scores(measured, name=name)) for name in ("precision", "recall", "f1")]
    if plan.mentions is not None:
        cells += [spread(scores(measured, split)) for split in ("image-dependent", "others")]
    difference = "" if row.title == reference and measured else interval(differences[row.title])
    count = str(len(measured)) if measured else "0"
    return [*cells, difference, count, *map(number, row.paper)]

"""Tables of systems or variants of one, one row each: what Tables 2 and 3 share."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .image_dependent import keep_overlapping
from .plan import Plan, read_mentions
from .run_all import lacking_columns, run_all, tell_lacking
from .runs import Cell, Measured, is_tested_blind
from .significance import METHOD, Difference, bootstrap_difference
from .tables import describe, interval, markdown, mean_and_deviation, notes, number, scores, write_table

BLIND = "− without images"


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
    cells = {row.title: row.cell for row in rows if row.cell}
    measured = run_all(plan, cells, [row.title for row in rows if row.cell and row.run])
    found = {row.title: measured.get(row.title, []) for row in rows}
    spans = None if plan.mentions is None else read_mentions(plan.mentions)
    parts = {"": None} if spans is None else {"": None, "image-dependent": True, "others": False}
    differences = {
        row.title: {
            name: paired_difference(found[row.title], found[reference], spans, overlapping)
            for name, overlapping in parts.items()
        }
        for row in rows
    }
    blind = {row.title: blind_difference(found[row.title], spans) for row in rows}
    lines = [_cells(plan, row, found[row.title], differences[row.title], blind[row.title], reference) for row in rows]
    if _of_paper(rows):
        lines = [[*line, *map(number, row.paper)] for line, row in zip(lines, rows, strict=True)]
    table = markdown(_heads(plan, rows, reference), lines)
    data = {
        row.title: {
            "paper_f1": row.paper,
            "seeds": describe(found[row.title]),
            "differences": {name: gap and asdict(gap) for name, gap in differences[row.title].items()},
            "without_images": blind[row.title] and asdict(blind[row.title]),
        }
        for row in rows
    }
    everything = [m for measured in found.values() for m in measured]
    about = (
        f'Strict entity-level scores of the test split in percent. "− {reference}": difference in the F1 before it, '
        f"mean over the seeds that both have, with the 95 % confidence interval of the {METHOD}."
    )
    about_blind = (
        f'"{BLIND}": that F1 minus what the same models come to if all images, and all that was made of them, are '
        "taken away in testing (`--ignore_images`), with its interval; above 0, the images help."
    )
    unmeasured = {row.title: row.cell for row in rows if row.cell and row.run and not found[row.title]}
    remarks = [about, about_blind, *_lacking(plan, unmeasured), *remarks]
    write_table(plan, title, table, {"rows": data}, [*remarks, *notes(plan, everything)])


def _lacking(plan: Plan, cells: dict[str, Cell]) -> list[str]:
    """Say which rows were not measured for want of columns."""
    try:
        lacking = lacking_columns(plan, cells)
    except ValueError:
        # Results may outlive their data.
        return []
    return ["Not measured: " + tell_lacking(cells, lacking, "DATA")] if lacking else []


def paired_difference(
    measured: Sequence[Measured],
    reference: Sequence[Measured],
    spans: dict[str, list] | None = None,
    overlapping: bool | None = None,
) -> Difference | None:
    """Compare the F1 of cells on the seeds that both have.

    Args:
        measured (`Sequence[Measured]`): Seeds of a cell.
        reference (`Sequence[Measured]`): Seeds of the cell to compare with.
        spans (`dict`, *optional*): Image-dependent mentions by post, see `smcl.experiments.image_dependent`.
        overlapping (`bool`, *optional*): Whether to look at these mentions or at all others; by default at all.

    Returns:
        [`Difference`], or `None` if no seed was measured of both.
    """
    seeds = {m.record["seed"] for m in measured} & {m.record["seed"] for m in reference}
    if not seeds:
        return None
    runs = [[m.predictions() for m in cells if m.record["seed"] in seeds] for cells in (measured, reference)]
    if overlapping is not None:
        runs = [[[_keep(post, spans, overlapping) for post in run] for run in each] for each in runs]
    return bootstrap_difference(*runs)


def blind_difference(measured: Sequence[Measured], spans: dict[str, list] | None = None) -> Difference | None:
    """Tell how much of a system's F1 is gone when images are taken away from the same models.

    Args:
        measured (`Sequence[Measured]`): Seeds of a cell.
        spans (`dict`, *optional*): Image-dependent mentions by post, to look at these alone.

    Returns:
        [`Difference`], with minus without images; `None` if no seed was tested without.
    """
    pairs = [(m.predictions(), m.predictions(without_images=True)) for m in measured]
    runs = [list(run) for run in zip(*(pair for pair in pairs if all(pair)), strict=True)]
    if not runs:
        return None
    if spans is not None:
        runs = [[[_keep(post, spans, True) for post in run] for run in each] for each in runs]
    return bootstrap_difference(*runs)


def _keep(post: dict, spans: dict[str, list], overlapping: bool) -> dict:
    kept = {name: keep_overlapping(post[name], spans[post["id"]], overlapping) for name in ("gold", "predicted")}
    return post | kept


def _heads(plan: Plan, rows: Sequence[Row], reference: str) -> list[str]:
    gap = f"− {reference}"
    heads = ["", *(["reads"] if any(row.group for row in rows) else []), "P", "R", "F1", gap]
    heads += [BLIND] if plan.mentions is None else ["F1 image-dependent", gap, BLIND, "F1 others", gap]
    return [*heads, "seeds", *(["paper: MNER-MI", "paper: MNER-MI-Plus"] if _of_paper(rows) else [])]


def _of_paper(rows: Sequence[Row]) -> bool:
    """Tell whether the table is one of the paper's."""
    return any(value is not None for row in rows for value in row.paper)


def _cells(
    plan: Plan,
    row: Row,
    measured: Sequence[Measured],
    differences: dict[str, Difference | None],
    blind: Difference | None,
    reference: str,
) -> list[str]:
    cells = [row.title, *([row.group] if row.group else [])]
    cells += [mean_and_deviation(scores(measured, name=name)) for name in ("precision", "recall", "f1")]
    is_reference = row.title == reference and len(measured) > 0
    gaps = {name: "" if is_reference else interval(gap) for name, gap in differences.items()}
    worth = interval(blind) if row.cell is None or is_tested_blind(plan, row.cell) else ""
    cells.append(gaps[""])
    if plan.mentions is None:
        cells.append(worth)
    else:
        first, second = ([mean_and_deviation(scores(measured, part)), gaps[part]] for part in gaps if part)
        cells += [*first, worth, *second]
    return [*cells, str(len(measured))]

"""Tables: mean and spread, Markdown beside JSON, notes on how it was measured."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smcl.dataset_scripts.command_line import say
from smcl.publish.run_record import read_object

from .plan import Plan
from .runs import Measured, is_current, lacking_switches, write
from .significance import Difference

NOT_MEASURED = "not measured"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write mean and standard deviation in percent.

    Args:
        values (`Sequence[float]`): Shares, one for each seed.

    Returns:
        `str`: such as `"79.76 ± 0.32"` with the sample standard deviation; without it for one value; `"not measured"`
        for none.
    """
    if not values:
        return NOT_MEASURED
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median and the range of values; `None` of none."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)} if values else None


def written(values: dict[str, float] | None, digits: int = 2, scale: float = 1) -> str:
    """Write what `spread` returned, times a scale."""
    if values is None:
        return NOT_MEASURED
    median, least, most = (f"{values[key] * scale:.{digits}f}" for key in ("median", "least", "most"))
    return f"{median} ({least}-{most})"


def scores(measured: Iterable[Measured], split: str = "test", name: str = "f1") -> list[float]:
    """Pick one score of each seed, as far as it was taken."""
    return [m.record["scores"][split][name] for m in measured if name in m.record["scores"].get(split, {})]


def interval(difference: Difference | None) -> str:
    """Write a difference of F1 in points with its 95 % confidence interval."""
    if difference is None:
        return NOT_MEASURED
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number of the paper's, or nothing where it has none."""
    return "" if value is None else f"{value:.{digits}f}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown; the first column is text, the others are numbers."""
    align = ["---", *["---:"] * (len(heads) - 1)]
    lines = [heads, align, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def notes(plan: Plan, measured: Sequence[Measured]) -> list[str]:
    """Say how a table was measured.

    Args:
        plan ([`Plan`]): The plan.
        measured (`Sequence[Measured]`): Its cells.

    Returns:
        `list[str]`: sentences.
    """
    seeds = f"Seeds {', '.join(map(str, plan.seeds))}; mean ± sample standard deviation of those measured."
    found = [f"{tell_plan(plan)} {seeds}"]
    systems = sorted({m.record["settings"]["arguments"]["system"] for m in measured})
    for system in systems:
        own = ", ".join(f"{name} {value}" for name, value in plan.of_systems.get(system, {}).items())
        found += [f"{system} alone: {own}."] if own else []
    for system in systems:
        lacking = lacking_switches(plan, system)
        found += [f"{system} has no {' and no '.join(lacking)}, and was run without."] if lacking else []
    paths = [path for seed in plan.seeds for path in plan.folder.glob(f"*/seed-{seed}/cell.json")]
    older = sum(not is_current(json.loads(path.read_text(encoding="utf-8-sig"))) for path in paths)
    if older:
        found.append(f"{older} cells of older code were left out; the experiment runs them anew, but for `--no_run`.")
    if not measured:
        return [*found, "Nothing of this table has been measured."]
    return [*found, tell_circumstances([m.record for m in measured])]


def tell_plan(plan: Plan) -> str:
    """Say of what data, encoders and arguments a table is."""
    given = {name: value if isinstance(value, str) else " ".join(value) for name, value in plan.arguments.items()}
    arguments = ", ".join(f"{name} {value}" for name, value in given.items() if "_model" not in name)
    encoders = ["/".join(Path(plan.arguments[name]).parts[-2:]) for name in ("text_model", "vision_model")]
    return (
        f"Data: {plan.data_name}. Text encoder: {encoders[0]}, image encoder: {encoders[1]}. Preset {plan.preset}: "
        f"{arguments}."
    )


def tell_circumstances(records: Sequence[Mapping[str, Any]]) -> str:
    """Say on what, and with which versions, records that hold `circumstances` were measured."""
    devices = sorted({f"{r['device']}, threads: {r['threads']}" for r in records})
    versions = sorted({", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in records})
    return f"Measured on {'; '.join(devices)}, with {'; '.join(versions)}."


def write_table(plan: Plan, title: str, table: str, data: dict[str, Any], remarks: Sequence[str]) -> Path:
    """Write a table as `table.json` and `table.md`, and print it.

    Args:
        plan ([`Plan`]): The plan.
        title (`str`): Its heading.
        table (`str`): Markdown.
        data (`dict`): The same for machines.
        remarks (`Sequence[str]`): What to know about it.

    Returns:
        `Path`: the Markdown.
    """
    text = f"### {title}\n\n{table}\n" + "\n\n".join(remarks) + "\n"
    path = plan.folder / "table.md"
    if not plan.run and path.is_file() and _tells_nothing(table):
        say(f"{text}\nNothing of this is measured by the present code: the earlier table is left at {path}.\n")
        return path
    about = {"title": title, "experiment": plan.experiment, "data_name": plan.data_name, "preset": plan.preset}
    write(about | {"arguments": plan.arguments, "seeds": plan.seeds, **data}, plan.folder / "table.json")
    path.write_text(text, encoding="utf-8")
    say(text)
    return path


def _tells_nothing(table: str) -> bool:
    """Tell whether no number of a table was measured; those of the paper, and counts, do not count."""
    heads, _, *rows = (line.strip("|").split(" | ") for line in table.strip().split("\n"))
    own = [place for place, head in enumerate(heads) if place and not head.strip().startswith("paper")]
    cells = [row[place].strip(" |") for row in rows for place in own]
    return NOT_MEASURED in cells and not any(re.search(r"\d\.\d", cell) for cell in cells)


def describe(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return what the JSON of a table keeps of cells."""
    keys = ("seed", "scores", "settings", "seconds", "epochs", "resumed", "versions", "device", "threads", "code")
    return [{key: m.record[key] for key in keys} for m in measured]


def read_table(path: Path) -> dict[str, Any]:
    """Read a `table.json`; a `ValueError` names one that is broken."""
    return read_object(path, set())

"""Write docs/results.md from the tables in results/: what was measured here, and the paper's numbers beside it.

    python -m smcl.experiments.report [--results results] [--output docs/results.md]

Reads the `table.json` and `table.md` that the other experiments wrote, and runs nothing. What they did not measure is
"not measured", and so is a table with cells of older code.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smcl.baselines import SYSTEMS
from smcl.dataset_scripts.command_line import CommandParser, run_main, say

from . import paper, pointing, robustness
from .runs import code_digest, is_current
from .tables import NOT_MEASURED, read_table

EXPERIMENTS = {
    "table2": "Table 2, systems",
    "table3": "Table 3, ablations",
    "figure6": "Figure 6, sensitivity",
    "table5": "Table 5, cost",
    "table6": "Table 6, errors",
    "figures": "Figures 5 and 7",
    "search": "Search",
    "robustness": "Robustness",
    "pointing": "Pointing and calibration",
    "mendings": "SMCL and the paper as printed, one difference at a time",
}
# Of one data set, which the paper does not have.
OWN = {"cp_mner": "CP-MNER, with and without images", "cp_mner_types": "CP-MNER by type"}
HEAD = f"""# Results

Written by `python -m smcl.experiments.report` from the tables in `results/`, which `python -m smcl.experiments.NAME`
measured; do not edit. Beside them stand the numbers of the paper ({paper.CITATION}).

## What may be concluded

- The paper's numbers are of MNER-MI and MNER-MI-Plus, with BERT-base and ViT-base. A number here can be held against
  them only if it is of the same data, with `--preset paper`. With other data or smaller encoders, what can be compared
  is the order of systems, and whether a part helps on the data at hand.
- *Icon posts* are drawn by a program. They show whether a system uses images and binds them to names, under known
  difficulty; they say nothing about tweets. *Photo posts* are tweets with names replaced by ambiguous ones whose types
  only photographs show: on the image-dependent mentions text alone can't do well by construction.
- *Natural posts* are made likewise of natural photographs, which a pretrained encoder knows. Some lie beside posts
  where they mean nothing and mislead, and one image-dependent mention of twenty has lost its own.
"""
CP_MNER = """\
- *CP-MNER* are published paragraphs on Chinese paintings with one image each. The text encoder is tiny and untrained:
  the scores say nothing of what a pretrained one comes to, but whether images help on data that nobody made for it.
"""
CAUTIONS = """\
- A confidence interval is about other test posts and other seeds, as far as few seeds tell; of one seed, about other
  posts alone. The spread over seeds is the standard deviation of few runs. An interval without 0 is no proof where many
  rows are looked at: of 20 that do not differ, one shows such an interval by chance.
- Learning rates and other settings were not searched for each system; a system may be better at its own. TPM-MI
  and VisualPT-MoE alone have another rate than the rest, without which they learn nothing or little; the others were
  left as they are, SMCL too. But SMCL's fusion was worked out on the validation split of natural posts, where
  photographs come in the order of the names, as it assumes; nobody did as much for its rivals.
"""
# What whoever measured has to say of all results.
REMARKS = "remarks.md"
# Experiments that keep what they made of a cell beside it, and the code that made it.
MADE_BY = {"robustness": robustness.made_by, "pointing": pointing.made_by}


def find_tables(results: Path) -> dict[str, dict[str, Path]]:
    """Find the tables that were written.

    Args:
        results (`Path`): The folder of results.

    Returns:
        `dict`: for each data set, in order of their names, the folder of each experiment.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(results.glob("*/*/table.json")):
        found.setdefault(path.parent.name, {})[path.parent.parent.name] = path.parent
    return dict(sorted(found.items()))


def older_cells(table: Any) -> tuple[int, int]:
    """Count the cells of a table, and those that another state of the code measured.

    Args:
        table (`dict`): A `table.json`: its cells have `code` and `settings`, or stand as `code` by system.

    Returns:
        `tuple[int, int]`: cells of older code, and all.
    """
    if isinstance(table, list):
        counts = [older_cells(part) for part in table]
    elif not isinstance(table, dict):
        return 0, 0
    elif {"code", "settings"} <= table.keys():
        return int(not is_current(table)), 1
    else:
        code = table.get("code")
        systems = code if isinstance(code, dict) else {}
        counts = [(int(name not in SYSTEMS or code_digest(name) != was), 1) for name, was in systems.items()]
        counts += [older_cells(part) for part in table.values()]
    return sum(old for old, _ in counts), sum(number for _, number in counts)


def conclude(table: dict[str, Any], part: str) -> list[str]:
    """Say of each row of a comparison whether its difference from SMCL is told from 0.

    Args:
        table (`dict`): A `table.json` of Table 2 or 3.
        part (`str`): Which mentions: `""` for all, `"image-dependent"` or `"others"`.

    Returns:
        `list[str]`: sentences; none if nothing was compared.
    """
    verdicts: dict[str, list[str]] = {"below SMCL": [], "above SMCL": [], "not told apart from SMCL": []}
    for title, row in table["rows"].items():
        gap = row["differences"].get(part)
        if gap is None or title == "SMCL":
            continue
        kind = "below SMCL" if gap["high"] < 0 else "above SMCL" if gap["low"] > 0 else "not told apart from SMCL"
        verdicts[kind].append(title)
    named = [f"{kind}: {', '.join(titles)}" for kind, titles in verdicts.items() if titles]
    names = {"": "all", "image-dependent": "image-dependent", "others": "other"}
    return [f"F1 of {names[part]} mentions, by the 95 % intervals: {'; '.join(named)}."] if named else []


def _sections(name: str, folders: dict[str, Path], pictures: Path) -> list[str]:
    """Return the parts of one data set, and copy its figures."""
    parts = [f"## {name}"]
    own = {experiment: title for experiment, title in OWN.items() if experiment in folders}
    # What the paper measured is asked for wherever some of it was.
    asked = EXPERIMENTS if EXPERIMENTS.keys() & folders.keys() or not own else {}
    missing = []
    for experiment, title in (asked | own).items():
        folder = folders.get(experiment)
        if folder is None:
            missing.append(title)
            continue
        table = read_table(folder / "table.json")
        older, every = older_cells(table)
        if older:
            parts.append(
                f"### {title}\n\n{NOT_MEASURED} by the present code: {older} of {every} cells are of older code and "
                "were left out, and with them their table."
            )
            continue
        parts.append((folder / "table.md").read_text(encoding="utf-8").strip())
        if experiment in MADE_BY and table.get("made_by") != MADE_BY[experiment]():
            parts.append("Measured by an earlier state of the code of this experiment; its models are of the present.")
        if "rows" in table:
            parts += [line for part in ("", "image-dependent", "others") for line in conclude(table, part)]
        # Pictures of posts stay with the results: their texts and photographs may not be published.
        for figure in sorted(folder.glob("*.png")) if experiment != "figures" else ():
            pictures.mkdir(parents=True, exist_ok=True)
            target = pictures / f"{name}-{figure.name}".replace(" ", "-")
            shutil.copyfile(figure, target)
            parts.append(f"![{title}]({pictures.name}/{target.name})")
    if missing:
        parts.append(f"{NOT_MEASURED.capitalize()} on {name}: {'; '.join(missing)}.")
    return parts


def write_report(results: Path, output: Path) -> str:
    """Lay the report out, and copy its charts to a folder of the output's name.

    Args:
        results (`Path`): The folder of results.
        output (`Path`): The Markdown file.

    Returns:
        `str`: its text; after what may be concluded, the `remarks.md` of whoever measured, if there is one in the
        folder of results.

    Raises:
        ValueError: if there is no table at all.
    """
    found = find_tables(results)
    if not found:
        raise ValueError(f"There is no table in {results}: run `python -m smcl.experiments.table2` or another first.")
    has_cp_mner = any(folders.keys() & OWN.keys() for folders in found.values())
    parts = [(HEAD + (CP_MNER if has_cp_mner else "") + CAUTIONS).strip()]
    if (results / REMARKS).is_file():
        parts.append((results / REMARKS).read_text(encoding="utf-8").strip())
    for name, folders in found.items():
        parts += _sections(name, folders, output.with_suffix(""))
    return "\n\n".join(parts) + "\n"


def run_report(
    description: str,
    results: Path,
    output: Path,
    write: Callable[[Path, Path], str],
    argv: Sequence[str] | None = None,
) -> None:
    """Run the command line of a report, which reads results and writes a page of the docs.

    Args:
        description (`str`): The module's docstring.
        results (`Path`): Where results lie by default.
        output (`Path`): The file to write by default.
        write (`Callable`): Makes the text of both; a ValueError that it raises is told in one line.
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(description)
    parser.add_argument("--results", type=Path, default=results, help="folder of results (%(default)s)")
    parser.add_argument("--output", type=Path, default=output, help="file to write (%(default)s)")
    options = parser.parse_args(argv)
    with parser.errors_in_one_line():
        text = write(options.results, options.output)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")
    say(f"{options.output}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    run_report(__doc__, Path("results"), Path("docs/results.md"), write_report, argv)


if __name__ == "__main__":
    run_main(main)

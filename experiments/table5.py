"""Table 5: what systems cost in parameters, time and memory, beside the paper's numbers.

    python -m smcl.experiments.table5 --dataset DATA [--preset paper] [--rounds 3] [--posts 256]

Each round measures all systems in turn, each in a process of its own, so that what else the machine does meanwhile
falls on all alike; the table has medians with the range.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smcl.dataset_scripts.command_line import positive, run_main

from . import paper
from .plan import Plan, parse_plan, plan_parser, to_argv
from .run_all import check_needs, end
from .runs import Cell, arguments_of, circumstances, code_digest, digest, find, settings_of
from .table2 import NAMES, system_cell
from .table3 import SWITCHES
from .tables import NOT_MEASURED, markdown, mean_and_deviation, number, read_table, scores, spread, write_table, written

MEASURES = {"epoch_seconds": 1, "posts_per_second": 1, "peak_memory": 0}


def make_cells(systems: Sequence[str], dataset: str) -> list[Cell]:
    """Return the cells to measure: systems and, with SMCL, SMCL without its fusion."""
    cells = [system_cell(name, dataset) for name in systems]
    return [*cells, *([Cell("w/o SFM", SWITCHES["w/o SFM"])] if "smcl" in systems else [])]


def measure_rounds(plan: Plan, cells: Sequence[Cell], rounds: int, num_posts: int) -> dict[str, list[dict[str, Any]]]:
    """Measure all cells in turn, several times.

    Args:
        plan ([`Plan`]): The plan.
        cells (`Sequence[Cell]`): What to measure.
        rounds (`int`): How often.
        num_posts (`int`): Posts to train on and to predict.

    Returns:
        `dict`: for each title what each round measured; rounds that failed are told and missing.
    """
    found: dict[str, list[dict[str, Any]]] = {cell.title: [] for cell in cells}
    threads = {"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)}
    for number_of_round in range(1, rounds + 1):
        for cell in cells:
            sys.stderr.write(f"Round {number_of_round}: {cell.title}\n")
            with tempfile.TemporaryDirectory() as folder:
                arguments = arguments_of(plan, cell)
                arguments |= {"dataset": plan.dataset, "output_dir": folder, "do_train": "true", "do_predict": "true"}
                arguments |= {"disable_tqdm": "true", "seed": str(plan.seeds[0])}
                path = Path(folder) / "cost.json"
                command = [sys.executable, "-m", "smcl.experiments.table5_measure", str(path), str(num_posts)]
                done = subprocess.run(
                    [*command, *to_argv(arguments)], env=os.environ | threads, capture_output=True, text=True
                )
                if done.returncode:
                    sys.stderr.write(f"  failed: {done.stderr.strip()[-300:]}\n")
                else:
                    found[cell.title].append(read_table(path))
    return found


def _row(plan: Plan, cell: Cell, measured: list[dict[str, Any]]) -> list[str]:
    f1 = [m for seed in plan.seeds if (m := find(plan, cell, seed))]
    millions = f"{sum(measured[0]['parameters'].values()) / 1e6:.1f}" if measured else NOT_MEASURED
    cells = [cell.title, millions]
    cells += [written(spread([m[name] for m in measured]), digits) for name, digits in MEASURES.items()]
    return [*cells, mean_and_deviation(scores(f1)), *(number(x, 1) for x in paper.TABLE_5.get(cell.title, (None,) * 3))]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=NAMES, help="which to measure (default: all)")
    parser.add_argument("--rounds", type=positive, default=3, help="how often to measure each (%(default)s)")
    parser.add_argument("--posts", type=positive, default=256, help="posts to train on and to predict (%(default)s)")
    plan, options = parse_plan("table5", parser, argv)
    if plan.dry_run:
        parser.error("--dry_run estimates whole trainings, and this trains on few posts: try --rounds 1 --posts 32")
    cells = make_cells(options.systems, plan.dataset)
    earlier = plan.folder / "table.json"
    if plan.run:
        ready = check_needs(plan, dict(enumerate(cells)))
        found = measure_rounds(plan, list(ready.values()), options.rounds, options.posts)
        if not any(found.values()):
            end(plan, "none of its cells could be measured")
        code = {cell.system: code_digest(cell.system) for cell in cells}
        about = {"posts": options.posts, "code": code, **circumstances(plan.threads, plan.uses_gpu)}
        about |= {"digests": {cell.title: digest(settings_of(plan, cell)) for cell in ready.values()}}
    else:
        kept = read_table(earlier) if earlier.is_file() else {}
        found, about = kept.get("rounds", {}), kept.get("about", {})
        # Rounds of other settings are not what is asked for; the report tells of those of older code.
        then, now = about.get("digests", {}), {cell.title: digest(settings_of(plan, cell)) for cell in cells}
        found = {title: rounds for title, rounds in found.items() if title in now and then.get(title) == now[title]}
    heads = ["", "parameters (M)", "s / epoch", "posts / s", "peak memory (MB)", "F1"]
    heads += ["paper: parameters (M)", "paper: h / epoch", "paper: posts / s"]
    table = markdown(heads, [_row(plan, cell, found.get(cell.title, [])) for cell in cells])
    parts = [
        f"{title}: " + ", ".join(f"{name} {count / 1e6:.2f}" for name, count in measured[0]["parameters"].items())
        for title, measured in found.items()
        if measured
    ]
    remarks = [
        "Medians (ranges) of rounds that measure all systems in turn, each in a process of its own. An epoch is scaled "
        f"from {about.get('posts', 'no')} training posts to all, without validation; with a frozen image encoder its "
        "images are encoded before. Inference goes from encoded images in Parquet to tags, image encoder included. "
        f"Memory: of the GPU, else of the whole process. {about.get('device', '')}, "
        f"threads: {about.get('threads', 'none')}.",
        "Parameters by part (M): " + "; ".join(parts) + "." if parts else "No parameters have been counted.",
        *paper.DISAGREEMENTS,
    ]
    write_table(plan, f"Table 5: cost, {plan.data_name}", table, {"rounds": found, "about": about}, remarks)


if __name__ == "__main__":
    run_main(main)

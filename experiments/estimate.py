"""What the runs of an experiment would take: hours and memory, from a few steps of each (`--dry_run`).

For each system, this module runs in a process of its own as a run would, with the same arguments and threads, and does
what `run_ner_multiimage.py --dry_run` does: a training step on the longest texts with the most images and two on usual
posts, and batches of evaluation alike.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from smcl.dataset_scripts.command_line import run_main, say
from smcl.run_ner_multiimage import needed_splits
from smcl.train.arguments import parse_arguments
from smcl.train.build import prepare
from smcl.train.dry_run import dry_run

from .plan import Plan, to_argv
from .runs import Cell, arguments_of, circumstances, digest, is_tested_blind, settings_of, stages, write
from .tables import markdown, read_table


def try_run(argv: Sequence[str]) -> dict[str, float]:
    """Try a few steps of a run in this process.

    Args:
        argv (`Sequence[str]`): Arguments of the run script.

    Returns:
        `dict`: `startup_seconds` from the start of the process until the model is there; `images_seconds` for all
        images that later runs find on disk; `run_seconds` for all else, without stopping early, of which
        `prediction_seconds`; `memory_gb`, the most that was in use, of the GPU or of this process.
    """
    arguments = parse_arguments(list(argv))
    run = prepare(arguments, needed_splits(arguments.training, arguments.model.calibrate))
    startup = time.time() - psutil.Process().create_time()
    # Reading every post for each system would take longer than all else.
    measured = dry_run(run, check_posts=False)
    images = measured["seconds"].get("images", 0.0)
    return {
        "startup_seconds": startup,
        "images_seconds": images,
        "run_seconds": measured["total_seconds"] - images,
        "prediction_seconds": measured["seconds"]["prediction"],
        "memory_gb": measured["peak_memory_gb"],
    }


def estimate(plan: Plan, counts: Sequence[tuple[Cell, int]], num_measured: int = 0) -> None:
    """Print what the runs that are left would take.

    Args:
        plan ([`Plan`]): The plan.
        counts (`Sequence[tuple[Cell, int]]`): Each cell that can be run, with the number of its runs that are left.
        num_measured (`int`, *optional*, defaults to 0): Runs that were measured before.

    Raises:
        SystemExit: with status 1 if not one of them can be tried.
    """
    # The same cell may stand in several places of an experiment.
    different: dict[str, tuple[Cell, int]] = {}
    for cell, count in counts:
        different.setdefault(digest(settings_of(plan, cell)), (cell, count))
    start, rows, total, memory = time.monotonic(), [], 0.0, []
    for cell, count in different.values():
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {cell.title}: trying a few steps\n")
        tried = _try_apart(plan, cell)
        if tried is None:
            rows.append([cell.title, str(count), "failed", "", ""])
            continue
        # Predicting again, without images, takes no longer than with them.
        again = tried["startup_seconds"] + tried["prediction_seconds"] if is_tested_blind(plan, cell) else 0.0
        each = tried["startup_seconds"] + tried["run_seconds"] + again
        seconds = each * count + tried["images_seconds"]
        total += seconds
        memory += [tried["memory_gb"]] * count
        hours = [f"{each / 3600:.2f}", f"{seconds / 3600:.2f}"]
        rows.append([cell.title, str(count), *hours, f"{tried['memory_gb']:.1f}"])
    if different and not memory:
        sys.exit(f"{plan.experiment}: none of its cells could be tried, for the reasons above")
    failed = sum(row[2] == "failed" for row in rows)
    num_runs = sum(count for _, count in different.values())
    largest = sum(sorted(memory)[-plan.jobs :])
    rows.append(["all", str(num_runs), "", f"{total / plan.jobs / 3600:.2f}", f"{largest:.1f}"])
    what = "GPU memory" if plan.uses_gpu else "memory"
    order = "one after the other" if plan.jobs == 1 else f"{plan.jobs} at once, which the last row counts with,"
    about = circumstances(plan.threads, plan.uses_gpu)
    parts = [
        f"Estimate for {plan.experiment} on {plan.data_name}, preset {plan.preset}. {num_runs} runs are left, "
        f"{num_measured} were measured before and are not counted. Runs go {order} on {about['device']}, "
        f"threads: {plan.threads}.",
        markdown(["", "runs", "hours each", f"hours in all{', without those that failed' * bool(failed)}",
                  f"{what} (GB)"], rows),
        "Measured by a training step of each on the longest texts with the most images and two on usual posts, and by "
        "such batches of evaluation. Hours are those of all epochs, without stopping early, and of starting; images "
        "that are encoded only once are counted once for each row. Nothing was written; trying took "
        f"{(time.monotonic() - start) / 60:.1f} minutes, while {about['load_average']:.1f} processes were at work on "
        f"{about['cores']} cores: with more than cores, a quiet machine takes less.",
    ]  # fmt: skip
    say("\n\n".join(part.strip() for part in parts) + "\n")


def _try_apart(plan: Plan, cell: Cell) -> dict[str, Any] | None:
    """Try a few steps of a cell in a process of its own; `None` if that failed, which is told."""
    threads = {"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)}
    with tempfile.TemporaryDirectory() as folder:
        arguments = arguments_of(plan, cell) | {"dataset": plan.dataset, "seed": str(plan.seeds[0])}
        arguments |= {"output_dir": f"{folder}/output", "disable_tqdm": "true"}
        arguments |= stages(plan)
        path = Path(folder, "tried.json")
        command = [sys.executable, "-m", __name__, str(path), *to_argv(arguments)]
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(f"  failed: {done.stderr.strip().rpartition(chr(10))[2][:300]}\n")
            return None
        return read_table(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Try a few steps of one run: `python -m smcl.experiments.estimate FILE [arguments of run_ner_multiimage.py]`.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    path, *rest = sys.argv[1:] if argv is None else argv
    write(try_run(rest), Path(path))


if __name__ == "__main__":
    run_main(main)

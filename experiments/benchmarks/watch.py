"""Running a program and watching the time and memory that it takes, with all processes that it starts; on Linux."""

import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def run_watched(command: Sequence[str]) -> dict[str, float]:
    """Run a program and watch it and all that it starts.

    Args:
        command (`Sequence[str]`): The program and its arguments; what it prints is thrown away, but for errors.

    Returns:
        `dict`: `seconds` by the clock, `processor` seconds, and the most `bytes` of memory of all its processes
        together, pages that they share counted once.

    Raises:
        RuntimeError: if it ends with another status than 0.
    """
    start, before, most = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(map(proportional_bytes, tree(process.pid))))
            time.sleep(0.5)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}.")
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor": processor, "bytes": most}


def tree(pid: int) -> list[int]:
    """Return a process and all that it started."""
    found = [pid]
    for process in found:
        for task in Path("/proc", str(process), "task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue  # It has ended.
    return found


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, with its share of what it shares with others."""
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

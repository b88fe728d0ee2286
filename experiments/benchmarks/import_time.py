"""Measure how long `import smcl` takes beyond torch and the parts of transformers that every model needs.

    python -m smcl.experiments.benchmarks.import_time [--output FOLDER]

`import transformers` alone loads next to nothing: its models, processors and pipelines come when they are named, so
those that SMCL is built on count as transformers'. Each import is a process of its own. Processor time.
"""

import subprocess
import sys
from collections.abc import Sequence

from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, spread, written

from .measure import circumstances_line, save, timing_parser

BASE = "import torch\nfrom transformers import AutoProcessor, Pipeline, PreTrainedModel, ProcessorMixin\n"
CODE = f"{BASE}import time\nstart = time.process_time()\nimport smcl\nprint(time.process_time() - start)"


def compare(repeats: int) -> dict:
    """Time the import in fresh processes."""
    command = [sys.executable, "-c", CODE]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(repeats + 1)]
    return circumstances(1) | {"repeats": repeats, "seconds": spread([float(run) for run in runs[1:]])}


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    rows = [["`import smcl` after torch and transformers", written(results["seconds"], 3)]]
    return markdown(["", "s"], rows) + "\n" + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `import_time.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    arguments = timing_parser(__doc__, threads=None).parse_args(argv)
    save(compare(arguments.repeats), arguments.output, "import_time", table)


if __name__ == "__main__":
    main()

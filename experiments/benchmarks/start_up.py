"""Measure how long it takes from a cold process to the first answer, beside a plain BERT of transformers.

    python -m smcl.experiments.benchmarks.start_up --model demo/model [--output FOLDER]

Each run is a process of its own that imports, loads and tags one text, in turn with the others: torch and those parts
of transformers that any model needs; `pipeline("token-classification")` with a tiny BERT of random weights and the
model's tokenizer; `pipeline("multi-image-ner")` with the model, by the code of its folder; and
`smcl.predict.load_pipeline`, by the installed package. *Import* is the processor time of `import smcl` alone, after
torch and transformers.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from transformers import BertConfig, BertForTokenClassification

from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, spread, written
from smcl.processing_smcl import load_tokenizer

from .measure import TINY, circumstances_line, save, summarise, take_turns, timing_parser

BASE = "import torch\nfrom transformers import AutoProcessor, Pipeline, PreTrainedModel, ProcessorMixin\n"
IMPORT = f"{BASE}import time\nstart = time.process_time()\nimport smcl\nprint(time.process_time() - start)"
PIPELINE = "import sys\nfrom transformers import pipeline\n"
BERT, REMOTE, INSTALLED = "BERT's pipeline", "SMCL's, code of the folder", "SMCL's, package installed"
POST = "{'text': 'joey and niko', 'images': []}"
CODE = {
    "torch and transformers": BASE,
    BERT: f"{PIPELINE}pipeline('token-classification', sys.argv[1])('joey and niko')",
    REMOTE: f"{PIPELINE}pipeline('multi-image-ner', sys.argv[2], trust_remote_code=True)({POST})",
    INSTALLED: f"import sys\nfrom smcl.predict import load_pipeline\nload_pipeline(sys.argv[2])({POST})",
}


def run(code: str, *arguments: str) -> str:
    """Run code in a fresh process; return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def compare(model: str, repeats: int) -> dict:
    """Time all kinds of processes in turn."""
    results = circumstances(1) | {"repeats": repeats}
    with tempfile.TemporaryDirectory() as bert:
        tokenizer = load_tokenizer(model)
        tokenizer.save_pretrained(bert)
        BertForTokenClassification(BertConfig(vocab_size=len(tokenizer), **TINY)).save_pretrained(bert)
        systems = {name: lambda code=code: run(code, bert, model) for name, code in CODE.items()}
        results["systems"] = summarise(take_turns(systems, repeats), BERT)
    return results | {"import": spread([float(run(IMPORT)) for _ in range(repeats)])}


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    systems = results["systems"].items()
    rows = [[name, written(times["seconds"]), written(times["ratio"])] for name, times in systems]
    remark = f"\n`import smcl` after torch and transformers: {written(results['import'], 3)} s of processor time. "
    return (
        markdown(["cold process to the first answer", "s", "over BERT's"], rows) + remark + circumstances_line(results)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `start_up.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, threads=None)
    parser.add_argument("--model", required=True, help="folder of a saved SMCL")
    arguments = parser.parse_args(argv)
    save(compare(arguments.model, arguments.repeats), arguments.output, "start_up", table)


if __name__ == "__main__":
    run_main(main)

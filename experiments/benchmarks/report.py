"""Write docs/performance.md from the results in `results/`, with the command of each table.

    python -m smcl.experiments.benchmarks.report [--results FOLDER] [--output docs/performance.md]

Runs nothing. A benchmark without a JSON file is "not measured".
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.report import run_report
from smcl.experiments.tables import NOT_MEASURED, read_table

from . import (
    convert,
    crf,
    data_path,
    gpu,
    growth,
    inference,
    large_files,
    onnx,
    repeated,
    serve,
    start_up,
    threads,
    training_step,
    ways,
)
from .measure import RESULTS


class Section(NamedTuple):
    """A table: its title, how it is written, the command that measures it, and what to know of it."""

    title: str
    table: Callable[[dict], str]
    command: str
    remark: str = ""


BESIDE = "On the other core ran another benchmark.\n"
DATA_PATH = "data_path --text TWITTER2017 --photos FOLDER --text_model TEXT"
SECTIONS = {
    "inference": Section(
        "Inference and its floor",
        inference.table,
        "inference --text_model TEXT --repeats 2",
        "Beside the first row, other programs ran on the other core.\n",
    ),
    "ways": Section(
        "Ways of inference on a CPU",
        ways.table,
        "ways --text_model TEXT --model FOLDER --dataset DATA",
        "The trained model has MiniLM and the encoder of natural posts, and is scored on these. Pipelines and the "
        "server take bfloat16 on CPUs with AMX, as this is one. Compiled, a model encodes all slots of images, as "
        "their number is data: that costs more than compiling gains. OpenVINO reads the exported graph and computes in "
        "bfloat16 of itself; optimum-intel 2.2.0 asks for transformers below 5.6, older than what smcl needs. Of the "
        "tokens 71 % are real, so that texts packed without padding could win less than a third of the text encoder's "
        "share, 2 %: left out.\n",
    ),
    "repeated": Section("Repeated images", repeated.table, "repeated --model FOLDER --dataset DATA"),
    "training_step": Section(
        "Training step and its floor",
        training_step.table,
        "training_step --text_model TEXT --repeats 3",
        "bfloat16 takes 0.41 to 0.44 of the time of float32, on a CPU with AMX.\n",
    ),
    "crf": Section("CRF and pytorch-crf", crf.table, "crf"),
    "data_path": Section(
        "Waiting for data",
        data_path.table,
        f"{DATA_PATH} --vision_model VISION --repeats 2",
        BESIDE,
    ),
    "data_path_base": Section(
        "Waiting for data, base size",
        data_path.table,
        f"{DATA_PATH} --base_size --systems plain cached --posts 16 --batch_size 8 --repeats 2 --name data_path_base",
        BESIDE,
    ),
    "data_path_frozen": Section(
        "Epochs on kept image features, and BERT-CRF",
        data_path.table,
        f"{DATA_PATH} --base_size --systems bert-crf frozen bert-crf-grouped frozen-grouped --files 40 --posts 128 "
        "--repeats 3 --name data_path_frozen",
        "Counted in multiplications, SMCL's own layers over tokens are 28 % of BERT's, and those over images, 64 slots "
        "beside some 480 tokens of a batch, 7 %: what the paper's equations ask for. The optimizer, with 157 million "
        "weights in place of 109, adds 5 % of BERT-CRF's step. Texts packed without padding would win 8 % of it in "
        "random order and nothing in groups of one length, which `--train_sampling_strategy group_by_length` makes "
        "without packing: left out.\n",
    ),
    "convert": Section(
        "Conversion of a data set",
        convert.table,
        "convert --photos FOLDER --side 1200 --repeats 2",
        "Of the time of two processes, some 3 s go into starting them.\n",
    ),
    "large_files": Section(
        "Large files",
        large_files.table,
        "large_files --model demo/model --dataset demo/data",
        "Images are icons of 1 KB, so that a conversion by two processes only hands them around; photographs, above, "
        "gain. A conversion holds the texts of all posts, 2 KB each, and the images of some; a prediction a batch, and "
        "32 MB of what images came to. Tests ran on the other core beside the prediction by one process and slowed "
        "it, so that 2.17 says too much: had each of its posts taken the processor time of those of two processes, "
        "it would be 1.93.\n",
    ),
    "growth": Section("Growth", growth.table, "growth --text_model TEXT"),
    "gpu": Section(
        "GPU",
        gpu.table,
        "gpu --text_model TEXT",
        "Four times the posts take 1.3 times as long in a step of SMCL: it waits for kernels to be launched. Compiling "
        "was not through within the five minutes that there were for all of this.\n",
    ),
    "onnx": Section("ONNX", onnx.table, "onnx --model demo/model --dataset demo/data"),
    "serve": Section(
        "Server",
        serve.table,
        "serve --model demo/model --dataset demo/data",
        "8 clients, each of which waits for its answer, in turn with one call of the pipeline; then requests of which "
        "every fifth is hostile, each answer compared with the pipeline's.\n",
    ),
    "threads": Section(
        "Threads and compilation",
        threads.table,
        "threads --model demo/model --dataset demo/data",
        "Both cores were free. With other programs on both (load 5.4, 27 November), two threads took 11 to 25 times "
        "one thread's time for 1 post, and 0.7 to 4.7 times for 16.\n",
    ),
    "start_up": Section("Start-up", start_up.table, "start_up --model demo/model"),
}
HEAD = """# Performance

Written by `python -m smcl.experiments.benchmarks.report` from `experiments/benchmarks/results/`; do not
edit. Numbers are medians with the range in brackets; systems that are compared take turns, and ratios are taken
within a round. Times by the clock mean little where other programs run beside: then look at the ratios of processor
time.
"""


def write_report(results: Path, output: Path) -> str:
    """Lay the report out.

    Args:
        results (`Path`): The folder of JSON files.
        output (`Path`): The Markdown file; no other is written.

    Returns:
        `str`: its text, a section for each benchmark, "not measured" where there is no file.

    Raises:
        ValueError: if there is no file of a benchmark at all.
    """
    found = [name for name in SECTIONS if (results / f"{name}.json").is_file()]
    if not found:
        raise ValueError(f"There are no results in {results}: run `python -m smcl.experiments.benchmarks.crf` first.")
    parts = [HEAD]
    for name, section in SECTIONS.items():
        body = f"{NOT_MEASURED}\n"
        if name in found:
            body = section.table(read_table(results / f"{name}.json"))
            body += f"\n{section.remark}" if section.remark else ""
        parts.append(f"## {section.title}\n\n`python -m smcl.experiments.benchmarks.{section.command}`\n\n{body}")
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    run_report(__doc__, RESULTS, Path("docs/performance.md"), write_report, argv)


if __name__ == "__main__":
    run_main(main)

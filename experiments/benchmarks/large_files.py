"""Measure converting and predicting a file of 100,000 posts: speed, memory, growth, and two processes beside one.

    python -m smcl.experiments.benchmarks.large_files --model FOLDER --dataset DATA [--posts 100000] [--output FOLDER]

The posts are those of DATA's test split, again and again, each with two of its images, on which a corner is coloured by
a number, so that each has to be encoded. A file of a tenth of the posts tells how time and memory grow, the whole one
also what two processes gain. Each run is a program of its own: starting and loading count. Memory is that of all its
processes together, pages that they share counted once.
"""

import io
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Image, List
from PIL import Image as PILImage

from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.runs import RUN_SCRIPT, circumstances
from smcl.experiments.tables import markdown
from smcl.train.data import load_posts

from .measure import add_model_arguments, circumstances_line, save, timing_parser
from .watch import run_watched

IMAGES = 2
# Pixels of the coloured corner's side: an image processor that scales down leaves it visible.
CORNER = 8
# Rows held in memory while a file is made, and of its row groups.
ROWS = 100
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "tokens": pa.list_(pa.string()),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    }
)


def draw_number(image: PILImage.Image, number: int) -> bytes:
    """Colour a corner by a number of 24 bits, and return the image as PNG."""
    image = image.copy()
    image.paste(tuple(number.to_bytes(3, "big")), (0, 0, CORNER, CORNER))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def make_posts(dataset: str) -> Iterator[tuple[list[str], list[str], list[bytes]]]:
    """Yield words, tags and images of posts without end."""
    posts = load_posts(dataset, ["test"])["test"]
    names = posts.features["ner_tags"].feature.names
    texts = [(row["tokens"], [names[tag] for tag in row["ner_tags"]]) for row in posts.remove_columns("images")]
    images = [image.convert("RGB") for post in posts.cast_column("images", List(Image()))["images"] for image in post]
    numbers, pictures = itertools.count(), itertools.cycle(images)
    for tokens, tags in itertools.cycle(texts):
        yield tokens, tags, [draw_number(next(pictures), next(numbers)) for _ in range(IMAGES)]


def write_parquet(dataset: str, size: int, path: Path) -> None:
    """Write so many posts to predict."""
    posts = itertools.islice(make_posts(dataset), size)
    rows = (
        {"id": str(number), "tokens": tokens, "images": [{"bytes": data, "path": None} for data in images]}
        for number, (tokens, _, images) in enumerate(posts)
    )
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False) as writer:
        while batch := list(itertools.islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, SCHEMA))


def write_source(dataset: str, size: int, folder: Path) -> None:
    """Write so many posts to convert: JSON lines, and a file for each image."""
    folder.mkdir()
    with open(folder / "train.jsonl", "w", encoding="utf-8") as lines:
        for number, (tokens, tags, images) in enumerate(itertools.islice(make_posts(dataset), size)):
            names = [f"{number // 1000}/{number}_{index}.png" for index in range(len(images))]
            (folder / names[0]).parent.mkdir(exist_ok=True)
            for name, data in zip(names, images, strict=True):
                (folder / name).write_bytes(data)
            row = {"id": str(number), "tokens": tokens, "ner_tags": tags, "images": names}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def convert(source: Path, output: Path, processes: int) -> dict:
    """Convert a source once, watched."""
    module = [sys.executable, "-m", "smcl.dataset_scripts.jsonl"]
    options = {"train": source / "train.jsonl", "output": output, "processes": processes}
    return run_watched([*module, *(f"--{name}={value}" for name, value in options.items())])


def predict(model: str, source: Path, output: Path, processes: int) -> dict:
    """Predict a file once, watched."""
    start = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    options = ["--model", model, "--do_predict", "--input", str(source), "--output", str(output)]
    options += ["--use_cpu", "true", "--disable_tqdm", "true"]
    return run_watched([sys.executable, *start, str(RUN_SCRIPT), *options])


def compare(model: str, dataset: str, num_posts: int) -> dict:
    """Convert and predict files of several sizes."""
    # Those that start anew, with one thread for each process.
    os.environ["OMP_NUM_THREADS"] = "1"
    results = circumstances(threads=1) | {"posts": num_posts, "runs": []}
    for size, every_number in ((num_posts // 10, [1]), (num_posts, [1, 2])):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_source(dataset, size, folder / "source")
            write_parquet(dataset, size, folder / "posts.parquet")
            for processes in every_number:
                shared = {"posts": size, "processes": processes}
                watched = convert(folder / "source", folder / "converted", processes)
                results["runs"].append({"task": "conversion"} | shared | watched)
                watched = predict(model, folder / "posts.parquet", folder / f"tagged-{processes}.jsonl", processes)
                results["runs"].append({"task": "prediction"} | shared | watched)
    return results


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    rows = []
    for run in sorted(results["runs"], key=lambda run: run["task"]):
        same = [x for x in results["runs"] if x["task"] == run["task"] and x["processes"] == 1]
        one = next(x for x in same if x["posts"] == run["posts"])
        gain = f"{one['seconds'] / run['seconds']:.2f}" if run["processes"] > 1 else ""
        rows.append(
            [
                run["task"],
                f"{run['posts']:,}",
                str(run["processes"]),
                f"{run['posts'] / run['seconds']:.0f}",
                gain,
                f"{1000 * run['processor'] / run['posts']:.2f}",
                f"{run['bytes'] / 1e6:.0f}",
            ]
        )
    heads = ["", "posts", "processes", "posts/s", "over one process", "processor time of a post, ms", "memory, MB"]
    return markdown(heads, rows) + "\n" + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `large_files.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, threads=None)
    add_model_arguments(parser)
    parser.add_argument("--posts", type=int, default=100_000, help="posts of the largest file (%(default)s)")
    arguments = parser.parse_args(argv)
    with parser.errors_in_one_line():
        results = compare(arguments.model, arguments.dataset, arguments.posts)
    save(results, arguments.output, "large_files", table)


if __name__ == "__main__":
    run_main(main)

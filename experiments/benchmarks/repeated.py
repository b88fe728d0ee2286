"""Measure what it is worth that an image which comes again is encoded once: files with and without repeated images.

    python -m smcl.experiments.benchmarks.repeated --model FOLDER --dataset DATA [--posts 128] [--output FOLDER]

Each file has so many posts of the test split of DATA, with two of its images each. In *half repeated*, every image
stands in two posts, far apart. *No room* is that file where nothing is kept from one batch to the next. Times are those
of `predict_file`, from the Parquet file to the tagged one, without loading the model.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from datasets import Dataset, Image, List

from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, written
from smcl.pipeline_smcl import ImageVectors
from smcl.predict import load_pipeline
from smcl.predict.predict_file import predict_file
from smcl.train.data import load_posts

from .measure import add_model_arguments, circumstances_line, save, summarise, take_turns, timing_parser

DISTINCT, REPEATED, NO_ROOM = "all images distinct", "half repeated", "half repeated, no room"
IMAGES = 2


def write_file(texts: list[list[str]], images: list[bytes], path: Path) -> None:
    """Write posts with so many images each, in order, over and over where there are not enough."""
    wanted = range(len(texts) * IMAGES)
    taken = [{"bytes": images[number % len(images)], "path": None} for number in wanted]
    rows = {"tokens": texts, "images": [taken[start : start + IMAGES] for start in wanted[::IMAGES]]}
    posts = Dataset.from_dict(rows)
    posts.cast_column("images", List(Image())).to_parquet(path)


def make_runs(model: str, dataset: str, num_posts: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Write both files, and return what predicts them."""
    pipe = load_pipeline(model, device="cpu")
    posts = load_posts(dataset, ["test"])["test"].cast_column("images", List(Image(decode=False)))
    found = {image["bytes"] for post in posts["images"] for image in post}
    num_images = num_posts * IMAGES
    if len(found) < num_images:
        raise ValueError(f"--posts {num_posts} needs {num_images} different images, but {dataset} has {len(found)}.")
    images, texts = sorted(found)[:num_images], [posts["tokens"][row % len(posts)] for row in range(num_posts)]
    write_file(texts, images, folder / "distinct.parquet")
    write_file(texts, images[: num_images // 2], folder / "repeated.parquet")

    def run(name: str, **room: int) -> None:
        pipe.image_vectors = ImageVectors(**room)
        output = folder / "tagged.jsonl"
        predict_file(pipe, str(folder / f"{name}.parquet"), str(output), disable_tqdm=True)
        output.unlink()

    return {
        DISTINCT: lambda: run("distinct"),
        REPEATED: lambda: run("repeated"),
        NO_ROOM: lambda: run("repeated", max_bytes=0),
    }


def compare(model: str, dataset: str, num_posts: int, threads: int, repeats: int) -> dict:
    """Time both files, and the second without room."""
    results = circumstances(threads) | {"posts": num_posts, "repeats": repeats}
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(model, dataset, num_posts, Path(folder))
        return results | {"systems": summarise(take_turns(runs, repeats), DISTINCT)}


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    rows = [
        [
            name,
            f"{results['posts'] / row['seconds']['median']:.1f}",
            written(row["ratio"]),
            written(row["processor_ratio"]),
        ]
        for name, row in results["systems"].items()
    ]
    heads = ["", "posts/s", f"time / {DISTINCT}", "in processor time"]
    return markdown(heads, rows) + f"\n{results['posts']} posts. " + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `repeated.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, repeats=3)
    add_model_arguments(parser)
    parser.add_argument("--posts", type=int, default=128, help="posts of a file (%(default)s)")
    arguments = parser.parse_args(argv)
    with parser.errors_in_one_line():
        results = compare(arguments.model, arguments.dataset, arguments.posts, arguments.threads, arguments.repeats)
    save(results, arguments.output, "repeated", table)


if __name__ == "__main__":
    run_main(main)

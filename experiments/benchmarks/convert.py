"""Measure how long a data set as large as MNER-MI takes to convert, and the memory it takes.

    python -m smcl.experiments.benchmarks.convert --photos FOLDER [--side 1200] [--output FOLDER]

The posts are icon posts' words in MNER-MI's published layout; their images are the photographs of a folder, again and
again, with a comment in each file that makes its bytes differ. Each number of processes converts the same folder, in
turn, as a program of its own. Memory is that of all its processes together, pages that they share counted once.
Processor time is summed over them; it says more than the clock where other programs run beside.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from smcl.dataset_scripts.command_line import run_main
from smcl.dataset_scripts.icons import draw_post
from smcl.dataset_scripts.mner_mi import FILE_SPLITS
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown

from .measure import save, timing_parser
from .watch import run_watched

POSTS = {"train": 6856, "validation": 860, "test": 860}
PHOTOGRAPHS = 25_000
MOST_IMAGES = 4
START_OF_JPEG = b"\xff\xd8"


def photo_folder(text: str) -> Path:
    """Return the folder of an argument, if it has photographs."""
    if not any(Path(text).glob("*.jpg")):
        raise argparse.ArgumentTypeError(f"expected a folder of .jpg files, found none in {text}")
    return Path(text)


def add_photos_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `read_photographs` takes."""
    parser.add_argument("--photos", type=photo_folder, required=True, help="folder of JPEG photographs")
    parser.add_argument("--side", type=int, help="scale them to so many pixels on the longer side")


def read_photographs(folder: Path, side: int | None) -> list[bytes]:
    """Read JPEG files, scaled so that their longer side has so many pixels."""
    files = []
    for path in sorted(folder.glob("*.jpg")):
        if side is None:
            files.append(path.read_bytes())
            continue
        image, stream = Image.open(path).convert("RGB"), io.BytesIO()
        factor = side / max(image.size)
        size = tuple(round(length * factor) for length in image.size)
        image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=85)
        files.append(stream.getvalue())
    return files


def write_source(folder: Path, photographs: list[bytes]) -> None:
    """Write posts and photographs in MNER-MI's published layout."""
    (folder / "text").mkdir()
    (folder / "images").mkdir()
    rng = random.Random(0)
    counts = spread_images(sum(POSTS.values()), PHOTOGRAPHS, rng)
    number = 0
    for split, size in POSTS.items():
        lines = []
        for index in range(size):
            post, _ = draw_post(f"{split}-{index}", rng)
            names = [f"{index}_{slot}.jpg" for slot in range(number, number + counts.pop())]
            for name in names:
                photograph = number_photograph(photographs[number % len(photographs)], number)
                (folder / "images" / name).write_bytes(photograph)
                number += 1
            lines.append(json.dumps({"id": post.id, "text": post.tokens, "images": names, "label": post.tags}) + "\n")
        (folder / "text" / f"MNER-MI_{FILE_SPLITS[split]}.txt").write_text("".join(lines), encoding="utf-8")


def spread_images(posts: int, images: int, rng: random.Random) -> list[int]:
    """Draw the number of images of each post, at least one and at most four."""
    counts = [1] * posts
    while (missing := images - sum(counts)) > 0:
        for post in rng.sample(range(posts), min(posts, missing)):
            counts[post] = min(counts[post] + 1, MOST_IMAGES)
    return counts


def number_photograph(data: bytes, number: int) -> bytes:
    """Put a number into a JPEG file, in a comment behind its start."""
    comment = number.to_bytes(8, "big")
    return START_OF_JPEG + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def convert(source: Path, output: Path, processes: int) -> dict:
    """Convert once; return what `run_watched` does, and the data's digests."""
    command = [sys.executable, "-m", "smcl.dataset_scripts.mner_mi", "--source", source, "--output", output]
    watched = run_watched([*map(str, command), "--processes", str(processes)])
    report = json.loads((output / "report.json").read_text(encoding="utf-8-sig"))
    return watched | {"digests": {split: rows["sha256"] for split, rows in report["splits"].items()}}


def compare(photographs: list[bytes], processes: list[int], repeats: int) -> dict:
    """Convert by each number of processes in turn."""
    about = circumstances(threads=1)
    runs: dict[int, list[dict]] = {count: [] for count in processes}
    with tempfile.TemporaryDirectory() as root:
        source = Path(root, "source")
        source.mkdir()
        write_source(source, photographs)
        size = sum(path.stat().st_size for path in (source / "images").iterdir())
        for _ in range(repeats):
            for count in processes:
                runs[count].append(convert(source, Path(root, "output"), count))
    digests = [run["digests"] for rows in runs.values() for run in rows]
    if any(other != digests[0] for other in digests):
        raise RuntimeError("Runs differ in what they wrote.")
    first = statistics.median(run["seconds"] for run in runs[processes[0]])
    systems = {}
    for count, rows in runs.items():
        seconds = [run["seconds"] for run in rows]
        systems[f"{count} processes"] = {
            "seconds": statistics.median(seconds),
            "seconds_range": [min(seconds), max(seconds)],
            "processor_seconds": statistics.median(run["processor"] for run in rows),
            "speed_ratio": first / statistics.median(seconds),
            "bytes": max(run["bytes"] for run in rows),
        }
    return {
        "posts": sum(POSTS.values()),
        "photographs": PHOTOGRAPHS,
        "photograph_bytes": size,
        "repeats": repeats,
        **about,
        "systems": systems,
    }


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    rows = []
    for name, row in results["systems"].items():
        numbers = row["seconds"] / 60, row["processor_seconds"] / 60, row["speed_ratio"], row["bytes"] / 1e9
        rows.append([name, *(f"{number:.2f}" for number in numbers)])
    return markdown(["", "minutes", "minutes of processor time", "speed", "GB of memory"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `convert.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__, repeats=3, threads=None)
    add_photos_arguments(parser)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, os.cpu_count()], help="processes to compare")
    arguments = parser.parse_args(argv)
    photographs = read_photographs(arguments.photos, arguments.side)
    results = {"side": arguments.side, **compare(photographs, arguments.processes, arguments.repeats)}
    save(results, arguments.output, "convert", table)


if __name__ == "__main__":
    run_main(main)

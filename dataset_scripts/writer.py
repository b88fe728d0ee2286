"""Writing posts to a folder that `datasets.load_dataset` reads, and the converters' common ending."""

import argparse
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from tqdm import tqdm
from transformers.utils import logging

from .command_line import CommandParser, say
from .files import check_writable, write_whole
from .report import SplitReport, find_duplicate_ids, format_report
from .schema import LABELS, DataError, Post, features_of, write_json

logger = logging.get_logger(__name__)

# Posts held in memory at a time, and per Parquet row group: readers fetch whole row groups.
BATCH_SIZE = 100
# Posts whose images each process may have read ahead of the writing.
POSTS_AHEAD = 16
# What `datasets` takes for one.
SPLIT_NAME = re.compile(r"\w+(\.\w+)*")

# Gives the state of a named image and, if that is "ok" or "repaired", its bytes; else it is "missing", "ambiguous" or
# "broken".
ImageReader = Callable[[str], tuple[str, bytes | None]]


def add_processes_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--processes`, by default as many as the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=cores, help="processes that read images (default: all cores)")


def write_dataset(
    output: str | os.PathLike,
    name: str,
    splits: dict[str, list[Post]],
    read: ImageReader,
    processes: int = 1,
    labels: list[str] = LABELS,
    published: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Write posts as one Parquet file per split, with embedded image bytes, and a report beside them.

    Writes `data/<split>-00000-of-00001.parquet` and `report.json`, replacing those of an earlier run, and touches no
    other file. The report's `sha256` of a split is taken over one JSON line per post, `[id, tokens, tags, [[image
    file name, SHA-256 of the image's bytes], ...], source]`, so it does not depend on the version of Parquet.

    Args:
        output (`str` or `os.PathLike`): The folder to write to; made if need be.
        name (`str`): The data set's name, for the report.
        splits (`dict[str, list[Post]]`): The posts of each split, such as `train`, `validation` and `test`.
        read (`Callable`): Gives the state (`"ok"`, `"repaired"`, `"missing"`, `"ambiguous"` or `"broken"`) of the image
            of a name and, for the first two, its bytes. Any other image is left out and reported.
        processes (`int`, *optional*, defaults to 1): How many processes read images; with more than one, `read` must be
            a function that they can import, or a `partial` of one. What is written is the same.
        labels (`list[str]`, *optional*, defaults to `LABELS`): All labels.
        published (`dict[str, int]`, *optional*): Counts that the publishers give, for the report.

    Returns:
        `dict`: the report.

    Raises:
        DataError: if a split is empty, the output cannot be a folder, or `processes` is below 1.
    """
    if processes < 1:
        raise DataError(f"Expected at least one process, got {processes}. Leave out --processes to use all cores.")
    files = _place_files(Path(output) / "data", name, splits)
    features = features_of(labels)
    report = {"name": name, "splits": {}, "duplicate_ids": find_duplicate_ids(splits)}
    posts = [post for split in splits for post in splits[split]]
    with closing(_read_images(posts, read, processes)) as images_of_posts:
        for split in splits:
            split_report = SplitReport(label[2:] for label in labels if label.startswith("B-"))
            rows = (
                _make_row(post, next(images_of_posts), split_report, features)
                for post in tqdm(splits[split], desc=f"{split}: posts and images", unit=" posts")
            )
            _write_parquet(rows, features, files[split])
            report["splits"][split] = split_report.as_dict()
    named = sum(len(post.image_names) for post in posts)
    if named and not any(split["images"] for split in report["splits"].values()):
        logger.warning(
            f"{name}: none of the {named} images that posts name was found and could be read, so that no post has one. "
            "Check the folder of images, in which names begin."
        )
    if published:
        report["published"] = published
    write_json(report, Path(output) / "report.json")
    return report


def _place_files(data: Path, name: str, splits: dict[str, list[Post]]) -> dict[str, Path]:
    """Make the folder, and return the file of each split; a `DataError` says what keeps these from being loaded."""
    for split in splits:
        if not splits[split]:
            raise DataError(f"The {split} split of {name} has no posts. Expected at least one. Check its source.")
        if not SPLIT_NAME.fullmatch(split):
            raise DataError(f"A split's name is of letters, digits and underscores, got {split!r}. Choose another.")
    try:
        check_writable(data, "--output")
    except ValueError as error:
        raise DataError(str(error)) from error
    files = {split: data / f"{split}-00000-of-00001.parquet" for split in splits}
    if others := {*data.glob("*.parquet")} - {*files.values()}:
        raise DataError(
            f"--output {data.parent} holds files of other splits, such as {min(others).name}, which would be read as "
            "parts of this data set. Choose a new folder, or remove them."
        )
    data.mkdir(parents=True, exist_ok=True)
    return files


def _read_images(posts: list[Post], read: ImageReader, processes: int) -> Iterator[list[tuple[str, bytes | None]]]:
    """Yield what `read` gives for each post's images, in order; several processes read a little ahead."""
    if processes == 1:
        yield from (_read_post(read, post.image_names) for post in posts)
        return
    pool, waiting = ProcessPoolExecutor(processes), deque()
    try:
        for post in posts:
            waiting.append(pool.submit(_read_post, read, post.image_names))
            if len(waiting) > POSTS_AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_post(read: ImageReader, image_names: list[str]) -> list[tuple[str, bytes | None]]:
    return [read(name) for name in image_names]


def _make_row(
    post: Post, read_images: list[tuple[str, bytes | None]], report: SplitReport, features: Features
) -> dict[str, Any]:
    images = []
    for name, (state, data) in zip(post.image_names, read_images, strict=True):
        if state != "ok":
            report.add_image_problem(post, name, state)
        if data is not None:
            images.append({"bytes": data, "path": name})
    report.add(post, images)
    row = {"id": post.id, "tokens": post.tokens, "ner_tags": post.tags, "images": images, "source": post.source}
    return features.encode_example(row)


def _write_parquet(rows: Iterable[dict[str, Any]], features: Features, path: Path) -> None:
    rows = iter(rows)
    # The schema's metadata carries the features, label names included. A dictionary of images, each of which is there
    # once, would take half of the time of writing.
    schema = features.arrow_schema
    with write_whole(path) as unfinished, pq.ParquetWriter(unfinished, schema, use_dictionary=False) as writer:
        while batch := list(itertools.islice(rows, BATCH_SIZE)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def run_command(parser: CommandParser, convert: Callable[..., dict[str, Any]], **arguments: Any) -> None:
    """Run a converter as a command: print its report, or end with a message if the data is not as it must be.

    Args:
        parser ([`CommandParser`]): The command's parser.
        convert (`Callable`): The converter.
        arguments (`Any`): What to call it with.

    Raises:
        SystemExit: with status 2 if the data is not as it must be, or can't be read or written.
    """
    with parser.errors_in_one_line():
        report = convert(**arguments)
    say(format_report(report))

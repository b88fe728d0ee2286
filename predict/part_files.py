"""What the processes of a run have predicted so far, each in a file of its own, and joining these to the output."""

import itertools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from ..dataset_scripts.conll import format_post
from ..dataset_scripts.files import check_writable, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.get_logger(__name__)

ENDINGS = (".jsonl", ".parquet", ".conll", ".bio")
# Records in a row group of the output.
ROW_GROUP = 1000
# The columns of Parquet output; a record of JSON lines leaves out what does not apply.
RECORD_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "words": pa.list_(pa.string()),
        "tags": pa.list_(pa.string()),
        "entities": pa.list_(
            pa.struct(
                {
                    "entity_group": pa.string(),
                    "word": pa.string(),
                    "start": pa.int64(),
                    "end": pa.int64(),
                    "score": pa.float64(),
                    "words": pa.list_(pa.int64()),
                }
            )
        ),
        "skipped_images": pa.list_(pa.string()),
        "error": pa.string(),
    }
)


class PartFile:
    """What one process has predicted so far: a line about the run, then a line for each block of posts.

    Opening it removes a last line that was cut off. It is locked until it is closed.

    Args:
        path (`str`): The file, which may exist.
        about (`dict`): What must be the same for the run to go on.

    Attributes:
        num_blocks (`int`): Blocks that are complete.
        checksum (`int`): That of their texts.
        is_open (`bool`): Whether the last of them was not full, or its last line had no end: it may have grown since.

    Raises:
        ValueError: if the file is of another run, or another process writes it.
    """

    def __init__(self, path: str, about: dict[str, Any]):
        self.path, self.num_blocks, self.checksum, self.is_open = path, 0, 0, False
        # Where the last block begins, and the checksum of those before it.
        self._before_last = 0, 0
        if os.path.isdir(path):
            raise ValueError(f"{path} must be a file of this run, and is a folder: remove it, or give another output.")
        self.file = open(path, "a+b")
        try:
            self._lock()
            try:
                self._read(about)
            except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
                raise ValueError(f"{path} is not what an unfinished run writes: remove it to start over.") from error
        except BaseException:
            self.file.close()
            raise

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{self.path} is being written by another process: end that one first.") from error
        except OSError as error:
            logger.warning(f"{self.path} can't be locked ({error}): see to it that no other process writes it.")

    def _read(self, about: dict[str, Any]) -> None:
        self.file.seek(0)
        end, last, before = 0, b"", b""
        for number, line in enumerate(self.file):
            if not line.endswith(b"\n"):
                break
            if number == 0:
                self._compare(json.loads(line), about)
            end, last, before, self.num_blocks = end + len(line), line, last, number
        self.file.truncate(end)
        if not end:
            self._write(about)
        elif self.num_blocks:
            block = json.loads(last)
            self.checksum, self.is_open = block["checksum"], block["open"]
            self._before_last = end - len(last), json.loads(before)["checksum"] if self.num_blocks > 1 else 0

    def reopen(self, checksum: int) -> bool:
        """Forget the last block, if it may have grown and the blocks before it have this checksum; tell whether."""
        start, before = self._before_last
        if not self.is_open or checksum != before:
            return False
        self.file.truncate(start)
        self.num_blocks, self.checksum, self.is_open = self.num_blocks - 1, checksum, False
        return True

    def _compare(self, then: dict[str, Any], now: dict[str, Any]) -> None:
        if not isinstance(then, dict):
            raise TypeError
        changed = [f"`{key}` was {then.get(key)!r} and is {now[key]!r}" for key in now if then.get(key) != now[key]]
        if changed:
            raise ValueError(
                f"{self.path} belongs to a run that was different: {'; '.join(changed)}. Call that run again to finish "
                "it, or remove the file to start over."
            )

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self.file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            room = shutil.disk_usage(os.path.dirname(os.path.abspath(self.path))).free
            raise OSError(
                f"{self.path} can't be written on: {error.strerror}; {room // 2**20} MB are free there. Call it again "
                "to go on."
            ) from error

    def append(self, records: list[dict[str, Any]], checksum: int, is_open: bool = False) -> None:
        """Add the records of a block, the checksum of all texts so far, and whether the block may still grow."""
        self._write({"checksum": checksum, "open": is_open, "records": records})
        self.num_blocks, self.checksum, self.is_open = self.num_blocks + 1, checksum, is_open

    def __enter__(self) -> "PartFile":
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.file.close()
        except OSError:
            # What could not be written was said when it was tried; closing tries the rest of it again.
            if exception[0] is None:
                raise


def merge_parts(paths: list[str], output: str) -> dict[str, int]:
    """Join the parts of all processes, block by block in turn, to the output, at once or not at all.

    Args:
        paths (`list[str]`): The parts, in order of the processes.
        output (`str`): File to write, as its ending says. Beside a .conll or .bio file stands, where it lacks posts or
            images, another one that names them; see `notes_path`.

    Returns:
        `dict[str, int]`: numbers of `posts`, of those with `errors`, and of `skipped_images`.

    Raises:
        ValueError: if the parts do not fit together.
    """
    counts = Counter(posts=0, errors=0, skipped_images=0)
    if notes_path(output) is not None:
        with write_whole(notes_path(output)) as unfinished, open(unfinished, "wb") as file:
            write_json_lines(filter(None, map(conll_note, read_parts(paths))), file)
        if not os.path.getsize(notes_path(output)):
            os.remove(notes_path(output))
        write = write_conll
    else:
        write = write_parquet if output.endswith(".parquet") else write_json_lines
    with write_whole(output) as unfinished, open(unfinished, "wb") as file:
        write(count_records(read_parts(paths), counts), file)
    return dict(counts)


def read_parts(paths: list[str]) -> Iterator[dict[str, Any]]:
    """Read the records of all parts in order of the input; a `ValueError` says so if they are of different inputs."""
    files = [open(path, "rb") for path in paths]
    try:
        for file in files:
            file.readline()
        for file in itertools.cycle(files):
            line = file.readline()
            if not line:
                break
            yield from json.loads(line)["records"]
        if any(file.readline() for file in files):
            raise ValueError(f"The parts {paths} are of unequal length: the processes read different inputs.")
    finally:
        for file in files:
            file.close()


def count_records(records: Iterable[dict[str, Any]], counts: Counter) -> Iterator[dict[str, Any]]:
    """Pass records on and count them."""
    for record in records:
        counts["posts"] += 1
        counts["errors"] += "error" in record
        counts["skipped_images"] += len(record.get("skipped_images", ()))
        yield record


def write_json_lines(records: Iterable[dict[str, Any]], file: Any) -> None:
    """Write one line for each record."""
    for record in records:
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def write_parquet(records: Iterable[dict[str, Any]], file: Any) -> None:
    """Write records as Parquet with the columns of `RECORD_SCHEMA`."""
    records = iter(records)
    with pq.ParquetWriter(file, RECORD_SCHEMA) as writer:
        while rows := list(itertools.islice(records, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(rows, RECORD_SCHEMA))


def write_conll(records: Iterable[dict[str, Any]], file: Any) -> None:
    """Write records as lines of a word and its tag, as of `format_post`; those that can't be are left out."""
    for record in records:
        if _lack(record) is None:
            file.write(format_post(record["id"], record["words"], record["tags"]).encode())


def conll_note(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a .conll file does not tell of a record: why it is not there, or which images were left out."""
    lack = _lack(record)
    note = {"error": lack} if lack is not None else {}
    note |= {name: record[name] for name in ("skipped_images",) if record.get(name)}
    return {"id": record["id"]} | note if note else None


def _lack(record: dict[str, Any]) -> str | None:
    """Say why a record can't be written as CoNLL."""
    if "error" in record:
        return record["error"]
    if not record["words"]:
        return "It has no words."
    return None if record["id"] else "Its id is empty."


def notes_path(output: str) -> str | None:
    """Name the file beside an output for what it does not tell; none beside .jsonl and .parquet, which tell all."""
    return f"{output}.left_out.jsonl" if output.endswith((".conll", ".bio")) else None


def check_output(output: str, num_processes: int) -> None:
    """Refuse an output that is there already or can't be written, and parts of another number of processes."""
    if not output.endswith(ENDINGS):
        raise ValueError(f"`output` must be a file that ends in {', '.join(ENDINGS)}, got {output}.")
    path = Path(output)
    if not path.parent.is_dir():
        raise ValueError(f"`output` is {output}, but there is no folder {path.parent}: make it first.")
    check_writable(path.parent, "output")
    prefix = f"{path.name}.part-"
    name = re.compile(re.escape(prefix) + r"\d{5,}-of-\d{5,}")
    parts = [other.name for other in path.parent.iterdir() if name.fullmatch(other.name)]
    other = [name for name in parts if not name.endswith(f"-of-{num_processes:05d}")]
    if other:
        processes = int(other[0].rpartition("-")[2])
        raise ValueError(
            f"{path.parent} holds {other[0]} of an unfinished run of {processes} processes, and this is one "
            f"of {num_processes}: call it again with as many processes, or remove {prefix}* to start over."
        )
    # With parts beside it, it was just finished when the run was killed.
    for there in (output, notes_path(output)):
        if there is not None and os.path.exists(there) and not parts:
            raise ValueError(f"`output` is {output}, but {there} exists already: remove it, or give another name.")


__all__ = ["RECORD_SCHEMA", "PartFile", "check_output", "merge_parts"]

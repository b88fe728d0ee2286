"""Reading posts from files and data sets, block by block, so that memory does not grow with their number."""

import itertools
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset_builder
from datasets.exceptions import DatasetNotFoundError

from ..images_smcl import is_address

TEXT_COLUMNS = ("id", "text", "tokens")
# Of a Parquet file whose row groups are large, so much of each column is held at once, in bytes.
READ_BUFFER = 2**20
# Lines of JSON, or rows of Parquet.
Block = list[bytes] | pa.RecordBatch


@dataclass
class JsonLines:
    """Posts in a file of JSON lines.

    Attributes:
        path (`str`): The file.
    """

    path: str

    @property
    def folder(self) -> str:
        """The folder that paths of images are relative to."""
        return os.path.dirname(os.path.abspath(self.path))

    def count(self) -> int:
        """Count the posts."""
        with open(self.path, "rb") as file:
            return sum(1 for line in file if line.strip())

    def blocks(self, size: int, seen: int = 0) -> Iterator[list[bytes]]:
        """Read the lines that are not blank, `size` at a time."""
        with open(self.path, "rb") as file:
            lines = (line for line in file if line.strip())
            while block := list(itertools.islice(lines, size)):
                yield block


@dataclass
class ParquetFiles:
    """Posts in Parquet files.

    Attributes:
        paths (`list[str]`): Files, here or on the Hub, in order.
        folder (`str`, *optional*): The folder that paths of images are relative to.
    """

    # Not by `datasets`, whose streaming of Parquet can crash the interpreter at its end (apache/arrow#45214).

    paths: list[str]
    folder: str | None = None

    def count(self) -> int | None:
        """Count the posts, if that needs no network."""
        if self.folder is None:
            return None
        total = 0
        for path in self.paths:
            with fsspec.open(path, "rb") as file:
                total += open_parquet(file, path).metadata.num_rows
        return total

    def blocks(self, size: int, seen: int = 0) -> Iterator[pa.RecordBatch]:
        """Read at most `size` rows at a time; where all rows of a row group are `seen` blocks, without images."""
        for path in self.paths:
            with fsspec.open(path, "rb") as file:
                parquet = open_parquet(file, path)
                for group in range(parquet.num_row_groups):
                    num_blocks = -(-parquet.metadata.row_group(group).num_rows // size)
                    columns = TEXT_COLUMNS if seen >= num_blocks else (*TEXT_COLUMNS, "images")
                    yield from parquet.iter_batches(size, row_groups=[group], columns=columns)
                    seen -= num_blocks


def open_parquet(file: Any, path: str) -> pq.ParquetFile:
    """Open a Parquet file; a `ValueError` says so if it is none, or has no text."""
    try:
        parquet = pq.ParquetFile(file, buffer_size=READ_BUFFER)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error
    if not {"text", "tokens"} & set(parquet.schema_arrow.names):
        raise ValueError(
            f"{path} has the columns {parquet.schema_arrow.names}. Expected `text` (a string) or `tokens` (a list of "
            "words), and, if there are any, `images` and `id`."
        )
    return parquet


def open_input(name: str, split: str | None = None) -> JsonLines | ParquetFiles:
    """Find the posts to predict.

    Args:
        name (`str`): A file of JSON lines (.jsonl), a Parquet file (.parquet), or a data set of Parquet files: a folder
            or a Hub name.
        split (`str`, *optional*): Which split of a data set; by default its only one, or `"test"`.

    Returns:
        `JsonLines` or `ParquetFiles`.

    Raises:
        ValueError: if there is no such input or split, or it is in another format.
    """
    if os.path.isfile(name):
        if split is not None:
            raise ValueError(f"`split` is for data sets, but `input` is the file {name}: leave it out.")
        folder = os.path.dirname(os.path.abspath(name))
        if name.endswith(".jsonl"):
            return JsonLines(name)
        if name.endswith(".parquet"):
            return ParquetFiles([name], folder)
        raise ValueError(f"`input` must be a .jsonl or .parquet file, a folder or a Hub name, got the file {name}.")
    try:
        files = load_dataset_builder(name).config.data_files or {}
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"`input` is {name}, which is neither a file, nor a folder with data, nor a data set that can be reached "
            f"on the Hub: {error}"
        ) from error
    if split is None:
        split = next(iter(files)) if len(files) == 1 else "test"
    if split not in files:
        raise ValueError(f"The data set {name} has no split {split!r}, but {sorted(files)}: pass one as `split`.")
    others = [path for path in files[split] if not path.endswith(".parquet")]
    if others:
        raise ValueError(f"Expected a data set of Parquet files, but {name} holds {others[0]}.")
    return ParquetFiles(list(files[split]), os.path.abspath(name) if os.path.isdir(name) else None)


def may_grow(block: Block, size: int) -> bool:
    """Tell whether a block of an input may hold more when it is read again: it has not `size` rows, or no last end."""
    return len(block) < size or (isinstance(block, list) and not block[-1].endswith(b"\n"))


def text_checksum(block: Block, start: int = 0) -> int:
    """Add ids and texts of a block, and of JSON lines all else, to a checksum."""
    if isinstance(block, list):
        return zlib.crc32(b"".join(block), start)
    texts = block.select([name for name in block.schema.names if name in TEXT_COLUMNS])
    return zlib.crc32(repr(texts.to_pylist()).encode(), start)


def read_row(row: bytes | dict, number: int, folder: str | None) -> tuple[str, dict[str, Any]]:
    """Read one row of an input.

    Args:
        row (`bytes` or `dict`): A JSON line or a row of Parquet: `tokens` (list of words) or `text` (string or list of
            words), perhaps `id` and `images` (paths, URLs, or as `datasets` stores images); what else it has is
            ignored.
        number (`int`): Its number, which stands in for a missing id.
        folder (`str`, *optional*): The folder that paths are relative to.

    Returns:
        The id, and the post for the pipeline; or `{"error": message}` in its place.
    """
    name = str(number)
    try:
        if isinstance(row, bytes):
            row = json.loads(row.decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise ValueError(f"Expected an object with `text` or `tokens`, got {ascii(row)[:80]}.")
        if row.get("id") is not None:
            if not isinstance(row["id"], str | int):
                raise ValueError(f"`id` must be a string or a number, got {ascii(row['id'])[:80]}.")
            str(row["id"]).encode()
            name = str(row["id"])
        text = row.get("tokens") if row.get("tokens") is not None else row.get("text")
        if text is None:
            raise ValueError(f"Expected `text` or `tokens`, got the keys {ascii(sorted(row))[:80]}.")
        images = row.get("images") or []
        if not isinstance(images, list):
            raise ValueError(f"`images` must be a list of paths or URLs, got {ascii(images)[:80]}.")
        return name, {"text": text, "images": [place_image(image, folder) for image in images]}
    except (ValueError, RecursionError) as error:
        return name, {"error": f"Row {number} can't be read: {error}"}


def place_image(image: Any, folder: str | None) -> Any:
    """Make a relative path, alone or as `datasets` stores it, a path below `folder`."""
    if isinstance(image, dict) and image.keys() == {"bytes", "path"} and image["bytes"] is None:
        image = image["path"]
    if not isinstance(image, str) or is_address(image) or os.path.isabs(image):
        return image
    if folder is None:
        raise ValueError(f"the image {ascii(image)[:200]} is a relative path, and there is no folder to look in.")
    return os.path.join(folder, image)


__all__ = ["Block", "JsonLines", "ParquetFiles", "may_grow", "open_input", "read_row", "text_checksum"]

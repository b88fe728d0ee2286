"""Reading posts from files and data sets, block by block, so that memory does not grow with their number."""

import itertools
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetNotFoundError

from ..dataset_scripts.columns import (
    FIRST_ROWS,
    arrow_features,
    check_features,
    find_columns,
    has_value,
    parse_columns,
    refuse_image_values,
    refuse_unread_images,
)
from ..dataset_scripts.rows import name_row, read_id, read_post
from ..dataset_scripts.schema import parse_json
from ..dataset_scripts.split_files import check_split_files, open_builder
from ..images_smcl import is_address, is_data_uri

READ = ("id", "tokens", "text", "images")
# Of a Parquet file whose row groups are large, so much of each column is held at once, in bytes.
READ_BUFFER = 2**20
# Lines of JSON, or rows of Parquet.
Block = list[bytes] | pa.RecordBatch


@dataclass(frozen=True)
class Columns:
    """What is read of each row.

    Attributes:
        renamed (`Mapping[str, str]`, *optional*): As `parse_columns` gives them.
        images (`bool`, *optional*, defaults to `True`): Whether images are read: the model does, and they are not to be
            ignored.
        context (`tuple[str, ...]`, *optional*): Columns that the model reads of what was made of images.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    images: bool = True
    context: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls,
        columns: str | Sequence[str] | Mapping[str, str] | None,
        images: bool = True,
        context: tuple[str, ...] = (),
    ) -> "Columns":
        """Read the argument `--columns`; what it says of gold tags is for other commands."""
        return cls({ours: name for ours, name in parse_columns(columns).items() if ours in READ}, images, context)

    def find(self, schema: pa.Schema, where: str) -> dict[str, str]:
        """Find what is to be read among the columns of Arrow; see `check_features`."""
        features = arrow_features(schema)
        found = check_features(
            features, where=where, columns=self.renamed, ignore_images=not self.images, needs_tags=False
        )
        return {ours: theirs for ours, theirs in found.items() if ours in READ}


@dataclass
class JsonLines:
    """Posts in a file of JSON lines.

    Attributes:
        path (`str`): The file.
        columns (`Columns`, *optional*): What is read of them.
    """

    path: str
    columns: Columns = Columns()

    @property
    def folder(self) -> str:
        """The folder that paths of images are relative to."""
        return os.path.dirname(os.path.abspath(self.path))

    def check(self) -> None:
        """Look at the keys of the first posts.

        Raises:
            ValueError: if no line is an object of JSON, a key of `--columns` is nowhere in the file, or images have
                another key.
        """
        keys, given, filled, rows, lines, reason = {}, set(), {}, 0, 0, None
        first_rows = []
        for (line,) in self.blocks(1):
            lines += 1
            try:
                row = parse_line(line)
            except ValueError as error:
                reason = reason or error
            else:
                rows += 1
                first_rows += [row] if rows <= FIRST_ROWS else []
                keys.update(dict.fromkeys(row))
                given.update(key for key, value in row.items() if value not in (None, []))
                filled.update(
                    {key: None for key, value in row.items() if value and isinstance(value, str | list | dict)}
                )
            # A key that few posts have may come late.
            if lines >= FIRST_ROWS and (not rows or keys.keys() >= set(self.columns.renamed.values())):
                break
        if lines and not rows:
            raise ValueError(
                f"{self.path} is no file of JSON lines: none of the first {lines} lines can be read. The first one: "
                f"{reason} Write an object of JSON in each line, in UTF-8, not compressed."
            )
        if not lines:
            return
        found = find_columns(keys, self.columns.renamed, self.path)
        if self.columns.images and found.get("images") not in given:
            refuse_unread_images(filled, found.values(), self.path)
            refuse_image_values(first_rows, (*READ, *found.values()), self.path)

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

    def ids(self) -> Iterator[str | None]:
        """Read the id of each post, if it has one that can be read."""
        for (line,) in self.blocks(1):
            yield _id_of(line, self.columns)

    def text_checksum(self, block: list[bytes], start: int) -> int:
        """Add all that stands in a block to a checksum."""
        return zlib.crc32(b"".join(block), start)


@dataclass
class ParquetFiles:
    """Posts in Parquet files.

    Attributes:
        paths (`list[str]`): Files, here or on the Hub, in order.
        folder (`str`, *optional*): The folder that paths of images are relative to.
        columns (`Columns`, *optional*): What is read of them.
    """

    # Not by `datasets`, whose streaming of Parquet can crash the interpreter at its end (apache/arrow#45214).

    paths: list[str]
    folder: str | None = None
    columns: Columns = Columns()

    def check(self) -> None:
        """Look at the columns of the files, elsewhere of the first one; a `ValueError` says what can't be read."""
        for path in self.paths if self.folder is not None else self.paths[:1]:
            with fsspec.open(path, "rb") as file:
                parquet = open_parquet(file, path)
                found = self.columns.find(parquet.schema_arrow, path)
                if self.columns.images:
                    self._refuse_other_images(parquet, found, path)

    def _refuse_other_images(self, parquet: pq.ParquetFile, found: Mapping[str, str], path: str) -> None:
        """Where no post has images, look whether another column has them."""
        skip = (*READ, *found.values())
        names = [name for name in parquet.schema_arrow.names if name not in skip]
        first = next(parquet.iter_batches(FIRST_ROWS, columns=names), None) if names else None
        try:
            refuse_image_values([] if first is None else first.to_pylist(), skip, path)
        except ValueError:
            column = found.get("images")
            batches = [] if column is None else parquet.iter_batches(FIRST_ROWS, columns=[column])
            if not any(has_value(batch.column(0)) for batch in batches):
                raise

    def column_names(self) -> list[str]:
        """Name the columns of the first file."""
        with fsspec.open(self.paths[0], "rb") as file:
            return open_parquet(file, self.paths[0]).schema_arrow.names

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
                found = self.columns.find(parquet.schema_arrow, path)
                for group in range(parquet.num_row_groups):
                    num_blocks = -(-parquet.metadata.row_group(group).num_rows // size)
                    columns = [theirs for ours, theirs in found.items() if ours != "images" or seen < num_blocks]
                    columns += self.columns.context
                    yield from parquet.iter_batches(size, row_groups=[group], columns=columns)
                    seen -= num_blocks

    def ids(self) -> Iterator[str | None]:
        """Read the id of each post, if it has one that can be read."""
        for path in self.paths:
            with fsspec.open(path, "rb") as file:
                parquet = open_parquet(file, path)
                name = self.columns.find(parquet.schema_arrow, path).get("id")
                if name is None:
                    yield from itertools.repeat(None, parquet.metadata.num_rows)
                    continue
                for group in range(parquet.num_row_groups):
                    for rows in parquet.read_row_group(group, columns=[name]).to_batches(FIRST_ROWS):
                        yield from (_id_of({name: post_id}, self.columns) for post_id in rows.column(0).to_pylist())

    def text_checksum(self, block: pa.RecordBatch, start: int) -> int:
        """Add ids and texts of a block to a checksum."""
        images = self.columns.renamed.get("images", "images")
        texts = block.select([name for name in block.schema.names if name != images])
        return zlib.crc32(repr(texts.to_pylist()).encode(), start)


def open_parquet(file: Any, path: str) -> pq.ParquetFile:
    """Open a Parquet file; a `ValueError` says so if it is none."""
    try:
        return pq.ParquetFile(file, buffer_size=READ_BUFFER)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error


def open_input(
    name: str, split: str | None = None, columns: Columns = Columns(), config_name: str | None = None
) -> JsonLines | ParquetFiles:
    """Find the posts to predict, and look whether they can be read.

    Args:
        name (`str`): A file of JSON lines (.jsonl), a Parquet file (.parquet), or a data set of Parquet files: a folder
            or a Hub name.
        split (`str`, *optional*): Which split of a data set; by default its only one, or `"test"`.
        columns (`Columns`, *optional*): What is read of them.
        config_name (`str`, *optional*): Which configuration of a data set that holds several.

    Returns:
        `JsonLines` or `ParquetFiles`.

    Raises:
        ValueError: if there is no such input or split, it is in another format, or it lacks a column or has images
            under another name.
    """
    source = _find_input(name, split, columns, config_name)
    source.check()
    return source


def _find_input(name: str, split: str | None, columns: Columns, config_name: str | None) -> JsonLines | ParquetFiles:
    if os.path.isfile(name):
        for what, given in {"split": split, "config_name": config_name}.items():
            if given is not None:
                raise ValueError(f"`{what}` is for data sets, but `input` is the file {name}: leave it out.")
        folder = os.path.dirname(os.path.abspath(name))
        if name.endswith(".jsonl"):
            return JsonLines(name, columns)
        if name.endswith(".parquet"):
            return ParquetFiles([name], folder, columns)
        raise ValueError(f"`input` must be a .jsonl or .parquet file, a folder or a Hub name, got the file {name}.")
    try:
        config = open_builder(name, config_name).config
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"`input` is {name}, which is neither a file, nor a folder with data, nor a data set that can be reached "
            f"on the Hub: {error}"
        ) from error
    files = config.data_files or {}
    if split is None:
        split = next(iter(files)) if len(files) == 1 else "test"
    if split not in files:
        raise ValueError(f"The data set {name} has no split {split!r}, but {sorted(files)}: pass one as `split`.")
    others = [path for path in files[split] if not path.endswith(".parquet")]
    if others:
        raise ValueError(f"Expected a data set of Parquet files, but {name} holds {others[0]}.")
    check_split_files(files, [split], name, config.name)
    return ParquetFiles(list(files[split]), os.path.abspath(name) if os.path.isdir(name) else None, columns)


def may_grow(block: Block, size: int) -> bool:
    """Tell whether a block of an input may hold more when it is read again: it has not `size` rows, or no last end."""
    return len(block) < size or (isinstance(block, list) and not block[-1].endswith(b"\n"))


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse a line of JSON; a `ValueError` says so if it is no object."""
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"Expected an object with `text` or `tokens`, got {ascii(row)[:80]}.")
    return row


def _id_of(row: bytes | Mapping, columns: Columns) -> str | None:
    """Read the id of a row, if it has one that can be read."""
    try:
        row = parse_line(row) if isinstance(row, bytes) else row
        return read_id(row.get(columns.renamed.get("id", "id")))
    except ValueError:
        return None


def read_row(
    row: bytes | Mapping,
    number: int,
    folder: str | None,
    columns: Columns = Columns(),
    taken: Collection[int] = (),
) -> tuple[str, dict[str, Any]]:
    """Read one row of an input.

    Args:
        row (`bytes` or `Mapping`): A JSON line or a row of Parquet, as of [`~rows.read_post`].
        number (`int`): Its number, which stands in for a missing id.
        folder (`str`, *optional*): The folder that paths are relative to.
        columns (`Columns`, *optional*): What is read of it.
        taken (`Collection[int]`, *optional*): Numbers that other rows have as their ids, see `find_taken_numbers`.

    Returns:
        The id, and the post for the pipeline; or `{"error": message}` in its place.
    """
    name = name_row(number, taken)
    try:
        if isinstance(row, bytes):
            row = parse_line(row)
        given = read_id(row.get(columns.renamed.get("id", "id"))) if isinstance(row, Mapping) else None
        name = name if given is None else given
        post = read_post(row, columns=columns.renamed, ignore_images=not columns.images)
        text = post["tokens"] if "tokens" in post else post["text"]
        context = {column: row.get(column) for column in columns.context} if columns.images else {}
        return name, {"text": text, "images": [place_image(image, folder) for image in post["images"]], **context}
    except ValueError as error:
        return name, {"error": f"Row {number} can't be read: {error}"}


def place_image(image: Any, folder: str | None) -> Any:
    """Make a relative path, alone or as `datasets` stores it, one below `folder`; a `ValueError` if there is none."""
    if isinstance(image, dict) and image.keys() <= {"bytes", "path"}:
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if not isinstance(image, str) or is_address(image) or is_data_uri(image) or os.path.isabs(image):
        return image
    if folder is None:
        raise ValueError(f"the image {ascii(image)[:200]} is a relative path, and there is no folder to look in.")
    return os.path.join(folder, image)


__all__ = ["Block", "Columns", "JsonLines", "ParquetFiles", "may_grow", "open_input", "read_row"]

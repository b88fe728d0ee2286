"""Predicting collections: posts of a file or data set in, one record for each out.

Memory does not grow with the number of posts, a run that was killed goes on where it stopped, and the processes of
`torchrun` share the work.
"""

import datetime
import hashlib
import itertools
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from tqdm.auto import tqdm
from transformers.utils import logging

from ..pipeline_smcl import MultiImageNERPipeline

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.get_logger(__name__)

TEXT_COLUMNS = ("id", "text", "tokens")
# Of a Parquet file whose row groups are large, so much of each column is held at once, in bytes.
READ_BUFFER = 2**20
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
    if not isinstance(image, str) or image.startswith(("http://", "https://")) or os.path.isabs(image):
        return image
    if folder is None:
        raise ValueError(f"the image {ascii(image)[:200]} is a relative path, and there is no folder to look in.")
    return os.path.join(folder, image)


def predict_rows(
    pipe: MultiImageNERPipeline,
    rows: list[bytes] | list[dict],
    first: int = 0,
    folder: str | None = None,
    ignore_images: bool = False,
    **options,
) -> list[dict[str, Any]]:
    """Predict some rows of an input at once.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        rows (`list`): Rows, as of `read_row`.
        first (`int`, *optional*, defaults to 0): Number of the first row.
        folder (`str`, *optional*): The folder that paths of images are relative to.
        ignore_images (`bool`, *optional*, defaults to `False`): Take all images away.
        **options: `on_bad_image` and `on_extra_images`, as in a call of the pipeline.

    Returns:
        `list[dict]`: for each row `id`, `words`, `tags`, `entities` and, if any image was left out, `skipped_images`;
        or `id` and `error`, the reason why it can't be predicted.
    """
    read = [read_row(row, number, folder) for number, row in enumerate(rows, first)]
    posts = [post for _, post in read if "error" not in post]
    if ignore_images:
        posts = [{"text": post["text"]} for post in posts]
    # On a GPU, transformers takes more than ten calls for single posts, and would warn.
    pipe.call_count = 0
    results = iter(pipe(posts, batch_size=len(rows), return_tags=True, on_error="return", **options))
    records = []
    for name, post in read:
        result = post if "error" in post else next(results)
        names = ("words", "tags", "entities", "error") + (("skipped_images",) if result.get("skipped_images") else ())
        records.append({"id": name} | {key: result[key] for key in names if key in result})
    return records


def model_checksum(pipe: MultiImageNERPipeline) -> str:
    """Hash weights and configuration, so that a run does not go on with another model."""
    config = {name: value for name, value in pipe.model.config.to_dict().items() if name != "_name_or_path"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in pipe.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class PartFile:
    """What one process has predicted so far: a line about the run, then a line for each block of posts.

    Opening it removes a last line that was cut off. It is locked until it is closed.

    Args:
        path (`str`): The file, which may exist.
        about (`dict`): What must be the same for the run to go on.

    Attributes:
        num_blocks (`int`): Blocks that are complete.
        checksum (`int`): That of their texts.

    Raises:
        ValueError: if the file is of another run, or another process writes it.
    """

    def __init__(self, path: str, about: dict[str, Any]):
        self.path, self.num_blocks, self.checksum = path, 0, 0
        self.file = open(path, "a+b")
        try:
            self._lock()
            self._read(about)
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
        end, last = 0, b""
        for number, line in enumerate(self.file):
            if not line.endswith(b"\n"):
                break
            if number == 0:
                self._compare(json.loads(line), about)
            end, last, self.num_blocks = end + len(line), line, number
        self.file.truncate(end)
        if not end:
            self._write(about)
        elif self.num_blocks:
            self.checksum = json.loads(last)["checksum"]

    def _compare(self, then: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [f"`{key}` was {then.get(key)!r} and is {now[key]!r}" for key in now if then.get(key) != now[key]]
        if changed:
            raise ValueError(
                f"{self.path} belongs to a run that was different: {'; '.join(changed)}. Call that run again to finish "
                "it, or remove the file to start over."
            )

    def _write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.file.flush()

    def append(self, records: list[dict[str, Any]], checksum: int) -> None:
        """Add the records of a block, and the checksum of all texts so far."""
        self._write({"checksum": checksum, "records": records})
        self.num_blocks, self.checksum = self.num_blocks + 1, checksum

    def __enter__(self) -> "PartFile":
        return self

    def __exit__(self, *exception) -> None:
        self.file.close()


def merge_parts(paths: list[str], output: str) -> dict[str, int]:
    """Join the parts of all processes, block by block in turn, to the output, at once or not at all.

    Args:
        paths (`list[str]`): The parts, in order of the processes.
        output (`str`): File to write, .jsonl or .parquet.

    Returns:
        `dict[str, int]`: numbers of `posts`, of those with `errors`, and of `skipped_images`.

    Raises:
        ValueError: if the parts do not fit together.
    """
    counts = Counter(posts=0, errors=0, skipped_images=0)
    unfinished = f"{output}.unfinished"
    write = write_parquet if output.endswith(".parquet") else write_json_lines
    with open(unfinished, "wb") as file:
        write(count_records(read_parts(paths), counts), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, output)
    return dict(counts)


def read_parts(paths: list[str]) -> Iterator[dict[str, Any]]:
    """Read the records of all parts in order of the input."""
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


def check_output(output: str, num_processes: int) -> None:
    """Refuse an output that is there already or can't be written, and parts of another number of processes."""
    if not output.endswith((".jsonl", ".parquet")):
        raise ValueError(f"`output` must be a .jsonl or .parquet file, got {output}.")
    path = Path(output)
    if not path.parent.is_dir():
        raise ValueError(f"`output` is {output}, but there is no folder {path.parent}: make it first.")
    prefix = f"{path.name}.part-"
    parts = [other.name for other in path.parent.iterdir() if other.name.startswith(prefix)]
    other = [name for name in parts if not name.endswith(f"-of-{num_processes:05d}")]
    if other:
        raise ValueError(
            f"{path.parent} holds {other[0]} of an unfinished run of {int(other[0][-5:])} processes, and this is one "
            f"of {num_processes}: call it again with as many processes, or remove {prefix}* to start over."
        )
    # With parts beside it, it was just finished when the run was killed.
    if path.exists() and not parts:
        raise ValueError(f"`output` is {output}, which exists already: remove it, or give another name.")


def predict_file(
    pipe: MultiImageNERPipeline,
    input: str,
    output: str,
    split: str | None = None,
    batch_size: int = 16,
    disable_tqdm: bool = False,
    **options,
) -> dict[str, int]:
    """Predict all posts of a file or data set.

    Called again after it was killed, it goes on where it stopped, if model, options and what it has read are the same;
    images are not compared. In the processes of `torchrun` or `accelerate launch`, each predicts its share.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        input (`str`): As `name` of `open_input`.
        output (`str`): File to write, .jsonl or .parquet: a record for each row in order; see `predict_rows`. Until it
            is complete, results are in files beside it, named OUTPUT.part-*.
        split (`str`, *optional*): Which split of a data set; by default its only one, or `"test"`.
        batch_size (`int`, *optional*, defaults to 16): Posts that are computed at once.
        disable_tqdm (`bool`, *optional*, defaults to `False`): Show no progress.
        **options: `ignore_images`, `on_bad_image` and `on_extra_images`, as of `predict_rows`.

    Returns:
        `dict[str, int]`: numbers of `posts`, of those with `errors`, and of `skipped_images`; empty in all processes
        but the first.

    Raises:
        ValueError: if input, output or an unfinished run can't be used; says what to do.
    """
    state = PartialState()
    check_output(output, state.num_processes)
    source = open_input(input, split)
    # The process group's own timeout would end a long wait for slower processes.
    timeout = datetime.timedelta(days=365)
    group = torch.distributed.new_group(timeout=timeout, backend="gloo") if state.num_processes > 1 else None
    about = {
        "input": os.path.abspath(input) if os.path.exists(input) else input,
        "split": split,
        "model": model_checksum(pipe),
        "batch_size": batch_size,
        "options": {name: options[name] for name in sorted(options)},
    }
    paths = [f"{output}.part-{rank:05d}-of-{state.num_processes:05d}" for rank in range(state.num_processes)]
    with PartFile(paths[state.process_index], about) as part:
        predict_part(pipe, source, part, state, batch_size, disable_tqdm, options)
        if group is not None:
            torch.distributed.barrier(group)
        if not state.is_main_process:
            return {}
        # Still under the lock: no second run may merge at the same time.
        counts = merge_parts(paths, output)
    for path in paths:
        os.remove(path)
    logger.warning(
        f"Wrote {counts['posts']} records to {output}, {counts['errors']} of them errors; "
        f"{counts['skipped_images']} images were left out."
    )
    return counts


def predict_part(
    pipe: MultiImageNERPipeline,
    source: JsonLines | ParquetFiles,
    part: PartFile,
    state: PartialState,
    batch_size: int,
    disable_tqdm: bool,
    options: dict[str, Any],
) -> None:
    """Predict what this process has still to predict; the first process shows how far it is in the whole input."""
    shows_progress = state.is_main_process and not disable_tqdm
    total, errors = source.count() if shows_progress else None, 0
    with tqdm(total=total, unit=" posts", disable=not shows_progress) as bar:
        for first, block, checksum in shared_blocks(source, batch_size, part, state):
            bar.update(first - bar.n)
            rows = block if isinstance(block, list) else block.to_pylist()
            records = predict_rows(pipe, rows, first, source.folder, **options)
            part.append(records, checksum)
            errors += sum("error" in record for record in records)
            bar.set_postfix(errors=errors, refresh=False)
            bar.update(len(rows))


def shared_blocks(
    source: JsonLines | ParquetFiles, size: int, part: PartFile, state: PartialState
) -> Iterator[tuple[int, Block, int]]:
    """Give a process those of its blocks that are not predicted yet.

    Blocks go to the processes in turn, so that every number of processes computes the same batches.

    Args:
        source (`JsonLines` or `ParquetFiles`): The posts.
        size (`int`): Posts in a block.
        part (`PartFile`): What the process has predicted.
        state (`PartialState`): Which process it is.

    Returns:
        Iterator over the number of a block's first row, the block, and the checksum up to it.

    Raises:
        ValueError: if what was predicted are not the first posts of the source.
    """
    num_done, first, own, checksum = part.num_blocks, 0, 0, 0
    blocks = source.blocks(size, seen=num_done * state.num_processes)
    for index, block in enumerate(blocks):
        if index % state.num_processes == state.process_index:
            own += 1
            checksum = text_checksum(block, checksum)
            if own == num_done and checksum != part.checksum:
                break
            if own > num_done:
                yield first, block, checksum
        first += len(block)
    if own < num_done or own == num_done and checksum != part.checksum:
        raise ValueError(
            f"Posts that {part.path} has results for are no longer the same in the input: undo the change, or remove "
            "the file to start over."
        )


__all__ = ["RECORD_SCHEMA", "predict_file", "predict_rows"]

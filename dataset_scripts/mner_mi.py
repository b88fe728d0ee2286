"""Convert MNER-MI or MNER-MI-Plus, as published, to Parquet.

Expects `text/MNER-MI_{train,val,test}.txt` (`text/MNER-UNI_{train,val,test}.txt` for Plus), `images/` and, for Plus,
`twitter2017_images/`. A line of text is one record, written as JSON or as a Python literal.

    python -m smcl.dataset_scripts.mner_mi --source DIR --output OUT [--plus]
"""

import ast
import json
import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .command_line import CommandParser
from .image_files import find_rivals, read_image_of
from .schema import DataError, Post, make_post, parse_json, read_lines, require_folder
from .writer import add_processes_argument, run_command, write_dataset

FILE_SPLITS = {"train": "train", "validation": "val", "test": "test"}
# Plus marks the posts and images it takes from Twitter-2017 by this prefix; the files themselves do not have it.
TWITTER2017_PREFIX = "twitter2017-"


def parse_record(line: str, where: str) -> Post:
    """Read one line of the published text. Nothing in it is ever run.

    Args:
        line (`str`): JSON or a Python literal: `{"id": ..., "text": [...], "images": [...], "label": [...]}`.
        where (`str`): File and line number, for error messages.

    Returns:
        `Post`: with `source` `"twitter2017"` for Plus's Twitter-2017 posts, else `"mner_mi"`.

    Raises:
        DataError: if the line is no such record, or its content is not as [`make_post`] wants it.
    """
    try:
        record = _parse_literal(line)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: expected a record as JSON or as a Python literal, such as "
            '{"id": 1, "text": ["Hi"], "images": [], "label": ["O"]}, got ' + f"{_shorten(line)}. Correct the line."
        )
    post_id = record.get("id")
    if isinstance(post_id, bool) or not isinstance(post_id, int | str):
        raise DataError(f"{where}: expected an 'id' that is a number or a text, got {post_id!r}. Correct the record.")
    for field in ("text", "images", "label"):
        value = record.get(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(
                f"{where}: expected '{field}' to be a list of strings, got {_shorten(repr(value))}. "
                f"Correct post {post_id}."
            )
    source = "twitter2017" if str(post_id).startswith(TWITTER2017_PREFIX) else "mner_mi"
    return make_post(str(post_id), record["text"], record["label"], record["images"], source, where)


def _parse_literal(line: str) -> Any:
    """Parse a line; `None` if it is neither JSON nor a literal. A `ValueError` names a key that stands twice."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        pass
    else:
        return parse_json(line)
    try:
        literal = ast.parse(line, mode="eval")
        record = ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if isinstance(literal.body, ast.Dict) and len(record) < len(literal.body.keys):
        raise ValueError("a key stands twice in the record. Leave one of the two out.")
    return record


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def image_path(source: Path, name: str) -> Path:
    """Find an image of the published folder.

    Args:
        source (`Path`): The published folder.
        name (`str`): The image's name in a record.

    Returns:
        `Path`: `twitter2017_images/O_538.jpg` for `"twitter2017-O_538.jpg"`, else `images/<name>`.
    """
    if name.startswith(TWITTER2017_PREFIX):
        return source / "twitter2017_images" / name.removeprefix(TWITTER2017_PREFIX)
    return source / "images" / name


def read_published_image(source: Path, name: str, rivals: Collection[str] = ()) -> tuple[str, bytes | None]:
    """Read an image of the published folder; arguments as those of [`image_path`] and [`read_image_of`]."""
    path = image_path(source, name)
    return read_image_of(path.parent, path.name, [path.name] if name in rivals else ())


def convert(
    source: str | os.PathLike, output: str | os.PathLike, plus: bool = False, processes: int = 1
) -> dict[str, Any]:
    """Convert the published folder to Parquet.

    Args:
        source (`str` or `os.PathLike`): The published folder.
        output (`str` or `os.PathLike`): The folder to write to.
        plus (`bool`, *optional*, defaults to `False`): Convert MNER-MI-Plus instead of MNER-MI.
        processes (`int`, *optional*, defaults to 1): How many processes read images.

    Returns:
        `dict`: the report, see [`write_dataset`].

    Raises:
        DataError: if a folder or file is missing, a line is no record, or a post or split is not as it must be.
    """
    source = Path(source)
    require_folder(source, "published data set", "Check --source.")
    for folder in ["images", "twitter2017_images"] if plus else ["images"]:
        require_folder(source / folder, "image folder", f"Unpack the data set's images into {source / folder}.")
    stem = "MNER-UNI" if plus else "MNER-MI"
    splits = {}
    for split, suffix in FILE_SPLITS.items():
        path = source / "text" / f"{stem}_{suffix}.txt"
        with tqdm(read_lines(path), desc=f"{split}: text", unit=" lines") as lines:
            splits[split] = [parse_record(line, where) for where, line in lines if line.strip()]
    name = "mner_mi_plus" if plus else "mner_mi"
    read = partial(read_published_image, source, rivals=find_rivals(splits))
    return write_dataset(output, name, splits, read, processes)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--source", type=Path, required=True, help="the published folder")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write Parquet files to")
    parser.add_argument("--plus", action="store_true", help="convert MNER-MI-Plus (MNER-UNI_*.txt)")
    add_processes_argument(parser)
    run_command(parser, convert, **vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()

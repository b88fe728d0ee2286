"""Convert JSON lines, or a JSON array, of posts with paths of images to Parquet.

A post has `tokens` and `ner_tags` (a name for each word), or a `text` and `spans` of characters, such as
`{"start": 0, "end": 4, "label": "PER"}`; `images` is a list of paths from the folder of images, by default that
of the file.

    python -m smcl.dataset_scripts.jsonl --train train.jsonl --test test.jsonl --images DIR --output OUT
    python -m smcl.dataset_scripts.jsonl --train train.json --columns tokens=words ner_tags=tags images=img --output OUT
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .columns import COLUMNS, FIRST_ROWS, parse_columns, refuse_image_values
from .command_line import CommandParser
from .conll import add_split_arguments, convert_tags, take_files
from .image_files import find_rivals, read_image_of
from .rows import read_post, refuse_shared_id
from .schema import DataError, Post, make_post, parse_json, read_lines, require_folder
from .spans import words_of
from .tag_schemes import scheme_name
from .writer import run_command, write_dataset

JSON_COLUMNS = (*COLUMNS, "spans")


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Read JSON lines, or the items of one JSON array.

    Args:
        path (`Path`): The file, in UTF-8, with or without a byte order mark.

    Yields:
        `tuple[str, Any]`: where it stands, and the value.

    Raises:
        DataError: if the file is missing or no JSON; names the line.
    """
    lines = [(where, line) for where, line in read_lines(path) if line.strip()]
    if lines and lines[0][1].lstrip().startswith("["):
        items = _parse("\n".join(line for _, line in lines), str(path))
        yield from ((f"{path}, item {number}", item) for number, item in enumerate(items))
        return
    for where, line in lines:
        yield where, _parse(line, where)


def _parse(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(
            f"{where}: expected a JSON object a line, or one array of them, got {ascii(text)[:80]}: {error}. Correct "
            "it."
        ) from None


def read_json_post(
    record: Any, where: str, source: str, name: str, columns: Mapping[str, str], counts: dict[str, int] | None = None
) -> Post:
    """Read one post.

    Args:
        record (`Any`): An object with `tokens` and `ner_tags`, or `text` and `spans`.
        where (`str`): Where it stands, for messages.
        source (`str`): The data set's name.
        name (`str`): Stands in for a missing id.
        columns (`Mapping[str, str]`): Of [`~columns.parse_columns`], for `JSON_COLUMNS`.
        counts (`dict[str, int]`, *optional*): Adds `cut words` to these.

    Returns:
        `Post`: with its tags as they stand.

    Raises:
        DataError: if it is not so; names what is wrong.
    """
    try:
        places = {name: place for name, place in columns.items() if name in COLUMNS}
        read = read_post(record, columns=places)
        images = [_image_name(image) for image in read["images"]]
        tags, spans = (record.get(columns.get(name, name)) for name in ("ner_tags", "spans"))
        if "text" in read or (tags is None and spans is not None):
            text = record.get(columns.get("text", "text"))
            if not isinstance(text, str) or spans is None:
                raise DataError("a `text` needs `spans` (a list, which may be empty), and `tokens` need `ner_tags`")
            words = read.get("tokens")
            tokens, tags, cut = words_of(text, spans, words)
            if words is not None and cut:
                raise DataError("`spans` begin or end within `tokens`. They count characters of `text`, not words")
            if counts is not None:
                counts["cut words"] = counts.get("cut words", 0) + cut
        else:
            tokens = read["tokens"]
            _refuse_other_spans(record.get(columns.get("text", "text")), tokens, tags, spans)
        if record.get("answer") in ("reject", "ignore"):
            raise DataError(f"its `answer` is {record['answer']!r}. Leave posts out that nobody has accepted")
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise DataError(f"`ner_tags` must be a list with the name of each word's tag, got {ascii(tags)[:80]}")
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return make_post(read["id"] or name, tokens, tags, images, source, where, str)


def _refuse_other_spans(text: Any, tokens: list[str], tags: Any, spans: Any) -> None:
    """Refuse spans that tell of other entities than the tags beside them; what are no spans is something else."""
    try:
        words, by_spans, _ = words_of(text if isinstance(text, str) else " ".join(tokens), spans, tokens)
    except ValueError:
        return
    said = [isinstance(tag, str) and tag.strip() not in ("O", "o") for tag in tags] if isinstance(tags, list) else None
    if spans and (words, [tag != "O" for tag in by_spans]) != (tokens, said):
        raise DataError("`spans` mark other words than `ner_tags`. Leave one of the two out")


def _image_name(image: Any) -> str:
    if isinstance(image, dict):
        image = image.get("path")
    if not isinstance(image, str) or image.lower().startswith(("http://", "https://", "data:")):
        raise DataError(
            f"`images` must be paths from the folder of images, got {ascii(image)[:80]}. Download images first."
        )
    return image.removeprefix("./")


def convert(
    output: str | os.PathLike,
    files: Mapping[str, str | os.PathLike],
    images: str | os.PathLike | None = None,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    tag_scheme: str = "bio2",
    name: str | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Convert JSON files to Parquet.

    Args:
        output (`str` or `os.PathLike`): The folder to write to.
        files (`Mapping[str, str or os.PathLike]`): The file of each split.
        images (`str` or `os.PathLike`, *optional*): The folder that paths of images start at; by default the file's.
        columns (`Mapping[str, str]` or `Sequence[str]`, *optional*): As of [`~columns.parse_columns`], for keys that
            are called otherwise; `spans` too.
        tag_scheme (`str`, *optional*, defaults to `"bio2"`): What `ner_tags` are converted from.
        name (`str`, *optional*): The data set's name; by default that of the first file's folder.
        processes (`int`, *optional*, defaults to 1): How many processes read images.

    Returns:
        `dict`: the report, see [`write_dataset`].

    Raises:
        DataError: if a folder or file is missing, or a line, a tag, a post or a split is not as it must be.
    """
    if not files:
        raise DataError("Expected the file of at least one split, got none. Give --train, --validation or --test.")
    columns, scheme = parse_columns(columns, JSON_COLUMNS), scheme_name(tag_scheme)
    folders = {Path(path).resolve().parent for path in files.values()}
    if images is None and len(folders) > 1:
        raise DataError(f"The files lie in {len(folders)} folders. Give the folder of images as --images.")
    folder = Path(images) if images is not None else next(iter(folders))
    require_folder(folder, "image folder", "Check --images.")
    name = name or Path(next(iter(files.values()))).resolve().parent.name or "data"
    splits, counts = read_splits(files, name, columns)
    splits, labels = convert_tags(splits, scheme)
    if counts.get("cut words"):
        tqdm.write(f"{counts['cut words']} words were cut where an entity begins or ends within one.")
    return write_dataset(
        output, name, splits, partial(read_image_of, folder, rivals=find_rivals(splits)), processes, labels
    )


def read_splits(
    files: Mapping[str, str | os.PathLike], source: str, columns: Mapping[str, str]
) -> tuple[dict[str, list[Post]], dict[str, int]]:
    """Read the posts of all files; arguments as of [`read_json_post`]. Gives them by split, and what it counted."""
    splits, counts, kinds = {}, {}, {}
    for split, path in files.items():
        first, posts = [], []
        with tqdm(read_records(Path(path)), desc=f"{split}: text", unit=" posts") as records:
            for number, (where, record) in enumerate(records):
                # As in `conll`: the numbers alone would be the ids of posts of other splits, too.
                name = f"{split}-{number + 1}"
                posts.append(read_json_post(record, where, source, name, columns, counts))
                refuse_shared_id(posts[-1].id, record.get(columns.get("id", "id")), kinds, where)
                first += [record] if number < FIRST_ROWS else []
        if not any(post.image_names for post in posts):
            refuse_image_values(first, (*JSON_COLUMNS, *columns.values()), str(path))
        splits[split] = posts
    return splits, counts


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    add_split_arguments(parser, "the JSON file")
    parser.add_argument("--columns", nargs="+", help="OURS=THEIRS pairs, such as tokens=words images=img spans=label")
    options = vars(parser.parse_args(argv))
    run_command(parser, convert, files=take_files(options), **options)


if __name__ == "__main__":
    main()

"""The one schema of all sources, and the checks every post goes through."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, Image, List, Value

ENTITY_TYPES = ["PER", "LOC", "ORG", "MISC"]
LABELS = ["O"] + [f"{prefix}-{entity_type}" for entity_type in ENTITY_TYPES for prefix in "BI"]
SPLITS = ["train", "validation", "test"]
# Twitter-2015 says OTHER and MNER-MI says MIS for the same type.
TYPE_ALIASES = {"OTHER": "MISC", "MIS": "MISC"}
FEATURES = Features(
    {
        "id": Value("string"),
        "tokens": List(Value("string")),
        "ner_tags": List(ClassLabel(names=LABELS)),
        "images": List(Image()),
        "source": Value("string"),
    }
)


class DataError(ValueError):
    """A data set is not as it must be; the message says where, what was expected, what came and how to fix it."""


@dataclass(frozen=True)
class Post:
    """One checked post. Build it with [`make_post`].

    Args:
        id (`str`): The post's id as published.
        tokens (`list[str]`): Its words, untouched.
        tags (`list[str]`): One of `LABELS` for each word.
        image_names (`list[str]`): File names of its images, in post order.
        source (`str`): The data set the post comes from.
        published_tags (`list[str]`): The tags before [`normalise_tag`].
    """

    id: str
    tokens: list[str]
    tags: list[str]
    image_names: list[str]
    source: str
    published_tags: list[str]


def normalise_tag(tag: str) -> str:
    """Map a published tag to one of `LABELS`: the types `OTHER` and `MIS` become `MISC`.

    Args:
        tag (`str`): A BIO2 tag such as `"B-OTHER"`.

    Returns:
        `str`: the tag's name in `LABELS`.

    Raises:
        DataError: if the tag is unknown.
    """
    prefix, dash, entity_type = tag.partition("-")
    name = prefix + dash + TYPE_ALIASES.get(entity_type, entity_type)
    if name not in LABELS:
        types = ", ".join([*ENTITY_TYPES, *TYPE_ALIASES])
        raise DataError(
            f"unknown tag {tag!r}. Expected O, or B- or I- with one of {types}. Correct the tag, or map its type in "
            "TYPE_ALIASES of dataset_scripts/schema.py."
        )
    return name


def make_post(
    post_id: str, tokens: list[str], tags: list[str], image_names: list[str], source: str, where: str
) -> Post:
    """Check one post and bring its tags into the schema.

    Args:
        post_id (`str`): The post's id.
        tokens (`list[str]`): Its words; empty words are kept.
        tags (`list[str]`): A published tag for each word.
        image_names (`list[str]`): Plain file names of its images.
        source (`str`): The data set the post comes from.
        where (`str`): File and line number, for error messages.

    Returns:
        `Post`.

    Raises:
        DataError: if the id is empty, there is no word, words and tags differ in number, a tag is unknown, a text is
            no valid unicode, or an image name is not a plain file name.
    """
    if not post_id:
        raise DataError(f"{where}: the post's id is empty. Expected a number or a text. Give every post an id.")
    if not tokens:
        raise DataError(f"{where}: post {post_id} has no words. Expected at least one. Add its words or remove it.")
    if len(tokens) != len(tags):
        raise DataError(
            f"{where}: post {post_id} has {len(tokens)} words and {len(tags)} tags. Expected one tag for each word. "
            "Add the missing ones or remove the surplus."
        )
    for text in [post_id, *tokens, *image_names]:
        _check_unicode(text, where)
    for name in image_names:
        # A name with a folder in it could reach any file of the machine.
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise DataError(
                f"{where}: post {post_id} has the image name {name!r}. Expected a file name without a folder. "
                "Put the image into the image folder and give its name only."
            )
    try:
        labels = [normalise_tag(tag) for tag in tags]
    except DataError as error:
        raise DataError(f"{where}: post {post_id} has an {error}") from None
    return Post(post_id, tokens, labels, image_names, source, tags)


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: {text!r} holds half of a surrogate pair. Expected valid unicode. Write the character itself."
        ) from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    r"""Yield the lines of a UTF-8 text file, with where they stand.

    Only `"\n"` (or `"\r\n"`) ends a line: tweets hold other characters that Python's `splitlines` takes for line ends.

    Args:
        path (`Path`): The file.

    Yields:
        `tuple[str, str]`: "file:line number" and the line without its end.

    Raises:
        DataError: if the file does not exist or is not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}. Expected the text of a split there. Check --source.")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                # A byte order mark, if any, is no part of the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: expected UTF-8, got {error}. Save the file as UTF-8.") from None
            yield where, text.removesuffix("\n").removesuffix("\r")


def require_folder(path: Path, what: str, fix: str) -> None:
    """Refuse a folder that does not exist.

    Args:
        path (`Path`): The folder.
        what (`str`): What it is, for the message.
        fix (`str`): What the user can do about it.

    Raises:
        DataError: if there is no such folder.
    """
    if not path.is_dir():
        came = "a file" if path.exists() else "nothing"
        raise DataError(f"Expected the {what} at {path}, found {came} there. {fix}")


def write_json(value: Any, path: Path) -> None:
    """Write a value as indented UTF-8 JSON.

    Args:
        value (`Any`): What to write.
        path (`Path`): The file.
    """
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

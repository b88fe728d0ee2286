"""The one schema of all sources, and the checks every post goes through."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, Image, List, Value

ENTITY_TYPES = ["PER", "LOC", "ORG", "MISC"]
LABELS = ["O"] + [f"{prefix}-{entity_type}" for entity_type in ENTITY_TYPES for prefix in "BI"]
# Twitter-2015 says OTHER and MNER-MI says MIS for the same type.
TYPE_ALIASES = {"OTHER": "MISC", "MIS": "MISC"}


def features_of(labels: list[str]) -> Features:
    """Return the schema with some labels.

    Args:
        labels (`list[str]`): `"O"`, and `"B-X"` and `"I-X"` of each type.

    Returns:
        `Features`.
    """
    return Features(
        {
            "id": Value("string"),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=labels)),
            "images": List(Image()),
            "source": Value("string"),
        }
    )


FEATURES = features_of(LABELS)


class DataError(ValueError):
    """A data set is not as it must be; the message says where, what was expected, what came and how to fix it."""


@dataclass(frozen=True)
class Post:
    """One checked post. Build it with [`make_post`].

    Args:
        id (`str`): The post's id as published.
        tokens (`list[str]`): Its words, untouched.
        tags (`list[str]`): A tag of BIO2 for each word.
        image_names (`list[str]`): File names of its images, in post order.
        source (`str`): The data set the post comes from.
        published_tags (`list[str]`): The tags before they were mapped or converted.
    """

    id: str
    tokens: list[str]
    tags: list[str]
    image_names: list[str]
    source: str
    published_tags: list[str]


def normalise_tag(tag: str, labels: list[str] = LABELS) -> str:
    """Map a published tag to a label: the types `OTHER` and `MIS` become `MISC`.

    Args:
        tag (`str`): A BIO2 tag such as `"B-OTHER"`.
        labels (`list[str]`, *optional*, defaults to `LABELS`): The labels that there are.

    Returns:
        `str`: one of the labels.

    Raises:
        DataError: if the tag is unknown.
    """
    prefix, dash, entity_type = tag.partition("-")
    name = tag if tag in labels else prefix + dash + TYPE_ALIASES.get(entity_type, entity_type)
    if name not in labels:
        types = [label[2:] for label in labels if label.startswith("B-")]
        aliases = [alias for alias, entity_type in TYPE_ALIASES.items() if entity_type in types]
        raise DataError(
            f"unknown tag {tag!r}. Expected O, or B- or I- with one of {', '.join([*types, *aliases])}. Correct the "
            "tag, or convert the data with `python -m smcl.dataset_scripts.conll`, which takes any types."
        )
    return name


def make_post(
    post_id: str,
    tokens: list[str],
    tags: list[str],
    image_names: list[str],
    source: str,
    where: str,
    normalise: Callable[[str], str] = normalise_tag,
) -> Post:
    """Check one post and bring its tags into the schema.

    Args:
        post_id (`str`): The post's id.
        tokens (`list[str]`): Its words; empty words are kept.
        tags (`list[str]`): A published tag for each word.
        image_names (`list[str]`): File names of its images, below the folder of images.
        source (`str`): The data set the post comes from.
        where (`str`): File and line number, for error messages.
        normalise (`Callable`, *optional*): Gives the label of a published tag, or raises a `DataError`; by default
            [`normalise_tag`].

    Returns:
        `Post`.

    Raises:
        DataError: if the id is empty, there is no word, words and tags differ in number, a tag is unknown, a text is
            no valid unicode, or an image name leads out of its folder.
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
        # Such a name could reach any file of the machine.
        if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise DataError(
                f"{where}: post {post_id} has the image name {name!r}. Expected the name of a file in the folder of "
                "images, or below it. Put the image there and give its name from there on."
            )
    try:
        labels = [normalise(tag) for tag in tags]
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
        raise DataError(f"There is no file {path}. Check the path.")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                # A byte order mark, if any, is no part of the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: expected UTF-8, got {error}. Save the file as UTF-8.") from None
            yield where, text.removesuffix("\n").removesuffix("\r")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON in which no object has a key twice: which of the values is meant, nobody knows.

    Args:
        text (`str` or `bytes`): The JSON, in UTF-8, perhaps with a byte order mark.

    Returns:
        What it holds.

    Raises:
        ValueError: if it is no JSON, too deep, or has a key twice; names it.
    """
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {ascii(twice)[:80]} stands twice in one object. Leave one of the two out.")
    return values


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

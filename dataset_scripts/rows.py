"""One post as people write it, in a row of a file or of a data set that is not in the schema, and what it means."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from transformers.utils import logging

from .columns import COLUMNS, find_columns, has_image_name
from .schema import DataError

logger = logging.get_logger(__name__)


def read_post(
    row: Any,
    *,
    columns: Mapping[str, str] | None = None,
    reads_images: bool = True,
    ignore_images: bool = False,
) -> dict[str, Any]:
    """Read a row: a JSON object, a row of Parquet or of Arrow, a record of pandas.

    Args:
        row (`Any`): A mapping with `tokens` (list of words) or `text` (string or list of words), perhaps `id` and
            `images` (one image or a list of them: paths, URLs, bytes, PIL images, or as `datasets` stores them); what
            else it has is ignored.
        columns (`Mapping[str, str]`, *optional*): Of `parse_columns`. A row may lack what is renamed.
        reads_images (`bool`, *optional*, defaults to `True`): Whether the model reads images.
        ignore_images (`bool`, *optional*, defaults to `False`): Whether they are to be left away all the same.

    Returns:
        `dict`: `id` (`str` or `None`), `tokens` (`list[str]`) or `text` (`str`), and `images` (`list`), which a row
        without any has too. `tokens` that are empty beside a `text` are taken for missing.

    Raises:
        ValueError: if the row can't be read, or has what looks like images that would not be read.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"Expected an object with `text` or `tokens`, got {ascii(row)[:80]}.")
    there = {ours: theirs for ours, theirs in (columns or {}).items() if theirs in row}
    found = {ours: row[theirs] for ours, theirs in find_columns(row, there, "It").items()}
    for ours, theirs in (columns or {}).items():
        if ours not in there and ours in found and ours != theirs:
            raise DataError(f"It has {ours!r} but no {theirs!r}, which `--columns {ours}={theirs}` names.")
    post = {"id": read_id(found.get("id")), **_read_words(found, row), "images": []}
    if reads_images and not ignore_images:
        post["images"] = read_images(found.get("images"))
        # Where some posts have the key, tables of them fill it with null in the others.
        if _plain(found.get("images")) is None:
            _refuse_unread(row, found)
    return post


def read_id(value: Any) -> str | None:
    """Read an id, a text or a whole number, which may be missing; a `ValueError` says so if it is neither."""
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"`id` must be a string or a number, got {ascii(value)[:80]}.")
    return check_unicode(str(value), "`id`")


def find_taken_numbers(read_ids: Callable[[], Iterable[str | None]]) -> frozenset[int]:
    """Find the rows without an id whose number, which would stand in for it, is the id of another row.

    Args:
        read_ids (`Callable`): Gives the id of each row in order, `None` of one without; called a second time if only
            some have one, so that no more than a byte a row is held.

    Returns:
        `frozenset[int]`: their numbers, from 0.
    """
    marks, found = bytearray(), set()
    for post_id in read_ids():
        found.add(post_id is None)
        marks.append(0)
    if len(found) < 2:
        return frozenset()
    for row, post_id in enumerate(read_ids()):
        number = row if post_id is None else _number_of(post_id)
        if number is not None and number < len(marks):
            marks[number] |= 1 if post_id is None else 2
    return frozenset(row for row, mark in enumerate(marks) if mark == 3)


def _number_of(post_id: str) -> int | None:
    """Return the number that an id is written as, if the number of a row is written so."""
    is_number = post_id.isascii() and post_id.isdigit() and len(post_id) < 20
    return int(post_id) if is_number and str(int(post_id)) == post_id else None


def refuse_shared_id(post_id: str, given: Any, kinds: dict[str, bool], where: str) -> None:
    """Refuse a post whose id was given while that of another post stands in for a missing one, or the other way round.

    Args:
        post_id (`str`): The post's id.
        given (`Any`): The id that was given, if any.
        kinds (`dict[str, bool]`): For the ids so far whether they were given; this one is added.
        where (`str`): Where the post stands, for the message.

    Raises:
        DataError: if the id of one post would be that of another.
    """
    is_given = _plain(given) not in (None, "")
    if kinds.setdefault(post_id, is_given) != is_given:
        lacking, other = ("another post", "this one") if is_given else ("this post", "another one")
        raise DataError(
            f"{where}: {lacking} has no id of its own, and {post_id!r}, which would stand in for it, is that of "
            f"{other}. Give every post an id."
        )


def name_row(number: int, taken: Collection[int] = ()) -> str:
    """Return what stands in for a missing id: the number of the row, or `row N` where another row has it as its id."""
    return f"row {number}" if number in taken else str(number)


def warn_of_taken_numbers(taken: Collection[int], where: str) -> None:
    """Say which rows are called otherwise than by their number."""
    if taken:
        names = ", ".join(repr(name_row(number, taken)) for number in sorted(taken)[:5])
        logger.warning(
            f"{where}: {len(taken)} posts have no id, and their numbers are the ids of others. They are called "
            f"{names}{', ...' if len(taken) > 5 else ''}."
        )


def _read_words(found: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    tokens, text = _plain(found.get("tokens")), _plain(found.get("text"))
    if tokens is None and text is None:
        raise DataError(f"Expected `text` or `tokens`, got the keys {ascii(sorted(map(str, row)))[:200]}.")
    if isinstance(tokens, str):
        raise DataError(
            f"`tokens` must be a list of words, got the text {ascii(tokens)[:80]}. If it is a list written as text, "
            "write it as a list; if it is a sentence, call it `text`."
        )
    if tokens is None or (not tokens and text):
        if isinstance(text, str):
            return {"text": check_unicode(text, "`text`")}
        return {"tokens": _read_list("text", text)}
    return {"tokens": _read_list("tokens", tokens)}


def _read_list(name: str, words: Any) -> list[str]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        wrong = next((word for word in words if not isinstance(word, str)), None) if isinstance(words, list) else words
        expected = "a string or a list of words" if name == "text" else "a list of words, each a string"
        raise DataError(f"`{name}` must be {expected}, got {ascii(wrong)[:80]}. Correct or remove the post.")
    return [check_unicode(word, f"`{name}`") for word in words]


def read_images(images: Any) -> list[Any]:
    """Read what stands for the images of a post.

    Args:
        images (`Any`): A list of images, one image, or `None`.

    Returns:
        `list`: the images, as they are.

    Raises:
        ValueError: if it is something else, or one of a list is missing.
    """
    images = _plain(images)
    if images is None:
        return []
    if isinstance(images, str) and images[:1] == "[" and images[-1:] == "]":
        raise DataError(
            f"`images` must be a list of paths or URLs, got the text {ascii(images)[:80]}. Write it as a list."
        )
    if isinstance(images, bool | int | float) or images == "" or (isinstance(images, dict) and not _is_file(images)):
        raise DataError(
            f"`images` must be a list of paths or URLs, got {ascii(images)[:80]}. Where a post has none, write null or "
            "an empty list."
        )
    if not isinstance(images, list):
        return [] if _is_empty_file(images) else [images]
    for number, image in enumerate(images):
        if image is None or image == "" or _is_empty_file(image):
            raise DataError(f"Image {number} of `images` is empty. Leave it out of the list.")
        if isinstance(image, list | bool | int | float):
            raise DataError(f"Image {number} of `images` must be a path, a URL or an image, got {ascii(image)[:80]}.")
    return images


def _is_file(image: Any) -> bool:
    return isinstance(image, dict) and bool(image) and image.keys() <= {"bytes", "path"}


def _is_empty_file(image: Any) -> bool:
    return _is_file(image) and image.get("bytes") is None and not image.get("path")


def _refuse_unread(row: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if isinstance(name, str) and name not in COLUMNS and has_image_name(name) and _could_be_images(value):
            raise DataError(
                f"It has no `images`, but {name!r}, and the model reads images. Give `--columns images={name}`. To "
                "go on without them, take it away; run_ner_multiimage.py also has `--ignore_images`."
            )


def _could_be_images(value: Any) -> bool:
    value = _plain(value)
    if isinstance(value, str | bytes | dict | list):
        return len(value) > 0
    # A PIL image, or something that is about images.
    return hasattr(value, "tobytes")


def check_unicode(text: str, name: str) -> str:
    """Return a text that is valid unicode; a `ValueError` names it if it holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{name} holds half of a surrogate pair ({error}). Write the character itself.") from None
    return text


def _plain(value: Any) -> Any:
    """Return lists and numbers of NumPy, Arrow and pandas as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    # Missing values of pandas.
    is_missing = type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    return None if is_missing else value

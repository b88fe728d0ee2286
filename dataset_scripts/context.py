"""The columns of extra inputs that some systems read beside words and images, and the check of their values."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Features, List, Value

from .schema import DataError

BOX = List(Value("float32"), length=4)
CONTEXT_FEATURES = Features(
    {
        "objects": List(List({"label": Value("string"), "score": Value("float32"), "box": BOX})),
        "regions": List(List({"query": Value("string"), "score": Value("float32"), "box": BOX})),
        "captions": List(List(Value("string"))),
        "image_text": List(List(Value("string"))),
        "knowledge": Value("string"),
    }
)
# All but `knowledge`: an entry for each image of the post.
IMAGE_COLUMNS = ("objects", "regions", "captions", "image_text")
# What names the thing inside a box.
BOX_NAMES = {"objects": "label", "regions": "query"}
WHOLE_IMAGE = [0.0, 0.0, 1.0, 1.0]


def check_context(row: Mapping[str, Any], column: str) -> None:
    """Check a post's value of one column of context.

    `None` for an image, or for `knowledge`, means that it was not computed; `[]` or `""` that nothing was found.

    Args:
        row (`Mapping`): The post, with the column, and `images` where the column runs beside them.
        column (`str`): A name in `CONTEXT_FEATURES`.

    Raises:
        DataError: if the column is missing, has another number of entries than the post has images, holds a value of
            another kind, a score that is no number, or a box that is not (left, top, right, bottom) as fractions of the
            upright image with left < right and top < bottom.
    """
    where = f"Post with the id {row.get('id')!r}, column `{column}`"
    if column not in row:
        raise DataError(f"{where}: expected it, got {sorted(row)}. Make it by `python -m smcl.dataset_scripts.enrich`.")
    value = row[column]
    if column not in IMAGE_COLUMNS:
        if value is not None and not _is_text(value):
            raise DataError(f"{where}: expected a text, or null where there is none, got {_shorten(value)}.")
        return
    num_images = len(row.get("images") or [])
    if not isinstance(value, list) or len(value) != num_images:
        came = f"{len(value)} entries" if isinstance(value, list) else _shorten(value)
        raise DataError(
            f"{where}: expected an entry for each of the post's {num_images} images, got {came}. Give `null` for an "
            "image that was not looked at, and `[]` for one where nothing was found."
        )
    for entry in value:
        if entry is not None:
            check_entry(column, entry, where)


def check_entry(column: str, entry: Any, where: str) -> None:
    """Check what a column says of one image.

    Args:
        column (`str`): A name in `IMAGE_COLUMNS`.
        entry (`Any`): Its value.
        where (`str`): What the message begins with.

    Raises:
        DataError: as [`check_context`] does.
    """
    if not isinstance(entry, list):
        raise DataError(f"{where}: expected a list for an image, got {_shorten(entry)}.")
    for item in entry:
        if column not in BOX_NAMES:
            if not _is_text(item):
                raise DataError(f"{where}: expected texts, got {_shorten(item)}.")
            continue
        name = BOX_NAMES[column]
        if not isinstance(item, dict) or not _is_text(item.get(name)):
            raise DataError(
                f'{where}: expected {{"{name}": a text, "score": a number, "box": four numbers}}, got {_shorten(item)}.'
            )
        if not _is_number(item.get("score")):
            raise DataError(f"{where}: expected a number as the score of {item[name]!r}, got {item.get('score')!r}.")
        if not is_box(item.get("box")):
            raise DataError(
                f"{where}: expected the box of {item[name]!r} as (left, top, right, bottom) in fractions of the image "
                f"turned upright, 0 <= left < right <= 1 and 0 <= top < bottom <= 1, got {_shorten(item.get('box'))}. "
                "Divide pixels by the image's width and height."
            )


def column_digest(values: Iterable[Any]) -> str:
    """Identify a column of one split by its content.

    Args:
        values (`Iterable`): Its value of each post, as it is stored.

    Returns:
        `str`: 64 hexadecimal digits, of the SHA-256 over a line of JSON for each.
    """
    digest = hashlib.sha256()
    for value in values:
        digest.update((json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8"))
    return digest.hexdigest()


def is_box(box: Any) -> bool:
    """Tell whether a value is (left, top, right, bottom) as fractions, of an area above 0.

    Args:
        box (`Any`): A value.

    Returns:
        `bool`.
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_number, box)):
        return False
    left, top, right, bottom = box
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def clip_box(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Cut a box that reaches over the image's edges, as detectors give them, and round it.

    Args:
        left (`float`), top (`float`), right (`float`), bottom (`float`): Fractions of the image's width and height.

    Returns:
        `list[float]`: the box, of no area if nothing of it lies in the image.
    """
    return [round(min(max(side, 0.0), 1.0), 6) for side in (left, top, right, bottom)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    """Tell whether a value is a text that UTF-8 can hold: no half of a surrogate pair."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode("utf-8") == value


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

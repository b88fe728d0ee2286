"""What posts in the schema must hold, row by row: hundreds are checked at once, without reading an image."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers.utils import logging

from .report import count_illegal_transitions
from .schema import DataError
from .tag_schemes import warn_of_stray_tags

logger = logging.get_logger(__name__)

# The tag of a word that nobody tagged: it stays out of losses, scores and counts.
NOT_TAGGED = -100
BATCH_SIZE = 1000


def check_ids(tags: Iterable[int], labels: Sequence[str]) -> None:
    """Refuse numbers of tags that are no label and not -100; a `ValueError` names the first one."""
    for tag in tags:
        if tag != NOT_TAGGED and not 0 <= tag < len(labels):
            raise DataError(
                f"`ner_tags` hold {tag}, which is no label: expected 0 to {len(labels) - 1} for {list(labels)}, or "
                "-100 for a word that is not tagged."
            )


def check_tags(tokens: list[str], tags: list[int], labels: Sequence[str]) -> None:
    """Refuse a post with another number of tags than words, or with tags that are none."""
    if len(tokens) != len(tags):
        raise DataError(f"it has {len(tokens)} words and {len(tags)} tags. Expected one tag for each word.")
    check_ids(tags, labels)


def check_rows(posts: Dataset, where: str, labels: list[str] | None, count: bool = True) -> None:
    """Check all posts in the schema, without reading an image, and with `count` say how many tags continue nothing."""
    lost, places, first, is_tagged = 0, [], 0, False
    light = posts.with_format("arrow").select_columns([name for name in posts.column_names if name != "source"])
    for rows in light.iter(BATCH_SIZE):
        _check_batch(rows, where, first, labels)
        if labels is not None and count:
            for row, tags in enumerate(rows["ner_tags"].to_pylist()):
                is_tagged = is_tagged or any(tag != NOT_TAGGED for tag in tags)
                illegal = count_illegal_transitions([labels[tag] for tag in tags if tag != NOT_TAGGED])
                if illegal:
                    lost += illegal
                    places.append(_name_of(rows, row, first))
        first += rows.num_rows
    if first and labels is not None and count and not is_tagged:
        logger.warning(
            f"{where}: no word has a tag, so that its scores are 0 and say nothing. To tag posts by a model, give them "
            "as `--input`, with `--output`."
        )
    warn_of_stray_tags(lost, places, where)


def _check_batch(rows: pa.Table, where: str, first: int, labels: list[str] | None) -> None:
    """Check what hundreds of posts hold at once, and look closer only where something is wrong."""
    faults = []
    tokens, text = "tokens" in rows.column_names, "text" in rows.column_names and labels is None
    if tokens and (rows["tokens"].null_count or flat(rows["tokens"]).null_count):
        faults.append(("`tokens` hold a missing word, or are missing", lambda row: _has_gap(rows["tokens"][row], text)))
    if "images" in rows.column_names:
        _check_images(rows, where, first)
    if labels is not None:
        tags = rows["ner_tags"]
        if tags.null_count or flat(tags).null_count:
            faults.append(("`ner_tags` hold a missing tag, or are missing", lambda row: _has_gap(tags[row], False)))
        ids = flat(tags).drop_null().to_numpy()
        if not faults and (
            not np.array_equal(_lengths(rows["tokens"]), _lengths(tags))
            or ((ids != NOT_TAGGED) & ((ids < 0) | (ids >= len(labels)))).any()
        ):
            faults.append((None, lambda row: True))
    for message, is_wrong in faults:
        for row in range(rows.num_rows):
            if not is_wrong(row):
                continue
            name = f"{where}, {_name_of(rows, row, first)}"
            if message is not None:
                raise DataError(f"{name}: {message}. Correct or remove the post.")
            try:
                check_tags(rows["tokens"][row].as_py(), tags[row].as_py(), labels)
            except ValueError as error:
                raise DataError(f"{name}: {error}") from None
    if labels is not None and tokens and "text" in rows.column_names:
        for row in np.flatnonzero(_lengths(rows["tokens"]) == 0):
            if rows["text"][int(row)].as_py():
                raise DataError(
                    f"{where}, {_name_of(rows, int(row), first)}: `tokens` are empty beside a text. Tags belong to "
                    "words: give them."
                )


def _check_images(rows: pa.Table, where: str, first: int) -> None:
    """Refuse lists of images with one that is missing."""
    images = flat(rows["images"])
    data, path = images.field("bytes"), images.field("path")
    blank = pc.fill_null(pc.equal(path, ""), True)
    if not images.null_count and not pc.any(pc.and_(data.is_null(), blank)).as_py():
        return
    for row in range(rows.num_rows):
        images = rows["images"][row]
        for number in range(len(images) if images.is_valid else 0):
            image = images[number]
            if not image.is_valid or not (image["bytes"].is_valid or image["path"].as_py()):
                raise DataError(
                    f"{where}, {_name_of(rows, row, first)}: Image {number} of `images` is empty. Leave it out of the "
                    "list."
                )


def _has_gap(items: Any, may_be_missing: bool) -> bool:
    return None in items.as_py() if items.is_valid else not may_be_missing


def _name_of(rows: pa.Table, row: int, first: int) -> str:
    return post_name(rows["id"][row].as_py() if "id" in rows.column_names else None, first + row)


def flat(column: pa.ChunkedArray) -> pa.Array:
    """Return what the lists of a column hold, one after the other."""
    return pa.concat_arrays([chunk.flatten() for chunk in column.chunks]) if column.num_chunks else pa.array([])


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().value_lengths().fill_null(0).to_numpy(False)


def post_name(post_id: Any, number: int) -> str:
    """Name a post in a message."""
    return f"row {number}" if post_id is None else f"post {str(post_id)[:80]!r}"

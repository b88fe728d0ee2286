"""The one gate that every data set passes before a model is built: what can be read is brought into the schema.

Training, evaluation, prediction, Ray, the trainer and the dry run ask here; nothing else has an opinion about columns.
"""

import copy
import os
import re
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    LargeList,
    List,
    Value,
)
from datasets.exceptions import DatasetsError
from transformers.utils import logging

from ..images_smcl import is_data_uri
from .columns import (
    COLUMNS,
    FIRST_ROWS,
    check_features,
    check_labels,
    has_value,
    is_binary,
    is_string,
    item_of,
    refuse_image_values,
    refuse_unread_images,
)
from .context import CONTEXT_FEATURES
from .label_files import refuse_other_labels
from .row_checks import BATCH_SIZE, NOT_TAGGED, check_ids, check_rows, check_tags, flat, post_name
from .rows import find_taken_numbers, name_row, read_images, read_post, warn_of_taken_numbers
from .schema import DataError
from .tag_schemes import bio2_labels, read_spelling, scheme_name, to_bio2, warn_of_like_types

logger = logging.get_logger(__name__)

_URL = re.compile("[a-z][a-z0-9+.-]*://", re.IGNORECASE)
Posts = Dataset | IterableDataset
# Posts whose I- tags that continue nothing were counted and said: a trainer asks again about what was loaded.
_counted: weakref.WeakSet[Posts] = weakref.WeakSet()
PostsDict = DatasetDict | IterableDatasetDict


def prepare_posts(
    posts: Posts | PostsDict,
    *,
    where: str = "the data set",
    columns: Mapping[str, str] | None = None,
    tag_scheme: str | None = None,
    reads_images: bool = True,
    ignore_images: bool = False,
    needs_tags: bool = True,
    labels: Sequence[str] | None = None,
    folder: str | os.PathLike | None = None,
    context: Sequence[str] = (),
) -> Posts | PostsDict:
    """Check posts and bring them into the schema.

    Of a `Dataset` every row is checked, without decoding an image; of an `IterableDataset` its columns, and each row
    when it is read.

    Args:
        posts (`Dataset`, `IterableDataset`, `DatasetDict` or `IterableDatasetDict`): The posts.
        where (`str`, *optional*): What they are, for messages.
        columns (`Mapping[str, str]`, *optional*): Of [`~columns.parse_columns`].
        tag_scheme (`str`, *optional*): What the tags are converted from; see [`~tag_schemes`]. Without it, they must be
            in BIO2.
        reads_images (`bool`, *optional*, defaults to `True`): Whether the model reads images.
        ignore_images (`bool`, *optional*, defaults to `False`): Whether they are to be left away all the same.
        needs_tags (`bool`, *optional*, defaults to `True`): Whether there must be gold tags.
        labels (`Sequence[str]`, *optional*): Those of a saved model. Tags given by their names get its order, and so do
            class labels, which may be fewer or in another order; that they were is said.
        folder (`str` or `os.PathLike`, *optional*): The folder that relative paths of images start at; by default the
            one that the process runs in.
        context (`Sequence[str]`, *optional*): Columns of context to keep, where they are.

    Returns:
        As `posts`, with the columns `id`, `tokens`, `ner_tags` (if they are needed), `images` (if there are any, and
        the model reads them) and `source` (if it is there) of the schema, and those of context as they are. A missing
        id is the number of the row; if another post of a `Dataset` has that one as its id, it is `row N`, and said.
        Images are given as files, `{"bytes": ..., "path": ...}`: `datasets` would decode images of any size, and
        does not say whose it can't decode. I- tags that continue nothing are counted and said, but not of a stream.

    Raises:
        ValueError: names the split, the column, the post, what was expected, what was found, and what mends it.
    """
    scheme = None if tag_scheme is None else scheme_name(tag_scheme)
    several = isinstance(posts, dict)
    splits = {f"Split {split!r} of {where}": part for split, part in posts.items()} if several else {where: posts}
    options = {"columns": columns, "reads_images": reads_images, "ignore_images": ignore_images}
    found, uncounted = {}, set()
    for place, part in splits.items():
        if not isinstance(part, Dataset) or part not in _counted:
            uncounted.add(place)
        splits[place] = part = _without_format(part, place)
        found[place] = check_features(part.features, where=place, needs_tags=needs_tags, **options)
        if reads_images and not ignore_images:
            _refuse_images_by_other_names(part, found[place], place)
        found[place] |= {name: name for name in context if name in part.features}
    names, spelling = _find_labels(splits, found, scheme, labels) if needs_tags else (None, None)
    conversion = None if spelling is None else (scheme, spelling)
    prepared = [
        _prepare(part, place, found[place], names, conversion, folder, place in uncounted)
        for place, part in splits.items()
    ]
    _counted.update(prepared)
    return type(posts)(zip(posts, prepared, strict=True)) if several else prepared[0]


def _without_format(posts: Posts, where: str) -> Posts:
    """Return posts as plain rows whose features are known."""
    if not isinstance(posts, Dataset | IterableDataset):
        raise DataError(
            f"{where} must be a `Dataset` or `IterableDataset` of the library datasets, got {type(posts).__name__}. "
            "Build one by `Dataset.from_list` or `load_dataset`."
        )
    if isinstance(posts, Dataset) and posts.format["type"] == "custom":
        raise DataError(
            f"{where} has a transform (`set_transform`), whose columns can't be checked. Apply it by `map`, or take it "
            "away by `reset_format()`."
        )
    posts = posts.with_format(None)
    if posts.features is None:
        try:
            posts = posts._resolve_features()
        except StopIteration:
            # There is not even one post to take them from.
            pass
        except (DatasetsError, pa.ArrowException) as error:
            raise DataError(
                f"{where}: `datasets` can't tell the types of its columns: {error}. Give all posts values of the same "
                "types."
            ) from error
    if not posts.features:
        raise DataError(f"{where} has no post, or no column. Expected `tokens` and what else the schema has.")
    return posts


def _refuse_images_by_other_names(posts: Posts, found: Mapping[str, str], where: str) -> None:
    """Where no post has images, look whether another column has them; of a stream, no row is read for it."""
    if isinstance(posts, IterableDataset) or not len(posts):
        return
    if "images" in found:
        if has_images(posts, found["images"]):
            return
        # Other splits have the column, or it was made by whoever put several sources together.
        refuse_unread_images(posts.features, found.values(), where)
    names = [name for name, feature in posts.features.items() if _has_texts(feature) and name not in COLUMNS]
    rows = posts.select_columns(names).select(range(min(len(posts), FIRST_ROWS)))
    refuse_image_values(rows.to_list() if names else [], found.values(), where)


def has_images(posts: Dataset, column: str = "images") -> bool:
    """Tell whether any post has an image in a column, which may be missing."""
    if column not in posts.column_names:
        return False
    # What was selected, not the whole table that it was selected from.
    blocks = posts.select_columns([column]).with_format("arrow").iter(FIRST_ROWS)
    return any(has_value(rows[0]) for rows in blocks)


def _has_texts(feature: Any) -> bool:
    """Tell whether a feature is text or bytes, or holds some."""
    if isinstance(feature, Mapping):
        return any(map(_has_texts, feature.values()))
    item = item_of(feature)
    return is_string(feature) or is_binary(feature) if item is None else _has_texts(item)


def _find_labels(
    splits: Mapping[str, Posts],
    found: Mapping[str, Mapping[str, str]],
    scheme: str | None,
    labels: Sequence[str] | None,
) -> tuple[list[str], dict[str, tuple[str, str]] | None]:
    """Find the labels that all splits get, and how theirs are read if they are converted."""
    given, texts = {}, {}
    for place, posts in splits.items():
        column = found[place]["ner_tags"]
        item = item_of(posts.features[column])
        if isinstance(item, ClassLabel):
            given[place] = item.names
        else:
            texts[place] = _read_names(posts, column, place, None if scheme else labels)
    refuse_other_labels(given)
    own = next(iter(given.values()), None)
    everything = [*(own or ()), *sorted(set().union(*texts.values()) - set(own or ()))]
    first, column = next((place, names["ner_tags"]) for place, names in found.items())
    if scheme is None:
        check_labels(everything, first if not given else next(iter(given)), column)
        converted, spelling = everything, None
    else:
        try:
            spelling = read_spelling(everything, scheme)
        except ValueError as error:
            raise DataError(f"{first}, column `{column}`: {error}") from None
        converted = bio2_labels(kind for letter, kind in spelling.values() if letter != "O")
    warn_of_like_types(converted, first)
    if labels is not None:
        if unknown := [name for name in converted if name not in labels]:
            raise DataError(
                f"{first} has the labels {converted}, but the model has {list(labels)}: it lacks {unknown}. Train a "
                "new model on this data, or leave these labels out of it."
            )
        if scheme is None and own is not None and own != list(labels):
            logger.warning(
                f"{', '.join(given)}: the labels {own} are read by their names as the model's {list(labels)}."
            )
        return list(labels), spelling
    if own is None:
        return bio2_labels(name[2:] for name in converted if name != "O"), spelling
    for place, names in texts.items():
        if scheme is None and (unknown := sorted(names - set(own))):
            raise DataError(f"{place} has the tags {unknown}, which {next(iter(given))} lacks: it has {own}.")
    return converted, spelling


def _read_names(posts: Posts, column: str, where: str, labels: Sequence[str] | None) -> set[str]:
    """Collect the names of all tags of a column of texts."""
    if isinstance(posts, IterableDataset):
        if labels is None:
            raise DataError(
                f"{where}, column `{column}`: tags that are given by their names can't be streamed, since all names "
                "must be known first. Give class labels: `dataset.cast_column('ner_tags', "
                "List(ClassLabel(names=[...])))`, or, with tags in BIO2, a saved model by `--model`."
            )
        return set()
    names = set()
    for rows in posts.with_format("arrow").select_columns([column]).iter(BATCH_SIZE):
        names.update(flat(rows[column]).unique().to_pylist())
    return names - {None}


def _prepare(
    posts: Posts,
    where: str,
    found: Mapping[str, str],
    labels: list[str] | None,
    conversion: tuple[str, dict[str, tuple[str, str]]] | None,
    folder: str | os.PathLike | None,
    count: bool,
) -> Posts:
    features, streams = _target(found, labels), isinstance(posts, IterableDataset)
    posts = undecoded(posts)
    if not streams:
        posts = posts.select_columns(list(found.values()))
    old = posts.features
    if not streams and conversion is None and _is_in_schema(posts, found, features, folder):
        posts = posts.rename_columns({theirs: ours for ours, theirs in found.items() if theirs != ours})
        check_rows(posts, where, labels, count)
        return posts.select_columns(list(features))
    given = None
    if labels is not None:
        item = item_of(old[found["ner_tags"]])
        given = item.names if isinstance(item, ClassLabel) else None
    taken = frozenset()
    if not streams and "id" in found and posts.data.column(found["id"]).null_count:
        taken = find_taken_numbers(partial(_read_ids, posts, found["id"]))
        warn_of_taken_numbers(taken, where)
    convert = partial(
        _convert_row,
        where=where,
        taken=taken,
        found=dict(found),
        labels=labels,
        given=given,
        conversion=conversion,
        check=streams,
        folder=folder,
    )
    if streams:
        return posts.map(convert, with_indices=True, remove_columns=list(old), features=features)
    if len(posts) == 0:
        return Dataset.from_dict({name: [] for name in features}, features=features)
    # What an older version of this code made of the same posts must not come back.
    settings = {"load_from_cache_file": False, "desc": f"{where}: reading columns"}
    posts = posts.map(convert, with_indices=True, remove_columns=posts.column_names, features=features, **settings)
    check_rows(posts, where, labels, count)
    return posts


def _is_in_schema(
    posts: Dataset, found: Mapping[str, str], features: Features, folder: str | os.PathLike | None
) -> bool:
    """Whether only names of columns have to change."""
    if any(posts.features.get(found.get(name)) != feature for name, feature in features.items()):
        return False
    filled = [found[name] for name in ("id", "images") if name in found]
    if any(posts.data.column(name).null_count for name in filled):
        return False
    # Paths are to be placed where there are no bytes.
    return folder is None or "images" not in found or not flat(posts.data.column(found["images"])).field(0).null_count


def _read_ids(posts: Dataset, column: str) -> Iterator[str | None]:
    for rows in posts.with_format("arrow").select_columns([column]).iter(BATCH_SIZE):
        yield from (None if post_id is None else str(post_id) for post_id in rows[column].to_pylist())


def _target(found: Mapping[str, str], labels: list[str] | None) -> Features:
    """Return the features that posts get."""
    every = {
        "id": Value("string"),
        "tokens": List(Value("string")),
        "text": Value("string"),
        "ner_tags": List(ClassLabel(names=labels)) if labels is not None else None,
        "images": List(Image(decode=False)),
        "source": Value("string"),
        **CONTEXT_FEATURES,
    }
    names = {"id", *found} - ({"text"} if labels is not None else set())
    return Features({name: feature for name, feature in every.items() if name in names})


def undecoded(posts: Posts) -> Posts:
    """Have images given as files."""
    features = Features({name: _undecoded_feature(feature) for name, feature in posts.features.items()})
    if isinstance(posts, IterableDataset):
        return posts.cast(features)
    posts = copy.deepcopy(posts)
    posts.info.features = features
    return posts


def _undecoded_feature(feature: Any) -> Any:
    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, List):
        return List(_undecoded_feature(feature.feature), length=feature.length)
    return LargeList(_undecoded_feature(feature.feature)) if isinstance(feature, LargeList) else feature


def _convert_row(
    row: Mapping[str, Any],
    number: int,
    where: str,
    found: Mapping[str, str],
    labels: list[str] | None,
    given: list[str] | None,
    conversion: tuple[str, dict[str, tuple[str, str]]] | None,
    check: bool,
    folder: str | os.PathLike | None,
    taken: Collection[int] = (),
) -> dict[str, Any]:
    """Bring one post into the schema; `check` it too, where that is not done for all posts at once."""
    row = {ours: row.get(theirs) for ours, theirs in found.items()}
    name = f"{where}, {post_name(row.get('id'), number)}"
    try:
        text = {"text": row["text"]} if row.get("text") is not None else {}
        read = read_post({"id": row.get("id"), "tokens": row.get("tokens"), "images": row.get("images")} | text)
        post = {"id": name_row(number, taken) if read["id"] is None else read["id"]}
        if "tokens" in found or labels is not None:
            if labels is not None and "tokens" not in read:
                raise DataError("`tokens` are empty beside a text. Tags belong to words: give them.")
            post["tokens"] = read.get("tokens")
        if "text" in found and labels is None:
            post["text"] = row["text"]
        if "images" in found:
            post["images"] = [as_file(image, folder) for image in read_images(row["images"])]
        post |= {name: row[name] for name in ("source", *CONTEXT_FEATURES) if name in found}
        if labels is not None:
            post["ner_tags"] = _convert_tags(row["ner_tags"], labels, given, conversion)
            if check:
                check_tags(post["tokens"], post["ner_tags"], labels)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None
    return post


def as_file(image: Any, folder: str | os.PathLike | None) -> dict[str, Any]:
    """Return an image, as of [`~rows.read_images`], as `datasets` stores it, with its path below `folder`."""
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (None, str(image))
    if data is None and folder is not None and not _URL.match(path) and not is_data_uri(path):
        path = os.path.join(folder, path)
    return {"bytes": data, "path": path}


def _convert_tags(
    tags: list[Any] | None,
    labels: list[str],
    given: list[str] | None,
    conversion: tuple[str, dict[str, tuple[str, str]]] | None,
) -> list[int]:
    """Convert tags, by their numbers or names, to the numbers of labels; -100 stays."""
    if tags is None or None in tags:
        raise DataError(
            f"`ner_tags` {'are' if tags is None else 'hold one that is'} missing. Give a tag of each word; -100 is a "
            "word that is not tagged."
        )
    if given is not None:
        if conversion is None and given == labels:
            return tags
        check_ids(tags, given)
        tags = [None if tag == NOT_TAGGED else given[tag] for tag in tags]
    if conversion is not None:
        scheme, spelling = conversion
        _check_names(tags, spelling)
        tags = to_bio2(tags, scheme, spelling)
    else:
        _check_names(tags, labels)
    return [NOT_TAGGED if tag is None else labels.index(tag) for tag in tags]


def _check_names(tags: Iterable[str | None], known: Iterable[str]) -> None:
    if unknown := [tag for tag in tags if tag is not None and tag not in known]:
        raise DataError(f"`ner_tags` hold {unknown[0]!r}, which is none of the labels {list(known)}.")


__all__ = ["as_file", "prepare_posts", "undecoded"]

"""Whether all files of a data set can be read, and mean the same tags by the same numbers."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetBuilder, Features, Image, List, Value, load_dataset
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from transformers.utils import logging

from .columns import COLUMNS, arrow_features, check_features, describe, is_null, is_string, item_of
from .schema import DataError
from .split_files import check_split_files

logger = logging.get_logger(__name__)


def refuse_other_labels(given: Mapping[str, Sequence[str]], column: str = "ner_tags") -> None:
    """Refuse class labels that are not the same, in the same order, everywhere.

    Args:
        given (`Mapping[str, Sequence[str]]`): The labels of each split or file.
        column (`str`, *optional*, defaults to `"ner_tags"`): Their column.

    Raises:
        ValueError: with both lists.
    """
    first = next(iter(given), None)
    for place, names in given.items():
        if list(names) != list(given[first]):
            raise DataError(
                f"{place} has the labels {list(names)}, but {first} has {list(given[first])}: a tag's number would "
                f"mean another tag. Write the tags of `{column}` by their names, which are read as they are: `names = "
                f"dataset.features[{column!r}].feature.names`, then `dataset.cast_column({column!r}, "
                f"List(Value('string'))).map(lambda post: {{{column!r}: [names[int(tag)] for tag in post[{column!r}]]"
                "})`."
            )


def check_files(
    builder: DatasetBuilder, splits: Iterable[str], columns: Mapping[str, str] | None = None, **options: Any
) -> Features | None:
    """Check what the files of a data set hold, before it is loaded.

    `datasets` reads every file, and every split, by the columns and labels of the first one: numbers would mean other
    tags, a list of numbers would become an image, and a column that only some files have would end the reading.

    Args:
        builder (`DatasetBuilder`): Of `load_dataset_builder`.
        splits (`Iterable[str]`): The splits that will be used.
        columns (`Mapping[str, str]`, *optional*): Of [`~columns.parse_columns`].
        **options: `reads_images` and `ignore_images`, as of [`~columns.check_features`].

    Returns:
        `Features`, *optional*: what to load all files by, if they have other columns than each other; a column that a
        file lacks is null in its posts.

    Raises:
        ValueError: if a file has no columns that can be read, the labels of two files differ in names or order, or a
            column is of types that do not go together; names both files.
    """
    splits, columns = list(splits), dict(columns or {})
    files = _split_files(builder, splits)
    used = dict.fromkeys(path for split in splits for path in files.get(split, ()))
    every = dict.fromkeys(path for paths in files.values() for path in paths)
    found = {path: _features_of(path, must_be_read=path in used) for path in every}
    if isinstance(builder, FolderBasedBuilder):
        # `datasets` makes other columns of the names of files in them.
        found |= {path: None for path in every if os.path.basename(path) in FolderBasedBuilder.METADATA_FILENAMES}
    # Whatever is used, the very first file decides.
    deciding = {path: found[path] for path in [*list(every)[:1], *used]}
    _check_labels_of(deciding, columns.get("ner_tags", "ner_tags"), builder)
    if builder.info.features is not None:
        # A card tells how to read files that do not say it.
        return None
    read = {ours: ours for ours in COLUMNS} | columns
    for path in used:
        if found[path] is not None:
            check_features(found[path], where=path, columns=columns, **options)
    # `datasets` reads the other splits too, unless it streams.
    found = {path: found[path] for path in [*used, *every] if found[path] is not None}
    if options.get("reads_images", True) and not options.get("ignore_images"):
        _tell_files_without_images([path for path in used if path in found], found, read["images"])
    return _join_features(found, used, {theirs: ours for ours, theirs in read.items()})


def check_files_to_copy(builder: DatasetBuilder) -> Features | None:
    """Check that the files of a data set mean the same by the numbers of any column, so that all can be copied.

    Args:
        builder (`DatasetBuilder`): Of `load_dataset_builder`.

    Returns:
        `Features`, *optional*: as of [`check_files`].

    Raises:
        ValueError: as of [`check_files`].
    """
    if isinstance(builder, FolderBasedBuilder):
        return None
    every = dict.fromkeys(path for paths in _split_files(builder).values() for path in paths)
    found = {path: _features_of(path, must_be_read=True) for path in every}
    known = {path: features for path, features in found.items() if features is not None}
    for column in dict.fromkeys(name for features in known.values() for name in features):
        having = {path: features for path, features in known.items() if column in features}
        if any(isinstance(item_of(features[column]), ClassLabel) for features in having.values()):
            _check_labels_of(having, column, builder)
    if builder.info.features is not None:
        return None
    return _join_features(known, known, {name: name for name in COLUMNS})


def _split_files(builder: DatasetBuilder, splits: Iterable[str] | None = None) -> dict[str, list[str]]:
    """List the files of each split, after a look at those of the splits that will be used, by default all."""
    files = {split: [str(path) for path in paths] for split, paths in (builder.config.data_files or {}).items()}
    if not isinstance(builder, FolderBasedBuilder):
        where = builder.repo_id or builder.base_path
        check_split_files(files, files if splits is None else splits, where, builder.config.name)
    return files


def _check_labels_of(found: Mapping[str, Mapping[str, Any] | None], column: str, builder: DatasetBuilder) -> None:
    """Refuse files whose labels of a column are not those of the data set's card and of each other."""
    told = item_of((builder.info.features or {}).get(column))
    card = {f"the card of {builder.repo_id or builder.config.name}": told.names} if isinstance(told, ClassLabel) else {}
    items = {path: item_of((features or {}).get(column)) for path, features in found.items()}
    named = {path: item.names for path, item in items.items() if isinstance(item, ClassLabel)}
    # Names are read as they are; numbers by the labels of another file.
    unnamed = [path for path, item in items.items() if not isinstance(item, ClassLabel) and not is_string(item)]
    if unnamed and named:
        first = next(iter(named))
        raise DataError(
            f"{unnamed[0]}, column `{column}`: expected labels, since {first} has {named[first]}, found none: its tags "
            "would be read by these. Write it with the same features."
        )
    refuse_other_labels({**card, **named}, column)


def _tell_files_without_images(used: Sequence[str], found: Mapping[str, Mapping[str, Any]], column: str) -> None:
    """Say which files lack the column of images that others have: their posts are read as posts without any."""
    without = [path for path in used if column not in found[path]]
    if without and len(without) < len(used):
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        logger.warning(
            f"No column `{column}`, which other files have, in {', '.join(without[:3])}{more}: their posts are read as "
            "posts without images."
        )


def _join_features(
    found: Mapping[str, Mapping[str, Any]], used: Iterable[str], read: Mapping[str, str]
) -> Features | None:
    """Return the columns of all files with a type that all can be read by; none where they are the same anyway.

    Args:
        found (`Mapping`): The features of each file.
        used (`Iterable[str]`): Files whose posts are used. They decide what the types of their columns are, unless they
            have no value there.
        read (`Mapping[str, str]`): For the names of columns that are read, ours.
    """
    names = dict.fromkeys(name for features in found.values() for name in features)
    given = {name: {path: some[name] for path, some in found.items() if name in some} for name in names}
    if all(len(some) == len(found) and _are_same(some.values()) for some in given.values()):
        return None
    used = list(used)
    given = {name: _known({path: some[path] for path in used if path in some}) or some for name, some in given.items()}
    joined = {name: _join_types(name, read.get(name), some) for name, some in given.items()}
    # `datasets` itself knows no feature for it, and says so.
    return None if None in joined.values() else Features(joined)


def _are_same(features: Iterable[Any]) -> bool:
    first, *others = features
    return all(feature == first for feature in others)


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the types of files that have no value in a column."""
    return {path: feature for path, feature in given.items() if not (is_null(feature) or is_null(item_of(feature)))}


def _join_types(name: str, ours: str | None, given: Mapping[str, Any]) -> Any:
    """Find the type that a column of all files can be read by; see `_join_features`."""
    known = _known(given)
    features = list((known or given).values())
    if _are_same(features) or None in features:
        return features[0]
    first, *others = known
    for other in others:
        if (item_of(known[other]) is None) != (item_of(known[first]) is None):
            raise DataError(
                f"{other}, column `{name}`: found {describe(known[other])}, but {first} has {describe(known[first])}. "
                "Write all files with the same type, or take the column away."
            )
    if ours == "images":
        # Paths, bytes and files can all be read as images.
        return Image() if item_of(features[0]) is None else List(Image())
    inner = [item_of(feature) or feature for feature in features]
    labels = next((number for number, item in enumerate(inner) if isinstance(item, ClassLabel)), None)
    if labels is not None:
        return features[labels]
    if any(is_string(item) for item in inner) and all(isinstance(item, Value) for item in inner):
        # Whatever is a number elsewhere can be written as a text.
        return Value("string") if item_of(features[0]) is None else List(Value("string"))
    return features[0]


def _features_of(path: str, must_be_read: bool) -> dict[str, Any] | None:
    """Read the features of a file, those that `datasets` noted in it if it did; none of a file of another format."""
    try:
        if path.endswith((".json", ".jsonl", ".csv")) and os.path.isfile(path):
            return _inferred_features(path)
        with fsspec.open(path, "rb") as file:
            if path.endswith(".parquet"):
                schema = pq.read_schema(file)
            elif path.endswith(".arrow"):
                schema = _arrow_schema(file)
            else:
                return None
    except (pa.ArrowException, OSError) as error:
        if not must_be_read:
            return None
        raise DataError(f"{path} can't be read as {os.path.splitext(path)[1][1:]}: {error}. Write it again.") from None
    return arrow_features(schema)


def _inferred_features(path: str) -> dict[str, Any] | None:
    """Have `datasets` infer the features of a file from its beginning; none if it can't."""
    kind = "csv" if path.endswith(".csv") else "json"
    try:
        posts = load_dataset(kind, data_files=path, split="train", streaming=True)
        return posts.features or posts._resolve_features().features
    except (DatasetsError, ValueError, StopIteration):
        # What is wrong is said when the data set is loaded.
        return None


def _arrow_schema(file: Any) -> pa.Schema:
    try:
        return pa.ipc.open_stream(file).schema
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_file(file).schema

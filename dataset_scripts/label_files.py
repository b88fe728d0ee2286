"""Whether all files of a data set can be read, and mean the same tags by the same numbers."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetBuilder

from .columns import arrow_features, check_features, is_string, item_of
from .schema import DataError


def refuse_other_labels(given: Mapping[str, Sequence[str]]) -> None:
    """Refuse class labels that are not the same, in the same order, everywhere.

    Args:
        given (`Mapping[str, Sequence[str]]`): The labels of each split or file.

    Raises:
        ValueError: with both lists.
    """
    first = next(iter(given), None)
    for place, names in given.items():
        if list(names) != list(given[first]):
            raise DataError(
                f"{place} has the labels {list(names)}, but {first} has {list(given[first])}: a tag's number would "
                "mean another tag. Write the tags by their names, which are read as they are: `names = "
                "dataset.features['ner_tags'].feature.names`, then `dataset.cast_column('ner_tags', "
                "List(Value('string'))).map(lambda post: {'ner_tags': [names[int(tag)] for tag in post['ner_tags']]})`."
            )


def check_files(
    builder: DatasetBuilder, splits: Iterable[str], columns: Mapping[str, str] | None = None, **options: Any
) -> None:
    """Check what the files of a data set hold, before it is loaded.

    `datasets` reads every file, and every split, by the columns and labels of the first one: numbers would mean other
    tags, and a list of numbers would become an image.

    Args:
        builder (`DatasetBuilder`): Of `load_dataset_builder`.
        splits (`Iterable[str]`): The splits that will be used.
        columns (`Mapping[str, str]`, *optional*): Of [`~columns.parse_columns`].
        **options: `reads_images` and `ignore_images`, as of [`~columns.check_features`].

    Raises:
        ValueError: if a file has no columns that can be read, or the labels of two files differ in names or order; with
            both lists.
    """
    splits = list(splits)
    files = builder.config.data_files or {}
    paths = [str(path) for split in splits for path in files.get(split, ())]
    # Whatever is used, the very first file decides.
    paths = dict.fromkeys([str(path) for split in list(files)[:1] for path in files[split][:1]] + paths)
    column = (columns or {}).get("ner_tags", "ner_tags")
    found = {path: _features_of(path) for path in paths}
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
    told = item_of((builder.info.features or {}).get(column))
    if isinstance(told, ClassLabel):
        named = {f"the card of {builder.repo_id or builder.config.name}": told.names} | named
    refuse_other_labels(named)
    used = {str(path) for split in splits for path in files.get(split, ())}
    for path, features in found.items():
        # A card tells how to read files that do not say it.
        if features is not None and path in used and builder.info.features is None:
            check_features(features, where=path, columns=columns, **options)


def _features_of(path: str) -> dict[str, Any] | None:
    """Read the features of a file, those that `datasets` noted in it if it did; none of a file of another format."""
    try:
        with fsspec.open(path, "rb") as file:
            if path.endswith(".parquet"):
                schema = pq.read_schema(file)
            elif path.endswith(".arrow"):
                schema = _arrow_schema(file)
            else:
                return None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} can't be read as {os.path.splitext(path)[1][1:]}: {error}. Write it again.") from None
    return arrow_features(schema)


def _arrow_schema(file: Any) -> pa.Schema:
    try:
        return pa.ipc.open_stream(file).schema
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_file(file).schema

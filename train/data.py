"""Data sets of posts to train and evaluate on."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
)
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from transformers.utils import logging

from ..baselines import check_names
from ..dataset_scripts.gate import PostsDict, has_images, prepare_posts
from ..dataset_scripts.label_files import check_files
from ..dataset_scripts.row_checks import NOT_TAGGED
from ..dataset_scripts.split_files import open_builder

logger = logging.get_logger(__name__)


def load_posts(
    name: str,
    splits: Sequence[str],
    columns: Mapping[str, str] | None = None,
    streaming: bool = False,
    reader: str = "smcl",
    context: Sequence[str] = (),
    config_name: str | None = None,
    **options: Any,
) -> PostsDict:
    """Load a data set and bring it into the schema.

    Args:
        name (`str`): Folder or Hub name of whatever `load_dataset` reads.
        splits (`Sequence[str]`): Splits that will be used.
        columns (`Mapping[str, str]`, *optional*): Of [`~columns.parse_columns`].
        streaming (`bool`, *optional*, defaults to `False`): Whether to read posts as they are needed.
        reader (`str`, *optional*, defaults to `"smcl"`): Name of the system that reads them.
        context (`Sequence[str]`, *optional*): Columns of context that it reads.
        config_name (`str`, *optional*): Which configuration of a data set that holds several.
        **options: Those of [`~gate.prepare_posts`].

    Returns:
        `DatasetDict` with those splits, or an `IterableDatasetDict` of streams.

    Raises:
        ValueError: if the data set or a split is missing, or the gate refuses it; names what is wrong.
    """
    with _Explained(name):
        read = {key: options[key] for key in ("reads_images", "ignore_images") if key in options}
        features = check_files(open_builder(name, config_name), splits, columns, **read)
    posts = {split: load_split(name, split, streaming, features, config_name) for split in splits}
    for part in posts.values():
        # Before any row is looked at; of a stream, its columns may not be known.
        check_names(context, part.column_names or context, reader, name)
    folder = name if os.path.isdir(name) else None
    options |= {"context": context, "folder": folder}
    with _Explained(name):
        kind = IterableDatasetDict if streaming else DatasetDict
        prepared = prepare_posts(kind(posts), where=f"the data set {name}", columns=columns, **options)
        if streaming:
            _refuse_empty(prepared, name)
        elif options.get("reads_images", True) and not options.get("ignore_images"):
            _tell_splits_without_images(posts, prepared, name)
        return prepared


def _tell_splits_without_images(loaded: Mapping[str, Dataset], prepared: DatasetDict, name: str) -> None:
    """Say which splits have no image at all: their images may be named in a way that nothing here knows."""
    for split, posts in prepared.items():
        if not has_images(posts):
            logger.warning(
                f"Split {split!r} of the data set {name}: no post has an image, and the model reads images. It has the "
                f"columns {loaded[split].column_names}: put paths of images into one called `images`, if there are any."
            )


def _refuse_empty(streams: IterableDatasetDict, name: str) -> None:
    """Refuse a stream without a post, which would be scored as if all of it were wrong."""
    for split, posts in streams.items():
        if next(iter(posts), None) is None:
            raise ValueError(
                f"The data set {name} has no split {split!r} with at least one post, which this run needs."
            )


def load_split(
    name: str,
    split: str,
    streaming: bool = False,
    features: Features | None = None,
    config_name: str | None = None,
) -> Dataset | IterableDataset:
    """Load one split as it is, or by `features`; a `ValueError` says what is wrong if it can't be."""
    options = {} if features is None else {"features": features}
    try:
        with _Explained(name):
            return load_dataset(name, config_name, split=split, streaming=streaming, **options)
    except UnreadableError:
        raise
    except ValueError as error:
        without = " To train without it, give `--eval_strategy no`." if split == "validation" else ""
        raise ValueError(
            f"The data set {name} has no split {split!r} with at least one post, which this run needs: {error}{without}"
        ) from error


class UnreadableError(ValueError):
    """There is no such data set, or `datasets` can't read it."""


class _Explained:
    """Turns what `datasets` says of a data set that it can't read into an error that helps."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, DatasetNotFoundError | ConnectionError | FileNotFoundError):
            if os.path.isfile(self.name):
                found = f"a file. Give the folder that it lies in, {os.path.dirname(self.name) or '.'}."
            elif os.path.isdir(self.name):
                found = (
                    "a folder without a file that `datasets` reads. Write a data set into it with "
                    "`python -m smcl.dataset_scripts.jsonl` or another converter."
                )
            else:
                found = (
                    "neither a folder here nor a data set that can be reached on the Hub. Write one with "
                    "`python -m smcl.dataset_scripts.mner_mi` or another converter."
                )
            raise UnreadableError(f"`--dataset {self.name}` is {found}") from error
        # `datasets` has no kind of errors of its own for this.
        if isinstance(error, ValueError) and "`load_from_disk`" in str(error):
            raise UnreadableError(
                f"`--dataset {self.name}` is one split, written by `save_to_disk`. Write each split as Parquet: "
                "`load_from_disk(FOLDER).to_parquet('DATA/train.parquet')`."
            ) from error
        if isinstance(error, StopIteration):
            # What `datasets` raises of a file that it can't tell the columns of.
            raise UnreadableError(
                f"The first file of the data set {self.name} has no posts. Write some into it, or remove it."
            ) from error
        if isinstance(error, UnicodeError):
            raise UnreadableError(
                f"A file of the data set {self.name} is no UTF-8: {error}. Save it as UTF-8."
            ) from error
        if isinstance(error, DatasetsError | pa.ArrowException | OSError):
            reasons = [str(reason) for reason in (error, error.__cause__) if reason is not None]
            raise UnreadableError(
                f"`datasets` can't read the data set {self.name}: {' '.join(reasons)} Do all of its files have the "
                "same columns of the same types?"
            ) from error


def cut_stream(posts: IterableDataset, size: int) -> Iterator[Dataset]:
    """Cut a stream into data sets of at most so many posts, in memory, one after the other."""
    for rows in posts.iter(size):
        yield Dataset.from_dict(rows, features=posts.features)


def list_lengths(posts: Dataset, column: str) -> list[int]:
    """Return the length of each list of a column, without reading what is in the lists."""
    rows = posts.with_format("arrow").select_columns(column).iter(10_000)
    return [length for row in rows for length in pc.list_value_length(row[column]).fill_null(0).to_pylist()]


def refuse_posts(split: str, posts: Dataset, rows: Sequence[int], reason: str) -> None:
    """Refuse posts of a split, if there are rows of such: a `ValueError` counts them, names some, and says why."""
    if rows:
        ids = ", ".join(repr(name) for name in posts.select(rows[:5])["id"])
        raise ValueError(f"{len(rows)} posts of the split {split!r}, such as {ids}, {reason}.")


def label_names(posts: PostsDict) -> list[str]:
    """Return the names of the tags, by id."""
    return next(iter(posts.values())).features["ner_tags"].feature.names


def name_tags(ids: Sequence[int], labels: Sequence[str]) -> list[str | None]:
    """Name the tags of a post; a word that nobody tagged (-100) has `None`."""
    return [None if tag == NOT_TAGGED else labels[tag] for tag in ids]


__all__ = ["UnreadableError", "cut_stream", "label_names", "load_posts", "load_split", "name_tags"]

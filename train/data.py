"""Data sets of posts to train and evaluate on."""

import copy
from typing import Any

from datasets import Dataset, DatasetDict, Image, IterableDataset, List, load_dataset
from datasets.exceptions import DatasetNotFoundError


def load_posts(name: str, splits: list[str], ignore_images: bool = False) -> DatasetDict:
    """Load a data set and check what is needed of it.

    Args:
        name (`str`): Folder or Hub name.
        splits (`list[str]`): Splits that will be used.
        ignore_images (`bool`, *optional*, defaults to `False`): Whether to leave out the images.

    Returns:
        `DatasetDict` with those splits.

    Raises:
        ValueError: if the data set, a split or a column is missing, or a split is empty; names it.
    """
    posts = DatasetDict({split: load_split(name, split) for split in splits})
    check_posts(posts, name)
    if ignore_images:
        posts = DatasetDict({split: drop_images(rows) for split, rows in posts.items()})
    return posts


def check_posts(posts: DatasetDict, name: str) -> None:
    """Check the columns of all splits, before any work is done; a `ValueError` says what is wrong."""
    for split, columns in posts.column_names.items():
        missing = {"id", "tokens", "ner_tags"} - set(columns)
        if missing:
            raise ValueError(
                f"Split {split!r} of the data set {name} lacks the columns {sorted(missing)}; it has {columns}. The "
                "data schema stands in the README."
            )
    tags = next(iter(posts.values())).features["ner_tags"].feature
    if not hasattr(tags, "names"):
        raise ValueError(f"The column `ner_tags` must hold class labels with names, got {tags}.")


def load_split(name: str, split: str) -> Dataset:
    """Load one split; a `ValueError` says what is wrong if it can't be."""
    try:
        return load_dataset(name, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise ValueError(
            f"`--dataset {name}` is neither a folder here nor a data set that can be reached on the Hub. Write one "
            "with `python -m smcl.dataset_scripts.mner_mi` or another converter."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"The data set {name} has no split {split!r} with at least one post, which this run needs: {error}"
        ) from error


def label_names(posts: DatasetDict) -> list[str]:
    """Return the names of the tags, by id."""
    return next(iter(posts.values())).features["ner_tags"].feature.names


def drop_images(posts: Dataset) -> Dataset:
    """Leave out the column of images, if there is one."""
    return posts.remove_columns("images") if "images" in posts.column_names else posts


def keep_images_encoded(dataset: Any) -> Any:
    """Have a data set give the files of its images, for the processor to decode.

    `datasets` would decode images of any size, and does not say which post has one that it can't decode.

    Args:
        dataset (`Dataset` or `IterableDataset`): A data set; without a column `images` of images, or of another kind,
            it stays as it is.

    Returns:
        `Dataset` or `IterableDataset`: the same posts, with `{"bytes": ..., "path": ...}` in place of decoded images.
    """
    kinds = (dataset.features or {}) if isinstance(dataset, Dataset | IterableDataset) else {}
    if kinds.get("images") != List(Image()):
        return dataset
    if isinstance(dataset, IterableDataset):
        return dataset.cast_column("images", List(Image(decode=False)))
    dataset = copy.deepcopy(dataset)
    dataset.info.features["images"] = List(Image(decode=False))
    return dataset


__all__ = ["check_posts", "drop_images", "keep_images_encoded", "label_names", "load_posts", "load_split"]

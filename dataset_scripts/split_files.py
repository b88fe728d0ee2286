"""Which files `datasets` takes for the splits of a data set: said, or refused, where they may not be what is meant."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from datasets import DatasetBuilder, load_dataset_builder
from datasets.data_files import SPLIT_KEYWORDS
from transformers.utils import logging

from .command_line import describe
from .schema import DataError

logger = logging.get_logger(__name__)

# What `map` and `filter` keep of a data set in the folder that it was loaded from by `load_from_disk`.
_CACHE = re.compile(r"cache-\w+\.arrow")
# The numbers of the parts that a file was written in: `-00000-of-00002`, `0001`, `_3`.
_PART = re.compile(r"\d{5,}|[-_.]?\d+$")
# How `datasets` calls the only configuration of a data set without names for them.
DEFAULT = "default"
_OF_CONFIGURATIONS = re.compile(r"Config name is missing|BuilderConfig .* not found")
_TABLES = (".parquet", ".arrow", ".jsonl", ".csv")
SHOWN = 3


def open_builder(name: str, config_name: str | None = None) -> DatasetBuilder:
    """Return what `datasets` reads a data set by.

    Args:
        name (`str`): Folder or Hub name.
        config_name (`str`, *optional*): Which configuration of a data set that holds several.

    Raises:
        DataError: if it holds several configurations and none of them was named, or another one was.
    """
    try:
        return load_dataset_builder(name, config_name)
    except ValueError as error:
        # `datasets` has no kinds of errors of its own for these.
        if _OF_CONFIGURATIONS.search(str(error)):
            raise DataError(
                "Expected as `--dataset_config_name` (`config_name` in Python) one of the configurations of the data "
                f"set {name}: {describe(error)}"
            ) from error
        raise


def check_split_files(
    files: Mapping[str, Sequence[str]], splits: Iterable[str], where: str, config_name: str = DEFAULT
) -> None:
    """See whether the files of each split are parts of one, since `datasets` reads all that are called after a split.

    Files whose names differ in more than a number, a file of several splits, and files that are called after a split
    and are not read are said: copies and other data sets may be among them.

    Args:
        files (`Mapping[str, Sequence[str]]`): Paths or addresses of the files of each split, as `datasets` has them.
        splits (`Iterable[str]`): The splits that will be used.
        where (`str`): The data set: a folder or a Hub name.
        config_name (`str`, *optional*, defaults to `"default"`): Its configuration; beside one of a name lie the files
            of others.

    Raises:
        DataError: if what `datasets` itself keeps would be read as further posts.
    """
    used = {split: list(files[split]) for split in dict.fromkeys(splits) if split in files}
    for split, paths in used.items():
        _refuse_caches(paths, where)
        if len({_without_part(path) for path in paths}) > 1:
            logger.warning_once(
                f"The data set {where}: the split {split!r} is read from files of several names, {_list(paths)}, as if "
                "they were parts of one. If there are copies or other data sets among them, move these away, or give "
                "the folder of one data set alone."
            )
    for (first, paths), (second, others) in itertools.combinations(used.items(), 2):
        if shared := sorted({*paths} & {*others}):
            logger.warning_once(
                f"The data set {where}: the splits {first!r} and {second!r} are both read from {_list(shared)}. If "
                "that is not meant, call it after one split alone."
            )
    if config_name == DEFAULT and (unread := sorted(_find_unread(files, used, where))):
        logger.warning_once(
            f"The data set {where}: {_list(unread)} {'is' if len(unread) == 1 else 'are'} not read, though called "
            "after a split. If that is not meant, keep all of its files in one format, and in one folder."
        )


def _refuse_caches(paths: Sequence[str], where: str) -> None:
    if caches := [path for path in paths if _CACHE.fullmatch(os.path.basename(path))]:
        raise DataError(
            f"The data set {where} was written by `save_to_disk`, and holds {_list(caches)}, which `map` or `filter` "
            "keeps there and which would be read as further posts. Remove what is called cache-*.arrow, or write the "
            "posts that are meant with `to_parquet`."
        )


def _without_part(path: str) -> str:
    """Return a file's path without the number of its part."""
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    return os.path.join(folder, _PART.sub("", stem) + suffix)


def _find_unread(files: Mapping[str, Sequence[str]], splits: Iterable[str], folder: str) -> Iterator[str]:
    """Find the tables in a folder that are called after one of the splits and belong to none."""
    read = {os.path.realpath(path) for paths in files.values() for path in paths}
    words = {word for split in splits for word in SPLIT_KEYWORDS.get(split, [split])}
    for place, folders, names in os.walk(folder):
        # As `datasets` does.
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            stem, suffix = os.path.splitext(name)
            path = os.path.join(place, name)
            is_called_so = not words.isdisjoint(re.split(r"[\W\d_]+", stem.lower())) and not name.startswith(".")
            if is_called_so and suffix in _TABLES and os.path.realpath(path) not in read:
                yield path


def _list(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{', '.join(paths[:SHOWN])}{more}"

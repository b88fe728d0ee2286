"""Finding the image files that posts name, or that are named after posts."""

import bisect
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from transformers.utils import logging

from .repair import read_image
from .schema import DataError, Post

logger = logging.get_logger(__name__)

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Images that may be missing between the first and the last number of a post; with more, the numbers are no sequence.
MOST_GAPS = 1000


def find_image(folder: Path, name: str) -> Path | None:
    """Find the file of an image; one that differs in case, or in the suffix of its format, will do.

    Args:
        folder (`Path`): The folder of images.
        name (`str`): Its name there; the suffix may be missing.

    Returns:
        `Path`, *optional*: the file.

    Raises:
        DataError: if no file has this very name, and several would do.
    """
    path = folder / name
    if path.is_file():
        return path
    there = _list_images(path.parent)
    same = there.by_name.get(_key(path.name)) or there.by_stem.get(_key(_stem(path.name)), [])
    if len(same) > 1:
        raise DataError(
            f"{path} is not there, and {', '.join(map(repr, same))} would all do. Keep one, or give its very name."
        )
    return path.parent / same[0] if same else None


def find_rivals(splits: Mapping[str, Iterable[Post]]) -> frozenset[str]:
    """Return those names of images that differ from another one in case or suffix alone.

    Each must be the very name of a file: else one file might be taken for the images of two posts.

    Args:
        splits (`Mapping[str, Iterable[Post]]`): The posts of all splits.
    """
    by_key = defaultdict(set)
    for name in (name for posts in splits.values() for post in posts for name in post.image_names):
        by_key[_key(_stem(name))].add(name)
    return frozenset(name for same in by_key.values() if len(same) > 1 for name in same)


def read_image_of(folder: Path | None, name: str, rivals: Collection[str] = ()) -> tuple[str, bytes | None]:
    """Find and read an image.

    Args:
        folder (`Path`, *optional*): The folder of images; without one, every image is missing.
        name (`str`): The image's name.
        rivals (`Collection[str]`, *optional*): Those of [`find_rivals`].

    Returns:
        `tuple[str, bytes | None]`: as of [`~repair.read_image`], or `"ambiguous"` if several files would do, or one
        that may be another post's.
    """
    if folder is None:
        return "missing", None
    try:
        path = find_image(folder, name)
    except DataError:
        return "ambiguous", None
    if path is None:
        return "missing", None
    # Where the file system does not tell cases apart, the path alone does not say how the file is called.
    if name in rivals and Path(name).name not in _list_images(path.parent).names:
        return "ambiguous", None
    return read_image(path)


class ImagePattern:
    """Gives the names of a post's images by the post's id.

    Args:
        folder (`Path`, *optional*): The folder of images; without one, no number and no `*` is found.
        pattern (`str`): `"{id}.jpg"`, a post's only image; `"{id}_{n}.jpg"`, numbered ones from 0 or 1 on; or
            `"{id}_*"`, all that are so called, by name, or by number if they differ in numbers alone. Other suffixes of
            image formats will do as well.

    Raises:
        DataError: if the pattern can't be used.
    """

    def __init__(self, folder: Path | None, pattern: str):
        self.folder, self.pattern = folder, pattern
        fields, stars = re.findall(r"\{(.*?)\}", pattern), pattern.count("*")
        if fields.count("id") != 1 or set(fields) - {"id", "n"} or fields.count("n") + stars > 1 or "/" in pattern:
            raise DataError(
                f"The pattern of images must have {{id}} once, and {{n}} or * at most once, such as '{{id}}.jpg', "
                f"'{{id}}_{{n}}.jpg' or '{{id}}_*', got {pattern!r}. Correct --image_pattern."
            )
        self.has_number, self.has_star = "n" in fields, stars == 1
        self._owners: dict[str, str] = {}
        numbers = (int(found[1]) for _, found in self._match(None, "([0-9]+)")) if self.has_number else ()
        self._first = min(numbers, default=0)

    def names(self, post_id: str) -> list[str]:
        """Name the images of a post, in order.

        Args:
            post_id (`str`): The post's id.

        Returns:
            `list[str]`: their names; of numbered ones also those that are missing in between.

        Raises:
            DataError: if an image's name fits another post as well, or numbers can't be those of a post's images.
        """
        if self.has_number:
            names = self._numbered(post_id)
        elif self.has_star:
            names = _in_order([name for name, _ in self._match(post_id, ".*")])
        else:
            return [self._fill(post_id, "")]
        for name in names:
            owner = self._owners.setdefault(name, post_id)
            if owner != post_id:
                raise DataError(
                    f"The image {name!r} fits the posts {owner!r} and {post_id!r} by the pattern {self.pattern!r}. "
                    "Rename it, or give a pattern that tells them apart."
                )
        return names

    def warn_of_none(self, splits: Mapping[str, Iterable[Post]]) -> None:
        """Say so if no post of any split has an image in the folder that was given."""
        if self.folder is not None and not any(post.image_names for posts in splits.values() for post in posts):
            logger.warning(
                f"No image in {self.folder} is called as {self.pattern!r} says of any post, so that no post has one. "
                "Correct --image_pattern, or give the very folder that they lie in as --images, not one above it."
            )

    def _fill(self, post_id: str, number: str) -> str:
        return self.pattern.replace("{n}", number).replace("{id}", post_id)

    def _numbered(self, post_id: str) -> list[str]:
        """Name the images of a post from the first number to the last, as the numbers are written."""
        found: dict[int, str] = {}
        for name, numbered in self._match(post_id, "([0-9]+)"):
            if found.setdefault(int(numbered[1]), numbered[1]) != numbered[1]:
                raise DataError(f"Post {post_id!r} has two images of the number {int(numbered[1])}, {name!r} is one.")
        numbers = range(self._first, max(found, default=self._first - 1) + 1)
        if len(numbers) > len(found) + MOST_GAPS:
            raise DataError(
                f"Post {post_id!r} has {len(found)} images, with numbers up to {max(found)}. Expected those of a "
                f"sequence. Give --image_pattern '{self.pattern.replace('{n}', '*')}' to take all that are there."
            )
        return [self._fill(post_id, found.get(number, str(number))) for number in numbers]

    def _match(self, post_id: str | None, rest: str) -> list[tuple[str, re.Match]]:
        """Match the names of a post's images, or of all: those with its very id or, without any, in another case."""
        pattern = self.pattern if self.has_star else _stem(self.pattern)
        for spell in (_key,) if post_id is None else (_composed, _key):
            owner = ".+" if post_id is None else re.escape(spell(post_id))
            text = re.escape(spell(pattern)).replace(r"\{n\}", rest).replace(r"\*", rest).replace(r"\{id\}", owner)
            match = re.compile(text)
            tried = ((name, match.fullmatch(spell(_stem(name)))) for name in self._candidates(post_id))
            if self.has_star:
                tried = ((name, found or match.fullmatch(spell(name))) for name, found in tried)
            if matched := [(name, found) for name, found in tried if found]:
                return matched
        return []

    def _candidates(self, post_id: str | None) -> list[str]:
        """List the images whose names begin as a post's do, or all."""
        if self.folder is None:
            return []
        begin = "" if post_id is None else re.split(r"\{n\}|\*", self.pattern)[0].replace("{id}", post_id)
        return _list_images(self.folder).beginning_with(_key(begin))


class _ImageNames:
    """The names of a folder's images, and what is the same for names that differ in case or suffix only."""

    def __init__(self, names: Iterable[str]):
        self.names = frozenset(names)
        self.sorted = sorted((_key(name), name) for name in self.names)
        self.by_name, self.by_stem = defaultdict(list), defaultdict(list)
        for key, name in self.sorted:
            self.by_name[key].append(name)
            self.by_stem[_key(_stem(name))].append(name)

    def beginning_with(self, begin: str) -> list[str]:
        first = bisect.bisect_left(self.sorted, (begin, ""))
        return [
            name
            for _, name in itertools.takewhile(
                lambda pair: pair[0].startswith(begin), itertools.islice(self.sorted, first, None)
            )
        ]


def _stem(name: str) -> str:
    """Return a name without the suffix of an image format."""
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def _composed(name: str) -> str:
    """Return what is the same for names that differ in how their accents are written."""
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    """Return what is the same for names that differ in case, too."""
    return _composed(name).casefold()


def _in_order(names: list[str]) -> list[str]:
    """Sort names that differ in numbers alone by these: a post's image 2 comes in front of its image 10."""
    parts = {name: re.split("([0-9]+)", _key(_stem(name))) for name in names}
    if len({tuple(texts[::2]) for texts in parts.values()}) > 1:
        return names
    return sorted(names, key=lambda name: list(map(int, parts[name][1::2])))


def _list_images(folder: Path) -> _ImageNames:
    return _list_files(folder, folder.stat().st_mtime_ns) if folder.is_dir() else _ImageNames(())


@lru_cache(maxsize=64)
def _list_files(folder: Path, changed: int) -> _ImageNames:
    """List the images of a folder, once for each state of it."""
    return _ImageNames(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())

"""Disturb the images of posts: the same posts and level give the same images.

Levels are nested: what is taken away, exchanged or added at one is also at the next.
"""

import io
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, List
from PIL import ImageFilter

from smcl.images_smcl import load_image

# An image as a data set keeps it: its file's bytes or its path.
Stored = dict[str, Any]
Posts = list[list[Stored]]

# What is done, and how much: a number of images, or percent. 0 leaves posts as they are.
LEVELS = {
    "irrelevant": (0, 1, 2, 3),
    "exchanged": (0, 25, 50, 75, 100),
    "missing": (0, 25, 50, 75, 100),
    "blurred": (0, 2, 4, 8, 16),
    "cut": (0, 25, 50, 75),
}
MEANINGS = {
    "irrelevant": "photographs added that show none of the post's mentions, between its own, at most to `max_images`",
    "exchanged": "percent of posts with images that have those of another post",
    "missing": "percent of images taken away",
    "blurred": "radius of a Gaussian blur, in percent of the shorter side",
    "cut": "percent of each side cut away, the rest from a random place",
}


def _rng(*names: object) -> random.Random:
    return random.Random("-".join(map(str, (0, *names))))


def add_irrelevant(images: Posts, level: int, pool: Sequence[tuple[int, Stored]], most: int) -> Posts:
    """Add photographs to posts.

    Args:
        images (`list[list[dict]]`): The images of each post.
        level (`int`): How many to add, as far as there is room.
        pool (`Sequence[tuple[int, dict]]`): The photographs with the posts that they are of, which do not get them.
        most (`int`): Most images of a post.
    """
    found = []
    for row, own in enumerate(images):
        rng, mixed = _rng("irrelevant", row), list(own)
        others = [image for owner, image in pool if owner != row]
        drawn = rng.sample(others, min(len(others), max(LEVELS["irrelevant"])))
        for image in drawn[: max(0, min(level, most - len(own)))]:
            mixed.insert(rng.randint(0, len(mixed)), image)
        found.append(mixed)
    return found


def exchange(images: Posts, level: int) -> Posts:
    """Give `level` percent of the posts with images those of another such post."""
    rows = [row for row, own in enumerate(images) if own]
    _rng("exchanged").shuffle(rows)
    found = list(images)
    for place, row in enumerate(rows[: round(level / 100 * len(rows))]):
        found[row] = images[rows[place - 1]]
    return found


def remove(images: Posts, level: int) -> Posts:
    """Take `level` percent of the images away, each by its own lot."""
    rng = _rng("missing")
    lots = [[rng.random() for _ in own] for own in images]
    return [
        [image for image, lot in zip(own, row, strict=True) if 100 * lot >= level]
        for own, row in zip(images, lots, strict=True)
    ]


def _redraw(images: Posts, change: Callable) -> Posts:
    """Decode each image, change it and keep it without loss."""
    found = []
    for row, own in enumerate(images):
        found.append([])
        for slot, image in enumerate(own):
            file = io.BytesIO()
            change(load_image(image), row, slot).save(file, "png")
            found[-1].append({"bytes": file.getvalue(), "path": image.get("path")})
    return found


def blur(images: Posts, level: int) -> Posts:
    """Blur each image by a radius of `level` percent of its shorter side."""
    return _redraw(images, lambda x, *_: x.filter(ImageFilter.GaussianBlur(level / 100 * min(x.size))))


def cut(images: Posts, level: int) -> Posts:
    """Cut `level` percent of each side away; what stays is the same part at each level, as far as it is that large."""

    def crop(image, row: int, slot: int):
        rng = _rng("cut", row, slot)
        size = [max(1, round(side * (1 - level / 100))) for side in image.size]
        left, top = (round(rng.random() * (side - kept)) for side, kept in zip(image.size, size, strict=True))
        return image.crop((left, top, left + size[0], top + size[1]))

    return _redraw(images, crop)


def irrelevant_photographs(
    images: Posts, ids: Sequence[str], mentions: dict[str, list] | None, showing: dict[str, list] | None
) -> list[tuple[int, Stored]]:
    """Find photographs that show nothing which is mentioned.

    In posts with image-dependent mentions, those are all that show none of these: the maker of the posts put them there
    as noise. Without knowing which images show mentions, all images count.

    Args:
        images (`list[list[dict]]`): The images of each post.
        ids (`Sequence[str]`): Its id.
        mentions (`dict`, *optional*): Spans of the image-dependent mentions by post id.
        showing (`dict`, *optional*): The names of the images that show these, in order, by post id.

    Returns:
        `list[tuple[int, dict]]`: the row of a post, and a photograph of it.
    """
    if mentions is None or showing is None:
        return [(row, image) for row, own in enumerate(images) for image in own]
    return [
        (row, image)
        for row, (own, post_id) in enumerate(zip(images, ids, strict=True))
        if mentions[post_id]
        for image in own
        if name_of(image) not in showing[post_id]
    ]


def name_of(image: Stored) -> str:
    """Return the file name of an image as it is stored, with or without its folder; empty if it has none."""
    return Path(image["path"] or "").name


def stored_images(posts: Dataset) -> Posts:
    """Return the images of each post as they are kept."""
    column = posts.select_columns(["images"]).cast_column("images", List(Image(decode=False)))
    return [own or [] for own in column["images"]]


def disturb(
    posts: Dataset,
    kind: str,
    level: int,
    pool: Collection[tuple[int, Stored]] = (),
    most: int = 4,
) -> Dataset:
    """Disturb the images of posts.

    Args:
        posts (`Dataset`): The posts, with `images`.
        kind (`str`): One of `LEVELS`.
        level (`int`): How much, as `MEANINGS` says.
        pool (`Collection[tuple[int, dict]]`, *optional*): What `irrelevant_photographs` found.
        most (`int`, *optional*, defaults to 4): Most images of a post.

    Returns:
        `Dataset`: the same posts with other images.
    """
    images = stored_images(posts)
    if level and kind == "irrelevant":
        images = add_irrelevant(images, level, list(pool), most)
    elif level:
        images = {"exchanged": exchange, "missing": remove, "blurred": blur, "cut": cut}[kind](images, level)
    return posts.remove_columns("images").add_column("images", images, feature=List(Image()))

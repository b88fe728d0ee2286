"""Generate icon posts, a demo set in which only the images tell an entity's type.

The posts are short templates, in English, filled with names that could be anything. The type of a name is drawn at
random and shown by an icon: a person (PER), a building (LOC), a star-shaped logo (ORG) or a cat's head (MISC). The
k-th icon of a post shows its k-th name; up to 3 images of scribbles stand anywhere between, 4 images in all at most.
Text alone therefore reaches an F1 of about 0.25, even if it finds every name.

    python -m smcl.dataset_scripts.icons --output OUT [--train 2000 --validation 300 --test 600 --seed 0]
"""

import argparse
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from .images import encode_png
from .schema import ENTITY_TYPES, Post, make_post, write_json
from .writer import run_command, write_dataset

ICON_OF_TYPE = dict(zip(ENTITY_TYPES, ["person", "building", "logo", "cat"], strict=True))
KINDS = [*ICON_OF_TYPE.values(), "noise"]
MAX_IMAGES = 4
MAX_NOISE = 3
SECOND_NAME_RATE = 0.35
# Icons are drawn this many times larger and scaled down, which smooths their edges.
OVERSAMPLING = 3

Colour = tuple[int, int, int]
Point = tuple[float, float]

NAMES = (
    "Aster Auburn Avalon Banjo Basil Birch Bismarck Bonanza Camden Canyon Casper Cedar Chester Clover Cobalt Comet "
    "Coral Crimson Cypress Dallas Dante Ember Fable Fenwick Finch Florence Galaxy Granite Harley Harper Hazel Houston "
    "Iris Ivory Jade Juniper Kestrel Lancaster Legend Lyric Magnolia Maple Marlow Mistral Monroe Montana Nimbus Odessa "
    "Olympia Onyx Opal Pacific Paloma Pepper Quill Raven Regent Rowan Saffron Salem Sterling Summit Tango Tempest "
    "Valencia Verona Victoria Willow Winslow Zephyr"
).split()
SECOND_NAMES = "Ash Blue Bridge Cross Dawn Drake Field Grant Hart Hollow Lane Moss North Reed Shore West".split()

ONE_NAME_TEMPLATES = """
just saw {} again
{} made my day
so happy about {} today
thinking of {} tonight
cannot stop talking about {}
this is {} !
everyone loves {}
look , it is {}
finally {} in one picture
no words for {}
good morning from me and {}
i will never forget {}
who else knows {} ?
{} looks great this year
my favourite is {} and always will be
remember {} ? what a time
here is {} once more
have you heard the news about {} ?
we are all waiting for {}
{} , nothing more to say
guess what , {} is back
my first photo of {}
""".strip().splitlines()
TWO_NAME_TEMPLATES = """
{} and {} on the same day
first {} , then {}
{} or {} ? hard to say
all about {} and {} this week
saw {} and thought of {}
from {} to {} in one hour
{} is great but {} is better
what do {} and {} have in common ?
more {} , less {} please
today it is {} , tomorrow {}
{} reminds me of {}
still talking about {} with {} in mind
good morning {} , good night {}
two of my favourites : {} and {}
not {} again , i wanted {}
look at {} next to {}
a bit of {} and a lot of {}
i know {} and you know {}
""".strip().splitlines()


def draw_icon(kind: str, rng: random.Random, size: int = 48) -> Image.Image:
    """Draw one icon or a scribble, in random colours, at a random place and size, with specks over it.

    Args:
        kind (`str`): One of `KINDS`.
        rng (`random.Random`): Decides everything else.
        size (`int`, *optional*, defaults to 48): Height and width in pixels.

    Returns:
        `PIL.Image.Image`: an RGB image.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in _DRAWERS:
        raise ValueError(f"Unknown kind of icon {kind!r}. Expected one of {', '.join(KINDS)}.")
    ink, paper = _draw_colours(rng)
    canvas = size * OVERSAMPLING
    image = Image.new("RGB", (canvas, canvas), paper)
    side = canvas * rng.uniform(0.7, 0.95)
    left, top = (rng.uniform(0, canvas - side) for _ in range(2))
    _DRAWERS[kind](_Pen(image, left, top, side, ink, paper), rng)
    image = image.resize((size, size), Image.Resampling.BOX)
    for _ in range(rng.randint(0, size // 4)):
        image.putpixel((rng.randrange(size), rng.randrange(size)), _random_colour(rng))
    return image


class _Pen:
    """Draws in a square of an image, in coordinates from 0 to 1."""

    def __init__(self, image: Image.Image, left: float, top: float, side: float, ink: Colour, paper: Colour):
        self.draw = ImageDraw.Draw(image)
        self.left, self.top, self.side = left, top, side
        self.ink, self.paper = ink, paper

    def at(self, points: list[Point]) -> list[Point]:
        return [(self.left + x * self.side, self.top + y * self.side) for x, y in points]

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.draw.ellipse(self.at([(x0, y0), (x1, y1)]), fill=fill)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.draw.rectangle(self.at([(x0, y0), (x1, y1)]), fill=fill)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.draw.polygon(self.at(points), fill=fill)

    def line(self, points: list[Point], fill: Colour, width: float) -> None:
        self.draw.line(self.at(points), fill=fill, width=max(1, round(width * self.side)), joint="curve")


def _random_colour(rng: random.Random) -> Colour:
    return tuple(rng.randrange(256) for _ in range(3))


def _luminance(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _draw_colours(rng: random.Random) -> tuple[Colour, Colour]:
    """Draw a dark and a light colour that differ enough in luminance to be told apart."""
    while True:
        ink, paper = _random_colour(rng), _random_colour(rng)
        if _luminance(paper) - _luminance(ink) >= 80:
            return ink, paper


def _draw_person(pen: _Pen, rng: random.Random) -> None:
    arms = rng.uniform(0.25, 0.6)
    pen.ellipse(0.36, 0.0, 0.64, 0.28, pen.ink)
    pen.polygon([(0.36, 0.31), (0.64, 0.31), (0.6, 0.66), (0.4, 0.66)], pen.ink)
    for side in (-1, 1):
        pen.line([(0.5 + side * 0.1, 0.35), (0.5 + side * 0.38, arms)], pen.ink, 0.09)
        pen.line([(0.5 + side * 0.05, 0.62), (0.5 + side * 0.18, 1.0)], pen.ink, 0.12)


def _draw_building(pen: _Pen, rng: random.Random) -> None:
    width = rng.uniform(0.26, 0.38)
    left, right = 0.5 - width, 0.5 + width
    pen.rectangle(left, 0.05, right, 1.0, pen.ink)
    columns, rows = rng.randint(2, 3), rng.randint(3, 4)
    step_x, step_y = (right - left) / columns, 0.72 / rows
    for column in range(columns):
        for row in range(rows):
            x, y = left + (column + 0.25) * step_x, 0.1 + (row + 0.2) * step_y
            pen.rectangle(x, y, x + step_x / 2, y + step_y * 0.6, pen.paper)
    pen.rectangle(0.43, 0.83, 0.57, 1.0, pen.paper)


def _draw_logo(pen: _Pen, rng: random.Random) -> None:
    turn = rng.uniform(-0.3, 0.3)
    points = []
    for corner in range(10):
        radius = 0.5 if corner % 2 == 0 else 0.21
        angle = turn + math.pi * corner / 5
        points.append((0.5 + radius * math.sin(angle), 0.5 - radius * math.cos(angle)))
    pen.polygon(points, pen.ink)


def _draw_cat(pen: _Pen, rng: random.Random) -> None:
    pen.ellipse(0.08, 0.25, 0.92, 0.97, pen.ink)
    for side in (-1, 1):
        pen.polygon([(0.5 + side * 0.4, 0.0), (0.5 + side * 0.41, 0.55), (0.5 + side * 0.08, 0.3)], pen.ink)
        eye = 0.5 + side * 0.18
        pen.ellipse(eye - 0.08, 0.46, eye + 0.08, 0.62, pen.paper)
        pen.line([(0.5 + side * 0.15, 0.78), (0.5 + side * 0.5, 0.72 + rng.uniform(-0.06, 0.06))], pen.paper, 0.03)
    pen.polygon([(0.42, 0.68), (0.58, 0.68), (0.5, 0.78)], pen.paper)


def _draw_noise(pen: _Pen, rng: random.Random) -> None:
    for _ in range(rng.randint(2, 5)):
        points = [(rng.random(), rng.random()) for _ in range(rng.randint(3, 6))]
        pen.line(points, pen.ink, rng.uniform(0.02, 0.09))


_DRAWERS = dict(zip(KINDS, [_draw_person, _draw_building, _draw_logo, _draw_cat, _draw_noise], strict=True))


def draw_post(post_id: str, rng: random.Random) -> tuple[Post, list[str]]:
    """Draw a post's words, tags and the kinds of its images.

    Args:
        post_id (`str`): The post's id.
        rng (`random.Random`): Decides everything else.

    Returns:
        `tuple[Post, list[str]]`: the post and the kind of each of its images.
    """
    template = rng.choice(rng.choice([ONE_NAME_TEMPLATES, TWO_NAME_TEMPLATES])).split()
    names = iter(rng.sample(NAMES, 2))
    tokens, tags, icons = [], [], []
    for word in template:
        if word != "{}":
            tokens.append(word)
            tags.append("O")
            continue
        entity_type = rng.choice(ENTITY_TYPES)
        name = [next(names)] + ([rng.choice(SECOND_NAMES)] if rng.random() < SECOND_NAME_RATE else [])
        tokens += name
        tags += [f"B-{entity_type}"] + [f"I-{entity_type}"] * (len(name) - 1)
        icons.append(ICON_OF_TYPE[entity_type])
    kinds = _mix_with_noise(icons, rng)
    image_names = [f"{post_id}_{index}.png" for index in range(len(kinds))]
    return make_post(post_id, tokens, tags, image_names, "icons", post_id), kinds


def _mix_with_noise(icons: list[str], rng: random.Random) -> list[str]:
    total = len(icons) + rng.randint(0, min(MAX_NOISE, MAX_IMAGES - len(icons)))
    places = set(rng.sample(range(total), len(icons)))
    remaining = iter(icons)
    return [next(remaining) if index in places else "noise" for index in range(total)]


def convert(
    output: str | os.PathLike, train: int = 2000, validation: int = 300, test: int = 600, seed: int = 0
) -> dict[str, Any]:
    """Generate icon posts as Parquet, and `image_kinds.json` with the kinds of each post's images.

    The same seed gives the same data; each split is drawn independently of the others' sizes.

    Args:
        output (`str` or `os.PathLike`): The folder to write to.
        train (`int`, *optional*, defaults to 2000): Number of training posts.
        validation (`int`, *optional*, defaults to 300): Number of validation posts.
        test (`int`, *optional*, defaults to 600): Number of test posts.
        seed (`int`, *optional*, defaults to 0): Seed of everything random.

    Returns:
        `dict`: the report, see [`write_dataset`].

    Raises:
        DataError: if a split is empty or the output cannot be a folder.
    """
    splits, kinds_of_posts, kinds_of_images = {}, {}, {}
    for split, count in {"train": train, "validation": validation, "test": test}.items():
        rng = random.Random(f"{seed} {split}")
        splits[split] = []
        for index in range(count):
            post, kinds = draw_post(f"icons-{split}-{index}", rng)
            splits[split].append(post)
            kinds_of_posts[post.id] = kinds
            kinds_of_images.update(zip(post.image_names, kinds, strict=True))

    def read(name: str) -> tuple[str, bytes]:
        # A stream of its own for each image lets it be drawn when it is written, not held until then.
        return "ok", encode_png(draw_icon(kinds_of_images[name], random.Random(f"{seed} {name}")))

    report = write_dataset(output, "icons", splits, read)
    write_json(kinds_of_posts, Path(output) / "image_kinds.json")
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder to write Parquet files to")
    parser.add_argument("--train", type=int, default=2000, help="number of training posts (default: %(default)s)")
    parser.add_argument("--validation", type=int, default=300, help="number of validation posts (default: %(default)s)")
    parser.add_argument("--test", type=int, default=600, help="number of test posts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    run_command(parser, convert, **vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()

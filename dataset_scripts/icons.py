"""Generate icon posts, a demo set in which only the images tell an entity's type.

The posts are short templates, in English, filled with names that could be anything. The type of a name is drawn at
random and shown by an icon: a person (PER), a building (LOC), a star-shaped logo (ORG) or a cat's head (MISC). The
k-th icon of a post shows its k-th name; up to 3 images of scribbles stand anywhere between, 4 images in all at most.
Text alone therefore reaches an F1 of about 0.25, even if it finds every name.

    python -m smcl.dataset_scripts.icons --output OUT [--train 2000 --validation 300 --test 600 --seed 0]
    python -m smcl.dataset_scripts.icons --output OUT --setting hard

By default these posts are easy: any model that reads images comes close to 1. [`Difficulty`] says what can be made
harder, and `--setting hard` is a setting at which systems lie apart.
"""

import math
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from .command_line import CommandParser
from .icon_difficulty import EASY, SETTINGS, Difficulty
from .repair import encode_png
from .schema import ENTITY_TYPES, Post, make_post, write_json
from .writer import run_command, write_dataset

ICON_OF_TYPE = dict(zip(ENTITY_TYPES, ["person", "building", "logo", "cat"], strict=True))
KINDS = [*ICON_OF_TYPE.values(), "noise"]
MAX_IMAGES = 4
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

# Words that may stand before a name; each hints at one type.
CUE_WORDS = {
    "PER": "singer actor uncle captain doctor".split(),
    "LOC": "city village downtown island lake".split(),
    "ORG": "company team bank club airline".split(),
    "MISC": "kitten pet puppy film song".split(),
}

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


def draw_icon(kind: str, rng: random.Random, size: int = 48, difficulty: Difficulty = EASY) -> Image.Image:
    """Draw one icon or a scribble, in random colours, at a random place and size, with specks over it.

    Args:
        kind (`str`): One of `KINDS`.
        rng (`random.Random`): Decides everything else.
        size (`int`, *optional*, defaults to 48): Height and width in pixels.
        difficulty ([`Difficulty`], *optional*): The icon's size and contrast.

    Returns:
        `PIL.Image.Image`: an RGB image.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in _DRAWERS:
        raise ValueError(f"Unknown kind of icon {kind!r}. Expected one of {', '.join(KINDS)}.")
    ink, paper = _draw_colours(rng, *difficulty.contrast)
    canvas = size * OVERSAMPLING
    image = Image.new("RGB", (canvas, canvas), paper)
    side = canvas * rng.uniform(*difficulty.icon_size)
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


def _draw_colours(rng: random.Random, low: float, high: float) -> tuple[Colour, Colour]:
    """Draw a dark and a light colour whose luminances differ by `low` to `high`."""
    while True:
        ink, paper = _random_colour(rng), _random_colour(rng)
        if low <= _luminance(paper) - _luminance(ink) <= high:
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


def draw_post(post_id: str, rng: random.Random, difficulty: Difficulty = EASY) -> tuple[Post, list[str]]:
    """Draw a post's words, tags and the kinds of its images.

    Args:
        post_id (`str`): The post's id.
        rng (`random.Random`): Decides everything else.
        difficulty ([`Difficulty`], *optional*): What the words tell, and how many images are noise.

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
        first = next(names)
        entity_type = _draw_type(first, rng, difficulty.name_prior)
        # Asked for first, so that easy posts draw nothing more and stay what they were.
        if difficulty.cue_rate and rng.random() < difficulty.cue_rate:
            tokens.append(_draw_cue(entity_type, rng, difficulty.cue_conflict))
            tags.append("O")
        name = [first] + ([rng.choice(SECOND_NAMES)] if rng.random() < SECOND_NAME_RATE else [])
        tokens += name
        tags += [f"B-{entity_type}"] + [f"I-{entity_type}"] * (len(name) - 1)
        icons.append(ICON_OF_TYPE[entity_type])
    kinds = _mix_with_noise(icons, rng, *difficulty.noise_images)
    image_names = [f"{post_id}_{index}.png" for index in range(len(kinds))]
    return make_post(post_id, tokens, tags, image_names, "icons", post_id), kinds


def _draw_type(name: str, rng: random.Random, prior: float) -> str:
    """Draw a name's type: with the probability `prior` the one that the name favours, else any."""
    if prior and rng.random() < prior:
        return ENTITY_TYPES[NAMES.index(name) % len(ENTITY_TYPES)]
    return rng.choice(ENTITY_TYPES)


def _draw_cue(entity_type: str, rng: random.Random, conflict: float) -> str:
    """Draw a word that hints at a type, with the probability `conflict` at another one."""
    others = [name for name in ENTITY_TYPES if name != entity_type]
    return rng.choice(CUE_WORDS[rng.choice(others) if rng.random() < conflict else entity_type])


def _mix_with_noise(icons: list[str], rng: random.Random, fewest: int, most: int) -> list[str]:
    room = MAX_IMAGES - len(icons)
    total = len(icons) + rng.randint(min(fewest, room), min(most, room))
    places = set(rng.sample(range(total), len(icons)))
    remaining = iter(icons)
    return [next(remaining) if index in places else "noise" for index in range(total)]


def convert(
    output: str | os.PathLike,
    train: int = 2000,
    validation: int = 300,
    test: int = 600,
    seed: int = 0,
    difficulty: Difficulty = EASY,
) -> dict[str, Any]:
    """Generate icon posts as Parquet, `image_kinds.json` with the kinds of each post's images, and `difficulty.json`.

    The same seed gives the same data; each split is drawn independently of the others' sizes.

    Args:
        output (`str` or `os.PathLike`): The folder to write to.
        train (`int`, *optional*, defaults to 2000): Number of training posts.
        validation (`int`, *optional*, defaults to 300): Number of validation posts.
        test (`int`, *optional*, defaults to 600): Number of test posts.
        seed (`int`, *optional*, defaults to 0): Seed of everything random.
        difficulty ([`Difficulty`], *optional*): How hard the posts are.

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
            post, kinds = draw_post(f"icons-{split}-{index}", rng, difficulty)
            splits[split].append(post)
            kinds_of_posts[post.id] = kinds
            kinds_of_images.update(zip(post.image_names, kinds, strict=True))

    def read(name: str) -> tuple[str, bytes]:
        # A stream of its own for each image lets it be drawn when it is written, not held until then.
        icon = draw_icon(kinds_of_images[name], random.Random(f"{seed} {name}"), difficulty=difficulty)
        return "ok", encode_png(icon)

    report = write_dataset(output, "icons", splits, read)
    write_json(kinds_of_posts, Path(output) / "image_kinds.json")
    write_json(asdict(difficulty), Path(output) / "difficulty.json")
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder to write Parquet files to")
    parser.add_argument("--setting", choices=SETTINGS, default="default", help="defaults of --train and all below")
    parser.add_argument("--train", type=int, help="number of training posts (2000, or that of --setting)")
    parser.add_argument("--validation", type=int, default=300, help="number of validation posts (default: %(default)s)")
    parser.add_argument("--test", type=int, default=600, help="number of test posts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    pair = {"nargs": 2, "metavar": ("LOW", "HIGH")}
    parser.add_argument("--icon_size", type=float, **pair, help="side of an icon, share of its image's")
    parser.add_argument("--contrast", type=float, **pair, help="luminance between icon and background, of 255")
    parser.add_argument("--noise_images", type=int, **pair, help="images of scribbles in a post")
    parser.add_argument("--cue_rate", type=float, help="share of names with a word that hints at a type")
    parser.add_argument("--cue_conflict", type=float, help="share of these words that hint at a wrong type")
    parser.add_argument("--name_prior", type=float, help="share of names of the type that the name favours")
    arguments = vars(parser.parse_args(argv))
    train, easiest = SETTINGS[arguments.pop("setting")]
    knobs = {field.name: arguments.pop(field.name) for field in fields(Difficulty)}
    given = {name: tuple(x) if isinstance(x, list) else x for name, x in knobs.items() if x is not None}
    if arguments["train"] is None:
        arguments["train"] = train
    with parser.errors_in_one_line():
        difficulty = replace(easiest, **given)
    run_command(parser, convert, **arguments, difficulty=difficulty)


if __name__ == "__main__":
    main()

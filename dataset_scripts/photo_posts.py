"""Make photo posts: real tweets with names whose types only photographs show, in MNER-MI's published layout.

In most tweets one or two mentions give way to a name that could be anything, whose type is drawn at random. A
photograph shows it: an animal is MISC, a road vehicle ORG, an aircraft or a ship LOC; PER is what no photograph shows.
The k-th of these photographs belongs to the k-th of the mentions that have one. Up to two of deer or frogs, which mean
nothing, lie anywhere between.

    python -m smcl.dataset_scripts.photo_posts --tweets DIR --photos DIR --output OUT [--scale 0.5 --seed 0]
    python -m smcl.dataset_scripts.mner_mi --source OUT --output data/photo_posts

`--tweets` is Twitter-2017 or Twitter-2015 with `{train,valid,test}.txt` in UMT's CoNLL form; `--photos` has
`{train,test}/<class>/`, image files of the ten classes of CIFAR-10. Beside text and images are written:

- `image_dependent.json`: for each post id, `[first word, last word + 1]` of each mention that was replaced;
- `showing_images.json`: for each post id, in the same order, the file name of the photograph that shows the mention's
  type, or `null`. Images keep these names when they are converted.

As in the published set, a record is JSON or a Python literal, and some images are missing, truncated or empty.
"""

import json
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqeval.scheme import IOB2, Entities
from tqdm import tqdm

from . import mner_mi, twitter
from .command_line import CommandParser, say
from .files import check_writable
from .image_files import SUFFIXES
from .schema import DataError, Post, require_folder

# As MNER-MI writes them.
ENTITY_TYPES = ["PER", "LOC", "ORG", "MIS"]
NAMES = (
    "Joey Niko Jordan Austin Paris Chelsea Lincoln Mercury Jaguar Phoenix Sydney Kobe Apollo Orion Delta Virgin Falcon "
    "Georgia Luna Bella Rocky Max Duke Ace Nova Atlas Echo Juno Zara Milo Oscar Ruby Jasper Indigo Savannah Dakota "
    "Brooklyn Madison Carson Denver Hudson Logan Preston Sierra Aurora Stella Ranger Scout Titan Vega"
).split()
SECOND_NAMES = "Stone Rivers Fox Lake King Wood Hill Marsh Park Field Star Bay".split()
UNTOUCHED_RATE = 0.25
TWO_MENTIONS_RATE = 0.35
SECOND_NAME_RATE = 0.35
MAX_NOISE = 2


class Photographs(ABC):
    """What the photographs of a kind of posts show, and where they lie.

    What a photograph is to show is a motif, a name that only the class itself reads.

    Args:
        folder (`Path`): The folder of photographs, with `train` (for training and validation) and `test`.

    Raises:
        DataError: if a folder is missing, or holds no image.
    """

    # Most photographs beside a tweet in which nothing was replaced.
    most_beside = MAX_NOISE

    def __init__(self, folder: Path):
        require_folder(folder, "folder of photographs", "Check --photos.")
        self.files = {split: self.list_files(folder / split) for split in ("train", "test")}

    @abstractmethod
    def list_files(self, folder: Path) -> dict[str, Any]:
        """Return the photographs of a split by motif, in order."""

    @abstractmethod
    def choose(self, entity_type: str, rng: random.Random) -> str | None:
        """Return a motif that shows that a name is of the type, `None` if it is to have no photograph."""

    @abstractmethod
    def choose_noise(self, rng: random.Random) -> str:
        """Return a motif that means nothing."""

    @abstractmethod
    def choose_any(self, rng: random.Random) -> str:
        """Return a motif for a tweet in which nothing was replaced."""

    @abstractmethod
    def draw(self, motif: str, split: str, rng: random.Random) -> Path:
        """Return a photograph of the motif."""


class CifarPhotographs(Photographs):
    """The ten classes of CIFAR-10, `{train,test}/<class>/`; a class is a motif. See [`Photographs`]."""

    classes_of_types = {
        "MIS": ["bird", "cat", "dog", "horse"],
        "ORG": ["automobile", "truck"],
        "LOC": ["airplane", "ship"],
    }
    noise = ["deer", "frog"]

    def list_files(self, folder: Path) -> dict[str, list[Path]]:
        """Return the photographs of each class."""
        names = [name for names in (*self.classes_of_types.values(), self.noise) for name in names]
        return {name: list_photographs(folder / name) for name in names}

    def choose(self, entity_type: str, rng: random.Random) -> str | None:
        """Return a class of the type, `None` for PER."""
        return rng.choice(self.classes_of_types[entity_type]) if entity_type in self.classes_of_types else None

    def choose_noise(self, rng: random.Random) -> str:
        """Return deer or frog."""
        return rng.choice(self.noise)

    choose_any = choose_noise

    def draw(self, motif: str, split: str, rng: random.Random) -> Path:
        """Return a photograph of the class."""
        return rng.choice(self.files[split][motif])


def list_photographs(folder: Path) -> list[Path]:
    """List the images of a folder by name; a `DataError` says so if there is no folder or no image."""
    require_folder(folder, "photographs", "Put image files of this class there, or check --photos.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"There is no image in {folder}. Expected one at least, such as 1.jpg. Check --photos.")
    return files


@dataclass
class Rewritten:
    """A tweet with some mentions replaced.

    Args:
        words (`list[str]`): Its words.
        tags (`list[str]`): A tag for each, of the published types.
        spans (`list[tuple[int, int]]`): First word, and last word + 1 of each mention that was replaced.
        motifs (`list[str | None]`): For each of these, what its photograph is to show.
    """

    words: list[str]
    tags: list[str]
    spans: list[tuple[int, int]]
    motifs: list[str | None]


def rewrite(post: Post, photographs: Photographs, rng: random.Random) -> Rewritten:
    """Replace one or two mentions of a tweet, in most tweets, by names of types drawn at random.

    Args:
        post (`Post`): The tweet, with the tags of its file in `published_tags`.
        photographs ([`Photographs`]): Says what is to show the types.
        rng (`random.Random`): Decides everything.

    Returns:
        [`Rewritten`]: without a mention, or by chance, as it was.
    """
    tags = [tag.replace("MISC", "MIS") for tag in post.tags]
    mentions = sorted((entity.start, entity.end) for entity in Entities([tags], IOB2).entities[0])
    new = Rewritten([], [], [], [])
    if not mentions or rng.random() < UNTOUCHED_RATE:
        return Rewritten(post.tokens, tags, [], [])
    count = 2 if len(mentions) > 1 and rng.random() < TWO_MENTIONS_RATE else 1
    copied = 0
    for start, end in sorted(rng.sample(mentions, count)):
        new.words += post.tokens[copied:start]
        new.tags += tags[copied:start]
        name = [rng.choice(NAMES)]
        if rng.random() < SECOND_NAME_RATE:
            name.append(rng.choice(SECOND_NAMES))
        entity_type = rng.choice(ENTITY_TYPES)
        new.spans.append((len(new.words), len(new.words) + len(name)))
        new.words += name
        new.tags += [f"B-{entity_type}", f"I-{entity_type}"][: len(name)]
        new.motifs.append(photographs.choose(entity_type, rng))
        copied = end
    new.words += post.tokens[copied:]
    new.tags += tags[copied:]
    return new


def lay_out(
    motifs: list[str | None], photographs: Photographs, rng: random.Random
) -> tuple[list[str], list[int | None]]:
    """Put a post's photographs in order, with up to two between that mean nothing.

    Args:
        motifs (`list[str | None]`): Of the mentions that were replaced.
        photographs ([`Photographs`]): Gives the other motifs.
        rng (`random.Random`): Decides the rest.

    Returns:
        `tuple[list[str], list[int | None]]`: the motif of each photograph; for each mention, its photograph.
    """
    if not motifs:
        return [photographs.choose_any(rng) for _ in range(rng.randint(0, photographs.most_beside))], []
    shown = [motif for motif in motifs if motif is not None]
    total = len(shown) + rng.randint(0, MAX_NOISE)
    places = sorted(rng.sample(range(total), len(shown)))
    at = dict(zip(places, shown, strict=True))
    images = [at[place] if place in at else photographs.choose_noise(rng) for place in range(total)]
    left = iter(places)
    return images, [None if motif is None else next(left) for motif in motifs]


def place_photograph(source: Path, target: Path, rng: random.Random) -> None:
    """Copy a photograph: of 1,000, about ten are left out, ten truncated and two empty."""
    luck = rng.random()
    if luck < 0.01:
        return
    data = source.read_bytes()
    if luck < 0.02:
        data = data[:-2]
    elif luck < 0.022:
        data = b""
    target.write_bytes(data)


def make_posts(
    tweets: str | os.PathLike,
    photographs: Photographs,
    output: str | os.PathLike,
    scale: float = 1.0,
    seed: int = 0,
) -> dict[str, int]:
    """Write posts in MNER-MI's published layout, and the tweets as they were as MNER-MI-Plus's further posts.

    Args:
        tweets (`str` or `os.PathLike`): The folder of the tweets.
        photographs ([`Photographs`]): Their photographs.
        output (`str` or `os.PathLike`): A new or empty folder to write to.
        scale (`float`, *optional*, defaults to 1.0): Share of the tweets of each split, from its beginning.
        seed (`int`, *optional*, defaults to 0): Decides everything random.

    Returns:
        `dict[str, int]`: how many posts, photographs, mentions that were replaced, and of these with a photograph.

    Raises:
        DataError: if the tweets can't be read, `scale` is not above 0 and at most 1, or `output` holds anything.
    """
    if not 0 < scale <= 1:
        raise DataError(f"Expected --scale to be above 0 and at most 1, got {scale}. Leave it out for all tweets.")
    require_folder(Path(tweets), "folder of tweets", "Check --tweets.")
    splits = {
        suffix: list(twitter.read_posts(Path(tweets) / twitter.FILES[split], "twitter2017"))
        for split, suffix in mner_mi.FILE_SPLITS.items()
    }
    for suffix, posts in splits.items():
        if not posts:
            raise DataError(f"{tweets} has no tweets for {suffix}. Expected one at least. Check --tweets.")
    writer = _Writer(_new_folder(Path(output)), photographs, random.Random(seed))
    for suffix, posts in splits.items():
        writer.write_split(suffix, posts[: max(1, round(len(posts) * scale))])
    return writer.finish()


def _new_folder(output: Path) -> Path:
    try:
        check_writable(output, "--output")
    except ValueError as error:
        raise DataError(str(error)) from error
    if output.is_dir() and any(output.iterdir()):
        raise DataError(f"Expected --output to be a new or empty folder, but {output} holds files. Choose another.")
    for name in ("text", "images", "twitter2017_images"):
        (output / name).mkdir(parents=True)
    return output


class _Writer:
    """Writes the splits one after the other: they share their random numbers and count posts through."""

    def __init__(self, output: Path, photographs: Photographs, rng: random.Random):
        self.output, self.photographs, self.rng = output, photographs, rng
        self.dependent: dict[str, list[tuple[int, int]]] = {}
        self.showing: dict[str, list[str | None]] = {}
        self.num_images = 0

    def write_split(self, suffix: str, posts: list[Post]) -> None:
        split = "test" if suffix == "test" else "train"
        records, untouched = [], []
        for post in tqdm(posts, desc=suffix, unit=" posts"):
            records.append(self._write_post(post, split))
            untouched.append(self._write_tweet(post, split))
        for stem, chosen in (("MNER-MI", records), ("MNER-UNI", records + untouched)):
            as_json = (self.rng.random() < 0.5 for _ in chosen)
            lines = [json.dumps(x, ensure_ascii=False) if j else repr(x) for x, j in zip(chosen, as_json, strict=True)]
            path = self.output / "text" / f"{stem}_{suffix}.txt"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _write_post(self, post: Post, split: str) -> dict[str, Any]:
        number = len(self.dependent)
        new = rewrite(post, self.photographs, self.rng)
        motifs, places = lay_out(new.motifs, self.photographs, self.rng)
        names = [f"{number}_{place}.jpg" for place in range(len(motifs))]
        for name, motif in zip(names, motifs, strict=True):
            self._place(motif, split, self.output / "images" / name)
        self.dependent[str(number)] = new.spans
        self.showing[str(number)] = [None if place is None else names[place] for place in places]
        self.num_images += len(names)
        return {"id": number, "text": new.words, "images": names, "label": new.tags, "url": ""}

    def _write_tweet(self, post: Post, split: str) -> dict[str, Any]:
        post_id = mner_mi.TWITTER2017_PREFIX + post.id
        motif = self.photographs.choose_any(self.rng)
        self._place(motif, split, self.output / "twitter2017_images" / f"{post.id}.jpg")
        return {"id": post_id, "text": post.tokens, "images": [f"{post_id}.jpg"], "label": post.tags, "url": ""}

    def _place(self, motif: str, split: str, target: Path) -> None:
        place_photograph(self.photographs.draw(motif, split, self.rng), target, self.rng)

    def finish(self) -> dict[str, int]:
        for name, value in (("image_dependent", self.dependent), ("showing_images", self.showing)):
            (self.output / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
        shown = [name for names in self.showing.values() for name in names]
        return {
            "posts": len(self.dependent),
            "images": self.num_images,
            "mentions": len(shown),
            "shown": sum(name is not None for name in shown),
        }


def run_maker(doc: str, photographs: type[Photographs], argv: Sequence[str] | None) -> None:
    """Run the command line of a maker.

    Args:
        doc (`str`): The module's text, for `--help`.
        photographs (`type`): The subclass of [`Photographs`].
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(doc)
    parser.add_argument("--tweets", type=Path, required=True, help="the folder of {train,valid,test}.txt")
    parser.add_argument("--photos", type=Path, required=True, help="the folder of photographs, see above")
    parser.add_argument("--output", type=Path, required=True, help="a new or empty folder to write to")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each split's tweets (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    arguments = parser.parse_args(argv)
    with parser.errors_in_one_line():
        counts = make_posts(
            arguments.tweets, photographs(arguments.photos), arguments.output, arguments.scale, arguments.seed
        )
    say(
        f"{counts['posts']} posts, {counts['images']} images; {counts['mentions']} mentions replaced, "
        f"{counts['shown']} of them shown by an image. Next:\n"
        f"  python -m smcl.dataset_scripts.mner_mi --source {arguments.output} --output DATA\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; `argv` are the arguments, those of the process by default."""
    run_maker(__doc__, CifarPhotographs, argv)


if __name__ == "__main__":
    main()

r"""Convert text files with a word and its tag a line (CoNLL) to Parquet.

An empty line ends a post, and so does one that begins with -DOCSTART-. Columns, separator, scheme of the tags and the
names of images are arguments:

    python -m smcl.dataset_scripts.conll --train train.txt --validation dev.txt --test test.txt --output OUT
    python -m smcl.dataset_scripts.conll --train train.bio --separator space --tag_column 3 --tag_scheme iob1 \
        --comment "# " --output OUT
    python -m smcl.dataset_scripts.conll --train train.txt --id_prefix "# id = " --images DIR \
        --image_pattern "{id}_{n}.jpg" --output OUT
"""

import argparse
import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from .columns import check_labels
from .command_line import CommandParser
from .image_files import ImagePattern, find_rivals, read_image_of
from .report import count_illegal_transitions
from .schema import DataError, Post, make_post, normalise_tag, read_lines, require_folder
from .tag_schemes import (
    bio2_labels,
    read_spelling,
    scheme_name,
    to_bio2,
    warn_of_like_types,
    warn_of_stray_tags,
)
from .writer import add_processes_argument, run_command, write_dataset

logger = logging.get_logger(__name__)

SPLITS = ("train", "validation", "test")
# Begins the line that parts documents in the files of the CoNLL shared tasks.
DOCUMENT_START = "-DOCSTART-"
# What most schemes call a tag, to tell a word from a comment that happens to have as many columns.
_TAG = re.compile(r"O|[BIESLUM][-_].+", re.IGNORECASE)
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
# Begins the line of an id, as `format_post` writes it.
ID_PREFIX = "IMGID:"
SEPARATORS = {"tab": "\t", "space": " ", "comma": ",", "whitespace": None}


@dataclass(frozen=True)
class Layout:
    r"""How a file is written.

    Args:
        separator (`str`, *optional*, defaults to `"\t"`): What parts the columns; `None` is any white space.
        word_column (`int`, *optional*, defaults to 0): The column of words, from 0; negative ones count from the end.
        tag_column (`int`, *optional*, defaults to -1): The column of tags.
        num_columns (`int`, *optional*): How many columns a line has; by default as many as the first one.
        id_prefix (`str`, *optional*): Begins the line with a post's id, which each post then must have; without one,
            posts are numbered.
        comments (`tuple[str, ...]`, *optional*): Lines that begin so are left out.
        escaped (`bool`, *optional*, defaults to `False`): Words are as [`format_post`] writes them.
    """

    separator: str | None = "\t"
    word_column: int = 0
    tag_column: int = -1
    num_columns: int | None = None
    id_prefix: str | None = None
    comments: tuple[str, ...] = ()
    escaped: bool = False

    def is_blank(self, line: str) -> bool:
        """Tell whether a line ends a post: it holds nothing but separators, or parts documents."""
        return not line.strip(f" \t{self.separator or ''}") or line.startswith(DOCUMENT_START)

    def split(self, line: str, where: str) -> list[str]:
        """Part a line into columns; a field of a comma-separated line may be quoted. Raises a `DataError`."""
        if self.separator is None:
            # Other white space, such as a no-break space, may be part of a word.
            return re.split(r"[ \t]+", line.strip(" \t"))
        if self.separator != ",":
            return line.split(self.separator)
        try:
            return next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise DataError(
                f"{where}: {line!r} can't be read as comma-separated values: {error}. Quote a field with a quotation "
                'mark, and write the mark twice: """".'
            ) from None

    def read_word(self, line: str, where: str, num_columns: int | None) -> tuple[str, str]:
        """Read a line with a word, of so many columns if known; gives it and its tag, or raises a `DataError`."""
        fields = self.split(line, where)
        fits = num_columns in (None, len(fields))
        places = [place if place >= 0 else len(fields) + place for place in (self.word_column, self.tag_column)]
        is_there = all(0 <= place < len(fields) for place in places)
        if not is_there or not fits or len(fields) < 2 or places[0] == places[1]:
            name = next((name for name, sign in SEPARATORS.items() if sign == self.separator), repr(self.separator))
            start = f"'{self.id_prefix}<id>', " if self.id_prefix is not None else ""
            sign = "<TAB>" if self.separator == "\t" else self.separator or " "
            others = "" if fits else f" in place of {num_columns}"
            raise DataError(
                f"{where}: expected {start}'word{sign}tag' or an empty line, got {line!r}, which has {len(fields)} "
                f"columns ({name}){others}. Correct the line, or the arguments about columns."
            )
        word, tag = fields[places[0]], fields[places[1]].strip()
        # Tweets hold some within words; elsewhere, they are the line ends of another system.
        if any("\r" in field for place, field in enumerate(fields) if place != places[0]):
            raise DataError(f"{where}: there is a carriage return within the line. Save the file with \\n as line end.")
        if not tag:
            spaces = (
                " If a line may end in white space, give `--separator whitespace`." if self.separator == " " else ""
            )
            raise DataError(f"{where}: {line!r} has no tag in column {self.tag_column}. Add it, such as O.{spaces}")
        return self.unescape(word), tag

    def unescape(self, word: str) -> str:
        """Return a word as it was before [`format_post`] wrote it, if the file is so written."""
        return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), word) if self.escaped else word


def read_posts(
    path: Path,
    source: str,
    layout: Layout,
    image_names: Callable[[str], list[str]],
    normalise: Callable[[str], str] = str,
    prefix: str = "",
) -> Iterator[Post]:
    """Read the posts of a file.

    Args:
        path (`Path`): The file, in UTF-8.
        source (`str`): The data set's name, for the posts' `source`.
        layout ([`Layout`]): How it is written.
        image_names (`Callable`): Gives the names of a post's images by its id.
        normalise (`Callable`, *optional*): See [`~schema.make_post`]; by default tags stay as they are.
        prefix (`str`, *optional*): Begins the ids of posts that are numbered.

    Yields:
        `Post`.

    Raises:
        DataError: if the file is missing, a line is none of the kinds, or a post is not as it must be.
    """
    post_id, words, tags, begin, number, num_columns = None, [], [], "", 0, layout.num_columns
    comments = _Comments(path, layout)

    def finished() -> Iterator[Post]:
        if post_id is not None:
            # The id must have been checked before a file is looked for by it.
            post = make_post(post_id, words, tags, [], source, begin, normalise)
            yield replace(post, image_names=_checked_names(post, image_names(post_id), begin))

    for where, line in read_lines(path):
        is_id = layout.id_prefix is not None and line.startswith(layout.id_prefix)
        if not is_id and layout.comments and line.startswith(layout.comments):
            comments.add(line, where, num_columns)
            continue
        if is_id or layout.is_blank(line):
            yield from finished()
            post_id, words, tags, begin = None, [], [], where
            if is_id:
                post_id = layout.unescape(line.removeprefix(layout.id_prefix).strip())
            continue
        word, tag = layout.read_word(line, where, num_columns)
        num_columns = num_columns or len(layout.split(line, where))
        if post_id is None:
            if layout.id_prefix is not None:
                raise DataError(
                    f"{where}: expected '{layout.id_prefix}<id>' in front of a post's words, got {line!r}. Add the "
                    "post's id."
                )
            number, begin = number + 1, where
            post_id = f"{prefix}{number}"
        words.append(word)
        tags.append(tag)
    yield from finished()
    comments.warn()


class _Comments:
    """The lines of a file that are left out as comments, and those among them that read like a word and its tag."""

    def __init__(self, path: Path, layout: Layout):
        self.path, self.layout = path, layout
        self.count, self.words = 0, []

    def add(self, line: str, where: str, num_columns: int | None) -> None:
        self.count += 1
        try:
            _, tag = self.layout.read_word(line, where, num_columns)
        except DataError:
            return
        if _TAG.fullmatch(tag):
            self.words.append((where, line))

    def warn(self) -> None:
        if self.words:
            where, line = self.words[0]
            logger.warning(
                f"{self.path}: {self.count} lines were left out as comments, and {len(self.words)} of them read like a "
                f"word and its tag, the first at {where}: {line!r}. If they are words, say more exactly how comments "
                "begin, such as --comment '# '."
            )


def format_post(post_id: str, words: Sequence[str], tags: Sequence[str]) -> str:
    r"""Write a post as `IMGID:<id>`, a line `word<TAB>tag` for each word, and an empty line.

    White space within a word becomes `\\u0020` and the like, so that lines and columns stay whole; so does the first
    letter of a word that begins with `IMGID:` or `-DOCSTART-`. [`Layout`] with `id_prefix="IMGID:"` and `escaped=True`
    reads it back.

    Args:
        post_id (`str`): The post's id.
        words (`Sequence[str]`): Its words.
        tags (`Sequence[str]`): As many tags.

    Returns:
        `str`: the lines.

    Raises:
        ValueError: if words and tags differ in number.
    """
    lines = [f"{_escape(word)}\t{tag}\n" for word, tag in zip(words, tags, strict=True)]
    return f"{ID_PREFIX}{_escape(post_id)}\n{''.join(lines)}\n"


def _escape(word: str) -> str:
    """Write white space, and what would read like an escape or the line of an id or of a document, as escapes."""
    word = _ESCAPE.sub(lambda found: f"\\u005c{found[0][1:]}", word)
    word = "".join(_code(char) if char.isspace() else char for char in word)
    return f"{_code(word[0])}{word[1:]}" if word.startswith((ID_PREFIX, DOCUMENT_START)) else word


def _code(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _checked_names(post: Post, names: list[str], where: str) -> list[str]:
    """Return names of images, unless one leads out of the folder."""
    return make_post(post.id, post.tokens, post.tags, names, post.source, where, str).image_names


def convert_tags(splits: Mapping[str, list[Post]], scheme: str) -> tuple[dict[str, list[Post]], list[str]]:
    """Convert the tags of all posts to BIO2.

    Args:
        splits (`Mapping[str, list[Post]]`): The posts of each split, with tags as they were read.
        scheme (`str`): One of `tag_schemes.SCHEMES`; `"bio2"` also mends other spellings, such as `PER-B`.

    Returns:
        The same posts with tags of BIO2, and all labels.

    Raises:
        DataError: if a tag is none of the scheme, or may not stand where it does; names the post. Also if a type of
            BIO2 has `I-` alone.
    """
    scheme = scheme_name(scheme)
    found = sorted({tag for posts in splits.values() for post in posts for tag in post.tags})
    try:
        spelling = read_spelling(found, scheme)
    except ValueError as error:
        check_labels(found, "The data", "tags")
        raise DataError(f"Tags: {error}") from None
    if scheme == "bio2":
        # A type of which no entity ever begins is tagged in another scheme.
        check_labels([f"{letter}-{kind}" if kind else letter for letter, kind in spelling.values()], "The data", "tags")
    converted = {
        split: [replace(post, tags=_convert_post(post, split, scheme, spelling)) for post in posts]
        for split, posts in splits.items()
    }
    for split, posts in converted.items():
        stray = {post.id: count for post in posts if (count := count_illegal_transitions(post.tags))}
        warn_of_stray_tags(sum(stray.values()), [f"post {post_id!r}" for post_id in stray], f"Split {split!r}")
    labels = bio2_labels(sorted({kind for letter, kind in spelling.values() if letter != "O"}))
    warn_of_like_types(labels, "The data")
    return converted, labels


def _convert_post(post: Post, split: str, scheme: str, spelling: Mapping[str, tuple[str, str]]) -> list[str]:
    try:
        return to_bio2(post.tags, scheme, spelling)
    except ValueError as error:
        raise DataError(
            f"Split {split!r}, post {post.id!r}: {error}. Correct the tag, or give the right --tag_scheme."
        ) from None


def convert(
    output: str | os.PathLike,
    files: Mapping[str, str | os.PathLike],
    layout: Layout = Layout(),
    images: str | os.PathLike | None = None,
    image_pattern: str = "{id}.jpg",
    tag_scheme: str = "bio2",
    labels: list[str] | None = None,
    name: str | None = None,
    published: dict[str, int] | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Convert CoNLL files to Parquet.

    Args:
        output (`str` or `os.PathLike`): The folder to write to.
        files (`Mapping[str, str or os.PathLike]`): The file of each split.
        layout ([`Layout`], *optional*): How they are written.
        images (`str` or `os.PathLike`, *optional*): The folder of the images. Without it, an image for each id is
            reported missing, and no others are looked for.
        image_pattern (`str`, *optional*, defaults to `"{id}.jpg"`): See [`~image_files.ImagePattern`].
        tag_scheme (`str`, *optional*, defaults to `"bio2"`): What tags are converted from.
        labels (`list[str]`, *optional*): All labels, to which tags are mapped by [`~schema.normalise_tag`]; by default
            those that stand in the files, of any types.
        name (`str`, *optional*): The data set's name; by default that of the first file's folder.
        published (`dict[str, int]`, *optional*): Counts that the publishers give, for the report.
        processes (`int`, *optional*, defaults to 1): How many processes read images.

    Returns:
        `dict`: the report, see [`write_dataset`].

    Raises:
        DataError: if a folder or file is missing, or a line, a tag, a post or a split is not as it must be.
    """
    if not files:
        raise DataError("Expected the file of at least one split, got none. Give --train, --validation or --test.")
    scheme = scheme_name(tag_scheme)
    folder = None if images is None else Path(images)
    if folder is not None:
        require_folder(folder, "image folder", "Check --images.")
    name = name or Path(next(iter(files.values()))).resolve().parent.name or "data"
    pattern = ImagePattern(folder, image_pattern)
    # Numbered posts have no images that could be named after them.
    names = pattern.names if layout.id_prefix is not None or folder is not None else lambda post_id: []
    normalise = str if labels is None else partial(normalise_tag, labels=labels)
    splits = {}
    for split, path in files.items():
        posts = read_posts(Path(path), name, layout, names, normalise, f"{split}-")
        with tqdm(posts, desc=f"{split}: text", unit=" posts") as bar:
            splits[split] = list(bar)
    pattern.warn_of_none(splits)
    if labels is None:
        splits, labels = convert_tags(splits, scheme)
    read = partial(read_image_of, folder, rivals=find_rivals(splits))
    return write_dataset(output, name, splits, read, processes, labels, published)


def run_folder_command(
    description: str, convert_folder: Callable[..., dict[str, Any]], files: Iterable[str], argv: Sequence[str] | None
) -> None:
    """Run the command of a converter of one published folder.

    Args:
        description (`str`): For `--help`.
        convert_folder (`Callable`): Takes `source`, `output`, `images` and `processes`.
        files (`Iterable[str]`): The names of its files, for `--help`.
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(description)
    parser.add_argument("--source", type=Path, required=True, help=f"the folder of {', '.join(files)}")
    parser.add_argument("--images", type=Path, help="the folder of images; without it all are missing")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write Parquet files to")
    add_processes_argument(parser)
    run_command(parser, convert_folder, **vars(parser.parse_args(argv)))


def add_split_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the arguments that all converters of single files have."""
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=Path, help=f"{what} of the {split} split")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write Parquet files to")
    parser.add_argument("--images", type=Path, help="the folder of images")
    parser.add_argument("--name", help="the data set's name (default: that of the first file's folder)")
    parser.add_argument("--tag_scheme", default="bio2", help="what the tags are converted from (bio2)")
    add_processes_argument(parser)


def take_files(options: dict[str, Any]) -> dict[str, Path]:
    """Take the files of splits out of parsed arguments."""
    given = {split: options.pop(split) for split in SPLITS}
    return {split: path for split, path in given.items() if path is not None}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    add_split_arguments(parser, "the file")
    parser.add_argument("--separator", default="tab", help=f"{', '.join(SEPARATORS)} or a text (tab)")
    parser.add_argument("--word_column", type=int, default=0, help="the column of words, from 0 (0)")
    parser.add_argument("--tag_column", type=int, default=-1, help="the column of tags (-1, the last)")
    parser.add_argument("--id_prefix", help="begins the line with a post's id, such as IMGID:")
    parser.add_argument(
        "--escaped", action="store_true", help="words are as run_ner_multiimage.py --output tagged.conll writes them"
    )
    about = "beginnings of lines to leave out"
    parser.add_argument("--comment", dest="comments", nargs="+", action="extend", default=[], help=about)
    parser.add_argument("--image_pattern", default="{id}.jpg", help="{id}.jpg, {id}_{n}.jpg or {id}_* ({id}.jpg)")
    options = vars(parser.parse_args(argv))
    if not options["separator"]:
        parser.error(f"--separator: expected {', '.join(SEPARATORS)} or a text, got an empty one.")
    layout = Layout(
        separator=SEPARATORS.get(options["separator"], options["separator"]),
        comments=tuple(options.pop("comments")),
        **{name: options.pop(name) for name in ("word_column", "tag_column", "id_prefix", "escaped")},
    )
    del options["separator"]
    run_command(parser, convert, files=take_files(options), layout=layout, **options)


if __name__ == "__main__":
    main()

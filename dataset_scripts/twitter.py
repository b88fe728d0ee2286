"""Convert Twitter-2015 or Twitter-2017 in UMT's CoNLL form to Parquet.

Expects `{train,valid,test}.txt`: a line `IMGID:<id>`, then `word<TAB>tag` lines, then an empty line for each post.
The image of a post is `<id>.jpg`.

    python -m smcl.dataset_scripts.twitter --source DIR [--images DIR] --output OUT
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .repair import read_image
from .schema import DataError, Post, make_post, read_lines, require_folder
from .writer import add_processes_argument, run_command, write_dataset

FILE_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
ID_PREFIX = "IMGID:"


def read_posts(path: Path, source: str) -> Iterator[Post]:
    """Read the posts of one CoNLL file.

    Args:
        path (`Path`): The file.
        source (`str`): The data set's name, for the posts' `source`.

    Yields:
        `Post`: with `<id>.jpg` as its image.

    Raises:
        DataError: if the file is missing, a line is neither of the three kinds, or a post is not as it must be.
    """
    post_id, words, tags, begin = None, [], [], ""
    for where, line in read_lines(path):
        if line.startswith(ID_PREFIX) or not line:
            if post_id is not None:
                yield make_post(post_id, words, tags, [f"{post_id}.jpg"], source, begin)
            post_id, words, tags, begin = None, [], [], where
            if line:
                post_id = line.removeprefix(ID_PREFIX).strip()
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            raise DataError(
                f"{where}: expected '{ID_PREFIX}<id>', 'word<TAB>tag' or an empty line, got {line!r}. Correct the line."
            )
        if post_id is None:
            raise DataError(
                f"{where}: expected '{ID_PREFIX}<id>' in front of a post's words, got {line!r}. Add the post's id."
            )
        words.append(fields[0])
        tags.append(fields[1].strip())
    if post_id is not None:
        yield make_post(post_id, words, tags, [f"{post_id}.jpg"], source, begin)


def read_image_of(folder: Path | None, name: str) -> tuple[str, bytes | None]:
    """Read an image of a folder, as [`read_image`] does; without a folder, it is missing."""
    return ("missing", None) if folder is None else read_image(folder / name)


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    images: str | os.PathLike | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Convert a folder of CoNLL files to Parquet.

    Args:
        source (`str` or `os.PathLike`): The folder; its name becomes the posts' `source`.
        output (`str` or `os.PathLike`): The folder to write to.
        images (`str` or `os.PathLike`, *optional*): The folder of the images. Without it, all images are reported
            missing.
        processes (`int`, *optional*, defaults to 1): How many processes read images.

    Returns:
        `dict`: the report, see [`write_dataset`].

    Raises:
        DataError: if a folder or file is missing, a line is not as it must be, or a post or split is not.
    """
    source = Path(source)
    require_folder(source, "data set", "Check --source.")
    if images is not None:
        require_folder(Path(images), "image folder", "Check --images.")
    name = source.resolve().name
    splits = {}
    for split, stem in FILE_SPLITS.items():
        posts = read_posts(source / f"{stem}.txt", name)
        splits[split] = list(tqdm(posts, desc=f"{split}: text", unit=" posts"))
    read = partial(read_image_of, None if images is None else Path(images))
    return write_dataset(output, name, splits, read, processes)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the folder of {train,valid,test}.txt")
    parser.add_argument("--images", type=Path, help="the folder of <id>.jpg; without it all images are missing")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write Parquet files to")
    add_processes_argument(parser)
    run_command(parser, convert, **vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()

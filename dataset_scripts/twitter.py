"""Convert Twitter-2015 or Twitter-2017 in UMT's CoNLL form to Parquet.

Expects `{train,valid,test}.txt`: a line `IMGID:<id>`, then `word<TAB>tag` lines, then an empty line for each post.
The image of a post is `<id>.jpg`.

    python -m smcl.dataset_scripts.twitter --source DIR [--images DIR] --output OUT
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import conll
from .schema import LABELS, Post, normalise_tag, require_folder

FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
LAYOUT = conll.Layout(num_columns=2, id_prefix="IMGID:")


def read_posts(path: Path, source: str) -> Iterator[Post]:
    """Read the posts of one file, with `<id>.jpg` as their image; see [`~conll.read_posts`]."""
    return conll.read_posts(path, source, LAYOUT, lambda post_id: [f"{post_id}.jpg"], normalise_tag)


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    images: str | os.PathLike | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Convert the published folder to Parquet.

    Args:
        source (`str` or `os.PathLike`): The folder; its name becomes the posts' `source`.
        output (`str` or `os.PathLike`): The folder to write to.
        images (`str` or `os.PathLike`, *optional*): The folder of the images. Without it, all images are reported
            missing.
        processes (`int`, *optional*, defaults to 1): How many processes read images.

    Returns:
        `dict`: the report, see [`~writer.write_dataset`].

    Raises:
        DataError: if a folder or file is missing, a line is not as it must be, or a post or split is not.
    """
    require_folder(Path(source), "data set", "Check --source.")
    files = {split: Path(source) / name for split, name in FILES.items()}
    return conll.convert(output, files, LAYOUT, images, labels=LABELS, processes=processes)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; `argv` are the arguments, those of the process by default."""
    conll.run_folder_command(__doc__, convert, FILES.values(), argv)


if __name__ == "__main__":
    main()

"""Convert CMNER, Weibo posts with up to nine images (Ji et al., arXiv 2402.13693), to Parquet.

Expects `{train,dev,test}.txt` as published: a line `WID:<id>`, then `character<TAB>tag` lines, then an empty line for
each post. The images of a post are all whose names begin with `<id>_`, in the order of their names.

    python -m smcl.dataset_scripts.cmner --source DIR [--images DIR] --output OUT
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import conll
from .schema import LABELS, require_folder

FILES = {"train": "train.txt", "validation": "dev.txt", "test": "test.txt"}
LAYOUT = conll.Layout(num_columns=2, id_prefix="WID:")
# From the abstract of the paper.
PUBLISHED = {"posts": 5000, "images": 18326, "types": 4}


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    images: str | os.PathLike | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Convert the published folder to Parquet.

    Args:
        source (`str` or `os.PathLike`): The folder of the text.
        output (`str` or `os.PathLike`): The folder to write to.
        images (`str` or `os.PathLike`, *optional*): The folder of the images. The text does not say how many a post
            has, so that none can be reported missing; the report gives the number that was published.
        processes (`int`, *optional*, defaults to 1): How many processes read images.

    Returns:
        `dict`: the report, see [`~writer.write_dataset`].

    Raises:
        DataError: if a folder or file is missing, a line is not as it must be, or a post or split is not.
    """
    require_folder(Path(source), "data set", "Check --source.")
    files = {split: Path(source) / name for split, name in FILES.items()}
    options = {"labels": LABELS, "name": "cmner", "published": PUBLISHED, "processes": processes}
    return conll.convert(output, files, LAYOUT, images, "{id}_*", **options)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; `argv` are the arguments, those of the process by default."""
    conll.run_folder_command(__doc__, convert, FILES.values(), argv)


if __name__ == "__main__":
    main()

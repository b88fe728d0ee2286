"""Convert CP-MNER, paragraphs on Chinese paintings (Wan et al., npj Heritage Science 14, 2026), to Parquet.

Expects `{train,valid,test}.txt` as published: a line `IMGID:<id>`, then `character tag` lines, then an empty line for
each paragraph. The image of a paragraph is `<id>.jpg`.

    python -m smcl.dataset_scripts.cp_mner --source DIR [--images DIR] --output OUT
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import conll
from .schema import require_folder
from .tag_schemes import bio2_labels

FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
LAYOUT = conll.Layout(separator=" ", num_columns=2, id_prefix="IMGID:")
# In the order of the publishers' table, named as in their files.
TYPES = (
    *("ARTWORK", "TECHNIQUE", "LOC", "PER", "ARCHITECTURE", "LANDSCAPE", "SEAL", "SIZE", "MATERIAL", "PLANT"),
    *("FIGURE", "OBJECT", "STYLE", "TIME", "ORG", "ANIMAL"),
)
LABELS = bio2_labels(TYPES)
# From the publishers' README.
PUBLISHED = {"posts": 1188, "images": 1188, "types": 16}


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
    options = {"labels": LABELS, "name": "cp_mner", "published": PUBLISHED, "processes": processes}
    return conll.convert(output, files, LAYOUT, images, **options)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; `argv` are the arguments, those of the process by default."""
    conll.run_folder_command(__doc__, convert, FILES.values(), argv)


if __name__ == "__main__":
    main()

"""Figures of explanations, as PNG or HTML.

    python -m smcl.predict.figures.plot --model demo/model --post post.json --output card.png \
        [--kind card] [--patch_grid 6]

`post.json` is `{"text": ..., "images": [paths from its folder]}`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ...dataset_scripts.command_line import CommandParser
from ...pipeline_smcl import Explanation
from .. import load_pipeline
from ..inputs import read_row
from ..predict_file import what_to_read
from .html import explanation_to_html
from .png import draw_card, draw_heat_map, require_matplotlib

DRAWERS = {"card": draw_card, "heat_map": draw_heat_map}


def plot_explanation(explanation: Explanation, path: str | os.PathLike, kind: str = "card") -> None:
    """Draw what the images of a post did for its entities, into a file.

    Args:
        explanation ([`Explanation`]): What [`MultiImageNERPipeline.explain`] returned.
        path (`str` or `os.PathLike`): The file. `.png` is drawn with matplotlib (`pip install "smcl[plot]"`; before its
            release 3.11 it has no scripts from right to left), `.html` is a page of one file without programs.
        kind (`str`, *optional*, defaults to `"card"`): What to draw:

            - `"card"`: the post with its entities marked; for each entity its images, under the effects of their
              patches if the explanation has them, and what the entity becomes without each image and without all.
            - `"heat_map"`: attention of the words to the images in the fusion, or in the text encoder where there is
              no symmetric fusion (the paper's Figure 5), with the entities marked.

    Raises:
        ImportError: if matplotlib is missing and needed.
        ValueError: if the path's suffix or `kind` is unknown.

    Example:
    ```python
    >>> plot_explanation(ner.explain(post, patch_grid=6), "card.png")
    >>> plot_explanation(ner.explain(post), "heat_map.html", kind="heat_map")
    ```
    """
    if kind not in DRAWERS:
        raise ValueError(f"`kind` must be one of {', '.join(map(repr, DRAWERS))}, got {kind!r}.")
    path = check_path(path)
    if path.suffix.lower() == ".html":
        path.write_text(explanation_to_html(explanation, kind), encoding="utf-8")
    else:
        DRAWERS[kind](explanation).save(path)


def check_path(path: str | os.PathLike) -> Path:
    """Refuse a file that could not be drawn, before anything is computed for it.

    Args:
        path (`str` or `os.PathLike`): As in [`plot_explanation`].

    Returns:
        `Path`: the path.

    Raises:
        ImportError: if matplotlib is missing and needed.
        ValueError: if the path's suffix is unknown.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".html"):
        raise ValueError(f"`path` must end in .png or .html, got {str(path)!r}.")
    if path.suffix.lower() == ".png":
        require_matplotlib()
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a post from a file.

    Args:
        arguments (`Sequence[str]`, *optional*, defaults to those of the command line): See the top of this file.

    Raises:
        SystemExit: if the post can't be used; says why in one line.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub name of a model")
    parser.add_argument("--post", type=Path, required=True, help='JSON: {"text": ..., "images": [paths from here]}')
    parser.add_argument("--output", type=Path, required=True, help="the figure, .png or .html")
    parser.add_argument("--kind", choices=list(DRAWERS), default="card")
    parser.add_argument("--patch_grid", type=int, default=6, help="patches along a side, 0 for none (default: 6)")
    options = parser.parse_args(arguments)
    with parser.errors_in_one_line():
        check_path(options.output)
        if not options.post.is_file():
            raise ValueError(f"There is no file {options.post}. Expected a post as JSON.")
        pipe = load_pipeline(options.model)
        post = read_row(options.post.read_bytes(), 0, str(options.post.parent), what_to_read(pipe, None, False))[1]
        if "error" in post:
            raise ValueError(f"`--post {options.post}`: {post['error']}")
        patch_grid = options.patch_grid if options.kind == "card" else 0
        plot_explanation(pipe.explain(post, patch_grid), options.output, options.kind)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"plot.py: {error}")

__all__ = ["main", "plot_explanation"]

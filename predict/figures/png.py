"""Explanations as PNG, drawn with matplotlib."""

import bisect
import functools
import itertools
import os
import unicodedata
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ...dataset_scripts.command_line import require
from ...pipeline_smcl import EntityExplanation, Explanation, ImageEvidence
from .style import (
    ATTENTION_COLOURS,
    FAINT,
    FRAME,
    INK,
    LINE,
    PATCH_COLOURS,
    attention_colour,
    attention_digits,
    attention_scale,
    attention_text,
    choose_attention,
    fade,
    ink_on,
    is_right_to_left,
    mix,
    patch_legend,
    patch_limit,
    patches,
    runs,
    tint,
    to_rgb,
    type_colours,
    type_text,
    without_text,
)

# In points, of which 72 make an inch. A figure is as high as it takes.
WIDTH, MARGIN, GAP = 400, 14, 8
SMALL, MEDIUM, LARGE = 7.5, 9, 12
DPI = 150
# Agg draws less than 2 ** 16 pixels on a side.
MOST_PIXELS = 65_000
# matplotlib brings this font along.
FONT = "DejaVu Sans"
# Stands for a letter that no font has; this font has it.
NO_GLYPH = "\u25a1"
COLUMNS = 4
# Of a heat map, in points; longer posts go on in further panels.
ROW, TYPE_WIDTH, WORD_WIDTH, CELL_WIDTH = 17, 66, 88, 44
ROWS, PANELS = 26, 3


@functools.cache
def _letters(file: str) -> frozenset[str]:
    """Return the letters that matplotlib can draw with a font file."""
    from matplotlib.ft2font import FT2Font

    font = FT2Font(file)
    # It draws outlines: fonts that are made of pictures have none.
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()


def choose_fonts(text: str) -> tuple[list[str], set[str]]:
    """Find installed fonts that have the letters of a text.

    Args:
        text (`str`): The text.

    Returns:
        The families, to be tried in this order, and the letters that none of them has.
    """
    from matplotlib.font_manager import findfont, fontManager

    families, missing = [FONT], set(text) - _letters(findfont(FONT))
    if not missing:
        return families, missing
    upright = {
        entry.name: entry.fname
        for entry in fontManager.ttflist
        if entry.style == "normal" and entry.weight in (400, "normal") and entry.stretch == "normal"
    }
    for family, file in sorted(upright.items()):
        # Fonts in colour come out empty, and those of last resort have a sign for blocks, not for letters.
        found = set() if "Color" in family or "Last Resort" in family else missing & _letters(file)
        if found:
            families.append(family)
            missing -= found
    return families, missing


def _is_invisible(letter: str) -> bool:
    """Tell control and format characters and selectors of variants, which leave no gap."""
    return unicodedata.category(letter) in ("Cc", "Cf") or "VARIATION SELECTOR" in unicodedata.name(letter, "")


def require_matplotlib() -> None:
    """Refuse to draw a figure without matplotlib, by an `ImportError`."""
    require("A figure as .png (as .html it does not)", "smcl[plot]", "matplotlib")


class Page:
    """A figure that grows downwards. Places are in points from its upper left corner.

    Args:
        explanation ([`Explanation`]): What will be drawn; its words decide on the fonts.
        width (`float`, *optional*, defaults to 400): In points.

    Raises:
        ImportError: if matplotlib is missing.
    """

    def __init__(self, explanation: Explanation, width: float = WIDTH):
        require_matplotlib()
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # Not pyplot's, whose state belongs to the caller.
        self.figure = Figure(dpi=DPI)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.width, self.y = width, MARGIN
        texts = (*explanation.words, *explanation.types, *explanation.skipped_images)
        self.families, self.missing = choose_fonts("".join(texts))

    def clean(self, text: str) -> str:
        """Put a box for each letter that no font has, and leave out what is not to be seen."""
        kept = (letter for letter in text if not (letter in self.missing and _is_invisible(letter)))
        return "".join(NO_GLYPH if letter in self.missing else letter for letter in kept)

    def _font(self, size: float):
        from matplotlib.font_manager import FontProperties

        return FontProperties(family=self.families, size=size)

    def measure(self, text: str, size: float) -> float:
        """Return the width of a line of text."""
        width, _, _ = self.renderer.get_text_width_height_descent(self.clean(text), self._font(size), ismath=False)
        return width * 72 / DPI

    def cut(self, text: str, width: float, size: float) -> str:
        """Return as much of the beginning of a text as fits, at least one letter."""
        ends = range(1, len(text) + 1)
        return text[: max(1, bisect.bisect_right(ends, width, key=lambda end: self.measure(text[:end], size)))]

    def shorten(self, text: str, width: float, size: float) -> str:
        """Return a text, or what fits of it with three dots."""
        return text if self.measure(text, size) <= width else self.cut(text, width - size, size) + "\u2026"

    def wrap(self, text: str, width: float, size: float) -> list[str]:
        """Break a text into lines: at its spaces, and inside words that are wider than a line."""
        lines: list[str] = []
        for word in text.split(" "):
            if lines and self.measure(f"{lines[-1]} {word}", size) <= width:
                lines[-1] += f" {word}"
                continue
            while (beginning := self.cut(word, width, size)) != word:
                lines.append(beginning)
                word = word[len(beginning) :]
            lines.append(word)
        return lines

    def write(self, x: float, y: float, text: str, size: float = MEDIUM, colour: str = INK, align: str = "left"):
        """Write a line around the height `y`."""
        place = {"ha": align, "va": "center_baseline"}
        # A post may hold any number of dollars, which are no formulas.
        self.axes.text(x, y, self.clean(text), font=self._font(size), color=colour, parse_math=False, **place)

    def write_lines(self, x: float, y: float, lines: list[str], size: float = MEDIUM, colour: str = INK) -> float:
        """Write lines below the height `y`; return the height below them."""
        for line in lines:
            self.write(x, y + 0.7 * size, line, size, colour)
            y += 1.4 * size
        return y

    def paragraph(self, text: str, size: float = MEDIUM, colour: str = INK, indent: float = 0) -> None:
        """Write over the whole width, and move on."""
        lines = self.wrap(text, self.width - 2 * MARGIN - indent, size)
        self.y = self.write_lines(MARGIN + indent, self.y, lines, size, colour)

    def box(self, x: float, y: float, width: float, height: float, fill: str = "none", edge: str = "none") -> None:
        """Draw a rectangle."""
        from matplotlib.patches import Rectangle

        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=2))

    def image(self, x: float, y: float, width: float, height: float, image, interpolation: str = "antialiased") -> None:
        """Draw an image or an array `(height, width, 3 or 4)`."""
        extent = (x, x + width, y + height, y)
        self.axes.imshow(np.asarray(image), extent=extent, interpolation=interpolation, aspect="auto")

    def save(self, path: str | os.PathLike) -> None:
        """Fit the figure to what was drawn, and write it."""
        missing = [letter for letter in self.missing if not _is_invisible(letter)]
        if missing:
            self.paragraph(f"{NO_GLYPH} stands for {len(missing)} characters that no font here has", SMALL, FAINT)
        height = self.y + MARGIN
        self.axes.set(xlim=(0, self.width), ylim=(height, 0))
        self.figure.set_size_inches(self.width / 72, height / 72)
        self.figure.savefig(path, format="png", dpi=min(DPI, MOST_PIXELS * 72 / max(self.width, height)))


def draw_card(explanation: Explanation) -> Page:
    """Draw a post card; see [`plot_explanation`].

    Args:
        explanation ([`Explanation`]): The explanation.

    Returns:
        [`Page`].
    """
    page, limit, colours = Page(explanation), patch_limit(explanation), type_colours(explanation.types)
    _draw_post(page, explanation, colours)
    _draw_gallery(page, explanation.images, [[]] * len(explanation.images))
    if not explanation.entities:
        page.paragraph("No entities found.", colour=FAINT)
    for explained in explanation.entities:
        _draw_evidence(page, explanation.images, explained, limit, colours[explained.entity["entity_group"]])
    page.y += GAP
    if limit is not None:
        for colour, meaning in zip(PATCH_COLOURS, patch_legend(limit), strict=True):
            page.box(MARGIN, page.y + 1.5, SMALL, SMALL, colour)
            page.paragraph(meaning, SMALL, FAINT, indent=12)
    if explanation.entities and explanation.images:
        page.box(MARGIN + 1, page.y + 2.5, SMALL - 2, SMALL - 2, edge=FAINT)
        page.paragraph(FRAME, SMALL, FAINT, indent=12)
    _draw_skipped(page, explanation)
    return page


def _draw_skipped(page: Page, explanation: Explanation) -> None:
    for reason in explanation.skipped_images:
        page.paragraph(f"Left out: {reason}", SMALL, FAINT)


def _draw_post(page: Page, explanation: Explanation, colours: dict[str, str]) -> None:
    """Draw the words of a post, line after line, with its entities marked."""
    room, space, height = page.width - 2 * MARGIN, 4.5, 21
    mirrored = is_right_to_left(" ".join(explanation.words))
    x = 0.0
    for first, end, explained in runs(explanation):
        label = "" if explained is None else type_text(explained.entity)
        label_width = page.measure(label, SMALL) + 8 if label else 0
        phrases = _phrases(explanation.words[first:end], mirrored)
        pieces = [piece for phrase in phrases for piece in page.wrap(phrase, room - label_width, LARGE)]
        for row, piece in enumerate(pieces, start=1):
            # An entity's last word and its label stay together.
            widths = [page.measure(piece, LARGE), *[label_width] * (explained is not None and row == len(pieces))]
            width = sum(widths) + space * (len(widths) - 1)
            if x and x + width > room:
                x, page.y = 0.0, page.y + height
            left, middle = MARGIN + (room - x - width if mirrored else x), page.y + height / 2
            if explained is not None:
                colour = colours[explained.entity["entity_group"]]
                # As much as the space between words, so that the boxes of an entity's words meet.
                page.box(left - space / 2, middle - 9, width + space, 18, tint(colour))
            if len(widths) == 2:
                _draw_type(page, left if mirrored else left + width - label_width, middle, label, colour)
            page.write(left + width - widths[0] if mirrored else left, middle, piece, LARGE)
            x += width + space
    if not explanation.words:
        page.write(MARGIN, page.y + height / 2, "(no words)", colour=FAINT)
    page.y += height + GAP


def _phrases(words: list[str], mirrored: bool) -> Iterator[str]:
    """Join words that run against the direction of their post: matplotlib puts them in order."""
    for against, group in itertools.groupby(words, key=lambda word: is_right_to_left(word) != mirrored):
        phrase = list(group)
        yield from [" ".join(phrase)] if against else phrase


def _draw_type(page: Page, x: float, y: float, text: str, colour: str) -> None:
    """Draw the type and the score of an entity around the height `y`."""
    page.box(x, y - 6.5, page.measure(text, SMALL) + 8, 13, colour)
    page.write(x + 4, y, text, SMALL, ink_on(colour))


def _draw_evidence(
    page: Page, images: list[Image.Image], explained: EntityExplanation, limit: float | None, colour: str
) -> None:
    """Draw what each image did for one entity."""
    entity = explained.entity
    page.y += GAP
    page.box(MARGIN, page.y, page.width - 2 * MARGIN, 0.5, LINE)
    page.y += GAP
    label = type_text(entity)
    room = page.width - 2 * MARGIN - page.measure(label, SMALL) - 14
    lines = page.wrap(entity["word"], room, LARGE)
    _draw_type(page, MARGIN + page.measure(lines[0], LARGE) + 6, page.y + 0.7 * LARGE, label, colour)
    page.y = page.write_lines(MARGIN, page.y, lines, LARGE) + 3
    if not images:
        page.paragraph("The post has no images.", colour=FAINT)
        return
    without = (explained.score_without_images, explained.label_without_images, explained.label_score_without_images)
    page.paragraph(f"without all images: {without_text(entity, *without)}")
    page.y += 4
    captions = [
        [
            ("without this image:", INK),
            (without_text(entity, evidence.score_without, evidence.label_without, evidence.label_score_without), INK),
            (attention_text(evidence), FAINT),
        ]
        for evidence in explained.images
    ]
    _draw_gallery(page, images, captions, explained, limit, colour)


def _draw_gallery(
    page: Page,
    images: list[Image.Image],
    captions: list[list[tuple[str, str]]],
    explained: EntityExplanation | None = None,
    limit: float | None = None,
    colour: str = LINE,
) -> None:
    """Draw images side by side with captions, each a list of texts and their colours."""
    width = (page.width - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    for start in range(0, len(images), COLUMNS):
        bottoms = []
        for column, number in enumerate(range(start, min(start + COLUMNS, len(images)))):
            x, image = MARGIN + column * (width + GAP), images[number]
            height = width * image.height / image.width
            evidence = None if explained is None else explained.images[number]
            _draw_image(page, (x, page.y, width, height), image, evidence, limit)
            if evidence is not None and evidence.label_without != explained.entity["entity_group"]:
                page.box(x, page.y, width, height, edge=colour)
            y = page.y + height + 3
            for text, ink in [(f"image {number + 1}", FAINT), *captions[number]]:
                y = page.write_lines(x, y, page.wrap(text, width + GAP / 2, SMALL), SMALL, ink)
            bottoms.append(y)
        page.y = max(bottoms) + 4


def _draw_image(
    page: Page,
    place: tuple[float, float, float, float],
    image: Image.Image,
    evidence: ImageEvidence | None,
    limit: float | None,
) -> None:
    """Draw an image, and over it the effects of its patches where they are known."""
    if evidence is None or evidence.patch_effects is None:
        page.image(*place, image)
        return
    page.image(*place, fade(image))
    layer = np.zeros((image.height, image.width, 4))
    for (left, top, width, height), _, colour, opacity in patches(evidence.patch_effects, image, limit):
        layer[top : top + height, left : left + width] = (*to_rgb(colour), opacity)
    page.image(*place, layer, interpolation="nearest")


def draw_heat_map(explanation: Explanation) -> Page:
    """Draw a heat map of attention, a row for each word and a column for each image; see [`plot_explanation`].

    Args:
        explanation ([`Explanation`]): The explanation.

    Returns:
        [`Page`].
    """
    title, attention = choose_attention(explanation)
    starts = range(0, len(explanation.words), ROWS)
    panel_width = TYPE_WIDTH + WORD_WIDTH + CELL_WIDTH * len(explanation.images)
    columns = max(1, min(PANELS, len(starts)))
    page = Page(explanation, max(WIDTH, 2 * MARGIN + columns * panel_width + (columns - 1) * 2 * GAP))
    page.paragraph(title, colour=FAINT)
    page.y += 4
    if attention is not None:
        _draw_scale(page, attention)
    for row in range(0, len(starts), columns):
        bottoms = []
        for column, start in enumerate(starts[row : row + columns]):
            x = MARGIN + column * (panel_width + 2 * GAP)
            bottoms.append(_draw_panel(page, x, explanation, range(start, start + ROWS), attention))
        page.y = max(bottoms) + GAP
    _draw_skipped(page, explanation)
    return page


def _draw_scale(page: Page, attention: np.ndarray) -> None:
    """Draw the colours of a heat map, from 0 over attention spread evenly to all of it on one image."""
    middle, top = attention_scale(attention)
    digits = attention_digits(top)
    x, y = MARGIN + page.measure("0", SMALL) + 5, page.y + 5
    page.write(MARGIN, y, "0", SMALL, FAINT)
    colours = [to_rgb(mix(ATTENTION_COLOURS, share)) for share in np.linspace(0, 1, 64)]
    page.image(x, y - 5, 110, 10, np.array(colours)[None])
    page.write(
        x + 115, y, f"{top:.{digits}f}; the middle is attention spread evenly, {middle:.{digits}f}", SMALL, FAINT
    )
    page.y += 10 + GAP


def _draw_panel(page: Page, x: float, explanation: Explanation, words: range, attention: np.ndarray | None) -> float:
    """Draw the rows of some words below their images; return the height below them."""
    y, cells = page.y, x + TYPE_WIDTH + WORD_WIDTH
    for number, image in enumerate(explanation.images):
        height = (CELL_WIDTH - 4) * image.height / image.width
        page.image(cells + number * CELL_WIDTH + 2, page.y, CELL_WIDTH - 4, height, image)
        page.write(cells + (number + 0.5) * CELL_WIDTH, page.y + height + 7, f"{number + 1}", SMALL, align="center")
        y = max(y, page.y + height + 15)
    for first, end, explained in runs(explanation):
        part = range(max(first, words.start), min(end, words.stop))
        if explained is not None and part:
            _draw_span(page, x, y + (part.start - words.start) * ROW, len(part), explained, explanation.types)
        for word in part:
            top = y + (word - words.start) * ROW
            text = page.shorten(explanation.words[word], WORD_WIDTH - 8, MEDIUM)
            page.write(x + TYPE_WIDTH + 4, top + ROW / 2, text)
            if attention is not None:
                _draw_cells(page, cells, top, attention[word], attention)
    return y + ROW * len(words[: len(explanation.words) - words.start])


def _draw_span(page: Page, x: float, y: float, num_words: int, explained: EntityExplanation, types: list[str]) -> None:
    """Mark the words of an entity."""
    colour, height = type_colours(types)[explained.entity["entity_group"]], num_words * ROW - 2
    page.box(x + TYPE_WIDTH, y + 1, WORD_WIDTH - 2, height, tint(colour))
    page.box(x, y + 1, TYPE_WIDTH - 2, height, colour)
    text = page.shorten(type_text(explained.entity), TYPE_WIDTH - 6, SMALL)
    page.write(x + TYPE_WIDTH / 2 - 1, y + 1 + height / 2, text, SMALL, ink_on(colour), align="center")


def _draw_cells(page: Page, x: float, y: float, weights: np.ndarray, attention: np.ndarray) -> None:
    """Draw a word's cells, each with its number."""
    scale = attention_scale(attention)
    for number, weight in enumerate(weights):
        colour, left = attention_colour(weight, *scale), x + number * CELL_WIDTH
        page.box(left + 1, y + 1, CELL_WIDTH - 2, ROW - 2, colour)
        text = f"{weight:.{attention_digits(scale[1])}f}"
        page.write(left + CELL_WIDTH / 2, y + ROW / 2, text, SMALL, ink_on(colour), align="center")


__all__ = ["Page", "choose_fonts", "draw_card", "draw_heat_map"]

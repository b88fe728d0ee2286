"""Explanations as web pages of one file: no script, and nothing that is fetched."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from ...pipeline_smcl import EntityExplanation, Explanation, ImageEvidence
from .style import (
    ATTENTION_COLOURS,
    DARK_FAINT,
    DARK_INK,
    DARK_PAPER,
    FAINT,
    FRAME,
    INK,
    LINE,
    PAPER,
    PATCH_COLOURS,
    attention_colour,
    attention_digits,
    attention_scale,
    attention_text,
    choose_attention,
    cut,
    fade,
    ink_on,
    is_right_to_left,
    patch_legend,
    patch_limit,
    patches,
    runs,
    tint,
    type_colours,
    type_text,
    without_text,
)


def _shade(name: str, light: str, dark: str) -> str:
    """Declare a colour in both modes; a browser that does not know them has the light one."""
    return f"{name}: {light}; {name}: light-dark({light}, {dark});"


STYLE = f"""
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; padding: 16px; max-width: 820px; {_shade("background", PAPER, DARK_PAPER)}
  {_shade("color", INK, DARK_INK)}
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
.post {{ font-size: 20px; line-height: 1.7; margin: 0 0 12px; }}
mark {{ border-radius: 6px; padding: 1px 5px; color: {INK}; -webkit-box-decoration-break: clone;
  box-decoration-break: clone; }}
.type {{ border-radius: 5px; padding: 1px 6px; font-size: 13px; white-space: nowrap; }}
.images {{ display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(160px, 45%), 1fr)); }}
figure {{ margin: 0; font-size: 13px; line-height: 1.35; }}
figure svg {{ display: block; width: 100%; border: 1px solid {LINE}; border-radius: 6px; margin-bottom: 4px;
  box-sizing: border-box; }}
.turns svg {{ outline: 3px solid var(--type); }}
.turns .without {{ font-weight: 600; }}
section {{ border-top: 1px solid {LINE}; padding: 12px 0; margin-top: 16px; }}
h2 {{ font-size: 17px; font-weight: 600; margin: 0 0 2px; }}
section > p {{ margin: 0 0 10px; }}
.faint, .legend {{ {_shade("color", FAINT, DARK_FAINT)} }}
/* On light colours whatever the mode. */
tbody th[style] {{ color: {INK}; }}
@media print {{ :root {{ color-scheme: light; }} }}
.legend {{ font-size: 13px; margin: 4px 0; }}
.swatch {{ display: inline-block; width: 12px; height: 12px; border-radius: 3px; vertical-align: -1px; }}
.frame {{ outline: 2px solid {FAINT}; outline-offset: -2px; }}
.bar {{ display: inline-block; width: 120px; height: 12px; vertical-align: -1px; border: 1px solid {LINE}; }}
.defs {{ position: absolute; }}
table {{ border-collapse: separate; border-spacing: 2px; width: 100%; }}
th {{ font-weight: 400; text-align: start; padding: 2px 6px; }}
thead th {{ position: sticky; top: 0; padding: 2px 0; {_shade("background", PAPER, DARK_PAPER)} text-align: center;
  vertical-align: bottom; }}
thead svg {{ display: block; width: 100%; max-width: 88px; margin: 0 auto; border-radius: 4px; }}
tbody th {{ min-width: 86px; }}
td {{ text-align: center; font-variant-numeric: tabular-nums; border-radius: 3px; white-space: nowrap; }}
tbody .span {{ width: 1px; min-width: 74px; padding: 2px 0; vertical-align: middle; border-radius: 4px;
  text-align: center; }}
.span .type {{ display: block; white-space: normal; padding: 1px 2px; }}
rect {{ shape-rendering: crispEdges; }}
@media (max-width: 500px) {{
  td, th {{ font-size: 12px; padding: 2px 1px; }}
  tbody .span {{ min-width: 58px; }}
  .span .type {{ font-size: 11px; }}
}}
"""
# Even if a browser were made to read text as markup, it would run and fetch nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def explanation_to_html(explanation: Explanation, kind: str = "card", numbers: Sequence[int] | None = None) -> str:
    """Draw an explanation as a web page; see [`plot_explanation`].

    Args:
        explanation ([`Explanation`]): What [`MultiImageNERPipeline.explain`] returned.
        kind (`str`, *optional*, defaults to `"card"`): `"card"` or `"heat_map"`.
        numbers (`Sequence[int]`, *optional*): What to call the images, by default 1 and so on.

    Returns:
        `str`: the page.

    Raises:
        ValueError: if a card is asked for, and no image was taken away.
    """
    if kind == "card" and any(explained.score_without_images is None for explained in explanation.entities):
        raise ValueError("A card tells what entities become without images: expected `explain(post)`, `without=True`.")
    numbers = range(1, len(explanation.images) + 1) if numbers is None else numbers
    body = {"card": _card, "heat_map": _heat_map}[kind](explanation, numbers)
    left_out = [f'<p class="legend">Left out: {escape(reason)}</p>' for reason in explanation.skipped_images]
    return page("What the images did", [*body, *left_out])


def page(title: str, parts: Sequence[str]) -> str:
    """Make a page of its parts.

    Args:
        title (`str`): Its title.
        parts (`Sequence[str]`): HTML.

    Returns:
        `str`: the page.
    """
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def data_uri(image: Image.Image, form: str = "jpeg") -> str:
    """Embed an image.

    Args:
        image (`Image.Image`): The image, in RGB.
        form (`str`, *optional*, defaults to `"jpeg"`): Or `"png"`, for small images.

    Returns:
        `str`: a `data:` URI.
    """
    buffer = io.BytesIO()
    # PNG has neither quality nor subsampling, and ignores them.
    image.save(buffer, form, quality=90, subsampling=0)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def chip(text: str, colour: str, tag: str = "span") -> str:
    """Put the type of an entity on its colour.

    Args:
        text (`str`): The type, and what else there is to say of it.
        colour (`str`): As `#RRGGBB`.
        tag (`str`, *optional*, defaults to `"span"`): The element.

    Returns:
        `str`: HTML.
    """
    style = f"background:{colour};color:{ink_on(colour)}"
    return f'<{tag} class="type" dir="ltr" style="{style}">{escape(text)}</{tag}>'


def mark_words(words: Sequence[str], spans: Iterable[tuple[int, int, str, str]]) -> str:
    """Mark the entities of a post.

    Args:
        words (`Sequence[str]`): The words of the post.
        spans (`Iterable[tuple[int, int, str, str]]`): First word and last word + 1 of each entity, its colour, and the
            text of its chip.

    Returns:
        `str`: a paragraph of HTML.
    """
    direction = "rtl" if is_right_to_left(" ".join(words)) else "ltr"
    parts = []
    for first, end, span in cut(len(words), [(first, end, (colour, text)) for first, end, colour, text in spans]):
        # Isolated, so that no word can turn the direction of what follows it.
        part = f'<bdi dir="{direction}">{escape(" ".join(words[first:end]))}</bdi>'
        if span is not None:
            colour, text = span
            part = f'<mark style="background:{tint(colour)}">{part} {chip(text, colour)}</mark>'
        parts.append(part)
    return f'<p class="post" dir="{direction}">{" ".join(parts) or "(no words)"}</p>'


def _card(explanation: Explanation, numbers: Sequence[int]) -> list[str]:
    """Return the parts of a post card."""
    limit = patch_limit(explanation)
    colours = type_colours(explanation.types)
    parts = [_define_images(explanation.images, numbers, faded=limit is not None), _post(explanation, colours)]
    parts += _gallery([_figure(*pair) for pair in zip(numbers, explanation.images, strict=True)])
    if not explanation.entities:
        parts.append('<p class="faint">No entities found.</p>')
    for explained in explanation.entities:
        parts += _evidence(explained, explanation.images, numbers, limit, colours)
    if limit is not None:
        for colour, meaning in zip(PATCH_COLOURS, patch_legend(limit), strict=True):
            parts.append(f'<p class="legend"><span class="swatch" style="background:{colour}"></span> {meaning}</p>')
    if explanation.entities and explanation.images:
        parts.append(f'<p class="legend"><span class="swatch frame"></span> {FRAME}</p>')
    return parts


def _define_images(images: list[Image.Image], numbers: Sequence[int], faded: bool = False) -> str:
    """Embed each image once, for figures to refer to."""
    named = [(f"image-{number}", image) for number, image in zip(numbers, images, strict=True)]
    if faded:
        named += [(f"faded-{number}", fade(image)) for number, image in zip(numbers, images, strict=True)]
    embedded = [
        f'<image id="{name}" width="{image.width}" height="{image.height}" href="{data_uri(image)}"/>'
        for name, image in named
    ]
    return f'<svg class="defs" width="0" height="0" aria-hidden="true"><defs>{"".join(embedded)}</defs></svg>'


def _post(explanation: Explanation, colours: dict[str, str]) -> str:
    """Return the words of a post with its entities marked."""
    spans = []
    for explained in explanation.entities:
        first, last = explained.entity["words"]
        spans.append((first, last + 1, colours[explained.entity["entity_group"]], type_text(explained.entity)))
    return mark_words(explanation.words, spans)


def _gallery(figures: list[str]) -> list[str]:
    return ['<div class="images">', *figures, "</div>"] if figures else []


def _figure(number: int, image: Image.Image, layers: str = "", caption: str = "", turns: bool = False) -> str:
    """Return an image with its number, what is drawn over it, and what is said of it."""
    name = f"faded-{number}" if layers else f"image-{number}"
    drawing = _svg(image, f'<use href="#{name}"/>{layers}', f"image {number}")
    return (
        f"<figure{' class=turns' if turns else ''}>{drawing}"
        f'<figcaption><span class="faint">image {number}</span>{caption}</figcaption></figure>'
    )


def _svg(image: Image.Image, content: str, label: str) -> str:
    return f'<svg viewBox="0 0 {image.width} {image.height}" role="img" aria-label="{label}">{content}</svg>'


def _evidence(
    explained: EntityExplanation,
    images: list[Image.Image],
    numbers: Sequence[int],
    limit: float | None,
    colours: dict[str, str],
) -> list[str]:
    """Return what each image did for one entity."""
    entity, colour = explained.entity, colours[explained.entity["entity_group"]]
    parts = [
        f'<section style="--type:{colour}">',
        f"<h2><bdi>{escape(entity['word'])}</bdi> {chip(type_text(explained.entity), colour)}</h2>",
    ]
    if explained.images:
        without = (explained.score_without_images, explained.label_without_images, explained.label_score_without_images)
        parts.append(f"<p>without all images: {escape(without_text(entity, *without))}</p>")
    else:
        parts.append('<p class="faint">The post has no images.</p>')
    figures = []
    for number, image, evidence in zip(numbers, images, explained.images, strict=True):
        layers = "" if evidence.patch_effects is None else _patches(evidence.patch_effects, image, limit)
        turns = evidence.label_without != entity["entity_group"]
        figures.append(_figure(number, image, layers, _caption(entity, evidence), turns))
    return [*parts, *_gallery(figures), "</section>"]


def _caption(entity: dict, evidence: ImageEvidence) -> str:
    without = without_text(entity, evidence.score_without, evidence.label_without, evidence.label_score_without)
    return (
        f'<br><span class="without">without this image:<br>{escape(without)}</span>'
        f'<br><span class="faint">{attention_text(evidence)}</span>'
    )


def _patches(effects: np.ndarray, image: Image.Image, limit: float) -> str:
    """Return the patches of an image as rectangles that tell their numbers on hovering."""
    return "".join(
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="{colour}" fill-opacity="{opacity:.2f}">'
        f"<title>log-odds without this patch: {-effect:+.2f}</title></rect>"
        for (left, top, width, height), effect, colour, opacity in patches(effects, image, limit)
    )


def _heat_map(explanation: Explanation, numbers: Sequence[int]) -> list[str]:
    """Return the parts of a heat map, a row for each word and a column for each image."""
    title, attention = choose_attention(explanation)
    parts = [_define_images(explanation.images, numbers), f'<p class="faint">{title}</p>']
    scale = (0.5, 1.0)
    if attention is not None:
        scale = attention_scale(attention)
        middle, top = (f"{bound:.{attention_digits(scale[1])}f}" for bound in scale)
        gradient = f"linear-gradient(to right, {', '.join(ATTENTION_COLOURS)})"
        bar = f'0 <span class="bar" style="background:{gradient}"></span> {top}'
        parts.append(f'<p class="legend" dir="ltr">{bar}; the middle is attention spread evenly, {middle}</p>')
    heads = ["<th></th><th></th>"]
    for number, image in zip(numbers, explanation.images, strict=True):
        drawing = _svg(image, f'<use href="#image-{number}"/>', f"image {number}")
        heads.append(f"<th>{drawing}{number}</th>")
    direction = "rtl" if is_right_to_left(" ".join(explanation.words)) else "ltr"
    parts.append(f'<table dir="{direction}">\n<thead><tr>{"".join(heads)}</tr></thead>\n<tbody>')
    colours = type_colours(explanation.types)
    for first, end, explained in runs(explanation):
        for word in range(first, end):
            head = _word(explanation.words[word], explained, end - first if word == first else 0, colours)
            cells = "" if attention is None else _cells(attention[word], *scale)
            parts.append(f"<tr>{head}{cells}</tr>")
    return [*parts, "</tbody>\n</table>"]


def _word(word: str, explained: EntityExplanation | None, num_words: int, colours: dict[str, str]) -> str:
    """Return a word's head, and before the first of an entity's words the cell that marks them all."""
    if explained is None:
        return f"<th></th><th><bdi>{escape(word)}</bdi></th>"
    colour = colours[explained.entity["entity_group"]]
    label = chip(type_text(explained.entity), colour)
    span = f'<th class="span" rowspan="{num_words}" style="background:{colour}">{label}</th>'
    return f'{span if num_words else ""}<th style="background:{tint(colour)}"><bdi>{escape(word)}</bdi></th>'


def _cells(weights: np.ndarray, middle: float, top: float) -> str:
    """Return a word's cells, each with its number."""
    cells = []
    for weight in weights:
        colour = attention_colour(weight, middle, top)
        text = f"{weight:.{attention_digits(top)}f}"
        cells.append(f'<td style="background:{colour};color:{ink_on(colour)}">{text}</td>')
    return "".join(cells)


__all__ = ["chip", "data_uri", "explanation_to_html", "mark_words", "page"]

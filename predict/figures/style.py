"""What the figures of explanations share, whatever they are drawn with: colours, wording, runs of words."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from ...pipeline_smcl import EntityExplanation, Explanation, ImageEvidence, patch_edges

T = TypeVar("T")

# Okabe and Ito's colours, told apart with any colour vision; blue before those that are alike to some.
TYPE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK, FAINT, LINE, PAPER = "#1F2328", "#57606A", "#D0D7DE", "#FFFFFF"
DARK_INK, DARK_FAINT, DARK_PAPER = "#E6EDF3", "#9DA7B1", "#16181D"
# From low to high.
ATTENTION_COLOURS = ("#FCFBFD", "#9E9AC8", "#3F007D")
# Patches that speak for an entity, and against it; also told apart with any colour vision.
PATCH_COLOURS = ("#E66100", "#5D3A9B")
# Opacity of the strongest patch.
PATCH_OPACITY = 0.8
# A change of the log-odds that is drawn at full strength if no patch changes more: less is not worth a loud colour.
LEAST_LIMIT = 1.0

FRAME = "framed: without this image, something else is more probable"
ATTENTIONS = {
    "fusion_attention": "Attention of the words to the images, in the fusion.",
    "guidance_attention": "Attention of the words to the images, inside the text encoder.",
}


def type_colours(types: Sequence[str]) -> dict[str, str]:
    """Assign colours to types of entities, in their order; beyond seven they come again.

    Args:
        types (`Sequence[str]`): The types.

    Returns:
        `dict[str, str]`: `#RRGGBB` of each type.
    """
    return {name: TYPE_COLOURS[row % len(TYPE_COLOURS)] for row, name in enumerate(types)}


def to_rgb(colour: str) -> np.ndarray:
    """Return red, green and blue of `#RRGGBB`, each from 0 to 1."""
    return np.frombuffer(bytes.fromhex(colour[1:]), dtype=np.uint8) / 255


def mix(colours: Sequence[str], share: float) -> str:
    """Find a colour on the line through several.

    Args:
        colours (`Sequence[str]`): At least two, as `#RRGGBB`.
        share (`float`): From 0, the first, to 1, the last.

    Returns:
        `str`: as `#RRGGBB`.
    """
    stops = np.linspace(0, 1, len(colours))
    channels = np.stack([to_rgb(colour) for colour in colours], axis=1)
    return "#" + "".join(f"{round(255 * float(np.interp(share, stops, channel))):02X}" for channel in channels)


def tint(colour: str) -> str:
    """Return a shade light enough for dark text."""
    return mix((PAPER, colour), 0.22)


def luminance(colour: str) -> float:
    """Return the relative luminance as WCAG 2 defines it."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def contrast(colour: str, other: str) -> float:
    """Return the contrast ratio of two colours as WCAG 2 defines it, from 1 to 21."""
    low, high = sorted((luminance(colour), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: str) -> str:
    """Return the better of black and white for text on a colour."""
    return max(("#000000", PAPER), key=lambda ink: contrast(ink, colour))


def runs(explanation: Explanation) -> Iterator[tuple[int, int, EntityExplanation | None]]:
    """Cut the words of a post into entities and what lies between them.

    Args:
        explanation ([`Explanation`]): The explanation.

    Yields:
        First word, last word + 1, and the entity, or `None` between entities.
    """
    places = [explained.entity["words"] for explained in explanation.entities]
    spans = [(first, last + 1, x) for (first, last), x in zip(places, explanation.entities, strict=True)]
    yield from cut(len(explanation.words), spans)


def cut(num_words: int, spans: Iterable[tuple[int, int, T]]) -> Iterator[tuple[int, int, T | None]]:
    """Cut words into spans and what lies between them.

    Args:
        num_words (`int`): How many words there are.
        spans (`Iterable[tuple]`): First word, last word + 1, and what else is known of each.

    Yields:
        First word, last word + 1, and what is known, or `None` between spans.
    """
    done = 0
    for first, end, known in sorted(spans, key=lambda span: span[:2]):
        if done < first:
            yield done, first, None
        yield first, end, known
        done = end
    if done < num_words:
        yield done, num_words, None


def is_right_to_left(text: str) -> bool:
    """Tell a text's direction by its first letter that has one."""
    strong = (kind for kind in map(unicodedata.bidirectional, text) if kind in ("L", "R", "AL"))
    return next(strong, "L") != "L"


def type_text(entity: dict) -> str:
    """Return the type and the score of an entity."""
    return f"{entity['entity_group']} {entity['score']:.2f}"


def without_text(entity: dict, score: float, label: str, label_score: float) -> str:
    """Say what taking images away does to an entity.

    Args:
        entity (`dict`): The entity.
        score (`float`): Its posterior without them.
        label (`str`): What is then most probable of its words, `"O"` for no such entity.
        label_score (`float`): The posterior of that.

    Returns:
        `str`: such as `"PER 0.81 → 0.12, MISC 0.77"`; a line may break after the comma.
    """
    name = entity["entity_group"]
    change = f"{name}\u00a0{entity['score']:.2f}\u00a0→\u00a0{score:.2f}"
    if label == name:
        return change
    return f"{change}, {'no such entity' if label == 'O' else label}\u00a0{label_score:.2f}"


def attention_text(evidence: ImageEvidence) -> str:
    """Name the attention of an entity's words to an image, as far as the model has any."""
    parts = {"fusion": evidence.fusion_attention, "guidance": evidence.guidance_attention}
    known = [f"{name} {value:.2f}" for name, value in parts.items() if value is not None]
    return f"attention: {', '.join(known)}" if known else ""


def choose_attention(explanation: Explanation) -> tuple[str, np.ndarray | None]:
    """Return the attention to draw and its title: of the fusion, else of the guidance, else why there is none."""
    for name, title in ATTENTIONS.items():
        if getattr(explanation, name) is not None:
            return title, getattr(explanation, name)
    if not explanation.images:
        return "No attention to draw: the post has no images.", None
    return "No attention to draw: the model has neither the symmetric fusion nor image guidance.", None


def attention_scale(attention: np.ndarray) -> tuple[float, float]:
    """Return the middle and the top of the colour scale, which begins at 0.

    Whatever the data, the middle is attention that is spread evenly, and the top all of it on one image: 1/n and 1 in
    the fusion, whose weights sum to 1; inside the text encoder, whose words look at one another too, the mean and n
    times that. What hardly differs then looks alike.

    Args:
        attention (`np.ndarray` of shape `(num_words, num_images)`): The attention.

    Returns:
        `tuple[float, float]`: the middle and the top.
    """
    if not attention.size:
        return 0.5, 1.0
    middle = max(float(attention.mean()), 1e-6)
    return middle, middle * attention.shape[1]


def attention_colour(weight: float, middle: float, top: float) -> str:
    """Return the colour of an attention on the scale of `attention_scale`."""
    return mix(ATTENTION_COLOURS, float(np.interp(weight, *_stops(middle, top))))


def _stops(middle: float, top: float) -> tuple[list[float], list[float]]:
    # Of a single image, the middle is the top.
    return ([0.0, middle, top], [0.0, 0.5, 1.0]) if top > middle else ([0.0, middle], [0.0, 0.5])


def attention_digits(top: float) -> int:
    """Return how many decimals it takes to see differences."""
    return 2 if top >= 0.1 else 3


def patch_limit(explanation: Explanation) -> float | None:
    """Return the change of the log-odds drawn at full strength, in all images alike; `None` without patches."""
    effects = [
        evidence.patch_effects
        for explained in explanation.entities
        for evidence in explained.images
        if evidence.patch_effects is not None
    ]
    return max(LEAST_LIMIT, *(float(np.abs(effect).max()) for effect in effects)) if effects else None


def patch_paint(effect: float, limit: float) -> tuple[str, float]:
    """Return colour and opacity of a patch; the root makes small effects visible beside large ones."""
    return PATCH_COLOURS[int(effect < 0)], PATCH_OPACITY * float(np.sqrt(min(1.0, abs(effect) / limit)))


def patches(effects: np.ndarray, image: Image.Image, limit: float) -> Iterator[tuple[tuple, float, str, float]]:
    """Lay the patches of an image out.

    Args:
        effects (`np.ndarray` of shape `(grid, grid)`): The effect of each patch.
        image (`Image.Image`): The image.
        limit (`float`): The effect that is drawn at full strength.

    Yields:
        Left, top, width and height in pixels; the effect; colour and opacity.
    """
    rows, columns = patch_edges(image.height, len(effects)), patch_edges(image.width, len(effects))
    for (row, column), effect in np.ndenumerate(effects):
        left, top = columns[column], rows[row]
        place = (left, top, columns[column + 1] - left, rows[row + 1] - top)
        yield place, float(effect), *patch_paint(effect, limit)


def fade(image: Image.Image) -> Image.Image:
    """Return an image without its colours and lighter, so that patches drawn over it stand out."""
    grey = image.convert("L").convert("RGB")
    return Image.blend(grey, Image.new("RGB", image.size, PAPER), 0.35)


def patch_legend(limit: float) -> tuple[str, str]:
    """Say what the colours of patches that speak for an entity, and against it, mean."""
    return (
        f"patches that speak for the entity: without one, its log-odds fall (full colour: by {limit:.1f})",
        f"patches that speak against it: without one, they rise (full colour: by {limit:.1f})",
    )


__all__ = [
    "ATTENTION_COLOURS",
    "DARK_FAINT",
    "DARK_INK",
    "DARK_PAPER",
    "FAINT",
    "FRAME",
    "INK",
    "LINE",
    "PAPER",
    "PATCH_COLOURS",
    "attention_colour",
    "attention_digits",
    "attention_scale",
    "attention_text",
    "choose_attention",
    "contrast",
    "cut",
    "ink_on",
    "fade",
    "is_right_to_left",
    "mix",
    "patch_legend",
    "patch_limit",
    "patches",
    "runs",
    "tint",
    "to_rgb",
    "type_colours",
    "type_text",
    "without_text",
]

"""What kinds of errors a system makes: boundary, type confusion, modality conflict; missed and spurious entities.

The paper names the first three (Section 4.8.1) without saying how to tell them. Here, with "entity" meaning first word,
last word and type, and strictly read BIO2 tags:

- A gold entity that is not predicted is one error:
  - *modality conflict* if the same model predicts it when all images are taken away: the images misled it;
  - else *type confusion* if an entity of exactly its words but another type is predicted;
  - else *boundary* if an entity that shares a word with it is predicted;
  - else *missed*.
- A predicted entity that shares no word with any gold entity is one error, *spurious*.

So no error counts twice, and a wrong prediction that touches a gold entity is that entity's error. The reverse of a
modality conflict, a gold entity that is predicted with images and not without, is no error; it is counted as *rescued*.
A system that reads no images has neither.
"""

from collections.abc import Sequence

import numpy as np

from .significance import Span, entities_of

ERRORS = ("boundary", "type confusion", "modality conflict", "missed", "spurious")
COUNTS = (*ERRORS, "rescued")


def classify(gold: set[Span], predicted: set[Span], without_images: set[Span] | None = None) -> dict[str, int]:
    """Count the errors of one post.

    Args:
        gold (`set[tuple[int, int, str]]`): First word, last word + 1 and type of each gold entity.
        predicted (`set[tuple[int, int, str]]`): Likewise of the predicted ones.
        without_images (`set[tuple[int, int, str]]`, *optional*): What the same model predicts without images.

    Returns:
        `dict[str, int]`: a number for each of `COUNTS`.
    """
    counts = dict.fromkeys(COUNTS, 0)
    blind = predicted if without_images is None else without_images
    for entity in gold:
        if entity in predicted:
            counts["rescued"] += entity not in blind
        else:
            counts[_kind(entity, predicted, blind)] += 1
    counts["spurious"] = sum(not any(_overlap(entity, other) for other in gold) for entity in predicted)
    return counts


def _kind(entity: Span, predicted: set[Span], blind: set[Span]) -> str:
    """Name the error that a missing gold entity is."""
    if entity in blind:
        return "modality conflict"
    if any(other[:2] == entity[:2] for other in predicted):
        return "type confusion"
    return "boundary" if any(_overlap(entity, other) for other in predicted) else "missed"


def _overlap(entity: Span, other: Span) -> bool:
    return entity[0] < other[1] and other[0] < entity[1]


def count_errors(posts: Sequence[dict], without_images: Sequence[dict] | None = None) -> np.ndarray:
    """Count errors post by post.

    Args:
        posts (`Sequence[dict]`): With `id`, `gold` and `predicted` BIO2 tags.
        without_images (`Sequence[dict]`, *optional*): The same posts, predicted by the same model without images.

    Returns:
        `np.ndarray` of shape `(num_posts, len(COUNTS))`.

    Raises:
        ValueError: if the two are not of the same posts.
    """
    blind = posts if not without_images else without_images
    if [post["id"] for post in posts] != [post["id"] for post in blind]:
        raise ValueError("The predictions with and without images are not of the same posts in the same order.")
    rows = [
        classify(*(entities_of(tags) for tags in (post["gold"], post["predicted"], other["predicted"])))
        for post, other in zip(posts, blind, strict=True)
    ]
    return np.array([[row[name] for name in COUNTS] for row in rows], dtype=float)

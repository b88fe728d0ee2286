"""Strict entity-level scores."""

from collections.abc import Callable

import numpy as np
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from transformers import EvalPrediction


def entity_metrics(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """Compute strict entity-level scores: an entity counts if its type and both borders are right.

    Args:
        gold (`list[list[str]]`): BIO2 tags of each post.
        predicted (`list[list[str]]`): As many predicted tags.

    Returns:
        `dict` with micro-averaged `precision`, `recall`, `f1` in [0, 1], and for each type `{type}_precision`,
        `{type}_recall`, `{type}_f1` and `{type}_support`, its number of gold entities.
    """
    if not any(tag != "O" for tags in (*gold, *predicted) for tag in tags):
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    overall = report.pop("micro avg")
    scores = {"precision": overall["precision"], "recall": overall["recall"], "f1": overall["f1-score"]}
    for name, row in report.items():
        if not name.endswith(" avg"):
            scores |= {f"{name}_{key}": row[column] for key, column in _REPORT_COLUMNS.items()}
    return {name: float(score) for name, score in scores.items()}


_REPORT_COLUMNS = {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}


def word_tags(ids: np.ndarray, labels: list[str]) -> list[list[str]]:
    """Name the tags of each post.

    Args:
        ids (`np.ndarray` of shape `(num_posts, num_tokens)`): Tag ids at word starts, -100 elsewhere.
        labels (`list[str]`): Label names by id.

    Returns:
        `list[list[str]]`: the tags of the words that were not cut off.
    """
    return [[labels[i] for i in row[row != -100]] for row in ids]


def build_compute_metrics(labels: list[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Build Trainer's `compute_metrics`, which scores decoded tags by `entity_metrics`.

    Args:
        labels (`list[str]`): Label names by id.

    Returns:
        A function from `EvalPrediction` to scores.
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return entity_metrics(word_tags(prediction.label_ids, labels), word_tags(prediction.predictions, labels))

    return compute_metrics


__all__ = ["build_compute_metrics", "entity_metrics", "word_tags"]

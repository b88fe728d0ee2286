"""The strict entity score: a metric of `evaluate`, in a file of its own that is published as it stands.

`python -m smcl.publish --metric NAMESPACE/NAME` makes it a metric that others load by `evaluate.load`. So it imports
nothing of this package.
"""

import re

import datasets
import evaluate
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

SCORES = ("precision", "recall", "f1")

DESCRIPTION = """\
Precision, recall and F1 of named entities, over all and for each type. An entity counts if its type and both borders
are right (IOB2, seqeval's strict mode). An I- tag that continues no entity of its type begins none.
"""
INPUTS = """
Args:
    predictions (`list[list[str]]`): Predicted IOB2 tags of each text, such as `["O", "B-PER", "I-PER"]`.
    references (`list[list[str]]`): As many gold tags.

Returns:
    `dict[str, float]` with micro-averaged `precision`, `recall` and `f1` in [0, 1], and for each type among the tags
    `{type}_precision`, `{type}_recall`, `{type}_f1` and `{type}_support`, its number of gold entities.

Raises:
    ValueError: if a text has another number of predicted than of gold tags, or a tag is not IOB2.

Example:
    >>> metric.compute(predictions=[["B-PER", "O", "B-LOC"]], references=[["B-PER", "I-PER", "B-LOC"]])["f1"]
    0.5
"""
CITATION = """\
@misc{seqeval,
  title = {{seqeval}: A Python framework for sequence labeling evaluation},
  author = {Hiroki Nakayama},
  url = {https://github.com/chakki-works/seqeval},
  year = {2018}
}
"""


class StrictEntityF1(evaluate.Metric):
    """Strict entity-level scores; see `DESCRIPTION` and `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        for number, (predicted, gold) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(gold):
                raise ValueError(
                    f"Expected as many `predictions` as `references` for each text, got {len(predicted)} and "
                    f"{len(gold)} tags for text {number}."
                )
            if strange := [tag for tag in (*predicted, *gold) if not re.fullmatch("O|[BI]-.+", tag)]:
                raise ValueError(f"Expected IOB2 tags, `O`, `B-TYPE` or `I-TYPE`, got {strange[0]!r} in text {number}.")
        if not any(tag != "O" for tags in (*references, *predictions) for tag in tags):
            return dict.fromkeys(SCORES, 0.0)
        # seqeval cuts dashes off types, and calls its averages by names that types may have.
        types = sorted({tag[2:] for tags in (*references, *predictions) for tag in tags if tag != "O"})
        plain = {f"{letter}-{entity_type}": f"{letter}-{i}" for i, entity_type in enumerate(types) for letter in "BI"}
        named = [[[plain.get(tag, tag) for tag in tags] for tags in side] for side in (references, predictions)]
        settings = {"mode": "strict", "scheme": IOB2, "output_dict": True, "zero_division": 0}
        report = classification_report(*named, **settings)
        scores = {name: report["micro avg"][column] for name, column in zip(SCORES, _COLUMNS, strict=True)}
        for i, entity_type in enumerate(types):
            if str(i) in report:
                columns = zip((*SCORES, "support"), (*_COLUMNS, "support"), strict=True)
                scores |= {f"{entity_type}_{name}": report[str(i)][column] for name, column in columns}
        return {name: float(score) for name, score in scores.items()}


# As seqeval's report names the scores.
_COLUMNS = ("precision", "recall", "f1-score")


def entity_metrics(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """Compute strict entity-level scores, in memory: nothing is written, and processes have nothing to share.

    Args:
        gold (`list[list[str]]`): IOB2 tags of each text; `None` for a word that nobody tagged. It is no part of an
            entity, and a predicted entity with one is left out: nobody knows whether it is right.
        predicted (`list[list[str]]`): As many predicted tags.

    Returns:
        `dict[str, float]`; see `INPUTS`.

    Raises:
        ValueError: if a text has another number of predicted than of gold tags, or a tag is not IOB2.
    """
    if any(None in tags for tags in gold):
        pairs = [judged(*pair) for pair in zip(gold, predicted, strict=True)]
        gold, predicted = map(list, zip(*pairs, strict=True))
    return StrictEntityF1(keep_in_memory=True).compute(predictions=predicted, references=gold)


def judged(gold: list[str | None], predicted: list[str]) -> tuple[list[str], list[str]]:
    """Put `O` for words that nobody tagged, and for predicted entities with one.

    Args:
        gold (`list[str]`): IOB2 tags of a text; `None` for a word that nobody tagged.
        predicted (`list[str]`): As many predicted tags.

    Returns:
        `tuple[list[str], list[str]]`: gold and predicted tags, as they are scored.
    """
    predicted = ["O" if tag is None else tag for tag in predicted]
    kept, begin = list(predicted), 0
    for word, tag in enumerate(predicted):
        if not (tag[:2] == "I-" and predicted[begin][2:] == tag[2:]):
            begin = word
        # An entity is gone with its first word that is unknown, and all that follow.
        if None in gold[begin : word + 1]:
            kept[begin : word + 1] = ["O"] * (word + 1 - begin)
    return ["O" if tag is None else tag for tag in gold], kept


__all__ = ["SCORES", "StrictEntityF1", "entity_metrics", "judged"]

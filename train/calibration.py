"""Do confidences mean what they say? Expected calibration error, and a temperature that mends them."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from datasets import Dataset
from scipy.optimize import minimize_scalar
from torch.utils.data import DataLoader
from transformers import Trainer

from ..crf_smcl import LinearChainCRF
from ..dataset_scripts.row_checks import NOT_TAGGED
from ..pipeline_smcl import find_entities

# First word, last word, type.
Entity = tuple[int, int, str]
LOWEST, HIGHEST = 0.05, 20.0


def expected_calibration_error(scores: np.ndarray, correct: np.ndarray, num_bins: int = 10) -> float:
    """Average the gap between confidence and accuracy over bins of equal width, weighted by their sizes.

    Args:
        scores (`np.ndarray` of shape `(num_entities,)`): Confidences in [0, 1].
        correct (`np.ndarray` of shape `(num_entities,)`): Whether each entity is right.
        num_bins (`int`, *optional*, defaults to 10): Number of bins.

    Returns:
        `float`: from 0, confidences that mean what they say, to 1; NaN without an entity.
    """
    if not len(scores):
        return math.nan
    bins = np.minimum((np.asarray(scores) * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=np.asarray(scores, float) - np.asarray(correct, float), minlength=num_bins)
    return float(np.abs(gaps).sum() / len(scores))


class EntityConfidences:
    """Predicted entities of posts, to be scored at any temperature.

    Args:
        crf ([`LinearChainCRF`]): The model's CRF.
        posts (iterable of `tuple[torch.Tensor, list[int]]`): Emissions of shape `(num_words, num_labels)` and gold tag
            ids of each post, -100 for a word that nobody tagged: entities with one are left out; at least one word in
            each.
    """

    def __init__(self, crf: LinearChainCRF, posts: Iterable[tuple[torch.Tensor, list[int]]]):
        self.crf = copy.deepcopy(crf).cpu()
        self.emissions: list[torch.Tensor] = []
        self.predicted: list[list[Entity]] = []
        correct: list[bool] = []
        for emissions, gold in posts:
            mask = torch.ones(1, len(emissions), dtype=torch.bool)
            best = self.crf.decode(emissions[None], mask)[0].tolist()
            named = [["O" if tag == NOT_TAGGED else self.crf.labels[tag] for tag in tags] for tags in (best, gold)]
            predicted, right = map(find_entities, named)
            # Nobody knows whether these are right.
            unknown = {word for word, tag in enumerate(gold) if tag == NOT_TAGGED}
            predicted = [span for span in predicted if not unknown & set(range(span[0], span[1] + 1))]
            self.emissions.append(emissions.double())
            self.predicted.append(predicted)
            correct += [entity in right for entity in predicted]
        self.correct = np.array(correct, dtype=bool)

    def scores(self, temperature: float) -> np.ndarray:
        """Return the posterior of each predicted entity, `(num_entities,)`."""
        pairs = zip(self.emissions, self.predicted, strict=True)
        posteriors = [self.crf.entity_posteriors(emissions, spans, temperature) for emissions, spans in pairs]
        return torch.cat(posteriors).numpy()

    def loss(self, temperature: float) -> float:
        """Return the mean negative log-likelihood of each predicted entity being right or wrong."""
        scores = np.clip(self.scores(temperature), 1e-12, 1 - 1e-12)
        return float(-np.where(self.correct, np.log(scores), np.log1p(-scores)).mean())

    def error(self, temperature: float) -> float:
        """Return the expected calibration error."""
        return expected_calibration_error(self.scores(temperature), self.correct)


@torch.no_grad()
def _score_words(trainer: Trainer, posts: Dataset) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Yield the emissions `(num_words, num_labels)` and the gold tag ids of each post that has words."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    loader = DataLoader(posts, batch_size=trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator)
    for batch in loader:
        labels = batch.pop("labels")
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        logits = model(**inputs, return_dict=True).logits.cpu()
        for row, mask, tags in zip(logits, batch["word_mask"], labels, strict=True):
            if mask.any():
                yield row[mask], tags[mask].tolist()


def fit_temperature(confidences: EntityConfidences) -> float:
    """Find the temperature at which posteriors fit best to whether predicted entities are right.

    Args:
        confidences ([`EntityConfidences`]): Of validation posts.

    Returns:
        `float`: between 0.05 and 20.

    Raises:
        ValueError: if no entity is predicted.
    """
    if not len(confidences.correct):
        raise ValueError("The model predicts no entity in the validation posts: train it before `--calibrate`.")
    bounds = math.log(LOWEST), math.log(HIGHEST)
    fit = minimize_scalar(
        lambda x: confidences.loss(math.exp(x)), bounds=bounds, method="bounded", options={"xatol": 1e-2}
    )
    return math.exp(fit.x)


def calibrate(trainer: Trainer, splits: Mapping[str, Dataset]) -> dict[str, float]:
    """Fit the temperature on validation posts, set it in the model's configuration, and measure what it does.

    Args:
        trainer (`Trainer`): Holds the model and the collator.
        splits (`Mapping[str, Dataset]`): Posts with gold tags: `"validation"` to fit on; all are measured.

    Returns:
        `dict`: `temperature`, and for each split `{split}_ece_before` (at the temperature that the model had) and
        `{split}_ece`, expected calibration errors over predicted entities in ten bins.

    Raises:
        ValueError: if no entity is predicted in the validation posts.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    confidences = {split: EntityConfidences(model.crf, _score_words(trainer, posts)) for split, posts in splits.items()}
    temperature, before = fit_temperature(confidences["validation"]), model.config.temperature
    model.config.temperature = temperature
    metrics = {"temperature": temperature}
    for split, found in confidences.items():
        metrics |= {f"{split}_ece_before": found.error(before), f"{split}_ece": found.error(temperature)}
    return metrics


__all__ = ["EntityConfidences", "calibrate", "expected_calibration_error", "fit_temperature"]

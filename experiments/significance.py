"""Are two systems different? Paired bootstrap over seeds and posts, and McNemar's exact test over entities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from seqeval.scheme import IOB2, Entities

# How tables name what `bootstrap_difference` and `bootstrap_sum` do.
SAMPLES = 2000
METHOD = f"paired bootstrap over seeds and test posts together ({SAMPLES} samples)"

# Last word + 1, as seqeval has it.
Span = tuple[int, int, str]


def entities_of(tags: list[str | None]) -> set[Span]:
    """Return first word, last word + 1 and type of each entity, by the strict reading of BIO2 that scores use.

    A word that nobody tagged (`None`) is no part of an entity, and ends one, as in scores.
    """
    # seqeval cuts dashes off types: `PER-` and `PER` would be one.
    types = sorted({tag[2:] for tag in tags if tag not in ("O", None)})
    plain = ["O" if tag in ("O", None) else f"{tag[0]}-{types.index(tag[2:])}" for tag in tags]
    return {(entity.start, entity.end, types[int(entity.tag)]) for entity in Entities([plain], IOB2).entities[0]}


def count_posts(posts: Sequence[dict]) -> np.ndarray:
    """Count what F1 is made of.

    Args:
        posts (`Sequence[dict]`): With `gold` and `predicted` BIO2 tags.

    Returns:
        `np.ndarray` of shape `(num_posts, 3)`: right, predicted and gold entities of each post.
    """
    rows = []
    for post in posts:
        gold, predicted = entities_of(post["gold"]), entities_of(post["predicted"])
        rows.append((len(gold & predicted), len(predicted), len(gold)))
    return np.array(rows, dtype=float).reshape(-1, 3)


def f1_of(counts: np.ndarray) -> np.ndarray:
    """Return F1 from sums of right, predicted and gold entities, `(..., 3)` to `(...)`; 0 without any entity."""
    total = counts[..., 1] + counts[..., 2]
    return np.divide(2 * counts[..., 0], total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True)
class Difference:
    """How much one system is above another.

    Attributes:
        value (`float`): The difference.
        low (`float`): Lower end of its 95 % confidence interval.
        high (`float`): Upper end.
        p (`float`): Two-sided p value: twice the smaller share of samples on one side of 0, at most 1.
    """

    value: float
    low: float
    high: float
    p: float


def bootstrap_difference(
    first: Sequence[Sequence[dict]], second: Sequence[Sequence[dict]], samples: int = SAMPLES, seed: int = 0
) -> Difference:
    """Compare the F1 of two systems on the same test posts by the paired bootstrap, over seeds and posts together.

    Each sample draws as many seeds and as many posts as there are, with replacement, the same ones for both systems.
    The F1 of a system is the mean over the runs drawn, so the interval is about other seeds and other test posts. Of
    one seed, it is about other posts alone; of few, it is somewhat too narrow.

    Args:
        first (`Sequence[Sequence[dict]]`): For each run of a system the predicted posts.
        second (`Sequence[Sequence[dict]]`): Likewise for the other system, of the same seeds in the same order.
        samples (`int`, *optional*, defaults to 2000): Number of samples.
        seed (`int`, *optional*, defaults to 0): Their seed.

    Returns:
        [`Difference`]: first minus second.

    Raises:
        ValueError: if a run is missing or the runs are not of the same posts.
    """
    if not first or len(first) != len(second):
        raise ValueError(
            f"Expected at least one run of each system, of the same seeds, got {len(first)} and {len(second)}."
        )
    check_same_posts([*first, *second])
    # shape: (num_runs, num_posts, 3)
    counts = [np.stack([count_posts(run) for run in runs]) for runs in (first, second)]
    runs, posts = _draw(*counts[0].shape[:2], samples, seed)
    values = [f1_of(c.sum(axis=1)).mean() for c in counts]
    # shape: (samples,)
    drawn = [(f1_of(np.einsum("sp,rpk->srk", posts, c)) * runs).mean(axis=1) for c in counts]
    return _summarize(values[0] - values[1], drawn[0] - drawn[1])


def bootstrap_sum(per_post: np.ndarray, samples: int = SAMPLES) -> Difference:
    """Find a confidence interval for a sum over posts, mean over seeds, such as how many more errors one system makes.

    Args:
        per_post (`np.ndarray` of shape `(num_runs, num_posts)`): What is summed.
        samples (`int`, *optional*, defaults to 2000): Number of samples.

    Returns:
        [`Difference`].
    """
    runs, posts = _draw(*per_post.shape, samples, seed=0)
    return _summarize(per_post.sum(axis=1).mean(), ((posts @ per_post.T) * runs).mean(axis=1))


def _draw(num_runs: int, num_posts: int, samples: int, seed: int) -> list[np.ndarray]:
    """Draw as many runs, and as many posts, as there are, with replacement.

    Returns:
        Two `np.ndarray` of shape `(samples, num_runs)` and `(samples, num_posts)`: how often each is in each sample.
    """
    rng = np.random.default_rng(seed)
    return [rng.multinomial(number, np.full(number, 1 / number), size=samples) for number in (num_runs, num_posts)]


def _summarize(value: float, drawn: np.ndarray) -> Difference:
    low, high = np.quantile(drawn, (0.025, 0.975))
    p = min(1.0, 2 * min((drawn <= 0).mean(), (drawn >= 0).mean()))
    return Difference(float(value), float(low), float(high), float(p))


def check_same_posts(runs: Sequence[Sequence[dict]]) -> None:
    """Refuse runs that were not on the same posts; names how they differ."""
    if not all(runs):
        raise ValueError("Expected predicted posts in each run, got a run without any.")
    ids = [[post["id"] for post in run] for run in runs]
    if any(other != ids[0] for other in ids[1:]):
        raise ValueError("The runs are not of the same test posts in the same order: they can't be compared in pairs.")


@dataclass(frozen=True)
class McNemar:
    """Where two systems disagree.

    Attributes:
        only_first (`int`): Cases that only the first has right.
        only_second (`int`): Cases that only the second has right.
        p (`float`): Two-sided p value of the exact test; 1 without any disagreement.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Test whether two systems are right equally often, by McNemar's exact test.

    Args:
        first (`Sequence[bool]`): Whether the first system has each case right.
        second (`Sequence[bool]`): Likewise for the other.

    Returns:
        [`McNemar`].

    Raises:
        ValueError: if they differ in length.
    """
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    total = only_first + only_second
    return McNemar(only_first, only_second, binomtest(only_first, total).pvalue if total else 1.0)


def right_entities(posts: Sequence[dict]) -> list[bool]:
    """Tell of each gold entity, in order, whether it was found with its borders and type."""
    right = []
    for post in posts:
        predicted = entities_of(post["predicted"])
        right += [entity in predicted for entity in sorted(entities_of(post["gold"]))]
    return right

"""Linear-chain CRF on pytorch-crf's parameters and loss, with batched decoding and marginals (Eq. 16-17).

The sums over all ways to match words and images in order, which the fusion needs, are kin to those over all paths.
"""

import itertools

import numpy as np
import torch
from torch.nn import functional as F

# Inside `try`, because the loader of remote code would otherwise tell users to install "torchcrf", another package.
try:
    from torchcrf import CRF
except ImportError as error:
    raise ImportError("SMCL needs the package pytorch-crf: run `pip install pytorch-crf`.") from error


# Lower than any path, but not infinite: differences and gradients of scores must be numbers.
ILLEGAL = -1e30
# Start, transition and end scores.
CRFScores = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def bio_constraints(labels: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell which tags may start a sequence and which may follow which in BIO2.

    Args:
        labels (`list[str]`): Label names by id. Names that do not begin with `B-` or `I-` count as outside.

    Returns:
        Two bool tensors, `True` = legal: starts of shape `(num_labels,)`, and transitions of shape
        `(num_labels, num_labels)` with the earlier tag in the first dimension.
    """
    inside = torch.tensor([label.startswith("I-") for label in labels])
    types = [label[2:] if label[:2] in ("B-", "I-") else None for label in labels]
    same_type = torch.tensor([[a is not None and a == b for b in types] for a in types])
    return ~inside, ~inside[None, :] | same_type


def entity_types(labels: list[str]) -> list[str]:
    """Return the types of entities that BIO2 labels spell, in order of the labels.

    Args:
        labels (`list[str]`): Label names by id.
    """
    return [label[2:] for label in labels if label.startswith("B-")]


def find_entities(tags: list[str]) -> list[tuple[int, int, str]]:
    """Find the entities that BIO2 tags spell; `I-` tags without their `B-` spell none.

    Args:
        tags (`list[str]`): A tag for each word.

    Returns:
        `list[tuple[int, int, str]]`: first word, last word and type of each.
    """
    found: list[tuple[int, int, str]] = []
    for word, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((word, word, tag[2:]))
        elif tag.startswith("I-") and found and found[-1][1:] == (word - 1, tag[2:]):
            found[-1] = (found[-1][0], word, tag[2:])
    return found


class LinearChainCRF(CRF):
    """A `torchcrf.CRF` (batch first) that decodes whole batches at once and gives marginals.

    The parameters `start_transitions`, `end_transitions`, `transitions` and the likelihood are pytorch-crf's. Masks
    are bool and contiguous: words first, padding after. A row without a word has likelihood 0 and no tags.

    Args:
        labels (`list[str]`): Label names by id.
        constrain_bio (`bool`, *optional*, defaults to `True`):
            Whether `decode` and `marginals` exclude sequences that break BIO2. The loss never does.

    Attributes:
        types (`list[str]`): The types of entities that the labels spell, in their order.
    """

    def __init__(self, labels: list[str], constrain_bio: bool = True):
        super().__init__(len(labels), batch_first=True)
        self.register_buffer("legal_starts", None, persistent=False)
        self.register_buffer("legal_transitions", None, persistent=False)
        self.name_tags(labels, constrain_bio)

    def name_tags(self, labels: list[str], constrain_bio: bool) -> None:
        """Name the tags, as on construction; the scores stay.

        Args:
            labels (`list[str]`): As many label names by id.
            constrain_bio (`bool`): As there.
        """
        self.labels, self.types = list(labels), entity_types(labels)
        self.ids = {label: index for index, label in enumerate(labels)}
        self.constrain_bio = constrain_bio
        self.legal_starts, self.legal_transitions = (legal.to(self.transitions.device) for legal in self.constraints())

    def constraints(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the legal starts and transitions, all `True` when unconstrained; see `bio_constraints`."""
        starts, transitions = bio_constraints(self.labels)
        if not self.constrain_bio:
            starts, transitions = torch.ones_like(starts), torch.ones_like(transitions)
        return starts, transitions

    def log_likelihood(self, emissions: torch.Tensor, tags: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute log p(tags | emissions) for each sequence (Eq. 16).

        Args:
            emissions (`torch.Tensor` of shape `(batch_size, num_words, num_labels)`): Emission scores.
            tags (`torch.LongTensor` of shape `(batch_size, num_words)`): Gold tags, anything in `[0, num_labels)`
                where masked.
            mask (`torch.BoolTensor` of shape `(batch_size, num_words)`): `True` marks a word, words first.

        Returns:
            `torch.FloatTensor` of shape `(batch_size,)`, 0 for a sequence without words.
        """
        parameters = self.start_transitions, self.transitions, self.end_transitions
        with torch.autocast(emissions.device.type, enabled=False):
            starts, transitions, ends = scores = tuple(_at_least_float32(parameter) for parameter in parameters)
            emissions = _at_least_float32(emissions).masked_fill(~mask[..., None], 0)
            last = _last_word(mask)
            # shape: (batch_size, num_words) and (batch_size, num_words - 1)
            of_words = emissions.gather(2, tags[..., None]).squeeze(2)
            of_pairs = transitions[tags[:, :-1], tags[:, 1:]] * mask[:, 1:]
            of_ends = starts[tags[:, 0]] + ends[tags.gather(1, last).squeeze(1)]
            # shape: (num_words, batch_size), over all paths that end at this word
            totals = (self._forward_scores(_batch_last(emissions), scores) + ends[:, None]).logsumexp(dim=1)
            total = totals.gather(0, last.T).squeeze(0)
            return (of_words.sum(dim=1) + of_pairs.sum(dim=1) + of_ends - total) * mask[:, 0]

    @torch.no_grad()
    def decode(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Find the best tag sequences of a batch with one Viterbi recursion.

        Args:
            emissions (`torch.Tensor` of shape `(batch_size, num_words, num_labels)`): Emission scores.
            mask (`torch.BoolTensor` of shape `(batch_size, num_words)`): `True` marks a word, words first.

        Returns:
            `torch.LongTensor` of shape `(batch_size, num_words)`, -100 where masked.
        """
        scores, emissions = self._scores(illegal=ILLEGAL), _batch_last(_at_least_float32(emissions))
        # Steps are small: on the CPU, NumPy has begun and ended one before PyTorch begins it.
        find = _best_tags_by_numpy if emissions.device.type == "cpu" else _best_tags
        return find(emissions, scores, mask)

    @torch.no_grad()
    def marginals(self, emissions: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Compute p(tag of word | emissions) by forward-backward.

        Args:
            emissions (`torch.Tensor` of shape `(batch_size, num_words, num_labels)`): Emission scores.
            mask (`torch.BoolTensor` of shape `(batch_size, num_words)`): `True` marks a word, words first.
            temperature (`float`, *optional*, defaults to 1): Divides all scores.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_words, num_labels)`, 0 where masked.
        """
        return self.log_marginals(emissions, mask, temperature).exp() * mask[..., None]

    def log_marginals(self, emissions: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Compute log p(tag of word | emissions) by forward-backward, with gradients.

        Args:
            emissions (`torch.Tensor` of shape `(batch_size, num_words, num_labels)`): Emission scores.
            mask (`torch.BoolTensor` of shape `(batch_size, num_words)`): `True` marks a word, words first.
            temperature (`float`, *optional*, defaults to 1): Divides all scores.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_words, num_labels)`: 0 where masked; for a tag that BIO2
            excludes a large negative number, where -inf would leave gradients that are no numbers.
        """
        with torch.autocast(emissions.device.type, enabled=False):
            scores = self._scores(temperature, illegal=ILLEGAL)
            emissions = _at_least_float32(emissions).masked_fill(~mask[..., None], 0) / temperature
            emissions = _batch_last(emissions)
            alphas, betas = self._forward_scores(emissions, scores), self._backward_scores(emissions, mask, scores)
            return (alphas + betas).log_softmax(dim=1).permute(2, 0, 1).masked_fill(~mask[..., None], 0)

    @torch.no_grad()
    def entity_posteriors(
        self, emissions: torch.Tensor, entities: list[tuple[int, int, str]], temperature: float = 1.0
    ) -> torch.Tensor:
        """Compute the probability that a span of words is exactly one entity: all its tags and both its borders.

        The paths summed over are those with `B-type` at the first word, `I-type` at all others of the span, and
        anything but `I-type` at the word after it.

        Args:
            emissions (`torch.Tensor` of shape `(num_words, num_labels)`): Emission scores of one sequence.
            entities (`list[tuple[int, int, str]]`): First word, last word and type of each entity.
            temperature (`float`, *optional*, defaults to 1): Divides all scores.

        Returns:
            `torch.FloatTensor` of shape `(num_entities,)`: 0 for an entity that the labels can't spell.
        """
        scores = starts, transitions, ends = self._scores(temperature)
        emissions = _at_least_float32(emissions) / temperature
        mask = torch.ones(1, len(emissions), dtype=torch.bool, device=emissions.device)
        # shape: (num_words, num_labels)
        alphas = self._forward_scores(emissions[..., None], scores).squeeze(2)
        betas = self._backward_scores(emissions[..., None], mask, scores).squeeze(2)
        total = (alphas[-1] + ends).logsumexp(dim=0) if len(alphas) else None
        posteriors = emissions.new_zeros(len(entities))
        for row, (first, last, name) in enumerate(entities):
            tags = [self.ids.get(f"B-{name}")] + [self.ids.get(f"I-{name}")] * (last - first)
            if None in tags:
                continue
            score = alphas[first, tags[0]]
            for word, (previous, tag) in enumerate(itertools.pairwise(tags), start=first + 1):
                score = score + transitions[previous, tag] + emissions[word, tag]
            if last + 1 == len(alphas):
                after = ends[tags[-1]]
            else:
                follows = transitions[tags[-1]] + emissions[last + 1] + betas[last + 1]
                if f"I-{name}" in self.ids:
                    follows[self.ids[f"I-{name}"]] = float("-inf")
                after = follows.logsumexp(dim=0)
            posteriors[row] = (score + after - total).exp()
        return posteriors

    def _forward_scores(self, emissions: torch.Tensor, scores: CRFScores) -> torch.Tensor:
        """Return the log-sum of all paths up to each tag, its emission included; past a sequence's end, anything.

        Emissions and result have the shape `(num_words, num_labels, batch_size)`; see `_batch_last`.
        """
        starts, transitions, _ = scores
        alphas = []
        for emission in emissions.unbind():
            if alphas:
                reached = (alphas[-1].unsqueeze(1) + transitions[:, :, None]).logsumexp(dim=0)
            else:
                reached = starts[:, None]
            alphas.append(reached + emission)
        return torch.stack(alphas) if alphas else emissions

    def _backward_scores(self, emissions: torch.Tensor, mask: torch.Tensor, scores: CRFScores) -> torch.Tensor:
        """Return the log-sum of all paths after each tag, its emission left out, in the shape of the emissions."""
        _, transitions, ends = scores
        betas = [ends[:, None].expand_as(emissions[0])] if len(emissions) else []
        for emission, is_word in zip(emissions[1:].flip(0), mask.T[1:].flip(0), strict=True):
            left = (transitions[:, :, None] + (emission + betas[-1])).logsumexp(dim=1)
            betas.append(torch.where(is_word, left, betas[-1]))
        return torch.stack(betas[::-1]) if betas else emissions

    def _scores(self, temperature: float = 1.0, illegal: float = float("-inf")) -> CRFScores:
        """Return start, transition and end scores over the temperature, and `illegal` for what BIO2 excludes."""
        parameters = self.start_transitions, self.transitions, self.end_transitions
        # New tensors, also at temperature 1: storage that NumPy has seen can't be freed by FSDP.
        starts, transitions, ends = (_at_least_float32(scores) / temperature for scores in parameters)
        starts = torch.where(self.legal_starts, starts, illegal)
        return starts, torch.where(self.legal_transitions, transitions, illegal), ends


def _at_least_float32(scores: torch.Tensor) -> torch.Tensor:
    """Sums over many words lose too much in half precision."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _batch_last(emissions: torch.Tensor) -> torch.Tensor:
    """Turn `(batch_size, num_words, num_labels)` into `(num_words, num_labels, batch_size)`.

    The recursions reduce over labels, of which there are few: with the posts side by side, each step is one sweep over
    neighbouring numbers.
    """
    return emissions.permute(1, 2, 0).contiguous()


def _last_word(mask: torch.Tensor) -> torch.Tensor:
    """Return `(batch_size, 1)`: the index of each sequence's last word, 0 where it has none."""
    return (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)


def _best_tags(emissions: torch.Tensor, scores: CRFScores, mask: torch.Tensor) -> torch.Tensor:
    """Find the best tags by Viterbi's recursion, without the host waiting for a device.

    Args:
        emissions (`torch.Tensor` of shape `(num_words, num_labels, batch_size)`): Emission scores.
        scores (`CRFScores`): Start, transition and end scores.
        mask (`torch.BoolTensor` of shape `(batch_size, num_words)`): `True` marks a word.

    Returns:
        `torch.LongTensor` of shape `(batch_size, num_words)`, -100 where masked.
    """
    starts, transitions, ends = scores
    best = [starts[:, None] + emissions[0]]
    # All that is added to a score on the way to the next word, at once.
    # shape: (num_words - 1, num_labels, num_labels, batch_size), earlier tag first
    reached = transitions[:, :, None] + emissions[1:, None]
    for step in reached.unbind():
        # shape: (num_labels, batch_size)
        best.append(step.add_(best[-1].unsqueeze(1)).amax(dim=0))
    # shape: (num_words, num_labels, batch_size)
    best = torch.stack(best)
    # shape: (1, num_labels, batch_size)
    at_end = best.gather(0, _last_word(mask).T[:, None].expand(-1, best.shape[1], -1))
    # shape: (1, batch_size)
    tags = [(at_end + ends[:, None]).transpose(1, 2).argmax(dim=2)]
    if len(reached):
        for step in _previous_tags(reached, best[1:], mask.T[1:]).unbind()[::-1]:
            tags.append(step.gather(0, tags[-1]))
    return torch.cat(tags[::-1]).T.masked_fill(~mask, -100)


def _best_tags_by_numpy(emissions: torch.Tensor, scores: CRFScores, mask: torch.Tensor) -> torch.Tensor:
    """Do what `_best_tags` does, for tensors of the CPU: back through the best paths alone."""
    emissions, mask = emissions.numpy(), mask.numpy()
    starts, transitions, ends = (score.numpy() for score in scores)
    best, posts = np.empty_like(emissions), np.arange(emissions.shape[2])
    np.add(starts[:, None], emissions[0], out=best[0])
    # shape: (num_labels, num_labels, batch_size), earlier tag first
    steps = np.repeat(transitions[:, :, None], len(posts), axis=2)
    reached = np.empty_like(steps)
    for earlier, here, emitted in zip(best[:-1, :, None], best[1:], emissions[1:], strict=True):
        np.add(steps, earlier, out=reached)
        np.maximum.reduce(reached, axis=0, out=here)
        np.add(here, emitted, out=here)
    # shape: (num_words, batch_size, num_labels)
    best = np.ascontiguousarray(best.transpose(0, 2, 1))
    last = np.maximum(mask.sum(axis=1) - 1, 0)
    tags = np.empty(best.shape[:2], np.int64)
    tags[-1] = tag = (best[last, posts] + ends).argmax(axis=1)
    into, first_end = np.ascontiguousarray(transitions.T), int(last.min(initial=len(best) - 1))
    for word in range(len(best) - 2, -1, -1):
        previous = (best[word] + into.take(tag, axis=0)).argmax(axis=1)
        tags[word] = tag = previous if word < first_end else np.where(word < last, previous, tag)
    return torch.from_numpy(np.where(mask, tags.T, -100))


def _previous_tags(reached: torch.Tensor, best: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
    """Find the first tag from which each best score was reached, by subtraction: several times as fast as `max`.

    Args:
        reached (`torch.Tensor` of shape `(num_steps, num_labels, num_labels, batch_size)`): Scores by earlier and later
            tag; is overwritten.
        best (`torch.Tensor` of shape `(num_steps, num_labels, batch_size)`): Their maxima over the earlier tag.
        is_word (`torch.BoolTensor` of shape `(num_steps, batch_size)`): `False` past the end of a sequence.

    Returns:
        `torch.LongTensor` of shape `(num_steps, num_labels, batch_size)`: past the end, each tag itself, which carries
        the last one through to the end of the batch.
    """
    tags = torch.arange(reached.shape[1], dtype=reached.dtype, device=reached.device)[:, None]
    # 0 at the best, which leaves the tag as it is; huge elsewhere
    short_of = torch.sub(best.unsqueeze(1), reached, out=reached)
    previous = torch.add(tags.unsqueeze(1), short_of, alpha=1e38, out=reached).amin(dim=1)
    # Scores that are no numbers, those of a training that diverged, must not become indices.
    return torch.where(is_word.unsqueeze(1), previous.nan_to_num(nan=0.0), tags).long()


# The logarithm of no weight at all, small enough to vanish beside any score and finite, so that sums stay numbers.
IMPOSSIBLE = -1e4


def _earlier_pairs(scores: torch.Tensor) -> torch.Tensor:
    """Sum, in logarithms, over all ways to match the queries and states in front of each pair, as `in_order_scores`."""
    # shape: (batch_size, num_queries), of those states that stand in front
    ways = [torch.zeros_like(scores[:, :, 0])]
    for column in scores[:, :, :-1].unbind(-1):
        until = (column + ways[-1]).logcumsumexp(dim=1)
        ways.append(torch.logaddexp(ways[-1], F.pad(until[:, :-1], (1, 0), value=IMPOSSIBLE)))
    return torch.stack(ways, dim=-1)


def in_order_scores(
    scores: torch.Tensor, query_mask: torch.Tensor, state_mask: torch.Tensor, max_states: int
) -> torch.Tensor:
    """Score each pair of query and state by all ways to match both one to one and in order. Beyond the paper.

    A way is a set of pairs, of any size, in which nobody stands twice and the later query has the later state. Its
    weight is the exponential of the sum of its scores. A pair's new score is the logarithm of the summed weights of all
    ways that have the pair.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_queries, num_states)`): The scores, in float32 or better.
        query_mask (`torch.BoolTensor` of shape `(batch_size, num_queries)`): `True` marks a real query.
        state_mask (`torch.BoolTensor` of shape `(batch_size, num_states)`): `True` marks a real state.
        max_states (`int`): Largest number of states.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_queries, num_states)`.
    """
    num_states = scores.shape[-1]
    scores = scores.masked_fill(~(query_mask[:, :, None] & state_mask[:, None, :]), IMPOSSIBLE)
    # A fixed number of steps, so that the loops below can be exported.
    scores = F.pad(scores, (0, max_states - num_states), value=IMPOSSIBLE)
    scores = scores + _earlier_pairs(scores) + _earlier_pairs(scores.flip(1, 2)).flip(1, 2)
    return scores[:, :, :num_states]


def gather_words(values: torch.Tensor, word_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move the entries at word starts to the front, so that a CRF sees nothing but words.

    Args:
        values (`torch.Tensor` of shape `(batch_size, num_tokens, ...)`): Anything by token.
        word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` at each word's first token.

    Returns:
        The values by word, of the same shape; a contiguous bool mask `(batch_size, num_tokens)`; and the token
        positions `(batch_size, num_tokens)` that the words came from.
    """
    positions = torch.argsort(~word_mask, dim=1, stable=True)
    mask = word_mask.gather(1, positions)
    index = positions.reshape(*positions.shape, *[1] * (values.dim() - 2)).expand_as(values)
    return values.gather(1, index), mask, positions


NOT_FINITE = "`logits` are not finite: expected numbers, got NaN or infinity. Check the weights that were loaded."

OFFLOADED = (
    "The model's weights are not all on its device: tags are found by some of them outside of `forward`, for which "
    "accelerate does not fetch them. Load the model without `device_map`, or on a device with room for all of it."
)


def require(condition: torch.Tensor, message: str) -> None:
    """Raise a `ValueError` unless all of a bool tensor is `True`; an accelerator stops by itself, without a wait."""
    if torch.compiler.is_compiling():
        return
    if condition.device.type != "cpu":
        torch._assert_async(condition.all(), message)
    elif not condition.all():
        raise ValueError(message)


def check_mask(name: str, mask: torch.Tensor) -> None:
    """Raise a `ValueError` unless a mask that is no bool tensor is 0 or 1: any other number would count as `True`."""
    if mask.dtype != torch.bool:
        require(
            (mask == 0) | (mask == 1), f"`{name}` must be True or 1 where something is and 0 elsewhere, got others."
        )


class CRFTaggingMixin:
    """What a model with a `crf`, a [`LinearChainCRF`], tells of the words of posts from the scores of their tokens."""

    def task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the mean over posts of the CRF's negative log-likelihood (Eq. 23), in float32.

        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`): Tag ids at the words' first tokens, -100
                elsewhere.

        Returns:
            `torch.FloatTensor` of shape `()`.

        Raises:
            ValueError: if there is no such tag, or `labels` have another shape or are no whole numbers.
        """
        self._check_tokens("labels", labels, logits)
        if labels.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"`labels` must be whole numbers of torch.int64, got {labels.dtype}: call `labels.long()`."
            )
        known = (labels == -100) | ((labels >= 0) & (labels < self.config.num_labels))
        require(known, f"`labels` must be -100 or tag ids from 0 to {self.config.num_labels - 1}, got others.")
        words, mask, positions = gather_words(logits, labels != -100)
        tags = labels.gather(1, positions).masked_fill(~mask, 0)
        return -self.crf.log_likelihood(words, tags, mask).mean()

    def follow_config(self) -> None:
        """Have the CRF name and constrain tags as the configuration does now, which may have changed since.

        Raises:
            ValueError: if the configuration has another number of labels, or ones that it can't have.
        """
        if torch.compiler.is_compiling():
            return
        config = self.config
        labels = [label for _, label in sorted((int(number), label) for number, label in config.id2label.items())]
        if (labels, config.constrain_bio) == (self.crf.labels, self.crf.constrain_bio):
            return
        if len(labels) != len(self.crf.labels):
            raise ValueError(
                f"`config.id2label` has {len(labels)} labels, but the model was built for {len(self.crf.labels)}. Give "
                "them when it is built or loaded: `from_pretrained(..., id2label=..., ignore_mismatched_sizes=True)`."
            )
        config.check_fields()
        self.crf.name_tags(labels, config.constrain_bio)

    def _check_tokens(self, name: str, values: torch.Tensor, logits: torch.Tensor) -> None:
        """Refuse what is not by token as the scores are: a row alone would be taken for those of all posts."""
        if torch.compiler.is_compiling():
            return
        if not isinstance(values, torch.Tensor) or values.shape != logits.shape[:2]:
            got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(
                f"`{name}` must be a tensor of the shape (batch_size, num_tokens) of the scores, "
                f"{tuple(logits.shape[:2])}, got {got}."
            )

    def _check_scores(self, logits: torch.Tensor, word_mask: torch.Tensor) -> None:
        num_labels = self.config.num_labels
        if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[2] != num_labels:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"`logits` must be a tensor of the shape (batch_size, num_tokens, {num_labels}), with a score for each "
                f"label, got {got}."
            )
        self._check_tokens("word_mask", word_mask, logits)
        check_mask("word_mask", word_mask)
        if self.crf.transitions.is_meta and not logits.is_meta:
            raise ValueError(OFFLOADED)
        require(logits.isfinite(), NOT_FINITE)

    @torch.no_grad()
    def decode(self, logits: torch.Tensor, word_mask: torch.Tensor) -> torch.Tensor:
        """Find the best tag sequence of each post (Viterbi over words).

        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` at each word's first token.

        Returns:
            `torch.LongTensor` of shape `(batch_size, num_tokens)`: tag ids at word starts, -100 elsewhere.

        Raises:
            ValueError: if `logits` are not finite, shapes do not fit, or weights of the CRF are not on their device.
        """
        self.follow_config()
        self._check_scores(logits, word_mask)
        words, mask, positions = gather_words(logits, word_mask.bool())
        tags = self.crf.decode(words, mask)
        return torch.full_like(tags, -100).scatter(1, positions, tags)

    @torch.no_grad()
    def marginals(self, logits: torch.Tensor, word_mask: torch.Tensor) -> torch.Tensor:
        """Compute each word's tag probabilities under the CRF (forward-backward) at the configuration's temperature.

        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` at each word's first token.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`: probabilities, 0 off word starts.

        Raises:
            ValueError: if `logits` are not finite, shapes do not fit, or weights of the CRF are not on their device.
        """
        self.follow_config()
        self._check_scores(logits, word_mask)
        words, mask, positions = gather_words(logits, word_mask.bool())
        probabilities = self.crf.marginals(words, mask, self.config.temperature)
        index = positions[..., None].expand_as(probabilities)
        return torch.zeros_like(probabilities).scatter(1, index, probabilities)


__all__ = [
    "CRFTaggingMixin",
    "LinearChainCRF",
    "check_mask",
    "entity_types",
    "find_entities",
    "gather_words",
    "in_order_scores",
    "require",
]

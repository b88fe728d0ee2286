"""Linear-chain CRF on pytorch-crf's parameters and loss, with batched decoding and marginals (Eq. 16-17)."""

import itertools

import torch

# Inside `try`, because the loader of remote code would otherwise tell users to install "torchcrf", another package.
try:
    from torchcrf import CRF
except ImportError as error:
    raise ImportError("SMCL needs the package pytorch-crf: run `pip install pytorch-crf`.") from error


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


class LinearChainCRF(CRF):
    """A `torchcrf.CRF` (batch first) that decodes whole batches at once and gives marginals.

    The parameters `start_transitions`, `end_transitions`, `transitions` and the likelihood are pytorch-crf's. Masks
    are bool and contiguous: words first, padding after. A row without a word has likelihood 0 and no tags.

    Args:
        labels (`list[str]`): Label names by id.
        constrain_bio (`bool`, *optional*, defaults to `True`):
            Whether `decode` and `marginals` exclude sequences that break BIO2. The loss never does.
    """

    def __init__(self, labels: list[str], constrain_bio: bool = True):
        super().__init__(len(labels), batch_first=True)
        self.labels = list(labels)
        self.ids = {label: index for index, label in enumerate(labels)}
        self.constrain_bio = constrain_bio
        starts, transitions = self.constraints()
        self.register_buffer("legal_starts", starts, persistent=False)
        self.register_buffer("legal_transitions", transitions, persistent=False)

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
        not_empty = mask[:, 0]
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        with torch.autocast(emissions.device.type, enabled=False):
            # pytorch-crf refuses rows without words: give those a first word and drop their likelihood.
            likelihood = super().forward(_at_least_float32(emissions), tags, mask | first, reduction="none")
        return likelihood * not_empty

    def _validate(self, emissions: torch.Tensor, tags: torch.Tensor | None = None, mask: torch.Tensor | None = None):
        # It looks at the mask's values, which no single graph can do; `log_likelihood` has made them right.
        if not torch.compiler.is_compiling():
            super()._validate(emissions, tags, mask)

    @torch.no_grad()
    def decode(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Find the best tag sequences of a batch with one Viterbi recursion.

        Args:
            emissions (`torch.Tensor` of shape `(batch_size, num_words, num_labels)`): Emission scores.
            mask (`torch.BoolTensor` of shape `(batch_size, num_words)`): `True` marks a word, words first.

        Returns:
            `torch.LongTensor` of shape `(batch_size, num_words)`, -100 where masked.
        """
        starts, transitions, ends = self._scores()
        emissions = _at_least_float32(emissions)
        # shape: (batch_size, num_labels)
        score = starts + emissions[:, 0]
        history = []
        for step in range(1, emissions.shape[1]):
            # shape: (batch_size, num_labels, num_labels), the earlier tag in dimension 1
            best, previous = (score[:, :, None] + transitions).max(dim=1)
            is_word = mask[:, step, None]
            score = torch.where(is_word, best + emissions[:, step], score)
            # Past the end, pointing back at itself carries the last tag through to the end of the batch.
            history.append(torch.where(is_word, previous, torch.arange(self.num_tags, device=mask.device)))
        # shape: (batch_size, 1)
        tag = (score + ends).argmax(dim=1, keepdim=True)
        tags = [tag]
        for previous in reversed(history):
            tag = previous.gather(1, tag)
            tags.append(tag)
        return torch.cat(tags[::-1], dim=1).masked_fill(~mask, -100)

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
        scores = self._scores(temperature)
        emissions = _at_least_float32(emissions) / temperature
        alphas, betas = self._forward_scores(emissions, mask, scores), self._backward_scores(emissions, mask, scores)
        return (alphas + betas).softmax(dim=-1) * mask[..., None]

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
        emissions = _at_least_float32(emissions)[None] / temperature
        mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        # shape: (num_words, num_labels)
        alphas = self._forward_scores(emissions, mask, scores)[0]
        betas = self._backward_scores(emissions, mask, scores)[0]
        emissions = emissions[0]
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

    def _forward_scores(self, emissions: torch.Tensor, mask: torch.Tensor, scores: CRFScores) -> torch.Tensor:
        """Return `(batch_size, num_words, num_labels)`: log-sum of all paths up to each tag, its emission included."""
        starts, transitions, _ = scores
        alphas = [starts + emissions[:, 0]] if emissions.shape[1] else []
        for step in range(1, emissions.shape[1]):
            # shape: (batch_size, num_labels)
            reached = torch.logsumexp(alphas[-1][:, :, None] + transitions, dim=1) + emissions[:, step]
            alphas.append(torch.where(mask[:, step, None], reached, alphas[-1]))
        return torch.stack(alphas, dim=1) if alphas else emissions

    def _backward_scores(self, emissions: torch.Tensor, mask: torch.Tensor, scores: CRFScores) -> torch.Tensor:
        """Return `(batch_size, num_words, num_labels)`: log-sum of all paths after each tag, its emission left out."""
        _, transitions, ends = scores
        betas = [ends.expand_as(emissions[:, 0])] if emissions.shape[1] else []
        for step in range(emissions.shape[1] - 1, 0, -1):
            # shape: (batch_size, num_labels)
            left = torch.logsumexp(transitions + (emissions[:, step] + betas[-1])[:, None, :], dim=2)
            betas.append(torch.where(mask[:, step, None], left, betas[-1]))
        return torch.stack(betas[::-1], dim=1) if betas else emissions

    def _scores(self, temperature: float = 1.0) -> CRFScores:
        """Return start, transition and end scores over the temperature, -inf where illegal."""
        starts, transitions, ends = (
            _at_least_float32(scores) / temperature
            for scores in (self.start_transitions, self.transitions, self.end_transitions)
        )
        illegal = float("-inf")
        starts = starts.masked_fill(~self.legal_starts, illegal)
        return starts, transitions.masked_fill(~self.legal_transitions, illegal), ends


def _at_least_float32(scores: torch.Tensor) -> torch.Tensor:
    """Sums over many words lose too much in half precision."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


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


__all__ = ["LinearChainCRF", "bio_constraints", "gather_words"]

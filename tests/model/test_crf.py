import importlib.util
import itertools
import sys

import pytest
import torch
from torchcrf import CRF
from transformers.dynamic_module_utils import get_imports

from smcl import crf_smcl
from smcl.crf_smcl import (
    ILLEGAL,
    LinearChainCRF,
    _best_tags,
    _best_tags_by_numpy,
    bio_constraints,
    gather_words,
)

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def make_crf(labels=LABELS, **kwargs) -> LinearChainCRF:
    torch.manual_seed(0)
    crf = LinearChainCRF(labels, **kwargs)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf


def make_emissions(lengths=(4, 2, 1), seed=1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    emissions = torch.randn(len(lengths), max(lengths), len(LABELS), generator=generator)
    return emissions, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def path_score(crf, emissions, tags) -> float:
    score = crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]]
    score = score + sum(emissions[i, tag] for i, tag in enumerate(tags))
    return (score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(tags))).item()


def is_legal(tags) -> bool:
    names = ["O", *(LABELS[tag] for tag in tags)]
    return all(b[0] != "I" or a[2:] == b[2:] for a, b in itertools.pairwise(names))


def all_paths(crf, emissions) -> dict[tuple[int, ...], float]:
    paths = itertools.product(range(len(LABELS)), repeat=len(emissions))
    return {tags: path_score(crf, emissions, tags) for tags in paths if not crf.constrain_bio or is_legal(tags)}


@pytest.mark.parametrize("constrain_bio", [True, False])
def test_decode_finds_the_best_of_all_paths(constrain_bio):
    crf = make_crf(constrain_bio=constrain_bio)
    emissions, mask = make_emissions()
    decoded = crf.decode(emissions, mask)
    for row, length in enumerate(mask.sum(dim=1)):
        paths = all_paths(crf, emissions[row, :length])
        assert tuple(decoded[row, :length].tolist()) == max(paths, key=paths.get)
        assert (decoded[row, length:] == -100).all()


@pytest.mark.parametrize("constrain_bio", [True, False])
def test_marginals_equal_sums_over_all_paths(constrain_bio):
    crf = make_crf(constrain_bio=constrain_bio)
    emissions, mask = make_emissions()
    marginals = crf.marginals(emissions, mask)
    for row, length in enumerate(mask.sum(dim=1)):
        paths = all_paths(crf, emissions[row, :length])
        probabilities = torch.tensor(list(paths.values())).softmax(dim=0)
        expected = torch.zeros(length, len(LABELS))
        for tags, probability in zip(paths, probabilities, strict=True):
            for word, tag in enumerate(tags):
                expected[word, tag] += probability
        torch.testing.assert_close(marginals[row, :length], expected)
        assert (marginals[row, length:] == 0).all()


def test_log_marginals_are_the_logarithms_of_marginals_and_have_gradients():
    crf = make_crf().double()
    emissions, mask = make_emissions()
    emissions = emissions.double().requires_grad_()
    logs = crf.log_marginals(emissions, mask, 1.5)
    torch.testing.assert_close(logs.exp() * mask[..., None], crf.marginals(emissions, mask, 1.5))
    # I- tags at the first word of a sequence.
    assert (logs[~mask] == 0).all() and (logs[:, 0, 2::2] < -1e20).all() and logs.isfinite().all()
    assert torch.autograd.gradcheck(lambda x: crf.log_marginals(x, mask)[:, 1:], emissions)
    crf.log_marginals(emissions, mask).exp().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in (emissions, *crf.parameters()))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("constrain_bio", [True, False])
def test_entity_posteriors_equal_sums_over_all_paths_with_exactly_that_entity(constrain_bio, temperature):
    crf = make_crf(constrain_bio=constrain_bio)
    emissions = make_emissions()[0][0]
    paths = all_paths(crf, emissions)
    probabilities = (torch.tensor(list(paths.values())) / temperature).softmax(dim=0).tolist()
    spans = [(a, b, name) for a in range(4) for b in range(a, 4) for name in ("PER", "LOC")]
    expected = dict.fromkeys(spans, 0.0)
    for tags, probability in zip(paths, probabilities, strict=True):
        for first, last, name in spans:
            inside = [LABELS[tag] for tag in tags[first : last + 1]] == [f"B-{name}"] + [f"I-{name}"] * (last - first)
            if inside and (last == 3 or LABELS[tags[last + 1]] != f"I-{name}"):
                expected[first, last, name] += probability
    posteriors = crf.entity_posteriors(emissions, spans, temperature)
    torch.testing.assert_close(posteriors, torch.tensor(list(expected.values())))
    assert posteriors.min() > 1e-6


def test_entities_that_the_labels_cannot_spell_have_no_probability():
    crf = make_crf(["O", "B-PER", "B-LOC"])
    posteriors = crf.entity_posteriors(torch.zeros(3, 3), [(0, 0, "PER"), (0, 1, "PER"), (0, 0, "ORG")])
    assert posteriors[0] > 0 and posteriors[1:].tolist() == [0, 0]
    assert crf.entity_posteriors(torch.zeros(0, 3), []).shape == (0,)


def test_temperature_flattens_marginals():
    crf = make_crf()
    emissions, mask = make_emissions()
    hot = crf.marginals(emissions, mask, temperature=1e6)
    counts = [sum(path[0] == tag for path in all_paths(make_crf(), emissions[0])) for tag in range(len(LABELS))]
    torch.testing.assert_close(hot[0, 0], torch.tensor(counts) / sum(counts), atol=1e-4, rtol=0)


def test_likelihood_equals_normalised_path_score_and_trains_every_parameter():
    crf = make_crf()
    emissions, mask = make_emissions()
    tags = torch.tensor([[1, 2, 0, 3], [0, 1, 0, 0], [3, 0, 0, 0]])
    likelihood = crf.log_likelihood(emissions, tags, mask)
    # The loss is never constrained: gold tags may be illegal.
    crf.constrain_bio = False
    for row, length in enumerate(mask.sum(dim=1)):
        paths = all_paths(crf, emissions[row, :length])
        normaliser = torch.tensor(list(paths.values())).logsumexp(dim=0)
        expected = paths[tuple(tags[row, :length].tolist())] - normaliser
        torch.testing.assert_close(likelihood[row], expected)
    likelihood.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in crf.parameters())


def test_unconstrained_decoding_equals_pytorch_crf():
    crf = make_crf(constrain_bio=False)
    stock = CRF(len(LABELS), batch_first=True)
    stock.load_state_dict(crf.state_dict())
    emissions, mask = make_emissions(lengths=(30, 7, 1, 12), seed=3)
    decoded = crf.decode(emissions, mask)
    assert [row[row != -100].tolist() for row in decoded] == stock.decode(emissions, mask)


def test_likelihood_and_gradients_equal_pytorch_crfs():
    crf = make_crf()
    stock = CRF(len(LABELS), batch_first=True)
    stock.load_state_dict(crf.state_dict())
    emissions, mask = make_emissions(lengths=(30, 7, 1, 12), seed=3)
    # Padding may hold anything.
    emissions[~mask] = float("nan")
    clean = emissions.nan_to_num()
    tags = torch.randint(0, len(LABELS), mask.shape, generator=torch.Generator().manual_seed(0))
    results = []
    for module, values in ((crf, emissions), (stock, clean)):
        values.requires_grad_()
        if module is crf:
            likelihood = crf.log_likelihood(values, tags, mask)
        else:
            likelihood = stock(values, tags, mask, reduction="none")
        likelihood.sum().backward()
        gradients = [module.start_transitions.grad, module.transitions.grad, module.end_transitions.grad]
        results.append([likelihood, values.grad, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_runs_on_other_devices_decodes_as_the_cpu_does():
    crf = make_crf()
    for num_words in (1, 2, 7):
        emissions, lengths = torch.randn(num_words, len(LABELS), 20), torch.randint(num_words + 1, (20, 1))
        mask = torch.arange(num_words) < lengths
        scores = crf._scores(illegal=ILLEGAL)
        on_devices, on_cpu = (find(emissions, scores, mask) for find in (_best_tags, _best_tags_by_numpy))
        assert torch.equal(on_devices, on_cpu)


@pytest.mark.parametrize("constrain_bio", [True, False])
def test_decode_of_equal_paths_takes_the_first_tags(constrain_bio):
    crf = LinearChainCRF(LABELS, constrain_bio)
    for parameter in crf.parameters():
        torch.nn.init.zeros_(parameter)
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert (crf.decode(torch.zeros(2, 5, len(LABELS)), mask) == 0).all()


def test_a_single_word_is_decoded_and_scored():
    crf = make_crf()
    emissions, mask = make_emissions(lengths=(1, 1))
    scores = crf.start_transitions + crf.end_transitions + emissions[:, 0]
    legal = scores.masked_fill(~crf.legal_starts, float("-inf"))
    assert crf.decode(emissions, mask)[:, 0].tolist() == legal.argmax(dim=1).tolist()
    likelihood = crf.log_likelihood(emissions, torch.ones(2, 1, dtype=torch.long), mask)
    torch.testing.assert_close(likelihood, scores.log_softmax(dim=1)[:, 1])


def test_constrained_decoding_gives_no_illegal_transition():
    crf = make_crf()
    emissions, mask = make_emissions(lengths=(40, 40), seed=5)
    emissions[..., 2] += 2
    assert all(is_legal(row.tolist()) for row in crf.decode(emissions, mask))
    assert not all(is_legal(row.tolist()) for row in make_crf(constrain_bio=False).decode(emissions, mask))


def test_row_without_words_has_likelihood_zero_and_no_tags():
    crf = make_crf()
    emissions, _ = make_emissions(lengths=(3, 3))
    mask = torch.tensor([[True, True, True], [False, False, False]])
    tags = torch.zeros(2, 3, dtype=torch.long)
    likelihood = crf.log_likelihood(emissions, tags, mask)
    assert likelihood[1] == 0
    likelihood.sum().backward()
    assert torch.isfinite(crf.transitions.grad).all()
    assert (crf.decode(emissions, mask)[1] == -100).all()
    assert (crf.marginals(emissions, mask)[1] == 0).all()


def test_likelihood_is_computed_in_float32_under_autocast():
    crf = make_crf()
    emissions, mask = make_emissions()
    tags = torch.zeros(mask.shape, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        likelihood = crf.log_likelihood(emissions, tags, mask)
    assert likelihood.dtype == torch.float32
    assert torch.equal(likelihood, crf.log_likelihood(emissions, tags, mask))


def test_labels_outside_bio_may_follow_anything():
    starts, transitions = bio_constraints(["LABEL_0", "LABEL_1"])
    assert starts.all() and transitions.all()


def test_gather_words_puts_word_starts_first_in_order():
    values = torch.arange(12.0).reshape(2, 6, 1)
    word_mask = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    words, mask, positions = gather_words(values, word_mask)
    assert words[0, :3, 0].tolist() == [1, 3, 4]
    assert mask.tolist() == [[True] * 3 + [False] * 3, [False] * 6]
    assert positions[0, :3].tolist() == [1, 3, 4]


def test_missing_pytorch_crf_is_named_rightly(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcrf", None)
    spec = importlib.util.spec_from_file_location("crf_without_torchcrf", crf_smcl.__file__)
    with pytest.raises(ImportError, match="pip install pytorch-crf"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    # The loader of remote code must not ask for "torchcrf", the name of another package.
    assert "torchcrf" not in get_imports(crf_smcl.__file__)


def test_scores_that_are_no_numbers_decode_to_some_tags():
    crf = LinearChainCRF(["O", "B-PER", "I-PER"])
    mask = torch.ones(2, 4, dtype=torch.bool)
    tags = crf.decode(torch.full((2, 4, 3), float("nan")), mask)
    assert ((tags >= 0) & (tags < 3)).all()


def test_types_are_those_that_the_labels_spell_in_their_order():
    labels = ["O", "B-LOC", "I-LOC", "I-X", "B-A-B", "I-A-B", "B-PER", "other"]
    assert LinearChainCRF(labels).types == ["LOC", "A-B", "PER"]
    assert LinearChainCRF(["O"]).types == []

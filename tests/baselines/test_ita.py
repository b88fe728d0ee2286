import itertools

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from systems import difference, logits_of, make_system, system_inputs
from transformers import BertModel, RobertaConfig

from smcl.baselines.ita import ITAConfig


def make_inputs(**kwargs) -> dict:
    return system_inputs("ita", image_counts=(0, 0, 0), **kwargs)


def alone(inputs: dict) -> dict:
    """The same posts without their context."""
    return inputs | {"attention_mask": inputs["attention_mask"] * ~inputs["context_mask"]}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_words_of_the_text_view_are_those_of_the_post_alone(kind):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    configs = {"roberta": {"text_config": RobertaConfig(vocab_size=100, max_position_embeddings=64, **sizes)}}
    model, inputs = make_system("ita", **configs.get(kind, {})), make_inputs()
    view = logits_of(model, alone(inputs))
    for row, (length, num_context) in enumerate(((9, 2), (6, 2), (8, 0))):
        own = inputs["input_ids"][row : row + 1, : length - num_context]
        assert difference(model(input_ids=own).logits[0], view[row, : length - num_context]) < 1e-5
    assert isinstance(model.smcl.text_model, BertModel) == (kind == "bert")


def test_loss_is_that_of_both_views_and_their_divergence():
    inputs = make_inputs(labels=True)
    model = make_system("ita", text_view_weight=3, alignment_weight=0.5)
    outputs = model(**inputs)
    parts = outputs.task_loss, outputs.text_view_loss, outputs.alignment_loss
    assert all(part > 0 for part in parts)
    torch.testing.assert_close(outputs.loss, parts[0] + 3 * parts[1] + 0.5 * parts[2])
    # Of the three posts, the last has no context.
    rows = {key: x[:2] for key, x in alone(inputs).items()}
    torch.testing.assert_close(parts[1], model(**rows).task_loss * 2 / 3)
    assert torch.equal(outputs.logits, logits_of(model, inputs))
    off = make_system("ita", text_view_weight=0, alignment_weight=0)(**inputs)
    assert torch.equal(off.loss, off.task_loss) and off.text_view_loss == off.alignment_loss == 0


def test_a_post_without_context_is_read_once():
    model, inputs = make_system("ita").train(), make_inputs(labels=True)
    inputs["context_mask"] = torch.zeros_like(inputs["context_mask"])
    outputs = model(**inputs)
    # Dropout differs from view to view, so that both would differ.
    assert outputs.text_view_loss == outputs.alignment_loss == 0
    assert torch.equal(outputs.loss, outputs.task_loss)


@pytest.mark.parametrize("weights", [(2, 1), (0, 1), (2, 0), (0, 0)])
def test_the_encoder_runs_twice_only_where_a_loss_needs_it(weights):
    model = make_system("ita", text_view_weight=weights[0], alignment_weight=weights[1])
    runs = []
    model.smcl.text_model.register_forward_hook(lambda *args: runs.append(1))
    model(**make_inputs())
    assert len(runs) == 1
    model(**make_inputs(labels=True))
    assert len(runs) == 1 + (2 if any(weights) else 1)


def test_divergence_is_that_of_the_sums_over_all_tag_paths():
    model = make_system("ita", alignment_temperature=4)
    generator = torch.Generator().manual_seed(0)
    logits, text_logits = (3 * torch.randn(1, 3, 9, generator=generator) for _ in range(2))
    labels = torch.tensor([[1, 0, 3]])

    def probabilities(emissions):
        crf, total = model.crf, torch.zeros(3, 9)
        starts, transitions = crf.constraints()
        for path in itertools.product(range(9), repeat=3):
            if not starts[path[0]] or not all(transitions[a, b] for a, b in itertools.pairwise(path)):
                continue
            score = crf.start_transitions[path[0]] + crf.end_transitions[path[2]]
            score = score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))
            score = score + sum(emissions[word, tag] for word, tag in enumerate(path))
            for word, tag in enumerate(path):
                total[word, tag] += score.exp().item()
        return total / total.sum(dim=1, keepdim=True)

    with torch.no_grad():
        p, q = (probabilities(x[0]) ** 0.25 for x in (logits, text_logits))
        p, q = (x / x.sum(dim=1, keepdim=True) for x in (p, q))
        expected = 16 * torch.where(p > 0, p * (p / q.clamp(min=1e-30)).log(), 0).sum()
        _, divergence = model.view_losses(logits, text_logits, labels, torch.tensor([True]))
    torch.testing.assert_close(divergence[0], expected, atol=1e-4, rtol=1e-3)


def test_divergence_draws_the_post_alone_and_not_the_post_with_its_context():
    model, labels = make_system("ita"), torch.tensor([[-100, 1, 0, -100, 3]])
    logits, text_logits = (torch.randn(1, 5, 9, requires_grad=True) for _ in range(2))
    model.view_losses(logits, text_logits, labels, torch.tensor([True]))[1].sum().backward()
    assert logits.grad is None and text_logits.grad.isfinite().all()
    assert (text_logits.grad.abs().amax(dim=-1) > 0).tolist() == [[False, True, True, False, True]]


def test_context_has_no_tags_in_loss_and_decoding():
    model, inputs = make_system("ita"), make_inputs(labels=True)
    logits = logits_of(model, inputs)
    changed = torch.where(inputs["context_mask"][..., None], 1e3, logits)
    assert torch.equal(model.decode(changed, inputs["word_mask"]), model.decode(logits, inputs["word_mask"]))
    assert torch.equal(model.task_loss(changed, inputs["labels"]), model.task_loss(logits, inputs["labels"]))
    views = [model.view_losses(x, x, inputs["labels"], torch.ones(3).bool()) for x in (logits, changed)]
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))


@pytest.mark.parametrize(
    ("name", "value"), [("text_view_weight", -1), ("alignment_weight", float("nan")), ("alignment_temperature", 0)]
)
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(StrictDataclassError, match=f"`{name}` must"):
        ITAConfig(**{name: value})

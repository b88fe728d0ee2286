"""Attention in order: equal claims go by their turn, padding takes no part, hopeless scores stay numbers."""

import pytest
import torch
from factories import make_inputs, make_model

from smcl.crf_smcl import in_order_scores


def weigh(scores, query_mask=None, state_mask=None, max_states=4):
    scores = torch.as_tensor(scores, dtype=torch.float32)
    query_mask = torch.ones(scores.shape[:2], dtype=torch.bool) if query_mask is None else query_mask
    state_mask = torch.ones(len(scores), scores.shape[2], dtype=torch.bool) if state_mask is None else state_mask
    return in_order_scores(scores, query_mask, state_mask, max_states).softmax(-1)


def test_tokens_that_look_for_an_image_take_them_in_turn():
    # Two of five tokens look for images, two of three images are looked for; nothing tells which for which.
    looks, is_sought = torch.tensor([-4, 4, -4, 4, -4]), torch.tensor([4, -4, 4])
    weights = weigh((looks[:, None] + is_sought)[None].float())[0]
    assert weights[1].argmax() == 0 and weights[3].argmax() == 2 and weights[[1, 3]].amax(-1).min() > 0.95


def test_what_is_seen_in_an_image_outweighs_its_turn():
    scores = torch.zeros(1, 4, 2)
    scores[0, 0, 1] = scores[0, 3, 0] = 12
    weights = weigh(scores)[0]
    assert weights[0].argmax() == 1 and weights[3].argmax() == 0


def test_padding_does_not_change_the_weights_of_what_is_real():
    torch.manual_seed(0)
    scores = 3 * torch.randn(1, 5, 2)
    padded = torch.cat([torch.cat([scores, 50 * torch.randn(1, 5, 2)], 2), 50 * torch.randn(1, 3, 4)], 1)
    masks = torch.arange(8)[None] < 5, torch.arange(4)[None] < 2
    weights = weigh(padded, *masks)
    torch.testing.assert_close(weights[:, :5, :2], weigh(scores))
    assert not weights[:, :5, 2:].any()


@pytest.mark.parametrize("size", [1, 60, 1500])
def test_scores_of_any_size_give_weights_and_gradients(size):
    torch.manual_seed(0)
    scores = (size * torch.randn(2, 600, 4)).requires_grad_()
    weights = weigh(scores, state_mask=torch.tensor([[True] * 4, [True, False, False, False]]))
    (gradient,) = torch.autograd.grad((weights * torch.randn_like(weights)).sum(), scores)
    assert torch.isfinite(weights).all() and torch.isfinite(gradient).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 600))


def test_one_image_and_one_slot_need_no_order():
    model = make_model(max_images=1)
    outputs = model(**make_inputs(image_counts=(1, 0, 1)), output_attentions=True)
    weights = outputs.fusion_attentions[1]
    assert torch.isfinite(outputs.logits).all() and (weights[[0, 2]] == 1).all() and not weights[1].any()

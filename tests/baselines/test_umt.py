import pytest
import torch
from factories import make_inputs
from systems import difference, logits_of, make_system


@pytest.mark.parametrize("name", ["umt", "umt-mi"])
def test_umt_gate_can_close_on_the_word_aware_visual_representations(name):
    model, inputs = make_system(name), make_inputs()
    open_states = model.smcl(**{k: v for k, v in inputs.items() if k != "word_mask"}).last_hidden_state
    assert open_states[..., 32:].abs().max() > 0.1
    with torch.no_grad():
        model.smcl.gate.bias.fill_(-1e4)
    states = model.smcl(**{k: v for k, v in inputs.items() if k != "word_mask"}).last_hidden_state
    assert (states[..., 32:] == 0).all() and torch.equal(states[..., :32], open_states[..., :32])
    logits = logits_of(model, inputs)
    with torch.no_grad():
        model.smcl.patch_projection.weight.normal_()
    assert torch.equal(logits_of(model, inputs), logits)
    # What is left of the images are the image-aware words: with those closed as well, nothing is.
    with torch.no_grad():
        for layer in (model.smcl.text_to_image_to_text.output, model.smcl.text_to_image_to_text.attention.value):
            layer.weight.zero_()
    changed = inputs["pixel_values"].flip(0)
    assert torch.equal(logits_of(model, inputs, pixel_values=changed)[:2], logits_of(model, inputs)[:2])


def test_umt_patches_attend_to_words_before_words_attend_to_them():
    model, inputs = make_system("umt"), make_inputs(image_counts=(1, 1, 1))
    with torch.no_grad():
        model.smcl.gate.bias.fill_(-1e4)
    logits = logits_of(model, inputs)
    with torch.no_grad():
        model.smcl.image_to_text.attention.value.weight.normal_()
    assert difference(logits_of(model, inputs), logits) > 1e-3


def test_umt_conversion_shares_each_span_tag_out_evenly():
    conversion = make_system("umt").conversion(torch.zeros(1))
    expected = torch.zeros(3, 9)
    expected[0, 0], expected[1, 1::2], expected[2, 2::2] = 1, 0.25, 0.25
    assert torch.equal(conversion, expected)


def test_umt_span_scores_reach_the_emissions_by_the_conversion():
    model, inputs = make_system("umt"), make_inputs()
    logits = logits_of(model, inputs)
    with torch.no_grad():
        model.smcl.span_classifier.bias.add_(torch.tensor([0.0, 8.0, 4.0]))
    shift = torch.tensor([0.0] + [1.0, 0.5] * 4)
    torch.testing.assert_close(logits_of(model, inputs) - logits, shift.expand_as(logits), atol=1e-4, rtol=0)


def test_umt_span_loss_is_that_of_spans_whatever_their_type_and_counts_by_its_weight():
    inputs = make_inputs(labels=True)
    for weight in (0.5, 2):
        model = make_system("umt", span_weight=weight)
        outputs = model(**inputs)
        assert outputs.loss.item() == pytest.approx(outputs.task_loss.item() + weight * outputs.span_loss.item())
    labels = inputs["labels"].clone()
    # Another type for each entity, the same spans.
    labels[labels > 0] = (labels[labels > 0] + 1) % 8 + 1
    retyped = model(**(inputs | {"labels": labels}))
    assert torch.equal(retyped.span_loss, outputs.span_loss) and not torch.equal(retyped.task_loss, outputs.task_loss)
    spans = torch.where(labels == -100, -100, torch.where(labels == 0, 0, 1 + (labels - 1) % 2))
    crf, logits = model.span_crf, model.smcl(**{k: inputs[k] for k in ("input_ids", "attention_mask")}).span_logits
    expected = []
    for row in range(3):
        words = spans[row] != -100
        alone = torch.ones(1, words.sum(), dtype=torch.bool)
        expected.append(-crf.log_likelihood(logits[row, words][None], spans[row, words][None], alone))
    torch.testing.assert_close(retyped.span_loss, torch.cat(expected).mean())


def test_umt_span_loss_trains_the_text_and_leaves_the_images_alone():
    model = make_system("umt")
    model(**make_inputs(labels=True)).span_loss.backward()
    has_gradient = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    parts = {name.split(".")[1] for name in has_gradient if name.startswith("smcl.")}
    assert parts == {"text_model", "span_layer", "span_classifier"}

"""Each part that `as_printed` takes back to the paper's letter, by what the model does."""

import pytest
import torch
from factories import make_config, make_inputs, make_model

from smcl import SMCLConfig, SMCLModel
from smcl.configuration_smcl import PRINTED_PARTS
from smcl.losses_smcl import central_moment_discrepancy


def captured(model, module, inputs):
    """The arguments and the output of a module during a forward pass."""
    calls = []
    handle = module.register_forward_hook(lambda _, arguments, output: calls.append((arguments, output)))
    with torch.no_grad():
        outputs = model(**inputs)
    handle.remove()
    (call,) = calls
    return *call, outputs


def both(part, **kwargs):
    """A model and its twin of the same weights with one part as printed."""
    model, printed = make_model(**kwargs), make_model(as_printed=[part], **kwargs)
    printed.load_state_dict(model.state_dict())
    return model, printed


def test_printed_head_reads_hyper_alone():
    for model, reads_text in zip(both("head"), (True, False), strict=True):
        _, (hyper, _), outputs = captured(model, model.smcl.fusion, make_inputs())
        text = model(**make_inputs(), output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(outputs.logits, model.classifier(hyper + text * reads_text))


def test_printed_threshold_drops_images_by_softmax_weights():
    model, printed = both("threshold")
    inputs, first = make_inputs(), []
    for one in (model, printed):
        with torch.no_grad():
            for layer in one.smcl.image_guidance.keys:
                # Large enough for some images to have more than half of a token's weight.
                layer.weight.mul_(20)
        first.append(one(**inputs, output_attentions=True).attentions[0][0, :, :, :3])
    kept = first[1] > 0
    assert kept.any() and (first[0][kept] > 0.5).all() and not kept[first[0] < 0.5].any()


def test_printed_union_enters_the_fusion_as_the_sigmoid_gives_it():
    for model, lowest in zip(both("union"), (-10, 0), strict=True):
        (_, tokens, *_), _, _ = captured(model, model.smcl.fusion.image_to_text, make_inputs())
        assert lowest <= tokens.min() < lowest / 10 + 0.5 and (tokens.max() > 1) == (lowest < 0)


def test_printed_images_are_attended_to_without_their_states():
    for model, adds_states in zip(both("images"), (True, False), strict=True):
        inputs, fusion = make_inputs(), model.smcl.fusion
        (_, seen, *_), _, _ = captured(model, fusion.text_to_image, inputs)
        (_, _, _, _, states, _), _, _ = captured(model, fusion, inputs)
        _, normal, _ = captured(model, fusion.image_norm, inputs)
        expected = normal + torch.nn.functional.layer_norm(states, states.shape[-1:]) * adds_states
        torch.testing.assert_close(seen, expected)


def test_printed_order_lets_tokens_attend_to_an_image_whatever_other_tokens_attend_to():
    """What the second token looks for changes what the first attends to, but as printed."""
    for model, minds in zip(both("order"), (True, False), strict=True):
        attention, order = model.smcl.fusion.text_to_image, {} if not minds else {"query_mask": torch.ones(1, 2).bool()}
        torch.manual_seed(0)
        images, tokens = 10 * torch.randn(1, 3, 32), 10 * torch.randn(1, 2, 32)
        before, after = (
            attention(x, images, torch.ones(1, 3).bool(), **order)[0]
            for x in (tokens, torch.stack([tokens[:, 0], -tokens[:, 1]], dim=1))
        )
        assert torch.equal(before[:, 0], after[:, 0]) is not minds


def test_printed_positions_are_drawn_as_small_as_other_weights():
    spreads = []
    for as_printed in (False, ["positions"], True):
        torch.manual_seed(0)
        model = SMCLModel(make_config(as_printed=as_printed, max_images=100))
        spreads.append(model.image_relations.position_embeddings.std().item())
    assert spreads == pytest.approx([1, 0.02, 0.02], rel=0.1)


def test_printed_similarity_compares_raw_relu_outputs():
    inputs = make_inputs(labels=True)
    masks = inputs["image_mask"], inputs["attention_mask"].bool()
    for model, squash in zip(both("similarity"), (torch.tanh, lambda x: x), strict=True):
        states = model.smcl(**{k: v for k, v in inputs.items() if k not in ("labels", "word_mask")})
        shared = [squash(x[mask]) for x, mask in zip((states.image_shared, states.text_shared), masks, strict=True)]
        everything = [torch.ones(len(x), dtype=torch.bool) for x in shared]
        torch.testing.assert_close(model(**inputs).similarity_loss, central_moment_discrepancy(*shared, *everything))


def test_printed_difference_is_not_divided_and_grows_with_the_batch():
    inputs = make_inputs(image_counts=(3, 1, 2), labels=True)
    model, printed = both("difference")
    divided, whole = model(**inputs).difference_loss, printed(**inputs).difference_loss
    torch.testing.assert_close(whole, divided * 3**2)
    twice = {name: torch.cat([x, x]) for name, x in inputs.items()}
    torch.testing.assert_close(printed(**twice).difference_loss, whole * 4)


def test_all_of_it_is_its_parts_together():
    whole, parts = make_model(as_printed=True), make_model(as_printed=list(PRINTED_PARTS))
    inputs = make_inputs(labels=True)
    assert torch.equal(whole(**inputs).logits, parts(**inputs).logits)
    assert torch.equal(whole(**inputs).loss, parts(**inputs).loss)
    assert not torch.allclose(whole(**inputs).logits, make_model()(**inputs).logits, atol=1e-2)


@pytest.mark.parametrize(
    ("as_printed", "printed"), [(True, list(PRINTED_PARTS)), (["head", "union"], ["head", "union"]), (False, [])]
)
def test_saved_configuration_stays_as_printed(as_printed, printed, tmp_path):
    make_config(as_printed=as_printed).save_pretrained(tmp_path)
    loaded = SMCLConfig.from_pretrained(tmp_path)
    assert loaded.as_printed == as_printed
    assert [part for part in PRINTED_PARTS if loaded.prints(part)] == printed

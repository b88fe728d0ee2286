import pytest
import torch
from factories import make_inputs
from huggingface_hub.errors import StrictDataclassError
from systems import difference, logits_of, make_system

from smcl.baselines.maf import MAFConfig, next_with_image
from smcl.losses_smcl import info_nce


def train_outputs(model, inputs: dict):
    """What the model below the head gives while training, without dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.smcl(**{key: x for key, x in inputs.items() if key not in ("word_mask", "labels")})


def quiet(name: str = "maf", **kwargs):
    return make_system(name, dropout=0.0, **kwargs)


def test_next_post_with_an_image_is_found_around_the_end_of_the_batch():
    has_image = torch.tensor([False, True, True, False, True])
    following = next_with_image(has_image)
    assert following[has_image].tolist() == [2, 4, 1]
    assert next_with_image(torch.tensor([False, True]))[1] == 1
    assert next_with_image(torch.zeros(2, dtype=torch.bool)).shape == (2,)


def test_matching_depends_on_images_even_where_all_texts_are_the_same():
    model, inputs = quiet(), make_inputs(image_counts=(1, 1, 1), lengths=(8, 8, 8), labels=True)
    inputs["input_ids"] = inputs["input_ids"][:1].expand(3, -1)
    inputs["pixel_values"].requires_grad_()
    train_outputs(model, inputs)
    model(**inputs).matching_loss.backward()
    assert inputs["pixel_values"].grad.abs().amax(dim=(1, 2, 3, 4)).min() > 1e-6


def test_matching_loss_teaches_which_image_belongs_to_which_text():
    model, inputs = quiet(), make_inputs(image_counts=(1, 1, 1), labels=True)
    train_outputs(model, inputs)
    for parameter in (*model.smcl.text_model.parameters(), *model.smcl.vision_model.parameters()):
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**inputs).matching_loss
        loss.backward()
        optimizer.step()
    # Who looks at texts or images alone can't get below 2 log 2.
    assert loss.item() < 0.5


def test_mismatches_join_a_text_with_the_image_of_the_next_post():
    model, inputs = quiet(), make_inputs(image_counts=(1, 0, 1), lengths=(8, 8, 8))
    outputs = train_outputs(model, inputs)
    exchanged = inputs | {"pixel_values": inputs["pixel_values"][[2, 1, 0]]}
    again = train_outputs(model, exchanged)
    torch.testing.assert_close(again.match_logits[[0, 2]], outputs.mismatch_logits[[0, 2]])
    torch.testing.assert_close(again.mismatch_logits[[0, 2]], outputs.match_logits[[0, 2]])
    swapped = train_outputs(model, inputs | {"input_ids": inputs["input_ids"][[2, 1, 0]]})
    assert difference(swapped.mismatch_logits[0], outputs.mismatch_logits[0]) > 1e-3
    assert model.eval().smcl(inputs["input_ids"], pixel_values=inputs["pixel_values"]).mismatch_logits is None


def test_what_does_not_match_adds_exactly_nothing():
    model, inputs = quiet(), make_inputs()
    states = train_outputs(model, inputs).last_hidden_state
    assert states[:2, :, 32:].abs().max() > 1e-3 and (states[2, :, 32:] == 0).all()
    with torch.no_grad():
        model.smcl.match_classifier.bias.copy_(torch.tensor([1e5, -1e5]))
    closed = train_outputs(model, inputs).last_hidden_state
    assert (closed[..., 32:] == 0).all() and torch.equal(closed[..., :32], states[..., :32])


def test_gate_weighs_what_the_words_saw():
    model, inputs = quiet(), make_inputs(image_counts=(1, 1, 1))
    outputs = train_outputs(model, inputs)
    smcl, mask = model.smcl, inputs["attention_mask"].bool()
    words = smcl.text_model(inputs["input_ids"], mask[:, None, None, :]).last_hidden_state
    patches = smcl.vision_model(inputs["pixel_values"][:, 0]).last_hidden_state
    attended = smcl.text_to_image(words, smcl.patch_projection(patches), torch.ones(3, 5, dtype=torch.bool))
    for row in range(3):
        real = torch.cat([words[row, mask[row]], attended[row, mask[row]]], dim=-1)
        scores = smcl.match_classifier(real.mean(dim=0))
        torch.testing.assert_close(outputs.match_logits[row], scores)
        seen = scores.softmax(dim=0)[1] * attended[row]
        gate = (smcl.text_gate(words[row]) + smcl.image_gate(seen)).sigmoid()
        torch.testing.assert_close(outputs.last_hidden_state[row], torch.cat([words[row], gate * seen], dim=-1))


def test_losses_count_by_their_weights_and_posts_without_an_image_have_no_part():
    inputs = make_inputs(image_counts=(1, 1, 0), labels=True)
    model = quiet(matching_weight=2.0, alignment_weight=0.5)
    train_outputs(model, inputs)
    outputs = model(**inputs)
    expected = outputs.task_loss + 2 * outputs.matching_loss + 0.5 * outputs.alignment_loss
    torch.testing.assert_close(outputs.loss, expected)
    of_two = model(**{key: x[:2] for key, x in inputs.items()})
    torch.testing.assert_close(of_two.matching_loss, outputs.matching_loss)
    torch.testing.assert_close(of_two.alignment_loss, outputs.alignment_loss)
    alone = model(**{key: x[1:] for key, x in inputs.items()})
    assert alone.matching_loss == alone.alignment_loss == 0
    without = model(**{key: x for key, x in inputs.items() if key not in ("pixel_values", "image_mask")})
    assert without.matching_loss == without.alignment_loss == 0


def test_matching_loss_is_the_cross_entropy_of_own_and_other_images():
    model, inputs = quiet(), make_inputs(image_counts=(1, 1, 1), labels=True)
    below = train_outputs(model, inputs)
    own = below.match_logits.log_softmax(dim=-1)[:, 1]
    other = below.mismatch_logits.log_softmax(dim=-1)[:, 0]
    torch.testing.assert_close(model(**inputs).matching_loss, -(own + other).mean())


def test_alignment_compares_texts_and_images_more_from_the_text():
    model, inputs = quiet(), make_inputs(image_counts=(1, 1, 1), labels=True)
    below, mask = train_outputs(model, inputs), torch.ones(3, dtype=torch.bool)
    vectors = below.text_vectors, below.image_vectors
    similarity = torch.cosine_similarity(vectors[0][:, None], vectors[1][None], dim=-1) / 0.179
    ways = [-logits.log_softmax(dim=-1).diagonal().mean() for logits in (similarity, similarity.T)]
    expected = 0.7 * ways[0] + 0.3 * ways[1]
    torch.testing.assert_close(info_nce(*vectors, mask, 0.179, 0.7), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(model(**inputs).alignment_loss, expected, atol=1e-4, rtol=0)


def test_the_image_of_another_post_changes_no_logits():
    model, inputs = quiet(), make_inputs(image_counts=(1, 1, 1))
    changed = inputs["pixel_values"].clone()
    changed[1:] = -changed[1:]
    assert difference(logits_of(model, inputs, pixel_values=changed)[0], logits_of(model, inputs)[0]) < 1e-4


@pytest.mark.parametrize(
    ("name", "value"), [("matching_weight", -0.1), ("alignment_weight", float("inf")), ("matching_temperature", 0)]
)
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(StrictDataclassError, match=f"`{name}` must"):
        MAFConfig(**{name: value})

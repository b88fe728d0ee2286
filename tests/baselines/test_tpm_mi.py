import torch
from factories import make_inputs
from systems import difference, logits_of, make_system


def test_tpm_mi_does_not_attend_across_the_batch():
    inputs = make_inputs(image_counts=(3, 3, 3))
    pixels = inputs["pixel_values"].clone()
    pixels[1:] = -pixels[1:]
    model = make_system("tpm-mi")
    assert difference(logits_of(model, inputs, pixel_values=pixels)[0], logits_of(model, inputs)[0]) < 1e-4


def test_tpm_mi_images_attend_to_their_own_post():
    states, mask = torch.randn(2, 3, 24), torch.ones(2, 3, dtype=torch.bool)
    relations = make_system("tpm-mi").smcl.image_relations
    changed = states.clone()
    changed[1, 2] += 1
    effect = (relations(changed, mask) - relations(states, mask)).abs().amax(dim=-1) > 1e-4
    assert effect.tolist() == [[False] * 3, [True] * 3]

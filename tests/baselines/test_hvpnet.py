import torch
from factories import TEXT_SIZE, VISION_SIZE, make_inputs
from systems import difference, make_system

from smcl.modeling_smcl import PostImages


def test_hvpnet_gates_differ_by_layer_and_weigh_every_level():
    model, inputs = make_system("hvpnet"), make_inputs()
    seen = []
    original = model.smcl.gate_weights
    model.smcl.gate_weights = lambda prefixes: seen.append(original(prefixes)) or seen[-1]
    model(**inputs)
    weights = seen[0][0]
    assert weights.shape == (TEXT_SIZE["num_hidden_layers"], VISION_SIZE["num_hidden_layers"])
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2))
    assert difference(weights[0], weights[1]) > 1e-3


def test_hvpnet_mixes_the_levels_by_its_gates():
    model, inputs = make_system("hvpnet"), make_inputs()
    states = model.smcl.encode_images(inputs["pixel_values"][:, 0])[:, None]
    images, text_mask = PostImages(states, inputs["image_mask"][:, :1]), inputs["attention_mask"].bool()
    prefixes = model.smcl.projection(states[:, 0].transpose(1, 2).flatten(2)).unflatten(-1, (2, 64))
    for level in range(2):
        one = torch.zeros(3, 2, 2)
        one[:, 0, level], one[:, 1, 1 - level] = 1, 1
        model.smcl.gate_weights = lambda prefixes, one=one: one
        guidance = model.smcl.prompts(images, text_mask)
        keys = [key.transpose(1, 2).flatten(2) for key in guidance.keys]
        assert torch.equal(keys[0], prefixes[:, :, level, :32]) and torch.equal(keys[1], prefixes[:, :, 1 - level, :32])


def test_hvpnet_levels_are_quarters_of_hidden_states_of_several_depths():
    model = make_system("hvpnet", max_levels=2)
    assert model.smcl.levels == [1, 2]
    assert make_system("hvpnet", max_levels=1).smcl.levels == [2]
    pixels = torch.randn(2, 3, 16, 16)
    outputs = model.smcl.vision_model(pixels, output_hidden_states=True)
    # Of 2 x 2 patches, each is a quarter.
    first = torch.nn.functional.layer_norm(outputs.hidden_states[1][:, 1:], (24,))
    last = torch.nn.functional.layer_norm(outputs.last_hidden_state[:, 1:], (24,))
    torch.testing.assert_close(model.smcl.encode_images(pixels), torch.stack([first, last], dim=1))

import numpy as np
import pytest
import torch
from factories import noise
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from systems import difference, logits_of, make_system, system_inputs

from smcl.baselines.umgf import RegionProcessor, UMGFConfig, crop
from smcl.images_smcl import load_image


def make_inputs(**kwargs) -> dict:
    return system_inputs("umgf", **({"image_counts": (4, 4, 0)} | kwargs))


def test_states_are_those_of_loops_over_words_and_regions():
    model, inputs = make_system("umgf"), make_inputs()
    states = model.smcl(**{key: x for key, x in inputs.items() if key != "word_mask"}).last_hidden_state
    smcl, vectors = model.smcl, model.smcl.encode_images(inputs["pixel_values"].flatten(0, 1)).unflatten(0, (3, 4))
    for row, length in enumerate((9, 6, 8)):
        text = smcl.text_model(inputs["input_ids"][row : row + 1, :length]).last_hidden_state[0]
        words = smcl.word_projection(text)
        regions = smcl.region_projection(vectors[row]) if row < 2 else words[:0]
        for layer in smcl.graph:
            mask = torch.ones(1, length, dtype=torch.bool)
            attended = layer.word_attention(words[None], words[None], mask)[0][0]
            words = layer.word_norms[0](words + layer.word_output(attended))
            if len(regions):
                query, key = layer.region_attention.query(regions), layer.region_attention.key(regions)
                heads = [slice(4 * head, 4 * head + 4) for head in range(8)]
                heard = [(query[:, h] @ key[:, h].T / 2).softmax(dim=-1) @ regions[:, h] for h in heads]
                regions = layer.region_norms[0](regions + torch.cat(heard, dim=-1))
            to_words, to_regions = torch.zeros_like(words), torch.zeros_like(regions)
            for i, word in enumerate(words):
                for r, region in enumerate(regions):
                    gate = layer.words_hear
                    to_words[i] += (gate.word(word) + gate.region(region)).sigmoid() * region
                    if layer.regions_hear is not None:
                        gate = layer.regions_hear
                        to_regions[r] += (gate.word(word) + gate.region(region)).sigmoid() * word
            if layer.regions_hear is not None:
                regions = layer.region_norms[1](regions + to_regions)
                regions = layer.region_norms[2](regions + layer.region_feed_forward(regions))
            words = layer.word_norms[1](words + to_words)
            words = layer.word_norms[2](words + layer.word_feed_forward(words))
        expected = torch.cat([text, words], dim=-1)
        torch.testing.assert_close(states[row, :length], expected, atol=1e-4, rtol=1e-3)


def test_the_last_layer_has_no_parameters_for_regions_that_nobody_reads():
    layers = make_system("umgf", num_graph_layers=3).smcl.graph
    assert [layer.regions_hear is None for layer in layers] == [False, False, True]
    assert [len(layer.region_norms) for layer in layers] == [3, 3, 1]


def test_a_padded_token_changes_no_region():
    model, inputs = make_system("umgf"), make_inputs()
    layer, generator = model.smcl.graph[0], torch.Generator().manual_seed(0)
    words, regions = (torch.randn(1, n, 32, generator=generator) for n in (5, 4))
    masks = torch.tensor([[True, True, True, False, False]]), torch.ones(1, 4, dtype=torch.bool)
    _, expected = layer(words, masks[0], regions, masks[1])
    changed = words.clone()
    changed[:, 3:] = 1e3
    assert torch.equal(layer(changed, masks[0], regions, masks[1])[1], expected)
    shorter = layer(words[:, :3], masks[0][:, :3], regions, masks[1])[1]
    assert difference(shorter, expected) < 1e-5 and logits_of(model, inputs).isfinite().all()


def test_closed_gates_leave_the_path_of_the_text_alone():
    model, inputs = make_system("umgf"), make_inputs()
    without = {key: x for key, x in inputs.items() if key not in ("pixel_values", "image_mask")}
    expected = logits_of(model, without)
    assert difference(logits_of(model, inputs)[:2], expected[:2]) > 1e-3
    with torch.no_grad():
        for layer in model.smcl.graph:
            layer.words_hear.word.bias.fill_(-1e5)
    assert torch.equal(logits_of(model, inputs), logits_of(model, without))
    assert difference(logits_of(model, without), expected) < 1e-6


def test_the_order_of_the_regions_changes_nothing():
    model, inputs = make_system("umgf"), make_inputs()
    shuffled = inputs["pixel_values"][:, [2, 0, 3, 1]]
    assert difference(logits_of(model, inputs, pixel_values=shuffled), logits_of(model, inputs)) < 1e-4


def test_regions_are_cut_out_and_the_whole_image_stands_in(image_processor, tokenizer):
    processor = RegionProcessor(image_processor, tokenizer)
    image = noise((40, 20), spread=90).convert("RGB")
    right, left = [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]
    regions = [
        {"query": "person", "score": 0.25, "box": left},
        {"query": "location", "score": 0.5, "box": right},
        {"query": "organization", "score": 0.05, "box": left},
    ]
    views = processor.views([image, "never/read"], {"regions": regions})
    assert [view.size for view in views] == [(20, 20), (20, 10), (40, 20), (40, 20)]
    assert views[0].tobytes() == image.crop((20, 0, 40, 20)).tobytes()
    batch = processor(words=[["joey"], ["niko"]], images=[[image], []], context={"regions": [[regions], []]})
    assert batch["image_mask"].tolist() == [[True] * 4, [False] * 4]
    plain = super(RegionProcessor, processor).views([image], {})
    assert plain == [image]
    for slot, view in enumerate(views):
        expected = image_processor(view, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(batch["pixel_values"][0, slot], expected)


def test_boxes_follow_the_image_when_it_is_scaled():
    image = load_image(Image.linear_gradient("L"))
    box = [0.25, 0.5, 0.75, 1.0]
    large, small = crop(image, box), crop(image.resize((64, 64)), box)
    assert (large.size, small.size) == ((128, 128), (32, 32))
    scaled = [torch.from_numpy(np.array(x.convert("L").resize((8, 8)), dtype=np.float32)) for x in (large, small)]
    assert (scaled[0] - scaled[1]).abs().max() < 5


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((40, 20), [0.5, 0.5, 0.51, 0.51], (8, 8)),
        ((40, 20), [0.99, 0.0, 1.0, 1.0], (8, 20)),
        ((4, 20), [0.5, 0.0, 0.6, 1.0], (4, 20)),
        ((40, 20), [0.0, 0.0, 1.0, 1.0], (40, 20)),
    ],
)
def test_small_boxes_are_widened_inside_the_image(size, box, expected):
    image = Image.new("RGB", size, "red")
    cut = crop(image, box)
    assert cut.size == expected
    # Nothing from outside, which would be black.
    assert cut.getcolors() == [(expected[0] * expected[1], (255, 0, 0))]


def test_an_image_that_can_not_be_read_is_named(image_processor, tokenizer):
    processor = RegionProcessor(image_processor, tokenizer)
    with pytest.raises(ValueError, match="Post 0 of the batch, image 0: .*no/such/file"):
        processor(words=[["joey"]], images=[["no/such/file"]], context={"regions": [[[]]]})
    with pytest.raises(ValueError, match="Post 0 of the batch has 5 images"):
        processor(words=[["joey"]], images=[["x"] * 5], context={"regions": [[[]] * 5]})


@pytest.mark.parametrize(("name", "value"), [("graph_size", 12), ("num_graph_layers", 0), ("max_images", 3)])
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(StrictDataclassError, match=f"`{name}` must"):
        UMGFConfig(**{name: value})

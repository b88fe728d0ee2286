"""Each equation against a slow reference in float64; guidance, CRF and losses have files of their own."""

import itertools
import math

import pytest
import torch
from factories import make_config, make_inputs, make_model

from smcl.crf_smcl import LinearChainCRF
from smcl.layers_smcl import (
    SMCLAttention,
    SMCLImageRelations,
    SMCLModalityEncoders,
    SMCLSymmetricFusion,
    SMCLTransformerLayer,
)
from smcl.losses_smcl import central_moment_discrepancy


def build(module_class, *args, seed=0, **kwargs):
    """A module in float64 with weights and biases large enough for every term to matter."""
    torch.manual_seed(seed)
    module = module_class(*args, **kwargs).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def states(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(layer, x):
    return layer.weight @ x + layer.bias


def layer_norm(norm, x):
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def feed_forward(module, x):
    hidden = linear(module.expand, x)
    return linear(module.contract, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def attend(module, query_states, key_states):
    """Eq. 13-14 with `module.num_heads` heads, for one post without padding: one row for each query."""
    if not len(key_states):
        return torch.zeros_like(query_states)
    rows = []
    for q in query_states:
        query = linear(module.query, q).chunk(module.num_heads)
        keys = [linear(module.key, k).chunk(module.num_heads) for k in key_states]
        values = [linear(module.value, k).chunk(module.num_heads) for k in key_states]
        heads = []
        for h in range(module.num_heads):
            exponentials = [math.exp((query[h] @ key[h]).item() / math.sqrt(len(query[h]))) for key in keys]
            heads.append(sum(e / sum(exponentials) * v[h] for e, v in zip(exponentials, values, strict=True)))
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def transformer_layer(module, x):
    attended = attend(module.attention, x, x)
    pairs = zip(x, attended, strict=True)
    x = torch.stack([layer_norm(module.attention_norm, a + linear(module.output, b)) for a, b in pairs])
    return torch.stack([layer_norm(module.output_norm, v + feed_forward(module.feed_forward, v)) for v in x])


MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


@pytest.mark.parametrize("num_heads", [1, 2])
def test_attention_equals_its_definition_and_gives_nothing_for_nothing(num_heads):
    module = build(SMCLAttention, 4, num_heads, 0.0)
    queries, keys = states(3, 2, 4), states(3, 3, 4, seed=1)
    for output_attentions in (False, True):
        output, weights = module(queries, keys, MASK, output_attentions)
        for post in range(3):
            expected = attend(module, queries[post], keys[post][MASK[post]])
            torch.testing.assert_close(output[post], expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(output[2], torch.zeros(2, 4, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(dim=-1)[:2], torch.ones(2, num_heads, 2).double(), atol=1e-6, rtol=0)
    assert (weights[1, ..., 1:] == 0).all() and (weights[2] == 0).all()


def test_image_relations_equal_their_definition():
    """Sec. 3.3.2-3.3.3: V' = V + C, and a transformer over the images of a post alone."""
    config = make_config(num_image_layers=2)
    module = build(SMCLImageRelations, config)
    images = states(3, 3, config.vision_config.hidden_size)
    relations = module(images, MASK)
    for post in range(3):
        x = images[post][MASK[post]] + module.position_embeddings[: MASK[post].sum()]
        for layer in module.layers:
            x = transformer_layer(layer, x) if len(x) else x
        torch.testing.assert_close(relations[post][MASK[post]], x, atol=1e-9, rtol=1e-9)
        assert (relations[post][~MASK[post]] == 0).all()


def test_alignment_and_refinement_equal_their_definition():
    """Eq. 6-9: one ReLU layer shared by both modalities, one for each."""
    config = make_config()
    module = build(SMCLModalityEncoders, config)
    text = states(1, 2, config.text_config.hidden_size)
    images = states(1, 2, config.vision_config.hidden_size)
    streams = {modality: module(x, modality) for modality, x in (("text", text), ("image", module.project(images)))}
    for row in range(2):
        sources = {"text": text[0, row], "image": linear(module.image_projection, images[0, row])}
        for modality, source in sources.items():
            shared, specific = linear(module.alignment, source), linear(module.refinement[modality], source)
            torch.testing.assert_close(streams[modality]["shared"][0, row], shared.clamp(min=0))
            torch.testing.assert_close(streams[modality]["specific"][0, row], specific.clamp(min=0))


def ways_in_order(num_queries, num_states):
    """All sets of pairs in which nobody stands twice and the later query has the later state."""
    for size in range(min(num_queries, num_states) + 1):
        for queries in itertools.combinations(range(num_queries), size):
            for chosen in itertools.combinations(range(num_states), size):
                yield list(zip(queries, chosen, strict=True))


def attend_in_order(attention, queries, keys):
    """Attention whose weights are those of all ways with a pair, over those of all ways with that query's pairs."""
    q, k, v = (
        [linear(layer, x) for x in xs]
        for layer, xs in ((attention.query, queries), (attention.key, keys), (attention.value, keys))
    )
    scores = [[8 * (a @ b / torch.sqrt((a @ a) * (b @ b))).item() for b in k] for a in q]
    weights = torch.zeros(len(q), len(k), dtype=torch.float64)
    for way in ways_in_order(len(q), len(k)):
        for pair in way:
            weights[pair] += math.exp(sum(scores[i][j] for i, j in way))
    return [sum(w * x for w, x in zip(row / row.sum(), v, strict=True)) for row in weights]


def slow_fusion(module, text, images, image_states):
    """Eq. 10-15 for one post without padding, with the mirrored attention of tokens over images, in order."""

    def enhance(streams, modality):
        for layer in module.layers:
            streams = [transformer_layer(layer, x) if len(x) else x for x in streams]
        joined = [torch.cat(pair) for pair in zip(*streams, strict=True)]
        return torch.stack([1 / (1 + torch.exp(-linear(module.unions[modality].dense, x))) for x in joined])

    x = enhance([text["shared"], text["specific"]], "text")
    # P_t is normalised, without weights.
    x = torch.stack([(v - v.mean()) / torch.sqrt(((v - v.mean()) ** 2).mean() + 1e-5) for v in x])
    attended = torch.zeros_like(x)
    if len(images["shared"]):
        y = enhance([images["shared"], images["specific"]], "image")
        replies = attend(module.image_to_text, y, x)
        y = torch.stack([layer_norm(module.image_norm, a + b) for a, b in zip(y, replies, strict=True)])
        # G is normalised, without weights.
        y = [
            a + (g - g.mean()) / torch.sqrt(((g - g.mean()) ** 2).mean() + 1e-5)
            for a, g in zip(y, image_states, strict=True)
        ]
        attended = attend_in_order(module.text_to_image, x, y)
    x = [layer_norm(module.text_norm, a + b) for a, b in zip(x, attended, strict=True)]
    return torch.stack(
        [linear(module.output, layer_norm(module.output_norm, v + feed_forward(module.feed_forward, v))) for v in x]
    )


@pytest.mark.parametrize("num_fusion_layers", [1, 2])
def test_symmetric_fusion_equals_its_definition(num_fusion_layers):
    config = make_config(num_fusion_layers=num_fusion_layers)
    module = build(SMCLSymmetricFusion, config)
    size = config.text_config.hidden_size
    text_mask = torch.tensor([[True] * 4, [True, True, False, False], [True, True, True, False]])
    text = {name: states(3, 4, size, seed=seed).relu() for seed, name in enumerate(("shared", "specific"))}
    images = {name: states(3, 3, size, seed=seed).relu() for seed, name in enumerate(("shared", "specific"), start=2)}
    image_states = states(3, 3, size, seed=4)
    hyper, _ = module(text, text_mask, images, MASK, image_states)
    for post in range(3):
        post_text = {name: x[post][text_mask[post]] for name, x in text.items()}
        post_images = {name: x[post][MASK[post]] for name, x in images.items()}
        expected = slow_fusion(module, post_text, post_images, image_states[post][MASK[post]])
        torch.testing.assert_close(hyper[post][text_mask[post]], expected, atol=1e-8, rtol=1e-8)


def test_transformer_layer_gradients_are_right():
    module = build(SMCLTransformerLayer, 4, 2, 0.0)
    x = states(2, 3, 4).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert torch.autograd.gradcheck(lambda x: module(x, mask) * mask[..., None], (x,))


def test_task_loss_gradients_are_right():
    crf = build(LinearChainCRF, ["O", "B-PER", "I-PER"])
    emissions = states(2, 4, 3).requires_grad_()
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    tags = torch.tensor([[1, 2, 0, 0], [0, 1, 0, 0]])

    def loss(emissions, *parameters):
        del parameters
        return -crf.log_likelihood(emissions, tags, mask).mean()

    parameters = (crf.start_transitions, crf.transitions, crf.end_transitions)
    assert torch.autograd.gradcheck(loss, (emissions, *parameters))


def unit_rows(rows):
    centred = [row - sum(rows) / len(rows) for row in rows]
    return torch.stack([row / math.sqrt(row.square().sum().item()) for row in centred])


def test_losses_of_the_model_equal_their_definitions():
    """Eq. 18-23 from the model's own shared and specific vectors."""
    model, inputs = make_model(), make_inputs(labels=True)
    text_mask, image_mask = inputs["attention_mask"].bool(), inputs["image_mask"]
    outputs = model(**inputs)
    kept = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_mask")}
    base = model.smcl(**kept)
    with torch.no_grad():
        tokens, images = base.text_shared[text_mask].tanh(), base.image_shared[image_mask].tanh()
        everything = [torch.ones(len(x), dtype=torch.bool) for x in (images, tokens)]
        similarity = central_moment_discrepancy(images, tokens, *everything, 3)
        posts = [0, 1]

        def means(states, mask, rows):
            return unit_rows([states[row][mask[row]].mean(dim=0) for row in rows])

        def overlap(x, y):
            return (x.T @ y).square().sum() / len(x) ** 2

        text_pair = [means(base[name], text_mask, [0, 1, 2]) for name in ("text_shared", "text_specific")]
        image_pair = [means(base[name], image_mask, posts) for name in ("image_shared", "image_specific")]
        # The third term compares the posts that have an image, centred over those.
        specific = [means(base.image_specific, image_mask, posts), means(base.text_specific, text_mask, posts)]
        difference = overlap(*text_pair) + overlap(*image_pair) + overlap(*specific)
    torch.testing.assert_close(outputs.similarity_loss, similarity)
    torch.testing.assert_close(outputs.difference_loss, difference, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.loss, outputs.task_loss + 0.3 * similarity + 0.2 * difference, atol=1e-4, rtol=0)

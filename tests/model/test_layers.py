import itertools
import math

import pytest
import torch
from factories import TEXT_SIZE, make_config, make_inputs, make_model
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from smcl import SMCLModel
from smcl.layers_smcl import ImageGuidance, guided_attention_forward


class Layer(torch.nn.Module):
    layer_idx = 0
    encoder_config = BertConfig(attn_implementation="sdpa")


def make_heads(num_images=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, 2, 5, 4, generator=generator, dtype=torch.float64)
    image_key, image_value = torch.randn(2, 2, 2, num_images, 4, generator=generator, dtype=torch.float64)
    image_mask = torch.tensor([[True, True, True], [True, False, False]])
    text_mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    return query, key, value, image_key, image_value, image_mask, text_mask


def scores(query, keys):
    return [(query @ key).item() / math.sqrt(len(query)) for key in keys]


def slow_image_weights(query, keys, image_keys, guidance_filter):
    """Weights of the images for one token: scores, or their part of the softmax over images and text."""
    image_scores = scores(query, image_keys)
    if guidance_filter != "probability":
        return image_scores
    total = sum(map(math.exp, image_scores + scores(query, keys)))
    return [math.exp(score) / total for score in image_scores]


def slow_guided_post(query, key, value, image_key, image_value, guidance_filter):
    """Eq. 2-5 for one post without padding, with loops over heads and tokens."""
    num_heads, num_tokens, size = query.shape
    pairs = list(itertools.product(range(num_heads), range(num_tokens)))
    weights = {(h, t): slow_image_weights(query[h, t], key[h], image_key[h], guidance_filter) for h, t in pairs}
    everything = [weight for row in weights.values() for weight in row]
    threshold = sum(everything) / len(everything)
    if guidance_filter == "probability":
        threshold = 1 / (1 + math.exp(-threshold))
    output = torch.zeros(num_tokens, num_heads, size, dtype=query.dtype)
    for h, t in pairs:
        kept = [i for i, weight in enumerate(weights[h, t]) if guidance_filter == "none" or weight >= threshold]
        exponentials = list(map(math.exp, scores(query[h, t], [*image_key[h, kept], *key[h]])))
        for exponential, vector in zip(exponentials, [*image_value[h, kept], *value[h]], strict=True):
            output[t, h] += exponential / sum(exponentials) * vector
    return output


@pytest.mark.parametrize("guidance_filter", ["score", "probability", "none"])
@pytest.mark.parametrize("output_attentions", [True, False])
def test_guided_attention_equals_its_definition(guidance_filter, output_attentions):
    query, key, value, image_key, image_value, image_mask, text_mask = make_heads()
    # Large enough for some image weights to pass the probability threshold of one half and more.
    image_key = image_key * 4
    guidance = ImageGuidance((image_key,), (image_value,), image_mask, text_mask, guidance_filter)
    attention_mask = text_mask[:, None, None, :].expand(-1, -1, 5, -1)
    output, weights = guided_attention_forward(
        Layer(), query, key, value, attention_mask, image_guidance=guidance, output_attentions=output_attentions
    )
    tolerance = 1e-6 if output_attentions else 1e-9
    for post, (images, tokens) in enumerate(zip(image_mask, text_mask, strict=True)):
        texts = (x[post][:, tokens] for x in (query, key, value))
        expected = slow_guided_post(*texts, image_key[post][:, images], image_value[post][:, images], guidance_filter)
        torch.testing.assert_close(output[post][tokens], expected, atol=tolerance, rtol=tolerance)
    if output_attentions:
        assert weights.shape == (2, 2, 5, 8)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 5, dtype=weights.dtype), atol=1e-6, rtol=0)
        assert (weights[1, :, :, 1:3] == 0).all()


def test_filters_drop_different_images():
    query, key, value, image_key, image_value, image_mask, text_mask = make_heads()
    outputs = [
        guided_attention_forward(
            Layer(),
            query,
            key,
            value,
            None,
            image_guidance=ImageGuidance((image_key,), (image_value,), image_mask, text_mask, guidance_filter),
        )[0]
        for guidance_filter in ("score", "probability", "none")
    ]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def stock_hidden_states(model, inputs):
    """What transformers' own encoder of the same weights makes of the text."""
    implementation = model.config.text_config._attn_implementation
    config = BertConfig(**model.config.text_config.to_dict(), attn_implementation=implementation)
    stock = AutoModel.from_config(config, add_pooling_layer=False).eval()
    stock.load_state_dict(model.smcl.text_model.state_dict())
    return stock(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True).hidden_states


def text_hidden_states(model, inputs):
    return model(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_without_images_the_text_encoder_equals_the_stock_one_exactly(implementation):
    model, inputs = make_model(), make_inputs(image_counts=(0, 0, 0))
    model.set_attn_implementation(implementation)
    pairs = zip(text_hidden_states(model, inputs), stock_hidden_states(model, inputs), strict=True)
    assert all(torch.equal(ours, stock) for ours, stock in pairs)


def test_without_guidance_the_text_encoder_equals_the_stock_one_exactly():
    model, inputs = make_model(use_image_guidance=False), make_inputs()
    pairs = zip(text_hidden_states(model, inputs), stock_hidden_states(model, inputs), strict=True)
    assert all(torch.equal(ours, stock) for ours, stock in pairs)


def test_with_guidance_images_reach_every_text_layer():
    model, inputs = make_model(), make_inputs()
    pairs = zip(text_hidden_states(model, inputs), stock_hidden_states(model, inputs), strict=True)
    differences = [(ours - stock)[0].abs().max().item() for ours, stock in pairs]
    assert differences[0] == 0
    assert all(difference > 1e-3 for difference in differences[1:])


def test_attention_weights_cover_images_and_text():
    model, inputs = make_model(), make_inputs()
    outputs = model(**inputs, output_attentions=True)
    assert [weights.shape for weights in outputs.attentions] == [(3, 4, 9, 12)] * 2
    torch.testing.assert_close(outputs.logits, model(**inputs).logits)
    # No weight on padded images nor on padded text.
    assert all((weights[1, :, :, 1:3] == 0).all() for weights in outputs.attentions)
    assert all((weights[1, :, :, 3 + 6 :] == 0).all() for weights in outputs.attentions)


TEXT_CONFIGS = {
    "bert": BertConfig,
    "electra": ElectraConfig,
    "modernbert": ModernBertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
}


@pytest.mark.parametrize("name", TEXT_CONFIGS)
def test_text_encoders_are_guided(name):
    special = dict.fromkeys(("bos_token_id", "cls_token_id"), 1) | dict.fromkeys(("eos_token_id", "sep_token_id"), 2)
    extra = {"electra": {"embedding_size": 16}, "modernbert": special}.get(name, {})
    text_config = TEXT_CONFIGS[name](vocab_size=100, pad_token_id=0, max_position_embeddings=64, **TEXT_SIZE, **extra)
    model = make_model(text_config=text_config)
    inputs = make_inputs()
    hidden_states = text_hidden_states(model, inputs)[-1]
    inputs["pixel_values"] = inputs["pixel_values"].flip(1)
    assert not torch.allclose(hidden_states[0], text_hidden_states(model, inputs)[-1][0], atol=1e-3)


@pytest.mark.parametrize(
    "text_config",
    [
        DebertaV2Config(vocab_size=100, **TEXT_SIZE),
        DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
        MPNetConfig(vocab_size=100, **TEXT_SIZE),
    ],
    ids=lambda config: config.model_type,
)
def test_text_encoders_that_ignore_images_are_refused_by_name(text_config):
    with pytest.raises(ValueError, match=f"{text_config.model_type}.*can't be guided.*bert.*roberta"):
        SMCLModel(make_config(text_config=text_config))


def test_changing_the_attention_implementation_keeps_guidance():
    model, inputs = make_model(), make_inputs()
    logits = model(**inputs).logits
    for change in (model.set_attn_implementation, model.smcl.text_model.set_attn_implementation):
        for implementation in ("eager", "sdpa"):
            change(implementation)
            assert model.smcl.text_model.config._attn_implementation == implementation
            torch.testing.assert_close(model(**inputs).logits, logits)


def test_attention_that_images_can_not_guide_is_refused():
    model = make_model()
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="must be one of eager, sdpa.*got 'flash_attention_2'.*'vision_config'"):
        model(**make_inputs())

import pytest
import torch
from factories import noise
from huggingface_hub.errors import StrictDataclassError
from systems import difference, logits_of, make_context, make_system, system_inputs

from smcl.baselines.visualpt_moe import EXPERTS, VisualPTMoEConfig, VisualPTMoEProcessor
from smcl.modeling_smcl import PostImages


def make_inputs(**kwargs) -> dict:
    return system_inputs("visualpt-moe", **({"image_counts": (4, 1, 0)} | kwargs))


def below(model, inputs: dict):
    return model.smcl(**{key: x for key, x in inputs.items() if key not in ("word_mask", "labels")})


def prompts_of(model, inputs: dict) -> tuple[torch.Tensor, torch.Tensor, PostImages]:
    """Each expert's keys and values, the mask of their places, and what the layers read."""
    mask = inputs["image_mask"]
    states = model.smcl.encode_images(inputs["pixel_values"].flatten(0, 1)).unflatten(0, mask.shape)
    images = PostImages(states * mask[..., None, None, None], mask)
    context = {key: inputs[key] for key in model.smcl.context_inputs}
    related = model.smcl.relate_images(images, inputs["attention_mask"].bool(), input_ids=None, **context)
    return *model.smcl.expert_prompts(images, context), related


def test_weights_of_the_experts_sum_to_one_and_differ_by_layer():
    model, inputs = make_system("visualpt-moe"), make_inputs()
    weights = below(model, inputs).expert_weights
    assert weights.shape == (3, 2, 5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2))
    assert difference(weights[0, 0], weights[0, 1]) > 1e-3
    # The second post has no crops and one place each for its objects and its caption.
    assert (weights[:2, :, EXPERTS.index("crops")] == 0).all(dim=1).tolist() == [False, True]


def test_prompts_are_the_mixture_and_empty_places_are_masked():
    model, inputs = make_system("visualpt-moe"), make_inputs()
    prompts, mask, related = prompts_of(model, inputs)
    assert mask[0].sum(dim=1).tolist() == [4, 12, 8, 8, 16]
    assert mask[1].sum(dim=1).tolist() == [4, 0, 1, 1, 16]
    assert not mask[2].any() and (prompts[~mask] == 0).all()
    guidance = model.smcl.prompts(related, inputs["attention_mask"].bool())
    assert torch.equal(guidance.image_mask, mask.any(dim=1))
    for layer in range(2):
        joined = prompts[:, :, :, layer].sum(dim=(1, 3)).flatten(1)
        scores = model.smcl.gates[layer](joined).masked_fill(~mask.any(dim=2), -1e30)
        weights = scores.softmax(dim=-1)[:2]
        torch.testing.assert_close(related.weights[:2, layer], weights)
        for part, tensors in enumerate((guidance.keys, guidance.values)):
            mixed = sum(weights[:, e, None, None] * prompts[:2, e, :, layer, part] for e in range(5))
            torch.testing.assert_close(tensors[layer][:2].transpose(1, 2).flatten(2), mixed)


def test_one_expert_alone_gives_its_own_keys():
    model, inputs = make_system("visualpt-moe"), make_inputs()
    prompts, mask, _ = prompts_of(model, inputs)
    for expert in range(5):
        only = torch.zeros_like(mask)
        only[:2, expert] = mask[:2, expert]
        shown = prompts * only[..., None, None, None]
        weights = model.smcl.expert_weights(shown, only)
        for row in range(2):
            if mask[row, expert].any():
                assert torch.equal(weights[row], torch.eye(5)[expert].expand(2, 5))
                mixed = torch.einsum("le,eplcd->plcd", weights[row], shown[row])
                assert torch.equal(mixed, prompts[row, expert])


def test_what_an_absent_expert_reads_may_be_anything():
    model, inputs = make_system("visualpt-moe"), make_inputs()
    changed = dict(inputs)
    for kind in ("object", "caption"):
        changed[f"{kind}_ids"] = torch.where(inputs[f"{kind}_mask"], inputs[f"{kind}_ids"], 7)
        assert not torch.equal(changed[f"{kind}_ids"], inputs[f"{kind}_ids"])
    assert torch.equal(logits_of(model, changed), logits_of(model, inputs))
    # Without an image, there is nothing to say of one.
    told = {key: torch.ones_like(x) for key, x in inputs.items() if key.startswith(("object", "caption"))}
    assert torch.equal(logits_of(model, inputs, **told)[2], logits_of(model, inputs)[2])
    bare = {key: x for key, x in inputs.items() if key not in told and key not in ("pixel_values", "image_mask")}
    assert difference(logits_of(model, bare)[2], logits_of(model, inputs)[2]) < 1e-5


@pytest.mark.parametrize("kind", ["object", "caption"])
def test_names_and_captions_matter_and_train_no_word_embeddings(kind):
    model, inputs = make_system("visualpt-moe"), make_inputs(labels=True)
    other = {f"{kind}_ids": inputs[f"{kind}_ids"].flip(1)}
    assert difference(logits_of(model, inputs, **other)[0], logits_of(model, inputs)[0]) > 1e-4
    used = set(inputs["input_ids"].flatten().tolist())
    free = next(i for i in range(5, 100) if i not in used)
    inputs |= {"object_ids": torch.full((3, 16), free), "caption_ids": torch.full((3, 16), free)}
    model(**inputs).loss.backward()
    assert model.get_input_embeddings().weight.grad[free].abs().max() == 0


def test_balance_loss_falls_when_use_is_spread_over_the_experts():
    inputs = make_inputs(labels=True)
    model = make_system("visualpt-moe", balance_weight=2.0)
    outputs = model(**inputs)
    weights = below(model, inputs).expert_weights[:2]
    torch.testing.assert_close(outputs.balance_loss, weights.amax(dim=-1).sum(dim=1).mean())
    torch.testing.assert_close(outputs.loss, outputs.task_loss + 2 * outputs.balance_loss)
    with torch.no_grad():
        for gate in model.smcl.gates:
            gate.weight.zero_()
            gate.bias.zero_()
    spread = model(**inputs).balance_loss
    assert spread < outputs.balance_loss
    # All five experts of the first post, four of the second, in each of two layers.
    torch.testing.assert_close(spread, torch.tensor(2 * (1 / 5 + 1 / 4) / 2))
    without = {key: x for key, x in inputs.items() if key not in ("pixel_values", "image_mask")}
    assert model(**without).balance_loss == 0


def test_noise_is_drawn_while_training_alone():
    model, inputs = make_system("visualpt-moe", dropout=0.0), make_inputs()
    assert torch.equal(logits_of(model, inputs), logits_of(model, inputs))
    prompts, mask, _ = prompts_of(model, inputs)
    model.train()
    drawn = [model.smcl.expert_weights(prompts[:1], mask[:1]) for _ in range(400)]
    torch.manual_seed(0)
    first = model.smcl.expert_weights(prompts, mask)
    torch.manual_seed(0)
    assert torch.equal(model.smcl.expert_weights(prompts, mask), first)
    # Differences of log-weights have the noise of two scores.
    logs = torch.stack(drawn)[:, 0, 0].log()
    assert (logs[:, 0] - logs[:, 4]).std().item() == pytest.approx(2**0.5 / 16, rel=0.15)


def test_tags_are_independent():
    model, inputs = make_system("visualpt-moe"), make_inputs()
    logits = logits_of(model, inputs)
    best = logits.argmax(dim=-1).masked_fill(~inputs["word_mask"], -100)
    assert torch.equal(model.decode(logits, inputs["word_mask"]), best)
    assert not any(name.startswith("crf.") for name, _ in model.named_parameters())


def test_slots_hold_the_image_and_its_best_regions(image_processor, tokenizer):
    processor = VisualPTMoEProcessor(image_processor, tokenizer)
    image, context = (
        noise((40, 20), spread=90).convert("RGB"),
        make_context(VisualPTMoEProcessor.context_columns, [1, 0]),
    )
    batch = processor(words=[["joey"], ["niko"]], images=[[image], []], context=context)
    assert batch["image_mask"].tolist() == [[True, True, True], [False] * 3]
    whole = image_processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(batch["pixel_values"][0, 0], whole)
    assert set(batch) == set(processor.model_input_names)
    for kind, text in (("object", "traffic light dog"), ("caption", "a dog and the light")):
        ids = batch[f"{kind}_ids"][0][batch[f"{kind}_mask"][0]]
        assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"][:16]
        assert not batch[f"{kind}_mask"][1].any() and batch[f"{kind}_ids"].shape == (2, 16)


@pytest.mark.parametrize(("name", "value"), [("balance_weight", -1), ("prompt_size", 0), ("max_images", 3)])
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(StrictDataclassError, match=f"`{name}` must"):
        VisualPTMoEConfig(**{name: value})

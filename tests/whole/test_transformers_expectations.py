"""What users of transformers expect of any model, in the spirit of that library's own common tests."""

import json
from pathlib import Path

import pytest
import torch
from factories import LABELS, PIXELS, TEXT_SIZE, VISION_SIZE, make_config, make_inputs, make_model
from safetensors import safe_open
from systems import make_system, system_inputs
from transformers import (
    BertConfig,
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    ElectraConfig,
    EuroBertConfig,
    ModernBertConfig,
    RobertaConfig,
    SiglipVisionConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    XLMRobertaConfig,
)

from smcl import MultiImageNERPipeline, SMCLConfig, SMCLForTokenClassification, SMCLModel, modeling_smcl
from smcl.baselines import SYSTEMS
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.trainer import SMCLTrainer

# The name that all supported releases of transformers have.
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")


def gradients(model, inputs):
    """The gradients of the loss, with the same dropout each time."""
    model.zero_grad()
    torch.manual_seed(0)
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_tensors(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def saved_names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


# Outputs


@pytest.mark.parametrize("cls", [SMCLModel, SMCLForTokenClassification])
def test_attentions_and_hidden_states_come_by_argument_and_by_configuration(cls):
    inputs = make_inputs()
    if cls is SMCLModel:
        del inputs["word_mask"]
    by_argument = cls(make_config()).eval()
    by_configuration = cls(make_config(output_attentions=True, output_hidden_states=True)).eval()
    by_configuration.load_state_dict(by_argument.state_dict())
    plain = by_argument(**inputs)
    assert plain.attentions is None and plain.hidden_states is None and plain.fusion_attentions is None
    first = by_argument(**inputs, output_attentions=True, output_hidden_states=True)
    second = by_configuration(**inputs)
    assert [tuple(weights.shape) for weights in first.attentions] == [(3, 4, 9, 3 + 9)] * 2
    assert [tuple(states.shape) for states in first.hidden_states] == [(3, 9, 32)] * 3
    assert list(first) == list(second)
    assert all(map(torch.equal, first.attentions + first.hidden_states, second.attentions + second.hidden_states))


def test_attentions_and_hidden_states_keep_their_gradients():
    outputs = make_model()(**make_inputs(), output_attentions=True, output_hidden_states=True)
    tensors = [*outputs.hidden_states, *outputs.attentions]
    for tensor in tensors:
        tensor.retain_grad()
    outputs.logits.sum().backward()
    assert all(tensor.grad is not None for tensor in tensors)


@pytest.mark.parametrize("how", ["argument", "configuration"])
def test_tuples_equal_named_outputs(how):
    model, inputs = make_model(), make_inputs(labels=True)
    named = model(**inputs, output_attentions=True, output_hidden_states=True)
    model.config.return_dict = how == "argument"
    arguments = {"return_dict": False} if how == "argument" else {}
    values = model(**inputs, output_attentions=True, output_hidden_states=True, **arguments)
    assert isinstance(values, tuple) and len(values) == len(named.to_tuple())
    torch.testing.assert_close(values, named.to_tuple(), atol=0, rtol=0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_configurations_that_ask_for_tuples_change_no_score(name):
    model, inputs = make_system(name), system_inputs(name)
    expected = model(**inputs).logits
    for config in (model.config, *(getattr(model.config, part) for part in model.config.sub_configs)):
        config.return_dict = False
    again = type(model)(model.config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(**inputs)[0], expected) and torch.equal(again(**inputs)[0], expected)


def test_models_that_give_tuples_are_trained_scored_and_asked_as_others(tmp_path, processor, photo):
    found = []
    for return_dict in (True, False):
        model = make_model(return_dict=return_dict)
        pipe, post = MultiImageNERPipeline(model, processor), {"text": "joey and niko", "images": [photo]}
        entities, explained = pipe(post), [entity.score_without_images for entity in pipe.explain(post).entities]
        trainer = make_trainer(model, tmp_path / str(return_dict), load_best_model_at_end=False)
        found.append((entities, explained, trainer.train().training_loss, trainer.evaluate()["eval_loss"]))
    assert found[0] == found[1] and found[0][0]


def test_word_embeddings_stand_in_for_input_ids():
    model, inputs = make_model(), make_inputs()
    logits = model(**inputs).logits
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(model(**inputs, inputs_embeds=embeds).logits, logits)


def test_chunked_feed_forward_changes_nothing():
    model, inputs = make_model(), make_inputs()
    text = BertConfig(vocab_size=100, max_position_embeddings=64, chunk_size_feed_forward=1, **TEXT_SIZE)
    chunked = make_model(text_config=text)
    torch.testing.assert_close(chunked(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("switches", [{}, {"use_fusion": False}], ids=str)
def test_masks_are_by_default_true_everywhere(switches):
    model = make_model(**switches)
    inputs = make_inputs(image_counts=(2, 2, 2), lengths=(8, 8, 8), labels=True)
    expected = model(**inputs)
    del inputs["attention_mask"], inputs["image_mask"]
    actual = model(**inputs)
    assert list(actual) == list(expected)
    torch.testing.assert_close(actual.to_tuple(), expected.to_tuple(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_heads_that_share_their_keys_equal_heads_with_equal_keys(implementation):
    def model(num_key_value_heads):
        text = EuroBertConfig(num_key_value_heads=num_key_value_heads, **TEXT | SPECIAL)
        return make_model(text_config=text)

    shared, separate = model(2), model(4)
    state = shared.state_dict()
    for name in [name for name in state if "text_model" in name and ("k_proj" in name or "v_proj" in name)]:
        # shape: (num_key_value_heads, head_size, hidden_size)
        state[name] = state[name].unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    separate.load_state_dict(state)
    logits = []
    for each in (shared, separate):
        each.set_attn_implementation({"text_config": implementation})
        logits.append(each(**make_inputs()).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


# Attention implementations


def test_attention_implementations_give_the_same_outputs(tmp_path):
    make_model().save_pretrained(tmp_path)
    inputs, logits = make_inputs(), []
    for implementation in ("eager", "sdpa", {"vision_config": "eager"}, {"text_config": "eager"}):
        model = SMCLForTokenClassification.from_pretrained(tmp_path, attn_implementation=implementation)
        for name, part in (("text_config", model.smcl.text_model), ("vision_config", model.smcl.vision_model)):
            expected = implementation if isinstance(implementation, str) else implementation.get(name, "sdpa")
            assert part.config._attn_implementation == expected
            assert part.config is getattr(model.config, name)
        logits.append(model(**inputs).logits)
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-5, rtol=1e-5)


def test_attention_implementation_that_does_not_exist_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match="foo"):
        model.set_attn_implementation("foo")


# Gradient checkpointing and compilation


@pytest.mark.parametrize("settings", [None, {"use_reentrant": False}, {"use_reentrant": True}])
@pytest.mark.parametrize("switches", [{}, {"use_image_guidance": False}], ids=["guided", "not guided"])
def test_gradient_checkpointing_gives_the_same_gradients(settings, switches):
    model, inputs = make_model(**switches).train(), make_inputs(labels=True)
    expected = gradients(model, inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    calls = []
    layer = model.smcl.text_model.encoder.layer[0]
    layer.attention.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradients(model, inputs), expected)
    assert len(calls) == 2, "each layer runs again in the backward pass"
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_reentrant_checkpointing_which_would_lose_guidance_is_replaced_with_a_warning(monkeypatch):
    messages = []
    monkeypatch.setattr(modeling_smcl.logger, "warning_once", messages.append)
    make_model(use_image_guidance=False).gradient_checkpointing_enable({"use_reentrant": True})
    assert not messages
    make_model().gradient_checkpointing_enable({"use_reentrant": True})
    assert "Setting `use_reentrant=False`" in messages[0]


def test_checkpointing_with_a_frozen_word_embedding_still_gives_gradients():
    model, inputs = make_model().train(), make_inputs(labels=True)
    model.get_input_embeddings().weight.requires_grad_(False)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model(**inputs).loss.backward()
    assert all(p.grad is not None for p in model.smcl.text_model.encoder.parameters())


def test_compiled_model_gives_the_same_logits_and_gradients():
    model, inputs = make_model(), make_inputs(image_counts=(2, 0), lengths=(6, 5), labels=True)
    expected = gradients(model, inputs)
    model.zero_grad()
    # The default backend gives the same, but takes a minute to compile.
    outputs = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    outputs.loss.backward()
    torch.testing.assert_close(outputs.logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


# Loading and saving


def test_weights_are_saved_as_safetensors_without_shared_tensors(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pkl")] == [
        "model.safetensors"
    ]
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state) == len(saved_names(tmp_path))


def test_renamed_keys_of_the_image_encoder_are_all_restored(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    # ViT saves under the names of its first release: a plain load_state_dict would miss them.
    assert saved_names(tmp_path) != set(model.state_dict())
    loaded, info = SMCLForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_tensors(loaded.state_dict(), model.state_dict())
    from_memory = SMCLForTokenClassification.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert_same_tensors(from_memory.state_dict(), model.state_dict())


def test_model_without_and_with_head_load_each_others_checkpoints(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "head")
    body, info = SMCLModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not info["missing_keys"]
    assert_same_tensors(body.state_dict(), model.smcl.state_dict())
    body.save_pretrained(tmp_path / "body")
    again, info = SMCLForTokenClassification.from_pretrained(tmp_path / "body", output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier", "crf"}
    assert_same_tensors(again.smcl.state_dict(), body.state_dict())


def test_other_labels_load_only_when_mismatched_shapes_are_allowed(tmp_path):
    make_model().save_pretrained(tmp_path)
    labels = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}, "label2id": {"O": 0, "B-PER": 1, "I-PER": 2}}
    with pytest.raises(RuntimeError, match="mismatch"):
        SMCLForTokenClassification.from_pretrained(tmp_path, **labels)
    model = SMCLForTokenClassification.from_pretrained(tmp_path, **labels, ignore_mismatched_sizes=True)
    inputs = make_inputs()
    logits = model(**inputs).logits
    assert logits.shape[-1] == 3 and torch.isfinite(logits).all()
    assert model.decode(logits, inputs["word_mask"]).max() < 3
    assert model.crf.transitions.abs().max() <= 0.1


@pytest.mark.parametrize("switches", [{}, {"use_fusion": False}], ids=str)
def test_every_weight_and_buffer_is_initialised_from_the_meta_device(switches):
    config = make_config(**switches)
    with torch.device("meta"):
        model = SMCLForTokenClassification(config)
    model.to_empty(device="cpu")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
    model.init_weights()
    assert [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()] == []
    usual = SMCLForTokenClassification(config)
    assert_same_tensors(dict(model.named_buffers()), dict(usual.named_buffers()))
    for name, parameter in usual.named_parameters():
        # Of few numbers drawn at random, the spread says little.
        found, expected = tensors[name].std(correction=0).item(), parameter.std(correction=0).item()
        assert found == pytest.approx(expected, rel=0.2 if parameter.numel() > 500 else 0.9), name


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map_loads_the_same_model(device_map, tmp_path):
    model, inputs = make_model(), make_inputs()
    model.save_pretrained(tmp_path, max_shard_size="50kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = SMCLForTokenClassification.from_pretrained(tmp_path, device_map=device_map)
    inputs = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
    torch.testing.assert_close(loaded(**inputs).logits.cpu(), model(**make_inputs()).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("switches", [{}, {"use_fusion": False}], ids=str)
def test_half_precision_runs_and_computes_the_loss_in_float32(dtype, switches, tmp_path):
    model, inputs = make_model(**switches), make_inputs(labels=True)
    model.save_pretrained(tmp_path)
    half = SMCLForTokenClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    outputs = half(**inputs | {"pixel_values": inputs["pixel_values"].to(dtype)}, output_attentions=True)
    assert outputs.logits.dtype == dtype and outputs.loss.dtype == torch.float32
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in half.parameters())
    tags = half.decode(outputs.logits, inputs["word_mask"])
    assert ((tags >= 0) == inputs["word_mask"]).all()
    sums = half.marginals(outputs.logits, inputs["word_mask"]).sum(dim=-1)
    torch.testing.assert_close(sums, inputs["word_mask"].float(), atol=1e-4, rtol=0)


# Embeddings


def test_word_embeddings_can_be_resized(tmp_path):
    model, inputs = make_model(), make_inputs()
    logits, before = model(**inputs).logits, model.get_input_embeddings().weight.clone()
    model.resize_token_embeddings(110)
    assert model.config.text_config.vocab_size == 110
    assert torch.equal(model.get_input_embeddings().weight[:100], before)
    assert torch.equal(model(**inputs).logits, logits)
    inputs["input_ids"][0, 1] = 109
    model.save_pretrained(tmp_path)
    loaded = SMCLForTokenClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_word_embeddings_can_be_replaced():
    model = make_model()
    embeddings = torch.nn.Embedding(100, TEXT_SIZE["hidden_size"])
    model.set_input_embeddings(embeddings)
    assert model.get_input_embeddings() is model.smcl.text_model.get_input_embeddings() is embeddings


# Configuration


def test_configuration_comes_back_from_dict_and_file(tmp_path):
    config = make_config(max_images=3, guidance_filter="score", dropout=0, constrain_bio=False)
    assert SMCLConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    config.to_json_file(tmp_path / "config.json")
    assert SMCLConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    config.save_pretrained(tmp_path / "saved")
    loaded = SMCLConfig.from_pretrained(tmp_path / "saved")
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.text_config, BertConfig) and isinstance(loaded.vision_config, ViTConfig)
    assert loaded.id2label == dict(enumerate(LABELS)) and loaded.num_labels == len(LABELS)


def test_a_parts_configuration_is_found_in_the_whole_one(tmp_path):
    config = make_config()
    config.save_pretrained(tmp_path)
    assert BertConfig.from_pretrained(tmp_path).hidden_size == config.text_config.hidden_size
    assert ViTConfig.from_pretrained(tmp_path).hidden_size == config.vision_config.hidden_size
    assert config.get_text_config() is config.text_config


def test_configuration_can_be_overridden_on_loading(tmp_path):
    make_config().save_pretrained(tmp_path)
    config = SMCLConfig.from_pretrained(tmp_path, max_images=2, text_config={"hidden_dropout_prob": 0.5})
    assert config.max_images == 2 and config.text_config.hidden_dropout_prob == 0.5
    assert config.text_config.hidden_size == TEXT_SIZE["hidden_size"]
    with pytest.raises(OSError):
        SMCLConfig.from_pretrained(str(tmp_path / "nowhere"))


def test_number_of_labels_makes_and_changes_the_label_lists():
    config = SMCLConfig(num_labels=5)
    assert len(config.id2label) == len(config.label2id) == 5
    config.num_labels = 3
    assert len(config.id2label) == len(config.label2id) == 3


def test_saved_configuration_names_no_attention_implementation(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    text = json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert "smcl_guided" not in text and "attn_implementation" not in text


# Processor


def test_processor_takes_arguments_flat_and_by_modality(processor, photo):
    flat = processor(text=["joey and niko"], images=[[photo]], padding="max_length", max_length=20, do_normalize=False)
    nested = processor(
        text=["joey and niko"],
        images=[[photo]],
        text_kwargs={"padding": "max_length", "max_length": 20},
        images_kwargs={"do_normalize": False},
        common_kwargs={"return_tensors": "pt"},
    )
    assert_same_tensors(dict(flat), dict(nested))
    assert flat["input_ids"].shape == (1, 20) and flat["pixel_values"].min() >= 0
    with pytest.raises(ValueError, match="padding was passed two times"):
        processor(text=["joey"], padding=True, text_kwargs={"padding": False})
    with pytest.raises(TypeError, match=r"\['image', 'on_extra'\]"):
        processor(text=["joey"], image=[[photo]], on_extra="first")


def test_processor_takes_an_image_for_a_list_of_one(processor, photo):
    expected = processor(text=["joey", "niko"], images=[[photo], [photo]])
    assert_same_tensors(dict(processor(text=["joey", "niko"], images=[photo, photo])), dict(expected))
    alone = processor(text="joey", images=photo)
    assert torch.equal(alone["pixel_values"][0], expected["pixel_values"][0])


def test_saving_leaves_the_processor_as_it_was(processor, tmp_path):
    processor.save_pretrained(tmp_path / "first")
    loaded = type(processor).from_pretrained(tmp_path / "first")
    before = loaded.to_dict()
    loaded.save_pretrained(tmp_path / "second")
    assert loaded.to_dict() == before == type(processor).from_pretrained(tmp_path / "second").to_dict()
    assert "auto_map" in json.loads((tmp_path / "second" / "processor_config.json").read_text())


# Training


@pytest.mark.parametrize("switches", [{}, {"use_fusion": False}], ids=str)
def test_a_tiny_batch_is_learnt_by_heart(switches):
    torch.manual_seed(0)
    # Random tags break BIO2, which decoding would repair.
    model = SMCLForTokenClassification(make_config(constrain_bio=False, **switches)).train()
    inputs = make_inputs(labels=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = model(**inputs).task_loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert torch.equal(model.decode(model.eval()(**inputs).logits, inputs["word_mask"]), inputs["labels"])


SPECIAL = dict.fromkeys(("bos_token_id", "cls_token_id"), 1) | dict.fromkeys(("eos_token_id", "sep_token_id"), 2)
TEXT = {"vocab_size": 100, "pad_token_id": 0, "max_position_embeddings": 64, **TEXT_SIZE}
VISION = PIXELS | VISION_SIZE
ENCODERS = {
    "bert + siglip": (BertConfig(**TEXT), SiglipVisionConfig(**VISION)),
    "roberta + vit": (RobertaConfig(**TEXT), ViTConfig(**VISION)),
    "xlm-roberta + deit": (XLMRobertaConfig(**TEXT), DeiTConfig(**VISION)),
    "electra + dinov2": (ElectraConfig(embedding_size=16, **TEXT), Dinov2Config(mlp_ratio=2, **VISION)),
    "modernbert + clip": (ModernBertConfig(**TEXT | SPECIAL), CLIPVisionConfig(**VISION)),
}


class RecordWeights(TrainerCallback):
    def __init__(self):
        self.states = []

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})


def stack(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def make_trainer(model, folder, **arguments):
    inputs = make_inputs(image_counts=(3, 1, 0, 2), lengths=(9, 6, 8, 7), labels=True)
    posts = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(4)]
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        # The first epoch is the best one when a higher loss counts as better and training lowers it.
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    arguments = SMCLTrainingArguments(**(settings | arguments))
    return SMCLTrainer(model=model, args=arguments, data_collator=stack, train_dataset=posts, eval_dataset=posts)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_train_and_every_tensor_comes_back(name, tmp_path):
    text, vision = ENCODERS[name]
    config = make_config(text_config=text, vision_config=vision)
    torch.manual_seed(0)
    record, model = RecordWeights(), SMCLForTokenClassification(config)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(model, tmp_path)
    trainer.add_callback(record)
    trainer.train()
    moved = [n for n, _ in model.named_parameters() if not torch.equal(record.states[0][n], start[n])]
    unmoved = {n for n, _ in model.named_parameters()} - set(moved)
    assert all("token_type" in n or "mask_token" in n for n in unmoved), unmoved
    # The best checkpoint.
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2"), trainer.state.log_history
    assert_same_tensors(model.state_dict(), record.states[0])
    # A saved model.
    model.save_pretrained(tmp_path / "saved")
    loaded = SMCLForTokenClassification.from_pretrained(tmp_path / "saved")
    assert_same_tensors(loaded.state_dict(), model.state_dict())
    # A resumed run.
    torch.manual_seed(1)
    resumed = SMCLForTokenClassification(config)
    trainer = make_trainer(resumed, tmp_path, load_best_model_at_end=False)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_tensors(resumed.state_dict(), record.states[-1])


def test_the_number_of_labels_that_are_there_leaves_their_names(tmp_path):
    make_model().save_pretrained(tmp_path)
    loaded = SMCLForTokenClassification.from_pretrained(tmp_path, num_labels=len(LABELS))
    assert loaded.config.id2label == dict(enumerate(LABELS)) and not loaded.crf.legal_transitions.all()
    other = SMCLForTokenClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert other.config.num_labels == 3 and other.config.id2label[0] == "LABEL_0"


def test_a_configuration_made_of_a_models_parts_leaves_the_model_as_it_is():
    model, inputs = make_model(), make_inputs()
    expected = model(**inputs).logits
    SMCLConfig(text_config=model.config.text_config, vision_config=model.config.vision_config)
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("name", SYSTEMS)
def test_predictions_of_the_plain_trainer_are_the_logits(name, tmp_path):
    model, inputs = make_system(name), system_inputs(name, labels=True)
    rows = [{key: value[row] for key, value in inputs.items()} for row in range(len(inputs["input_ids"]))]
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, remove_unused_columns=False, report_to="none")
    predicted = Trainer(model, arguments).predict(rows).predictions
    assert predicted.shape == (*inputs["input_ids"].shape, len(LABELS))


def test_tags_of_a_model_whose_weights_are_elsewhere_are_refused(tmp_path):
    model, inputs = make_model(), make_inputs()
    model.crf.to("meta")
    with pytest.raises(ValueError, match="Load the model without `device_map`"):
        model.decode(torch.zeros(3, 9, len(LABELS)), inputs["word_mask"])

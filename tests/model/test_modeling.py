import pytest
import torch
from factories import LABELS, PIXELS, TEXT_SIZE, VISION_SIZE, make_config, make_inputs, make_model
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounter
from transformers import (
    AutoModel,
    AutoModelForTokenClassification,
    BertConfig,
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    RobertaConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)

from smcl import SMCLConfig, SMCLForTokenClassification, SMCLModel
from smcl.losses_smcl import real_image_indices

SWITCHES = [
    {},
    {"use_image_guidance": False},
    {"use_fusion": False},
    {"use_alignment": False},
    {"use_refinement": False},
    {"use_alignment": False, "use_refinement": False},
    {"guidance_filter": "probability"},
    {"guidance_filter": "score"},
    {"as_printed": True},
    {"as_printed": ["head", "difference"]},
    {"num_image_layers": 2, "num_fusion_layers": 2, "cmd_order": 5, "contrastive_weight": 0.1},
]


def by_switch(parameters):
    return pytest.mark.parametrize("switches", parameters, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()))


def select(inputs, rows):
    return {name: tensor[rows] for name, tensor in inputs.items()}


def assert_same_logits(model, inputs, changed, rows=slice(None)):
    """Same logits at real tokens and same tags at words."""
    real = inputs["attention_mask"][rows].bool()
    num_tokens = real.shape[1]
    logits, new_logits = model(**inputs).logits, model(**changed).logits[:, :num_tokens]
    assert (logits[rows][real] - new_logits[rows][real]).abs().max() < 1e-5
    tags = model.decode(logits, inputs["word_mask"])
    new_tags = model.decode(new_logits, changed["word_mask"][:, :num_tokens])
    assert torch.equal(tags[rows], new_tags[rows])


@by_switch(SWITCHES)
def test_every_switch_trains_all_of_its_parameters(switches):
    model = make_model(**switches).train()
    outputs = model(**make_inputs(labels=True))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@by_switch(SWITCHES)
def test_saved_model_gives_the_same_logits_bit_for_bit(switches, tmp_path):
    model, inputs = make_model(**switches), make_inputs()
    model.save_pretrained(tmp_path)
    loaded, info = SMCLForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    logits = model(**inputs).logits
    assert torch.equal(logits, loaded(**inputs).logits)
    assert torch.equal(model.decode(logits, inputs["word_mask"]), loaded.decode(logits, inputs["word_mask"]))


@by_switch(SWITCHES)
def test_shuffling_a_batch_changes_no_prediction(switches):
    model, inputs = make_model(**switches), make_inputs()
    order = torch.tensor([2, 0, 1])
    logits, shuffled = model(**inputs).logits, model(**select(inputs, order)).logits
    real = inputs["attention_mask"].bool()
    assert (logits[order] - shuffled)[real[order]].abs().max() < 1e-5


@by_switch(SWITCHES)
def test_a_post_alone_has_the_logits_it_has_in_a_batch(switches):
    model, inputs = make_model(**switches), make_inputs()
    logits = model(**inputs).logits
    for row, (num_images, length) in enumerate(zip((3, 1, 0), (9, 6, 8), strict=True)):
        alone = {name: x[row : row + 1, :length] for name, x in inputs.items() if x.dim() == 2 and name != "image_mask"}
        if num_images:
            alone["pixel_values"] = inputs["pixel_values"][row : row + 1, :num_images]
        assert (model(**alone).logits[0] - logits[row, :length]).abs().max() < 1e-5


@by_switch(SWITCHES)
def test_padded_text_does_not_change_logits(switches):
    model, inputs = make_model(**switches), make_inputs()
    padded = dict(inputs)
    padded["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (0, 5), value=77)
    for name in ("attention_mask", "word_mask"):
        padded[name] = torch.nn.functional.pad(inputs[name], (0, 5))
    assert_same_logits(model, inputs, padded)


@by_switch(SWITCHES)
def test_padded_images_do_not_change_logits(switches):
    model, inputs = make_model(**switches), make_inputs()
    padded = dict(inputs)
    extra = torch.full((3, 1, 3, 16, 16), float("nan"))
    padded["pixel_values"] = torch.cat([inputs["pixel_values"], extra], dim=1)
    padded["pixel_values"][~torch.nn.functional.pad(inputs["image_mask"], (0, 1))] = float("nan")
    padded["image_mask"] = torch.nn.functional.pad(inputs["image_mask"], (0, 1))
    assert_same_logits(model, inputs, padded)


@by_switch(SWITCHES)
def test_other_posts_images_do_not_change_logits(switches):
    model, inputs = make_model(**switches), make_inputs()
    changed = dict(inputs, pixel_values=inputs["pixel_values"].clone())
    changed["pixel_values"][0] = torch.randn(3, 3, 16, 16)
    assert_same_logits(model, inputs, changed, rows=slice(1, None))


@by_switch(SWITCHES)
def test_swapping_two_images_of_a_post_changes_its_logits(switches):
    if switches == {"use_image_guidance": False, "use_fusion": False}:
        return
    model, inputs = make_model(**switches), make_inputs()
    swapped = dict(inputs, pixel_values=inputs["pixel_values"][:, [1, 0, 2]])
    assert (model(**inputs).logits - model(**swapped).logits)[0].abs().max() > 1e-3


def test_image_embeds_stand_in_for_pixel_values():
    model, inputs = make_model(), make_inputs()
    logits = model(**inputs).logits
    pixel_values, image_mask = inputs.pop("pixel_values"), inputs["image_mask"]
    image_embeds = torch.full((*image_mask.shape, VISION_SIZE["hidden_size"]), float("nan"))
    image_embeds[image_mask] = model.smcl.encode_images(pixel_values[image_mask])
    assert torch.equal(model(**inputs, image_embeds=image_embeds).logits, logits)


def test_inference_encodes_many_images_in_groups_and_training_all_at_once(monkeypatch):
    model, inputs = make_model(), make_inputs(image_counts=(4, 4, 3), lengths=(9, 6, 8))
    encode, sizes = model.smcl.encode_images, []
    monkeypatch.setattr(model.smcl, "encode_images", lambda images: sizes.append(len(images)) or encode(images))
    at_once = model(**inputs).logits
    with torch.no_grad():
        in_groups = model(**inputs).logits
    assert sizes == [11, 8, 3]
    torch.testing.assert_close(in_groups, at_once, atol=1e-5, rtol=1e-5)


def test_image_vector_is_the_cls_token_after_the_final_norm():
    model, inputs = make_model(), make_inputs()
    vision = model.smcl.vision_model
    states = vision(inputs["pixel_values"][:, 0]).last_hidden_state[:, 0]
    assert torch.equal(model.smcl.encode_images(inputs["pixel_values"][:, 0]), states)
    torch.testing.assert_close(states.mean(dim=-1), torch.zeros(3), atol=1e-5, rtol=0)


def test_positions_are_drawn_with_unit_variance():
    positions = make_config(max_images=400).max_images
    torch.manual_seed(0)
    model = SMCLModel(make_config(max_images=positions))
    assert model.image_relations.position_embeddings.std().item() == pytest.approx(1, abs=0.05)


def test_fusion_attends_to_nothing_where_a_post_has_no_image():
    model, inputs = make_model(), make_inputs()
    over_tokens, over_images = model(**inputs, output_attentions=True).fusion_attentions
    assert over_tokens.shape == (3, 3, 9) and over_images.shape == (3, 9, 3)
    assert (over_images[2] == 0).all()
    torch.testing.assert_close(over_images[1, :, 0], torch.ones(9))
    assert (over_tokens[1, :, 6:] == 0).all()


def test_loss_is_the_weighted_sum_of_its_parts():
    weights = {"similarity_weight": 0.5, "difference_weight": 0.7, "contrastive_weight": 0.9}
    outputs = make_model(**weights)(**make_inputs(labels=True))
    parts = outputs.similarity_loss, outputs.difference_loss, outputs.contrastive_loss
    assert all(part > 0 for part in parts)
    expected = outputs.task_loss + sum(w * part for w, part in zip(weights.values(), parts, strict=True))
    torch.testing.assert_close(outputs.loss, expected)


def test_losses_that_compare_modalities_are_zero_without_images():
    model, inputs = make_model(), make_inputs(image_counts=(0, 0, 0), labels=True)
    outputs = model(**inputs)
    assert outputs.similarity_loss == 0
    empty_slots = {"pixel_values": torch.zeros(3, 1, 3, 16, 16), "image_mask": torch.zeros(3, 1, dtype=torch.bool)}
    masked = model(**inputs, **empty_slots)
    assert masked.similarity_loss == 0
    torch.testing.assert_close(masked.loss, outputs.loss)


def test_task_loss_ignores_words_without_a_label():
    model, inputs = make_model(), make_inputs(labels=True)
    loss = model(**inputs).task_loss
    inputs["labels"][0, 1] = -100
    assert model(**inputs).task_loss != loss


@by_switch([s for s in SWITCHES if any(value is False for value in s.values())])
def test_a_part_that_is_switched_off_has_no_parameters(switches):
    names = {name.split(".")[1] for name, _ in make_model(**switches).named_parameters() if name.startswith("smcl.")}
    count = sum(p.numel() for p in make_model(**switches).parameters())
    assert count < sum(p.numel() for p in make_model().parameters())
    assert ("image_guidance" in names) == switches.get("use_image_guidance", True)
    encoders = {name for name, _ in make_model(**switches).smcl.encoders.named_children()}
    assert ("alignment" in encoders) == switches.get("use_alignment", True)
    assert ("refinement" in encoders) == switches.get("use_refinement", True)


VISION_CONFIGS = {
    "clip_vision_model": CLIPVisionConfig,
    "deit": DeiTConfig,
    "dinov2": Dinov2Config,
    "siglip_vision_model": SiglipVisionConfig,
}


@pytest.mark.parametrize("name", VISION_CONFIGS)
def test_vision_encoders_work_and_come_back_from_disk(name, tmp_path):
    size = VISION_SIZE | ({"mlp_ratio": 2} if name == "dinov2" else {})
    model, inputs = make_model(vision_config=VISION_CONFIGS[name](**PIXELS, **size)), make_inputs()
    model.save_pretrained(tmp_path)
    loaded = SMCLForTokenClassification.from_pretrained(tmp_path)
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


@pytest.mark.parametrize(
    "vision_config", [SwinConfig(), SiglipVisionConfig(vision_use_head=False)], ids=lambda c: c.model_type
)
def test_vision_encoders_without_one_vector_for_an_image_are_refused_by_name(vision_config):
    with pytest.raises(ValueError, match=f"{vision_config.model_type}.*clip_vision_model, deit, dinov2"):
        SMCLModel(make_config(vision_config=vision_config))


def test_from_text_vision_pretrained_takes_over_both_encoders(encoder_folders):
    text, vision = encoder_folders
    model = SMCLForTokenClassification.from_text_vision_pretrained(text, vision, id2label=dict(enumerate(LABELS)))
    for folder, part in ((text, model.smcl.text_model), (vision, model.smcl.vision_model)):
        loaded = AutoModel.from_pretrained(folder).state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in part.state_dict().items())
    assert not model.training
    assert model.config.label2id["I-MISC"] == 8


def test_auto_classes_load_a_saved_model(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    assert type(AutoModelForTokenClassification.from_pretrained(tmp_path)) is SMCLForTokenClassification
    assert type(AutoModel.from_pretrained(tmp_path)) is SMCLModel


def test_missing_parameters_are_initialised_and_not_memory(tmp_path):
    model = make_model()
    model.smcl.save_pretrained(tmp_path)
    loaded = SMCLForTokenClassification.from_pretrained(tmp_path, id2label=dict(enumerate(LABELS)))
    assert loaded.crf.transitions.abs().max() <= 0.1
    assert torch.equal(loaded.crf.legal_transitions, model.crf.legal_transitions)
    assert torch.equal(loaded.smcl.image_relations.position_embeddings, model.smcl.image_relations.position_embeddings)


def test_constrain_bio_can_be_set_on_loading(tmp_path):
    make_model().save_pretrained(tmp_path)
    assert SMCLForTokenClassification.from_pretrained(tmp_path, constrain_bio=False).crf.legal_transitions.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(3, 5, 3, 16, 16)}, "at most `config.max_images` = 4 images.*got 5"),
        ({"image_mask": torch.ones(3, 2)}, "`image_mask` must have the shape.*\\(3, 3\\).*got \\(3, 2\\)"),
        ({"image_embeds": torch.zeros(3, 3, 24)}, "both `pixel_values` and `image_embeds`"),
        ({"input_ids": None}, "exactly one of `input_ids` and `inputs_embeds`"),
        ({"input_ids": torch.ones(9, dtype=torch.long)}, "`input_ids` must have the shape.*got \\(9,\\)"),
        ({"input_ids": torch.ones(3, 9)}, "`input_ids` must be whole numbers, got torch.float32"),
        ({"attention_mask": torch.ones(1, 9)}, "`attention_mask` must have the shape.*\\(3, 9\\), got \\(1, 9\\)"),
        ({"attention_mask": torch.full((3, 9), -1e9)}, "`attention_mask` must be 1 at real tokens.*below 0"),
        ({"image_mask": torch.full((3, 3), -1e9)}, "`image_mask` must be True or 1.*got others"),
        ({"labels": torch.zeros(1, 9, dtype=torch.long)}, "`labels` must be a tensor of.*\\(3, 9\\), got \\(1, 9\\)"),
        ({"labels": torch.zeros(3, 1, dtype=torch.long)}, "`labels` must be a tensor of.*\\(3, 9\\), got \\(3, 1\\)"),
        ({"labels": [[0] * 9] * 3}, "`labels` must be a tensor of.*got list"),
        ({"labels": torch.zeros(3, 9)}, "`labels` must be whole numbers of torch.int64, got torch.float32"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**(make_inputs() | change))


def test_tags_at_padding_count_as_no_words():
    model, inputs = make_model(), make_inputs()
    labels = torch.ones(3, 9, dtype=torch.long).masked_fill(inputs["attention_mask"] == 0, -100)
    padded = labels.masked_fill(labels == -100, 0)
    assert (padded != labels).any()
    assert torch.equal(model(**inputs | {"labels": padded}).loss, model(**inputs | {"labels": labels}).loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"word_mask": torch.ones(1, 9, dtype=torch.bool)},
            "`word_mask` must be a tensor of.*\\(3, 9\\), got \\(1, 9\\)",
        ),
        ({"word_mask": torch.full((3, 9), -100)}, "`word_mask` must be True or 1.*got others"),
        ({"logits": torch.zeros(3, 9, 5)}, "`logits` must be a tensor of.*num_tokens, 9\\).*got \\(3, 9, 5\\)"),
    ],
)
@pytest.mark.parametrize("method", ["decode", "marginals"])
def test_scores_and_words_that_do_not_fit_are_named(method, change, message):
    given = {"logits": torch.zeros(3, 9, 9), "word_mask": torch.ones(3, 9, dtype=torch.bool)}
    with pytest.raises(ValueError, match=message):
        getattr(make_model(), method)(**(given | change))


@pytest.mark.parametrize("number", [-1, 100])
def test_tokens_that_the_text_encoder_does_not_know_are_named(number):
    with pytest.raises(IndexError, match=f"`input_ids` must be from 0 to 99.*got {number}.*resize_token_embeddings"):
        make_model()(**(make_inputs() | {"input_ids": torch.full((3, 9), number)}))


@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig])
def test_posts_with_more_tokens_than_positions_are_refused(kind):
    text = kind(vocab_size=100, max_position_embeddings=20, **TEXT_SIZE)
    model, least = make_model(text_config=text), 20 if kind is BertConfig else 18
    model(**make_inputs(lengths=(least, 6, 8)))
    with pytest.raises(ValueError, match=f"have {least + 1} tokens, .* positions for {least}"):
        model(**make_inputs(lengths=(least + 1, 6, 8)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_images": 0}, "`max_images` must be at least 1, got 0"),
        ({"difference_weight": -1}, "`difference_weight` must not be negative"),
        ({"dropout": 1.0}, "`dropout` must lie in"),
        ({"contrastive_weight": 1, "use_alignment": False}, "`contrastive_weight` compares the shared vectors"),
        ({"guidance_filter": "all"}, "guidance_filter"),
        ({"as_printed": ["heads"]}, "`as_printed` must be True, False or a list of head, threshold, .*, got 'heads'"),
        ({"as_printed": True, "guidance_filter": "none"}, "`as_printed=True` can't go with `guidance_filter='none'`"),
        ({"as_printed": ["threshold"], "guidance_filter": "score"}, "can't go with `guidance_filter='score'`"),
        ({"as_printed": True, "contrastive_weight": 0.1}, "can't go with `contrastive_weight=0.1`"),
        ({"id2label": {0: "O", 2: "B-PER"}}, "`id2label` and `label2id` must be inverse"),
        ({"label2id": {"O": 1}}, "`id2label` and `label2id` must be inverse"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        SMCLConfig(**({"id2label": dict(enumerate(LABELS))} | fields))


def test_parts_as_printed_go_with_whatever_does_not_take_them_back():
    assert SMCLConfig(as_printed=["head"], guidance_filter="score", contrastive_weight=0.1).image_key_filter == "score"
    config = SMCLConfig(as_printed=True, guidance_filter="probability", use_image_guidance=False)
    assert config.prints("threshold") and not config.use_image_guidance


def test_a_list_of_labels_is_refused_with_the_way_to_a_dict():
    with pytest.raises(ValueError, match="`id2label` must be a dict, got .*enumerate"):
        SMCLConfig(id2label=LABELS)


def test_default_configuration_is_the_papers():
    config = SMCLConfig()
    assert (config.text_config.model_type, config.vision_config.model_type) == ("bert", "vit")
    assert (config.max_images, config.cmd_order) == (4, 3)
    assert (config.similarity_weight, config.difference_weight, config.contrastive_weight) == (0.3, 0.2, 0)


@pytest.mark.parametrize("image_indices", [None, torch.tensor([0, 1, 2, 3])])
def test_forward_compiles_without_graph_breaks(image_indices):
    model, inputs = make_model(), make_inputs() | {"image_indices": image_indices}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_forward_is_not_compiled_anew_for_each_number_of_tokens_and_images():
    sizes = {"num_hidden_layers": 1}
    text = BertConfig(vocab_size=100, max_position_embeddings=64, **(TEXT_SIZE | sizes))
    model = make_model(text_config=text, vision_config=ViTConfig(**PIXELS, **(VISION_SIZE | sizes)))
    counter = CompileCounter()
    compiled, counts = torch.compile(model, backend=counter), []
    for num_tokens, image_counts in ((9, (3, 1, 0)), (11, (3, 2, 2)), (14, (3, 3, 1)), (17, (3, 0, 1))):
        inputs = make_inputs(image_counts=image_counts, lengths=(num_tokens, 6, 8))
        inputs["image_indices"] = real_image_indices(inputs["image_mask"])
        compiled(**inputs)
        counts.append(counter.frame_count)
    assert counts[1] == counts[3]


BIO = {0: "O", 1: "B-X", 2: "I-X"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"id2label": BIO},
        {"id2label": {str(number): label for number, label in BIO.items()}},
        {"label2id": {label: number for number, label in BIO.items()}},
        {"id2label": BIO, "num_labels": 3},
    ],
)
def test_other_labels_on_loading_make_a_model_that_can_be_saved(folder, tmp_path, changes):
    model = SMCLForTokenClassification.from_pretrained(folder, ignore_mismatched_sizes=True, **changes)
    model.save_pretrained(tmp_path)
    config = SMCLConfig.from_pretrained(tmp_path)
    assert (config.id2label, config.label2id) == (BIO, {label: number for number, label in BIO.items()})
    assert model.crf.labels == list(BIO.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "`temperature` must be positive"),
        ({"similarity_weight": -1}, "`similarity_weight` must not be negative"),
        ({"id2label": {0: "O", 2: "B-X"}}, "number the labels 0, 1, 2"),
        ({"id2label": {0: 0, 1: 1}}, "`id2label` must map numbers to names, got the name 0"),
        ({"id2label": BIO, "num_labels": 4}, "`num_labels` is 4, but there are 3 labels"),
        ({"id2label": dict(enumerate(["O", "B-X", "I-X", "E-X", "S-X"]))}, r"\['E-X', 'S-X'\] among labels of BIO2"),
    ],
)
def test_wrong_changes_on_loading_are_refused(folder, changes, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        SMCLForTokenClassification.from_pretrained(folder, ignore_mismatched_sizes=True, **changes)
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        SMCLConfig.from_pretrained(folder, **changes)


def test_a_configuration_that_was_changed_is_checked_before_a_model_is_built():
    config = make_config()
    config.temperature = -1
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        SMCLForTokenClassification(config)


def test_a_part_may_be_changed_on_loading(folder):
    config = SMCLConfig.from_pretrained(folder, text_config={"hidden_dropout_prob": 0.3}, max_images=7)
    assert (config.text_config.hidden_dropout_prob, config.max_images) == (0.3, 7)
    assert config.text_config.hidden_size == make_config().text_config.hidden_size


def test_labels_may_be_given_either_way():
    assert SMCLConfig(label2id={"O": 0, "B-X": 1}).id2label == {0: "O", 1: "B-X"}


def test_a_checkpoint_is_loaded_under_the_names_that_it_is_saved_under(folder):
    saved = load_file(folder / "model.safetensors")
    model = make_model(seed=1)
    assert not saved.keys() <= model.state_dict().keys()
    result = model.load_state_dict(saved, strict=True)
    expected = SMCLForTokenClassification.from_pretrained(folder).state_dict()
    assert not result.missing_keys and all(torch.equal(x, expected[name]) for name, x in model.state_dict().items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict(saved | {"other": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [("pixel_values", (3, 3, 16, 16)), ("pixel_values", (2, 1, 3, 16, 16)), ("image_embeds", (3, 24))],
)
def test_images_of_another_shape_are_refused(name, shape):
    inputs = {key: x for key, x in make_inputs().items() if key not in ("pixel_values", "image_mask")}
    with pytest.raises(ValueError, match=f"`{name}` must have the shape .batch_size, num_images.*of 3 posts"):
        make_model()(**inputs, **{name: torch.zeros(shape)})


@pytest.mark.parametrize("name", ["as_printed", "guidance_filter", "use_fusion", "dropout", "max_images"])
def test_fields_that_a_model_was_built_with_are_not_changed_without_a_word(name):
    model = make_model()
    changed = {"as_printed": ["head"], "guidance_filter": "score", "use_fusion": False, "dropout": 0.5, "max_images": 6}
    setattr(model.config, name, changed[name])
    with pytest.raises(ValueError, match=f"`config.{name}` was changed from .* to .* after the model was built"):
        model(**make_inputs())


def test_tags_follow_labels_and_constraints_that_are_set_later(tmp_path):
    model, logits = make_model(id2label={i: f"LABEL_{i}" for i in range(9)}), 3 * torch.randn(3, 9, 9)
    words = make_inputs()["word_mask"]
    model.config.id2label, model.config.label2id = dict(enumerate(LABELS)), {x: i for i, x in enumerate(LABELS)}
    constrained = model.decode(logits, words)
    assert model.crf.types == ["PER", "LOC", "ORG", "MISC"]
    model.save_pretrained(tmp_path)
    assert torch.equal(SMCLForTokenClassification.from_pretrained(tmp_path).decode(logits, words), constrained)
    model.config.constrain_bio = False
    assert not torch.equal(model.decode(logits, words), constrained)
    model.config.id2label = {0: "O"}
    with pytest.raises(ValueError, match="`config.id2label` has 1 labels, but the model was built for 9"):
        model.decode(logits, words)

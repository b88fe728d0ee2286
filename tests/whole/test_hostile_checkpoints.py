import json
import shutil
from pathlib import Path

import pytest
import torch
from factories import LABELS, PIXELS, VISION_SIZE, make_config, make_inputs, make_model
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, ViTConfig

from smcl import SMCLForTokenClassification, SMCLProcessor

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy of a saved model and processor, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def cut(path, part):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder, part=None, **fields):
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(fields)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_whole_folder_loads(folder):
    model = SMCLForTokenClassification.from_pretrained(folder)
    assert torch.equal(model(**make_inputs()).logits, make_model()(**make_inputs()).logits)


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"no file named model\.safetensors.*found in directory"):
        SMCLForTokenClassification.from_pretrained(folder)


@pytest.mark.parametrize("part", [tenth / 10 for tenth in range(10)])
def test_weights_cut_at_any_tenth_do_not_load(folder, part):
    cut(folder / WEIGHTS, part)
    with pytest.raises(SafetensorError, match="Error while deserializing header"):
        SMCLForTokenClassification.from_pretrained(folder)


@pytest.mark.parametrize("part", [tenth / 10 for tenth in range(10)])
def test_a_configuration_cut_at_any_tenth_does_not_load(folder, part):
    cut(folder / "config.json", part)
    with pytest.raises(OSError, match=r"config\.json' is not a valid JSON file"):
        SMCLForTokenClassification.from_pretrained(folder)


def test_a_missing_configuration_does_not_make_a_model_of_defaults(folder):
    (folder / "config.json").unlink()
    with pytest.raises((OSError, RuntimeError)):
        SMCLForTokenClassification.from_pretrained(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("part", [0, 0.3, 0.6, 0.9])
def test_a_cut_file_of_the_processor_does_not_load(folder, name, part):
    cut(folder / name, part)
    with pytest.raises((OSError, ValueError)):
        SMCLProcessor.from_pretrained(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_missing_file_of_the_processor_does_not_load(folder, processor, name, padded):
    # A tokenizer that has padded writes its padding token to a second file.
    processor(words=[["a"], ["b", "c"]], padding=padded, max_length=3)
    processor.save_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises((OSError, ValueError)):
        SMCLProcessor.from_pretrained(folder)


def test_a_missing_tensor_is_reported_by_name(folder):
    change_weights(folder, lambda weights: weights.pop("classifier.weight"))
    _, info = SMCLForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight"}


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        (None, {"max_images": 2}),
        (None, {"id2label": {"0": "O"}, "label2id": {"O": 0}}),
        ("text_config", {"hidden_size": 64}),
        ("text_config", {"vocab_size": 50}),
        ("vision_config", {"patch_size": 4}),
        ("vision_config", {"image_size": 32}),
    ],
)
def test_weights_of_other_shapes_than_the_configuration_do_not_load(folder, part, fields):
    change_config(folder, part, **fields)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        SMCLForTokenClassification.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guidance_filter": "scroe"}, "guidance_filter"),
        ({"max_images": 0}, "`max_images` must be at least 1, got 0"),
        ({"max_images": "4"}, "max_images"),
        ({"dropout": 1.5}, r"`dropout` must lie in \[0, 1\), got 1.5"),
        ({"cmd_order": 0}, "`cmd_order` must be at least 1"),
        ({"similarity_weight": -1}, "`similarity_weight` must not be negative"),
        ({"difference_weight": float("nan")}, "`difference_weight` must not be negative and be finite, got nan"),
        ({"temperature": 0}, "`temperature` must be positive and finite, got 0"),
        ({"contrastive_weight": 1, "use_alignment": False}, "`contrastive_weight` compares"),
        ({"label2id": {"O": 3}}, "inverse to each other"),
        ({"id2label": {"0": "O", "2": "B-PER"}, "label2id": None}, "number the labels 0, 1, 2"),
    ],
)
def test_a_configuration_that_does_not_fit_together_does_not_load(folder, fields, message):
    change_config(folder, **fields)
    with pytest.raises(StrictDataclassError) as raised:
        SMCLForTokenClassification.from_pretrained(folder)
    assert raised.match(message) or raised.value.__cause__ is not None and message in str(raised.value.__cause__)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"text_config": BertConfig(hidden_size=32, num_attention_heads=5)}, "not a multiple of the number of att"),
        ({"text_config": ViTConfig(**PIXELS, **VISION_SIZE)}, "can't be guided by images"),
        ({"text_config": BertConfig(is_decoder=True)}, "`text_config` has `is_decoder=True`, which hides"),
        ({"vision_config": BertConfig()}, "gives no single vector for an image. Expected one of"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        SMCLForTokenClassification(make_config(**parts))


def test_more_images_than_the_model_has_places_for_are_refused(photo, processor):
    inputs = processor(words=["a"], images=[photo] * 3)
    with pytest.raises(ValueError, match="at most `config.max_images` = 2 images for each post, got 3"):
        make_model(max_images=2)(**inputs)


def test_the_processors_vocabulary_must_fit_the_model(processor):
    inputs = processor(words=["a"])
    inputs["input_ids"] = inputs["input_ids"] + 1000
    with pytest.raises(IndexError):
        make_model()(**inputs)


def test_a_model_of_other_labels_is_refused_by_the_command_line(folder):
    from smcl.train.arguments import ModelArguments
    from smcl.train.build import load_model

    with pytest.raises(ValueError, match=r"has the labels \['O', 'B-PER'.*but the data set has \['O', 'B-X'\]"):
        load_model(ModelArguments(model=str(folder)), {}, ["O", "B-X"])
    model, _ = load_model(ModelArguments(model=str(folder)), {}, LABELS)
    assert model.config.num_labels == len(LABELS)


def test_a_model_that_lacks_a_tensor_is_refused_by_the_command_line(folder):
    from smcl.train.arguments import ModelArguments
    from smcl.train.build import load_model

    change_weights(folder, lambda weights: weights.pop("crf.transitions"))
    with pytest.raises(ValueError, match="do not fit its configuration.*crf.transitions"):
        load_model(ModelArguments(model=str(folder)), {}, LABELS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["decode", "marginals"])
def test_weights_that_are_not_finite_give_no_tags(folder, value, method):
    change_weights(folder, lambda weights: weights["classifier.bias"].fill_(value))
    model, inputs = SMCLForTokenClassification.from_pretrained(folder), make_inputs()
    logits = model(**inputs).logits
    with pytest.raises(ValueError, match="`logits` .*not finite"):
        getattr(model, method)(logits, inputs["word_mask"])


@pytest.mark.parametrize(
    "labels", [["O", "O"], ["I-PER", "I-LOC"], ["O", "I-PER"]], ids=["twice", "no start", "never reached"]
)
def test_labels_that_no_decoding_can_use_are_refused(labels):
    with pytest.raises(StrictDataclassError):
        make_config(id2label=dict(enumerate(labels)))


def test_heads_that_do_not_divide_the_image_encoder_are_refused():
    vision = ViTConfig(**PIXELS, **{**VISION_SIZE, "num_attention_heads": 5})
    with pytest.raises(ValueError, match="num_attention_heads"):
        SMCLForTokenClassification(make_config(vision_config=vision))


@pytest.mark.parametrize("tag", [9, -1])
def test_tags_that_the_model_does_not_have_are_refused(tag):
    inputs = make_inputs(labels=True)
    inputs["labels"][inputs["word_mask"]] = tag
    with pytest.raises(ValueError, match="`labels` must"):
        make_model()(**inputs)

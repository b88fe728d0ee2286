import io
import json

import pytest
import torch
from datasets import Dataset
from factories import LABELS, PIXELS, TEXT_SIZE, VISION_SIZE
from PIL import Image
from systems import (
    add_context,
    context_of,
    difference,
    logits_of,
    make_context,
    make_system,
    one_post,
    own_processor,
    system_inputs,
)
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    SiglipVisionConfig,
    TrainerCallback,
    ViTModel,
)

from smcl import MultiImageNERPipeline
from smcl.baselines import SYSTEMS, needed_encoders, reads_images
from smcl.dataset_scripts.schema import FEATURES
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.collator import SMCLDataCollator
from smcl.train.image_cache import ImageFeatures
from smcl.train.trainer import SMCLTrainer

NAMES = ["umt", "umgf", "maf", "hvpnet", "visualpt-moe", "umt-mi", "tpm-mi"]
# Those whose slots hold regions of the first image.
REGIONS = ["umgf", "visualpt-moe"]
FIRST_IMAGE_ONLY = ["umt", "maf", "hvpnet"]
PROMPTED = ["hvpnet", "visualpt-moe", "tpm-mi"]


by_name = pytest.mark.parametrize("name", NAMES)
by_prompted = pytest.mark.parametrize("name", PROMPTED)


# What all share


@by_name
def test_system_is_found_by_name_and_reads_images(name):
    assert needed_encoders(SYSTEMS[name]) == ("text", "vision") and reads_images(SYSTEMS[name])


@by_name
def test_every_parameter_is_trained(name):
    model = make_system(name).train()
    loss = model(**system_inputs(name, labels=True)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


@by_name
def test_saved_folder_loads_by_the_auto_class_bit_for_bit_and_holds_no_code(name, tmp_path):
    model, inputs = make_system(name), system_inputs(name, labels=True)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(loaded) is SYSTEMS[name] and type(AutoConfig.from_pretrained(tmp_path)) is SYSTEMS[name].config_class
    outputs, again = model(**inputs), loaded(**inputs)
    assert torch.equal(outputs.logits, again.logits) and torch.equal(outputs.loss, again.loss)
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in (tmp_path / "config.json").read_text()


@by_name
def test_weights_that_a_checkpoint_lacks_are_initialised(name, tmp_path):
    from safetensors.torch import save_file

    model = make_system(name)
    model.config.save_pretrained(tmp_path)
    save_file({"classifier.bias": model.classifier.bias.detach()}, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(0)
    loaded = SYSTEMS[name].from_pretrained(tmp_path)
    for parameter_name, tensor in loaded.state_dict().items():
        assert torch.isfinite(tensor).all() and tensor.abs().max() < 10, parameter_name
    positions = {"umt-mi": "image_positions.embeddings", "tpm-mi": "image_relations.position_embeddings"}
    if name in positions:
        assert 0.7 < loaded.smcl.get_parameter(positions[name]).std() < 1.3


@by_name
def test_a_post_alone_has_the_logits_it_has_in_a_batch(name):
    model, inputs = make_system(name), system_inputs(name)
    logits = logits_of(model, inputs)
    for row, (length, count) in enumerate(((9, 3), (6, 1), (8, 0))):
        alone = one_post(inputs, row, length, count)
        assert difference(logits_of(model, alone)[0], logits[row, :length]) < 1e-4


@by_name
def test_shuffling_a_batch_changes_no_logits(name):
    model, inputs = make_system(name), system_inputs(name)
    order = torch.tensor([2, 0, 1])
    shuffled = {key: tensor[order] for key, tensor in inputs.items()}
    assert difference(logits_of(model, shuffled), logits_of(model, inputs)[order]) < 1e-4


@by_name
@pytest.mark.parametrize("value", [1e4, float("nan")])
def test_padding_slots_may_hold_anything(name, value):
    model, inputs = make_system(name), system_inputs(name)
    pixels = inputs["pixel_values"].masked_fill(~inputs["image_mask"][..., None, None, None], value)
    assert torch.equal(logits_of(model, inputs, pixel_values=pixels), logits_of(model, inputs))


@by_name
def test_posts_without_images_are_the_same_with_and_without_slots_and_train(name):
    model = make_system(name)
    slots = system_inputs(name, image_counts=(1, 1, 1), labels=True)
    slots["image_mask"] = torch.zeros_like(slots["image_mask"])
    without = {key: x for key, x in slots.items() if key not in ("pixel_values", "image_mask")}
    assert difference(logits_of(model, slots), logits_of(model, without)) < 1e-4
    model.train()(**without).loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@by_name
def test_images_matter_and_only_those_that_are_read(name):
    model, inputs = make_system(name), system_inputs(name, image_counts=(3, 3, 3))
    logits, pixels = logits_of(model, inputs), inputs["pixel_values"]
    for slot in range(3):
        changed = pixels.clone()
        changed[:, slot] = -changed[:, slot]
        effect = difference(logits_of(model, inputs, pixel_values=changed), logits)
        is_read = slot == 0 or name not in FIRST_IMAGE_ONLY
        assert effect > 1e-3 if is_read else effect == 0, slot


@pytest.mark.parametrize("name", ["umt-mi", "tpm-mi"])
def test_the_order_of_images_matters(name):
    model, inputs = make_system(name), system_inputs(name, image_counts=(3, 3, 3))
    swapped = logits_of(model, inputs, pixel_values=inputs["pixel_values"][:, [1, 0, 2]])
    assert difference(swapped, logits_of(model, inputs)) > 1e-3
    with torch.no_grad():
        positions = model.smcl.image_positions.embeddings if name == "umt-mi" else None
        positions = model.smcl.image_relations.position_embeddings if positions is None else positions
        positions.copy_(positions[:1].expand_as(positions))
    swapped = logits_of(model, inputs, pixel_values=inputs["pixel_values"][:, [1, 0, 2]])
    assert difference(swapped, logits_of(model, inputs)) < 1e-4


@pytest.mark.parametrize("name", FIRST_IMAGE_ONLY)
def test_the_first_image_alone_is_encoded(name):
    model, inputs = make_system(name), system_inputs(name, image_counts=(3, 1, 0))
    seen = []
    model.smcl.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    model(**inputs)
    assert seen == [2]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REGIONS])
def test_more_images_than_the_configuration_has_are_an_error(name):
    with pytest.raises(ValueError, match="at most `config.max_images` = 2"):
        make_system(name, max_images=2)(**system_inputs(name, image_counts=(3, 1, 0)))


@by_name
def test_image_features_stand_in_for_pixel_values(name):
    model, inputs = make_system(name), system_inputs(name)
    logits = logits_of(model, inputs)
    features = model.smcl.encode_images(inputs["pixel_values"].flatten(0, 1)).unflatten(0, (3, 3))
    embeds = features.masked_fill(~inputs["image_mask"].reshape(3, 3, *[1] * (features.dim() - 2)), float("nan"))
    assert difference(logits_of(model, inputs, pixel_values=None, image_embeds=embeds), logits) < 1e-4


@pytest.mark.parametrize(
    "vision_class", [CLIPVisionConfig, DeiTConfig, Dinov2Config, SiglipVisionConfig], ids=lambda c: c.model_type
)
@pytest.mark.parametrize("name", ["umt-mi", "hvpnet"])
def test_every_kind_of_image_encoder_gives_patches(name, vision_class):
    model, inputs = make_system(name, vision_config=vision_class(**PIXELS, **VISION_SIZE)), system_inputs(name)
    changed = inputs["pixel_values"].clone()
    changed[0, 0, :, 8:, 8:] = 0
    assert difference(logits_of(model, inputs, pixel_values=changed)[0], logits_of(model, inputs)[0]) > 1e-5


@pytest.mark.parametrize("name", [*NAMES, "smcl"])
def test_encoders_saved_in_half_precision_make_a_model_in_full(name, encoder_folders, tmp_path):
    ViTModel.from_pretrained(encoder_folders[1], dtype=torch.float16).save_pretrained(tmp_path)
    model = SYSTEMS[name].from_text_vision_pretrained(encoder_folders[0], tmp_path, id2label=dict(enumerate(LABELS)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(**system_inputs(name)).logits.dtype == torch.float32


# HVPNeT and TPM-MI: prompts


@by_prompted
def test_prompts_enter_every_text_layer(name):
    model, inputs = make_system(name), system_inputs(name, image_counts=(2, 2, 2))
    guidance = []
    original = model.smcl.prompts
    model.smcl.prompts = lambda *args: guidance.append(original(*args)) or guidance[-1]
    logits = logits_of(model, inputs)
    num_layers = TEXT_SIZE["num_hidden_layers"]
    assert len(guidance[0].keys) == len(guidance[0].values) == num_layers
    for part in ("keys", "values"):
        assert difference(*getattr(guidance[0], part)) > 1e-3
        for layer in range(num_layers):
            tensors = list(getattr(guidance[0], part))
            tensors[layer] = tensors[layer] + 1 + torch.arange(tensors[layer].shape[2])[:, None]
            changed = guidance[0]._replace(**{part: tuple(tensors)})
            model.smcl.prompts = lambda *args, changed=changed: changed
            assert difference(logits_of(model, inputs), logits) > 1e-3, (part, layer)


@by_prompted
def test_attentions_have_one_column_for_each_image(name):
    model, inputs = make_system(name), system_inputs(name)
    for layer in model(**inputs, output_attentions=True).attentions:
        assert layer.shape == (3, 4, 9, 3 + 9)
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones(3, 4, 9))
        read = inputs["image_mask"] & (torch.arange(3) < (3 if name == "tpm-mi" else 1))
        images = layer[..., :3].amax(dim=(1, 2))
        assert (images[read] > 0).all() and (images[~read] == 0).all()


@by_prompted
def test_gradient_checkpointing_gives_the_same_gradients(name):
    gradients = []
    for checkpointing in (False, True):
        model = make_system(name, dropout=0.0).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**system_inputs(name, labels=True)).loss.backward()
        projection = model.smcl.projections["image"] if name == "visualpt-moe" else model.smcl.projection
        gradients.append(projection[0].weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


# Under the trainer, the pipeline and the command line


@pytest.fixture(scope="module")
def posts() -> Dataset:
    """Posts whose names' types show in their first image only."""
    images = []
    for colour in ("red", "blue"):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), colour).save(stream, "PNG")
        images.append({"bytes": stream.getvalue(), "path": f"{colour}.png"})
    rows = []
    for index in range(12):
        words = ["the", "joey", "and", "niko"][index % 2 :]
        is_blue = index % 3 == 1
        tags = [("B-PER" if is_blue else "B-LOC") if word in ("joey", "niko") else "O" for word in words]
        post = [images[is_blue], *images[: index % 2]]
        rows.append({"id": str(index), "tokens": words, "ner_tags": tags, "images": post, "source": "test"})
    return add_context(Dataset.from_list([FEATURES.encode_example(row) for row in rows], features=FEATURES))


class StopAfter(TrainerCallback):
    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


def train(model, posts, processor, folder, resume=False, callbacks=None, features=None, **arguments):
    defaults = {"per_device_train_batch_size": 6, "num_train_epochs": 2, "learning_rate": 1e-3, "logging_steps": 1}
    defaults |= {"use_cpu": True, "disable_tqdm": True, "eval_strategy": "no", "load_best_model_at_end": False}
    trainer = SMCLTrainer(
        model=model,
        args=SMCLTrainingArguments(output_dir=str(folder), **(defaults | arguments)),
        data_collator=SMCLDataCollator(processor, features),
        train_dataset=posts,
        processing_class=processor,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@by_name
def test_training_resumes_to_the_weights_of_an_uninterrupted_run(name, posts, processor, tmp_path):
    whole, halved, processor = make_system(name), make_system(name), own_processor(name, processor)
    train(whole, posts, processor, tmp_path / "whole")
    train(halved, posts, processor, tmp_path / "halved", callbacks=[StopAfter(2)])
    resumed = make_system(name, seed=1)
    train(resumed, posts, processor, tmp_path / "halved", resume=True)
    for (parameter_name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), parameter_name


@by_name
def test_training_on_cached_features_learns_what_only_images_tell(name, posts, processor, tmp_path):
    model, processor = make_system(name, dropout=0.0), own_processor(name, processor)
    model.smcl.vision_model.requires_grad_(False)
    features = ImageFeatures(model, processor)
    cached = features.replace_images(posts)
    shapes = {"umgf": (24,), "tpm-mi": (24,), "hvpnet": (2, 4, 24), "visualpt-moe": (2, 4, 24)}
    shape = shapes.get(name, (5, 24))
    assert features.gather([[0, 1]])["image_embeds"].shape == (1, 2, *shape)
    # Solid images, of which all regions are the same: two whole images and two of each size of a region.
    rows = {"umgf": [2, 2, 3, 3], "visualpt-moe": [2, 3, 3]}.get(name, [1] if name in FIRST_IMAGE_ONLY else [1, 0])
    assert cached["image_rows"][1] == rows
    settings = {"num_train_epochs": 30, "learning_rate": 3e-3, "save_strategy": "no"}
    trainer = train(model, cached, processor, tmp_path, features=features, **settings)
    losses = [entry["task_loss"] for entry in trainer.state.log_history if "task_loss" in entry]
    assert losses[-1] < 0.2 * losses[0], losses
    assert ("span_loss" in trainer.state.log_history[0]) == name.startswith("umt")
    predicted, gold = (trainer.predict(posts)[i] for i in (0, 1))
    assert (predicted == gold).all()


@by_name
def test_pipeline_predicts_and_explains_as_for_smcl(name, processor, photo):
    model, processor = make_system(name), own_processor(name, processor)
    with torch.no_grad():
        model.classifier.weight.mul_(8)
    pipe = MultiImageNERPipeline(model, processor)
    posts = [{"text": "joey and niko rest", "images": [photo] * count} for count in (2, 0, 1)]
    for post in posts:
        context = make_context(processor.context_columns, [len(post["images"])])
        post |= {column: values[0] for column, values in context.items()}
    together = pipe(posts, batch_size=3, return_tags=True)
    for post, result in zip(posts, together, strict=True):
        context = context_of(name, [post["images"]])
        inputs = processor(text=[post["text"]], images=[post["images"]], **context)
        tags = model.decode(model(**inputs).logits, inputs["word_mask"])[inputs["word_mask"]].tolist()
        assert result["tags"] == [LABELS[tag] for tag in tags]
    explanation = pipe.explain(posts[0])
    assert explanation.words == ["joey", "and", "niko", "rest"] and len(explanation.images) == 2
    assert (explanation.guidance_attention is None) == (name not in PROMPTED)


@by_name
def test_command_line_trains_and_predicts_again_to_the_letter(name, data, context_data, encoder_folders, tmp_path):
    text, vision = encoder_folders
    arguments = [
        "--dataset",
        context_data if name in REGIONS else data,
        "--do_predict",
        "--use_cpu",
        "--disable_tqdm",
        "true",
    ]
    new = ["--system", name, "--text_model", text, "--vision_model", vision, "--freeze_vision", "--do_train"]
    settings = ["--num_train_epochs", "1", "--per_device_train_batch_size", "8"]
    main([*arguments, *new, *settings, "--output_dir", str(tmp_path / "model")])
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == f"smcl-{name}"
    main([*arguments, "--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "again")])
    written = [(tmp_path / folder / "predictions.jsonl").read_bytes() for folder in ("model", "again")]
    assert written[0] == written[1]


def test_command_line_takes_the_switches_of_a_system_and_no_others(data, encoder_folders, tmp_path):
    text, vision = encoder_folders
    arguments = ["--dataset", data, "--do_train", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "true"]
    arguments += ["--text_model", text, "--vision_model", vision, "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="'umt' has no `--num_image_layers`"):
        main([*arguments, "--system", "umt", "--num_image_layers", "2"])
    main([*arguments, "--system", "tpm-mi", "--num_image_layers", "2"])
    assert json.loads((tmp_path / "config.json").read_text())["num_image_layers"] == 2

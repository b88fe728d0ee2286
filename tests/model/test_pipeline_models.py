import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from factories import make_model, make_pipeline, noise
from transformers import pipeline

from smcl import MultiImageNERPipeline, SMCLForTokenClassification, SMCLProcessor, pipeline_smcl
from smcl.pipeline_smcl import ImageVectors
from smcl.predict import load_pipeline

# Loading and saving


def test_saved_pipeline_loads_again(pipe, posts, tmp_path):
    pipe.save_pretrained(str(tmp_path))
    again = pipeline(model=str(tmp_path), trust_remote_code=True)
    assert again(posts) == pipe(posts)
    assert again.task == "multi-image-ner"
    again.save_pretrained(str(tmp_path / "again"))
    assert pipeline("token-classification", model=str(tmp_path / "again"), trust_remote_code=True)(posts) == pipe(posts)


def test_code_of_a_saved_pipeline_is_not_run_unasked(pipe, tmp_path):
    pipe.save_pretrained(str(tmp_path))
    for task in (None, "multi-image-ner", "token-classification"):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            pipeline(task, model=str(tmp_path))


def test_task_name_takes_a_loaded_model_without_remote_code(processor, posts, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = SMCLForTokenClassification.from_pretrained(tmp_path)
    pipe = pipeline("multi-image-ner", model=model, processor=processor)
    assert type(pipe) is MultiImageNERPipeline
    assert pipe(posts) == MultiImageNERPipeline(make_model(), processor)(posts)


def test_a_processor_of_more_images_than_the_model_takes_fails_one_post_alone(processor, photos):
    more = SMCLProcessor(processor.image_processor, processor.tokenizer, max_images=9)
    pipe, post = make_pipeline(more), {"text": "joey", "images": [*photos, *photos]}
    message = "The post 'joey' has 8 images, but the model's `max_images` is 4, and the processor's 9"
    with pytest.raises(ValueError, match=message):
        pipe(post)
    failed, other = pipe([post, "niko"], batch_size=2, on_error="return")
    assert message in failed["error"] and other == pipe("niko")
    assert pipe(post, on_extra_images="first") == pipe(post | {"images": photos})
    assert len(pipe.explain(post, on_extra_images="first").images) == 4


# What is computed, and in which numbers


def count_encoded(pipe, monkeypatch) -> list[int]:
    """Note from now on how many images are encoded at once."""
    encoded, encode = [], pipe.model.base_model.encode_images
    monkeypatch.setattr(
        pipe.model.base_model, "encode_images", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    )
    return encoded


def test_images_that_come_again_are_encoded_once_and_change_nothing(processor, photos, monkeypatch):
    images = [[photos[0], photos[1], photos[0]], [photos[1].copy()], []]
    pipe, texts = make_pipeline(processor), ["joey and niko rest", "a bc def", "niko"]
    posts = [{"text": text, "images": own} for text, own in zip(texts, images, strict=True)]
    windows = [pipe.read_post(post)[1][0] | {"post": None} for post in posts]
    encoded = count_encoded(pipe, monkeypatch)
    found = pipe._forward({"window": windows, "is_last": True})["window"]
    assert encoded == [2]
    for window, scored in zip(windows, found, strict=True):
        inputs = window["inputs"]
        expected = pipe.model(**inputs).logits[0][inputs["word_mask"][0]]
        torch.testing.assert_close(scored["emissions"], expected)
    encoded.clear()
    pipe(posts, batch_size=2)
    assert encoded == []


def test_what_images_came_to_is_forgotten_with_the_weights_that_made_it(processor, photos, monkeypatch):
    pipe, post = make_pipeline(processor), {"text": "joey and niko rest", "images": photos[:2]}
    before = pipe(post)
    with torch.no_grad():
        for parameter in pipe.model.base_model.vision_model.parameters():
            parameter.mul_(3)
    encoded = count_encoded(pipe, monkeypatch)
    after = pipe(post)
    assert encoded == [2] and after != before
    assert after == MultiImageNERPipeline(pipe.model, processor)(post)


def test_what_is_kept_of_images_stays_within_its_room(processor):
    pipe = make_pipeline(processor)
    size = pipe.model.config.vision_config.hidden_size * 4
    pipe.image_vectors = ImageVectors(max_bytes=3 * size)
    for seed in range(5):
        pipe({"text": "niko", "images": [noise((20, 30), seed=seed)]})
    assert len(pipe.image_vectors.rows) == 3 and pipe.image_vectors.pool.nbytes == 3 * size


def test_what_is_kept_of_images_is_found_in_and_outside_of_inference_mode_and_in_no_copy(
    processor, photos, monkeypatch
):
    pipe, post = make_pipeline(processor), {"text": "joey and niko rest", "images": photos[:2]}
    with torch.inference_mode():
        expected = pipe(post)
    assert pipe({"text": "joey", "images": photos[2:]}) == make_pipeline(processor)(
        {"text": "joey", "images": photos[2:]}
    )
    with monkeypatch.context() as patch:
        encoded = count_encoded(pipe, patch)
        assert pipe(post) == expected and encoded == []
    for other in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert other(post) == expected and len(other.image_vectors.rows) == 2


@pytest.mark.parametrize("has_tiles", [True, False])
def test_by_default_posts_are_computed_in_bfloat16_where_it_pays(pipe, posts, tmp_path, monkeypatch, has_tiles):
    pipe.save_pretrained(str(tmp_path))
    # The classes of a saved folder are its own: those of the package are asked here.
    given = {"model": str(tmp_path), "trust_remote_code": False, "pipeline_class": MultiImageNERPipeline}
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles, raising=False)
    small = pipeline("multi-image-ner", **given)
    assert small.computing_model() is small.model
    monkeypatch.setattr(pipeline_smcl, "BFLOAT16_HIDDEN_SIZE", 1)
    for fast in (pipeline("multi-image-ner", **given), load_pipeline(tmp_path, device="cpu", dtype="auto")):
        assert fast.computing_model().dtype == (torch.bfloat16 if has_tiles else torch.float32)
        assert fast.model.dtype == fast.crf.transitions.dtype == torch.float32
        assert [len(fast(post, return_tags=True)["tags"]) for post in posts] == [len(p["text"].split()) for p in posts]
        assert len(fast.explain(posts[0], patch_grid=1).images) == 2
    for full in (pipeline("multi-image-ner", dtype=torch.float32, **given), load_pipeline(tmp_path, device="cpu")):
        assert full.computing_model() is full.model


def test_the_copy_in_bfloat16_follows_the_weights_and_scores_nearly_alike(processor, posts, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    monkeypatch.setattr(pipeline_smcl, "BFLOAT16_HIDDEN_SIZE", 1)
    full = make_pipeline(processor)
    fast = MultiImageNERPipeline(full.model, processor, dtype="auto")
    for _ in range(2):
        [[window], [twin]] = [ner.read_post(posts[0])[1] for ner in (full, fast)]
        scored = [
            ner._forward({"window": w | {"post": None}, "is_last": True}) for ner, w in ((full, window), (fast, twin))
        ]
        expected, found = (x["window"]["emissions"] for x in scored)
        assert not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, atol=0.3, rtol=0.05)
        assert fast.computing_model() is fast.computing_model()
        with torch.no_grad():
            full.model.classifier.bias.add_(3)


# Weights, tokenizers and models as others have them


def test_scores_follow_the_models_crf(processor, posts):
    pipe = make_pipeline(processor)
    before = pipe(posts)
    with torch.no_grad():
        pipe.model.crf.transitions.copy_(torch.randn(9, 9, generator=torch.Generator().manual_seed(0)))
    assert pipe(posts) == MultiImageNERPipeline(pipe.model, processor)(posts) != before


def change_data(model):
    for x in model.smcl.vision_model.parameters():
        x.data.mul_(3)


def change_in_inference(model):
    with torch.inference_mode():
        for x in model.smcl.vision_model.parameters():
            x.mul_(3)


def switch_adapters(model):
    # As peft's `disable_adapter` does, which changes what the layer computes.
    layer = model.smcl.vision_model.layers[0].mlp
    layer._disable_adapters = True
    layer.register_forward_hook(lambda module, inputs, output: output * 3)


@pytest.mark.parametrize("change", [change_data, change_in_inference, switch_adapters])
def test_vectors_of_images_follow_changes_that_pytorch_does_not_count(processor, posts, change):
    pipe = make_pipeline(processor)
    before = pipe(posts)
    change(pipe.model)
    after = pipe(posts)
    assert after != before and after == MultiImageNERPipeline(pipe.model, processor)(posts)


def test_a_model_in_training_mode_predicts_as_in_evaluation_and_goes_on_training(processor, posts):
    pipe = make_pipeline(processor)
    expected = pipe(posts)
    pipe.model.train()
    pipe.model.smcl.text_model.eval()
    pipe.image_vectors = ImageVectors()
    assert pipe(posts) == expected
    pipe.explain(posts[0])
    assert pipe.model.training and pipe.model.dropout.training and not pipe.model.smcl.text_model.training


def test_posts_do_not_depend_on_their_batch_whatever_side_the_tokenizer_pads(processor, posts):
    expected = make_pipeline(processor)(posts, return_tags=True)
    processor = copy.deepcopy(processor)
    processor.tokenizer.padding_side = processor.tokenizer.truncation_side = "left"
    pipe = make_pipeline(processor)
    for batch_size in (1, len(posts)):
        found = pipe(posts, batch_size=batch_size, return_tags=True)
        assert [post["tags"] for post in found] == [post["tags"] for post in expected]
    words = [["joey", "and", "niko"], ["joey"] * 70]
    inputs = processor(words=words, max_length=20)
    assert inputs["attention_mask"][:, 0].all()
    # What is cut is at the end.
    assert torch.equal(inputs["input_ids"][1, :5], processor(words=words[1:])["input_ids"][0, :5])
    with pytest.raises(TypeError, match="padding_side"):
        processor(words=words, padding_side="left")


def test_long_posts_fit_the_text_encoder_whatever_the_tokenizer_takes(processor):
    expected = make_pipeline(processor)("a b " * 100, return_tags=True)
    processor = copy.deepcopy(processor)
    processor.tokenizer.model_max_length = int(1e30)
    found = make_pipeline(processor)("a b " * 100, return_tags=True)
    assert found["tags"] == expected["tags"] and len(found["words"]) == 200


def test_models_without_tags_of_bio_are_refused(processor):
    model = make_model(id2label={0: "O", 1: "PER", 2: "LOC"})
    with pytest.raises(ValueError, match=r"has the labels \['PER', 'LOC'\], of which no entity can be made"):
        MultiImageNERPipeline(model, processor)


class Wrapped(torch.nn.Module):
    """What a PeftModel has."""

    def __init__(self, model, is_prompt_learning=False):
        super().__init__()
        self.model, self.config = model, model.config
        self.peft_config = {"default": SimpleNamespace(is_prompt_learning=is_prompt_learning)}

    def get_base_model(self):
        return self.model


def test_a_model_with_adapters_is_taken_with_its_wrapper(processor, posts):
    pipe = make_pipeline(processor)
    assert MultiImageNERPipeline(Wrapped(pipe.model), processor)(posts) == pipe(posts)
    with pytest.raises(ValueError, match="Prompts of peft"):
        MultiImageNERPipeline(Wrapped(pipe.model, is_prompt_learning=True), processor)

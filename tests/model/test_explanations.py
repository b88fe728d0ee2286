import itertools

import numpy as np
import pytest
import torch
from factories import LABELS, make_model
from PIL import Image

from smcl import MultiImageNERPipeline
from smcl.pipeline_smcl import _far_from_entities, find_entities, patch_edges

TEXT = "joey and niko rest"


def make_pipeline(processor, **config) -> MultiImageNERPipeline:
    """A tiny random model that finds entities in most posts."""
    model = make_model(seed=4, **config)
    with torch.no_grad():
        model.classifier.weight.mul_(8)
        model.classifier.bias[0] = -8
    return MultiImageNERPipeline(model, processor)


@pytest.fixture(scope="module")
def pipe(processor) -> MultiImageNERPipeline:
    return make_pipeline(processor)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(4)]


@torch.no_grad()
def emissions_of(pipe, words, images, edit=None) -> torch.Tensor:
    """Emissions of a short post by the processor and the model alone; `edit` may change the pixels."""
    inputs = pipe.processor(words=[words], images=[images])
    if edit is not None:
        edit(inputs["pixel_values"][0])
    return pipe.model(**inputs).logits[inputs["word_mask"]]


def posterior(pipe, emissions, entity, name=None) -> float:
    return pipe.posteriors(emissions, [(*entity["words"], name or entity["entity_group"])])[0]


def log_odds(p: float) -> float:
    return np.log(p) - np.log1p(-p)


def test_entities_are_those_of_the_pipeline(pipe, photos):
    for count in range(5):
        post = {"text": TEXT, "images": photos[:count]}
        explanation, found = pipe.explain(post), pipe(post)
        assert [{**x.entity, "score": 0} for x in explanation.entities] == [{**x, "score": 0} for x in found]
        scores = [explained.entity["score"] for explained in explanation.entities]
        assert scores == pytest.approx([entity["score"] for entity in found], abs=1e-5)
        assert explanation.words == TEXT.split()
        assert all(len(explained.images) == count for explained in explanation.entities)
        assert found


def test_scores_without_an_image_are_those_of_the_post_without_it(pipe, photos):
    images = photos[:3]
    explanation = pipe.explain({"text": TEXT, "images": images})
    changes = []
    for explained in explanation.entities:
        without = emissions_of(pipe, explanation.words, [])
        assert explained.score_without_images == pytest.approx(posterior(pipe, without, explained.entity), abs=1e-5)
        for gone, evidence in enumerate(explained.images):
            without = emissions_of(pipe, explanation.words, images[:gone] + images[gone + 1 :])
            assert evidence.score_without == pytest.approx(posterior(pipe, without, explained.entity), abs=1e-5)
            changes.append(abs(evidence.score_without - explained.entity["score"]))
    assert max(changes) > 0.01


def span_probabilities(pipe, emissions, words) -> dict[str, float]:
    """Probabilities that exactly these words are an entity, by type and `"O"`, from all legal paths."""
    crf, totals = pipe.crf, dict.fromkeys(["O", *(label[2:] for label in LABELS if label[0] == "B")], 0.0)
    for tags in itertools.product(range(len(LABELS)), repeat=len(emissions)):
        names = [LABELS[tag] for tag in tags]
        if any(b[0] == "I" and a[2:] != b[2:] for a, b in itertools.pairwise(["O", *names])):
            continue
        score = crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]]
        score = score + sum(emissions[word, tag] for word, tag in enumerate(tags))
        weight = (score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(tags))).double().exp().item()
        name = next((name for *span, name in find_entities(names) if tuple(span) == words), "O")
        totals[name] += weight
    return {name: weight / sum(totals.values()) for name, weight in totals.items()}


def test_most_probable_label_without_an_image_is_that_of_all_paths(pipe, photos):
    words, images = ["joey", "and", "niko"], photos[:2]
    explanation = pipe.explain({"text": words, "images": images})
    assert explanation.entities
    seen = set()
    for explained in explanation.entities:
        variants = [(explained.label_without_images, explained.label_score_without_images, [])]
        variants += [
            (evidence.label_without, evidence.label_score_without, images[:gone] + images[gone + 1 :])
            for gone, evidence in enumerate(explained.images)
        ]
        for label, score, left in variants:
            expected = span_probabilities(pipe, emissions_of(pipe, words, left), explained.entity["words"])
            assert label == max(expected, key=expected.get)
            assert score == pytest.approx(expected[label], abs=1e-5)
            seen.add(label)
    assert len(seen) > 1


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_patch_effects_are_the_losses_of_log_odds_when_a_patch_has_the_mean_colour(pipe, photos, grid):
    images = photos[:2]
    explanation = pipe.explain({"text": TEXT, "images": images}, patch_grid=grid)
    edges = [round(16 * step / grid) for step in range(grid + 1)]
    effects = []
    for explained in explanation.entities:
        before = log_odds(posterior(pipe, emissions_of(pipe, explanation.words, images), explained.entity))
        for image, evidence in enumerate(explained.images):
            assert evidence.patch_effects.shape == (grid, grid)
            for row, column in itertools.product(range(grid), repeat=2):
                place = image, ..., slice(*edges[row : row + 2]), slice(*edges[column : column + 2])
                painted = emissions_of(
                    pipe, explanation.words, images, lambda pixels, place=place: pixels.__setitem__(place, 0)
                )
                expected = before - log_odds(posterior(pipe, painted, explained.entity))
                assert evidence.patch_effects[row, column] == pytest.approx(expected, abs=1e-3)
                effects.append(abs(expected))
    assert max(effects) > 0.05


def test_without_a_grid_patches_are_not_measured(pipe, photos):
    explanation = pipe.explain({"text": TEXT, "images": photos[:1]})
    assert [evidence.patch_effects for explained in explanation.entities for evidence in explained.images] == [
        None for _ in explanation.entities
    ]


@pytest.mark.parametrize(("side", "grid"), [(16, 3), (48, 6), (7, 7), (224, 9)])
def test_patches_cover_a_side_once(side, grid):
    edges = patch_edges(side, grid)
    assert edges[0] == 0 and edges[-1] == side and len(edges) == grid + 1
    assert all(side // grid <= b - a <= side // grid + 1 for a, b in itertools.pairwise(edges))


def test_images_that_a_model_ignores_change_nothing(processor, photos):
    pipe = make_pipeline(processor, use_image_guidance=False)
    value = pipe.model.smcl.fusion.text_to_image.value
    torch.nn.init.zeros_(value.weight)
    torch.nn.init.zeros_(value.bias)
    explanation = pipe.explain({"text": TEXT, "images": photos[:3]}, patch_grid=2)
    assert explanation.entities
    for explained in explanation.entities:
        score = explained.entity["score"]
        assert explained.score_without_images == pytest.approx(score, abs=1e-6)
        for evidence in explained.images:
            assert evidence.score_without == pytest.approx(score, abs=1e-6)
            assert np.abs(evidence.patch_effects).max() < 1e-3


def test_attentions_are_those_of_the_model(pipe, photos):
    explanation = pipe.explain({"text": TEXT, "images": photos[:3]})
    inputs = pipe.processor(text=[TEXT], images=[photos[:3]])
    with torch.no_grad():
        outputs = pipe.model(**inputs, output_attentions=True)
    fusion = outputs.fusion_attentions[1][inputs["word_mask"]]
    # shape: (num_words, num_images)
    layers = [layer[0, :, :, :3].mean(dim=0)[inputs["word_mask"][0]] for layer in outputs.attentions]
    guidance = sum(layers) / len(layers)
    np.testing.assert_allclose(explanation.fusion_attention, fusion, atol=1e-6)
    np.testing.assert_allclose(explanation.guidance_attention, guidance, atol=1e-6)
    np.testing.assert_allclose(explanation.fusion_attention.sum(axis=1), 1, atol=1e-6)
    for explained in explanation.entities:
        first, last = explained.entity["words"]
        for image, evidence in enumerate(explained.images):
            assert evidence.fusion_attention == pytest.approx(fusion[first : last + 1, image].mean().item(), abs=1e-6)
            expected = guidance[first : last + 1, image].mean().item()
            assert evidence.guidance_attention == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("use_fusion", "use_image_guidance"), [(False, True), (True, False), (False, False), (True, True)]
)
def test_attention_that_a_model_lacks_is_none(processor, photos, use_fusion, use_image_guidance):
    pipe = make_pipeline(processor, use_fusion=use_fusion, use_image_guidance=use_image_guidance)
    explanation = pipe.explain({"text": TEXT, "images": photos[:2]})
    assert (explanation.fusion_attention is not None) == use_fusion
    assert (explanation.guidance_attention is not None) == use_image_guidance
    evidence = explanation.entities[0].images[0]
    assert (evidence.fusion_attention is not None) == use_fusion
    assert (evidence.guidance_attention is not None) == use_image_guidance


def test_post_without_images(pipe):
    explanation = pipe.explain({"text": TEXT}, patch_grid=2)
    assert explanation.images == [] and explanation.entities
    assert explanation.fusion_attention is None and explanation.guidance_attention is None
    for explained in explanation.entities:
        assert explained.images == []
        assert explained.score_without_images == explained.entity["score"]


@pytest.mark.parametrize("text", ["", []])
def test_post_without_words(pipe, photos, text):
    explanation = pipe.explain({"text": text, "images": photos[:2]}, patch_grid=2)
    assert explanation.words == [] and explanation.entities == [] and len(explanation.images) == 2
    assert explanation.fusion_attention.shape == explanation.guidance_attention.shape == (0, 2)


def test_long_posts_are_explained_window_by_window(pipe, photos):
    post = {"text": ["joey", "and", "niko", "rest", "the"] * 30, "images": photos[:2]}
    explanation, found = pipe.explain(post, patch_grid=1), pipe(post)
    assert len(pipe.read_post(post)[1]) > 3
    assert [explained.entity["words"] for explained in explanation.entities] == [entity["words"] for entity in found]
    assert explanation.fusion_attention.shape == explanation.guidance_attention.shape == (150, 2)
    np.testing.assert_allclose(explanation.fusion_attention.sum(axis=1), 1, atol=1e-5)
    without = pipe({**post, "images": photos[:1]}, return_tags=True)
    kept = {(*entity["words"], entity["entity_group"]): entity["score"] for entity in without["entities"]}
    same = 0
    for explained in explanation.entities:
        score = kept.get((*explained.entity["words"], explained.entity["entity_group"]))
        if score is not None:
            assert explained.images[1].score_without == pytest.approx(score, abs=1e-5)
            same += 1
    assert same > 0


def test_attentions_alone_take_nothing_away(pipe, photos):
    post = {"text": ["joey", "and", "niko"] * 4, "images": photos[:2]}
    whole, quick = pipe.explain(post), pipe.explain(post, without=False)
    assert np.allclose(quick.fusion_attention, whole.fusion_attention, atol=1e-5)
    assert [x.entity["words"] for x in quick.entities] == [x.entity["words"] for x in whole.entities]
    for one, other in zip(quick.entities, whole.entities, strict=True):
        assert one.entity["score"] == pytest.approx(other.entity["score"], abs=1e-4)
        assert one.score_without_images is None and other.score_without_images is not None
        assert {image.score_without for image in one.images} == {None}


def test_only_windows_near_an_entity_are_read_again():
    parts = [torch.zeros(20, 9) for _ in range(5)]
    known = _far_from_entities(parts, [{"words": (62, 63)}])
    assert [part is None for part in known] == [False, False, True, True, False]
    assert all(part is not None for part in _far_from_entities(parts, []))


def test_string_and_list_of_words_have_the_same_explanation(pipe, photos):
    images = photos[:2]
    one, other = (pipe.explain({"text": text, "images": images}, patch_grid=2) for text in (TEXT, TEXT.split()))
    assert one.words == other.words
    np.testing.assert_array_equal(one.fusion_attention, other.fusion_attention)
    np.testing.assert_array_equal(one.guidance_attention, other.guidance_attention)
    for a, b in zip(one.entities, other.entities, strict=True):
        assert a.entity == b.entity and a.score_without_images == b.score_without_images
        for x, y in zip(a.images, b.images, strict=True):
            assert (x.score_without, x.label_without) == (y.score_without, y.label_without)
            np.testing.assert_array_equal(x.patch_effects, y.patch_effects)


def test_images_are_shown_as_the_model_sees_them(pipe, photos):
    explanation = pipe.explain({"text": TEXT, "images": photos})
    for seen, photo in zip(explanation.images, photos, strict=True):
        expected = np.asarray(photo.resize((16, 16), Image.Resampling.BILINEAR), dtype=int)
        assert seen.size == (16, 16)
        assert np.abs(np.asarray(seen, dtype=int) - expected).max() <= 1


def test_types_are_in_the_order_of_the_labels(pipe):
    assert pipe.explain({"text": TEXT}).types == ["PER", "LOC", "ORG", "MISC"]


def test_settings_of_the_pipeline_hold_unless_others_are_asked_for(pipe, processor, photos):
    post = {"text": TEXT, "images": [b"no image", photos[0]]}
    patient = MultiImageNERPipeline(pipe.model, processor, on_bad_image="skip", on_error="return", threshold=1.0)
    explanation = patient.explain(post)
    assert len(explanation.images) == 1 and explanation.skipped_images[0].startswith("Image 0:")
    assert explanation.entities
    with pytest.raises(ValueError, match="Image 0|image 0"):
        patient.explain(post, on_bad_image="error")
    with pytest.raises(ValueError, match="image 0"):
        pipe.explain(post)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_grid": -1}, "`patch_grid` must be a whole number from 0 .* 16, got -1"),
        ({"patch_grid": 17}, "`patch_grid` .* got 17"),
        ({"patch_grid": 1.5}, "`patch_grid` .* got 1.5"),
        ({"on_bad_image": "ignore"}, "`on_bad_image` must be one of"),
        ({"on_error": "return"}, "Expected on_bad_image, on_extra_images, allow_paths.*got .*'on_error'"),
        ({"threshold": 0.5}, "Expected on_bad_image, on_extra_images, allow_paths.*got .*'threshold'"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(pipe, photos, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.explain({"text": TEXT, "images": photos[:1]}, **arguments)

import json

import numpy as np
import pytest
import torch
from cells import SMALL, call_here
from datasets import load_dataset
from factories import make_model

from smcl import MultiImageNERPipeline, SMCLProcessor
from smcl.experiments import pointing, runs
from smcl.pipeline_smcl import EntityExplanation, ImageEvidence


def explained(*images, group="PER"):
    """An entity and, of each image, the posterior and the label without it, and its attention."""
    evidence = [ImageEvidence(attention, None, score, label, 1 - score) for score, label, attention in images]
    return EntityExplanation({"entity_group": group, "words": (0, 0)}, 0.1, "O", 0.9, evidence)


def test_pointing_looks_at_frames_losses_and_attention():
    turns, stays, likes = (0.1, "LOC", 0.2), (0.9, "PER", 0.3), (0.8, "PER", 0.5)
    found = pointing.point(explained(turns, stays, likes), 0)
    assert found == {
        "framed": True,
        "another framed": False,
        "removal": True,
        "fusion attention": False,
        "chance": 1 / 3,
    }
    found = pointing.point(explained(turns, stays, likes), 2)
    assert found["another framed"] and found["fusion attention"] and not found["framed"] and not found["removal"]
    # In a post of one image, there is nothing to choose from.
    assert pointing.point(explained(turns), 0) == {"framed": True, "another framed": False}


def test_pointing_is_counted_over_mentions_found_right(known_posts, processor):
    model = make_model(seed=4)
    with torch.no_grad():
        model.classifier.weight.mul_(8)
        model.classifier.bias[0] = -8
    pipe = MultiImageNERPipeline(model, processor)
    posts = load_dataset(str(known_posts), split="test")
    labels = posts.features["ner_tags"].feature.names
    # What the model finds is right, but for the first entity of each post; those of every second post show in an image.
    explanations = [pipe.explain({"text": post["tokens"], "images": post["images"]}).entities for post in posts]
    tags, mentions, showing, expected, others = [], {}, {}, [], []
    for row, (post, entities) in enumerate(zip(posts, explanations, strict=True)):
        tags.append([0] * len(post["tokens"]))
        spans = [(x.entity["words"][0], x.entity["words"][1] + 1) for x in entities]
        name = f"{post['id']}_{len(post['images']) - 1}.png" if post["images"] else None
        mentions[post["id"]] = spans if row % 2 else []
        showing[post["id"]] = [name] * len(mentions[post["id"]])
        for explained, (first, end) in [*zip(entities, spans, strict=True)][1:]:
            group = explained.entity["entity_group"]
            tags[-1][first:end] = [labels.index(f"B-{group}"), *[labels.index(f"I-{group}")] * (end - first - 1)]
            turns = [image.label_without != group for image in explained.images]
            if row % 2 and turns:
                expected.append((turns[-1], any(turns[:-1])))
            elif turns:
                others.append(any(turns))
    posts = posts.remove_columns("ner_tags").add_column("ner_tags", tags, feature=posts.features["ner_tags"])
    found = pointing.measure_pointing(pipe, posts, labels, mentions, showing)
    assert found["right"] == len(expected) > 3 and len(others) > 3
    assert found["shown"] == sum(name is not None for names in showing.values() for name in names) > found["right"]
    assert (found["framed"], found["another framed"]) == pytest.approx(tuple(np.mean(expected, axis=0)))
    assert found["others framed"] == pytest.approx(np.mean(others))
    assert 0 < found["several"] <= found["right"] and 0 <= found["removal"] <= 1
    # Of posts with more images than the model reads, the first are there.
    pipe.processor = SMCLProcessor(processor.image_processor, processor.tokenizer, max_images=1)
    found = pointing.measure_pointing(pipe, posts, labels, mentions, showing, "first")
    assert found["shown"] == sum(len(mentions[post["id"]]) for post in posts if len(post["images"]) == 1)
    assert found["several"] == 0


def test_tags_of_other_words_are_masked(data):
    posts = load_dataset(data, split="test")
    mentions = {post_id: [[0, 2], [3, 4]] for post_id in posts["id"]}
    inside, outside = (pointing.mask_tags(posts, mentions, where)["ner_tags"] for where in (True, False))
    for tags, kept, others in zip(posts["ner_tags"], inside, outside, strict=True):
        assert [tag if word in (0, 1, 3) else -100 for word, tag in enumerate(tags)] == kept
        assert [-100 if word in (0, 1, 3) else tag for word, tag in enumerate(tags)] == others


@pytest.mark.parametrize("system", ["smcl", "umt-mi"])
def test_explanations_and_confidences_of_a_trained_model_are_examined_once(
    known_posts, encoders, tmp_path, monkeypatch, system
):
    monkeypatch.setattr(runs, "_call", lambda arguments, folder, threads: call_here(arguments))
    mentions = known_posts / "image_dependent.json"
    argv = ["--dataset", str(known_posts), "--results", str(tmp_path), "--mentions", str(mentions), *encoders, *SMALL]
    argv += ["--seeds", "0", "--systems", system]
    pointing.main(argv)
    folder = next((tmp_path / "pointing").iterdir())
    printed = (folder / "table.md").read_text()
    ((found,),) = json.loads((folder / "table.json").read_text())["found"].values()
    names, test = json.loads(mentions.with_name("showing_images.json").read_text()), load_dataset(str(known_posts))
    expected = sum(name is not None for post_id in test["test"]["id"] for name in names[post_id])
    assert found["pointing"]["shown"] == expected and 0 <= found["pointing"]["right"] <= expected
    assert f"| {expected}.0 |" in printed
    errors = {name: value for name, value in found["calibration"].items() if name.endswith("_ece")}
    assert errors.keys() >= {"validation_ece", "test_ece"}
    assert all(0 <= error <= 1 for error in errors.values())
    monkeypatch.setattr(pointing, "examine", None)
    pointing.main(argv)
    assert (folder / "table.md").read_text() == printed


def test_without_knowing_what_images_show_it_is_said(known_posts, encoders, tmp_path, capsys):
    argv = ["--dataset", str(known_posts), "--results", str(tmp_path), *encoders]
    (tmp_path / "image_dependent.json").write_text("{}")
    for mentions in ([], ["--mentions", str(tmp_path / "image_dependent.json")]):
        with pytest.raises(SystemExit):
            pointing.main([*argv, *mentions])
        assert "with showing_images.json beside it" in capsys.readouterr().err

import json

import pytest
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from smcl.experiments import icon_demo, image_dependent


def test_demo_encoders_are_saved_where_smcl_can_take_them(tmp_path):
    posts = [["look", "at", "Joey", "!"], ["Niko", "again"]]
    icon_demo.save_text_encoder(posts, tmp_path / "text")
    accuracy = icon_demo.save_vision_encoder(tmp_path / "vision", seed=0, steps=20, batch_size=4)
    assert 0 <= accuracy <= 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "text")
    encoding = tokenizer([["Joey", "unheard"]], is_split_into_words=True)
    assert tokenizer.convert_ids_to_tokens(encoding["input_ids"][0]) == ["[CLS]", "Joey", "[UNK]", "[SEP]"]
    assert AutoModel.from_pretrained(tmp_path / "vision").config.image_size == icon_demo.IMAGE_SIZE
    assert AutoImageProcessor.from_pretrained(tmp_path / "vision").size["height"] == icon_demo.IMAGE_SIZE


def test_demo_table_tells_posts_of_one_and_two_names_apart():
    right = {"id": "a", "tokens": ["Joey", "!"], "gold": ["B-PER", "O"], "predicted": ["B-PER", "O"]}
    tags = ["B-PER", "B-LOC"]
    half = {"id": "b", "tokens": ["Joey", "Niko"], "gold": tags, "predicted": ["B-PER", "B-ORG"]}
    blind = [{**right, "predicted": ["O", "O"]}, half]
    table = icon_demo.format_results([right, half], blind, {"a": ["cat"], "b": ["noise", "logo"]})
    rows = {line[:34].strip(): line[34:].split() for line in table.split("\n") if line.startswith(("with", "images"))}
    assert rows["with images"] == ["2", "0.667"]
    assert rows["images taken away"] == ["2", "0.400"]
    assert rows["with images, posts of one name"] == ["1", "1.000"]
    assert rows["with images, posts of two names"] == ["1", "0.500"]
    assert "b, images: noise, logo\n  Joey/B-PER Niko/B-ORG" in table


def test_image_dependent_mentions_are_scored_apart(tmp_path):
    gold = ["B-PER", "I-PER", "O", "B-LOC", "O"]
    post = {"id": "1", "tokens": list("abcde"), "gold": gold, "predicted": ["B-PER", "O", "O", "B-LOC", "B-ORG"]}
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(post) + "\n")
    scores = image_dependent.score(path, {"1": [[0, 2]]})
    assert (scores["image-dependent"]["f1"], scores["image-dependent"]["PER_support"]) == (0, 1)
    assert (scores["others"]["precision"], scores["others"]["recall"]) == (0.5, 1)
    assert scores["all"]["f1"] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="1 posts of .*not in the file of --mentions"):
        image_dependent.score(path, {"2": []})


@pytest.mark.parametrize("mentions", [None, "not JSON", "[]", '{"2": []}'])
def test_mentions_that_are_not_of_the_data_set_end_with_one_line(mentions, tmp_path, capsys):
    path, predictions = tmp_path / "image_dependent.json", tmp_path / "predictions.jsonl"
    if mentions is not None:
        path.write_text(mentions)
    predictions.write_text(json.dumps({"id": "1", "tokens": ["a"], "gold": ["O"], "predicted": ["O"]}) + "\n")
    with pytest.raises(SystemExit):
        image_dependent.main(["--mentions", str(path), str(predictions)])
    assert "--mentions" in capsys.readouterr().err.splitlines()[-1]

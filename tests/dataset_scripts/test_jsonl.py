import json
import re

import pytest
from datasets import load_dataset
from PIL import Image

from smcl.dataset_scripts import jsonl

TAGGED = {"id": 1, "tokens": ["Joey", "sleeps"], "ner_tags": ["B-PET", "O"], "images": ["photos/1.JPG"]}
SPANS = {"id": 1, "text": "Joey sleeps", "spans": [{"start": 0, "end": 4, "label": "PET"}], "images": "./photos/1.jpg"}


@pytest.fixture
def convert(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "1.jpg")

    def run(text, **options):
        path = tmp_path / "posts.jsonl"
        path.write_text(text, encoding="utf-8")
        report = jsonl.convert(tmp_path / "out", {"train": path}, **options)
        posts = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
        return report, posts

    return run


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (json.dumps(TAGGED), {}),
        (json.dumps(SPANS) + "\n\n", {}),
        ("\ufeff" + json.dumps([TAGGED], indent=1), {}),
        (json.dumps({**SPANS, "spans": [[0, 4, "PET"]]}), {}),
        (json.dumps({"id": 1, "words": ["Joey", "sleeps"], "y": ["S-PET", "O"], "img": "photos/1.jpg"}),
         {"columns": ["tokens=words", "ner_tags=y", "images=img"], "tag_scheme": "iobes"}),
        (json.dumps({"id": 1, "text": "Joey sleeps", "label": [[0, 4, "PET"]], "images": [{"path": "photos/1.jpg"}]}),
         {"columns": "spans=label"}),
    ],
)  # fmt: skip
def test_tags_and_spans_become_the_same_posts(convert, text, options):
    report, posts = convert(text, **options)
    assert posts["tokens"][:] == [["Joey", "sleeps"]]
    assert posts.features["ner_tags"].feature.int2str(posts[0]["ner_tags"]) == ["B-PET", "O"]
    assert (posts[0]["id"], len(posts[0]["images"])) == ("1", 1)
    assert report["splits"]["train"]["missing_images"]["count"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": "['Joey', 'sleeps']"}, "`tokens` must be a list of words, got the text"),
        ({"ner_tags": "B-PET O"}, "`ner_tags` must be a list with the name"),
        ({"ner_tags": [1, 0]}, "`ner_tags` must be a list with the name"),
        ({"ner_tags": ["O"]}, "2 words and 1 tags"),
        ({"ner_tags": ["S-PET", "O"]}, "expected the labels O, B-X.*--tag_scheme"),
        ({"images": ["../1.jpg"]}, "or below it"),
        ({"images": ["/etc/1.jpg"]}, "or below it"),
        ({"images": ["https://host/1.jpg"]}, "Download images first"),
        ({"tokens": None, "text": "Joey"}, "a `text` needs `spans`"),
        ({"images": None, "image": "1.jpg"}, None),
        ({"spans": [[5, 11, "PET"]]}, "`spans` mark other words than `ner_tags`"),
        ({"text": "Joey  sleeps", "spans": [[0, 12, "PET"]]}, "`spans` mark other words than `ner_tags`"),
        ({"answer": "reject"}, "its `answer` is 'reject'"),
    ],
)
def test_records_that_can_not_be_used_are_named(convert, change, message):
    record = {name: value for name, value in (TAGGED | change).items() if value is not None}
    with pytest.raises(ValueError, match=message or "Give `--columns images=image`"):
        convert(json.dumps(record))


def test_posts_without_an_id_are_told_apart_from_all_others(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(TAGGED | {"id": None, "images": []}) + "\n")
    files = {split: tmp_path / "a.jsonl" for split in ("train", "test")}
    assert jsonl.convert(tmp_path / "out", files)["duplicate_ids"] == {}
    lines = [json.dumps(TAGGED | {"id": post_id, "images": []}) + "\n" for post_id in ("train-2", "")]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    with pytest.raises(ValueError, match="a.jsonl:2: this post has no id of its own, and 'train-2'.*Give every post"):
        jsonl.convert(tmp_path / "out", files)


@pytest.mark.parametrize("spans", [[[0, 4, "PET"]], [], None, [[0, 1]], "x"])
def test_spans_beside_tags_that_agree_or_are_no_spans_are_passed_over(convert, spans):
    _, posts = convert(json.dumps(TAGGED | {"spans": spans}))
    assert posts.features["ner_tags"].feature.int2str(posts[0]["ner_tags"]) == ["B-PET", "O"]


@pytest.mark.parametrize("text", ["{", "hello", json.dumps(TAGGED) + "\n[1"])
def test_lines_that_are_no_json_are_named(convert, text):
    with pytest.raises(ValueError, match=r"posts.jsonl:\d: expected a JSON object"):
        convert(text)


def test_the_command_names_a_wrong_column(tmp_path, capsys):
    with pytest.raises(SystemExit):
        jsonl.main(["--train", "x", "--output", str(tmp_path / "out"), "--columns", "words=tokens"])
    assert "no column 'words' in the schema" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["media", "image_id", "file"])
def test_images_under_another_key_are_not_left_out_without_a_word(convert, key):
    record = {"tokens": ["EU", "x"], "ner_tags": ["B-ORG", "O"], key: ["photos/1.jpg"]}
    with pytest.raises(ValueError, match=f"no images in a column `images`, but '{key}'"):
        convert(json.dumps(record))
    # They may be something else beside images.
    _, posts = convert(json.dumps(record | {"images": ["photos/1.jpg"]}))
    assert len(posts[0]["images"]) == 1


def test_given_words_are_kept_beside_spans_of_their_text(convert):
    record = {"tokens": ["don't", "@joey_r"], "text": "don't @joey_r", "spans": [[6, 13, "PER"]]}
    _, posts = convert(json.dumps(record))
    assert posts["tokens"][:] == [["don't", "@joey_r"]]
    assert posts.features["ner_tags"].feature.int2str(posts[0]["ner_tags"]) == ["O", "B-PER"]
    with pytest.raises(ValueError, match="posts.jsonl:1: the words .* don't stand in the text"):
        convert(json.dumps(record | {"tokens": ["another"]}))
    # Numbers of words.
    with pytest.raises(ValueError, match="posts.jsonl:1: `spans` begin or end within `tokens`"):
        convert(json.dumps(record | {"spans": [[0, 2, "PER"]]}))


def test_errors_stand_on_a_line_of_their_own(tmp_path, capsys):
    path = tmp_path / "posts.jsonl"
    path.write_text('{"tokens": ["a"], "ner_tags": ["O"]}\n{"tokens": 3}\n')
    with pytest.raises(SystemExit):
        jsonl.main(["--train", str(path), "--output", str(tmp_path / "out")])
    assert re.search(r"\n\S+: \S+posts.jsonl:2: ", capsys.readouterr().err)

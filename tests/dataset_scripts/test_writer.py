import io
import json

import pytest
from datasets import load_dataset
from PIL import Image

from smcl.dataset_scripts import writer
from smcl.dataset_scripts.command_line import CommandParser
from smcl.dataset_scripts.report import count_illegal_transitions
from smcl.dataset_scripts.schema import FEATURES, DataError, make_post
from smcl.dataset_scripts.writer import run_command, write_dataset


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, format="PNG")
    return buffer.getvalue()


FILES = {"red.png": ("ok", picture("red")), "cut.png": ("repaired", picture("blue")), "bad.png": ("broken", None)}


def read(name):
    return FILES.get(name, ("missing", None))


def make_splits():
    def post(post_id, tokens, tags, images=()):
        return make_post(post_id, tokens.split(" "), tags.split(), list(images), "demo", "here")

    return {
        "train": [
            post("1", "Niko likes  Rio", "B-PER O O B-LOC", ["red.png", "bad.png", "cut.png"]),
            post("2", "New York Times", "B-LOC I-LOC I-ORG", ["lost.png"]),
            post("2", "\u2028 \u200d", "I-OTHER B-OTHER"),
        ],
        "validation": [post("3", "hi", "O", ["red.png"])],
        "test": [post("1", "Acme", "B-ORG")],
    }


def load(folder, tmp_path):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


def test_what_was_written_is_what_load_dataset_reads(tmp_path):
    output = tmp_path / "out"
    write_dataset(output, "demo", make_splits(), read)
    (output / "image_kinds.json").write_text("{}")
    data = load(output, tmp_path)
    assert list(data) == ["train", "validation", "test"]
    assert all(split.features == FEATURES for split in data.values())
    assert data["train"]["id"][:] == ["1", "2", "2"]
    first, _, last = data["train"]
    assert first["tokens"] == ["Niko", "likes", "", "Rio"]
    assert FEATURES["ner_tags"].feature.int2str(first["ner_tags"]) == ["B-PER", "O", "O", "B-LOC"]
    assert [image.getpixel((0, 0)) for image in first["images"]] == [(255, 0, 0), (0, 0, 255)]
    assert last["tokens"] == ["\u2028", "\u200d"]
    assert last["images"] == []
    assert last["source"] == "demo"


def test_image_bytes_are_embedded_under_their_file_names(tmp_path):
    write_dataset(tmp_path / "out", "demo", make_splits(), read)
    images = load(tmp_path / "out", tmp_path)["train"].with_format("arrow")[0]["images"].to_pylist()[0]
    assert [image["path"] for image in images] == ["red.png", "cut.png"]
    assert images[0]["bytes"] == FILES["red.png"][1]


def test_the_report_counts_everything(tmp_path):
    report = write_dataset(tmp_path, "demo", make_splits(), read)
    train = report["splits"]["train"]
    assert (train["posts"], train["words"], train["images"]) == (3, 9, 2)
    assert train["entities"] == {"PER": 1, "LOC": 2, "ORG": 0, "MISC": 1, "total": 4}
    assert train["images_per_post"] == {"0": 2, "2": 1}
    assert train["missing_images"] == {"count": 1, "files": ["2: lost.png"]}
    assert train["repaired_images"] == {"count": 1, "files": ["1: cut.png"]}
    assert train["broken_images"] == {"count": 1, "files": ["1: bad.png"]}
    assert train["illegal_transitions"] == {"count": 2, "posts": ["2", "2"]}
    assert train["mapped_tags"] == {"B-OTHER -> B-MISC": 1, "I-OTHER -> I-MISC": 1}
    assert report["duplicate_ids"] == {"1": ["train", "test"], "2": ["train", "train"]}
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report


@pytest.mark.parametrize(
    ("tags", "count"),
    [("B-PER I-PER I-PER O", 0), ("I-PER O", 1), ("O I-PER", 1), ("B-PER I-LOC I-LOC", 1), ("B-PER B-PER I-PER", 0)],
)
def test_illegal_transitions_are_counted(tags, count):
    assert count_illegal_transitions(tags.split()) == count


def test_the_digest_follows_the_content(tmp_path):
    def digests(name, splits, reader=read):
        report = write_dataset(tmp_path / name, name, splits, reader)
        return [split["sha256"] for split in report["splits"].values()]

    before = digests("a", make_splits())
    assert digests("b", make_splits()) == before
    other_image = digests(
        "c", make_splits(), lambda name: ("ok", picture("green")) if name == "red.png" else read(name)
    )
    assert [old == new for old, new in zip(before, other_image, strict=True)] == [False, False, True]
    splits = make_splits()
    splits["test"][0].tokens[0] = "acme"
    assert digests("d", splits)[:2] == before[:2]
    assert digests("d", splits)[2] != before[2]


def test_posts_beyond_one_batch_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "BATCH_SIZE", 2)
    splits = make_splits()
    splits["train"] = [make_post(str(i), ["hi"], ["O"], ["red.png"], "demo", "here") for i in range(5)]
    write_dataset(tmp_path / "out", "demo", splits, read)
    assert load(tmp_path / "out", tmp_path)["train"]["id"][:] == ["0", "1", "2", "3", "4"]


def test_a_second_run_replaces_its_own_files_only(tmp_path):
    output = tmp_path / "out"
    write_dataset(output, "demo", make_splits(), read)
    (output / "notes.txt").write_text("mine")
    splits = make_splits()
    splits["train"] = splits["train"][:1]
    write_dataset(output, "demo", splits, read)
    assert (output / "notes.txt").read_text() == "mine"
    assert len(load(output, tmp_path)["train"]) == 1


def test_an_interrupted_run_leaves_the_earlier_split(tmp_path):
    output = tmp_path / "out"
    write_dataset(output, "demo", make_splits(), read)

    def fail(name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(output, "demo", make_splits(), fail)
    assert len(load(output, tmp_path)["train"]) == 3


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_refused_before_anything_is_written(tmp_path, split):
    with pytest.raises(ValueError, match=f"The {split} split of demo has no posts"):
        write_dataset(tmp_path / "out", "demo", {**make_splits(), split: []}, read)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="found a file in the way"):
        write_dataset(tmp_path / "out", "demo", make_splits(), read)


def test_the_command_prints_the_report(tmp_path, capsys):
    run_command(CommandParser(), write_dataset, output=tmp_path, name="demo", splits=make_splits(), read=read)
    rows = {line[:20].strip(): line[20:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["posts"] == ["3", "1", "1", "5"]
    assert rows["entities"] == ["4", "0", "1", "5"]
    assert rows["missing images"] == ["1", "0", "0", "1"]
    assert rows["posts with 2"] == ["1", "0", "0", "1"]


def test_the_command_ends_with_the_message_alone(capsys):
    def convert():
        raise DataError("No such thing. Look elsewhere.")

    with pytest.raises(SystemExit) as stop:
        run_command(CommandParser(prog="convert"), convert)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "convert: No such thing. Look elsewhere.\n"


def test_files_of_other_splits_are_not_left_to_be_read_along(tmp_path):
    write_dataset(tmp_path, "demo", make_splits(), read)
    splits = make_splits()
    del splits["test"]
    with pytest.raises(DataError, match=r"files of other splits, such as test-00000"):
        write_dataset(tmp_path, "demo", splits, read)


@pytest.mark.parametrize("split", ["../evil", "my-split", "", "a b"])
def test_splits_have_names_that_can_be_loaded(tmp_path, split):
    with pytest.raises(DataError, match="split's name is of letters, digits and underscores"):
        write_dataset(tmp_path / "out", "demo", {split: make_splits()["train"]}, read)
    assert not list(tmp_path.rglob("*.parquet"))

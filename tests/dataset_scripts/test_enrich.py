import base64
import io
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from chat_server import KEY
from datasets import Dataset, Features, List, Value, load_dataset
from datasets import Image as DatasetImage
from PIL import Image

from smcl.dataset_scripts import annotators, enrich, knowledge
from smcl.dataset_scripts.context import CONTEXT_FEATURES
from smcl.dataset_scripts.enrich import main
from smcl.dataset_scripts.fingerprints import image_digest
from smcl.dataset_scripts.schema import FEATURES, features_of
from smcl.dataset_scripts.tag_schemes import bio2_labels
from smcl.experiments.plan import data_digests
from smcl.images_smcl import load_image
from smcl.run_ner_multiimage import main as train

SPLITS = ("train", "validation", "test")
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


def picture(colour, size=(20, 12)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{colour}.png"}


def write(folder, images=None):
    """A data set of three splits; a post without image, one with three, and one with a broken second image."""
    images = images or list(map(picture, COLOURS))
    broken = {"bytes": b"no image", "path": "broken.png"}
    shown = {
        "train": [images[:3], [], images[3:4]],
        "validation": [[images[4], broken]],
        "test": [[images[5]], [images[0]]],
    }
    for split, posts in shown.items():
        rows = [
            {
                "id": f"{split}{i}",
                "tokens": ["Leo", split, str(i)],
                "ner_tags": [1, 0, 0],
                "images": post,
                "source": "demo",
            }
            for i, post in enumerate(posts)
        ]
        Dataset.from_list(rows, features=FEATURES).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    splits = {split: {"sha256": split * 3} for split in shown}
    (folder / "report.json").write_text(json.dumps({"name": "demo", "splits": splits}))
    return folder


@pytest.fixture
def posts(tmp_path):
    return write(tmp_path / "posts")


@pytest.fixture
def run(posts, tmp_path, capsys):
    """Run the command; return its exit status, the columns of all splits, the report, and what it printed."""

    def run(*arguments, source=posts, output="out", cache="cache"):
        places = ["--input", source, "--output", tmp_path / output, "--cache", tmp_path / cache]
        status = 0
        try:
            main([str(argument) for argument in [*places, *arguments]])
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        if status == 2:
            return status, None, None, printed.err.strip().split("\n")[-1]
        data = load_dataset(str(tmp_path / output), cache_dir=str(tmp_path / "hf"))
        report = json.loads((tmp_path / output / "report.json").read_text(encoding="utf-8"))
        return status, data, report, printed.out + printed.err

    return run


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def everything(models):
    return ["--objects", models["detector"], "--threshold", "0.2", "--regions", models["regions"], "--captions",
            models["captioner"], "--ocr", models["chat"], "--knowledge", models["language_model"]]  # fmt: skip


def test_all_columns_are_added_and_nothing_else_changes(run, models, posts, monkeypatch):
    monkeypatch.setattr(knowledge, "MAX_NEW_TOKENS", 5)
    status, data, report, _ = run(*everything(models))
    assert status == 0
    before = load_dataset(str(posts), cache_dir=str(posts / ".hf"))
    assert list(data) == list(before)
    for split in data:
        assert data[split].features == FEATURES | CONTEXT_FEATURES
        old, new = (d[split].select_columns(list(FEATURES)).with_format("arrow")[:] for d in (before, data))
        assert old.equals(new)
    first, second, _ = data["train"]
    for column in ("objects", "regions", "captions", "image_text"):
        # The first image only; nothing of a post without images.
        assert (first[column][0] is None, first[column][1:], second[column]) == (False, [None, None], [])
    assert all(isinstance(text, str) and text for text in data["train"]["knowledge"])
    assert report["splits"] == {split: {"sha256": split * 3} for split in data}
    assert list(report["context"]) == list(CONTEXT_FEATURES)
    about = report["context"]["objects"]
    assert about["settings"] == {"kind": "detector", "threshold": 0.2, "max_objects": 20}
    assert (about["made_by"], about["images"], about["failed"]["count"]) == ("detector", 5, 0)
    assert report["context"]["knowledge"]["posts"] == 6
    assert str(Path(models["detector"]).parent) not in json.dumps(report)


def test_row_groups_are_those_of_the_converters(run, models, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(enrich, "BATCH_SIZE", 2)
    run("--objects", models["classifier"])
    file = pq.ParquetFile(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 1]


def kill_after(calls, arguments):
    """What a child process does: it kills itself in the middle of its work, past any clean-up."""
    annotate, left = annotators.ImageModel.annotate, iter(range(calls))

    def counted(*args):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return annotate(*args)

    annotators.ImageModel.annotate = counted
    main(arguments)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_run_that_is_killed_twice_and_run_again_gives_the_bytes_of_one_run(run, models, posts, tmp_path):
    arguments = ["--objects", models["detector"], "--threshold", "0.2", "--captions", models["captioner"]]
    places = ["--input", str(posts), "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    for calls, total in ((2, 2), (4, 6)):
        child = multiprocessing.get_context("fork").Process(target=kill_after, args=(calls, places + arguments))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        # Nothing is lost but what was under way.
        lines = [line for path in (tmp_path / "cache").rglob("*.jsonl") for line in path.read_text().split("\n")]
        assert sum(line.endswith("}") for line in lines) == total
        # As if it had been killed within a line.
        kept = max((tmp_path / "cache").rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        kept.write_bytes(kept.read_bytes() + b'{"key": "ab')
    assert not (tmp_path / "out").exists()
    assert run(*arguments)[0] == 0
    assert run(*arguments, output="whole", cache="other")[0] == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_an_unchanged_second_run_calls_no_model(run, models, tmp_path, monkeypatch):
    monkeypatch.setattr(knowledge, "MAX_NEW_TOKENS", 5)
    run(*everything(models))
    before = files(tmp_path / "out")

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(annotators, "load", load)
    monkeypatch.setattr(knowledge, "load", load)
    assert run(*everything(models))[0] == 0
    assert files(tmp_path / "out") == before


def test_the_same_image_costs_once_and_a_changed_image_is_read_again(run, models, tmp_path, monkeypatch):
    seen = []
    annotate = annotators.ImageModel.annotate

    def noted(self, items):
        seen.extend(image_digest(item["image"]) for item in items)
        return annotate(self, items)

    monkeypatch.setattr(annotators.ImageModel, "annotate", noted)
    run("--objects", models["classifier"])
    # Red is shown in train and in test.
    assert len(seen) == len(set(seen)) == 4
    images = [picture(colour) for colour in COLOURS[:5]] + [picture("pink")]
    run("--objects", models["classifier"], source=write(tmp_path / "changed", images))
    assert seen[4:] == [image_digest(images[5])]


def test_another_model_or_setting_has_values_of_its_own(run, models, tmp_path):
    for arguments in (["--objects", models["classifier"]], ["--objects", models["detector"]]):
        run(*arguments)
        run(*arguments, "--max_objects", "1")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_batches_give_what_single_images_give(run, models):
    arguments = ["--objects", models["classifier"], "--images", "all", "--on_failed", "empty"]
    one = run(*arguments)[1]["train"]["objects"][:]
    several = run(*arguments, "--batch_size", "4", output="several", cache="other")[1]["train"]["objects"][:]
    for row, other in zip(one, several, strict=True):
        for entry, other_entry in zip(row, other, strict=True):
            scores = [[found["score"] for found in value] for value in (entry, other_entry)]
            assert scores[0] == pytest.approx(scores[1], abs=2e-4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_image_that_fails_is_none_named_and_counted(run, models, batch_size):
    arguments = ["--objects", models["classifier"], "--images", "all", "--batch_size", batch_size]
    status, data, report, printed = run(*arguments)
    # One of seven is more than 1 %.
    assert status == 3
    assert "objects: 8 images by classifier, 1 without a value" in printed
    assert [entry is None for entry in data["validation"]["objects"][0]] == [False, True]
    failed = report["context"]["objects"]["failed"]
    assert (failed["count"], failed["became"]) == (1, "none")
    assert failed["of"][0].startswith("validation0: broken.png: 'broken.png' is no image")
    status, data, report, _ = run(*arguments, "--on_failed", "empty")
    assert status == 0
    assert data["validation"]["objects"][0][1] == []
    assert report["context"]["objects"]["failed"]["became"] == "empty"


def test_a_model_that_fails_on_every_image_stops_the_run(run, models, tmp_path, monkeypatch):
    def read(self, batch):
        raise TypeError("no such input")

    monkeypatch.setattr(annotators.Classifier, "read", read)
    monkeypatch.setattr(enrich, "FAILED_AT_ONCE", 3)
    status, _, _, message = run("--objects", models["classifier"])
    assert (status, "The first 3 all failed: TypeError: no such input" in message) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_trial_reads_the_first_posts_and_keeps_all(run, models):
    _, data, report, _ = run("--objects", models["classifier"], "--limit", "1")
    assert [[entry is None for entry in row] for row in data["train"]["objects"]] == [[False, True, True], [], [True]]
    assert (report["context"]["objects"]["images"], report["context"]["objects"]["limit"]) == (3, 1)


def test_columns_are_added_one_after_the_other(run, models, tmp_path):
    _, first, before, _ = run("--objects", models["classifier"], "--captions", "template")
    out = tmp_path / "out"
    status, data, report, _ = run("--knowledge", "template", source=out, output="more")
    assert status == 0
    assert data["train"]["objects"][:] == first["train"]["objects"][:]
    assert report["context"]["objects"] == before["context"]["objects"]
    assert report["context"]["knowledge"]["made_by"] == "a template from objects by classifier"
    assert data["train"]["captions"][0][0][0].startswith("a photo of ")
    assert data["train"]["knowledge"][0].startswith("The picture shows ")
    assert data["train"]["knowledge"][1] == ""
    # Again, by another model: in place of the column that was there.
    _, data, report, _ = run(
        "--objects", models["detector"], "--threshold", "0.9", source=tmp_path / "more", output="last"
    )
    assert [row[:1] for row in data["test"]["objects"]] == [[[]], [[]]]
    assert (report["context"]["objects"]["made_by"], "captions" in report["context"]) == ("detector", True)


def test_columns_of_files_say_who_made_them_and_count_what_they_lack(run, tmp_path):
    lines = [{"sha256": image_digest(picture("red")).hex(), "objects": [["owl", 0.5]]}]
    lines += [{"file_name": f"{colour}.png", "objects": []} for colour in ("white", "black")]
    path = tmp_path / "vinvl.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, data, report, printed = run("--objects", path, "--made_by", "objects=VinVL", "--captions", "template")
    assert status == 3
    assert "objects: 5 images by VinVL, 1 without a value\n  test0: yellow.png: not in the file" in printed
    assert data["train"]["captions"][:] == [[["a photo of an owl"], None, None], [], [[]]]
    assert data["test"]["objects"][0] == [None]
    assert report["context"]["captions"]["made_by"] == "a template from objects by VinVL"


def test_the_digests_of_a_table_follow_the_columns(run, models, posts, tmp_path):
    assert data_digests(str(posts)) == {split: split * 3 for split in SPLITS}
    run("--objects", models["classifier"])
    one = data_digests(str(tmp_path / "out"))
    assert {split: one[split] for split in SPLITS} == data_digests(str(posts))
    run("--objects", models["classifier"], "--max_objects", "1")
    other = data_digests(str(tmp_path / "out"))
    assert {name for name in one if one[name] != other[name]} == {f"{split} objects" for split in SPLITS}
    (posts / "report.json").unlink()
    run("--objects", models["classifier"])
    digests = data_digests(str(tmp_path / "out"))
    assert {f"{split} objects" for split in SPLITS} < digests.keys() and "report.json" not in digests
    files = digests.keys() - {f"{split} objects" for split in SPLITS}
    assert len(files) == len(SPLITS) and all(name.endswith(".parquet") for name in files)


def test_knowledge_comes_from_an_endpoint_and_the_key_is_nowhere(run, models, endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("SMCL_API_KEY", KEY)
    arguments = ["--captions", models["captioner"], "--knowledge", "some-model", "--knowledge_url", endpoint.url]
    endpoint.script = [429, 200, 400]
    status, data, report, printed = run(*arguments, "--make_examples", "2")
    assert status == 3
    assert data["train"]["knowledge"][:] == ["Messi: PER", None, "Messi: PER"]
    assert "knowledge: 6 posts by some-model, 1 without a value" in printed
    assert report["context"]["knowledge"]["settings"]["url"] == endpoint.url
    # Only the post that was refused is asked about again.
    asked = len(endpoint.seen)
    status, data, _, more = run(*arguments, "--make_examples", "2")
    assert (status, len(endpoint.seen)) == (0, asked + 1)
    endpoint.script, endpoint.answer = [401], "other"
    status, _, _, message = run(*arguments, "--num_examples", "1", "--make_examples", "2")
    assert (status, "run the same command again" in message) == (2, True)
    assert KEY not in printed + more + message
    assert not any(KEY.encode() in content for content in files(tmp_path).values())


def test_examples_that_were_changed_by_hand_are_not_overwritten(run, models, endpoint, tmp_path):
    arguments = ["--captions", models["captioner"], "--knowledge", "m", "--knowledge_url", endpoint.url]
    assert run(*arguments, "--make_examples", "3")[0] == 0
    path = tmp_path / "out" / "examples.jsonl"
    assert path.read_text().count("Leo: PER") == 3
    assert run(*arguments, "--make_examples", "3")[0] == 0
    path.write_text(path.read_text().replace("Leo: PER", "Leo: PER, a man"))
    assert "perhaps changed by hand" in run(*arguments, "--make_examples", "3")[3]
    assert run(*arguments, "--examples", path)[0] == 0
    assert any("Leo: PER, a man" in body["messages"][0]["content"] for _, _, body in endpoint.seen)
    path.write_text('{"id": "test0", "answer": "x"}')
    assert "not in the train split, by id or by words: test0" in run(*arguments, "--examples", path)[3]


def test_a_system_that_reads_no_context_does_not_see_it(run, models, data, encoders, tmp_path):
    columns = ["--objects", models["classifier"], "--captions", "template", "--knowledge", "template"]
    assert run(*columns, source=data)[0] == 0
    training = ["--do_train", "--do_predict", "--max_steps", "2", "--use_cpu"]
    for name, dataset in (("before", data), ("after", str(tmp_path / "out"))):
        train(["--dataset", dataset, *encoders, "--output_dir", str(tmp_path / name), *training])
    for file in ("model.safetensors", "predictions.jsonl"):
        assert (tmp_path / "before" / file).read_bytes() == (tmp_path / "after" / file).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to add"),
        (["--objects", "no.jsonl"], "There is no file no.jsonl"),
        (["--objects", "{classifier}", "--batch_size", "0"], "--batch_size: expected at least 1, got 0"),
        (["--objects", "{classifier}", "--limit", "0"], "--limit: expected at least 1, got 0"),
        (["--objects", "{classifier}", "--threshold", "50"], "expected a probability from 0 to 1, got 50.0"),
        (
            ["--captions", "{captioner}", "--knowledge_url", "http://h/v1"],
            "--knowledge_url is a setting of a model",
        ),
        (
            ["--objects", "{classifier}", "--make_examples", "3"],
            "Give --knowledge MODEL, or leave",
        ),
        (["--objects", "x.jsonl", "--threshold", "0.5"], "--threshold is a setting of a model. Give --objects MODEL"),
        (["--objects", "{classifier}", "--made_by", "objects=me"], "a column that comes from a FILE.jsonl"),
        (["--knowledge", "{language_model}", "--make_examples", "3", "--examples", "x"], "Expected one of them"),
        (["--objects", "{classifier}", "--device", "toaster"], "--device toaster can't be used"),
        (["--objects", "{classifier}", "--made_by", "captions=me"], "--made_by: expected COLUMN=NAME"),
        (["--objects", "template"], "There is no model template"),
        (["--captions", "template"], "Add --objects MODEL to the same command"),
        (["--knowledge", "template"], "Add --objects MODEL to the same command"),
        (["--knowledge", "{language_model}"], "Add --captions MODEL to the same command"),
        (
            ["--objects", "{classifier}", "--regions", "{classifier}"],
            "AutoModelForZeroShotObjectDetection does not know",
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_before_any_image_is_read(run, models, tmp_path, arguments, message):
    status, _, _, printed = run(*(argument.format(**models) for argument in arguments))
    assert status == 2
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_the_input_and_other_data_sets_are_never_written_over(run, models, posts, tmp_path):
    for output in ("posts", "posts/data", "."):
        assert "Choose a new folder" in run("--objects", models["classifier"], output=output)[3]
    (tmp_path / "other" / "data").mkdir(parents=True)
    (tmp_path / "other" / "data" / "dev-0.parquet").write_text("")
    assert "another data set, such as dev-0.parquet" in run("--objects", models["classifier"], output="other")[3]
    (tmp_path / "file").write_text("")
    assert "found a file in the way" in run("--objects", models["classifier"], output="file")[3]
    (posts / "report.json").write_text("{")
    assert "found no JSON of one" in run("--objects", models["classifier"])[3]
    (tmp_path / "empty").mkdir()
    assert "no data set" in run("--objects", models["classifier"], source=tmp_path / "empty")[3]
    assert "Name it by `--columns" in run("--objects", models["classifier"], source=models["classifier"])[3]
    assert "Check --input" in run("--objects", models["classifier"], source=tmp_path / "nothing")[3]


def test_images_by_their_paths_are_those_beside_the_data_set(run, posts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, colour in ((posts, "red"), (tmp_path, "blue")):
        (folder / "1.png").write_bytes(picture(colour)["bytes"])
    values = [{"sha256": image_digest(picture(colour)).hex(), "captions": [colour]} for colour in ("red", "blue")]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    row = {"id": "1", "tokens": ["Leo"], "ner_tags": [1], "source": "demo"}
    features = FEATURES.copy()
    uri = "data:image/png;base64," + base64.b64encode(picture("red")["bytes"]).decode()
    for number, (images, feature) in enumerate(
        [
            ([uri], List(Value("string"))),
            ([{"bytes": None, "path": "1.png"}], features["images"]),
            ({"bytes": None, "path": "1.png"}, DatasetImage()),
            (["1.png"], List(Value("string"))),
            ("1.png", Value("string")),
        ]
    ):
        data = Dataset.from_list([row | {"images": images}], features=Features(features | {"images": feature}))
        for split in SPLITS:
            data.to_parquet(posts / "data" / f"{split}-00000-of-00001.parquet")
        status, found, _, _ = run("--captions", tmp_path / "captions.jsonl", output=f"out{number}")
        assert status == 0 and found["train"]["captions"][:] == [[["red"]]]
        (file,) = found["train"].cast_column("images", List(DatasetImage(decode=False)))[0]["images"]
        assert load_image(file).getpixel((0, 0)) == (255, 0, 0)
    (posts / "1.png").unlink()
    status, _, _, printed = run("--captions", tmp_path / "captions.jsonl", output="without")
    assert status == 2 and "split train, row 0: " in printed and "1.png: No such file" in printed


def test_a_file_says_nothing_of_images_that_share_a_name_nor_of_posts_without_an_id(run, tmp_path):
    rows = [{"id": None, "images": [picture(colour) | {"path": "0.png"}]} for colour in ("red", "blue")]
    features = Features({"id": Value("string"), "images": List(DatasetImage())})
    (tmp_path / "own" / "data").mkdir(parents=True)
    table = Dataset.from_list([features.encode_example(row) for row in rows], features=features)
    table.to_parquet(tmp_path / "own" / "data" / "train.parquet")
    (tmp_path / "said.jsonl").write_text('{"file_name": "0.png", "captions": ["a cat"]}\n')
    status, data, report, _ = run("--captions", tmp_path / "said.jsonl", source=tmp_path / "own")
    assert (status, data["train"]["captions"][:]) == (3, [[None], [None]])
    assert "train-2: 0.png: other images have this name" in report["context"]["captions"]["failed"]["of"][1]
    (tmp_path / "said.jsonl").write_text('{"id": "None", "knowledge": "a cat"}\n')
    status, data, _, _ = run("--knowledge", tmp_path / "said.jsonl", source=tmp_path / "own", output="known")
    assert (status, data["train"]["knowledge"][:]) == (3, [None, None])


def test_columns_of_other_names_are_read_and_written_by_ours(run, models, posts, tmp_path):
    for split, rows in load_dataset(str(posts)).items():
        rows.rename_columns({"id": "key", "images": "photos"}).to_parquet(tmp_path / "own" / f"{split}.parquet")
    options = ("--objects", models["classifier"])
    said = run(*options, source=tmp_path / "own")[3]
    assert "lacks; it has key, ner_tags, photos, source, tokens. Name it by `--columns images=NAME`." in said
    assert "has no column 'pictures'" in run(*options, "--columns", "images=pictures", source=tmp_path / "own")[3]
    _, named, _, _ = run(*options, "--columns", "images=photos", "id=key", source=tmp_path / "own")
    _, usual, _, _ = run(*options, output="usual")
    assert named["train"].features == usual["train"].features
    for split in SPLITS:
        assert named[split].with_format("arrow")[:].equals(usual[split].with_format("arrow")[:])


def test_files_that_mean_other_tags_by_the_same_numbers_are_not_copied(run, tmp_path):
    own, line = tmp_path / "own", {"file_name": "red.png", "captions": ["red"]}
    (tmp_path / "captions.jsonl").write_text(json.dumps(line) + "\n")
    for split, types in (("train", "PER LOC"), ("validation", "LOC PER")):
        features = features_of(bio2_labels(types.split()))
        row = {"id": "1", "tokens": ["Leo"], "ner_tags": ["B-PER"], "images": [picture("red")], "source": "demo"}
        posts = Dataset.from_list([features.encode_example(row)], features=features)
        posts.rename_column("ner_tags", "tags").to_parquet(own / f"{split}.parquet")
    status, _, _, printed = run("--captions", tmp_path / "captions.jsonl", source=own)
    assert status == 2 and "['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER'], but" in printed and "`tags`" in printed


def test_columns_that_only_some_files_have_are_copied_and_null_elsewhere(run, tmp_path):
    own, line = tmp_path / "own", {"file_name": "red.png", "captions": ["red"]}
    (tmp_path / "captions.jsonl").write_text(json.dumps(line) + "\n")
    for split, more in (("train", {}), ("validation", {"language": "en"})):
        row = {"id": "1", "tokens": ["Leo"], "ner_tags": [1], "images": [picture("red")], "source": "demo"} | more
        features = Features(FEATURES | {name: Value("string") for name in more})
        Dataset.from_list([row], features=features).to_parquet(own / f"{split}.parquet")
    status, data, _, _ = run("--captions", tmp_path / "captions.jsonl", source=own)
    assert status == 0
    assert {split: part["language"][:] for split, part in data.items()} == {"train": [None], "validation": ["en"]}

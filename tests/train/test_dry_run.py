import os

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset

from smcl.dataset_scripts.schema import FEATURES
from smcl.run_ner_multiimage import main
from smcl.train.trainer import SMCLTrainer


@pytest.fixture
def run(data, encoders, tmp_path):
    """Call a dry run; its output folder must not come to be."""

    def call(*arguments, dataset=data):
        common = ["--output_dir", str(tmp_path / "output"), "--use_cpu", "--disable_tqdm", "true", "--dry_run"]
        common += ["--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "4"]
        measured = main(["--dataset", str(dataset), *encoders, *common, *arguments])
        assert os.listdir(tmp_path) == [name for name in os.listdir(tmp_path) if name != "output"]
        return measured

    return call


@pytest.fixture
def batches(monkeypatch):
    """The shapes of what the model is given, in order."""
    seen = []
    for name in ("training_step", "prediction_step"):
        original = getattr(SMCLTrainer, name)

        def note(self, model, inputs, *args, _name=name, _original=original, **kwargs):
            seen.append((_name, {key: tuple(value.shape) for key, value in inputs.items()}))
            return _original(self, model, inputs, *args, **kwargs)

        monkeypatch.setattr(SMCLTrainer, name, note)
    return seen


ALL = ["--do_train", "--do_eval", "--do_predict", "--num_train_epochs", "5"]


def test_report_tells_data_model_memory_and_time(run, data, capsys):
    measured = run(*ALL)
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    posts = load_dataset(data, split="train")
    names = posts.features["ner_tags"].feature.names
    tags = [names[tag] for tags in posts["ner_tags"] for tag in tags]
    counts = [24, len(tags), sum(map(len, posts["images"]))]
    counts += [tags.count(f"B-{name}") for name in rows["split"][3:]]
    assert rows["train"] == [str(count) for count in counts]
    assert "24 posts, 15 steps" not in printed and "8 posts, 15 steps" in printed
    assert measured["total_seconds"] > 15 * measured["step_seconds"] > 0
    assert 0.05 < measured["peak_memory_gb"] < 50


def test_first_batches_have_the_longest_texts_and_the_most_images(run, data, batches):
    run(*ALL)
    steps = [shapes for name, shapes in batches if name == "training_step"]
    assert [shapes["input_ids"][0] for shapes in steps] == [8, 8, 8]
    widths = [shapes["input_ids"][1] for shapes in steps]
    posts = load_dataset(data, split="train")
    assert widths[0] == max(widths)
    assert steps[0]["pixel_values"][1] == max(map(len, posts["images"]))
    # Of validation and test, each a batch of the largest and two of usual ones.
    assert [shapes["input_ids"][0] for name, shapes in batches if name == "prediction_step"] == [4] * 6


def test_frozen_image_encoder_is_measured_on_features(run, batches):
    run(*ALL, "--freeze_vision")
    assert all("image_embeds" in shapes for name, shapes in batches if name == "training_step")


def test_without_training_only_batches_of_the_test_split_are_run(run, batches):
    measured = run("--do_predict")
    assert "step_seconds" not in measured and measured["total_seconds"] > 0
    assert {name for name, _ in batches} == {"prediction_step"}


def test_text_only_system_is_checked_too(data, encoder_folders, tmp_path):
    arguments = ["--system", "bert-crf", "--text_model", encoder_folders[0], "--use_cpu", "--dry_run"]
    measured = main(["--dataset", data, *arguments, *ALL, "--output_dir", str(tmp_path / "output")])
    assert measured["step_seconds"] > 0 and os.listdir(tmp_path) == []


def broken(data, folder, split="train", row=3, **changes) -> Dataset:
    folder.mkdir()
    for name, posts in load_dataset(data).items():
        rows = posts.with_format("arrow")[:].to_pylist()
        if name == split:
            rows[row] |= changes
        columns = {name: [row[name] for row in rows] for name in FEATURES}
        # `to_parquet` would open the images.
        pq.write_table(Dataset.from_dict(columns, FEATURES).with_format("arrow")[:], folder / f"{name}.parquet")
    return folder


def first_image(data):
    return load_dataset(data, split="train").with_format("arrow")[0]["images"].to_pylist()[0][0]


@pytest.mark.parametrize(
    "fault", [{"bytes": b"no image"}, {"path": "gone.png"}, {"path": "http://localhost/a.png"}, {"bytes": "cut"}]
)
@pytest.mark.parametrize(("split", "row"), [("train", 23), ("validation", 0), ("test", 9)])
def test_every_image_of_every_post_is_read(run, data, tmp_path, fault, split, row):
    image = first_image(data)
    fault = {"bytes": None, "path": None} | fault
    if fault["bytes"] == "cut":
        fault["bytes"] = image["bytes"][: len(image["bytes"]) // 2]
    folder = broken(data, tmp_path / "broken", split, row, images=[image, fault])
    name = load_dataset(data, split=split)[row]["id"]
    with pytest.raises(ValueError, match=f"1 posts of the split '{split}', such as '{name}', can't be used.*image 1: "):
        run(*ALL, dataset=folder)


def test_images_beyond_the_most_are_read_only_where_the_run_reads_them(run, data, tmp_path):
    image, name = first_image(data), load_dataset(data, split="train")[3]["id"]
    many = broken(data, tmp_path / "many", images=[image] * 6 + [{"bytes": b"no image", "path": None}])
    with pytest.raises(ValueError, match=f"1 posts of the split 'train', such as '{name}', have more than 4 images"):
        run(*ALL, dataset=many)
    assert run(*ALL, "--on_extra_images", "first", dataset=many)["step_seconds"] > 0


def test_words_beyond_the_length_are_counted(run, data, capsys):
    run("--do_predict", "--max_length", "12")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("beyond the length")]
    assert len(lines) == 1 and "words of 9 posts of test" in lines[0]


def test_lack_of_memory_is_explained(run, monkeypatch):
    def exhaust(self, *args, **kwargs):
        raise torch.OutOfMemoryError("Tried to allocate 99 GiB.")

    monkeypatch.setattr(SMCLTrainer, "training_step", exhaust)
    with pytest.raises(ValueError, match="Memory does not suffice.*99 GiB.*--per_device_train_batch_size"):
        run(*ALL)


def test_output_folder_that_can_not_be_written_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder that can be written to"):
        run(*ALL, "--output_dir", str(tmp_path / "file" / "output"))


def test_dry_run_does_not_go_with_input():
    with pytest.raises(ValueError, match="`--dry_run` checks runs on a `--dataset`"):
        main(["--input", "posts.jsonl", "--dry_run", "--output_dir", "unused"])

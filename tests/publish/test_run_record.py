import json
import os

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset
from systems import add_context

from smcl.dataset_scripts import jsonl
from smcl.dataset_scripts.context import column_digest
from smcl.publish.run_record import (
    RUN_KEYS,
    RunRecord,
    command_line,
    count_mentions,
    describe_data,
    describe_hardware,
    hash_weights,
    read_report,
    read_runs,
    tells_of,
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--hub_token", "hf_secret", "--seed", "1"], "--hub_token TOKEN --seed 1"),
        (["--hub_token=hf_secret", "--seed=1"], "--hub_token=TOKEN --seed=1"),
        (["--hub-token", "hf_secret", "--seed", "1"], "--hub-token TOKEN --seed 1"),
        (["--hub_to", "hf_secret"], "--hub_to TOKEN"),
        (["--hub-t=hf_secret"], "--hub-t=TOKEN"),
        (["--hub_model_id", "me/mine", "--do_train"], "--hub_model_id me/mine --do_train"),
        (["--dataset", "https://me:hf_0123456789abcdefghijABCD@host/x"], "--dataset https://me:TOKEN@host/x"),
        (["--dataset", "my data"], "--dataset 'my data'"),
    ],
)
def test_command_is_kept_without_tokens(given, kept):
    assert command_line(given) == f"python run_ner_multiimage.py {kept}"


@pytest.mark.parametrize("name", ["run.json", "run.yaml"])
def test_command_of_a_file_is_written_out(name, tmp_path):
    (tmp_path / name).write_text(json.dumps({"seed": 1, "hub_token": "hf_secret", "do_train": True}))
    assert command_line([str(tmp_path / name)]).endswith("--seed 1 --hub_token TOKEN --do_train True")


def test_energy_is_read_from_what_codecarbon_wrote_during_this_run(tmp_path):
    (tmp_path / "emissions.csv").write_text("run_id,energy_consumed\nold,9.0\nnew,0.5\n")
    os.utime(tmp_path / "emissions.csv", (1, 1))
    assert RunRecord([]).read_energy(tmp_path) is None
    os.utime(tmp_path / "emissions.csv")
    record = RunRecord([])
    record.started -= 60
    assert record.read_energy(tmp_path) == 0.5


def test_folder_without_a_record_has_no_runs(tmp_path):
    assert read_runs(tmp_path) == []


def test_known_token_is_left_out_wherever_it_stands():
    assert command_line(["--dataset", "https://secret@host"], "secret").endswith("--dataset https://TOKEN@host")


def test_lists_and_gaps_of_a_file_are_written_as_the_command_line_reads_them(tmp_path):
    given = {"report_to": ["none", "tensorboard"], "max_length": None, "fsdp_config": {"a": 1}, "seed": 1}
    (tmp_path / "run.json").write_text(json.dumps(given))
    told = command_line([str(tmp_path / "run.json")])
    assert told.endswith("py --report_to none tensorboard --fsdp_config '{\"a\": 1}' --seed 1")


def test_hardware_is_what_the_processes_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert describe_hardware(torch.device("cuda", 0), processes=2) == "2 x GPU"


def test_report_of_other_posts_is_not_told_of(data):
    posts = DatasetDict({"train": load_dataset(data, split="train")})
    report = read_report(data)["splits"]["train"]
    assert describe_data(data, posts)["splits"]["train"]["sha256"] == report["sha256"]
    first = next(i for i, tags in enumerate(posts["train"]["ner_tags"]) if any(tags))

    def retag(post, index):
        return {"ner_tags": [0] * len(post["ner_tags"]) if index == first else post["ner_tags"]}

    features = posts["train"].features
    posts["train"] = posts["train"].map(retag, with_indices=True, features=features)
    told = describe_data(data, posts)["splits"]["train"]
    assert told == {"posts": report["posts"], "sha256": None, "images": None, "lost_images": None}


def test_all_images_that_a_converter_left_out_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"], "ner_tags": ["O"], "images": ["1.jpg", "2.jpg"]}\n')
    for name in ("1.png", "1.gif"):
        (tmp_path / name).write_bytes(b"")
    jsonl.convert(tmp_path / "out", {"train": tmp_path / "a.jsonl"})
    posts = DatasetDict({"train": load_dataset(str(tmp_path / "out"), split="train")})
    assert describe_data(str(tmp_path / "out"), posts)["splits"]["train"]["lost_images"] == 2


def test_name_of_the_data_in_this_folder_is_the_folders(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    posts = DatasetDict({"test": load_dataset(data, split="test")})
    assert describe_data(".", posts)["title"] == tmp_path.name


def test_runs_tell_of_the_weights_that_the_last_of_them_left(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    runs = [{"weights": {}}, {"weights": hash_weights(tmp_path)}]
    assert tells_of(runs, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert not tells_of(runs, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": 1}', '{"runs": [{}]}', '{"runs": [1]}', "\0"])
def test_broken_record_is_named(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match="Expected .*run.json to hold"):
        read_runs(tmp_path)


BROKEN_REPORTS = [
    "",
    "[]",
    '{"name": "a", "splits": [], "duplicate_ids": {}}',
    '{"name": "a", "splits": {"test": {}}, "duplicate_ids": {}}',
]


@pytest.mark.parametrize("content", BROKEN_REPORTS)
def test_report_that_no_converter_wrote_is_passed_over_by_a_run(content, data, tmp_path):
    (tmp_path / "report.json").write_text(content)
    told = describe_data(str(tmp_path), DatasetDict({"test": load_dataset(data, split="test")}))
    assert told["splits"]["test"]["sha256"] is None and told["title"] == tmp_path.name


@pytest.mark.parametrize("content", BROKEN_REPORTS)
def test_broken_report_is_named(content, tmp_path):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match="Expected .*report.json to"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("tags", "count", "examples"),
    [
        ([1, 2, -100], 1, ["New York"]),
        ([-100, 2, 1], 1, ["city"]),
        ([1, -100, 2], 1, ["New"]),
        ([-100, -100, -100], 0, []),
    ],
)
def test_words_that_nobody_tagged_are_in_no_mention(tags, count, examples):
    # As many labels as would make of -100 the place of one of them.
    labels = ["O", "B-LOC", "I-LOC", *(f"{letter}-{number}" for number in range(60) for letter in "BI")]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=labels))})
    posts = Dataset.from_list([{"tokens": ["New", "York", "city"], "ner_tags": tags}], features=features)
    mentions = count_mentions(posts)
    assert mentions["LOC"] == {"count": count, "examples": examples}
    assert sum(told["count"] for told in mentions.values()) == count


@pytest.mark.parametrize("runs", [[], [dict.fromkeys(RUN_KEYS, "x")], [dict.fromkeys(RUN_KEYS, "é")] * 2])
def test_a_record_may_begin_with_a_byte_order_mark(runs, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"runs": runs}), encoding="utf-8-sig")
    assert read_runs(tmp_path) == runs


def test_what_context_was_made_by_is_told_of_the_columns_that_were_read(data, tmp_path):
    posts = DatasetDict({split: add_context(load_dataset(data, split=split)) for split in ("train", "test")})
    for split, part in posts.items():
        part.to_parquet(tmp_path / f"{split}.parquet")
    about = {"made_by": "VinVL", "model": "VinVL", "settings": {}, "read": "first", "limit": None, "failed": {}}
    sha256 = {split: column_digest(part["objects"][:]) for split, part in posts.items()}
    report = read_report(data) | {"context": {"objects": about | {"sha256": sha256}}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    read = DatasetDict({split: part.remove_columns(["regions", "captions"]) for split, part in posts.items()})
    context = describe_data(str(tmp_path), read)["context"]
    assert context == {
        "objects": {"made_by": "VinVL", "model": "VinVL", "settings": {}}, "image_text": None, "knowledge": None,
    }  # fmt: skip
    assert describe_data(str(tmp_path), read, ignore_images=True)["context"] == {}
    assert describe_data(data, DatasetDict(train=load_dataset(data, split="train")))["context"] == {}
    # Of other objects than those that were read.
    report["context"]["objects"]["sha256"]["test"] = "0"
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert describe_data(str(tmp_path), read)["context"]["objects"] is None
    del report["context"]["objects"]["made_by"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="to tell .*made_by.* of each column of context"):
        read_report(tmp_path)

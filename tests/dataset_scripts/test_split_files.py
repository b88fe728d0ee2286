"""Which files `datasets` takes for a split, and what is said of it."""

import logging

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from smcl.predict.inputs import open_input
from smcl.train.data import load_posts

POSTS = Dataset.from_dict({"id": ["1"], "tokens": [["a", "b"]], "ner_tags": [["B-X", "O"]]})


@pytest.fixture
def told(tmp_path, caplog):
    """Write posts to files, load splits of them, and return what was said of files."""

    def call(*names, splits=("train",)):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            POSTS.to_parquet(path) if path.suffix == ".parquet" else POSTS.to_json(path)
        with caplog.at_level(logging.WARNING):
            load_posts(str(tmp_path), splits)
        return [record.message for record in caplog.records if record.message.startswith("The data set")]

    return call


@pytest.mark.parametrize(
    "names",
    [
        ["twitter2015/data/train-00000-of-00001.parquet", "twitter2017/data/train-00000-of-00001.parquet"],
        ["train.parquet", "train (copy).parquet"],
        ["Train.parquet", "Test.parquet"],
        ["data/train.parquet", "train.parquet"],
    ],
)
def test_files_of_several_names_that_become_one_split_are_said(told, names):
    (message,) = told(*names)
    assert "the split 'train' is read from files of several names" in message
    assert all(f"/{name}" in message for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
        ["data/train.jsonl", "data/train_2.jsonl", "objects.jsonl"],
        ["part-00000-7e1c.parquet", "part-00001-7e1c.parquet"],
    ],
)
def test_parts_of_a_split_are_read_without_a_word(told, names):
    assert told(*names) == []


def test_a_file_that_is_called_after_two_splits_is_said(told):
    (message,) = told("train_test.parquet", splits=("train", "test"))
    assert "'train' and 'test' are both read from" in message and "/train_test.parquet" in message


@pytest.mark.parametrize(("read", "unread"), [("train.parquet", "train_extra.jsonl"), ("train/0.parquet", "Train.csv")])
def test_a_file_called_after_a_split_that_is_not_read_is_said(told, tmp_path, read, unread):
    (tmp_path / unread).write_text("tokens\n", encoding="utf-8")
    (message,) = told(read)
    assert f"/{unread} is not read" in message


def test_what_map_keeps_in_a_saved_data_set_is_not_read_as_further_posts(told, tmp_path):
    DatasetDict(train=POSTS, test=POSTS).save_to_disk(tmp_path)
    assert told() == []
    load_from_disk(tmp_path).map(lambda post: post | {"id": "2"})
    with pytest.raises(ValueError, match="Remove what is called cache-"):
        load_posts(str(tmp_path), ["train"])


def test_files_of_several_names_are_said_when_posts_are_tagged(tmp_path, caplog):
    for name in ("test.parquet", "test_old.parquet"):
        POSTS.to_parquet(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        open_input(str(tmp_path), "test")
    assert "/test_old.parquet, as if they were parts of one" in caplog.text

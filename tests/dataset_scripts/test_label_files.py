"""Files of one data set whose columns differ."""

import json
import logging

import datasets
import pytest
from datasets import ClassLabel, Dataset, Image, List, Value, load_dataset_builder
from factories import noise

from smcl.dataset_scripts.label_files import check_files
from smcl.train.data import load_posts

POSTS = {"tokens": [["a", "b"], ["c"]], "ner_tags": [["B-X", "O"], ["O"]]}
ROWS = [dict(zip(POSTS, values, strict=True)) for values in zip(*POSTS.values(), strict=True)]
MODEL = ["O", "B-X", "I-X"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """After a stream that was left early, datasets waits for threads that download: there are none."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def load(tmp_path):
    """Write files of posts with more columns, and load them; the second way is as a stream."""

    def call(kind, streams, files, splits=("train", "test"), drop=()):
        folder = tmp_path / "own"
        folder.mkdir()
        for name, more in files.items():
            columns = {key: values for key, values in (POSTS | more).items() if key not in drop}
            if kind == "json":
                rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
                (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
            else:
                Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")
        posts = load_posts(str(folder), splits, streaming=streams, labels=MODEL)
        return {split: [dict(row) for row in part] for split, part in posts.items()}

    return call


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kind", ["json", "parquet"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"lang": ["en", "de"]}),
        ({"lang": ["en", "de"]}, {}),
        ({"lang": [1, 2]}, {"lang": ["en", "de"]}),
        ({"lang": [[], []]}, {"lang": [["en"], []]}),
        ({"meta": [{"a": 1}, {"a": 2}]}, {"other": [[1], [2]]}),
        ({"id": [1, 2]}, {"id": ["a", "b"]}),
    ],
)
def test_columns_that_only_some_files_have_do_not_matter(load, kind, streams, first, second):
    found = load(kind, streams, {"train": first, "test": second})
    for split, more in (("train", first), ("test", second)):
        assert [row["tokens"] for row in found[split]] == POSTS["tokens"]
        assert [row["ner_tags"] for row in found[split]] == [[1, 0], [0]]
        assert [row["id"] for row in found[split]] == list(map(str, more.get("id", (0, 1))))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kind", ["json", "parquet"])
@pytest.mark.parametrize(("has", "lacks"), [("train", "test"), ("test", "train"), ("train-00", "train-01")])
def test_a_file_without_images_has_posts_without_images_and_it_is_said(load, caplog, kind, streams, has, lacks):
    splits = tuple(dict.fromkeys(name.split("-")[0] for name in (has, lacks)))
    with caplog.at_level(logging.WARNING):
        found = load(kind, streams, {has: {"images": [["a.png"], []]}, lacks: {}}, splits)
    rows = [row for split in splits for row in found[split]]
    assert sorted(len(row["images"]) for row in rows) == [0, 0, 0, 1]
    told = [record.message for record in caplog.records if "No column `images`" in record.message]
    assert len(told) == 1 and f"/{lacks}." in told[0] and f"/{has}." not in told[0]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kind", ["json", "parquet"])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"images": [["a.png"], []]}, {"photo": [["a.png"], []]}, "test.*--columns images=photo"),
        (
            {"images": [["a.png"], []]},
            {"images": ["a.png", "b.png"]},
            "test.*column `images`: found a text, but .*train",
        ),
        ({"meta": [1, 2]}, {"meta": [[1], [2]]}, "test.*column `meta`: found .*, but .*train.* has Value"),
        ({"tokens": [["a", "b"], ["c"]]}, {"tokens": ["a b", "c"]}, "test.*column `tokens`: expected a list of words"),
        ({}, {"ner_tags": ["B-X O", "O"]}, "test.*column `ner_tags`: expected a list"),
    ],
)
def test_columns_that_do_not_go_together_are_refused_with_file_and_column(load, kind, streams, first, second, message):
    with pytest.raises(ValueError, match=message):
        load(kind, streams, {"train": first, "test": second})


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("missing", ["tokens", "ner_tags"])
def test_a_file_without_words_or_tags_is_refused_by_its_name(load, streams, missing, tmp_path):
    (tmp_path / "own2").mkdir()
    Dataset.from_dict(POSTS).to_parquet(tmp_path / "own2" / "train.parquet")
    Dataset.from_dict({k: v for k, v in POSTS.items() if k != missing}).to_parquet(tmp_path / "own2" / "test.parquet")
    with pytest.raises(ValueError, match=f"test.parquet lacks the column `{missing}`"):
        load_posts(str(tmp_path / "own2"), ["train", "test"], streaming=streams, labels=MODEL)


@pytest.mark.parametrize(
    ("types", "joined"),
    [
        ([List(Value("string")), List(Image())], List(Image())),
        ([List(Value("binary")), List(Value("string"))], List(Image())),
        ([Image(), Value("string")], Image()),
        ([List(Value("null")), List(Value("string"))], List(Value("string"))),
    ],
)
def test_images_of_several_kinds_are_read_as_images(tmp_path, types, joined):
    picture = tmp_path / "a.png"
    noise((4, 4)).save(picture)
    for number, kind in enumerate(types):
        inner = kind.feature if isinstance(kind, List) else kind
        value = picture.read_bytes() if inner == Value("binary") else str(picture)
        values = [value, value] if kind is inner else [[] if inner == Value("null") else [value], []]
        posts = Dataset.from_dict(POSTS | {"images": values}).cast_column("images", kind)
        posts.to_parquet(tmp_path / "own" / f"train-{number}.parquet")
    builder = load_dataset_builder(str(tmp_path / "own"), cache_dir=str(tmp_path / "cache"))
    assert check_files(builder, ["train"])["images"] == joined
    assert len(load_posts(str(tmp_path / "own"), ["train"], labels=MODEL)["train"]) == 4


def test_names_of_tags_beside_class_labels_get_these(tmp_path):
    Dataset.from_dict(POSTS).to_parquet(tmp_path / "own" / "train.parquet")
    posts = Dataset.from_dict(POSTS).cast_column("ner_tags", List(ClassLabel(names=["B-X", "O", "I-X"])))
    posts.to_parquet(tmp_path / "own" / "test.parquet")
    loaded = load_posts(str(tmp_path / "own"), ["train", "test"])
    assert {tuple(part.features["ner_tags"].feature.names) for part in loaded.values()} == {("B-X", "O", "I-X")}
    assert [part["ner_tags"][:] for part in loaded.values()] == [[[0, 1], [1]]] * 2


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("column", ["images", "lang"])
def test_a_column_without_a_value_in_the_files_that_are_used_does_not_matter(load, streams, column):
    found = load("parquet", streams, {"train": {column: [[], None]}, "test": {column: [["a.png"], []]}}, ["train"])
    assert [row.get("images", []) for row in found["train"]] == [[], []]

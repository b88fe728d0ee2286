import hashlib
import json

import pytest

from smcl.dataset_scripts.context import WHOLE_IMAGE
from smcl.dataset_scripts.context_files import ContextFile, Template
from smcl.dataset_scripts.schema import DataError

SHA = hashlib.sha256(b"photo").hexdigest()
PHOTO = {"image": {"bytes": b"photo", "path": "1.jpg"}, "name": "1.jpg"}
OTHER = {"image": {"bytes": b"other", "path": "2.jpg"}, "name": "2.jpg"}


def read(tmp_path, column, *records, **kwargs):
    path = tmp_path / "file.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return ContextFile(path, column, **kwargs)


@pytest.mark.parametrize("key", [{"sha256": SHA}, {"sha256": SHA.upper()}, {"file_name": "1.jpg"}])
def test_an_image_is_found_by_its_bytes_or_by_its_name(tmp_path, key):
    source = read(tmp_path, "captions", key | {"captions": ["an owl"]})
    assert source.annotate([PHOTO]) == [["an owl"]]
    with pytest.raises(ValueError, match="not in the file") as error:
        source.annotate([OTHER])
    assert not isinstance(error.value, DataError)


def test_objects_come_in_several_forms_and_are_sorted_best_first(tmp_path):
    pixels = {"label": "cat", "score": 0.9, "box": [10, 0, 101, 50]}
    objects = [["dog", 0.2], pixels, ["owl", 0.3, [0, 0, 50, 25]]]
    source = read(tmp_path, "objects", {"file_name": "1.jpg", "width": 100, "height": 50, "objects": objects})
    assert source.annotate([PHOTO])[0] == [
        {"label": "cat", "score": 0.9, "box": [0.1, 0.0, 1.0, 1.0]},
        {"label": "owl", "score": 0.3, "box": [0.0, 0.0, 0.5, 0.5]},
        {"label": "dog", "score": 0.2, "box": WHOLE_IMAGE},
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [("regions", [{"query": "person", "score": 0.5, "box": [0, 0, 1, 1]}]), ("image_text", ["SALE"])],
)
def test_regions_and_text_come_from_files_too(tmp_path, column, value):
    assert read(tmp_path, column, {"sha256": SHA, column: value}).annotate([PHOTO]) == [value]


def test_knowledge_is_found_by_the_posts_id_unless_several_posts_have_it(tmp_path):
    records = [{"id": 1, "knowledge": "a"}, {"id": "2", "knowledge": "b"}]
    source = read(tmp_path, "knowledge", *records, shared={"2"})
    assert source.annotate([{"id": "1"}]) == ["a"]
    with pytest.raises(ValueError, match="several posts have this id"):
        source.annotate([{"id": "2"}])


def test_a_name_that_several_images_have_says_nothing_of_them(tmp_path):
    records = [{"file_name": "1.jpg", "captions": ["a cat"]}, {"sha256": SHA, "captions": ["an owl"]}]
    source = read(tmp_path, "captions", *records, shared={"1.jpg"})
    assert source.annotate([PHOTO]) == [["an owl"]]
    with pytest.raises(ValueError, match="other images have this name, too: give its `sha256`"):
        source.annotate([OTHER | {"name": "1.jpg"}])


@pytest.mark.parametrize(
    ("column", "line"),
    [
        ("captions", '{"file_name": "", "captions": []}'),
        ("captions", '{"file_name": null, "captions": []}'),
        ("knowledge", '{"id": null, "knowledge": "k"}'),
        ("knowledge", '{"id": 1.0, "knowledge": "k"}'),
        ("objects", "no json"),
        ("objects", "[1]"),
        pytest.param("objects", '{"a": ' * 100_000, id="deep"),
        ("objects", '{"sha256": "a", "captions": []}'),
        ("objects", '{"objects": []}'),
        ("objects", '{"sha256": "a", "file_name": "b", "objects": []}'),
        ("objects", '{"file_name": "b", "objects": 3}'),
        ("objects", '{"file_name": "b", "objects": ["cat"]}'),
        ("objects", '{"file_name": "b", "objects": [["cat"]]}'),
        ("objects", '{"file_name": "b", "objects": [["cat", "high"]]}'),
        ("objects", '{"file_name": "b", "objects": [["cat", NaN]]}'),
        ("objects", '{"file_name": "b", "objects": [["cat", 1, [0, 0, 640, 480]]]}'),
        ("objects", '{"file_name": "b", "width": 9, "objects": [["cat", 1, [0, 0, 6, 4]]]}'),
        ("objects", '{"file_name": "b", "width": 0, "height": 0, "objects": [["cat", 1, [0, 0, 6, 4]]]}'),
        ("captions", '{"file_name": "b", "captions": "a cat"}'),
        ("knowledge", '{"id": 1, "knowledge": ["a"]}'),
        ("knowledge", '{"sha256": "a", "knowledge": "b"}'),
        ("captions", '{"file_name": "b", "captions": []}\n{"file_name": "b", "captions": []}'),
    ],
)
def test_a_bad_line_stops_with_file_and_line(tmp_path, column, line):
    path = tmp_path / "file.jsonl"
    path.write_text("\n" + line)
    with pytest.raises(DataError, match=r"file.jsonl(:[23]|, item 0): "):
        ContextFile(path, column)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        ContextFile(tmp_path / "no.jsonl", "objects")


def test_a_file_says_who_made_it(tmp_path):
    assert read(tmp_path, "captions").made_by == "the file file.jsonl"
    source = read(tmp_path, "captions", made_by="VinVL")
    assert (source.made_by, source.about["model"]) == ("VinVL", "VinVL")
    assert str(tmp_path) not in json.dumps(source.about)


def named(*labels):
    return [{"label": label, "score": 0.5, "box": WHOLE_IMAGE} for label in labels]


@pytest.mark.parametrize(
    ("objects", "caption", "knowledge"),
    [
        (named("tom, cat", "sofa", "owl"), ["a photo of a tom and a sofa"], "The picture shows a tom and a sofa."),
        (named("owl", "owl"), ["a photo of an owl"], "The picture shows an owl."),
        ([], [], ""),
    ],
)  # fmt: skip
def test_templates_name_the_best_two_things(objects, caption, knowledge):
    assert Template("captions", "X").annotate([{"objects": objects}]) == [caption]
    assert Template("knowledge", "X").annotate([{"objects": [objects, None]}]) == [knowledge]
    assert Template("knowledge", "X").made_by == "a template from objects by X"


def test_templates_say_nothing_where_objects_were_not_computed():
    assert Template("knowledge", "X").annotate([{"objects": []}]) == [""]
    for column, item in (
        ("captions", {"objects": None}),
        ("knowledge", {"objects": [None]}),
        ("knowledge", {"objects": None}),
    ):
        with pytest.raises(ValueError, match="not computed"):
            Template(column, "X").annotate([item])

import io

import pytest
from datasets import Dataset, Features, Image, List, Value, load_dataset
from PIL import Image as Picture

from smcl.dataset_scripts.context import CONTEXT_FEATURES, check_context, clip_box
from smcl.dataset_scripts.schema import DataError

OWL = {"label": "owl", "score": 0.5, "box": [0.0, 0.25, 0.5, 1.0]}
GOOD = {
    "objects": [[OWL], [], None],
    "regions": [[{"query": "person", "score": 0.5, "box": [0.0, 0.25, 0.5, 1.0]}], [], None],
    "captions": [["an owl", "a bird"], [], None],
    "image_text": [["SALE", "50 %"], [], None],
    "knowledge": "An owl.",
}


def row(column, value):
    return {"id": "7", "images": ["a", "b", "c"], column: value}


@pytest.mark.parametrize("column", CONTEXT_FEATURES)
def test_good_values_pass_and_none_is_not_nothing(column):
    check_context(row(column, GOOD[column]), column)
    check_context(row(column, None if column == "knowledge" else [None] * 3), column)
    check_context(row(column, "" if column == "knowledge" else [[]] * 3), column)


@pytest.mark.parametrize("column", CONTEXT_FEATURES)
def test_values_are_stored_as_they_are_and_none_stays_apart_from_nothing(column, tmp_path):
    buffer = io.BytesIO()
    Picture.new("RGB", (4, 4)).save(buffer, "PNG")
    features = Features(id=Value("string"), images=List(Image()), **{column: CONTEXT_FEATURES[column]})
    empty = None if column == "knowledge" else [None] * 3
    images = [{"bytes": buffer.getvalue(), "path": None}] * 3
    posts = [{"id": "7", "images": images, column: value} for value in (GOOD[column], empty)]
    Dataset.from_list(posts, features=features).to_parquet(tmp_path / "train.parquet")
    read = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features == features
    assert read[column][:] == [GOOD[column], empty]
    for post in read:
        check_context(post, column)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("objects", None, "an entry for each of the post's 3 images, got None"),
        ("captions", [["a"]], "each of the post's 3 images, got 1 entries"),
        ("captions", [["a"], "b", []], "expected a list for an image, got 'b'"),
        ("image_text", [[1], [], []], "expected texts, got 1"),
        ("captions", [["\ud83d"], [], []], "expected texts"),
        ("knowledge", 3, "expected a text, or null"),
        ("objects", [[{"query": "x"}], [], []], '"label": a text'),
        ("objects", [[OWL | {"score": None}], [], []], "number as the score of 'owl'"),
        ("objects", [[OWL | {"score": float("nan")}], [], []], "number as the score of 'owl'"),
        ("objects", [[OWL | {"box": [0.5, 0, 0.5, 1]}], [], []], "left < right"),
        ("objects", [[OWL | {"box": [0, 0, 640, 480]}], [], []], "Divide pixels by the image's width and height"),
        ("objects", [[OWL | {"box": [0, 0, 1]}], [], []], "expected the box of 'owl'"),
    ],
)
def test_bad_values_are_refused_with_the_post(column, value, message):
    with pytest.raises(DataError, match=message) as error:
        check_context(row(column, value), column)
    assert str(error.value).startswith(f"Post with the id '7', column `{column}`: ")


def test_a_missing_column_is_told_with_the_command_that_makes_it():
    with pytest.raises(DataError, match="python -m smcl.dataset_scripts.enrich"):
        check_context({"id": "7", "images": []}, "objects")


def test_a_post_without_images_has_an_empty_list():
    check_context({"id": "7", "images": None, "objects": []}, "objects")


def test_boxes_that_reach_over_the_edge_are_cut():
    assert clip_box(-0.01, 0.2, 0.5, 1.02) == [0.0, 0.2, 0.5, 1.0]

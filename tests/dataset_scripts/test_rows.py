import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from smcl.dataset_scripts.rows import read_post


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "hi"}, {"id": None, "text": "hi", "images": []}),
        ({"id": 3, "tokens": ["a"], "lang": "en"}, {"id": "3", "tokens": ["a"], "images": []}),
        ({"text": ["a", "b"]}, {"id": None, "tokens": ["a", "b"], "images": []}),
        ({"tokens": [], "text": "hi"}, {"id": None, "text": "hi", "images": []}),
        ({"tokens": None, "text": "hi", "images": None}, {"id": None, "text": "hi", "images": []}),
        ({"tokens": np.array(["a"]), "id": np.int64(2)}, {"id": "2", "tokens": ["a"], "images": []}),
        ({"tokens": ("a",), "images": "a.png"}, {"id": None, "tokens": ["a"], "images": ["a.png"]}),
        ({"text": "", "images": np.array(["a", "b"])}, {"id": None, "text": "", "images": ["a", "b"]}),
        ({"text": "", "images": {"path": "a"}}, {"id": None, "text": "", "images": [{"path": "a"}]}),
        ({"text": "", "images": pd.NA, "id": pd.NaT}, {"id": None, "text": "", "images": []}),
        ({"text": "", "images": float("nan"), "id": float("nan")}, {"id": None, "text": "", "images": []}),
    ],
)
def test_a_row_means_what_it_says(row, expected):
    assert read_post(row) == expected


def test_rows_of_arrow_and_images_themselves_are_read():
    table = pa.table({"tokens": [["a"]], "images": pa.array([[b"x"]], pa.list_(pa.binary()))})
    assert read_post(table.to_pylist()[0])["images"] == [b"x"]
    picture = Image.new("RGB", (2, 2))
    assert read_post({"text": "", "images": picture})["images"] == [picture]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("hi", "Expected an object"),
        ({"words": ["a"]}, r"Expected `text` or `tokens`, got the keys \['words'\]"),
        ({"tokens": "['a', 'b']"}, "`tokens` must be a list of words, got the text"),
        ({"tokens": ["a", 1]}, "`tokens` must be a list of words, each a string, got 1"),
        ({"text": 3}, "`text` must be a string or a list of words, got 3"),
        ({"text": "a", "id": 1.5}, "`id` must be a string or a number"),
        ({"text": "\ud83d"}, "half of a surrogate pair"),
        ({"text": "a", "images": 3}, "`images` must be a list of paths or URLs, got 3"),
        ({"text": "a", "images": "['a.png']"}, "Write it as a list"),
        ({"text": "a", "images": ["a.png", None]}, "Image 1 of `images` is empty"),
        ({"text": "a", "images": [["a.png"]]}, "Image 0 of `images` must be a path"),
        ({"text": "a", "images": np.zeros((2, 2, 3))}, "Image 0 of `images` must be a path"),
        ({"text": "a", "image": "a.png"}, "Give `--columns images=image`"),
        ({"text": "a", "Photos": ["a.png"]}, "Give `--columns images=Photos`"),
        ({"text": "a", "img_path": b"x"}, "Give `--columns images=img_path`"),
    ],
)
def test_a_row_that_can_not_be_read_says_why(row, message):
    with pytest.raises(ValueError, match=message):
        read_post(row)


@pytest.mark.parametrize("options", [{"ignore_images": True}, {"reads_images": False}])
def test_images_that_are_not_read_are_not_looked_at(options):
    for row in ({"text": "a", "image": "a.png"}, {"text": "a", "images": 3}):
        assert read_post(row, **options)["images"] == []


def test_columns_are_renamed_and_a_post_may_have_no_image():
    columns = {"images": "image", "text": "body"}
    assert read_post({"body": "a", "image": "x"}, columns=columns)["images"] == ["x"]
    assert read_post({"body": "a"}, columns=columns)["images"] == []
    with pytest.raises(ValueError, match="has 'images' but no 'image'"):
        read_post({"body": "a", "images": []}, columns=columns)


@pytest.mark.parametrize(
    "row", [{"text": "a", "image": None}, {"text": "a", "image": []}, {"text": "a", "image_count": 2}]
)
def test_what_holds_no_image_is_no_image(row):
    assert read_post(row)["images"] == []

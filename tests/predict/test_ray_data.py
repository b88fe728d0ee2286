import io
import sys

import pyarrow as pa
import pytest
from factories import make_model
from PIL import Image
from ray_cluster import started_ray

from smcl import MultiImageNERPipeline
from smcl.predict.part_files import RECORD_SCHEMA
from smcl.predict.predict_file import predict_rows
from smcl.predict.ray_data import RayPredictor, predict_with_ray


def make_posts() -> list[dict]:
    """Posts with 0 to 3 images; the last one has too many."""
    posts = []
    for number in range(12):
        images = []
        for slot in range(number % 4 if number < 11 else 5):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (20 * number, 60 * slot, 99)).save(buffer, "PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
        posts.append({"id": f"post-{number}", "tokens": ["joey", "and", "niko"][number % 3 :], "images": images})
    return posts


@pytest.fixture(scope="module")
def ray():
    # Two for the actors, one for reading; however many the machine has.
    with started_ray(num_cpus=3) as ray:
        yield ray


def test_two_actors_give_the_records_of_one_process_in_order(ray, processor, tmp_path):
    model, posts = make_model(), make_posts()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    dataset = ray.data.from_items(posts, override_num_blocks=4)
    output = str(tmp_path / "out")
    found = predict_with_ray(dataset, str(tmp_path / "model"), output, num_actors=2, batch_size=4)
    assert found.schema().base_schema.equals(RECORD_SCHEMA)
    records = predict_rows(MultiImageNERPipeline(model, processor), posts)
    assert "error" in records[-1]
    for record, other in zip(found.take_all(), records, strict=True):
        record = {name: value for name, value in record.items() if value is not None}
        scores, others = ([entity.pop("score") for entity in x.get("entities", ())] for x in (record, other))
        assert scores == pytest.approx(others, abs=1e-5)
        for entity in other.get("entities", ()):
            entity["words"] = list(entity["words"])
        assert record.pop("error", "")[-60:] == other.pop("error", "")[-60:]
        assert record == other
    with pytest.raises(ValueError, match="already exists"):
        predict_with_ray(dataset, str(tmp_path / "model"), output, num_actors=2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, "The Ray data set lacks the column `tokens` .* or `text`"),
        ({"text": "joey", "photo": "a.png"}, "no images in a column `images`, but 'photo'.*`--columns images=photo`"),
        ({"tokens": "['joey']"}, "column `tokens`: expected a list of words, found a text"),
        ({"text": "joey", "id": 0.5}, "column `id`: expected a text or a whole number"),
    ],
)
def test_columns_that_can_not_be_read_are_named(ray, row, message):
    with pytest.raises(ValueError, match=message):
        predict_with_ray(ray.data.from_items([row]), "model")


def test_other_names_and_missing_ids_are_read(processor, tmp_path):
    make_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    predictor = RayPredictor(str(tmp_path), columns={"id": "number", "tokens": "words", "images": "photo"})
    rows = [
        {"number": 5, "words": ["joey"], "photo": None},
        {"number": None, "words": ["niko", "and"], "photo": "b.png"},
    ]
    one, two = predictor(pa.Table.from_pylist(rows)).to_pylist()
    assert (one["id"], one["words"], one["error"]) == ("5", ["joey"], None)
    assert two["id"] is None
    assert "relative path" in two["error"]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "smcl\[ray\]"'):
        predict_with_ray(None, "model")

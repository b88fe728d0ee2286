import io
import json

import pytest
from datasets import Dataset, Features, Image, List, Value
from factories import make_model
from PIL import Image as PILImage
from post_files import NUM_POSTS, WORDS, run

from smcl import MultiImageNERPipeline


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pipe(processor):
    return MultiImageNERPipeline(make_model(), processor)


@pytest.fixture(scope="module")
def posts():
    """Posts with 0 to 3 images, as bytes; one of them longer than the text encoder's window."""
    found = []
    for number in range(NUM_POSTS):
        images = []
        for slot in range(number % 4):
            buffer = io.BytesIO()
            PILImage.new("RGB", (16, 16), (10 * number, 60 * slot, 99)).save(buffer, "PNG")
            images.append(buffer.getvalue())
        words = WORDS[number % 5 :] * (12 if number == 9 else 1)
        found.append({"id": f"post-{number}", "tokens": [*words, "abc"[number % 3]], "images": images})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, posts):
    """The posts as JSON lines with image files, as a Parquet file and as a data set."""
    root = tmp_path_factory.mktemp("posts")
    (root / "images").mkdir()
    lines = []
    for post in posts:
        names = [f"images/{post['id']}-{slot}.png" for slot in range(len(post["images"]))]
        for name, image in zip(names, post["images"], strict=True):
            (root / name).write_bytes(image)
        lines.append(json.dumps({**post, "images": names}) + "\n")
    (root / "posts.jsonl").write_text("".join(lines))
    image = {"bytes": Value("binary"), "path": Value("string")}
    features = {"id": Value("string"), "tokens": List(Value("string")), "images": List(image)}
    rows = [{**post, "images": [{"bytes": image, "path": None} for image in post["images"]]} for post in posts]
    dataset = Dataset.from_list(rows, Features(features)).cast_column("images", List(Image(decode=False)))
    dataset.to_parquet(root / "posts.parquet", batch_size=8)
    dataset.to_parquet(root / "set" / "data" / "test-00000-of-00001.parquet")
    dataset.select([0]).to_parquet(root / "set" / "data" / "train-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="module")
def expected(pipe, folder, tmp_path_factory):
    """The output of an undisturbed run, which `run` repeats."""
    output = tmp_path_factory.mktemp("expected") / "out.jsonl"
    assert run(pipe, folder / "posts.jsonl", output) == {"posts": NUM_POSTS, "errors": 0, "skipped_images": 0}
    return output.read_bytes()

import io
import multiprocessing
import os
import pickle
import random
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from factories import make_model
from PIL import Image
from safetensors.torch import load_file

from smcl import SMCLProcessor
from smcl.dataset_scripts.fingerprints import image_digest
from smcl.dataset_scripts.icons import convert
from smcl.dataset_scripts.schema import FEATURES
from smcl.run_ner_multiimage import main
from smcl.train import image_cache
from smcl.train.collator import SMCLDataCollator
from smcl.train.image_cache import ImageFeatures, ImagePixels, ImageStore


def noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PHOTOS = [{"bytes": noise(seed), "path": f"{seed}.png"} for seed in range(7)]


def make_posts(photos=PHOTOS, seed: int = 0) -> Dataset:
    """Ten posts with 0 to 3 images, in which each photo is shown at least once."""
    rng = random.Random(seed)
    shown = iter([*photos, *rng.choices(photos, k=len(PHOTOS) + 8 - len(photos))])
    rows = []
    for index in range(10):
        words = ["joey", "and", "niko"][: 1 + index % 3]
        images = [next(shown) for _ in range(index % 4)]
        rows.append({"id": str(index), "tokens": words, "ner_tags": [1] * len(words), "images": images, "source": "x"})
    return Dataset.from_list([FEATURES.encode_example(row) for row in rows], features=FEATURES)


def batches(features, posts, processor) -> list[dict]:
    collate = SMCLDataCollator(processor, features)
    return [collate([posts[i] for i in range(start, start + 5)]) for start in (0, 5)]


def assert_same_batches(ours, expected):
    for got, want in zip(ours, expected, strict=True):
        assert got.keys() == want.keys()
        assert [name for name in want if not torch.equal(got[name], want[name])] == []


def stored(folder) -> set[str]:
    return {path.name for path in folder.rglob("*.safetensors")}


@pytest.fixture
def refuse(monkeypatch):
    """From when it is called on, an image file that is opened, or encoded, fails the test."""

    def start(encoding: bool = True):
        def fail(*args, **kwargs):
            raise AssertionError("an image was opened or encoded")

        monkeypatch.setattr("smcl.images_smcl.open_image", fail)
        if encoding:
            monkeypatch.setattr(ImageFeatures, "compute", fail)
            monkeypatch.setattr("smcl.modeling_smcl.SMCLImageTextModel._encode_posts", fail)

    return start


def test_second_run_reads_all_from_disk_and_gets_the_same_bits(processor, tmp_path, refuse):
    first = ImageFeatures(make_model(), processor, tmp_path, batch_size=3)
    expected = batches(first, first.replace_images(make_posts()), processor)
    refuse()
    second = ImageFeatures(make_model(), processor, tmp_path, batch_size=3)
    assert_same_batches(batches(second, second.replace_images(make_posts()), processor), expected)


def test_features_do_not_depend_on_what_was_kept_before(processor, tmp_path):
    posts, model = make_posts(), make_model()
    alone = ImageFeatures(model, processor, tmp_path / "alone", batch_size=4)
    expected = batches(alone, alone.replace_images(posts), processor)
    for number, photos in enumerate([PHOTOS[5:], PHOTOS[2:4], PHOTOS[:1]]):
        ImageFeatures(model, processor, tmp_path / "shared", batch_size=4).replace_images(make_posts(photos, number))
    shared = ImageFeatures(model, processor, tmp_path / "shared", batch_size=4)
    assert_same_batches(batches(shared, shared.replace_images(posts), processor), expected)
    digests = [load_file(path)["digests"] for path in (tmp_path / "shared").rglob("*.safetensors")]
    assert len(digests) == 4
    assert len({bytes(row) for rows in digests for row in rows.tolist()}) == sum(map(len, digests)) == len(PHOTOS)


def test_stores_are_parted_by_all_that_features_depend_on_and_by_nothing_else(
    processor, tokenizer, image_processor, tmp_path
):
    other_weights, half, eager = make_model(), make_model().to(torch.bfloat16), make_model()
    with torch.no_grad():
        next(other_weights.smcl.vision_model.parameters()).view(-1)[0] += 1e-6
    eager.set_attn_implementation({"vision_config": "eager"})
    other_size = SMCLProcessor(type(image_processor)(size={"height": 16, "width": 16}, resample=3), tokenizer)
    cases = [(make_model(), processor), (other_weights, processor), (half, processor), (eager, processor)]
    cases += [(make_model(), other_size)]
    for count, (model, used) in enumerate(cases, 1):
        ImageFeatures(model, used, tmp_path).replace_images(make_posts())
        assert len(list(tmp_path.iterdir())) == count
    text_differs = make_model(dropout=0.5, use_fusion=False)
    text_differs.smcl.vision_model.load_state_dict(make_model().smcl.vision_model.state_dict())
    ImageFeatures(text_differs, processor, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(cases)


def test_interrupted_run_leaves_what_it_had_written(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "MAX_FILE_IMAGES", 2)
    encode, calls = ImageFeatures.compute, []

    def compute(self, pixel_values):
        calls.append(len(pixel_values))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, pixel_values)

    monkeypatch.setattr(ImageFeatures, "compute", compute)
    with pytest.raises(KeyboardInterrupt):
        ImageFeatures(make_model(), processor, tmp_path, batch_size=2).replace_images(make_posts())
    assert len(stored(tmp_path)) == 2
    ImageFeatures(make_model(), processor, tmp_path, batch_size=2).replace_images(make_posts())
    assert sum(calls[3:]) == len(PHOTOS) - 4


def test_damaged_and_unfinished_files_are_no_obstacle(processor, tmp_path, caplog):
    features = ImageFeatures(make_model(), processor, tmp_path)
    expected = batches(features, features.replace_images(make_posts()), processor)
    (file,) = tmp_path.rglob("*.safetensors")
    data = file.read_bytes()
    file.with_name(f".{file.name}.0.unfinished").write_bytes(data[:100])
    for cut in (0, 5, 100, len(data) - 1):
        file.write_bytes(data[:cut])
        with caplog.at_level("WARNING"), caplog_of_transformers(caplog):
            again = ImageFeatures(make_model(), processor, tmp_path)
        assert "is damaged and was removed" in caplog.text
        assert_same_batches(batches(again, again.replace_images(make_posts()), processor), expected)
        assert file.read_bytes() == data
        caplog.clear()


class caplog_of_transformers:
    """transformers' loggers do not pass on what they log."""

    def __init__(self, caplog):
        self.handler, self.logger = caplog.handler, image_cache.logger

    def __enter__(self):
        self.logger.addHandler(self.handler)

    def __exit__(self, *args):
        self.logger.removeHandler(self.handler)


def test_write_that_fails_leaves_nothing_and_says_what_to_do(processor, tmp_path, monkeypatch):
    def no_room(path, data):
        path.write_text("half")
        raise OSError("no space left on device")

    features = ImageFeatures(make_model(), processor, tmp_path)
    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(OSError, match="no space left on device.*`--image_cache`"):
        features.replace_images(make_posts())
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"about.json"}


def test_folder_that_can_not_be_made_is_refused_at_once(processor, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"Keeping images in .*file.* failed: .*`--image_cache`"):
        ImageFeatures(make_model(), processor, tmp_path / "file")


def write_many(folder, start, count):
    store = ImageStore(folder, {})
    for number in range(start, start + count):
        store.add([number.to_bytes(32, "big")], torch.full((1, 4), float(number)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_may_write_at_once(tmp_path):
    # Numbers 20 to 39 are written by both.
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path, start, 40)) for start in (0, 20)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        ImageStore(tmp_path, {})
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = ImageStore(tmp_path, {})
    assert len(stored(tmp_path)) == 60
    assert all((store[number.to_bytes(32, "big")] == number).all() for number in range(60))


def test_worker_processes_gather_the_same(processor, tmp_path):
    for features in (ImageFeatures(make_model(), processor, tmp_path), ImagePixels(processor, tmp_path)):
        posts = features.replace_images(make_posts())
        sent = pickle.dumps(features)
        assert_same_batches(batches(pickle.loads(sent), posts, processor), batches(features, posts, processor))
        assert pickle.loads(sent).__dict__.get("model") is None


@pytest.mark.parametrize("name", ["ViT", "DeiT", "CLIP", "Bit", "Siglip"])
def test_kept_pixels_give_the_batches_of_the_images(name, tokenizer, tmp_path, refuse):
    size = {"size": {"shortest_edge": 18}} if name in ("CLIP", "Bit") else {"size": {"height": 18, "width": 18}}
    crop = {} if name in ("ViT", "Siglip") else {"crop_size": {"height": 16, "width": 16}}
    image_processor = getattr(transformers, f"{name}ImageProcessorPil")(**size, **crop)
    processor, posts = SMCLProcessor(image_processor, tokenizer), make_posts()
    expected = batches(None, posts, processor)
    ImagePixels(processor, tmp_path).replace_images(posts)
    pixels = ImagePixels(processor, tmp_path)
    refuse()
    assert_same_batches(batches(pixels, pixels.replace_images(posts), processor), expected)
    assert {load_file(path)["values"].dtype for path in tmp_path.rglob("*.safetensors")} == {torch.uint8}


def test_image_processor_without_8_bit_pixels_is_refused(tokenizer, tmp_path):
    class Smooth(transformers.ViTImageProcessorPil):
        def resize(self, *args, **kwargs):
            return super().resize(*args, **kwargs) + np.float32(0.5)

    with pytest.raises(ValueError, match="`--cache_images` keeps 8-bit pixels, which Smooth does not"):
        ImagePixels(SMCLProcessor(Smooth(size={"height": 16, "width": 16}), tokenizer), tmp_path)


def test_an_image_is_known_by_its_content(tmp_path):
    data, path = PHOTOS[0]["bytes"], tmp_path / "a.png"
    path.write_bytes(data)
    same = [data, path, str(path), {"bytes": data, "path": "elsewhere.png"}, {"bytes": None, "path": str(path)}]
    assert len({image_digest(image) for image in same}) == 1
    opened = Image.open(path)
    assert image_digest(opened) == image_digest(opened.copy()) != image_digest(opened.rotate(180))
    reshaped = Image.frombytes("RGB", (opened.height, opened.width), opened.tobytes())
    assert image_digest(reshaped) != image_digest(opened)


@pytest.fixture(scope="module")
def command(encoder_folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("icons")
    convert(folder, train=16, validation=6, test=4)
    text, vision = encoder_folders
    arguments = ["--dataset", str(folder), "--text_model", text, "--vision_model", vision, "--do_train", "--use_cpu"]
    return [*arguments, "--num_train_epochs", "2", "--learning_rate", "1e-3", "--disable_tqdm", "true"]


@pytest.mark.parametrize("kind", ["--freeze_vision", "--cache_images"])
def test_training_again_decodes_no_image_and_gives_the_same_weights(kind, command, tmp_path, refuse):
    cache = ["--image_cache", str(tmp_path / "cache"), kind]
    main([*command, *cache, "--output_dir", str(tmp_path / "first")])
    if kind == "--cache_images":
        main([*command, "--output_dir", str(tmp_path / "plain")])
    refuse(encoding=kind == "--freeze_vision")
    main([*command, *cache, "--output_dir", str(tmp_path / "second")])
    weights = {folder: (tmp_path / folder / "model.safetensors").read_bytes() for folder in ("first", "second")}
    assert weights["first"] == weights["second"]
    if kind == "--cache_images":
        assert weights["first"] == (tmp_path / "plain" / "model.safetensors").read_bytes()


def test_cached_image_features_give_the_logits_of_the_images(posts, processor, tmp_path):
    model = make_model()
    features = ImageFeatures(model, processor, tmp_path, batch_size=2)
    cached = features.replace_images(posts)
    files = posts.cast_column("images", [datasets.Image(decode=False)])["images"]
    different = {image["bytes"] for post in files for image in post}
    assert len(features.digests) == len(different) < sum(map(len, posts["images"]))
    assert cached.column_names == ["id", "tokens", "ner_tags", "source", "image_rows"]
    collator = SMCLDataCollator(processor, features)
    for rows in (range(0, 6), [4, 8]):
        from_pixels = model(**collator([posts[i] for i in rows])).logits
        from_cache = model(**collator([cached[i] for i in rows])).logits
        torch.testing.assert_close(from_pixels, from_cache, atol=1e-5, rtol=1e-5)

import shutil
import sys

import numpy as np
import pytest
import torch
from context_models import NAMES
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, ViTConfig, ViTModel, pipeline

from smcl.dataset_scripts.annotators import CAPTION, OCR, Captioner, RegionFinder, Tesseract, TextReader, object_model
from smcl.dataset_scripts.context import WHOLE_IMAGE, check_entry
from smcl.dataset_scripts.schema import DataError

SHORT = CAPTION | {"num_captions": 1, "max_new_tokens": 8}
ANY = {"threshold": None, "max_objects": None}
REGIONS = {"queries": {"person": "person", "organization": "organization logo"}, "threshold": 0.01}


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def photos():
    """Of several shapes, so that a detector's processor makes tensors of several shapes of them."""
    sizes = [(20, 30), (60, 30), (20, 30), (30, 30)]
    return [{"image": noise(size, seed)} for seed, size in enumerate(sizes)]


def make(kind, folder, column):
    if column == "regions":
        return RegionFinder(folder, REGIONS)
    if column == "captions":
        return Captioner(folder, SHORT)
    return object_model(folder, {"threshold": 0.2, "max_objects": 20} if kind == "detector" else ANY)


KINDS = [("detector", "objects"), ("classifier", "objects"), ("regions", "regions")]
KINDS += [(kind, "captions") for kind in ("captioner", "chat", "encoder_decoder")]


@pytest.mark.parametrize(("kind", "column"), KINDS)
def test_an_image_gets_the_same_alone_and_among_others_in_a_valid_form(kind, column, models, photos):
    source = make(kind, models[kind], column)
    together = source.annotate(photos)
    for entry, photo in zip(together, photos, strict=True):
        assert entry
        check_entry(column, entry, "here")
        alone = source.annotate([photo])[0]
        for found, expected in zip(entry, alone, strict=True):
            if column == "captions":
                assert found == expected
            else:
                assert [found["score"], *found["box"]] == pytest.approx([expected["score"], *expected["box"]], abs=2e-4)


def test_a_detector_gives_what_transformers_own_pipeline_finds(models):
    photo = noise((400, 300))
    folder = models["detector"]
    parts = AutoModelForObjectDetection.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    pipe = pipeline("object-detection", parts[0], image_processor=parts[1])
    expected = pipe(photo, threshold=0.2)
    found = object_model(folder, {"threshold": 0.2, "max_objects": 20}).annotate([{"image": photo}])[0]
    assert len(found) == len(expected) == 5
    assert {item["label"] for item in found} == {item["label"] for item in expected} <= set(NAMES.values())
    for item, other in zip(found, sorted(expected, key=lambda item: -item["score"]), strict=True):
        assert item["score"] == pytest.approx(other["score"], abs=1e-4)
        sides = [other["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
        pixels = [side * length for side, length in zip(item["box"], (400, 300, 400, 300), strict=True)]
        assert pixels == pytest.approx(sides, abs=1)


def test_thresholds_and_numbers_of_objects_are_kept_to(models, photos):
    assert object_model(models["detector"], {"threshold": 0.9, "max_objects": None}).annotate(photos) == [[]] * 4
    few = object_model(models["detector"], {"threshold": 0.1, "max_objects": 2}).annotate(photos)
    assert list(map(len, few)) == [2] * 4


def test_a_classifier_gives_its_best_classes_with_the_whole_image_best_first(models, photos):
    source = object_model(models["classifier"], ANY)
    assert source.settings == {"kind": "classifier", "threshold": 0.0, "max_objects": 5}
    entry = source.annotate(photos)[0]
    scores = [found["score"] for found in entry]
    assert sorted(found["label"] for found in entry) == sorted(NAMES.values())
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-3)
    assert all(found["box"] == WHOLE_IMAGE for found in entry)


def test_regions_survive_a_resize_of_the_image(models):
    # As many fields as the model has patches.
    large = noise((4, 4)).resize((480, 320), Image.Resampling.NEAREST)
    small = large.resize((120, 80), Image.Resampling.BOX)
    near, far = RegionFinder(models["regions"], REGIONS).annotate([{"image": small}, {"image": large}])
    assert [found["query"] for found in near] == ["person", "organization"] == [found["query"] for found in far]
    for one, other in zip(near, far, strict=True):
        # The pipeline rounds to pixels.
        assert one["box"] == pytest.approx(other["box"], abs=1 / 40)


@pytest.mark.parametrize("kind", ["captioner", "chat", "encoder_decoder"])
def test_captions_differ_and_hold_no_prompt(kind, models, photos, tokenizer):
    entries = Captioner(models[kind], SHORT | {"num_captions": 3}).annotate(photos[:1])
    assert 1 < len(entries[0]) <= 3
    assert len(set(entries[0])) == len(entries[0])
    prompt = tokenizer.decode(tokenizer("Describe this", add_special_tokens=False)["input_ids"])
    assert not any(prompt in text for text in entries[0])


def test_text_is_read_line_by_line(models, photos):
    reader = TextReader(models["captioner"], OCR | {"max_new_tokens": 4})
    assert all(isinstance(line, str) for entry in reader.annotate(photos) for line in entry)
    assert reader.entry(["  SALE\n\n 50 % \n"]) == ["SALE", "50 %"]
    assert reader.entry([" \n"]) == []


def test_the_program_tesseract_reads_or_is_told_to_be_missing(photos, monkeypatch):
    class Program:
        @staticmethod
        def get_tesseract_version():
            return "5.3.0"

        @staticmethod
        def image_to_string(image, lang):
            if image.width > 50:
                raise RuntimeError("out of ink")
            return f"{image.mode} {lang}\n\x0c"

    monkeypatch.setitem(sys.modules, "pytesseract", Program)
    source = Tesseract()
    assert source.about["versions"] == {"tesseract": "5.3.0"}
    assert source.annotate(photos[:1]) == [["RGB eng"]]
    with pytest.raises(RuntimeError, match="out of ink"):
        source.annotate(photos)
    monkeypatch.setitem(sys.modules, "pytesseract", None)
    with pytest.raises(ImportError, match=r'pip install "smcl\[enrich\]"'):
        Tesseract()


def test_a_model_of_the_wrong_kind_or_without_its_head_is_refused(models, tmp_path):
    with pytest.raises(DataError, match="is a GPT2LMHeadModel. Expected an object detector or an image classifier"):
        object_model(models["language_model"], ANY)
    with pytest.raises(DataError, match="neither as a folder nor on the Hub"):
        object_model(str(tmp_path / "nothing"), ANY)
    with pytest.raises(DataError, match="is a vit, which AutoModelForZeroShotObjectDetection does not know"):
        RegionFinder(models["classifier"], REGIONS)
    shutil.copytree(models["classifier"], tmp_path / "headless")
    ViTModel(ViTConfig.from_pretrained(models["classifier"])).save_pretrained(tmp_path / "weights")
    shutil.copy(tmp_path / "weights" / "model.safetensors", tmp_path / "headless")
    with pytest.raises(DataError, match="would be random"):
        object_model(str(tmp_path / "headless"), ANY).annotate([{"image": Image.new("RGB", (9, 9))}])


def test_a_model_is_known_by_its_files_and_not_by_its_place(models, tmp_path):
    shutil.copytree(models["classifier"], tmp_path / "classifier")
    one, other = (object_model(folder, ANY).about for folder in (models["classifier"], str(tmp_path / "classifier")))
    assert one == other
    assert (one["model"], len(one["fingerprint"])) == ("classifier", 64)
    config = AutoConfig.from_pretrained(tmp_path / "classifier")
    config.id2label[0] = "dog"
    config.save_pretrained(tmp_path / "classifier")
    assert object_model(str(tmp_path / "classifier"), ANY).about["fingerprint"] != one["fingerprint"]


def test_half_precision_weights_run_in_float32_on_the_cpu(models, tmp_path, photos):
    model = AutoModelForObjectDetection.from_pretrained(models["detector"], dtype=torch.float16)
    shutil.copytree(models["detector"], tmp_path / "half")
    model.save_pretrained(tmp_path / "half")
    source = object_model(str(tmp_path / "half"), {"threshold": 0.0, "max_objects": None})
    source.annotate(photos[:1])
    assert source.model.dtype == torch.float32

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from datasets import Dataset
from factories import LABELS, PIXELS, TEXT_SIZE, VISION_SIZE, make_inputs, make_model
from safetensors import safe_open
from transformers import CLIPVisionConfig, RobertaConfig
from transformers.exporters import OnnxConfig, OnnxExporter
from transformers.pipelines.pt_utils import KeyDataset

import smcl
from smcl import MultiImageNERPipeline, pipeline_smcl
from smcl.experiments.benchmarks.onnx import score
from smcl.predict import onnx_tagger
from smcl.predict.onnx_export import _check, _sample, export_onnx
from smcl.predict.onnx_tagger import OnnxTagger

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the export needs transformers 5.23, of Python 3.11")


def as_numpy(inputs: dict) -> dict:
    return {name: tensor.numpy() for name, tensor in inputs.items()}


@pytest.fixture(scope="module")
def model():
    return make_model(temperature=1.7).train()


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(model, folder, processor)
    assert model.training and "forward" not in vars(model)
    model.eval()
    return folder


@pytest.fixture(scope="module")
def tagger(folder) -> OnnxTagger:
    return OnnxTagger(folder)


@pytest.mark.parametrize(
    ("image_counts", "lengths"),
    [
        ((3, 1, 0), (9, 6, 8)),
        ((1,), (5,)),
        ((0,), (7,)),
        ((0, 0), (3, 12)),
        ((4, 4), (64, 3)),
        ((2, 0, 1, 4, 3, 0, 1), (9, 9, 8, 3, 22, 4, 5)),
    ],
)
@torch.no_grad()
def test_emissions_and_tags_are_pytorchs(image_counts, lengths, model, tagger):
    inputs = make_inputs(1, image_counts, lengths)
    expected = model(**inputs).logits
    logits = tagger.logits(**as_numpy(inputs))
    assert logits.dtype == np.float32
    assert np.abs(logits - expected.numpy()).max() < 1e-4
    tags = tagger.decode(logits, inputs["word_mask"].numpy())
    assert (tags == model.decode(expected, inputs["word_mask"]).numpy()).all()


@torch.no_grad()
def test_masks_are_all_true_by_default(model, tagger):
    inputs = {**make_inputs(2, (2, 2), (6, 6)), "token_type_ids": torch.zeros(2, 6, dtype=torch.long)}
    del inputs["attention_mask"], inputs["image_mask"]
    assert np.abs(tagger.logits(**as_numpy(inputs)) - model(**inputs).logits.numpy()).max() < 1e-4


@pytest.mark.parametrize("image_counts", [(2, 1, 0), (0, 0, 0)])
def test_padding_images_change_nothing(image_counts, tagger):
    inputs = as_numpy(make_inputs(3, image_counts))
    bare = tagger.logits(**inputs)
    mask = np.arange(4) < np.array(image_counts)[:, None]
    pixel_values = np.full((3, 4, 3, 16, 16), np.nan, np.float32)
    if max(image_counts):
        pixel_values[:, :2] = np.where(mask[:, :2, None, None, None], inputs["pixel_values"], np.nan)
    padded = tagger.logits(**{**inputs, "pixel_values": pixel_values, "image_mask": mask})
    assert np.abs(padded - bare).max() < 1e-5


def random_emissions(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Strong random emissions of posts of many lengths, one of them without a word."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(16, 13, len(LABELS), generator=generator)
    word_mask = torch.rand(16, 13, generator=generator) < torch.linspace(0.1, 1, 16)[:, None]
    word_mask[7] = False
    return logits, word_mask


@pytest.mark.parametrize("seed", range(5))
def test_crf_is_pytorchs(seed, model, tagger):
    logits, word_mask = random_emissions(seed)
    arrays = logits.numpy(), word_mask.numpy()
    assert (tagger.decode(*arrays) == model.decode(logits, word_mask).numpy()).all()
    np.testing.assert_allclose(tagger.marginals(*arrays), model.marginals(logits, word_mask).numpy(), atol=1e-5)


def test_posts_without_any_word_have_no_tags(tagger):
    logits, word_mask = random_emissions(0)[0].numpy(), np.zeros((16, 13), bool)
    assert (tagger.decode(logits, word_mask) == -100).all()
    assert (tagger.marginals(logits, word_mask) == 0).all()
    assert tagger.entities(logits, word_mask) == [[]] * 16


def test_entities_are_those_of_the_tags_with_their_posteriors(model, tagger):
    logits, word_mask = random_emissions(9)
    posts = tagger.entities(logits.numpy(), word_mask.numpy())
    tags = tagger.decode(logits.numpy(), word_mask.numpy())
    assert (
        sum(map(len, posts)) == np.isin(tags, [LABELS.index(label) for label in LABELS if label[0] == "B"]).sum() > 20
    )
    for post, emissions, starts in zip(posts, logits, word_mask, strict=True):
        spans = [(*entity["words"], entity["entity_group"]) for entity in post]
        if spans:
            expected = model.crf.entity_posteriors(emissions[starts].double(), spans, model.config.temperature)
            assert [entity["score"] for entity in post] == pytest.approx(expected.tolist(), abs=1e-5)


@torch.no_grad()
def test_processors_output_goes_in_whole(model, processor, photo, tagger):
    posts = {"words": [["joey", "and", "niko"], ["the", "dog"]], "images": [[photo, photo], []]}
    arrays, inputs = processor(**posts, return_tensors="np"), processor(**posts)
    tags = tagger.decode(tagger.logits(**arrays), arrays["word_mask"])
    assert (tags == model.decode(model(**inputs).logits, inputs["word_mask"]).numpy()).all()
    assert ((tags >= 0) == arrays["word_mask"]).all()


def test_folder_runs_without_torch_and_without_this_package(folder, tmp_path):
    code = """
import sys
sys.modules["torch"] = sys.modules["smcl"] = sys.modules["transformers"] = None
import numpy as np
from onnx_tagger import OnnxTagger
ids = np.arange(5, 12)[None]
tagger = OnnxTagger(sys.argv[1])
tags = tagger.decode(tagger.logits(ids), ids % 2 == 1)
assert ((tags[0] >= 0) == [True, False, True, False, True, False, True]).all(), tags
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=folder, check=True)


def test_raw_posts_give_the_pipelines_entities_without_torch(model, processor, folder, photo, tmp_path):
    for number in range(4):
        photo.resize((20 + 9 * number, 31)).rotate(40 * number).save(tmp_path / f"{number}.png")
    images = [str(tmp_path / f"{number}.png") for number in range(4)]
    posts = [
        {"text": "the cat joey, and niko!", "images": images[:2]},
        {"text": ["joey", "", "\u200b", "[SEP]", "niko"], "images": images[3:]},
        {"text": "joey and niko sit by the dog " * 30, "images": images},
        {"text": "", "images": images[:1]},
        {"text": " \n", "images": None},
        "joey\u00a0sleeps \U0001f63a niko",
    ]
    path = tmp_path / "posts.json"
    path.write_text(json.dumps(posts))
    script = Path(__file__).with_name("onnx_without_torch.py")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, str(script), str(folder), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = MultiImageNERPipeline(model, processor)(posts)
    assert [[set(entity) for entity in post] for post in found] == [[set(e) for e in post] for post in expected]
    assert sum(map(len, expected)) > 10 and len(expected[2]) > 4
    for post, wanted in zip(found, expected, strict=True):
        for entity, right in zip(post, wanted, strict=True):
            assert entity.pop("score") == pytest.approx(right.pop("score"), abs=1e-5)
            assert entity | {"words": tuple(entity["words"])} == right


@pytest.mark.parametrize(
    ("post", "message"),
    [
        ({"images": []}, "Expected a post with the keys 'text' and, .* got \\['images'\\]"),
        ({"text": "joey", "photos": []}, "got \\['photos', 'text'\\]"),
        (5, "got int"),
        ({"text": 5}, "`text` must be a string or a list of words, got 5"),
        ({"text": ["joey", 5]}, "The post .*expected words as strings, got 5"),
        ({"text": "joey", "images": ["no.png"]}, "The post 'joey', image 0: 'no.png' can't be used"),
        ({"text": "joey", "images": ["a.png"] * 5}, "The post 'joey' has 5 images, but `max_images` is 4"),
    ],
)
def test_posts_that_can_not_be_tagged_are_named(post, message, folder, processor):
    with pytest.raises(ValueError, match=message):
        OnnxTagger(folder, processor=processor)([post])


def test_records_of_a_data_set_and_a_single_image_are_posts_as_in_the_pipeline(folder, processor, photo):
    tagger = OnnxTagger(folder, processor=processor)
    expected = tagger({"text": ["joey", "rests"], "images": [photo]})
    assert tagger({"tokens": ["joey", "rests"], "image": photo}) == expected
    # Whatever the order of the keys.
    assert tagger({"text": "niko", "tokens": ["joey", "rests"], "images": [photo]}) == expected
    assert tagger({"text": ["joey", "rests"], "tokens": [], "images": [photo]}) == expected
    # What a row of a data set has besides is passed over.
    row = {"id": 7, "tokens": np.array(["joey", "rests"]), "ner_tags": [1, 0], "source": "x", "images": [photo]}
    assert tagger(row) == expected
    for images in ({"image": photo, "images": [photo]}, {"image": [photo]}):
        with pytest.raises(ValueError, match="Expected one image as 'image', or a list of them as 'images'"):
            tagger({"text": "joey"} | images)
    with pytest.raises(ValueError, match=r"got \['img_paths'\] beside 'tokens': rename it"):
        tagger({"tokens": ["joey"], "img_paths": ["a.png"]})
    assert onnx_tagger.IMAGE_NAME == pipeline_smcl.IMAGE_NAME and onnx_tagger.IMAGE_TYPES == pipeline_smcl.IMAGE_TYPES
    for words in (5, True, "joey rests", iter(["joey"])):
        with pytest.raises(ValueError, match="`tokens` must be a list of words, got"):
            tagger({"tokens": words})
    for posts in (None, 5):
        with pytest.raises(ValueError, match="Expected a post, or an iterable of posts, got"):
            tagger(posts)


def test_rows_of_pandas_and_data_sets_are_read_as_by_the_pipeline(folder, processor, photo):
    tagger = OnnxTagger(folder, processor=processor)
    expected = tagger({"text": ["joey", "rests"], "images": [photo]})
    images = np.empty(1, dtype=object)
    images[0] = photo
    table = pd.DataFrame({"tokens": [np.array(["joey", "rests"])], "images": [images]})
    assert tagger(table.to_dict("records")) == [expected] == [tagger(table.iloc[0])]
    assert tagger({"text": np.array(["joey", "rests"]), "images": images}) == expected
    assert tagger([{"text": "joey", "images": float("nan")}]) == [tagger("joey")]
    rows = Dataset.from_dict({"text": ["joey"]})
    assert tagger(KeyDataset(rows, "text")) == [tagger("joey")]
    # Its columns' names are no posts.
    with pytest.raises(ValueError, match=r"got DataFrame. Give its rows, by `.to_dict.'records'.`"):
        tagger(table)
    with pytest.raises(ValueError, match="got bytes"):
        tagger(b"joey")
    for value in (photo, Path("a.png"), images, np.zeros((4, 4, 3))):
        with pytest.raises(ValueError, match=r"got \['photo'\] beside 'tokens': rename it"):
            tagger({"tokens": ["joey"], "photo": value})


def test_labels_of_which_no_entity_can_be_made_are_refused_as_by_the_pipeline(folder, processor, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {number: f"LABEL_{number}" for number in config["id2label"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tagger = OnnxTagger(tmp_path, processor=processor)
    with pytest.raises(ValueError, match=r"labels \['LABEL_0', .*, of which no entity can be made"):
        tagger("joey")
    inputs = processor(words=[["joey"]], return_tensors="np")
    assert tagger.decode(tagger.logits(**inputs), inputs["word_mask"]).max() >= 0


def test_tagging_posts_without_a_processor_says_how_to_get_one(tagger):
    with pytest.raises(ValueError, match=r"AutoProcessor.from_pretrained\(folder, trust_remote_code=True\)"):
        tagger("joey")


def test_folder_holds_no_pickle_and_no_trace_of_the_machine(folder):
    assert {path.suffix for path in folder.iterdir()} == {".data", ".json", ".onnx", ".py", ".safetensors"}
    root = str(Path(smcl.__file__).parent).encode()
    assert [path.name for path in folder.iterdir() if root in path.read_bytes()] == []
    with safe_open(folder / "crf.safetensors", "np") as file:
        assert sorted(file.keys()) == ["end_transitions", "start_transitions", "transitions"]
    text = (folder / "config.json").read_text()
    assert "auto_map" not in text and "_name_or_path" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": np.zeros((1, 5, 3, 16, 16), np.float32), "image_mask": None}, r"at most 4, 3, 16, 16"),
        ({"pixel_values": np.zeros((1, 1, 3, 8, 8), np.float32), "image_mask": None}, r"got \(1, 1, 3, 8, 8\)"),
        ({"token_type_ids": np.ones((1, 5), int)}, "`token_type_ids` must be 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message, tagger):
    with pytest.raises(ValueError, match=message):
        tagger.logits(**{**as_numpy(make_inputs(0, (1,), (5,))), **change})


def test_emissions_that_are_not_finite_are_refused(tagger):
    logits = np.zeros((1, 3, len(LABELS)), np.float32)
    logits[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        tagger.decode(logits, np.ones((1, 3), bool))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks model.onnx, crf.safetensors, config.json"):
        OnnxTagger(tmp_path)


def test_missing_packages_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "smcl\[onnx\]"'):
        export_onnx(make_model(), tmp_path / "onnx")
    with pytest.raises(ImportError, match=r'pip install "smcl\[onnx\]"'):
        OnnxTagger(folder)
    assert not (tmp_path / "onnx").exists()


def test_a_transformers_that_exports_otherwise_is_named(tmp_path, monkeypatch):
    older = SimpleNamespace(OnnxConfig=OnnxConfig, OnnxExporter=OnnxExporter)
    monkeypatch.setitem(sys.modules, "transformers.exporters", older)
    with pytest.raises(ImportError, match="transformers 5.23 or later, which needs Python 3.11"):
        export_onnx(make_model(), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_graph_with_other_emissions_is_refused(model):
    samples = [_sample(model.config, (3, 16, 16), [1, 0], 6)]
    with torch.no_grad():
        right = model(**samples[0]).logits
    _check(lambda **inputs: {"logits": right + 1e-5}, model, samples)
    for wrong in (right + 1e-3, right * torch.nan):
        with pytest.raises(ValueError, match="other emissions than the model"):
            _check(lambda wrong=wrong, **inputs: {"logits": wrong}, model, samples)


@torch.no_grad()
def test_int8_of_other_encoders_is_smaller_and_close(tmp_path):
    text = RobertaConfig(vocab_size=100, max_position_embeddings=66, **{**TEXT_SIZE, "num_hidden_layers": 1})
    vision = CLIPVisionConfig(**PIXELS, **{**VISION_SIZE, "num_hidden_layers": 1})
    # A model that gives tuples is exported as others are.
    switches = {"max_images": 1, "constrain_bio": False, "return_dict": False}
    model = make_model(text_config=text, vision_config=vision, **switches)
    export_onnx(model, tmp_path, quantize=True)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "model.onnx.data").stat().st_size < 0.6 * 4 * weights
    # The layers in front of the fusion, run on text and on images, stay as they are: 6 matrices each; nothing else.
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = {value.name for value in graph.initializer}
    assert sum(node.op_type == "MatMul" and node.input[1] in weights for node in graph.node) == 12
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) > 20
    tagger = OnnxTagger(tmp_path)
    inputs = make_inputs(4, (1, 0, 1), (9, 6, 8))
    (expected,) = model(**inputs)
    logits = tagger.logits(**as_numpy(inputs))
    difference = (torch.from_numpy(logits) - expected)[inputs["attention_mask"].bool()]
    assert 1e-4 < difference.abs().mean() < 0.1 * expected.abs().mean()
    for row, (length, count) in enumerate(((9, 1), (6, 0), (8, 1))):
        alone = {
            name: x[row : row + 1, : count if "image" in name or "pixel" in name else length]
            for name, x in as_numpy(inputs).items()
        }
        assert (tagger.logits(**alone)[0] == logits[row, :length]).all(), "neighbours and padding changed emissions"
    logits, word_mask = random_emissions(3)
    assert (tagger.decode(logits.numpy(), word_mask.numpy()) == model.decode(logits, word_mask).numpy()).all()


def test_benchmark_counts_posts_whose_tags_differ():
    word_mask = np.ones((2, 2), bool)
    batch = {"attention_mask": np.array([[1, 1], [1, 0]])}
    tags = {"PyTorch": [[1, 2], [0, 0]], "other": [[1, 2], [1, 0]]}
    logits = {"PyTorch": np.zeros((2, 2, 9)), "other": np.array([[[0.0], [0.5]], [[0.25], [9.0]]]).repeat(9, axis=2)}
    systems = {name: lambda batch, name=name: (logits[name], np.where(word_mask, tags[name], -100)) for name in tags}
    results = score(systems, [batch], [["B-PER", "I-PER"], ["O", "O"]], LABELS)
    assert results["PyTorch"] == {"f1": 1.0, "posts_with_other_tags": 0, "max_difference": 0.0}
    assert results["other"] == {"f1": pytest.approx(2 / 3), "posts_with_other_tags": 1, "max_difference": 0.5}


def as_lists(inputs: dict) -> dict:
    return {name: tensor.tolist() for name, tensor in inputs.items()}


def as_tuples(inputs: dict) -> dict:
    return {name: tuple(map(tuple, tensor.tolist())) for name, tensor in inputs.items()}


def as_floats(inputs: dict) -> dict:
    return {name: tensor.numpy().astype(np.float64) for name, tensor in inputs.items()}


def as_small_integers(inputs: dict) -> dict:
    kept = {name: tensor.numpy() for name, tensor in inputs.items()}
    return {name: array if array.dtype.kind == "f" else array.astype(np.int8) for name, array in kept.items()}


def as_tensors(inputs: dict) -> dict:
    return {name: x.clone().requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}


def as_other_layouts(inputs: dict) -> dict:
    return {name: np.asfortranarray(tensor.numpy()) for name, tensor in inputs.items()}


@pytest.mark.parametrize("form", [as_lists, as_tuples, as_floats, as_small_integers, as_tensors, as_other_layouts])
def test_anything_array_like_gives_the_same(form, tagger):
    inputs = make_inputs(4, (2, 0, 1), (9, 6, 8))
    expected = tagger.logits(**as_numpy(inputs))
    logits = tagger.logits(**form(inputs))
    assert np.abs(logits - expected).max() < 1e-6
    arguments = form({"logits": torch.tensor(expected), "word_mask": inputs["word_mask"]})
    arguments["logits"] = torch.tensor(expected).tolist() if form is as_tuples else arguments["logits"]
    mask = inputs["word_mask"].numpy()
    assert (tagger.decode(**arguments) == tagger.decode(expected, mask)).all()
    np.testing.assert_allclose(tagger.marginals(**arguments), tagger.marginals(expected, mask), atol=1e-5)
    found, wanted = tagger.entities(**arguments), tagger.entities(expected, mask)
    assert [[entity["words"] for entity in post] for post in found] == [[e["words"] for e in post] for post in wanted]


def test_half_precision_is_taken_too(tagger):
    inputs = make_inputs(4)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    expected = tagger.logits(**as_numpy(inputs | {"pixel_values": inputs["pixel_values"].float()}))
    assert (tagger.logits(**inputs) == expected).all()
    halves = tagger.decode(expected.astype(np.float16), inputs["word_mask"])
    assert (halves == tagger.decode(expected, inputs["word_mask"])).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_ids": np.full((3, 65), 7)},
            "Posts have 65 tokens, but .* has positions for 64. Pass `max_length=64`",
        ),
        ({"input_ids": [[1, 2], [3]]}, "`input_ids` must be an array of numbers, got list"),
        ({"input_ids": [["a"]]}, "`input_ids` must be an array of numbers"),
        ({"input_ids": [["1"]]}, "`input_ids` must hold whole numbers, got .'1'"),
        ({"input_ids": [1, 2, 3]}, r"`input_ids` must have the shape \(any, any\), got \(3,\)"),
        ({"input_ids": [[1.5]]}, r"`input_ids` must hold whole numbers, got \[1.5\]"),
        ({"input_ids": np.full((3, 9), 100)}, "`input_ids` must be from 0 to 99, got 100 to 100"),
        ({"input_ids": np.full((3, 9), -1)}, "`input_ids` must be from 0 to 99, got -1 to -1"),
        ({"input_ids": np.zeros((0, 9))}, r"at least one post and one token, got the shape \(0, 9\)"),
        ({"input_ids": None}, "`input_ids` must"),
        ({"attention_mask": np.ones((3, 8))}, r"`attention_mask` must have the shape \(3, 9\), got \(3, 8\)"),
        ({"attention_mask": np.full((3, 9), 2)}, "`attention_mask` must hold True and False, or 1 and 0"),
        ({"image_mask": [[True], [False], [True]]}, r"`image_mask` must have the shape \(3, 3\), got \(3, 1\)"),
        (
            {"pixel_values": np.zeros((2, 1, 3, 16, 16))},
            r"`pixel_values` must have the shape \(3, any",
        ),
        ({"pixel_values": np.zeros((3, 5, 3, 16, 16))}, r"at most 4, 3, 16, 16\), got \(3, 5"),
        ({"pixel_values": np.zeros((3, 1, 3, 16, 16), np.uint8)}, "must be normalised images, got bytes"),
        ({"token_type_ids": [[1] * 9] * 3}, "`token_type_ids` must be 0"),
    ],
)
def test_arguments_that_can_not_be_used_are_named(change, message, tagger):
    inputs = as_numpy(make_inputs(4))
    if "pixel_values" in change:
        del inputs["image_mask"]
    with pytest.raises(ValueError, match=message):
        tagger.logits(**(inputs | change))


@pytest.mark.parametrize("name", ["decode", "marginals", "entities"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word_mask": np.ones((16, 12), bool)}, r"`word_mask` must have the shape \(16, 13\), got \(16, 12\)"),
        ({"logits": np.zeros((16, 13, 5))}, r"`logits` must have the shape \(any, any, 9\), got \(16, 13, 5\)"),
        ({"logits": "scores"}, "`logits` must be an array of numbers"),
        ({"word_mask": [[0.5] * 13] * 16}, "`word_mask` must hold True and False"),
    ],
)
def test_scores_and_words_that_do_not_fit_are_named(name, change, message, tagger):
    logits, word_mask = random_emissions(0)
    with pytest.raises(ValueError, match=message):
        getattr(tagger, name)(**({"logits": logits, "word_mask": word_mask} | change))

import json
import re

import pytest
import torch
from factories import make_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForTokenClassification

from smcl.baselines.bert_crf import BertCRFConfig, BertCRFForTokenClassification
from smcl.predict import load_pipeline, serve
from smcl.run_ner_multiimage import main

POST = {"text": "joey and niko rest after wrestling in verona"}


def test_a_saved_model_is_loaded_with_this_packages_classes(processor, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    # Code beside the weights is not run.
    (tmp_path / "modeling_smcl.py").write_text("raise SystemExit")
    ner = load_pipeline(tmp_path, device="cpu", on_bad_image="skip")
    assert type(ner.model) is type(model)
    for (name, value), other in zip(model.state_dict().items(), ner.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert ner(POST) == load_pipeline(str(tmp_path), device="cpu")(POST)
    assert ner({**POST, "images": ["nothing.png"]}, return_tags=True)["skipped_images"]


@pytest.mark.parametrize("kind", ["stock", "baseline"])
def test_models_of_other_types_are_refused(tmp_path, kind):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    if kind == "stock":
        model, name = BertForTokenClassification(BertConfig(vocab_size=50, **sizes)), "'bert'"
    else:
        config = BertCRFConfig(text_config={"model_type": "bert", "vocab_size": 50, **sizes})
        model, name = BertCRFForTokenClassification(config), "'smcl-bert-crf'"
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"to be a saved SMCL, got a model of type {name}"):
        load_pipeline(tmp_path)


def test_a_name_without_a_model_is_named(tmp_path):
    with pytest.raises(OSError, match="there is no such folder, and it is no name on the Hub.*nowhere"):
        load_pipeline(tmp_path / "nowhere")


def damage(folder, kind: str) -> None:
    """Make of a saved model what copying, cloning or editing makes of one."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"
    weights, config = folder / "model.safetensors", folder / "config.json"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "pointer":
        weights.write_text(pointer)
    elif kind in ("missing", "left over"):
        tensors = load_file(weights)
        if kind == "missing":
            del tensors["classifier.weight"]
        save_file(tensors | ({} if kind == "missing" else {"head.weight": torch.zeros(2)}), weights, {"format": "pt"})
    elif kind == "tokenizer":
        (folder / "tokenizer.json").write_text(pointer)
    else:
        labels = {"id2label": {"0": "O", "1": "B-X"}, "label2id": {"O": 0, "B-X": 1}}
        changed = labels if kind == "shapes" else {"max_images": 0}
        config.write_text(json.dumps(json.loads(config.read_text()) | changed))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "The weights of .*model are cut or damaged: .*git lfs pull"),
        ("pointer", "The weights of .*model are cut or damaged: .*git lfs pull"),
        ("missing", "The weights of .*model do not fit its configuration: classifier.weight and 0 more are missing"),
        ("left over", "The weights of .*model do not fit its configuration: head.weight and 0 more are .*left over"),
        ("shapes", "The weights of .*model do not fit its configuration: "),
        ("field", "The configuration of .*model can't be used: `max_images` must be at least 1, got 0"),
        ("tokenizer", r"The processor of .*model \(tokenizer.*\) can't be loaded: .*git lfs pull"),
    ],
)
def test_a_model_that_is_damaged_or_not_whole_is_refused_by_name(processor, tmp_path, capsys, kind, message):
    folder, posts = tmp_path / "model", tmp_path / "posts.jsonl"
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    posts.write_text(json.dumps(POST))
    damage(folder, kind)
    with pytest.raises(ValueError, match=message):
        load_pipeline(folder)
    arguments = ["--model", str(folder), "--do_predict", "--input", str(posts), "--output", str(tmp_path / "a.jsonl")]
    with pytest.raises(ValueError, match=message):
        main([*arguments, "--use_cpu"])
    with pytest.raises(SystemExit):
        serve.main(["--model", str(folder), "--port", "0"])
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])

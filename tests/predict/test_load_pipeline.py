import pytest
import torch
from factories import make_model
from transformers import BertConfig, BertForTokenClassification

from smcl.baselines.bert_crf import BertCRFConfig, BertCRFForTokenClassification
from smcl.predict import load_pipeline

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

import copy
import shlex

import pytest
from card_shape import shape
from factories import make_config, make_model
from huggingface_hub import ModelCard

from smcl import SMCLConfig
from smcl.publish.model_card import model_card
from smcl.publish.upload import complete

SCORES = {f"test_{name}": 0.5 for name in ("precision", "recall", "f1", "PER_f1", "LOC_f1", "ORG_f1")}


def make_run(*stages, title="posts", is_local=True, **results) -> dict:
    """A run as `run.json` has it."""
    split = {"posts": 12_000, "sha256": "ab12", "images": 9, "lost_images": 1}
    mentions = {"PER": {"count": 2, "examples": ["Jo|ey", "<b>N*"]}, "LOC": {"count": 0, "examples": []}}
    return {
        "command": "python run_ner_multiimage.py --model /home/someone/models/first --dataset data/posts",
        "finished": "2026-01-02T03:04:05+00:00",
        "seconds": 3600.0,
        "resumed_from": None,
        "stages": list(stages),
        "started_from": {"text_model": {"name": "google-bert/bert-base-uncased", "is_local": False}},
        "freeze_vision": False,
        "ignore_images": False,
        "settings": {"seed": 7},
        "data": {"name": title, "title": title, "is_local": is_local, "splits": {"test": split}, "mentions": mentions},
        "versions": {"python": "3.12", "smcl": None},
        "hardware": "cpu",
        "energy_kwh": None,
        "results": results,
    }


def make_card(*runs, **kwargs) -> ModelCard:
    return model_card("someone/model", make_config(), 1234, runs, **kwargs)


def test_card_of_a_model_without_recorded_runs_says_so(processor, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    complete(tmp_path / "model", tmp_path / "out", "someone/model")
    card = ModelCard((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert card.data.license == "unknown" and card.data.eval_results is None and card.data.base_model is None
    assert card.text.count("not recorded") >= 8
    assert "Precision, recall and F1 on a test split: not measured." in card.text
    assert "expected calibration error is not measured" in card.text
    assert card.data.metrics is None and "The scores are" not in card.text


def test_scores_without_a_recorded_run_are_told_but_not_indexed():
    card = make_card(results=SCORES)
    assert "| all | 0.5000 | 0.5000 | 0.5000 | not recorded |" in card.text
    assert "test split of the data\nnot recorded" in card.text
    assert card.data.eval_results is None


def test_scores_of_weights_before_the_last_training_are_not_told():
    runs = [make_run("train", "test", train_runtime=1.0, epoch=1.0, **SCORES)]
    assert make_card(*runs).data.eval_results[2].metric_value == 0.5
    runs.append(make_run("train", train_runtime=2.0, epoch=1.0))
    card = make_card(*runs)
    assert card.data.eval_results is None and "not measured" in card.text
    runs.append(make_run("test", **SCORES | {"test_f1": 0.25}))
    assert make_card(*runs).data.eval_results[2].metric_value == 0.25


def test_what_context_was_made_by_is_told():
    run = make_run("train", "test", train_runtime=1.0, epoch=1.0, **SCORES)
    assert "It reads what was made" not in make_card(run).text
    made = {"made_by": "Vin|VL", "model": "Vin|VL", "fingerprint": "ab"}
    template = {"made_by": "a template from objects by Vin|VL", "model": "template"}
    run["data"]["context"] = {"objects": made, "captions": template, "knowledge": None}
    expected = (
        "`objects` by Vin\\|VL, fingerprint `ab`; `captions` by a template from objects by Vin\\|VL (model template)"
    )
    assert (
        f"It reads what was made of these posts before: {expected}; `knowledge` by not recorded." in make_card(run).text
    )


def test_data_and_encoders_of_the_hub_become_metadata_and_local_ones_do_not():
    metadata = make_card(make_run("train", title="someone/posts", is_local=False, train_runtime=1.0, epoch=1.0))
    assert metadata.data.datasets == ["someone/posts"]
    assert metadata.data.base_model == ["google-bert/bert-base-uncased"]
    run = make_run("train", train_runtime=1.0, epoch=1.0)
    run["started_from"] = {"text_model": {"name": "/home/someone/bert", "is_local": True}}
    card = make_card(run)
    assert card.data.datasets is None and card.data.base_model is None
    assert "bert (a local folder)" in card.text and "/home" not in card.text


def test_words_of_the_data_stay_text_in_the_card():
    text = make_card(make_run("train", train_runtime=1.0, epoch=1.0)).text
    assert "| PER | 2 | Jo\\|ey, &#60;b&#62;N\\* |" in text
    assert "| LOC | 0 | none |" in text and "| ORG | not recorded | not recorded |" in text


def test_energy_and_resumption_are_told_if_they_were_recorded():
    run = make_run("train", train_runtime=1.0, epoch=4.0)
    assert "| energy | not measured |" in make_card(run).text
    run = copy.deepcopy(run) | {"energy_kwh": 0.125, "resumed_from": "checkpoint-30"}
    text = make_card(run).text
    assert "| energy | 0.1250 kWh (codecarbon) |" in text
    assert "since checkpoint-30, where it was resumed; the time before is not recorded, 4 epochs" in text


HOSTILE = "{{ 7 * 7 }} {% raw %} |<b>`*_~$x$\n---\n# no"


def test_strings_of_the_user_are_neither_templates_nor_markup():
    run = make_run("train", "test", title=HOSTILE, train_runtime=1.0, epoch=1.0, **SCORES)
    run["data"]["mentions"]["PER"]["examples"] = [HOSTILE]
    run["resumed_from"] = HOSTILE
    run["started_from"]["text_model"] = {"name": HOSTILE, "is_local": False}
    run["command"] = shlex.join(["python", "run_ner_multiimage.py", "--dataset", "a\n```\n" + HOSTILE])
    plain = make_card(make_run("train", "test", train_runtime=1.0, epoch=1.0, **SCORES))
    card = make_card(run)
    assert card.data.eval_results[0].dataset_name == HOSTILE and card.data.base_model == [HOSTILE]
    assert card.text.count("7 \\* 7") == 5
    assert f"````bash\n{run['command']}\n````\n" in card.text
    outside = card.text.replace(run["command"], "")
    assert "<b>" not in outside and "$" not in outside
    assert shape(outside) == shape(plain.text)


def test_labels_stay_text_in_the_card():
    labels = {0: "O", 1: "B-a|b", 2: "I-a|b"}
    card = model_card("someone/model", make_config(id2label=labels), 1234)
    assert "| a\\|b | not recorded | not recorded |" in card.text and "entities (a\\|b)" in card.text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--model /home/someone/first/", "--model first"),
        ("--model=/home/someone/first", "--model=first"),
        ("--model file:///home/someone/first", "--model first"),
        ("""--fsdp_config '{"a": "/home/someone/first"}'""", """--fsdp_config '{"a": "first"}'"""),
        ("--report_to https://host/someone/first", "--report_to https://host/someone/first"),
        ("--dataset data/posts", "--dataset data/posts"),
        ("--dataset 'C:\\Users\\someone\\first'", "--dataset first"),
        ("--dataset ../../someone/first", "--dataset first"),
        ("--dataset ~/first", "--dataset first"),
        ("""--dataset "/home/some'one/x,y/first\"""", "--dataset first"),
        ("--dataset ..first", "--dataset ..first"),
    ],
)
def test_absolute_paths_are_cut_wherever_they_stand(given, told):
    run = make_run("test", **SCORES) | {"command": f"python run_ner_multiimage.py {given}"}
    assert f"python run_ner_multiimage.py {told}\n" in make_card(run).text


def test_settings_other_than_the_published_ones_are_told():
    default = {name: getattr(SMCLConfig, name) for name in ("cmd_order", "use_fusion", "dropout")}
    assert "other settings" not in model_card("someone/model", make_config(**default), 1234).text
    card = model_card("someone/model", make_config(use_fusion=False), 1234)
    assert "has other settings: `use_fusion` False" in card.text


def test_scores_without_images_are_told_to_be_so():
    run = make_run("test", **SCORES)
    assert "taken away" not in make_card(run).text
    card = make_card(run | {"ignore_images": True})
    assert "The images were taken away for it." in card.text
    assert card.data.eval_results[2].metric_name == "strict entity-level f1, micro-averaged, images taken away"


def test_calibration_error_is_that_of_the_last_temperature_on_the_data_tested_last():
    told = "calibration error on the test split is 0.100"
    errors = {"test_ece": 0.1, "test_ece_before": 0.2}
    first = make_run("train", "calibration", "test", train_runtime=1.0, epoch=1.0, **SCORES, **errors)
    assert told in make_card(first).text
    assert told in make_card(first, make_run("test", **SCORES)).text
    assert "calibration error is not measured" in make_card(first, make_run("calibration", validation_ece=0.3)).text
    assert "calibration error is not measured" in make_card(first, make_run("test", title="other", **SCORES)).text


def test_type_that_the_test_split_lacks_is_not_called_the_worst():
    run = make_run("test", **SCORES | {"test_LOC_f1": 0.0, "test_LOC_support": 0.0, "test_ORG_f1": 0.25})
    assert "It is worst at ORG: F1 0.250" in make_card(run).text

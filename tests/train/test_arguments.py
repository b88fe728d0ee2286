import json
import re

import pytest
from transformers import TrainingArguments
from transformers.utils import logging

from smcl.baselines import SYSTEMS
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments, parse_arguments


def test_arguments_may_come_from_one_file(data, encoders, tmp_path):
    names = [name.removeprefix("--") for name in encoders[::2]]
    arguments = dict(zip(names, encoders[1::2], strict=True))
    arguments |= {"dataset": data, "output_dir": str(tmp_path / "out"), "do_train": True, "num_train_epochs": 1}
    arguments |= {"use_cpu": True, "use_fusion": False, "disable_tqdm": True, "early_stopping_patience": 2}
    (tmp_path / "run.json").write_text(json.dumps(arguments))
    assert main([str(tmp_path / "run.json")]) == {}
    lines = [f"{name}: {json.dumps(value)}" for name, value in arguments.items()]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    main([str(tmp_path / "run.yaml")])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["use_fusion"] is False


def test_one_process_uses_one_gpu_and_says_so(monkeypatch, tmp_path, caplog):
    def with_two_gpus(arguments):
        arguments._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_two_gpus)
    monkeypatch.setattr(logging.get_logger("smcl"), "propagate", True)
    assert SMCLTrainingArguments(output_dir=str(tmp_path)).n_gpu == 1
    assert "accelerate launch" in caplog.text


@pytest.fixture
def help_texts(capsys, monkeypatch) -> dict[str, str]:
    """What `--help` says of each argument."""
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    entries = re.finditer(r"^  --(\w+) .*?(?:  |\n +)(\S.*)$", capsys.readouterr().out, re.MULTILINE)
    return {entry[1]: entry[2] for entry in entries}


@pytest.mark.parametrize("name", SYSTEMS)
def test_switches_of_each_system_are_arguments_with_help_and_default(name, help_texts):
    config_class = SYSTEMS[name].config_class
    for switch in config_class.switches:
        default = getattr(config_class, switch)
        usual, *others = re.search(r"\S \(default: (.*)\)\.$", help_texts[switch])[1].split("; ")
        of_others = {key: value for value, keys in (x.split(" with ") for x in others) for key in keys.split(", ")}
        assert of_others.get(name, usual.split(" with ")[0]) == str(default)
        given = parse_arguments(["--output_dir", "x", f"--{switch}", str(default)]).switches.given()
        assert given == {switch: default}
        assert type(given[switch]) is (float if type(default) is int and switch.endswith("weight") else type(default))


def test_help_of_switches_is_what_the_docstrings_of_the_configurations_say(help_texts):
    assert help_texts["similarity_weight"] == "Weight alpha of the similarity loss (Eq. 18) (default: 0.3)."
    assert help_texts["span_weight"] == "Weight of the entity spans' loss (default: 0.5 with umt, umt-mi)."
    assert help_texts["dropout"].endswith("the two backbones (default: 0.1; 0.5 with bilstm-crf, hbilstm-crf).")
    assert not [name for name, text in help_texts.items() if "(default: None)" in text]


def test_switch_with_a_value_that_is_no_choice_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--output_dir", "x", "--guidance_filter", "some"])
    assert "invalid choice: 'some' (choose from" in capsys.readouterr().err


def test_own_switch_of_a_system_reaches_its_model_and_no_other(data, encoders, tmp_path):
    arguments = ["--dataset", data, *encoders, "--output_dir", str(tmp_path / "out"), "--use_cpu", "--do_train"]
    arguments += ["--max_steps", "1", "--disable_tqdm", "true", "--span_weight", "0.2"]
    with pytest.raises(ValueError, match="The system 'smcl' has no `--span_weight`: leave that out"):
        main(arguments)
    main([*arguments, "--system", "umt"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["span_weight"] == 0.2

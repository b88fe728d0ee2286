import json

from transformers import TrainingArguments
from transformers.utils import logging

from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments


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

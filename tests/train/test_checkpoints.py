import json
import os
import shutil
import zipfile

import pytest

from smcl import SMCLForTokenClassification
from smcl.dataset_scripts.icons import convert
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.checkpoints import (
    checkpoint_faults,
    checkpoint_to_resume,
    clear_earlier_run,
    last_complete_checkpoint,
)


@pytest.mark.parametrize(
    "name", ["config.json", "trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
def test_missing_and_cut_files_of_a_checkpoint_are_named(checkpoint, tmp_path, name):
    assert checkpoint_faults(checkpoint) == []
    copy = tmp_path / "checkpoint-3"
    shutil.copytree(checkpoint, copy)
    for size in (os.path.getsize(copy / name) - 2, 100, 0):
        os.truncate(copy / name, size)
        assert checkpoint_faults(copy) == [name], size
    (copy / name).unlink()
    assert checkpoint_faults(copy) == [name]


def test_missing_shard_of_a_checkpoint_is_named(checkpoint, tmp_path):
    copy = tmp_path / "checkpoint-3"
    shutil.copytree(checkpoint, copy)
    (copy / "model.safetensors").unlink()
    SMCLForTokenClassification.from_pretrained(checkpoint).save_pretrained(copy, max_shard_size="60KB")
    assert checkpoint_faults(copy) == []
    shard = sorted(copy.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert checkpoint_faults(copy) == [shard.name]


def test_last_complete_checkpoint_skips_others_with_a_warning(checkpoint, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("smcl.train.checkpoints.logger.warning", warnings.append)
    assert last_complete_checkpoint(tmp_path) is None
    for name in ("checkpoint-3", "checkpoint-12", "checkpoint-100", "checkpoint-12-copy"):
        shutil.copytree(checkpoint, tmp_path / name)
    (tmp_path / "checkpoint-100" / "optimizer.pt").unlink()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")
    assert warnings[0].startswith("Skipped 1 incomplete checkpoints of")
    assert "checkpoint-100 (optimizer.pt)" in warnings[0]


def test_resume_argument_may_be_true_false_or_a_checkpoint(checkpoint, tmp_path):
    def resume(value, folder=checkpoint.parent):
        arguments = SMCLTrainingArguments(output_dir=str(folder), resume_from_checkpoint=value, use_cpu=True)
        return checkpoint_to_resume(arguments)

    for value in ("true", "True", True, str(checkpoint)):
        assert resume(value) == str(checkpoint)
    for value in ("false", False, None):
        assert resume(value) is None
    assert resume("true", tmp_path) is None
    with pytest.raises(ValueError, match="is no complete checkpoint: missing or cut off: model.safetensors"):
        resume(str(tmp_path / "none"))


@pytest.mark.parametrize("folder", ["file", "file/below", "bad\0name"])
def test_impossible_output_folder_is_refused_before_any_work(training, tmp_path, monkeypatch, folder):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("smcl.train.build.load_posts", lambda *args, **kwargs: pytest.fail("work has begun"))
    with pytest.raises(ValueError, match="`--output_dir` is .*no folder that can be written to"):
        main([*training, "--output_dir", str(tmp_path / folder)])


@pytest.fixture
def begun(checkpoint, tmp_path):
    """The output folder of a run that was stopped after an epoch, by validation loss."""
    shutil.copytree(checkpoint, tmp_path / "out" / "checkpoint-3")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--metric_for_best_model", "f1"], "with `--metric_for_best_model` 'another one', and this run has 'f1'"),
        (["--use_fusion", "false"], "with `--use_fusion` True, and this run has False"),
        (["--system", "umt"], "with `--system` 'smcl', and this run has 'smcl-umt'"),
        (["--head_learning_rate", "0.1"], "with `--head_learning_rate` None, and this run has 0.1"),
        (["--vision_learning_rate", "0.1"], "with `--vision_learning_rate` None, and this run has 0.1"),
        (["--learning_rate", "1e-6"], "with `--learning_rate` 0.001, and this run has 1e-06"),
        (["--weight_decay", "0.9"], "with `--weight_decay` 0.0, and this run has 0.9"),
        (["--optim", "adafactor"], "with `--optim` 'adamw.*', and this run has 'adafactor'"),
        (["--seed", "7"], "with `--seed` 42, and this run has 7"),
        (["--max_length", "6"], "with `--max_length` None, and this run has 6"),
        (["--per_device_train_batch_size", "8"], "with posts of a step .* 4, and this run has 8"),
        (["--ignore_images"], r"with training data '12 posts \(.*\)', and this run has '12 posts \("),
        (["--freeze_vision"], "made by training other weights.*Give `--freeze_vision`"),
    ],
)
def test_a_run_that_differs_does_not_go_on(training, begun, changed, message):
    arguments = [*training, "--output_dir", str(begun), "--metric_for_best_model", "eval_loss"]
    with pytest.raises(ValueError, match=message):
        main([*arguments, *changed])


def test_a_run_with_other_posts_does_not_go_on(training, begun, tmp_path):
    convert(tmp_path / "other", train=12, validation=4, test=4, seed=1)
    arguments = [*training, "--output_dir", str(begun), "--metric_for_best_model", "eval_loss"]
    with pytest.raises(ValueError, match="with training data '12 posts"):
        main([*arguments, "--dataset", str(tmp_path / "other")])


def test_a_run_goes_on_in_smaller_batches_of_the_same_product_and_leaves_out_what_it_does_not_know(training, begun):
    arguments = [
        "--output_dir",
        str(begun),
        "--metric_for_best_model",
        "eval_loss",
        "--per_device_train_batch_size",
        "2",
    ]
    main([*training, *arguments, "--gradient_accumulation_steps", "2", "--logging_steps", "1"])
    results = json.loads((begun / "train_results.json").read_text())
    assert results["epoch"] == 3 and not {"train_loss", "train_samples_per_second"} & results.keys()


@pytest.mark.parametrize("content", ["{}", "[]", '{"global_step": 3, "of_a_newer_version": 1}'])
def test_a_state_that_can_not_be_read_is_a_fault(begun, content):
    (begun / "checkpoint-3" / "trainer_state.json").write_text(content)
    assert checkpoint_faults(begun / "checkpoint-3") == ["trainer_state.json"]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_damage_within_a_file_and_another_file_in_its_place_are_told(training, begun, name):
    path = begun / "checkpoint-3" / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    assert checkpoint_faults(begun / "checkpoint-3") == [name]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other/data.pkl", b"")
    with pytest.raises(ValueError, match="checkpoint-3 can't be read: .*Remove that checkpoint"):
        main([*training, "--output_dir", str(begun), "--metric_for_best_model", "eval_loss"])


def test_overwriting_leaves_the_users_own_files(training, begun):
    for name in ("checkpoint-notes/mine.txt", "survey_results.json", "all_results.json"):
        (begun / name).parent.mkdir(exist_ok=True)
        (begun / name).write_text("mine")
    clear_earlier_run(begun)
    left = sorted(str(path.relative_to(begun)) for path in begun.rglob("*") if path.is_file())
    assert left == ["checkpoint-notes/mine.txt", "survey_results.json"]


def test_a_run_with_other_words_does_not_go_on(training, begun):
    path = begun / "checkpoint-3" / "tokenizer.json"
    path.write_text(path.read_text().replace('"niko"', '"nika"').replace('"joey"', '"joeyy"').replace('"and"', '"und"'))
    with pytest.raises(ValueError, match="with the tokenizer 'of other words'"):
        main([*training, "--output_dir", str(begun), "--metric_for_best_model", "eval_loss"])


def test_a_run_that_stopped_early_goes_on_with_more_patience(training, tmp_path):
    arguments = [*training, "--output_dir", str(tmp_path), "--learning_rate", "1e-12", "--num_train_epochs", "4"]
    for patience, epochs in (("1", 2), ("9", 4)):
        main([*arguments, "--early_stopping_patience", patience])
        assert json.loads((tmp_path / "trainer_state.json").read_text())["epoch"] == epochs


def test_calibration_replaces_no_other_model(training, begun, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(begun / "checkpoint-3", own)
    arguments = [*training[:2], "--model", str(own), "--calibrate", "--use_cpu", "--disable_tqdm", "true"]
    with pytest.raises(ValueError, match="holds a trained model .checkpoint-3.*`--overwrite_output_dir`"):
        main([*arguments, "--output_dir", str(begun)])
    main([*arguments, "--output_dir", str(own)])
    main([*arguments, "--output_dir", str(begun), "--overwrite_output_dir"])
    assert (begun / "model.safetensors").is_file() and not (begun / "checkpoint-3").exists()


def test_trained_weights_start_with_a_temperature_of_their_own(training, checkpoint, tmp_path, caplog):
    model = tmp_path / "calibrated"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"temperature": 2.5}))
    arguments = [*training[:2], "--model", str(model), "--do_train", "--max_steps", "1", "--use_cpu"]
    main([*arguments, "--eval_strategy", "no", "--disable_tqdm", "true", "--output_dir", str(tmp_path / "out")])
    assert SMCLForTokenClassification.from_pretrained(tmp_path / "out").config.temperature == 1
    assert "it is 1 again" in caplog.text

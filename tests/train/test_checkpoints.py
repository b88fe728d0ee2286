import os
import shutil

import pytest

from smcl import SMCLForTokenClassification
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.checkpoints import checkpoint_faults, checkpoint_to_resume, last_complete_checkpoint


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

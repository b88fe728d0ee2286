"""Runs that are killed, run out of disk space or diverge: what is left can be resumed, to the same weights."""

import json
import os
import random
import resource
import shutil
import signal
import time
import traceback
from pathlib import Path

import pytest
import torch
import transformers
from factories import make_model
from safetensors.torch import load_file

from smcl import SMCLForTokenClassification
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.checkpoints import checkpoint_faults
from smcl.train.trainer import SMCLTrainer

# Trainer saves the random state of CUDA too, which a forked child can't ask for.
forks = pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="needs fork, without CUDA")

# Training improves the loss, so that "a higher loss is better" makes the first checkpoint the best one.
FIRST_IS_BEST = ["--metric_for_best_model", "eval_loss", "--greater_is_better", "true"]
EVERY_TWO_STEPS = ["--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2"]


@pytest.fixture(scope="module")
def undisturbed(training, tmp_path_factory):
    """Outcomes of runs left alone, by their further arguments."""
    outcomes = {}

    def run(*arguments):
        if arguments not in outcomes:
            folder = tmp_path_factory.mktemp("undisturbed")
            main([*training, "--output_dir", str(folder), *arguments])
            outcomes[arguments] = outcome(folder)
        return outcomes[arguments]

    return run


def outcome(folder: Path) -> tuple:
    """The final weights, and what training came to know of them."""
    state = json.loads((folder / "trainer_state.json").read_text())
    names = "global_step", "best_global_step", "best_metric", "stateful_callbacks"
    return (folder / "model.safetensors").read_bytes(), *(state[name] for name in names)


def start(function) -> int:
    """Run a function in a forked child."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def cut_write(write, at: int):
    """Wrap a writing function to leave half of the file and kill the process at one of its calls."""
    calls = 0

    def cut(*args, **kwargs):
        nonlocal calls
        calls += 1
        write(*args, **kwargs)
        if calls == at:
            path = next(arg for arg in args if isinstance(arg, str | Path))
            os.truncate(path, os.path.getsize(path) // 2)
            kill_self()

    return cut


def cut_removal(folder, ignore_errors=False):
    """Remove some of the files in a folder and kill the process."""
    if Path(folder).is_dir():
        for name in ("config.json", "scheduler.pt", "model.safetensors"):
            (Path(folder) / name).unlink()
        kill_self()


def kill_at(calls: int):
    """Make a function that kills the process when it is called so often, and else does what Trainer does."""
    compute_loss = SMCLTrainer.compute_loss

    def compute(self, *args, **kwargs):
        nonlocal calls
        calls -= 1
        if calls == 0:
            kill_self()
        return compute_loss(self, *args, **kwargs)

    return compute


# Each checkpoint takes four calls of torch.save: arguments, optimizer, scheduler, random states.
MOMENTS = {
    "in the first step": lambda patch: patch.setattr(SMCLTrainer, "compute_loss", kill_at(1)),
    "between checkpoints": lambda patch: patch.setattr(SMCLTrainer, "compute_loss", kill_at(8)),
    "writing the first weights": lambda patch: patch.setattr(
        "transformers.modeling_utils.safe_save_file", cut_write(transformers.modeling_utils.safe_save_file, 1)
    ),
    "writing weights": lambda patch: patch.setattr(
        "transformers.modeling_utils.safe_save_file", cut_write(transformers.modeling_utils.safe_save_file, 2)
    ),
    "writing the optimizer": lambda patch: patch.setattr(torch, "save", cut_write(torch.save, 6)),
    "writing the random states": lambda patch: patch.setattr(torch, "save", cut_write(torch.save, 8)),
    "writing the state": lambda patch: patch.setattr(
        transformers.TrainerState, "save_to_json", cut_write(transformers.TrainerState.save_to_json, 2)
    ),
    "removing an old checkpoint": lambda patch: patch.setattr(shutil, "rmtree", cut_removal),
    "writing the final weights": lambda patch: patch.setattr(
        "transformers.modeling_utils.safe_save_file", cut_write(transformers.modeling_utils.safe_save_file, 4)
    ),
}


@forks
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_is_resumed_to_the_same_weights(training, undisturbed, tmp_path, monkeypatch, moment):
    arguments = [*training, "--output_dir", str(tmp_path), *FIRST_IS_BEST]
    expected = undisturbed(*FIRST_IS_BEST)

    def killed_run():
        MOMENTS[moment](monkeypatch)
        main(arguments)

    assert wait(start(killed_run)) == -signal.SIGKILL
    main(arguments)
    assert outcome(tmp_path) == expected


@forks
@pytest.mark.parametrize("extra", [(), (*EVERY_TWO_STEPS, "--gradient_accumulation_steps", "1")])
def test_run_killed_again_and_again_ends_with_the_same_weights(training, undisturbed, tmp_path, extra):
    started = time.monotonic()
    arguments = [*training, "--output_dir", str(tmp_path), *extra]
    main([*training, "--output_dir", str(tmp_path / "timed"), *extra])
    duration = time.monotonic() - started
    kills, rng = 0, random.Random()
    while kills < 4:
        child = start(lambda: main(arguments))
        time.sleep(rng.uniform(0.2, 1) * duration)
        os.kill(child, signal.SIGKILL)
        if wait(child) == 0:
            break
        kills += 1
    main(arguments)
    assert outcome(tmp_path) == undisturbed(*extra)


@forks
def test_run_killed_at_its_end_and_moved_still_ends_with_the_best_weights(training, undisturbed, tmp_path, monkeypatch):
    before, after = tmp_path / "before", tmp_path / "after"

    def killed_run():
        monkeypatch.setattr(SMCLTrainer, "_load_best_model", lambda self: kill_self())
        main([*training, "--output_dir", str(before), *FIRST_IS_BEST])

    assert wait(start(killed_run)) == -signal.SIGKILL
    before.rename(after)
    main([*training, "--output_dir", str(after), *FIRST_IS_BEST])
    assert outcome(after) == undisturbed(*FIRST_IS_BEST)
    state = json.loads((after / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(after / "checkpoint-3")


@forks
def test_run_killed_after_early_stopping_does_not_train_on(training, undisturbed, tmp_path, monkeypatch):
    settings = (*FIRST_IS_BEST, "--early_stopping_patience", "1")
    expected = undisturbed(*settings)
    assert expected[1:3] == (6, 3)

    def killed_run():
        monkeypatch.setattr(SMCLTrainer, "_load_best_model", lambda self: kill_self())
        main([*training, "--output_dir", str(tmp_path), *settings])

    assert wait(start(killed_run)) == -signal.SIGKILL
    main([*training, "--output_dir", str(tmp_path), *settings])
    assert outcome(tmp_path) == expected


def test_trainer_refuses_what_it_cannot_resume(tmp_path):
    trainer = SMCLTrainer(
        make_model(),
        SMCLTrainingArguments(
            str(tmp_path), use_cpu=True, eval_strategy="no", save_strategy="no", load_best_model_at_end=False
        ),
    )
    with pytest.raises(ValueError, match="Expected a complete checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="Can't resume from .*missing or cut off: model.safetensors, config.json"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@forks
@pytest.mark.parametrize("share", [0.5, 1.5])
def test_full_disk_stops_with_the_last_checkpoint_intact(training, undisturbed, checkpoint, tmp_path, share, capfd):
    """A limit on the size of files, which cuts the weights or else the larger optimizer state."""
    limit = int(share * os.path.getsize(checkpoint / "model.safetensors"))
    arguments = [*training, "--output_dir", str(tmp_path), *FIRST_IS_BEST]

    def limited_run():
        save, calls = SMCLTrainer._save_checkpoint, []

        def limited_save(*args):
            calls.append(args)
            if len(calls) == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            save(*args)

        SMCLTrainer._save_checkpoint = limited_save
        main(arguments)

    assert wait(start(limited_run)) == 1
    error = capfd.readouterr().err
    assert f"OSError: Saving {tmp_path}/checkpoint-6 failed, with " in error
    assert f"The last complete checkpoint is {tmp_path}/checkpoint-3. Make room" in error
    assert checkpoint_faults(tmp_path / "checkpoint-3") == []
    main(arguments)
    assert outcome(tmp_path) == undisturbed(*FIRST_IS_BEST)


def test_file_in_the_way_of_a_checkpoint_stops_the_run(training, tmp_path):
    (tmp_path / "checkpoint-6").write_text("in the way")
    with pytest.raises(OSError, match="checkpoint-6 failed, with .*The last complete checkpoint is .*checkpoint-3"):
        main([*training, "--output_dir", str(tmp_path)])
    assert checkpoint_faults(tmp_path / "checkpoint-3") == []


@pytest.mark.parametrize("logging_steps", ["1", "500"])
def test_loss_that_turns_nan_stops_the_run_before_a_checkpoint(training, tmp_path, monkeypatch, logging_steps):
    forward, calls = SMCLForTokenClassification.forward, []

    def diverging_forward(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        if self.training:
            calls.append(outputs)
            if len(calls) == 5:
                outputs.loss = outputs.loss * float("nan")
                outputs.similarity_loss = outputs.similarity_loss * float("nan")
        return outputs

    monkeypatch.setattr(SMCLForTokenClassification, "forward", diverging_forward)
    evaluations = []
    evaluate = SMCLTrainer.evaluate
    monkeypatch.setattr(SMCLTrainer, "evaluate", lambda *args, **kw: evaluations.append(1) or evaluate(*args, **kw))
    message = r"loss of step 5 is not finite \(loss nan, task_loss \d.*, similarity_loss nan, difference_loss \d"
    with pytest.raises(
        FloatingPointError, match=message + ".*last complete checkpoint is .*checkpoint-3.*learning_rate"
    ):
        main([*training, "--output_dir", str(tmp_path), "--logging_steps", logging_steps])
    assert len(calls) == (5 if logging_steps == "1" else 6)
    assert len(evaluations) == 1
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert all(
        tensor.isfinite().all() for tensor in load_file(tmp_path / "checkpoint-3" / "model.safetensors").values()
    )


def test_weights_that_are_not_finite_are_not_saved(training, undisturbed, tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def poisoned_step(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        poisoned_step.calls += 1
        if poisoned_step.calls == 6:
            self.param_groups[0]["params"][-1].data.view(-1)[0] = float("inf")
        return result

    poisoned_step.calls = 0
    monkeypatch.setattr(torch.optim.AdamW, "step", poisoned_step)
    arguments = [*training, "--output_dir", str(tmp_path), *FIRST_IS_BEST]
    with pytest.raises(FloatingPointError, match="1 weights are not finite, crf.*The last complete checkpoint is"):
        main(arguments)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    monkeypatch.undo()
    main(arguments)
    assert outcome(tmp_path) == undisturbed(*FIRST_IS_BEST)

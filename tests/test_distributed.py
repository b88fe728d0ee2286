"""Training in two processes gives what one process gives that has the whole batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from factories import PIXELS, TEXT_SIZE, VISION_SIZE
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from smcl.dataset_scripts.icons import convert
from smcl.distributed_smcl import SharedBatchSampler
from smcl.run_ner_multiimage import main

TESTS = Path(__file__).parent
PARTS = "loss", "task_loss", "similarity_loss", "difference_loss", "contrastive_loss"


def torchrun(*jobs: list[str]) -> str:
    """Run jobs in two processes on the CPU; return what they wrote to stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(TESTS / "distributed_worker.py"), json.dumps(jobs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-5000:]
    return result.stderr


@pytest.fixture(scope="module")
def training(tmp_path_factory, tokenizer, image_processor) -> list[str]:
    """Arguments of a run without dropout, whose last batch of an epoch is short: 4, 4, 4 and 3 of 15 posts."""
    folder = tmp_path_factory.mktemp("distributed")
    convert(folder / "icons", train=15, validation=5, test=7)
    torch.manual_seed(7)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = BertModel(BertConfig(vocab_size=100, max_position_embeddings=64, **TEXT_SIZE, **dropout))
    vision = ViTModel(ViTConfig(**PIXELS, **VISION_SIZE))
    for name, model, part in (("text", text, tokenizer), ("vision", vision, image_processor)):
        model.save_pretrained(folder / name)
        part.save_pretrained(folder / name)
    arguments = ["--dataset", str(folder / "icons"), "--contrastive_weight", "0.1", "--dropout", "0", "--use_cpu"]
    arguments += ["--text_model", str(folder / "text"), "--vision_model", str(folder / "vision")]
    arguments += ["--do_train", "--do_eval", "--do_predict", "--logging_steps", "1", "--disable_tqdm", "true"]
    arguments += ["--learning_rate", "1e-3", "--lr_scheduler_type", "constant", "--save_total_limit", "3"]
    return [*arguments, "--per_device_eval_batch_size", "2", "--resume_from_checkpoint", "true"]


def arguments_of(training: list[str], folder: Path, processes: int, epochs: int = 2, **more: str) -> list[str]:
    settings = {"output_dir": folder, "num_train_epochs": epochs, "per_device_train_batch_size": 4 // processes} | more
    return training + [str(x) for name, value in settings.items() for x in (f"--{name}", value)]


@pytest.fixture(scope="module")
def runs(training, tmp_path_factory) -> Path:
    """Folders of runs in one and in two processes, and of runs begun in so many and ended in the other."""
    root = tmp_path_factory.mktemp("runs")
    main(arguments_of(training, root / "one", 1))
    main(arguments_of(training, root / "one-two", 1, epochs=1))
    torchrun(
        arguments_of(training, root / "two", 2),
        arguments_of(training, root / "one-two", 2),
        arguments_of(training, root / "two-one", 2, epochs=1),
        arguments_of(training, root / "apart", 2, epochs=1, gather_losses="false"),
    )
    main(arguments_of(training, root / "two-one", 1))
    return root


def log_of(folder: Path, key: str) -> list[dict]:
    return [entry for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"] if key in entry]


def test_two_processes_train_along_the_losses_of_one(runs):
    one, two = log_of(runs / "one", "task_loss"), log_of(runs / "two", "task_loss")
    assert len(one) == len(two) == 8
    for name in (*PARTS, "grad_norm"):
        assert [entry[name] for entry in two] == pytest.approx([entry[name] for entry in one], abs=1e-4, rel=1e-4), name
        assert all(entry[name] > 0 for entry in one), name
    assert one[0]["task_loss"] > one[-1]["task_loss"] + 1


def test_losses_that_are_not_gathered_depend_on_the_split(runs):
    one, apart = log_of(runs / "one", "task_loss")[0], log_of(runs / "apart", "task_loss")[0]
    assert apart["task_loss"] == pytest.approx(one["task_loss"], abs=1e-5)
    for name in PARTS[2:]:
        assert abs(apart[name] - one[name]) > 1e-3, name


def test_each_post_is_scored_and_predicted_once(runs, training):
    results = [json.loads((runs / name / "all_results.json").read_text()) for name in ("one", "two")]
    scores = [{k: v for k, v in r.items() if k.endswith(("_f1", "_support", "_precision"))} for r in results]
    assert scores[0] == scores[1]
    for split, prefix in (("validation", "eval"), ("test", "test")):
        posts = load_dataset(training[1], split=split)
        names = posts.features["ner_tags"].feature.names
        entities = sum(names[tag].startswith("B-") for tags in posts["ner_tags"] for tag in tags)
        assert sum(value for k, value in scores[1].items() if k.startswith(prefix) and "support" in k) == entities
    predictions = [(runs / name / "predictions.jsonl").read_text() for name in ("one", "two")]
    assert predictions[0] == predictions[1]
    assert [json.loads(line)["id"] for line in predictions[1].splitlines()] == load_dataset(training[1])["test"]["id"]


def test_checkpoints_are_written_once_with_the_random_state_of_each_process(runs):
    checkpoint = runs / "two" / "checkpoint-8"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "modeling_smcl.py", "distributed_smcl.py"} <= names
    assert {name for name in names if name.startswith("rng")} == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.mark.parametrize("name", ["one-two", "two-one"])
def test_run_goes_on_in_another_number_of_processes(runs, name):
    state = json.loads((runs / name / "trainer_state.json").read_text())
    assert state["global_step"] == 8
    for part in PARTS:
        expected = [entry[part] for entry in log_of(runs / "one", "task_loss")]
        assert [entry[part] for entry in log_of(runs / name, "task_loss")] == pytest.approx(expected, abs=1e-4), part
    assert (runs / name / "predictions.jsonl").read_text() == (runs / "one" / "predictions.jsonl").read_text()


def test_final_weights_are_those_of_one_process(runs):
    one, two = (load_file(runs / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        # A key's bias does not change attention: its gradient is rounding noise, which Adam turns into steps.
        if not name.endswith(("key.bias", "in_proj_bias")):
            torch.testing.assert_close(two[name], weight, atol=2e-4, rtol=0, msg=name)


@pytest.mark.parametrize("num_posts", [0, 1, 2, 3, 11, 12, 13, 14])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_each_batch_evenly(num_posts, drop_last):
    order = SequentialSampler(range(num_posts))
    samplers = [SharedBatchSampler(order, 6, drop_last, index, 3) for index in range(3)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(s) for s in shares] == [len(s) for s in samplers] == [len(samplers[0])] * 3
    seen = []
    for parts in zip(*shares, strict=True):
        sizes = [len(part) for part in parts]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 1
        seen += [post for part in parts for post in part]
    rest = num_posts % 6
    left_out = rest if drop_last or rest < 3 else 0
    assert seen == list(range(num_posts - left_out))
    assert samplers[0].num_left_out == (0 if drop_last else left_out)

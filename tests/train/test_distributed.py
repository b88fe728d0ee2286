"""Training in two processes gives what one process gives that has the whole batches."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from datasets import Dataset, load_dataset
from factories import PIXELS, TEXT_SIZE, VISION_SIZE, make_model
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from smcl.dataset_scripts.icons import convert
from smcl.dataset_scripts.schema import FEATURES
from smcl.run_ner_multiimage import main
from smcl.train.checkpoints import checkpoint_faults
from smcl.train.samplers import SharedBatchSampler

TESTS = Path(__file__).parents[1]
CONFIGURATIONS = TESTS.parent / "examples" / "accelerate"
PARTS = "loss", "task_loss", "similarity_loss", "difference_loss", "contrastive_loss"


def launch_variables(name: str, *options: str) -> tuple[argparse.Namespace, dict[str, str]]:
    """What `accelerate launch` makes of a configuration: its arguments, and the environment of the processes."""
    command = ["--config_file", str(CONFIGURATIONS / f"{name}.yaml"), *options, "run_ner_multiimage.py"]
    arguments = launch_command_parser().parse_args(command)
    _, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        # As its own command does.
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return arguments, prepare_deepspeed_cmd_env(arguments)[1]
    if arguments.multi_gpu or arguments.use_fsdp:
        return arguments, prepare_multi_gpu_env(arguments)
    return arguments, prepare_simple_launcher_cmd_env(arguments)[1]


def torchrun(copied: list[list[str]], sharded: list[list[str]]) -> str:
    """Run jobs in two processes on the CPU, which copy the model or shard it; return what they wrote to stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(TESTS / "distributed_worker.py"), json.dumps([copied, sharded])]
    fsdp = {name: value for name, value in launch_variables("fsdp2")[1].items() if "FSDP" in name}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FSDP_VARIABLES": json.dumps(fsdp)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-5000:]
    return result.stderr


@pytest.fixture(scope="module")
def training(tmp_path_factory, tokenizer, image_processor) -> list[str]:
    """Arguments of a run without dropout, whose last batch of an epoch is short: 4, 4, 4 and 3 of 15 posts.

    Every other post has images, so that in some steps one process has none while the other has.
    """
    folder = tmp_path_factory.mktemp("distributed")
    convert(folder / "all", train=15, validation=5, test=7)
    (folder / "icons").mkdir()
    for split, posts in load_dataset(str(folder / "all")).items():
        rows = [{**post, "images": post["images"] if i % 2 == 0 else []} for i, post in enumerate(posts)]
        posts = Dataset.from_list([FEATURES.encode_example(row) for row in rows], FEATURES)
        posts.to_parquet(folder / "icons" / f"{split}.parquet")
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
    grouped = {"epochs": 1, "train_sampling_strategy": "group_by_length", "freeze_vision": "true"}
    main(arguments_of(training, root / "one-grouped", 1, image_cache=root / "kept-by-one", **grouped))
    copied = [
        arguments_of(training, root / "two", 2),
        arguments_of(training, root / "one-two", 2),
        arguments_of(training, root / "two-one", 2, epochs=1),
        arguments_of(training, root / "apart", 2, epochs=1, gather_losses="false"),
        arguments_of(training, root / "two-grouped", 2, image_cache=root / "kept-by-two", **grouped),
    ]
    torchrun(copied, [arguments_of(training, root / "sharded", 2, epochs=epochs) for epochs in (1, 2)])
    main(arguments_of(training, root / "two-one", 1))
    return root


def log_of(folder: Path, key: str) -> list[dict]:
    return [entry for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"] if key in entry]


@pytest.mark.parametrize(("kind", "steps"), [("", 8), ("-grouped", 4)])
def test_two_processes_train_along_the_losses_of_one(runs, kind, steps):
    one, two = log_of(runs / f"one{kind}", "task_loss"), log_of(runs / f"two{kind}", "task_loss")
    assert len(one) == len(two) == steps
    for name in (*PARTS, "grad_norm"):
        assert [entry[name] for entry in two] == pytest.approx([entry[name] for entry in one], abs=1e-4, rel=1e-4), name
        assert sum(entry[name] > 0 for entry in one) >= steps // 2, name
    assert one[0]["task_loss"] > one[-1]["task_loss"] + 1


def test_two_processes_write_the_images_that_they_keep_once(runs):
    files = [sorted(path.name for path in (runs / kept).rglob("*.*")) for kept in ("kept-by-one", "kept-by-two")]
    assert files[0] == files[1]
    assert len(files[0]) == 3


def test_losses_that_are_not_gathered_depend_on_the_split(runs):
    one, apart = log_of(runs / "one", "task_loss")[0], log_of(runs / "apart", "task_loss")[0]
    assert apart["task_loss"] == pytest.approx(one["task_loss"], abs=1e-5)
    for name in PARTS[2:]:
        assert abs(apart[name] - one[name]) > 1e-3, name


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_each_post_is_scored_and_predicted_once(runs, training, name):
    results = [json.loads((runs / folder / "all_results.json").read_text()) for folder in ("one", name)]
    scores = [{k: v for k, v in r.items() if k.endswith(("_f1", "_support", "_precision"))} for r in results]
    assert scores[0] == scores[1]
    for split, prefix in (("validation", "eval"), ("test", "test")):
        posts = load_dataset(training[1], split=split)
        names = posts.features["ner_tags"].feature.names
        entities = sum(names[tag].startswith("B-") for tags in posts["ner_tags"] for tag in tags)
        assert sum(value for k, value in scores[1].items() if k.startswith(prefix) and "support" in k) == entities
    predictions = [(runs / folder / "predictions.jsonl").read_text() for folder in ("one", name)]
    assert predictions[0] == predictions[1]
    assert [json.loads(line)["id"] for line in predictions[1].splitlines()] == load_dataset(training[1])["test"]["id"]


def test_checkpoints_are_written_once_with_the_random_state_of_each_process(runs):
    checkpoint = runs / "two" / "checkpoint-8"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "modeling_smcl.py", "losses_smcl.py"} <= names
    assert {name for name in names if name.startswith("rng")} == {"rng_state_0.pth", "rng_state_1.pth"}


def test_sharded_model_is_saved_whole_with_its_code(runs):
    assert checkpoint_faults(runs / "sharded" / "checkpoint-8") == []
    assert (runs / "sharded" / "checkpoint-8" / "pytorch_model_fsdp.bin").exists()
    names = {path.name for path in (runs / "sharded").iterdir() if path.suffix == ".py"}
    assert names == {path.name for path in (runs / "one").iterdir() if path.suffix == ".py"}
    configs = [json.loads((runs / name / "config.json").read_text()) for name in ("one", "sharded")]
    assert configs[0] == configs[1]


def test_checkpoint_of_a_sharded_run_is_refused_by_one_that_is_not(runs, training):
    checkpoint = str(runs / "sharded" / "checkpoint-8")
    with pytest.raises(ValueError, match="was written with FSDP, but this run has whole models. Go on as it was begun"):
        main(arguments_of(training, runs / "refused", 1, resume_from_checkpoint=checkpoint))


def test_cut_files_of_sharded_checkpoints_are_named(runs, tmp_path):
    copy = tmp_path / "checkpoint-8"
    shutil.copytree(runs / "sharded" / "checkpoint-8", copy)
    os.truncate(copy / "optimizer.bin", 100)
    assert checkpoint_faults(copy) == ["optimizer.bin"]
    shutil.copytree(runs / "one" / "checkpoint-8", tmp_path / "deepspeed" / "checkpoint-8")
    states = tmp_path / "deepspeed" / "checkpoint-8" / "global_step8"
    states.mkdir()
    (states.parent / "optimizer.pt").rename(states / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert checkpoint_faults(states.parent) == []
    os.truncate(states / "zero_pp_rank_0_mp_rank_00_optim_states.pt", 100)
    assert checkpoint_faults(states.parent) == ["global_step8/zero_pp_rank_0_mp_rank_00_optim_states.pt"]


@pytest.mark.parametrize("name", ["one-two", "two-one", "sharded"])
def test_run_goes_on_in_another_number_of_processes(runs, name):
    state = json.loads((runs / name / "trainer_state.json").read_text())
    assert state["global_step"] == 8
    for part in PARTS:
        expected = [entry[part] for entry in log_of(runs / "one", "task_loss")]
        assert [entry[part] for entry in log_of(runs / name, "task_loss")] == pytest.approx(expected, abs=1e-4), part
    assert (runs / name / "predictions.jsonl").read_text() == (runs / "one" / "predictions.jsonl").read_text()


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_final_weights_are_those_of_one_process(runs, name):
    one, two = (load_file(runs / folder / "model.safetensors") for folder in ("one", name))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        # A key's bias does not change attention: its gradient is rounding noise, which Adam turns into steps.
        if not name.endswith(("key.bias", "in_proj_bias")):
            torch.testing.assert_close(two[name], weight, atol=2e-4, rtol=0, msg=name)


def test_configurations_are_what_accelerate_expects(monkeypatch):
    assert launch_variables("one_gpu")[0].num_processes == 1
    arguments, _ = launch_variables("several_gpus", "--num_processes", "4")
    assert (arguments.multi_gpu, arguments.nproc_per_node) == (True, "4")
    arguments, _ = launch_variables("two_nodes", "--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "8", 1)
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("static", "10.0.0.1:29500")
    arguments, variables = launch_variables("deepspeed_zero2")
    assert arguments.use_deepspeed
    expected = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"}
    assert expected.items() <= variables.items()
    _, variables = launch_variables("fsdp2")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.state_dict_type.name) == (2, "FULL_STATE_DICT")
    assert plugin.transformer_cls_names_to_wrap == ["BertLayer", "ViTLayer"]
    plugin.set_auto_wrap_policy(make_model())


def test_every_configuration_has_its_test():
    named = re.findall(r'launch_variables\("(\w+)"', Path(__file__).read_text())
    assert set(named) == {path.stem for path in CONFIGURATIONS.glob("*.yaml")}


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

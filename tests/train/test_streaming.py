"""`--streaming`: posts are read as they are needed, and training comes to the same."""

import json
import shutil

import datasets
import pytest
from datasets import load_dataset

from smcl.run_ner_multiimage import main

SETTINGS = ["--use_cpu", "--disable_tqdm", "true", "--learning_rate", "1e-3", "--per_device_train_batch_size", "8"]
STREAM = ["--streaming", "--shuffle_buffer", "8"]


@pytest.fixture
def run(data, encoders, tmp_path, monkeypatch):
    # After a stream that was left early, datasets waits for threads that download: there are none.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)

    def run(name, *arguments):
        main(["--dataset", data, *encoders, *SETTINGS, "--output_dir", str(tmp_path / name), *arguments])
        return tmp_path / name

    return run


def test_a_streamed_run_equals_the_ordinary_one_in_the_same_order(run):
    """Over more than one pass, evaluated after each."""
    arguments = [
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--max_steps",
        "5",
        "--train_sampling_strategy",
        "sequential",
    ]
    ordinary, streamed = run("ordinary", *arguments), run("streamed", *arguments, "--streaming")
    for name in ("model.safetensors", "predictions.jsonl", "test_results.json"):
        assert (ordinary / name).read_bytes() == (streamed / name).read_bytes()
    split = json.loads((streamed / "run.json").read_text())["runs"][0]["data"]["splits"]["train"]
    assert split["posts"] is None


def test_a_shuffled_stream_is_resumed_to_the_same_weights(run):
    """From the second of several passes: 3 steps are one."""
    arguments = [*STREAM, "--do_train", "--max_steps", "8", "--eval_strategy", "no", "--save_strategy", "steps"]
    arguments += ["--save_steps", "4", "--save_total_limit", "5"]
    folder = run("out", *arguments)
    weights = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "checkpoint-8")
    run("out", *arguments, "--resume_from_checkpoint", "true")
    assert (folder / "model.safetensors").read_bytes() == weights
    assert (run("other", *arguments, "--seed", "1") / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize(("most", "told"), [(8, "(8 of train, 8 of test)"), (16, "(16 of train)"), (200, None)])
def test_a_dry_run_of_a_stream_says_which_posts_it_did_not_look_at(run, capsys, monkeypatch, most, told):
    monkeypatch.setattr("smcl.train.dry_run.STREAMED_POSTS", most)
    arguments = ["--do_train", "--do_predict", "--max_steps", "3", "--eval_strategy", "no", "--dry_run"]
    run("dry", *STREAM, *arguments, "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "4")
    printed = capsys.readouterr().out
    assert told in printed if told else "Of the streams" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`--do_train` alone.*give `--max_steps`"),
        (["--max_steps", "2", "--cache_images"], "`--cache_images`"),
        (["--max_steps", "2", "--calibrate"], "`--calibrate`"),
        (["--max_steps", "2", "--train_sampling_strategy", "group_by_length"], "group_by_length"),
        (["--max_steps", "2", "--shuffle_buffer", "0"], "`--shuffle_buffer` must be at least 1"),
    ],
)
def test_what_a_stream_can_not_do_is_refused_by_name(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        run("refused", "--streaming", "--do_train", *arguments)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_stream_without_a_post_is_refused_by_name(run, data, tmp_path, split):
    for name, posts in load_dataset(data).items():
        posts.select(range(0 if name == split else 4)).to_parquet(tmp_path / "posts" / f"{name}.parquet")
    arguments = ["--do_train", "--do_predict", "--max_steps", "1", "--dataset", str(tmp_path / "posts")]
    with pytest.raises(ValueError, match=f"no split '{split}' with at least one post"):
        run("refused", "--streaming", *arguments)


def test_a_frozen_image_encoder_has_no_dropout_in_a_stream_either(run, encoders, tmp_path):
    vision = tmp_path / "vision"
    shutil.copytree(encoders[3], vision)
    config = json.loads((vision / "config.json").read_text())
    (vision / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.5}))
    arguments = ["--vision_model", str(vision), "--freeze_vision", "--do_train", "--max_steps", "2"]
    arguments += ["--train_sampling_strategy", "sequential"]
    kept, streamed = run("kept", *arguments), run("streamed", *arguments, "--streaming")
    assert (kept / "model.safetensors").read_bytes() == (streamed / "model.safetensors").read_bytes()


def test_a_system_with_words_of_its_own_is_not_built_from_a_stream(data, tmp_path):
    arguments = ["--dataset", data, *SETTINGS, "--output_dir", str(tmp_path), "--do_train", "--max_steps", "1"]
    with pytest.raises(ValueError, match="a new bilstm-crf, which takes its words from all posts"):
        main([*arguments, "--streaming", "--system", "bilstm-crf"])

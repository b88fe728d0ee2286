import json
import shutil
import subprocess
import sys

import pytest
from datasets import Dataset, load_dataset

import smcl.run_ner_multiimage
from smcl.dataset_scripts.schema import FEATURES
from smcl.run_ner_multiimage import main

TRAINING = ["--do_train", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "true"]
TRAINING += ["--per_device_train_batch_size", "8", "--learning_rate", "1e-3"]


@pytest.fixture(scope="module")
def trained(data, encoders, tmp_path_factory):
    """A run with frozen, cached image features."""
    output = tmp_path_factory.mktemp("run") / "model"
    arguments = ["--dataset", data, *encoders, "--output_dir", str(output), "--freeze_vision", "--do_predict"]
    main([*arguments, *TRAINING, "--do_eval", "--head_learning_rate", "1e-2"])
    return output


def test_run_writes_results_predictions_and_model(trained, data):
    results = json.loads((trained / "all_results.json").read_text())
    assert {"test_precision", "test_recall", "test_f1", "test_PER_f1", "eval_f1", "train_loss"} <= set(results)
    posts = load_dataset(data, split="test")
    names = posts.features["ner_tags"].feature.names
    lines = [json.loads(line) for line in (trained / "predictions.jsonl").read_text().split("\n") if line]
    assert [line["id"] for line in lines] == posts["id"]
    assert [line["tokens"] for line in lines] == posts["tokens"]
    assert [line["gold"] for line in lines] == [[names[tag] for tag in tags] for tags in posts["ner_tags"]]
    assert all(len(line["predicted"]) == len(line["tokens"]) for line in lines)
    assert {"model.safetensors", "modeling_smcl.py", "processing_smcl.py"} <= {path.name for path in trained.iterdir()}


def test_predicting_again_gives_the_same_file_to_the_letter(trained, data, tmp_path):
    main(["--dataset", data, "--model", str(trained), "--output_dir", str(tmp_path), "--do_predict", "--use_cpu"])
    assert (tmp_path / "predictions.jsonl").read_bytes() == (trained / "predictions.jsonl").read_bytes()
    assert "eval_f1" not in json.loads((tmp_path / "all_results.json").read_text())


@pytest.mark.parametrize("stage", ["--do_predict", "--do_eval", "--calibrate"])
def test_a_model_that_nobody_trained_is_not_scored(data, encoders, tmp_path, stage):
    arguments = ["--dataset", data, *encoders, "--output_dir", str(tmp_path), stage, "--use_cpu"]
    with pytest.raises(ValueError, match="Without `--do_train`, expected `--model`, a trained model"):
        main(arguments)
    with pytest.raises(ValueError, match="`--resume_from_checkpoint` goes on with training: give `--do_train`"):
        main([*arguments, "--resume_from_checkpoint", "true"])


def test_scores_of_two_models_do_not_mix(trained, data, tmp_path):
    (tmp_path / "all_results.json").write_text('{"eval_f1": 1.0}')
    common = ["--dataset", data, "--do_predict", "--use_cpu", "--disable_tqdm", "true", "--model", str(trained)]
    main([*common, "--output_dir", str(tmp_path)])
    assert "eval_f1" not in json.loads((tmp_path / "all_results.json").read_text())
    shutil.copytree(trained, tmp_path / "other")
    with pytest.raises(ValueError, match="holds a model, and `--model .*` is another one"):
        main([*common, "--output_dir", str(tmp_path / "other")])


def test_switches_that_change_the_shape_of_weights_are_refused(trained, data, tmp_path):
    arguments = ["--dataset", data, "--do_predict", "--use_cpu", "--model", str(trained), "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="do not fit the switches {'max_images': 2}.* need a new model"):
        main([*arguments, "--max_images", "2"])


def test_ignored_images_do_not_reach_the_predictions(trained, data, tmp_path):
    arguments = ["--model", str(trained), "--output_dir", str(tmp_path), "--do_predict", "--use_cpu"]
    main(["--dataset", data, *arguments, "--ignore_images"])
    without = (tmp_path / "predictions.jsonl").read_bytes()
    blind = tmp_path / "blind"
    blind.mkdir()
    for split, posts in load_dataset(data).items():
        rows = [{**post, "images": []} for post in posts]
        Dataset.from_list([FEATURES.encode_example(r) for r in rows], FEATURES).to_parquet(blind / f"{split}.parquet")
    main(["--dataset", str(blind), *arguments])
    assert (tmp_path / "predictions.jsonl").read_bytes() == without


def test_same_seed_gives_the_same_weights(data, encoders, tmp_path):
    for folder in ("one", "two"):
        main(["--dataset", data, *encoders, "--output_dir", str(tmp_path / folder), *TRAINING])
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("one", "two")]
    assert weights[0] == weights[1]


def test_training_over_a_trained_model_asks_first_and_leaves_nothing_of_it(data, encoders, tmp_path):
    arguments = ["--dataset", data, *encoders, "--output_dir", str(tmp_path), *TRAINING]
    main([*arguments, "--do_predict"])
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="trained model .model.safetensors, checkpoint-.*--overwrite_output_dir"):
        main([*arguments, "--seed", "7"])
    with pytest.raises(ValueError, match="holds a trained model"):
        main([*arguments, "--dry_run"])
    with pytest.raises(ValueError, match="leave one of them out"):
        main([*arguments, "--overwrite_output_dir", "--resume_from_checkpoint", "true"])
    assert (tmp_path / "model.safetensors").read_bytes() == before
    main([*arguments, "--seed", "7", "--overwrite_output_dir"])
    assert (tmp_path / "model.safetensors").read_bytes() != before
    assert not (tmp_path / "predictions.jsonl").exists()
    assert "test_f1" not in json.loads((tmp_path / "all_results.json").read_text())
    # What applies the model, or goes on, needs no leave.
    main(["--dataset", data, "--model", str(tmp_path), "--output_dir", str(tmp_path), "--do_predict", "--use_cpu"])
    main([*arguments, "--seed", "7", "--resume_from_checkpoint", "true", "--num_train_epochs", "2"])


def test_a_tracker_that_is_missing_is_named_before_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dvclive", None)
    arguments = ["--dataset", "none", "--output_dir", str(tmp_path), "--do_train", "--report_to", "dvclive"]
    with pytest.raises(ImportError, match='needs dvclive: run `pip install "dvclive"`'):
        main(arguments)


def rewrite(data, folder, features=FEATURES, **changes) -> str:
    """Copy a data set, with other rows for some splits; `None` drops a split."""
    folder.mkdir()
    for split, posts in load_dataset(data).items():
        rows = changes.get(split, posts.with_format("arrow")[:].to_pylist())
        if rows is not None:
            columns = {name: [row[name] for row in rows] for name in features}
            Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    return str(folder)


def test_data_set_with_other_labels_than_the_model_is_refused(trained, data, tmp_path):
    from datasets import ClassLabel, Features, List

    names = FEATURES["ner_tags"].feature.names
    features = Features({**FEATURES, "ner_tags": List(ClassLabel(names=[*names[:-2], "B-EVENT", "I-EVENT"]))})
    other = rewrite(data, tmp_path / "other", features)
    with pytest.raises(ValueError, match=r"Split 'test' .*has the labels .*I-EVENT.*but the model has .*I-MISC"):
        main(["--dataset", other, "--model", str(trained), "--output_dir", str(tmp_path / "out"), "--do_predict"])


def test_missing_or_empty_split_is_named(trained, data, tmp_path):
    arguments = ["--model", str(trained), "--output_dir", str(tmp_path / "out"), "--do_predict"]
    with pytest.raises(ValueError, match="no split 'test' with at least one post.*train.*validation"):
        main(["--dataset", rewrite(data, tmp_path / "without", test=None), *arguments])
    with pytest.raises(ValueError, match="no split 'test' with at least one post.*no data"):
        main(["--dataset", rewrite(data, tmp_path / "empty", test=[]), *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--do_train"], "Expected `--model`.*or both `--text_model` and `--vision_model`"),
        (["--do_train", "--text_model", "x"], "Expected `--model`.*or both"),
        (["--do_predict", "--text_model", "x", "--model", "y"], "`--model` brings its own encoders"),
        ([], "Nothing to do"),
    ],
)
def test_arguments_that_do_not_fit_are_named(data, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        main(["--dataset", data, "--output_dir", str(tmp_path), *arguments])


def test_missing_column_is_named(trained, data, tmp_path):
    load_dataset(data, split="test").remove_columns("ner_tags").to_parquet(tmp_path / "data" / "test.parquet")
    arguments = ["--model", str(trained), "--output_dir", str(tmp_path / "out"), "--do_predict"]
    with pytest.raises(ValueError, match=r"test.parquet lacks the column `ner_tags`.*; it has \['id'"):
        main(["--dataset", str(tmp_path / "data"), *arguments])


def test_unknown_data_set_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither a folder here nor a data set"):
        main(["--dataset", "nobody/nothing", "--output_dir", str(tmp_path), "--do_train"])


def test_switch_that_changes_parts_of_a_saved_model_is_refused(trained, data, tmp_path):
    arguments = ["--dataset", data, "--model", str(trained), "--output_dir", str(tmp_path), "--do_predict"]
    with pytest.raises(ValueError, match="do not fit the switches {'use_fusion': False}"):
        main([*arguments, "--use_fusion", "false"])


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (["--as_printed", "true", "--guidance_filter", "score"], "`as_printed=True` can't go with `guidance_filter="),
        (["--as_printed", "heads"], "`as_printed` must be True, False or a list of head"),
        (["--cmd_order", "0"], "`cmd_order` must be at least 1"),
    ],
)
def test_switches_that_contradict_each_other_are_refused(trained, data, encoders, tmp_path, saved, switches, message):
    model = ["--model", str(trained)] if saved else encoders
    with pytest.raises(ValueError, match=message):
        main(["--dataset", data, *model, "--output_dir", str(tmp_path), "--do_train", *switches])


def test_fault_of_the_user_is_one_line_without_a_traceback(tmp_path):
    command = [sys.executable, smcl.run_ner_multiimage.__file__, "--dataset", "x", "--output_dir", str(tmp_path)]
    done = subprocess.run([*command, "--do_train", "--system", "none"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("run_ner_multiimage.py: `--system` must be one of")
    assert "Traceback" not in done.stderr


def test_a_rate_for_a_frozen_image_encoder_is_refused_before_images_are_encoded(data, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr("smcl.train.build.Run.build_trainer", None)
    command = ["--dataset", data, *encoders, "--output_dir", str(tmp_path), "--use_cpu", "--do_train"]
    with pytest.raises(ValueError, match="`--vision_learning_rate` is .* this one is frozen"):
        main([*command, "--freeze_vision", "--vision_learning_rate", "1e-5"])

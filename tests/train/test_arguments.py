import json
import re
import shutil
from dataclasses import fields

import pytest
from transformers import TrainingArguments
from transformers.utils import logging

from smcl.baselines import SYSTEMS
from smcl.run_ner_multiimage import main
from smcl.train.arguments import FIXED, RUN_ARGUMENTS, SMCLTrainingArguments, parse_arguments


def test_arguments_may_come_from_one_file(data, encoders, tmp_path):
    names = [name.removeprefix("--") for name in encoders[::2]]
    arguments = dict(zip(names, encoders[1::2], strict=True))
    arguments |= {"dataset": data, "output_dir": str(tmp_path / "out"), "do_train": True, "num_train_epochs": 1}
    arguments |= {"use_cpu": True, "use_fusion": False, "disable_tqdm": True, "early_stopping_patience": 2}
    (tmp_path / "run.json").write_text(json.dumps(arguments))
    assert main([str(tmp_path / "run.json")]) == {}
    arguments["overwrite_output_dir"] = True
    lines = [f"{name}: {json.dumps(value)}" for name, value in arguments.items()]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    main([str(tmp_path / "run.yaml")])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["use_fusion"] is False


def test_one_process_uses_one_gpu_and_says_so(monkeypatch, tmp_path, caplog):
    post_init = TrainingArguments.__post_init__

    def with_two_gpus(arguments):
        post_init(arguments)
        arguments._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_two_gpus)
    monkeypatch.setattr(logging.get_logger("smcl"), "propagate", True)
    assert SMCLTrainingArguments(output_dir=str(tmp_path)).n_gpu == 1
    assert "accelerate launch" in caplog.text


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_values_of_a_file_are_read_as_the_command_line_reads_them(tmp_path, suffix, mark):
    values = {
        "learning_rate": "1e-3",
        "seed": "7",
        "num_train_epochs": 2,
        "output_dir": 2024,
        "do_train": "yes",
        "use_fusion": False,
        "as_printed": ["head", "union"],
        "guidance_filter": "score",
        "resume_from_checkpoint": True,
        "save_total_limit": None,
        "report_to": ["tensorboard", "mlflow"],
        "accelerator_config": {"non_blocking": True},
        "lr_scheduler_kwargs": '{"num_cycles": 2}',
        "dropout": "0.25",
        "max_steps": -1,
    }
    path = tmp_path / f"run.{suffix}"
    # In YAML, strings stand without quotes: it takes 1e-3 for one, 7 for a number and yes for a boolean.
    lines = [
        f"{name}: {value if name in ('learning_rate', 'seed', 'do_train', 'dropout') else json.dumps(value)}\n"
        for name, value in values.items()
    ]
    text = json.dumps(values) if suffix == "json" else "".join(lines)
    path.write_text(mark + text, encoding="utf-8")
    model, switches, data, training = parse_arguments([str(path)])
    assert (training.learning_rate, training.seed, training.num_train_epochs) == (1e-3, 7, 2.0)
    assert (training.output_dir, training.do_train, training.resume_from_checkpoint) == ("2024", True, "true")
    assert (training.save_total_limit, training.report_to) == (None, ["tensorboard", "mlflow"])
    assert training.accelerator_config.non_blocking and training.lr_scheduler_kwargs == {"num_cycles": 2}
    switched = {"as_printed": ["head", "union"], "guidance_filter": "score", "use_fusion": False, "dropout": 0.25}
    assert switches.given() == switched


@pytest.mark.parametrize(
    ("words", "as_printed"), [(["true"], True), (["false"], False), (["head", "difference"], ["head", "difference"])]
)
def test_as_printed_is_a_truth_value_or_names_of_parts(words, as_printed):
    arguments = parse_arguments(["--output_dir", "x", "--as_printed", *words])
    assert arguments.switches.given() == {"as_printed": as_printed}


def test_as_printed_is_a_truth_value_in_a_file_too(tmp_path):
    (tmp_path / "run.yaml").write_text("output_dir: x\nas_printed: true\n")
    assert parse_arguments([str(tmp_path / "run.yaml")]).switches.given() == {"as_printed": True}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": "high"}, "argument --learning_rate.*: invalid float value: 'high'"),
        ({"seed": 7.5}, "argument --seed: invalid int value: '7.5'"),
        ({"seed": True}, "argument --seed: invalid int value: 'true'"),
        ({"seed": None}, "expected `seed` to be of type int, got None"),
        ({"seed": [1, 2]}, r"expected `seed` to be of type int, got \[1, 2\]"),
        ({"do_train": "perhaps"}, "argument --do_train.*: Truthy value expected"),
        ({"do_train": 2}, "argument --do_train.*: Truthy value expected"),
        ({"use_fusion": "perhaps"}, "argument --use_fusion.*: Truthy value expected"),
        ({"guidance_filter": "some"}, "argument --guidance_filter.*: invalid choice: 'some'"),
        ({"dataset": {"a": 1}}, "expected `dataset` to be of type"),
        ({"learning_rates": 1}, "no argument `learning_rates`. Did you mean `learning_rate`"),
        ({"learning_rat": 1}, "no argument `learning_rat`"),
        ({"label_smoothing_factor": "0.1"}, "`--label_smoothing_factor` can only be 0.0"),
        (["seed"], "expected names with values, got list"),
        (None, "expected names with values"),
    ],
)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_values_of_a_file_that_do_not_fit_are_refused_by_file_argument_and_type(tmp_path, values, message, suffix):
    path = tmp_path / f"run.{suffix}"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"The arguments in .*run.{suffix} can't be read: .*{message}"):
        parse_arguments([str(path)])


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.yaml", "a: ["), ("a.yml", "- : :"), ("no.json", None)])
def test_file_that_is_none_is_refused(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"The arguments in .*{name} can't be read"):
        parse_arguments([str(tmp_path / name)])


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
    assert re.match(
        r"With maf: .*vectors .*\. With ita: .* \(default: 0.613 with maf; 1.0 with ita\)",
        help_texts["alignment_weight"],
    )
    assert help_texts["dropout"].endswith("the two backbones (default: 0.1; 0.5 with bilstm-crf, hbilstm-crf).")
    assert not [name for name, text in help_texts.items() if "(default: None)" in text]


def test_help_shows_each_argument_once_in_its_room_ours_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = capsys.readouterr().out
    rooms = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    names = [
        "model",
        "model: fields of its configuration",
        "data",
        "training",
        "output",
        "transformers.TrainingArguments",
    ]
    assert rooms == names
    shown = re.findall(r"^  (--\S+)", text, re.MULTILINE)
    assert len(shown) == len(set(shown)) and not [name for name in shown if "-" in name.strip("-") or "--no_" in name]
    hidden = {"remove_unused_columns", "logging_nan_inf_filter"}
    assert {name.strip("-") for name in shown} == {*RUN_ARGUMENTS} - hidden
    places = [
        text.index(f"\n  {name} ") for name in ("--text_model", "--use_fusion", "--dataset", "--head_learning_rate")
    ]
    assert places == sorted(places) and places[-1] < text.index("\n  --output_dir") < text.index("\n  --weight_decay")


def test_other_spellings_are_still_understood_and_unknown_ones_named(capsys):
    arguments = parse_arguments(["--output-dir", "x", "--learning-rate", "1e-3", "--no_gather_losses"]).training
    assert (arguments.output_dir, arguments.learning_rate, arguments.gather_losses) == ("x", 1e-3, False)
    with pytest.raises(SystemExit):
        parse_arguments(["--outputdir", "x"])
    message = capsys.readouterr().err
    assert (
        message.endswith("there is no argument --outputdir. Did you mean --output_dir?\n") and message.count("\n") == 1
    )


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


# What `TrainingArguments` of transformers 5.20 to 5.24 have besides `FIXED`: each was looked at, and is honoured.
HONOURED = """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon
    auto_find_batch_size bf16 bf16_full_eval data_seed dataloader_drop_last dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend
    ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed
    disable_tqdm do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay eval_on_start
    eval_steps eval_strategy fp16 fp16_full_eval fsdp fsdp_config full_determinism gradient_accumulation_steps
    gradient_checkpointing gradient_checkpointing_kwargs greater_is_better hub_always_push hub_model_id
    hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip include_num_input_tokens_seen learning_rate
    load_best_model_at_end local_rank log_level log_level_replica log_on_each_node logging_first_step logging_steps
    logging_strategy lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model
    neftune_noise_alpha num_train_epochs optim optim_args optim_target_modules output_dir per_device_eval_batch_size
    per_device_train_batch_size project push_to_hub report_to restore_callback_states_from_checkpoint
    resume_from_checkpoint run_name save_on_each_node save_only_model save_steps save_strategy save_total_limit seed
    skip_memory_metrics tf32 torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    train_sampling_strategy trackio_bucket_id trackio_space_id trackio_static_space_id use_cpu warmup_steps
    weight_decay
""".split()
REFUSED = {
    "average_tokens_across_devices": False,
    "batch_eval_metrics": True,
    "dataloader_in_order": False,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "include_for_metrics": ["inputs"],
    "label_names": ["tags"],
    "label_smoothing_factor": 0.1,
    "length_column_name": "len",
    "liger_kernel_config": {"rope": True},
    "logging_nan_inf_filter": True,
    "parallelism_config": object(),
    "prediction_loss_only": True,
    "remove_unused_columns": True,
    "use_cache": True,
    "use_liger_kernel": True,
}


def test_every_argument_of_transformers_is_honoured_or_refused():
    assert FIXED.keys() == REFUSED.keys()
    unknown = {field.name for field in fields(TrainingArguments)} - {*HONOURED, *FIXED}
    assert not unknown, "look at each: is it honoured?"


@pytest.mark.parametrize("name", REFUSED)
def test_argument_that_cannot_be_honoured_is_refused_by_name_and_reason(name, tmp_path):
    with pytest.raises(ValueError, match=rf"`--{name}` can only be .*, got .*: \w+ \w+"):
        SMCLTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: REFUSED[name]})


@pytest.mark.parametrize("splitting", [{"split_batches": True}, {"dispatch_batches": True}, {"even_batches": False}])
def test_splitting_of_batches_is_refused(splitting, tmp_path):
    with pytest.raises(ValueError, match="`--accelerator_config` can't have `split_batches`"):
        SMCLTrainingArguments(output_dir=str(tmp_path), use_cpu=True, accelerator_config=splitting)


def test_sampling_strategy_that_needs_precomputed_lengths_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of random, sequential, group_by_length, got 'batch_rebalance'"):
        SMCLTrainingArguments(output_dir=str(tmp_path), use_cpu=True, train_sampling_strategy="batch_rebalance")


@pytest.fixture
def train_arguments(data, encoders, tmp_path) -> list[str]:
    arguments = ["--dataset", data, *encoders, "--output_dir", str(tmp_path / "out"), "--use_cpu", "--do_train"]
    return [*arguments, "--max_steps", "2", "--disable_tqdm", "true"]


@pytest.mark.parametrize("further", [[], ["--freeze_vision"], ["--dry_run"], ["--load_best_model_at_end", "true"]])
def test_training_without_evaluation_needs_no_validation_split(train_arguments, data, tmp_path, further):
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data").rglob("*validation*"):
        path.unlink()
    arguments = [*train_arguments, "--dataset", str(tmp_path / "data"), *further]
    with pytest.raises(ValueError, match="no split 'validation'"):
        main(arguments)
    main([*arguments, "--eval_strategy", "no"])
    assert (tmp_path / "out" / "model.safetensors").is_file() == ("--dry_run" not in further)


def test_best_model_by_a_score_that_no_evaluation_gives_is_refused_before_training(train_arguments, monkeypatch):
    monkeypatch.setattr("smcl.train.trainer.SMCLTrainer.train", lambda *args, **kwargs: pytest.fail("work has begun"))
    with pytest.raises(ValueError, match="must be one of loss, precision, recall, f1, PER_precision.*got 'accuracy'"):
        main([*train_arguments, "--metric_for_best_model", "accuracy"])


def test_dropping_the_last_batch_of_training_drops_none_of_an_evaluation(train_arguments, tmp_path):
    further = ["--per_device_train_batch_size", "5", "--per_device_eval_batch_size", "4", "--do_predict"]
    main([*train_arguments, *further, "--dataloader_drop_last", "true", "--max_steps", "-1", "--num_train_epochs", "1"])
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 10
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 24 // 5


@pytest.mark.parametrize(
    "further",
    [
        ["--bf16_full_eval", "true"],
        ["--neftune_noise_alpha", "5"],
        ["--full_determinism", "true"],
        ["--eval_on_start", "true"],
        ["--include_num_input_tokens_seen", "true"],
        ["--save_strategy", "best"],
        ["--save_only_model", "true"],
        ["--eval_accumulation_steps", "1"],
        ["--lr_scheduler_type", "reduce_lr_on_plateau"],
        ["--enable_jit_checkpoint", "true"],
        ["--optim", "adafactor"],
        ["--skip_memory_metrics", "false"],
        ["--torch_empty_cache_steps", "1"],
        ["--gradient_checkpointing", "true"],
        ["--train_sampling_strategy", "sequential"],
    ],
    ids=lambda further: further[0].strip("-"),
)
def test_unusual_arguments_of_transformers_are_honoured(train_arguments, further):
    assert main([*train_arguments, "--do_predict", "--eval_steps", "1", *further])["f1"] >= 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning_rate", ["-1e-3", "nan", "inf"]),
        ("head_learning_rate", ["-1e-3", "nan", "inf"]),
        ("vision_learning_rate", ["-1e-3", "nan", "inf"]),
        ("num_train_epochs", ["-1", "nan", "inf"]),
        ("per_device_train_batch_size", ["0", "-2"]),
        ("per_device_eval_batch_size", ["0", "-2"]),
        ("gradient_accumulation_steps", ["0", "-1"]),
        ("early_stopping_patience", ["0", "-1"]),
        ("max_grad_norm", ["-1", "nan"]),
        ("weight_decay", ["-0.1", "inf"]),
        ("seed", ["-1"]),
    ],
)
def test_numbers_that_no_training_can_have_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"`--{name}` must be a finite number of at least [01], got"):
            parse_arguments(["--output_dir", "out", f"--{name}={value}"])


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("eval_strategy: no", "eval_strategy", "no"),
        ("eval_strategy: 'no'", "eval_strategy", "no"),
        ("do_train: no", "do_train", False),
        ("do_train: on", "do_train", True),
        ("dataset: 2020-01-01", "dataset", "2020-01-01"),
        ("dataset: yes", "dataset", "yes"),
        ("dataset: 007", "dataset", "007"),
        ("max_images: 010", "max_images", 10),
        ("seed: 0_7", "seed", 7),
        ("columns: {images: yes, id: 010}", "columns", ["images=yes", "id=010"]),
        ("<<: {seed: 3}", "seed", 3),
        ("lr_scheduler_kwargs: {num_cycles: 2}", "lr_scheduler_kwargs", {"num_cycles": 2}),
    ],
)
def test_values_of_yaml_mean_what_the_command_line_would_make_of_them(tmp_path, text, name, expected):
    (tmp_path / "a.yaml").write_text(f"output_dir: out\n{text}\n")
    read = [vars(part)[name] for part in parse_arguments([str(tmp_path / "a.yaml")]) if name in vars(part)]
    assert [getattr(value, "value", value) for value in read] == [expected]


def test_a_file_of_arguments_stands_alone():
    with pytest.raises(ValueError, match="a.yaml stands alone, as a file of arguments: write --do_eval and others"):
        parse_arguments(["a.yaml", "--do_eval"])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.yaml", "output_dir: x\nseed: 1\nseed: 2\n", "`seed` is given twice"),
        ("a.yaml", "output_dir: x\ncolumns: {id: a, id: b}\n", "`id` is given twice"),
        ("a.json", '{"output_dir": "x", "seed": 1, "seed": 1}', "'seed' stands twice"),
        ("a.json", '{"output_dir": "x", "columns": {"id": "a", "id": "b"}}', "'id' stands twice"),
    ],
)
def test_an_argument_that_a_file_gives_twice_is_refused(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file} can't be read: .*{message}"):
        parse_arguments([str(tmp_path / file)])


def test_columns_given_in_several_places_all_count():
    argv = ["--output_dir", "out", "--columns", "images=a", "id=b", "--columns", "tokens=c"]
    assert parse_arguments(argv).data.columns == ["images=a", "id=b", "tokens=c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_accumulation_steps": 0}, "`--eval_accumulation_steps` must be a finite number of at least 1"),
        ({"dataloader_prefetch_factor": 0, "dataloader_num_workers": 1}, "`--dataloader_prefetch_factor` must be"),
        ({"seed": 5_000_000_000}, "`--seed` must be at most 4294967295"),
        ({"data_seed": -1}, "`--data_seed` must be a finite number of at least 0"),
        ({"adam_beta1": 2.0}, "`--adam_beta1` must be at least 0 and below 1, got 2.0"),
        ({"adam_epsilon": -1.0}, "`--adam_epsilon` must be a finite number of at least 0"),
        ({"save_strategy": "steps", "save_steps": 0}, "`--save_steps` must be a number of steps above 0, got 0"),
        ({"optim_args": "foo"}, "`--optim_args` must be name=value pairs"),
        ({"lr_scheduler_kwargs": [1]}, "`--lr_scheduler_kwargs` must be an object of JSON"),
        ({"accelerator_config": {"foo": 1}}, "such as `--accelerator_config`, can't be used: .*foo"),
        ({"output_dir": " "}, "`--output_dir` must be a folder, got an empty name"),
    ],
)
def test_values_that_would_fail_later_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        SMCLTrainingArguments(**({"output_dir": "out", "use_cpu": True} | arguments))

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
from cells import SMALL, call_here
from datasets import load_dataset

from smcl.baselines import SYSTEMS
from smcl.dataset_scripts.icons import convert
from smcl.experiments import runs
from smcl.experiments.image_dependent import read_predictions
from smcl.experiments.plan import data_digests, make_plan, plan_parser, read_overrides
from smcl.experiments.runs import Cell, arguments_of, find, measure
from smcl.train.checkpoints import last_complete_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "icons"
    convert(folder, train=16, validation=6, test=8)
    return folder


@pytest.fixture
def plan(data, encoder_folders, tmp_path):
    encoders = ["--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]
    parser = plan_parser("")
    options = ["--dataset", str(data), "--results", str(tmp_path / "results"), "--seeds", "0"]
    return make_plan("table2", *parser.parse_known_args([*options, *encoders, *SMALL]))


@pytest.fixture
def in_process(monkeypatch):
    """Runs are called in this process, and counted."""
    called = []

    def call(arguments, folder, threads):
        called.append(arguments)
        return call_here(arguments)

    monkeypatch.setattr(runs, "_call", call)
    return called


def test_a_cell_is_run_once_and_kept_with_all_that_it_depends_on(plan, data, in_process, encoder_folders):
    (first,) = measure(plan, Cell("SMCL"))
    assert len(in_process) == 2  # Training, then predicting without images.
    (second,) = measure(plan, Cell("SMCL"))
    assert len(in_process) == 2
    record = second.record
    assert record == json.loads(json.dumps(first.record))
    report = json.loads((data / "report.json").read_text())
    assert record["settings"]["data"] == {name: split["sha256"] for name, split in report["splits"].items()}
    assert record["settings"]["arguments"]["num_train_epochs"] == "3"
    assert record["code"] == runs.code_digest("smcl")
    assert {"precision", "recall", "f1", "PER_f1"} <= set(record["scores"]["test"])
    assert "f1" in record["scores"]["validation"] and "f1" in record["scores"]["without_images"]
    assert {"torch", "transformers", "smcl"} <= set(record["versions"])
    assert record["threads"] == 1 and record["device"].startswith("CPU") and record["seconds"] > 0
    assert first.folder.parts[-4:-2] == ("table2", "icons") and first.folder.name == "seed-0"
    assert len(first.predictions()) == len(first.predictions(without_images=True)) == 8
    assert not list(first.folder.glob("run/checkpoint-*"))


def test_a_changed_setting_is_another_cell(plan, data, in_process, encoder_folders, tmp_path):
    measure(plan, Cell("SMCL"))
    other_data = tmp_path / "icons"
    convert(other_data, train=16, validation=6, test=8, seed=1)
    other_encoder = tmp_path / "text"
    other_encoder.mkdir()
    (other_encoder / "config.json").write_text("{}")
    changed = [
        (plan, Cell("SMCL", {"use_fusion": "false"})),
        (replace(plan, arguments=plan.arguments | {"learning_rate": "2e-3"}), Cell("SMCL")),
        (replace(plan, arguments=plan.arguments | {"text_model": str(other_encoder)}), Cell("SMCL")),
        (replace(plan, dataset=str(other_data)), Cell("SMCL")),
        (replace(plan, seeds=(1,)), Cell("SMCL")),
    ]
    assert all(find(other, cell, other.seeds[0]) is None for other, cell in changed)
    assert (
        len({str(runs.cell_folder(other, cell, other.seeds[0])) for other, cell in [*changed, (plan, Cell("SMCL"))]})
        == 6
    )
    # Where the data lies and which experiment asks is no setting.
    elsewhere = tmp_path / "moved" / "icons"
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(data)
    assert find(replace(plan, experiment="table3", dataset=str(elsewhere)), Cell("any title"), 0) is not None


def names_of(system):
    return {path.relative_to(runs.ROOT).as_posix() for path in runs.code_files(SYSTEMS[system])}


def test_code_of_a_cell_is_what_travels_training_and_the_systems_own_files():
    smcl = names_of("smcl")
    travelling = {path.name for path in runs.ROOT.glob("*_smcl.py")} - {"pipeline_smcl.py"}
    assert travelling == {name for name in smcl if name.endswith("_smcl.py")} and "train/trainer.py" in smcl
    assert not any(name.startswith(("baselines/", "experiments/")) for name in smcl)
    assert names_of("umt-mi") - smcl == {f"baselines/{name}.py" for name in ("umt_mi", "umt", "image_system", "checks")}
    # Functions count as classes do.
    own = {f"baselines/{name}.py" for name in ("hbilstm_crf", "bilstm_crf", "text_only", "word_vectors")}
    assert names_of("hbilstm-crf") - smcl == own


def test_a_changed_baseline_marks_cells_of_systems_made_of_it_alone(monkeypatch):
    before = {name: runs.code_digest(name) for name in SYSTEMS}
    read = runs.statements
    monkeypatch.setattr(runs, "statements", lambda path: read(path) + "pass" * (path.name == "umt.py"))
    runs.code_digest.cache_clear()
    after = {name: runs.code_digest(name) for name in SYSTEMS}
    runs.code_digest.cache_clear()
    assert {name for name in SYSTEMS if before[name] != after[name]} == {"umt", "umt-mi"}


@pytest.mark.parametrize(
    ("changed", "is_other"),
    [
        ('"""Another text."""\n\n\ndef f(x):\n    """Says more."""\n    # why\n    return (x + 1)\n', False),
        ('"""A text."""\ndef f(x):\n    return x + 2\n', True),
        ('"""A text."""\ndef f(x, y=1):\n    return x + 1\n', True),
        ('"""A text."""\nHELP = "words"\ndef f(x):\n    return x + 1\n', True),
    ],
)
def test_what_changes_no_result_is_the_same_code(tmp_path, changed, is_other):
    code = '"""A text."""\ndef f(x):\n    return x + 1\n'
    for name, text in (("old.py", code), ("new.py", changed)):
        (tmp_path / name).write_text(text)
    assert (runs.statements(tmp_path / "new.py") != runs.statements(tmp_path / "old.py")) == is_other


def write_cell(plan, cell, seed):
    """Write a cell as a run does, without the run."""
    folder = runs.cell_folder(plan, cell, seed)
    settings, code = runs.settings_of(plan, cell), runs.code_digest(cell.system)
    record = {"seed": seed, "settings": settings, "scores": {}, "code": code}
    runs.write(record, folder / "cell.json")
    return runs.Measured(folder, record)


def test_cells_are_run_two_at_once_and_each_by_one_alone(plan, monkeypatch):
    plan = replace(plan, jobs=2, seeds=(0, 1))
    ran, together, both = [], [], threading.Barrier(2, timeout=60)

    def run(plan, cell, seed):
        ran.append((cell.title, seed))
        if len(ran) <= 2:
            # Passed only by two at once.
            together.append(both.wait())
        return write_cell(plan, cell, seed)

    monkeypatch.setattr(runs, "_run", run)
    # The baseline of a figure is in it once for each variable.
    cells = {"one": Cell("SMCL"), "again": Cell("SMCL"), "other": Cell("w/o SFM", {"use_fusion": "false"})}
    found = runs.measure_all(plan, cells)
    assert len(together) == 2
    assert sorted(ran) == [("SMCL", 0), ("SMCL", 1), ("w/o SFM", 0), ("w/o SFM", 1)]
    assert [[m.record["seed"] for m in found[key]] for key in cells] == [[0, 1]] * 3
    assert found["one"][0].folder == found["again"][0].folder != found["other"][0].folder
    assert runs.measure_all(replace(plan, run=False), cells).keys() == cells.keys() and len(ran) == 4


def test_a_cell_of_older_code_is_run_anew_and_kept(plan, monkeypatch):
    monkeypatch.setattr(runs, "_run", write_cell)
    (measured,) = measure(plan, Cell("SMCL"))
    (measured.folder / "log.txt").write_text("old")
    code = measured.record["code"]
    monkeypatch.setattr(runs, "code_digest", lambda system: "0ther")
    assert find(plan, Cell("SMCL"), 0) is None and measure(replace(plan, run=False), Cell("SMCL")) == []
    (again,) = measure(plan, Cell("SMCL"))
    assert again.folder == measured.folder and not (again.folder / "log.txt").exists()
    assert (again.folder.with_name(f"seed-0-{code}") / "log.txt").read_text() == "old"


def test_a_killed_cell_of_other_code_is_set_aside_and_run_anew(plan, monkeypatch):
    folder = runs.cell_folder(plan, Cell("SMCL"), 0)
    for code in ("0lder", None):
        (folder / "run" / "checkpoint-3").mkdir(parents=True)
        (folder / runs.BEGUN).unlink(missing_ok=True)
        if code is not None:
            (folder / runs.BEGUN).write_text(json.dumps({"code": code}))
        begun = []
        monkeypatch.setattr(runs, "_run", lambda plan, cell, seed, begun=begun: begun.append((folder / "run").exists()))
        measure(plan, Cell("SMCL"))
        assert begun == [False] and (folder.with_name(f"seed-0-{code or 'unknown'}") / "run" / "checkpoint-3").is_dir()
        assert json.loads((folder / runs.BEGUN).read_text()) == {"code": runs.code_digest("smcl")}
    # Of the same code, it goes on.
    (folder / "run" / "checkpoint-3").mkdir(parents=True)
    measure(plan, Cell("SMCL"))
    assert begun == [False, True]


def test_cells_read_columns_of_other_names_and_tags_of_other_schemes_to_their_end(plan, data, in_process, tmp_path):
    for split, posts in load_dataset(str(data)).items():
        names = posts.features["ner_tags"].feature.names
        spelt = [[names[tag].replace("B-", "I-") for tag in tags] for tags in posts["ner_tags"]]
        posts = posts.rename_column("tokens", "words").remove_columns("ner_tags").add_column("ner_tags", spelt)
        posts.to_parquet(tmp_path / "renamed" / f"{split}.parquet")
    given = {"columns": "tokens=words", "tag_scheme": "io", "num_train_epochs": "1"}
    plan = replace(plan, dataset=str(tmp_path / "renamed"), arguments=plan.arguments | given)
    (measured,) = measure(plan, Cell("SMCL"))
    assert "f1" in measured.record["scores"]["without_images"]


def test_a_cell_that_is_cut_off_is_named(plan, monkeypatch):
    monkeypatch.setattr(runs, "_run", write_cell)
    (measured,) = measure(plan, Cell("SMCL"))
    (measured.folder / "cell.json").write_text('{"title": ')
    with pytest.raises(ValueError, match="cell.json to hold JSON, and can't read it"):
        measure(plan, Cell("SMCL"))


def wait_until(is_so, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_cell_that_another_process_is_at_is_waited_for_and_not_run_again(plan, monkeypatch):
    ran, found = [], []
    monkeypatch.setattr(runs, "_run", lambda plan, cell, seed: ran.append(cell.title))
    taken, free = Cell("SMCL"), Cell("w/o SFM", {"use_fusion": "false"})
    folder = runs.cell_folder(plan, taken, 0)
    folder.parent.mkdir(parents=True)
    code = "import sys, filelock as f\nx = f.FileLock(sys.argv[1])\nx.acquire()\nprint(1, flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder.with_name(".seed-0.lock"))]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    here = threading.Thread(target=lambda: found.append(runs.measure_all(plan, {1: taken, 2: free})))
    here.start()
    wait_until(lambda: ran)
    write_cell(plan, taken, 0)
    # Its end, however it comes, frees the cell.
    other.kill()
    other.communicate()
    here.join(timeout=60)
    assert ran == ["w/o SFM"] and [len(one) for one in found[0].values()] == [1, 0]


def test_an_ended_experiment_leaves_no_run_at_work(plan, data, tmp_path):
    script = (
        "import subprocess, sys\n"
        "from smcl.experiments import runs\n"
        "from smcl.experiments.plan import parse_plan, plan_parser\n"
        "plan, _ = parse_plan('table2', plan_parser(''), sys.argv[1:])\n"
        "runs._run = lambda plan, cell, seed: subprocess.run(['sleep', '300']) and None\n"
        "runs.measure_all(plan, {1: runs.Cell('SMCL')})\n"
    )
    arguments = ["--dataset", str(data), "--results", str(tmp_path / "r"), "--seeds", "0", "1", "--jobs", "2"]
    arguments += [x for name in ("text_model", "vision_model") for x in (f"--{name}", plan.arguments[name])]
    process = psutil.Popen([sys.executable, "-c", script, *arguments])
    wait_until(lambda: len(process.children()) == 2, 120)
    children = process.children()
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_killed_cell_is_told_and_goes_on_where_it_stopped(plan, monkeypatch, capsys):
    plan = replace(plan, arguments=plan.arguments | {"num_train_epochs": "200", "early_stopping_patience": "400"})

    def run_and_kill(command, stdout, **kwargs):
        output = command[command.index("--output_dir") + 1]
        process = subprocess.Popen(command, stdout=stdout, **kwargs)
        deadline = time.monotonic() + 120
        while not last_complete_checkpoint(output) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        return argparse.Namespace(returncode=process.wait())

    with monkeypatch.context() as patch:
        patch.setattr(runs.subprocess, "run", run_and_kill)
        assert measure(plan, Cell("SMCL")) == []
    assert "failed with status -9" in capsys.readouterr().err
    (folder,) = (plan.results / "table2" / "icons").glob("smcl-*/seed-0")
    assert not (folder / "cell.json").exists()
    reached = int(last_complete_checkpoint(folder / "run").rpartition("-")[2])
    assert 0 < reached < 400
    shorten = {"num_train_epochs": str(reached // 2 + 2)}
    monkeypatch.setattr(runs, "_call", lambda a, *rest: call_here(a | (shorten if "do_train" in a else {})))
    (measured,) = measure(plan, Cell("SMCL"))
    assert measured.record["resumed"] is True
    state = json.loads((measured.folder / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == reached + 4
    # Evaluations from before the kill are still known.
    assert len([log for log in state["log_history"] if "eval_f1" in log]) == reached // 2 + 2


def test_a_run_that_fails_does_not_stop_the_others(plan, monkeypatch, capsys):
    plan = replace(plan, seeds=(0, 1), threads=1)
    monkeypatch.setattr(runs, "RUN_SCRIPT", "/no/such/script.py")
    assert measure(plan, Cell("SMCL")) == []
    said = capsys.readouterr().err
    assert "SMCL, seed 0" in said and "SMCL, seed 1" in said and said.count("failed with status 2") == 2
    assert measure(plan, Cell("X", {"system": "nobody"})) == []


def test_nothing_is_run_when_only_the_table_is_asked_for(plan, in_process):
    assert measure(replace(plan, run=False), Cell("SMCL")) == []
    assert in_process == []


def test_image_dependent_mentions_are_scored_when_they_are_known(plan, in_process, tmp_path):
    (measured,) = measure(plan, Cell("BERT-CRF", {"system": "bert-crf"}))
    assert len(in_process) == 1 and "without_images" not in measured.record["scores"]
    mentions = tmp_path / "image_dependent.json"
    mentions.write_text(json.dumps({post["id"]: [[0, 1]] for post in measured.predictions()}))
    (again,) = measure(replace(plan, mentions=mentions), Cell("BERT-CRF", {"system": "bert-crf"}))
    assert {"image-dependent", "others"} <= set(again.record["scores"])
    assert len(in_process) == 1


def test_a_systems_own_rate_belongs_to_the_small_preset_and_gives_way_to_one_that_is_given(data, encoder_folders):
    def rate(system, *arguments):
        encoders = ["--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]
        options = plan_parser("").parse_known_args(["--dataset", str(data), *encoders, *arguments])
        return arguments_of(make_plan("table2", *options), Cell("", {"system": system})).get("head_learning_rate")

    assert (rate("tpm-mi"), rate("umt-mi")) == ("1e-4", "1e-3")
    assert rate("tpm-mi", "--head_learning_rate", "1e-2") == "1e-2"
    assert rate("tpm-mi", "--preset", "paper") is None


def test_overrides_are_read_and_checked(data, encoder_folders, capsys):
    assert read_overrides(["--a", "1", "--b", "--c=2"]) == {"a": "1", "b": "true", "c": "2"}
    several = ["--columns", "id=key", "tokens=my words", "--columns=images=photo", "--learning-rate", "1"]
    columns = ["id=key", "tokens=my words", "images=photo"]
    assert read_overrides([*several, "--b=2", "--b=3"]) == {"columns": columns, "learning_rate": "1", "b": "3"}
    with pytest.raises(ValueError, match="Got 'x' where an argument"):
        read_overrides(["x"])
    encoders = ["--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]

    def plan_of(*arguments):
        return make_plan("table2", *plan_parser("").parse_known_args(["--dataset", str(data), *arguments]))

    assert plan_of(*encoders).seeds == (0, 1, 2)
    paper = plan_of("--preset", "paper")
    assert (paper.seeds, paper.arguments["learning_rate"]) == ((0, 1, 2, 3, 4), "3e-5")
    with pytest.raises(SystemExit):
        plan_of(*encoders, "--learning_rat", "1")
    assert "there is no argument --learning_rat. Did you mean --learning_rate?" in capsys.readouterr().err
    for name in ("--seed", "--system", "--split"):
        with pytest.raises(ValueError, match=f"Each run sets {name} itself"):
            plan_of(*encoders, name, "1")
    with pytest.raises(ValueError, match="Expected the image_dependent.json"):
        plan_of(*encoders, "--mentions", "nowhere.json")
    with pytest.raises(ValueError, match="Expected --text_model and --vision_model: the preset 'small'"):
        plan_of()


def test_scores_of_mentions_are_those_of_the_file_that_is_given(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_run", write_cell)
    (measured,) = measure(plan, Cell("SMCL"))
    post = {
        "id": "1",
        "tokens": list("abcd"),
        "gold": ["B-PER", "O", "B-LOC", "O"],
        "predicted": ["O", "O", "B-LOC", "O"],
    }
    (measured.folder / "run").mkdir(exist_ok=True)
    (measured.folder / "run" / "predictions.jsonl").write_text(json.dumps(post) + "\n")
    for span, f1 in (([0, 1], 0.0), ([2, 3], 1.0), ([0, 1], 0.0)):
        (tmp_path / "mentions.json").write_text(json.dumps({"1": [span]}))
        found = find(replace(plan, mentions=tmp_path / "mentions.json"), Cell("SMCL"), 0)
        assert found.record["scores"]["image-dependent"]["f1"] == f1
    (tmp_path / "mentions.json").write_text(json.dumps({"1": [[3, 5]]}))
    with pytest.raises(ValueError, match="a mention beyond the 4 words of post '1'"):
        find(replace(plan, mentions=tmp_path / "mentions.json"), Cell("SMCL"), 0)


def test_what_is_no_line_of_predictions_is_named(tmp_path):
    path = tmp_path / "predictions.jsonl"
    for line in ("{", "[1]", '{"id": "1", "gold": []}'):
        path.write_text('{"id": "1", "gold": [], "predicted": []}\n\n' + line)
        with pytest.raises(ValueError, match="predictions.jsonl:3: expected a line of predictions.jsonl"):
            read_predictions(path)


def test_a_folder_without_a_report_is_known_by_its_files(tmp_path):
    (tmp_path / "posts.parquet").write_bytes(b"one")
    first = data_digests(str(tmp_path))
    (tmp_path / "posts.parquet").write_bytes(b"two")
    assert first.keys() == {"posts.parquet"} and data_digests(str(tmp_path)) != first
    assert data_digests("someone/posts") == {"name": "someone/posts"}


def test_names_of_data_with_brackets_are_found_again(plan, in_process):
    plan = replace(plan, data_name="posts [v2]")
    measure(plan, Cell("SMCL"))
    calls = len(in_process)
    assert measure(plan, Cell("SMCL")) and len(in_process) == calls


@pytest.mark.parametrize("name", ["my/posts", "../evil", "..", "a\\b"])
def test_names_of_data_are_those_of_one_folder(data, encoder_folders, name):
    argv = ["--dataset", str(data), "--dataset_name", name, "--text_model", encoder_folders[0]]
    argv += ["--vision_model", encoder_folders[1], *SMALL]
    with pytest.raises(ValueError, match="--dataset_name .* it is the name of a folder of results"):
        make_plan("table2", *plan_parser("").parse_known_args(argv))

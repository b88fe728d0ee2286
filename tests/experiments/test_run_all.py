import json
import shutil
import subprocess
from argparse import Namespace

import pytest
from cells import SMALL, call_here
from datasets import Dataset, load_dataset

from smcl.dataset_scripts.icons import convert
from smcl.dataset_scripts.report import content_digest
from smcl.dataset_scripts.schema import FEATURES
from smcl.experiments import (
    estimate,
    figure6,
    figures_5_7,
    pointing,
    robustness,
    runs,
    search,
    table2,
    table3,
    table5,
    table6,
)
from smcl.experiments.plan import make_plan, plan_parser
from smcl.experiments.run_all import run_all
from smcl.experiments.runs import Cell

MAINS = [table2.main, table3.main, table5.main, table6.main, figure6.main, figures_5_7.main, search.main]
every_experiment = pytest.mark.parametrize("main", MAINS, ids=lambda main: main.__module__.rpartition(".")[2])


@pytest.fixture(scope="module")
def icons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "icons"
    convert(folder, train=16, validation=6, test=8)
    return str(folder)


@pytest.fixture
def argv(icons, encoders, tmp_path):
    return ["--dataset", icons, "--results", str(tmp_path / "results"), "--seeds", "0", *encoders, *SMALL]


@pytest.fixture
def called(monkeypatch):
    """The runs that were called; each fails unless it is allowed to succeed."""
    calls = []

    def call(arguments, folder, threads):
        calls.append(arguments)
        return arguments.get("system") in calls_allowed and call_here(arguments)

    calls_allowed = set()
    monkeypatch.setattr(runs, "_call", call)
    return Namespace(calls=calls, allowed=calls_allowed)


def stop(main, argv) -> str | int:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    return stopped.value.code


@every_experiment
def test_a_data_set_that_is_missing_stops_an_experiment_at_once(main, argv, called):
    said = stop(main, ["--dataset", "no/where", *argv[2:]])
    assert "There is no data set no/where" in said and "\n" not in said
    assert "`python -m smcl.dataset_scripts.mner_mi --source DIR --output no/where`" in said
    assert not called.calls


@every_experiment
def test_an_encoder_that_is_missing_stops_an_experiment_at_once(main, argv, called):
    said = stop(main, [*argv, "--vision_model", "google/vit-base-patch16-224"])
    assert "the image encoder google/vit-base-patch16-224: There is no model" in said and "\n" not in said
    assert "Get it by `hf download google/vit-base-patch16-224`, or give a folder by --vision_model." in said
    assert not called.calls


def test_the_papers_preset_says_what_each_system_still_needs(icons, encoders, tmp_path, capsys):
    said = stop(table2.main, ["--dataset", icons, "--preset", "paper", "--results", str(tmp_path)])
    assert "OCSGA needs column `objects`; " in capsys.readouterr().err
    text, images = said.split(" UMT, UMGF, MAF, HVPNeT, VisualPT-MoE, UMT-MI, TPM-MI, SMCL, SMCL as printed need the i")
    assert "BERT, BERT-CRF, UMT, OCSGA, UMGF, MAF, ITA, HVPNeT, " in text
    assert "need the text encoder google-bert/bert-base-uncased: " in text and "BiLSTM" not in text
    assert images.startswith("mage encoder google/vit-base-patch16-224: ")


def test_a_folder_without_weights_is_no_encoder(argv, encoder_folders, tmp_path):
    empty = tmp_path / "vision"
    empty.mkdir()
    (empty / "config.json").write_bytes(open(f"{encoder_folders[1]}/config.json", "rb").read())
    said = stop(table3.main, [*argv, "--vision_model", str(empty)])
    assert f"The folder {empty} holds no weights. Give another by --vision_model." in said


def test_a_data_set_under_other_names_of_columns_is_measured(argv, icons, called, tmp_path, capsys):
    names = {"id": "key", "tokens": "my words", "ner_tags": "tags", "images": "photos"}
    for split, posts in load_dataset(icons).items():
        posts.rename_columns(names).to_parquet(tmp_path / "own" / f"{split}.parquet")
    called.allowed.add("bert-crf")
    columns = [f"{ours}={theirs}" for ours, theirs in names.items()]
    argv = ["--dataset", str(tmp_path / "own"), *argv[2:], "--columns", *columns[:2], "--columns", *columns[2:]]
    table2.main([*argv, "--systems", "bert-crf"])
    assert "columns id=key tokens=my words ner_tags=tags images=photos." in capsys.readouterr().out
    assert called.calls[0]["columns"] == columns


def test_a_data_set_without_a_validation_split_is_measured_without_evaluation(argv, icons, called, tmp_path, capsys):
    for split in ("train", "test"):
        load_dataset(icons, split=split).to_parquet(tmp_path / "own" / f"{split}.parquet")
    argv = ["--dataset", str(tmp_path / "own"), *argv[2:]]
    said = stop(table2.main, [*argv, "--systems", "bert-crf"])
    assert "has no split 'validation'" in said and "give `--eval_strategy no`" in said
    argv = [*argv, "--eval_strategy", "no"]
    called.allowed.add("bert-crf")
    table2.main([*argv, "--systems", "bert-crf"])
    assert "| BERT-CRF | text | " in capsys.readouterr().out
    assert stop(search.main, argv) == 2 and "judges its trials by the validation split" in capsys.readouterr().err


@every_experiment
def test_posts_that_are_not_those_of_their_report_stop_an_experiment(main, argv, icons, called, tmp_path):
    shutil.copytree(icons, tmp_path / "changed")
    path = next((tmp_path / "changed").rglob("test-*.parquet"))
    posts = load_dataset(icons, split="test")
    posts.select(reversed(range(len(posts)))).to_parquet(path)
    said = stop(main, ["--dataset", str(tmp_path / "changed"), *argv[2:]])
    assert "The posts of test in" in said and "remove report.json" in said and not called.calls


@pytest.mark.parametrize("change", ["renamed", "source", "names", "untagged"])
def test_posts_that_no_converter_wrote_beside_a_report_are_refused_in_one_line(argv, icons, called, tmp_path, change):
    shutil.copytree(icons, tmp_path / "changed")
    for split, posts in load_dataset(icons).items():
        if change == "renamed":
            posts = posts.rename_column("tokens", "words")
        elif change == "source":
            posts = posts.remove_columns("source")
        elif change == "untagged":
            posts = posts.map(lambda post: {"ner_tags": [-100, *post["ner_tags"][1:]]})
        else:
            names = posts.features["ner_tags"].feature.names
            tags = [[names[tag] for tag in row] for row in posts["ner_tags"]]
            posts = posts.remove_columns("ner_tags").add_column("ner_tags", tags)
        posts.to_parquet(next((tmp_path / "changed").rglob(f"{split}-*.parquet")))
    columns = ["--columns", "tokens=words"] if change == "renamed" else []
    said = stop(table2.main, ["--dataset", str(tmp_path / "changed"), *argv[2:], *columns])
    assert "are not those that its report.json tells of" in said and "\n" not in said and not called.calls


@pytest.mark.parametrize("content", ['{"splits": [1]}', '{"splits": {"test": 5}}', '{"splits": {"test": {"f1": 1}}}'])
def test_a_report_that_no_converter_wrote_is_named(argv, icons, tmp_path, content):
    shutil.copytree(icons, tmp_path / "other")
    (tmp_path / "other" / "report.json").write_text(content)
    with pytest.raises(ValueError, match="report.json does not tell the `sha256` of each split"):
        table2.main(["--dataset", str(tmp_path / "other"), *argv[2:]])


def test_posts_whose_images_lie_elsewhere_have_a_digest_of_their_own(icons):
    posts = load_dataset(icons, split="test")
    rows = [{**row, "images": [{"bytes": None, "path": "a.png"}]} for row in posts.remove_columns("images")]
    others = Dataset.from_list(rows, FEATURES)
    assert content_digest(others) not in (None, content_digest(posts))


def test_mentions_that_are_no_entities_of_their_posts_are_refused_before_the_first_run(argv, icons, called, tmp_path):
    mentions = {post: [] for post in load_dataset(icons, split="test")["id"]}
    (tmp_path / "mentions.json").write_text(json.dumps(mentions | {next(iter(mentions)): [[0, 90]]}))
    said = stop(table3.main, [*argv, "--mentions", str(tmp_path / "mentions.json")])
    assert "[0, 90] of post" in said and "this is of another data set" in said and not called.calls


def test_mentions_of_other_posts_are_refused_before_the_first_run(argv, called, tmp_path):
    (tmp_path / "mentions.json").write_text('{"x": [[0, 1]]}')
    said = stop(table3.main, [*argv, "--mentions", str(tmp_path / "mentions.json")])
    assert "8 posts of the test split, such as 'icons-test-" in said and not called.calls


@pytest.mark.parametrize("main", [table2.main, table3.main, table6.main, figure6.main, figures_5_7.main])
def test_an_experiment_of_which_no_cell_can_be_run_ends_with_an_error(main, argv, called, tmp_path):
    said = stop(main, argv)
    assert called.calls and "all runs failed" in said
    assert not list(tmp_path.glob("results/**/table.md"))


def test_systems_without_their_columns_leave_nothing_to_run(argv, called, capsys):
    assert stop(table2.main, [*argv, "--systems", "ocsga", "pgim"]) == "table2: none of its cells could be run"
    assert "PGIM needs column `knowledge`. Make them by `python -m" in capsys.readouterr().err
    assert not called.calls


def test_cells_that_were_measured_before_do_not_hide_that_all_runs_fail(argv, called, capsys):
    called.allowed.add("bert-crf")
    table2.main([*argv, "--systems", "bert-crf", "umt"])
    assert "| BERT-CRF | text | " in capsys.readouterr().out
    # A column that is missing is no failure.
    table2.main([*argv, "--systems", "bert-crf", "ocsga"])
    assert "Not measured: OCSGA needs column `objects`." in capsys.readouterr().out
    assert "all runs failed" in stop(table2.main, [*argv, "--systems", "bert-crf", "umt"])
    table2.main([*argv, "--systems", "bert-crf", "umt", "--no_run"])


def test_figure_5_is_drawn_of_a_post_with_more_images_than_the_model_reads(argv, called, tmp_path):
    # Testing without images names no system.
    called.allowed.update({"smcl", "umt", None})
    few = ["--max_images", "1", "--on_extra_images", "first", "--num_train_epochs", "1"]
    figures_5_7.main([*argv, "--systems", "smcl", "umt", *few])
    assert len(list(tmp_path.glob("results/figures/icons/figure5.*"))) == 2


def test_fields_that_a_system_does_not_have_do_not_keep_it_out_of_a_table(argv, called, capsys):
    called.allowed.update({"bert-crf", "umt", None})
    table2.main([*argv, "--systems", "bert-crf", "umt", "--max_images", "6", "--num_train_epochs", "1"])
    assert [call.get("max_images") for call in called.calls] == [None, "6", None]
    printed = capsys.readouterr().out
    assert "bert-crf has no max_images, and was run without." in printed and "umt has no" not in printed


def test_images_are_ignored_in_whichever_way_it_is_said(argv):
    for said in (["--ignore_images"], ["--ignore_images=True"], ["--ignore-images", "yes"]):
        plan = make_plan("table3", *plan_parser("").parse_known_args([*argv, *said]))
        assert not runs.is_tested_blind(plan, Cell("SMCL"))
    plan = make_plan("table3", *plan_parser("").parse_known_args([*argv, "--ignore_images", "False"]))
    assert runs.is_tested_blind(plan, Cell("SMCL"))


@pytest.mark.parametrize("main", [robustness.main, pointing.main])
def test_experiments_about_images_refuse_runs_without_any(main, argv, icons, known_posts, called, tmp_path, capsys):
    mentions = ["--mentions", str(known_posts / "image_dependent.json")]
    assert stop(main, [*argv, *mentions, "--ignore_images"]) == 2
    assert "--ignore_images takes away what" in capsys.readouterr().err
    if main is robustness.main:
        for split, posts in load_dataset(icons).items():
            posts.remove_columns("images").to_parquet(tmp_path / "words" / f"{split}.parquet")
        assert stop(main, ["--dataset", str(tmp_path / "words"), *argv[2:]]) == 2
        assert "No post of the test split of" in capsys.readouterr().err
    assert not called.calls


def test_a_table_of_nothing_is_not_written(argv, tmp_path):
    argv = ["--dataset", "no/where", *argv[2:], "--no_run"]
    said = stop(table3.main, argv)
    assert said == f"table3: there is neither a data set no/where nor a result of where in {tmp_path / 'results'}"


# Estimates


@pytest.fixture
def tried(monkeypatch):
    """Runs are tried in this process; those named here fail."""
    failing = set()

    def run(command, **kwargs):
        if failing & set(command):
            return Namespace(returncode=1, stderr="Traceback\nValueError: no such system")
        assert command[1:3] == ["-m", "smcl.experiments.estimate"]
        estimate.main(command[3:])
        return Namespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return failing


def rows(printed):
    lines = [line.strip("| ").split(" | ") for line in printed.split("\n") if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_a_dry_run_estimates_what_is_left_and_runs_nothing(argv, called, tried, tmp_path, capsys):
    called.allowed.add("bert-crf")
    table2.main([*argv, "--systems", "bert-crf"])
    capsys.readouterr()
    calls = len(called.calls)
    before = sorted(tmp_path.rglob("*"))
    options = [
        "--seeds",
        "0",
        "1",
        "2",
        "--systems",
        "bert-crf",
        "smcl",
        "ita",
        "--freeze_vision",
        "false",
        "--dry_run",
    ]
    # The other value of freeze_vision is another cell: it is only for SMCL.
    options = [option for option in options if option not in ("--freeze_vision", "false")]
    assert stop(table2.main, [*argv, *options]) == 0
    printed = capsys.readouterr()
    found = rows(printed.out[printed.out.index("Estimate for table2 on icons") :])
    assert set(found) == {"runs", "---", "BERT-CRF", "SMCL", "SMCL as printed", "all"}
    assert [found[name][0] for name in ("BERT-CRF", "SMCL", "SMCL as printed", "all")] == ["2", "3", "3", "8"]
    assert float(found["all"][2]) >= 0 and 0.05 < float(found["all"][3]) < 50
    assert "8 runs are left, 1 were measured before" in printed.out
    assert "ITA needs columns" in printed.err
    assert len(called.calls) == calls and sorted(tmp_path.rglob("*")) == before


def test_images_that_are_encoded_once_are_counted_once(argv, icons, monkeypatch, capsys):
    plan = make_plan("table3", *plan_parser("").parse_known_args([*argv, "--seeds", "0", "1"]))
    seconds = {"startup_seconds": 30.0, "images_seconds": 720.0, "run_seconds": 360.0, "prediction_seconds": 12.0}
    seconds |= {"memory_gb": 2.0}
    monkeypatch.setattr(estimate, "_try_apart", lambda plan, cell: seconds)
    # The third is the first once more.
    cells = [Cell("SMCL"), Cell("BERT-CRF", {"system": "bert-crf"}), Cell("again")]
    estimate.estimate(plan, [(cell, 2) for cell in cells])
    found = rows(capsys.readouterr().out)
    assert set(found) == {"runs", "---", "SMCL", "BERT-CRF", "all"}
    # It starts again, to be tested without images.
    assert found["SMCL"] == ["2", "0.12", "0.44", "2.0"]
    assert found["BERT-CRF"] == ["2", "0.11", "0.42", "2.0"]
    assert found["all"][0] == "4"


def test_runs_at_once_share_the_hours_and_add_up_their_memory(argv, icons, monkeypatch, capsys):
    plan = make_plan("table3", *plan_parser("").parse_known_args([*argv, "--jobs", "2"]))
    seconds = {"startup_seconds": 0.0, "images_seconds": 0.0, "run_seconds": 3600.0, "prediction_seconds": 0.0}
    memory = {"SMCL": 1.5, "BERT-CRF": 2.0}
    monkeypatch.setattr(estimate, "_try_apart", lambda plan, cell: seconds | {"memory_gb": memory[cell.title]})
    estimate.estimate(plan, [(Cell("SMCL"), 2), (Cell("BERT-CRF", {"system": "bert-crf"}), 1)])
    printed = capsys.readouterr().out
    assert rows(printed)["all"] == ["3", "", "1.50", "3.5"]
    assert "Runs go 2 at once" in printed


def test_encoding_of_images_is_told_apart(argv, icons, encoders, tmp_path):
    command = ["--dataset", icons, *encoders, "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true"]
    command += ["--do_train", "--do_eval", "--do_predict", *SMALL]
    frozen = estimate.try_run([*command, "--freeze_vision"])
    assert frozen["images_seconds"] > 0 and frozen["run_seconds"] > 0
    assert estimate.try_run(command)["images_seconds"] == 0


def test_a_dry_run_of_what_can_not_run_says_so(argv, tried, capsys):
    tried.add("bert-crf")
    assert stop(table2.main, [*argv, "--systems", "bert-crf", "--dry_run"]).endswith("for the reasons above")
    assert "  failed: ValueError: no such system" in capsys.readouterr().err


def test_other_experiments_have_dry_runs_too(argv, monkeypatch, capsys):
    seconds = {"startup_seconds": 0.0, "images_seconds": 0.0, "run_seconds": 3600.0, "prediction_seconds": 0.0}
    seconds |= {"memory_gb": 2.0}
    monkeypatch.setattr(estimate, "_try_apart", lambda plan, cell: seconds)
    expected = {table3.main: 8, figure6.main: 14, table6.main: 2, figures_5_7.main: 2}
    for main, count in expected.items():
        assert stop(main, [*argv, "--dry_run"]) == 0
        assert rows(capsys.readouterr().out)["all"] == [str(count), "", f"{count}.00", "2.0"]
    search.main([*argv, "--dry_run", "--trials", "5"])
    assert rows(capsys.readouterr().out)["a trial of smcl"] == ["5", "1.00", "5.00", "2.0"]
    assert stop(table5.main, [*argv, "--dry_run"]) == 2
    assert "try --rounds 1" in capsys.readouterr().err


# What Table 2 tells


def test_templates_knowledge_is_a_row_beside_the_papers(icons, tmp_path):
    assert [row.title for row in table2.make_rows([], icons) if "PGIM" in row.title] == ["PGIM"]
    data = tmp_path / "data"
    data.mkdir()
    context = {"objects": {"made_by": "VinVL", "model": "VinVL", "sha256": {}}}
    context["knowledge"] = {"made_by": "a template from objects by VinVL", "model": "template", "sha256": {}}
    (data / "report.json").write_text(json.dumps({"context": context}))
    own, instead = (row for row in table2.make_rows(["pgim"], str(data)) if "PGIM" in row.title)
    assert (own.title, own.cell, own.paper) == ("PGIM", None, (74.61, 81.26))
    assert (instead.title, instead.paper, instead.run) == ("PGIM, template knowledge", (None, None), True)
    assert instead.cell.arguments == table2.system_cell("pgim").arguments
    assert table2.tell_context(str(data)) == [
        "Columns of context were made: `objects` by VinVL; `knowledge` by a template from objects by VinVL."
    ]
    context["knowledge"]["model"] = "some/model"
    (data / "report.json").write_text(json.dumps({"context": context}))
    assert table2.system_cell("pgim", str(data)).title == "PGIM"
    # The same cell, whatever it is called.
    argv = ["--dataset", str(data), "--no_run", "--text_model", "x", "--vision_model", "x"]
    plan = make_plan("table2", *plan_parser("").parse_known_args(argv))
    assert runs.settings_of(plan, instead.cell) == runs.settings_of(plan, table2.system_cell("pgim"))
    assert run_all(plan, {"a": instead.cell}) == {"a": []}

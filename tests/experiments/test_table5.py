import json

import pytest
from cells import SMALL, call_here
from factories import make_model

from smcl.dataset_scripts.icons import convert
from smcl.experiments import figures_5_7, runs, table5, table5_measure
from smcl.experiments.plan import make_plan, plan_parser, to_argv


@pytest.fixture(scope="module")
def argv(encoder_folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "icons"
    convert(folder, train=16, validation=6, test=8)
    encoders = ["--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]
    return ["--dataset", str(folder), "--seeds", "0", *encoders, *SMALL]


def table(folder):
    return json.loads((folder / "table.json").read_text())


def test_cost_of_a_system_counts_each_parameter_once(argv, tmp_path):
    plan = make_plan("table5", *plan_parser("").parse_known_args(argv))
    arguments = plan.arguments | {"dataset": plan.dataset, "system": "smcl", "do_train": "true"}
    arguments |= {"output_dir": str(tmp_path)}
    found = table5_measure.measure_cost(to_argv(arguments | {"disable_tqdm": "true"}), 8)
    parts = found["parameters"]
    assert {"text_model", "vision_model", "fusion", "encoders", "image_guidance", "crf", "classifier"} <= set(parts)
    model = make_model()
    assert sum(table5_measure.count_parameters(model).values()) == sum(p.numel() for p in model.parameters())
    assert found["epoch_seconds"] > 0 and found["posts_per_second"] > 0 and found["peak_memory"] > 50
    assert found["encoding_seconds"] > 0


def test_cost_rounds_take_turns_and_a_failure_is_told(argv, tmp_path, monkeypatch, capsys):
    order = []

    class Done:
        stderr = "no memory"

        def __init__(self, command, **kwargs):
            title = command[command.index("--system") + 1]
            order.append(title)
            self.returncode = int(title == "bert-crf")
            measured = {"parameters": {"text_model": 2_000_000}, "peak_memory": 100 + len(order)}
            measured |= {"encoding_seconds": None, "epoch_seconds": 2.0, "posts_per_second": 10.0 * len(order)}
            with open(command[3], "w") as file:
                json.dump(measured, file)

    monkeypatch.setattr(table5.subprocess, "run", Done)
    argv = [*argv, "--results", str(tmp_path), "--systems", "bert-crf", "smcl"]
    table5.main([*argv, "--rounds", "2"])
    assert order == ["bert-crf", "smcl", "smcl"] * 2
    captured = capsys.readouterr()
    lines = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in captured.out.split("\n")}
    assert lines["SMCL"] == ["2.0", "2.0 (2.0-2.0)", "35.0 (20.0-50.0)", "104 (102-105)", "not measured"] + [
        "133.5", "2.3", "190.2",
    ]  # fmt: skip
    assert lines["BERT-CRF"][:5] == ["not measured"] * 5 and "failed: no memory" in captured.err
    # The table can be written again without measuring.
    table5.main([*argv, "--no_run"])
    assert len(order) == 6 and "35.0 (20.0-50.0)" in capsys.readouterr().out


def test_figures_are_drawn_from_a_cell_that_kept_its_model(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "_call", lambda arguments, *rest: call_here(arguments))
    argv = [*argv, "--results", str(tmp_path), "--systems", "smcl", "bert-crf"]
    figures_5_7.main([*argv, "--no_run"])
    assert "| Figure 5 | not measured |" in capsys.readouterr().out
    figures_5_7.main(argv)
    folder = tmp_path / "figures" / "icons"
    assert {"figure5.html", "figure5.png", "figure7.html", "table.json"} <= {path.name for path in folder.iterdir()}
    assert table(folder)["figures"]["Figure 5"].startswith("figure5.html and figure5.png, post icons-test-")

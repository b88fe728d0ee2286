import json

import optuna
import pytest
from cells import SMALL
from transformers import EarlyStoppingCallback

from smcl.dataset_scripts.icons import convert
from smcl.experiments import search, search_space
from smcl.experiments.plan import make_plan, plan_parser


@pytest.fixture(scope="module")
def argv(encoder_folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "icons"
    convert(folder, train=16, validation=6, test=8)
    encoders = ["--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]
    return ["--dataset", str(folder), "--seeds", "0", *encoders, *SMALL]


def table(folder):
    return json.loads((folder / "table.json").read_text())


def test_a_search_goes_on_where_it_was_killed(argv, tmp_path, monkeypatch, capsys):
    argv = [*argv, "--results", str(tmp_path), "--space", "wide", "--num_train_epochs", "1"]
    trained = []
    original = search.SMCLTrainer.compute_loss

    def die_in_the_second_trial(self, *args, **kwargs):
        if len(trained) == 0 or trained[-1] != self._trial.number:
            trained.append(self._trial.number)
        if len(trained) == 2:
            raise SystemExit(9)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(search.SMCLTrainer, "compute_loss", die_in_the_second_trial)
        with pytest.raises(SystemExit):
            search.main([*argv, "--trials", "3"])
    search.main([*argv, "--trials", "3"])
    trials = table(tmp_path / "search" / "icons")["trials"]
    assert [t["state"] for t in trials].count("complete") + [t["state"] for t in trials].count("pruned") == 3
    killed = [t for t in trials if t["state"] == "fail"]
    assert len(killed) == 1 and [t["params"] for t in trials].count(killed[0]["params"]) == 2
    assert {"learning_rate", "head_learning_rate", "cmd_order", "dropout"} <= set(trials[0]["params"])
    assert "To test the best: `--" in capsys.readouterr().out
    assert not list(tmp_path.glob("**/checkpoint-*"))
    # All are there: nothing is run.
    monkeypatch.setattr(search, "build_searcher", None)
    search.main([*argv, "--trials", "3"])


def test_two_processes_share_the_trials_of_a_study(argv, tmp_path):
    argv = [*argv, "--results", str(tmp_path), "--num_train_epochs", "1", "--trials", "2", "--jobs", "2"]
    search.main(argv)
    trials = table(tmp_path / "search" / "icons")["trials"]
    assert len(trials) == 2 and {t["state"] for t in trials} <= {"complete", "pruned"}
    assert len({json.dumps(t["params"]) for t in trials}) == 2
    assert not list(tmp_path.glob("**/worker-*"))


def test_a_process_that_dies_ends_a_search_with_one_line(argv, tmp_path):
    plan = make_plan("search", *plan_parser("").parse_known_args([*argv, "--results", str(tmp_path)]))
    with pytest.raises(SystemExit, match="^search: a process ended before its trials"):
        search._run_apart(plan, "grid", "sqlite:////nowhere/study.db", 1, 0, tmp_path)


def test_trials_start_from_the_same_weights_with_what_was_suggested(argv, tmp_path):
    plan = make_plan("search", *plan_parser("").parse_known_args([*argv, "--results", str(tmp_path)]))
    objective = search.Objective()
    trainer = search.build_searcher(plan, "wide", tmp_path, objective)
    objective({"eval_f1": 0.5})
    (stopper,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback))
    stopper.early_stopping_patience_counter = 4
    suggested = {"similarity_weight": 0.1, "difference_weight": 0.3, "dropout": 0.2, "cmd_order": 5}
    model = trainer.model_init(optuna.trial.FixedTrial(suggested))
    assert {name: getattr(model.config, name) for name in suggested} == suggested
    assert objective.best == 0
    assert stopper.early_stopping_patience_counter == 0
    assert not any(p.requires_grad for p in model.base_model.vision_model.parameters())


def test_ray_draws_from_the_same_space(argv, tmp_path):
    grid = search_space.ray_space("grid")
    assert {name: x["grid_search"] for name, x in grid.items()} == search_space.GRID
    drawn = [{name: x.sample() for name, x in search_space.ray_space("wide").items()} for _ in range(50)]
    for name, (low, high, _) in (search_space.WIDE | search_space.WIDE_SWITCHES).items():
        assert all(low <= x[name] <= high for x in drawn)
    assert {x["cmd_order"] for x in drawn} == {2, 3, 4, 5}
    plan = make_plan("search", *plan_parser("").parse_known_args([*argv, "--results", str(tmp_path)]))
    model = search.build_searcher(plan, "wide", tmp_path, search.Objective()).model_init(drawn[0])
    assert all(getattr(model.config, name) == drawn[0][name] for name in (*search_space.WIDE_SWITCHES, "cmd_order"))


def test_the_objective_is_the_best_evaluation():
    objective = search.Objective()
    assert [objective({"eval_f1": f1}) for f1 in (0.2, 0.5, 0.4)] == [0.2, 0.5, 0.5]


def test_the_grid_is_within_the_papers_ranges():
    ranges = {"learning_rate": (1e-5, 7e-5), "per_device_train_batch_size": (8, 32)}
    assert {name: (min(x), max(x)) for name, x in search_space.GRID.items()} == ranges
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(search_space.GRID, seed=0))
    study.optimize(lambda trial: sum(search_space.suggest_arguments(trial, "grid").values()), n_trials=20)
    assert len({tuple(t.params.values()) for t in study.trials}) == len(study.trials) == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--system", "nobody"], "invalid choice: 'nobody'"),
        (["--system", "bert-crf", "--space", "wide"], "SMCL's own loss weights, which bert-crf lacks"),
        (["--backend", "ray", "--no_run"], "leave --no_run out"),
        (["--seed", "1"], "Each run sets --seed itself"),
        (["--trials", "0"], "must be at least 1, got 0"),
        (["--backend", "ray", "--trials", "3"], "the whole grid, which has 12 trials"),
    ],
)
def test_a_search_that_cannot_be_ends_with_one_line(argv, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit):
        search.main([*argv, "--results", str(tmp_path), *options])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_systems_have_studies_of_their_own(argv, tmp_path):
    for system in ("smcl", "bert-crf"):
        search.main([*argv, "--results", str(tmp_path), "--trials", "1", "--no_run", "--system", system])
    assert len(list(tmp_path.rglob("study.db"))) == 2


def test_another_seed_or_other_code_is_another_search(argv, tmp_path, monkeypatch, capsys):
    arguments = [name for name in argv if name not in ("--seeds", "0")]
    arguments += ["--results", str(tmp_path), "--trials", "1", "--no_run", "--seeds"]
    places = []
    for seed, code in (("0", "c0de"), ("1", "c0de"), ("1", "0ther"), ("0", "c0de")):
        monkeypatch.setattr(search, "code_digest", lambda system, code=code: code)
        search.main([*arguments, seed])
        places.append(capsys.readouterr().out.partition("all of the search is in ")[2])
    assert places[0] == places[3] and len({*places}) == 3 and all(places)

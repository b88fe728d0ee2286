import pytest

from smcl.experiments import report, results


@pytest.fixture
def ran(monkeypatch):
    """What was run, in order; modules in it end with an error."""
    calls, broken = [], set()

    class Module:
        def __init__(self, name):
            self.name = name.lstrip(".")

        def main(self, arguments):
            calls.append((self.name, arguments))
            if "--dry_run" in arguments:
                raise SystemExit(2 if (self.name, "dry") in broken else 0)
            if self.name in broken:
                raise SystemExit(f"{self.name}: all runs failed")

    monkeypatch.setattr(results, "import_module", lambda name, package: Module(name))
    monkeypatch.setattr(report, "main", lambda argv: calls.append(("report", argv)))
    return calls, broken


ARGV = ["--natural", "data", "made", "--text_model", "t", "--vision_model", "v", "--jobs", "3", "--max_steps", "7"]


def value(arguments, name):
    return arguments[arguments.index(name) + 1]


def test_all_experiments_are_estimated_then_run_then_reported(ran):
    calls, _ = ran
    results.main([*ARGV, "--icons", "icons", "a", "b", "--results", "r", "--output", "o.md"])
    modules = [module for name in ("natural posts", "hard icon posts") for module, _ in results.EXPERIMENTS[name]]
    # Table 5 trains no model to its end.
    estimated = [module for module in modules if module != "table5"]
    assert [name for name, _ in calls] == [*estimated, *modules, "report"]
    half = len(estimated)
    whole = [(name, [*arguments, "--dry_run"]) for name, arguments in calls[half:-1] if name != "table5"]
    assert calls[:half] == whole
    # Models that are looked into are kept by the first experiment that trains them.
    assert modules[:2] == ["robustness", "pointing"]
    for _, arguments in calls[half:-1]:
        icons = value(arguments, "--dataset_name") == "hard icon posts"
        assert (value(arguments, "--dataset"), value(arguments, "--jobs")) == ("icons" if icons else "data", "3")
        assert ("--text_model=a" if icons else "--text_model=t") in arguments
        assert ("--mentions" in arguments) != icons and value(arguments, "--max_steps") == "7"
    assert calls[-1] == ("report", ["--results", "r", "--output", "o.md"])


def test_a_dry_run_runs_nothing(ran):
    calls, _ = ran
    with pytest.raises(SystemExit) as end:
        results.main([*ARGV, "--dry_run"])
    assert end.value.code == 0 and all("--dry_run" in arguments for _, arguments in calls)


def test_what_can_not_be_run_is_told_before_the_first_run(ran):
    calls, broken = ran
    broken.add(("pointing", "dry"))
    with pytest.raises(SystemExit, match="These can't be run: pointing on natural posts"):
        results.main(ARGV)
    assert all("--dry_run" in arguments for _, arguments in calls)


def test_a_failed_experiment_keeps_no_other_from_running(ran, capsys):
    calls, broken = ran
    broken.add("table3")
    with pytest.raises(SystemExit, match="These failed: table3 on natural posts. Call this again"):
        results.main(ARGV)
    assert [name for name, _ in calls][-3:] == ["table5", "search", "report"]
    assert "table3: all runs failed" in capsys.readouterr().err


def test_without_a_data_set_there_is_nothing_to_do(ran, capsys):
    with pytest.raises(SystemExit):
        results.main(["--text_model", "t"])
    assert "Expected the data sets to measure: --natural" in capsys.readouterr().err


def test_every_step_is_an_experiment_that_the_report_shows():
    for steps in results.EXPERIMENTS.values():
        for module, _ in steps:
            name = "figures" if module == "figures_5_7" else module
            assert name in report.EXPERIMENTS or name in report.OWN
            assert hasattr(__import__(f"smcl.experiments.{module}", fromlist=["main"]), "main")

"""Search for learning rates, batch size and loss weights: the paper's grid, or a wider space.

    python -m smcl.experiments.search --dataset DATA --preset paper [--space grid] [--trials 12]
    python -m smcl.experiments.search --dataset DATA --text_model TEXT --vision_model VISION --space wide --trials 30

Needs Optuna (`pip install "smcl[search]"`). Trials are runs of one seed, judged by their best validation F1; those
worse than the median of the others so far are stopped early. All stand in `study.db` (SQLite): a search that was killed
goes on, its unfinished trials first. The best is then for `table2` to test. With `--jobs 2`, two processes work at one
study. With `--backend ray`, Ray Tune (`pip install "smcl[ray]"`) runs as many trials at once as there are cores for, on
a cluster if `RAY_ADDRESS` names one.
"""

import multiprocessing
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback

from smcl.baselines import SYSTEMS
from smcl.dataset_scripts.command_line import positive, require, run_main
from smcl.train.arguments import parse_arguments
from smcl.train.build import prepare
from smcl.train.trainer import SMCLTrainer

from .estimate import estimate
from .plan import Plan, parse_plan, plan_parser, to_argv
from .run_all import check_needs, end
from .runs import Cell, arguments_of, at_once, circumstances, code_digest, digest, settings_of
from .search_ray import search_by_ray
from .search_space import GRID, suggest_arguments, suggest_switches
from .tables import markdown, tell_circumstances, tell_plan, write_table

# What a study keeps under this name.
CIRCUMSTANCES = "circumstances"


class Objective:
    """The best validation F1 of a trial so far."""

    def __init__(self):
        self.best = 0.0

    def reset(self) -> None:
        """Forget the last trial."""
        self.best = 0.0

    def __call__(self, metrics: dict[str, float]) -> float:
        """Take an evaluation in and return the best."""
        self.best = max(self.best, metrics["eval_f1"])
        return self.best


def build_searcher(plan: Plan, space: str, folder: Path, objective: Objective) -> SMCLTrainer:
    """Build a trainer that starts each trial from the pretrained encoders.

    Args:
        plan ([`Plan`]): The plan; its first seed is used.
        space (`str`): `"grid"` or `"wide"`.
        folder (`Path`): For checkpoints; those of earlier trials are removed.
        objective ([`Objective`]): Told when a trial begins.

    Returns:
        [`SMCLTrainer`].
    """
    own = arguments_of(plan, Cell("a trial", {"system": plan.arguments.get("system", "smcl")}))
    arguments = own | {"dataset": plan.dataset, "output_dir": str(folder), "seed": str(plan.seeds[0])}
    argv = to_argv(arguments | {"do_train": "true", "disable_tqdm": "true"})
    run = prepare(parse_arguments(argv), ["train", "validation"])
    trainer = run.build_trainer()

    def model_init(trial: Any):
        # Trials of Ray may be at work beside each other.
        for earlier in () if isinstance(trial, dict) else folder.glob("run-*"):
            shutil.rmtree(earlier)
        objective.reset()
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = 0
        return run.load_model(**suggest_switches(trial, space))

    trainer.model_init = model_init
    return trainer


def open_study(storage: str, revive: bool) -> Any:
    """Open the study of a search, new or begun.

    Args:
        storage (`str`): URL of its database.
        revive (`bool`): Whether to put trials first that were running when the search was killed.

    Returns:
        `optuna.Study`.
    """
    import optuna

    study = optuna.create_study(storage=storage, study_name="smcl", direction="maximize", load_if_exists=True)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)) if revive else ():
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def search(plan: Plan, space: str, num_trials: int, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Search, or go on with a search, in `plan.jobs` processes.

    Args:
        plan ([`Plan`]): The plan.
        space (`str`): `"grid"` or `"wide"`.
        num_trials (`int`): How many trials there shall be in the end, those of earlier calls among them.
        folder (`Path`): With `study.db`.

    Returns:
        All trials, each a `dict` of `number`, `state`, `f1`, `params`; and the `circumstances` of the call that ran the
        last of them, empty if none did.
    """
    import optuna

    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / 'study.db'}"
    begun = open_study(storage, plan.run)
    left = num_trials - len(begun.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)))
    if plan.run and left > 0:
        begun.set_user_attr(CIRCUMSTANCES, circumstances(plan.threads, plan.uses_gpu))
        jobs = min(plan.jobs, left)
        # Another seed for each call and worker: a sampler begun anew would suggest the first trials again.
        seeds = [plan.seeds[0] + len(begun.trials) + 1000 * worker for worker in range(jobs)]
        shares = [left // jobs + (worker < left % jobs) for worker in range(jobs)]
        places = [folder / f"worker-{worker}" for worker in range(jobs)]
        run = run_trials if jobs == 1 else _run_apart
        at_once(jobs, lambda own: run(plan, space, storage, *own), list(zip(shares, seeds, places, strict=True)))
    trials = optuna.load_study(study_name="smcl", storage=storage).trials
    found = [{"number": t.number, "state": t.state.name.lower(), "f1": _value(t), "params": t.params} for t in trials]
    return found, begun.user_attrs.get(CIRCUMSTANCES, {})


def run_trials(plan: Plan, space: str, storage: str, num_trials: int, sampler_seed: int, folder: Path) -> None:
    """Run trials of a study in this process.

    Args:
        plan ([`Plan`]): The plan.
        space (`str`): `"grid"` or `"wide"`.
        storage (`str`): URL of the study's database, at which others may be at work.
        num_trials (`int`): How many.
        sampler_seed (`int`): Seed of what is suggested in the wide space.
        folder (`Path`): For checkpoints; it is removed in the end.
    """
    import optuna

    torch.set_num_threads(plan.threads)
    grid = optuna.samplers.GridSampler(GRID, seed=plan.seeds[0])
    objective = Objective()
    build_searcher(plan, space, folder, objective).hyperparameter_search(
        hp_space=partial(suggest_arguments, space=space),
        compute_objective=objective,
        n_trials=num_trials,
        direction="maximize",
        backend="optuna",
        storage=storage,
        study_name="smcl",
        load_if_exists=True,
        sampler=grid if space == "grid" else optuna.samplers.TPESampler(seed=sampler_seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    shutil.rmtree(folder, ignore_errors=True)


def _run_apart(plan: Plan, *others: Any) -> None:
    """Do what `run_trials` does, of the same arguments, in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=run_trials, args=(plan, *others))
    process.start()
    process.join()
    if process.exitcode:
        end(plan, "a process ended before its trials, for the reasons above. Call this again to go on with them")


def _value(trial: Any) -> float | None:
    """Return a trial's F1, also if it was stopped early."""
    return trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = plan_parser(__doc__)
    parser.add_argument("--space", choices=("grid", "wide"), default="grid", help="the paper's, or more (%(default)s)")
    parser.add_argument("--trials", type=positive, default=12, help="trials in the end, the grid has 12 (%(default)s)")
    parser.add_argument("--backend", choices=("optuna", "ray"), default="optuna", help="who searches (%(default)s)")
    parser.add_argument("--system", choices=SYSTEMS, default="smcl", help="the system (%(default)s)")
    plan, options = parse_plan("search", parser, argv)
    if "validation" not in plan.splits:
        parser.error("a search judges its trials by the validation split: leave --eval_strategy no out")
    if options.space == "wide" and options.system != "smcl":
        parser.error(f"--space wide searches SMCL's own loss weights, which {options.system} lacks: use --space grid")
    if options.backend == "ray" and options.space == "grid" and options.trials != 12:
        parser.error("--backend ray tries the whole grid, which has 12 trials: leave --trials out, or use optuna")
    plan = replace(plan, arguments=plan.arguments | {"system": options.system})
    extra = {"optuna": "smcl[search]", "ray": "smcl[ray]"}[options.backend]
    with parser.errors_in_one_line():
        require(f"`--backend {options.backend}`", extra, options.backend)
    cell = Cell(f"a trial of {options.system}", {"system": options.system})
    if plan.run and not check_needs(plan, {cell.title: cell}):
        end(plan, "none of its trials can be run")
    if plan.dry_run:
        estimate(plan, [(cell, options.trials)])
        return
    # Trials of another seed, or of other code, are another search.
    settings = settings_of(plan, cell) | {"seed": plan.seeds[0], "code": code_digest(options.system)}
    name = f"{options.space}-{options.backend}-{digest(settings)}"
    folder = (plan.folder / name).resolve()
    if options.backend == "optuna":
        trials, about = search(plan, options.space, options.trials, folder)
    elif plan.run:
        about = circumstances(plan.threads, plan.uses_gpu)
        objective = Objective()
        trainer = build_searcher(plan, options.space, folder, objective)
        trials = search_by_ray(trainer, objective, options.space, options.trials, plan.threads, folder)
    else:
        parser.error("a search by Ray can't be shown without running: leave --no_run out")
    if plan.run and trials and not any(trial["state"] in ("complete", "pruned") for trial in trials):
        end(plan, "none of its trials came to its end")
    write_search(plan, options.space, trials, about, folder)


def write_search(plan: Plan, space: str, trials: list[dict[str, Any]], about: dict[str, Any], folder: Path) -> None:
    """Write the table of trials, the best first.

    Args:
        plan ([`Plan`]): The plan.
        space (`str`): `"grid"` or `"wide"`.
        trials (`list[dict]`): What [`search`] returns.
        about (`dict`): The `circumstances` they were run in; empty if none was.
        folder (`Path`): Where the search stands.
    """
    system = plan.arguments["system"]
    ranked = sorted(trials, key=lambda trial: (trial["state"] != "complete", -(trial["f1"] or 0)))
    rows = [
        [str(t["number"]), t["state"], "" if t["f1"] is None else f"{100 * t['f1']:.2f}", _write_params(t["params"])]
        for t in ranked
    ]
    place = folder.relative_to(plan.results.resolve())
    remarks = [f"Best validation F1 of trials of seed {plan.seeds[0]}; all of the search is in {place} of the results."]
    if any(trial["state"] == "pruned" for trial in trials):
        remarks.append("Pruned: below the median of the others after as many steps, and stopped there.")
    if rows and rows[0][1] == "complete":
        remarks.append(f"To test the best: `{_write_params(ranked[0]['params'])}`.")
    remarks.append(f"{tell_plan(plan)} Trials have rates and batch sizes of their own.")
    remarks += [tell_circumstances([about])] if about else []
    data = {"trials": trials, "space": space, "code": {system: code_digest(system)}} | about
    table = markdown(["trial", "state", "validation F1", "arguments"], rows)
    write_table(plan, f"Search, {space}, {plan.data_name}", table, data, remarks)


def _write_params(params: dict[str, Any]) -> str:
    parts = [
        f"--{name} {value:.4g}" if isinstance(value, float) else f"--{name} {value}" for name, value in params.items()
    ]
    return " ".join(parts)


if __name__ == "__main__":
    run_main(main)

"""The search of `smcl.experiments.search` by Ray Tune, whose trials may run in parallel and on several machines."""

from pathlib import Path
from typing import Any

from .plan import Plan
from .search import GRID, WIDE, WIDE_SWITCHES, Objective, build_searcher


def ray_space(space: str) -> dict[str, Any]:
    """Return the space as Ray Tune takes it.

    Args:
        space (`str`): `"grid"` or `"wide"`.

    Returns:
        `dict`: by name what to draw from.
    """
    from ray import tune

    if space == "grid":
        return {name: tune.grid_search(values) for name, values in GRID.items()}
    drawn = {
        name: tune.loguniform(low, high) if log else tune.uniform(low, high)
        for name, (low, high, log) in (WIDE | WIDE_SWITCHES).items()
    }
    sizes = tune.choice(GRID["per_device_train_batch_size"])
    return drawn | {"per_device_train_batch_size": sizes, "cmd_order": tune.randint(2, 6)}


def search_by_ray(plan: Plan, space: str, num_trials: int, folder: Path) -> list[dict[str, Any]]:
    """Search, or go on with a search that was ended.

    Args:
        plan ([`Plan`]): The plan; each trial takes its number of CPUs, and a GPU if there is one.
        space (`str`): `"grid"`, all of which is tried, or `"wide"`.
        num_trials (`int`): How many trials there shall be of the wide space.
        folder (`Path`): Absolute; gets Ray's own folder, `ray`.

    Returns:
        `list[dict]`: all trials: `number`, `state`, `f1`, `params`.

    Raises:
        ValueError: if nothing may be run: Ray's results are only known to a search that runs.
    """
    import torch
    from ray.tune.schedulers import ASHAScheduler

    if not plan.run:
        raise ValueError("A search by Ray can't be shown without running: leave --no_run out.")
    folder.mkdir(parents=True, exist_ok=True)
    objective = Objective()
    trainer = build_searcher(plan, space, folder, objective)
    # Without it, transformers refuses schedulers that stop trials early.
    trainer.args.do_eval = True
    best = trainer.hyperparameter_search(
        hp_space=lambda _: ray_space(space),
        compute_objective=objective,
        n_trials=1 if space == "grid" else num_trials,
        direction="maximize",
        backend="ray",
        storage_path=str(folder),
        name="ray",
        resume="AUTO",
        scheduler=ASHAScheduler(metric="objective", mode="max"),
        resources_per_trial={"cpu": plan.threads, "gpu": int(torch.cuda.is_available())},
    )
    return [
        {
            "number": number,
            "state": "fail" if trial.status == "ERROR" else "complete",
            "f1": trial.last_result.get("objective") if trial.last_result else None,
            "params": trial.config,
        }
        for number, trial in enumerate(best.run_summary.trials)
    ]

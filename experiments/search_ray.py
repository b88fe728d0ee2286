"""The search of `smcl.experiments.search` by Ray Tune, whose trials may run in parallel and on several machines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from smcl.train.trainer import SMCLTrainer

from .search_space import ray_space


def search_by_ray(
    trainer: SMCLTrainer, objective: Callable[[dict], float], space: str, num_trials: int, threads: int, folder: Path
) -> list[dict[str, Any]]:
    """Search, or go on with a search that was ended.

    Args:
        trainer ([`SMCLTrainer`]): Starts each trial from the pretrained encoders.
        objective (`Callable`): Turns the scores of an evaluation into what is maximised.
        space (`str`): `"grid"`, all of which is tried, or `"wide"`.
        num_trials (`int`): How many trials there shall be of the wide space.
        threads (`int`): CPUs of each trial; a GPU comes with them if there is one.
        folder (`Path`): Absolute; gets Ray's own folder, `ray`.

    Returns:
        `list[dict]`: all trials: `number`, `state`, `f1`, `params`.
    """
    import torch
    from ray.tune.schedulers import ASHAScheduler

    folder.mkdir(parents=True, exist_ok=True)
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
        resources_per_trial={"cpu": threads, "gpu": int(torch.cuda.is_available())},
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

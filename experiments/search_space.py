"""What a search may choose: the paper's grid, and a wider space, as Optuna and as Ray Tune take them."""

from typing import Any

# The paper gives the ranges, not the steps.
GRID = {"learning_rate": [1e-5, 3e-5, 5e-5, 7e-5], "per_device_train_batch_size": [8, 16, 32]}
# Lowest, highest, and whether to step by factors.
WIDE = {"learning_rate": (1e-5, 1e-3, True), "head_learning_rate": (1e-4, 3e-3, True)}
WIDE_SWITCHES = {
    "similarity_weight": (0.0, 0.5, False),
    "difference_weight": (0.0, 0.4, False),
    "dropout": (0.0, 0.4, False),
}
# Lowest and highest, both of them possible.
CMD_ORDERS = (2, 5)


def suggest_arguments(trial: Any, space: str) -> dict[str, Any]:
    """Suggest the training arguments of a trial.

    Args:
        trial (`optuna.Trial`): The trial.
        space (`str`): `"grid"` or `"wide"`.

    Returns:
        `dict`: by name.
    """
    if space == "grid":
        return {name: trial.suggest_categorical(name, values) for name, values in GRID.items()}
    found = {name: trial.suggest_float(name, low, high, log=log) for name, (low, high, log) in WIDE.items()}
    sizes = GRID["per_device_train_batch_size"]
    return found | {"per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", sizes)}


def suggest_switches(trial: Any, space: str) -> dict[str, Any]:
    """Return the fields of `SMCLConfig` of a trial: suggested by Optuna, or drawn before by Ray."""
    if isinstance(trial, dict):
        return {name: trial[name] for name in (*WIDE_SWITCHES, "cmd_order") if name in trial}
    if space == "grid":
        return {}
    found = {name: trial.suggest_float(name, low, high, log=log) for name, (low, high, log) in WIDE_SWITCHES.items()}
    return found | {"cmd_order": trial.suggest_int("cmd_order", *CMD_ORDERS)}


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
    low, high = CMD_ORDERS
    return drawn | {"per_device_train_batch_size": sizes, "cmd_order": tune.randint(low, high + 1)}

"""Checks of numbers that the configurations of several systems share."""

from transformers import PreTrainedConfig


def check_least(config: PreTrainedConfig, least: int, *names: str) -> None:
    """Refuse fields below a whole number.

    Args:
        config (`PreTrainedConfig`): A configuration.
        least (`int`): The least value.
        *names (`str`): Its fields.

    Raises:
        ValueError: if one is smaller; names it.
    """
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"`{name}` must be at least {least}, got {getattr(config, name)}.")


def check_weights(config: PreTrainedConfig, *names: str) -> None:
    """Refuse weights of losses that are negative or not finite.

    Args:
        config (`PreTrainedConfig`): A configuration.
        *names (`str`): Its fields.

    Raises:
        ValueError: if one is; names it.
    """
    for name in names:
        if not 0 <= getattr(config, name) < float("inf"):
            raise ValueError(
                f"`{name}` must not be negative and be finite, got {getattr(config, name)}; 0 switches the loss off."
            )


def check_positive(config: PreTrainedConfig, *names: str) -> None:
    """Refuse fields that are not positive or not finite.

    Args:
        config (`PreTrainedConfig`): A configuration.
        *names (`str`): Its fields.

    Raises:
        ValueError: if one is not; names it.
    """
    for name in names:
        if not 0 < getattr(config, name) < float("inf"):
            raise ValueError(f"`{name}` must be positive and finite, got {getattr(config, name)}.")


__all__ = ["check_least", "check_positive", "check_weights"]

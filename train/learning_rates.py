"""Learning rates of the parts of a model: the two encoders, and the layers that are new."""

import torch
from transformers import PreTrainedModel

from .arguments import SMCLTrainingArguments


def rates_of_parts(model: PreTrainedModel, args: SMCLTrainingArguments) -> dict[int, float]:
    """Return the learning rates of parameters that have one of their own.

    Args:
        model (`PreTrainedModel`): The model to train.
        args ([`SMCLTrainingArguments`]): With `head_learning_rate` and `vision_learning_rate`.

    Returns:
        `dict[int, float]`: by the parameter's `id`.

    Raises:
        ValueError: as `check_vision_rate`.
    """
    check_vision_rate(model, args)
    rates = {id(parameter): args.head_learning_rate for parameter in model.parameters()}
    for name, rate in {"text_model": None, "vision_model": args.vision_learning_rate}.items():
        part = getattr(model.base_model, name, None)
        rates |= {} if part is None else {id(parameter): rate for parameter in part.parameters()}
    return {number: rate for number, rate in rates.items() if rate is not None}


def split_groups(optimizer: torch.optim.Optimizer, rates: dict[int, float]) -> None:
    """Give parameters of an optimizer that have a rate of their own groups of their own.

    Args:
        optimizer (`torch.optim.Optimizer`): The optimizer; its groups are changed.
        rates (`dict[int, float]`): Of `rates_of_parts`.
    """
    for group in list(optimizer.param_groups):
        split = {rate: [] for rate in (group["lr"], *rates.values())}
        for parameter in group["params"]:
            split[rates.get(id(parameter), group["lr"])].append(parameter)
        group["params"] = split.pop(group["lr"])
        for rate, parameters in split.items():
            optimizer.add_param_group({**group, "params": parameters, "lr": rate})


def check_vision_rate(model: PreTrainedModel, args: SMCLTrainingArguments) -> None:
    """Refuse a learning rate for an image encoder that is frozen; a model without one has no use for it.

    Args:
        model (`PreTrainedModel`): The model to train.
        args ([`SMCLTrainingArguments`]): With `vision_learning_rate`.

    Raises:
        ValueError: if nothing of its image encoder is trained.
    """
    encoder = getattr(model.base_model, "vision_model", None)
    if None not in (encoder, args.vision_learning_rate) and not any(p.requires_grad for p in encoder.parameters()):
        raise ValueError(
            "`--vision_learning_rate` is the rate of an image encoder that is trained, and this one is frozen. Leave "
            "it out, or train the encoder (`--freeze_vision false`)."
        )


def refuse_rates_of_parts(args: SMCLTrainingArguments) -> None:
    """Refuse learning rates of parts beside an optimizer that is given, which has its own.

    Args:
        args ([`SMCLTrainingArguments`]): With `head_learning_rate` and `vision_learning_rate`.

    Raises:
        ValueError: if one of them is given.
    """
    names = ("head_learning_rate", "vision_learning_rate")
    if given := [name for name in names if getattr(args, name, None) is not None]:
        raise ValueError(
            f"`optimizers` brings an optimizer with rates of its own, so `{given[0]}` can't be honoured. Leave one of "
            "the two out, or give the optimizer groups of parameters with such a rate."
        )


__all__ = ["check_vision_rate", "rates_of_parts", "refuse_rates_of_parts", "split_groups"]

"""Tiny random models of the systems of Table 2."""

import torch
from factories import make_config

from smcl.baselines import SYSTEMS


def make_system(name: str, seed: int = 0, **kwargs):
    """A tiny random model whose weights are large enough to matter, in evaluation mode."""
    base, config_class = make_config(), SYSTEMS[name].config_class
    settings = {key: getattr(base, key) for key in config_class.sub_configs_defaults}
    torch.manual_seed(seed)
    model = SYSTEMS[name](config_class(**({"id2label": base.id2label} | settings | kwargs))).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("weight") and parameter.dim() == 2:
                parameter.mul_(8)
    return model


def logits_of(model, inputs: dict, **changes) -> torch.Tensor:
    return model(**(inputs | changes)).logits


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()

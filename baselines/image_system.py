"""What the systems that read images share besides [`SMCLImageTextModel`]: their configuration, and small parts."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from ..configuration_smcl import SMCLConfig


@strict
class ImageSystemConfig(SMCLConfig):
    """Configuration of a system that reads images.

    Of the fields of [`SMCLConfig`], `text_config`, `vision_config`, `max_images`, `constrain_bio`, `temperature`,
    `dropout`, `initializer_range` and the labels have a meaning; the others stay as they are here.

    Args:
        use_image_guidance (`bool`, *optional*, defaults to `True`): Whether the text layers take keys and values of
            images. It belongs to the system and can't be chosen.
    """

    switches = ("max_images", "constrain_bio", "dropout")

    use_alignment: bool = False
    use_refinement: bool = False
    use_fusion: bool = False
    similarity_weight: int | float = 0
    difference_weight: int | float = 0


def prompt_projection(in_features: int, prompt_size: int, out_features: int) -> nn.Sequential:
    """Build the two layers that turn image features into prompts in both HVPNeT and TPM-MI."""
    return nn.Sequential(nn.Linear(in_features, prompt_size), nn.Tanh(), nn.Linear(prompt_size, out_features))


def split_heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Turn `(batch_size, length, hidden_size)` into `(batch_size, num_heads, length, head_size)`."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


__all__ = ["ImageSystemConfig", "prompt_projection", "split_heads"]

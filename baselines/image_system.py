"""What the systems that read images share besides [`SMCLImageTextModel`]: their configuration, patches, small parts."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from ..configuration_smcl import SMCLConfig
from ..layers_smcl import SMCLTransformerLayer
from ..modeling_smcl import PostImages, SMCLImageTextModel


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


class CrossModalLayer(SMCLTransformerLayer):
    """A transformer layer in which one sequence attends to another."""

    def forward(self, x: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Enrich `x (batch_size, length, hidden_size)` by the states `(batch_size, num_states, hidden_size)`."""
        attended, _ = self.attention(x, states, mask)
        x = self.attention_norm(x + self.dropout(self.output(attended)))
        return self.output_norm(x + self.feed_forward(x))


class PatchTextModel(SMCLImageTextModel):
    """A text encoder and the patches of a post's first image, which subclasses join by `fuse`.

    Args:
        config ([`ImageSystemConfig`]): The configuration.

    Raises:
        ValueError: if the image encoder is of a kind that does not work; names those that do.
    """

    num_images_read = 1

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images one by one, outside any post.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`): Normalised images.

        Returns:
            `torch.FloatTensor` of shape `(num_images, num_patches, vision_hidden_size)`: all tokens of the last layer,
            [CLS] and its like among them.
        """
        return self.vision_model(pixel_values=pixel_values, return_dict=True).last_hidden_state

    def patches(self, text_states: torch.Tensor, images: PostImages | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Line up the patches of all images that are read.

        Args:
            text_states (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`): Encoded text.
            images ([`PostImages`], *optional*): Their patches `(batch_size, num_images, num_patches,
                vision_hidden_size)`; `None` where the batch has no image.

        Returns:
            The patches `(batch_size, num_images * num_patches, vision_hidden_size)`, and their mask.
        """
        if images is None:
            # One place of padding, as attention to nothing at all is not defined.
            states = text_states.new_zeros(len(text_states), 1, self.config.vision_config.hidden_size)
            return states, torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        return images.states.flatten(1, 2), images.mask.repeat_interleave(images.states.shape[2], dim=1)


def prompt_projection(in_features: int, prompt_size: int, out_features: int) -> nn.Sequential:
    """Build the two layers that turn image features into prompts in both HVPNeT and TPM-MI."""
    return nn.Sequential(nn.Linear(in_features, prompt_size), nn.Tanh(), nn.Linear(prompt_size, out_features))


def split_heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Turn `(batch_size, length, hidden_size)` into `(batch_size, num_heads, length, head_size)`."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


__all__ = ["CrossModalLayer", "ImageSystemConfig", "PatchTextModel", "prompt_projection", "split_heads"]

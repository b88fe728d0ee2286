"""What the systems that read images share: configuration, and the model below the head."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.utils import can_return_tuple

from ..configuration_smcl import SMCLConfig
from ..encoders_smcl import SMCLEncoders
from ..guidance_smcl import ImageGuidance, check_text_backbone
from ..modeling_smcl import SMCLModelOutput


@strict
class ImageSystemConfig(SMCLConfig):
    """Configuration of a system that reads images.

    Of the fields of [`SMCLConfig`], `text_config`, `vision_config`, `max_images`, `constrain_bio`, `temperature`,
    `dropout`, `initializer_range` and the labels have a meaning; the others stay as they are here.

    Args:
        use_image_guidance (`bool`, *optional*, defaults to `True`): Whether the text layers take keys and values of
            images. It belongs to the system and can't be chosen.
    """

    # Those fields that a run may set by argument.
    switches = ("max_images", "constrain_bio", "dropout")

    use_alignment: bool = False
    use_refinement: bool = False
    use_fusion: bool = False
    similarity_weight: int | float = 0
    difference_weight: int | float = 0


class ImageSystemModel(SMCLEncoders):
    """Text and images, joined inside the text encoder by `prompts` or above it by `fuse`; subclasses say how.

    Args:
        config ([`ImageSystemConfig`]): The configuration.

    Raises:
        ValueError: if an encoder is of a kind that does not work; names those that do.
    """

    config_class = ImageSystemConfig

    def __init__(self, config: ImageSystemConfig):
        super().__init__(config)
        if config.use_image_guidance:
            check_text_backbone(self.text_model)

    def prompts(self, image_states: torch.Tensor, image_mask: torch.Tensor, text_mask: torch.Tensor) -> ImageGuidance:
        """Turn images into keys and values of each text layer; only with `use_image_guidance`.

        Args:
            image_states (`torch.FloatTensor` of shape `(batch_size, num_images, ...)`): What `encode_images` gives for
                each image, 0 at padding.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`): `True` marks a real image.
            text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.

        Returns:
            [`ImageGuidance`].
        """
        raise NotImplementedError

    def fuse(
        self,
        text_states: torch.Tensor,
        text_mask: torch.Tensor,
        image_states: torch.Tensor | None,
        image_mask: torch.Tensor | None,
    ) -> SMCLModelOutput:
        """Join the encoded text with the images, by default not at all; arguments as those of `prompts`.

        Returns:
            [`SMCLModelOutput`] or a subclass, with the `last_hidden_state` that the head reads.
        """
        return SMCLModelOutput(last_hidden_state=text_states)

    def weights_by_image(self, weights: torch.Tensor, num_images: int) -> torch.Tensor:
        """Give a text layer's attention weights one column for each image in front, by default as they are.

        Args:
            weights (`torch.FloatTensor` of shape `(batch_size, num_heads, num_tokens, num_keys)`): The weights.
            num_images (`int`): Images of the inputs, read or not.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_heads, num_tokens, num_images + num_tokens)`.
        """
        return weights

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_embeds: torch.FloatTensor | None = None,
        image_indices: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SMCLModelOutput:
        """Represent the tokens of posts in the light of their images; arguments as those of [`SMCLModel.forward`].

        Args:
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`): BERT's.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_tokens, embedding_size)`, *optional*):
                Word embeddings in place of `input_ids`.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_images, 3, height, width)`, *optional*):
                Normalised images in post order; padding slots may hold anything.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`, *optional*): `True` marks a real
                image; by default all are.
            image_embeds (`torch.FloatTensor` of shape `(batch_size, num_images, ...)`, *optional*): What
                `encode_images` gives, in place of `pixel_values`.
            image_indices (`torch.LongTensor` of shape `(num_real_images,)`, *optional*): Where `image_mask` is `True`,
                as `real_image_indices` tells: spares an accelerator's host the wait for the number of images.
            output_attentions, output_hidden_states (`bool`, *optional*): What to return of the text encoder.

        Returns:
            [`SMCLModelOutput`].

        Raises:
            ValueError: if the inputs do not fit together or the text encoder's attention was changed.
        """
        text_mask = self._text_mask(input_ids, inputs_embeds, attention_mask)
        image_states, image_mask = self._image_inputs(pixel_values, image_embeds, image_mask, image_indices)
        has_prompts = image_states is not None and self.config.use_image_guidance
        text_outputs = self._encode_text(
            input_ids,
            text_mask,
            token_type_ids,
            inputs_embeds,
            image_guidance=self.prompts(image_states, image_mask, text_mask) if has_prompts else None,
            output_attentions=self._flag("output_attentions", output_attentions),
            output_hidden_states=self._flag("output_hidden_states", output_hidden_states),
        )
        outputs = self.fuse(text_outputs.last_hidden_state, text_mask, image_states, image_mask)
        outputs.hidden_states, outputs.attentions = text_outputs.hidden_states, text_outputs.attentions
        if has_prompts and outputs.attentions is not None:
            num_images = (pixel_values if image_embeds is None else image_embeds).shape[1]
            outputs.attentions = tuple(self.weights_by_image(weights, num_images) for weights in outputs.attentions)
        return outputs


def prompt_projection(in_features: int, prompt_size: int, out_features: int) -> nn.Sequential:
    """Build the two layers that turn image features into prompts in both HVPNeT and TPM-MI."""
    return nn.Sequential(nn.Linear(in_features, prompt_size), nn.Tanh(), nn.Linear(prompt_size, out_features))


def split_heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Turn `(batch_size, length, hidden_size)` into `(batch_size, num_heads, length, head_size)`."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


__all__ = ["ImageSystemConfig", "ImageSystemModel", "prompt_projection", "split_heads"]

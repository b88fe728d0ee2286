"""HVPNeT: several depths of the image encoder, mixed anew for each text layer, as its prefix."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F

from ..layers_smcl import ImageGuidance
from ..modeling_smcl import PostImages, SMCLImageTextModel, SMCLTaggingModel
from .checks import check_least
from .image_system import ImageSystemConfig, prompt_projection, split_heads

# Each level of an image is averaged over a grid of so many rows and columns: its prefix has 4 places.
GRID = 2


@strict
class HVPNeTConfig(ImageSystemConfig):
    """Configuration of a [`HVPNeTForTokenClassification`]; see [`ImageSystemConfig`].

    Args:
        max_levels (`int`, *optional*, defaults to 4): Depths of the image encoder to take, evenly spaced and with the
            last layer; an image encoder with fewer layers gives as many as it has.
        prompt_size (`int`, *optional*, defaults to 800): Width between the two layers that make the prefixes.
    """

    model_type = "smcl-hvpnet"
    switches = (*ImageSystemConfig.switches, "max_levels", "prompt_size")

    max_levels: int = 4
    prompt_size: int = 800

    def validate_prompts(self):
        """Check numbers; part of the strict validation on construction and saving."""
        check_least(self, 1, "max_levels", "prompt_size")


class LevelModel(SMCLImageTextModel):
    """A text encoder and several depths of an image encoder, of which subclasses make prompts.

    Args:
        config ([`HVPNeTConfig`]): The configuration.

    Raises:
        ValueError: if an encoder is of a kind that does not work; names those that do.
    """

    def __init__(self, config: HVPNeTConfig):
        super().__init__(config)
        num_layers = config.vision_config.num_hidden_layers
        num_levels = min(config.max_levels, num_layers)
        self.levels = [(level + 1) * num_layers // num_levels for level in range(num_levels)]

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images one by one, outside any post.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, height, width)`): Normalised images.

        Returns:
            `torch.FloatTensor` of shape `(num_images, num_levels, 4, vision_hidden_size)`: patches averaged over the
            quarters of the image, at each level, normalised.
        """
        outputs = self.vision_model(pixel_values=pixel_values, output_hidden_states=True, return_dict=True)
        patch = self.config.vision_config.patch_size
        patch = (patch, patch) if isinstance(patch, int) else patch
        grid = [side // size for side, size in zip(pixel_values.shape[-2:], patch, strict=True)]
        # The last one after the final layer norm, where the encoder has it there.
        hidden_states = (*outputs.hidden_states[:-1], outputs.last_hidden_state)
        levels = []
        for level in self.levels:
            # Patches stand behind [CLS] and its like. shape: (num_images, vision_hidden_size, rows, columns)
            patches = hidden_states[level][:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(-1, grid)
            levels.append(F.adaptive_avg_pool2d(patches, GRID).flatten(2).transpose(1, 2))
        states = torch.stack(levels, dim=1)
        # The residual stream of a ViT grows with depth.
        return F.layer_norm(states, states.shape[-1:])


class HVPNeTModel(LevelModel):
    """A text encoder whose layers take a mixture of an image's levels as prefix, without the CRF head.

    Args:
        config ([`HVPNeTConfig`]): The configuration.

    Raises:
        ValueError: if an encoder is of a kind that does not work; names those that do.
    """

    config_class = HVPNeTConfig
    num_images_read = 1

    def __init__(self, config: HVPNeTConfig):
        super().__init__(config)
        text, num_levels = config.text_config, len(self.levels)
        size = 2 * text.hidden_size
        in_features = num_levels * config.vision_config.hidden_size
        self.projection = prompt_projection(in_features, config.prompt_size, num_levels * size)
        self.gates = nn.ModuleList(nn.Linear(GRID**2 * size, num_levels) for _ in range(text.num_hidden_layers))
        self.post_init()

    def gate_weights(self, prefixes: torch.Tensor) -> torch.Tensor:
        """Weigh the levels for each text layer.

        Args:
            prefixes (`torch.FloatTensor` of shape `(batch_size, 4, num_levels, 2 * hidden_size)`): Keys and values of
                each level.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_layers, num_levels)`: weights that sum to 1 over levels.
        """
        mean = prefixes.mean(dim=2).flatten(1)
        return F.leaky_relu(torch.stack([gate(mean) for gate in self.gates], dim=1)).softmax(dim=-1)

    def prompts(self, images: PostImages, text_mask: torch.Tensor) -> ImageGuidance:
        """Turn the levels `(batch_size, 1, num_levels, 4, vision_hidden_size)` into 4 keys and values by layer."""
        # shape: (batch_size, 4, num_levels, 2 * hidden_size)
        states = images.states[:, 0].transpose(1, 2).flatten(2)
        prefixes = self.projection(states).unflatten(-1, (len(self.levels), -1))
        keys, values = [], []
        for weights in self.gate_weights(prefixes).unbind(dim=1):
            key, value = (prefixes * weights[:, None, :, None]).sum(dim=2).chunk(2, dim=-1)
            keys.append(split_heads(key, self.config.text_config.num_attention_heads))
            values.append(split_heads(value, self.config.text_config.num_attention_heads))
        return ImageGuidance(tuple(keys), tuple(values), images.mask.expand(-1, GRID**2), text_mask, "none")

    def weights_by_image(self, weights: torch.Tensor, num_images: int) -> torch.Tensor:
        """Sum the weights of the first image's places; images that are not read get weights of 0."""
        first = weights[..., : GRID**2].sum(dim=-1, keepdim=True)
        unread = first.new_zeros(*first.shape[:-1], num_images - 1)
        return torch.cat([first, unread, weights[..., GRID**2 :]], dim=-1)


class HVPNeTForTokenClassification(SMCLTaggingModel):
    """HVPNeT: a hierarchical visual prefix. It reads the first image of a post alone.

    Chen, Zhang, Li, Yao, Deng, Tan, Huang, Si and Chen, "Good Visual Guidance Make A Better Extractor: Hierarchical
    Visual Prefix for Multimodal Entity and Relation Extraction", Findings of NAACL 2022,
    https://aclanthology.org/2022.findings-naacl.121. Features from several depths of the image encoder, in 2 x 2
    places, become keys and values; for each text layer a gate of its own mixes the depths, and the mixture stands in
    front of the layer's keys and values.

    What differs: layers of a ViT, normalised, in place of the four blocks of a ResNet-50; the whole image alone,
    without the three objects that a detector cuts out for the original; the CRF runs over words. As in its released
    code, the projection is shared by the text layers, which so differ by their gates.

    Args:
        config ([`HVPNeTConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = HVPNeTConfig
    base_class = HVPNeTModel


__all__ = ["GRID", "HVPNeTConfig", "HVPNeTForTokenClassification", "HVPNeTModel", "LevelModel"]

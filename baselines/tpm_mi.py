"""TPM-MI: the images of a post, in their order, as prompts in every text layer."""

import torch
from huggingface_hub.dataclasses import strict

from ..fusion_smcl import SMCLImageRelations
from ..guidance_smcl import ImageGuidance
from ..modeling_smcl import SMCLTaggingModel
from .image_system import ImageSystemConfig, ImageSystemModel, prompt_projection, split_heads


@strict
class TPMMIConfig(ImageSystemConfig):
    """Configuration of a [`TPMMIForTokenClassification`]; see [`ImageSystemConfig`].

    Args:
        prompt_size (`int`, *optional*, defaults to 1024): Width between the two layers that make the prompts.
        published_attention (`bool`, *optional*, defaults to `False`): Whether images attend as in the released code,
            which forgets `batch_first`: each to those at the same place in the other posts of the batch, and to none
            of its own post. For the record only: predictions then depend on the batch.
    """

    model_type = "smcl-tpm-mi"
    switches = (*ImageSystemConfig.switches, "num_image_layers", "published_attention")

    prompt_size: int = 1024
    published_attention: bool = False

    def validate_prompts(self):
        """Check numbers; part of the strict validation on construction and saving."""
        if self.prompt_size < 1:
            raise ValueError(f"`prompt_size` must be at least 1, got {self.prompt_size}.")


class BatchRelations(SMCLImageRelations):
    """Image relations that take the batch for the sequence, as the released code does."""

    def forward(self, image_embeds: torch.Tensor, image_mask: torch.Tensor) -> torch.Tensor:
        """See [`SMCLImageRelations.forward`]."""
        x = (image_embeds + self.position_embeddings[: image_embeds.shape[1]]).transpose(0, 1)
        for layer in self.layers:
            x = layer(x, image_mask.transpose(0, 1))
        return x.transpose(0, 1) * image_mask[..., None]


class TPMMIModel(ImageSystemModel):
    """A text encoder whose layers take each image of a post as a prompt, without the CRF head.

    Args:
        config ([`TPMMIConfig`]): The configuration.

    Raises:
        ValueError: if an encoder is of a kind that does not work; names those that do.
    """

    config_class = TPMMIConfig

    def __init__(self, config: TPMMIConfig):
        super().__init__(config)
        text = config.text_config
        self.image_relations = (BatchRelations if config.published_attention else SMCLImageRelations)(config)
        size = 2 * text.num_hidden_layers * text.hidden_size
        self.projection = prompt_projection(config.vision_config.hidden_size, config.prompt_size, size)
        self.post_init()

    def prompts(self, image_states: torch.Tensor, image_mask: torch.Tensor, text_mask: torch.Tensor) -> ImageGuidance:
        """Turn images `(batch_size, num_images, vision_hidden_size)` into one key and value for each text layer."""
        text = self.config.text_config
        # shape: (batch_size, num_images, 2 * num_layers * hidden_size)
        prompts = self.projection(self.image_relations(image_states, image_mask))
        parts = [split_heads(part, text.num_attention_heads) for part in prompts.split(text.hidden_size, dim=-1)]
        return ImageGuidance(tuple(parts[::2]), tuple(parts[1::2]), image_mask, text_mask, "none")


class TPMMIForTokenClassification(SMCLTaggingModel):
    """TPM-MI: a temporal prompt model for several images.

    Huang, Xu, Li, Ye and Lin, "MNER-MI: A Multi-image Dataset for Multimodal Named Entity Recognition in Social
    Media", LREC-COLING 2024, https://aclanthology.org/2024.lrec-main.1001. Image vectors get temporal positions, a
    transformer layer relates them, and two layers turn each into a key and a value in front of those of every text
    layer.

    What differs from the released code: images attend to those of their own post (`published_attention` has it the
    other way); padding is masked, where the code has up to four blank images in each post take part; the transformer
    layer has the image encoder's number of heads and GELU, in place of 8 heads and ReLU; an image's vector is the last
    layer's [CLS], where the code takes it through ViT's pooler; the CRF runs over words, without the code's tag X for
    further tokens.

    Args:
        config ([`TPMMIConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = TPMMIConfig
    base_class = TPMMIModel


__all__ = ["TPMMIConfig", "TPMMIForTokenClassification", "TPMMIModel"]

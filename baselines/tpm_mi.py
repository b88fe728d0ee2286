"""TPM-MI: the images of a post, in their order, as prompts in every text layer."""

import torch
from huggingface_hub.dataclasses import strict

from ..layers_smcl import ImageGuidance, SMCLImageRelations
from ..modeling_smcl import PostImages, SMCLImageTextModel, SMCLTaggingModel
from .checks import check_least
from .image_system import ImageSystemConfig, prompt_projection, split_heads


@strict
class TPMMIConfig(ImageSystemConfig):
    """Configuration of a [`TPMMIForTokenClassification`]; see [`ImageSystemConfig`].

    Args:
        prompt_size (`int`, *optional*, defaults to 1024): Width between the two layers that make the prompts.
    """

    model_type = "smcl-tpm-mi"
    switches = (*ImageSystemConfig.switches, "num_image_layers", "prompt_size")

    prompt_size: int = 1024

    def validate_prompts(self):
        """Check numbers; part of the strict validation on construction and saving."""
        check_least(self, 1, "prompt_size")


class TPMMIModel(SMCLImageTextModel):
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
        self.image_relations = SMCLImageRelations(config)
        size = 2 * text.num_hidden_layers * text.hidden_size
        self.projection = prompt_projection(config.vision_config.hidden_size, config.prompt_size, size)
        self.post_init()

    def prompts(self, images: PostImages, text_mask: torch.Tensor) -> ImageGuidance:
        """Turn images `(batch_size, num_images, vision_hidden_size)` into one key and value for each text layer."""
        text = self.config.text_config
        # shape: (batch_size, num_images, 2 * num_layers * hidden_size)
        prompts = self.projection(self.image_relations(images.states, images.mask))
        parts = [split_heads(part, text.num_attention_heads) for part in prompts.split(text.hidden_size, dim=-1)]
        return ImageGuidance(tuple(parts[::2]), tuple(parts[1::2]), images.mask, text_mask, "none")


class TPMMIForTokenClassification(SMCLTaggingModel):
    """TPM-MI: a temporal prompt model for several images.

    Huang, Xu, Li, Ye and Lin, "MNER-MI: A Multi-image Dataset for Multimodal Named Entity Recognition in Social
    Media", LREC-COLING 2024, https://aclanthology.org/2024.lrec-main.1001. Image vectors get temporal positions, a
    transformer layer relates them, and two layers turn each into a key and a value in front of those of every text
    layer.

    What differs from the released code: images attend to those of their own post, where the code forgets `batch_first`,
    so that each attends to the images at its place in the other posts of the batch; padding is masked, where the code
    has up to four blank images in each post take part; the transformer layer has the image encoder's number of heads
    and GELU, in place of 8 heads and ReLU; an image's vector is the last layer's [CLS], where the code takes it through
    ViT's pooler; the CRF runs over words, without the code's tag X for further tokens.

    Args:
        config ([`TPMMIConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = TPMMIConfig
    base_class = TPMMIModel


__all__ = ["TPMMIConfig", "TPMMIForTokenClassification", "TPMMIModel"]

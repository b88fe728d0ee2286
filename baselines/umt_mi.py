"""UMT-MI: UMT over all images of a post."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import initialization as init

from ..configuration_smcl import SMCLConfig
from ..modeling_smcl import PostImages
from .umt import UMTConfig, UMTForTokenClassification, UMTModel


@strict
class UMTMIConfig(UMTConfig):
    """Configuration of a [`UMTMIForTokenClassification`]; see [`UMTConfig`]."""

    model_type = "smcl-umt-mi"


class ImagePositions(nn.Module):
    """Temporal positions of the images of a post (Sec. 3.3.2), for all patches of an image the same."""

    def __init__(self, config: SMCLConfig):
        super().__init__()
        self.embeddings = nn.Parameter(torch.empty(config.max_images, config.vision_config.hidden_size))

    def forward(self, image_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch_size, num_images, num_patches, hidden_size)` to the same shape."""
        return image_states + self.embeddings[: image_states.shape[1], None]


class UMTMIModel(UMTModel):
    """Words and the patches of all images, fused above the text encoder, without the CRF head.

    Args:
        config ([`UMTMIConfig`]): The configuration.

    Raises:
        ValueError: if the image encoder is of a kind that does not work; names those that do.
    """

    config_class = UMTMIConfig
    num_images_read = None

    def __init__(self, config: UMTMIConfig):
        super().__init__(config)
        self.image_positions = ImagePositions(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ImagePositions):
            # As SMCL's: patches leave a layer norm with unit variance.
            init.normal_(module.embeddings, mean=0.0, std=1.0)

    def relate_images(self, images: PostImages, text_mask: torch.Tensor, **text: torch.Tensor | None) -> PostImages:
        """Give all patches of an image its temporal position; see [`SMCLImageTextModel.relate_images`]."""
        return images._replace(states=self.image_positions(images.states))


class UMTMIForTokenClassification(UMTForTokenClassification):
    """UMT-MI: [`UMTForTokenClassification`] over all images of a post.

    A baseline of Huang, Xu, Li, Ye and Lin, "MNER-MI: A Multi-image Dataset for Multimodal Named Entity Recognition in
    Social Media", LREC-COLING 2024, https://aclanthology.org/2024.lrec-main.1001, here as Wu and Liu, Symmetry 2026,
    18(2), 353, Sec. 4.1 describe it: the patches of all images stand one behind the other, and each has the temporal
    position of its image, SMCL's own. (Sec. 4.3 speaks of images stitched into a single one instead.) Padding is
    masked.

    Args:
        config ([`UMTMIConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = UMTMIConfig
    base_class = UMTMIModel


__all__ = ["UMTMIConfig", "UMTMIForTokenClassification", "UMTMIModel"]

"""UMT: words and image patches that attend to each other, and entity spans as a second task."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from ..crf_smcl import LinearChainCRF, gather_words
from ..layers_smcl import SMCLTransformerLayer
from ..losses_smcl import BatchShare
from ..modeling_smcl import PostImages, SMCLModelOutput, SMCLOutput, SMCLTaggingModel
from .checks import check_weights
from .image_system import CrossModalLayer, ImageSystemConfig, PatchTextModel

SPAN_LABELS = ["O", "B-ENTITY", "I-ENTITY"]


@strict
class UMTConfig(ImageSystemConfig):
    """Configuration of a [`UMTForTokenClassification`]; see [`ImageSystemConfig`].

    Args:
        span_weight (`float`, *optional*, defaults to 0.5): Weight of the entity spans' loss.
    """

    model_type = "smcl-umt"
    switches = (*ImageSystemConfig.switches, "span_weight")
    keys_to_ignore_at_inference = [*ImageSystemConfig.keys_to_ignore_at_inference, "span_loss"]

    use_image_guidance: bool = False
    span_weight: int | float = 0.5

    def validate_span_weight(self):
        """Check numbers; part of the strict validation on construction and saving."""
        check_weights(self, "span_weight")


@dataclass
class UMTModelOutput(SMCLModelOutput):
    """Output of [`UMTModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_tokens, 2 * hidden_size)`): Image-aware word
            representations, and behind them what the visual gate lets through of the word-aware visual ones.
        span_logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, 3)`): Scores of O, B and I of any type.
    """

    span_logits: torch.FloatTensor | None = None


@dataclass
class UMTOutput(SMCLOutput):
    """Output of [`UMTForTokenClassification`]: that of [`SMCLForTokenClassification`], and one loss more.

    Args:
        span_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): Mean over posts of the negative
            log-likelihood of their entity spans.
    """

    span_loss: torch.FloatTensor | None = None


class UMTModel(PatchTextModel):
    """Words and the patches of the first image, fused above the text encoder, without the CRF head.

    Args:
        config ([`UMTConfig`]): The configuration.

    Raises:
        ValueError: if the image encoder is of a kind that does not work; names those that do.
    """

    config_class = UMTConfig

    def __init__(self, config: UMTConfig):
        super().__init__(config)
        size, vision_size = config.text_config.hidden_size, config.vision_config.hidden_size
        settings = size, config.text_config.num_attention_heads, config.dropout
        self.dropout = nn.Dropout(config.dropout)
        self.word_layer, self.span_layer = SMCLTransformerLayer(*settings), SMCLTransformerLayer(*settings)
        self.patch_projection, self.patch_query_projection = nn.Linear(vision_size, size), nn.Linear(vision_size, size)
        self.text_to_image = CrossModalLayer(*settings)
        self.image_to_text = CrossModalLayer(*settings)
        self.text_to_image_to_text = CrossModalLayer(*settings)
        self.gate = nn.Linear(2 * size, size)
        self.span_classifier = nn.Linear(size, len(SPAN_LABELS))
        self.post_init()

    def fuse(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, images: PostImages | None, output_attentions: bool
    ) -> UMTModelOutput:
        """Join words and patches; see [`SMCLImageTextModel.fuse`]."""
        patches, patch_mask = self.patches(text_states, images)
        text_states = self.dropout(text_states)
        words = self.word_layer(text_states, text_mask)
        # shape: (batch_size, num_patches, hidden_size), patches in the light of the words
        worded_patches = self.image_to_text(self.patch_query_projection(patches), words, text_mask)
        image_aware = self.text_to_image_to_text(words, worded_patches, patch_mask)
        word_aware = self.text_to_image(words, self.patch_projection(patches), patch_mask)
        gate = self.gate(torch.cat([image_aware, word_aware], dim=-1)).sigmoid()
        return UMTModelOutput(
            last_hidden_state=torch.cat([image_aware, gate * word_aware], dim=-1),
            span_logits=self.span_classifier(self.span_layer(text_states, text_mask)),
        )


class UMTForTokenClassification(SMCLTaggingModel):
    """UMT: a unified multimodal transformer with entity span detection. It reads the first image of a post alone.

    Yu, Jiang, Yang and Xia, "Improving Multimodal Named Entity Recognition via Entity Span Detection with Unified
    Multimodal Transformer", ACL 2020, https://aclanthology.org/2020.acl-main.306. Words attend to regions that have
    attended to words (image-aware words), and to the regions themselves (word-aware visual representations); a gate
    lets through what is wanted of the latter, and both together are scored. Beside, spans are found in the text alone,
    by a CRF of their own, and their scores are spread evenly over the entity types by a fixed conversion matrix.
    Emissions are the mean of both scores.

    What differs: the tokens of a ViT's last layer in place of the 7 x 7 regions of a ResNet-152; both CRFs run over
    words, without tags for [CLS], [SEP] and further tokens; dropout in front of the classifier. In a post without an
    image, which the original does not know, words attend to nothing: they pass on as they are.

    Args:
        config ([`UMTConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = UMTConfig
    base_class = UMTModel
    output_class = UMTOutput

    def __init__(self, config: UMTConfig):
        super().__init__(config)
        self.classifier = nn.Linear(2 * config.text_config.hidden_size, config.num_labels)
        self.span_crf = LinearChainCRF(SPAN_LABELS)
        self.post_init()

    def span_ids(self, device: torch.device) -> torch.Tensor:
        """Return the span tag of each tag, `(num_labels,)`: 0 outside, 1 for `B-`, 2 for `I-`."""
        return torch.tensor([{"B-": 1, "I-": 2}.get(label[:2], 0) for label in self.crf.labels], device=device)

    def conversion(self, like: torch.Tensor) -> torch.Tensor:
        """Return the conversion matrix `(3, num_labels)`: each span tag is shared out evenly among its tags."""
        is_tag = torch.arange(len(SPAN_LABELS), device=like.device)[:, None] == self.span_ids(like.device)
        return (is_tag / is_tag.sum(dim=1, keepdim=True).clamp(min=1)).to(like.dtype)

    def emissions(self, outputs: UMTModelOutput) -> torch.Tensor:
        """Average the scores of the fused words and those of their spans; see [`SMCLTaggingModel.emissions`]."""
        return 0.5 * super().emissions(outputs) + 0.5 * outputs.span_logits @ self.conversion(outputs.span_logits)

    def further_losses(
        self,
        outputs: UMTModelOutput,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None = None,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Compute the entity spans' loss; see [`SMCLTaggingModel.further_losses`]."""
        words, mask, positions = gather_words(outputs.span_logits, labels != -100)
        spans = self.span_ids(labels.device)[labels.gather(1, positions).masked_fill(~mask, 0)]
        return {"span_loss": (self.config.span_weight, -self.span_crf.log_likelihood(words, spans, mask).mean())}


__all__ = ["UMTConfig", "UMTForTokenClassification", "UMTModel", "UMTModelOutput", "UMTOutput"]

"""MAF: does the image belong to the text at all, and which words want to hear of it."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F

from ..losses_smcl import BatchShare, as_it_is, info_nce, masked_mean
from ..modeling_smcl import PostImages, SMCLModelOutput, SMCLOutput, SMCLTaggingModel
from .checks import check_positive, check_weights
from .image_system import CrossModalLayer, ImageSystemConfig, PatchTextModel

# Share of the direction from text to image in the alignment loss, as published.
TEXT_TO_IMAGE = 0.7


@strict
class MAFConfig(ImageSystemConfig):
    """Configuration of a [`MAFForTokenClassification`]; see [`ImageSystemConfig`].

    Args:
        matching_weight (`float`, *optional*, defaults to 0.613): Weight of the loss that tells a post's image from
            another post's. Published are 0.62 for the tags and 0.38 for this loss and the next: their ratio.
        alignment_weight (`float`, *optional*, defaults to 0.613): Weight of the loss that draws the vectors of a post's
            text and image together.
        matching_temperature (`float`, *optional*, defaults to 0.179): Divides the cosine of those vectors.
    """

    model_type = "smcl-maf"
    switches = (*ImageSystemConfig.switches, "matching_weight", "alignment_weight", "matching_temperature")
    keys_to_ignore_at_inference = [*ImageSystemConfig.keys_to_ignore_at_inference, "matching_loss", "alignment_loss"]

    use_image_guidance: bool = False
    matching_weight: int | float = 0.613
    alignment_weight: int | float = 0.613
    matching_temperature: int | float = 0.179

    def validate_losses(self):
        """Check numbers; part of the strict validation on construction and saving."""
        check_weights(self, "matching_weight", "alignment_weight")
        check_positive(self, "matching_temperature")


@dataclass
class MAFModelOutput(SMCLModelOutput):
    """Output of [`MAFModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_tokens, 2 * hidden_size)`): Words, and behind
            them what the gate lets through of the image in their light.
        match_logits (`torch.FloatTensor` of shape `(batch_size, 2)`, *optional*): Scores that text and image do not
            belong together, and that they do; without a meaning for posts without an image.
        mismatch_logits (`torch.FloatTensor` of shape `(batch_size, 2)`, *optional*, while training): The same of each
            text and the image of the next post of the batch that has one.
        text_vectors, image_vectors (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*): What the
            alignment loss compares.
    """

    match_logits: torch.FloatTensor | None = None
    mismatch_logits: torch.FloatTensor | None = None
    text_vectors: torch.FloatTensor | None = None
    image_vectors: torch.FloatTensor | None = None


@dataclass
class MAFOutput(SMCLOutput):
    """Output of [`MAFForTokenClassification`]: that of [`SMCLForTokenClassification`], and two losses more.

    Args:
        matching_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): Mean, over posts with an image, of
            the cross-entropy of text and own image, plus that of text and another post's image; 0 in evaluation and
            where fewer than two posts have one.
        alignment_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): InfoNCE of texts and images.
    """

    matching_loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None


def next_with_image(has_image: torch.Tensor) -> torch.Tensor:
    """Find, for each post with an image, the next one of the batch that has one, the first again after the last.

    Args:
        has_image (`torch.BoolTensor` of shape `(batch_size,)`): `True` marks a post with an image.

    Returns:
        `torch.LongTensor` of shape `(batch_size,)`: rows; of a post alone, its own.
    """
    with_image_first = torch.argsort(~has_image, stable=True)
    following = has_image.cumsum(dim=0) % has_image.sum().clamp(min=1)
    return with_image_first[following]


class MAFModel(PatchTextModel):
    """Words and the patches of the first image, weighed by whether the two belong together, without the CRF head.

    Args:
        config ([`MAFConfig`]): The configuration.

    Raises:
        ValueError: if the image encoder is of a kind that does not work; names those that do.
    """

    config_class = MAFConfig

    def __init__(self, config: MAFConfig):
        super().__init__(config)
        size, vision_size = config.text_config.hidden_size, config.vision_config.hidden_size
        self.patch_projection = nn.Linear(vision_size, size)
        self.text_to_image = CrossModalLayer(size, config.text_config.num_attention_heads, config.dropout)
        self.match_classifier = nn.Linear(2 * size, 2)
        self.text_gate, self.image_gate = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        self.text_head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
        self.image_head = nn.Sequential(nn.Linear(vision_size, size), nn.ReLU(), nn.Linear(size, size))
        self.post_init()

    def match(self, text_states: torch.Tensor, text_mask: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Score whether words and what they attended to belong together, `(batch_size, 2)`."""
        return self.match_classifier(masked_mean(torch.cat([text_states, attended], dim=-1), text_mask))

    def fuse(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, images: PostImages | None, output_attentions: bool
    ) -> MAFModelOutput:
        """Join words and patches; see [`SMCLImageTextModel.fuse`]."""
        text_vectors = self.text_head(text_states[:, 0])
        if images is None:
            return MAFModelOutput(
                last_hidden_state=torch.cat([text_states, torch.zeros_like(text_states)], dim=-1),
                text_vectors=text_vectors,
            )
        patches, patch_mask = self.patches(text_states, images)
        projected = self.patch_projection(patches)
        attended = self.text_to_image(text_states, projected, patch_mask)
        match_logits = self.match(text_states, text_mask, attended)
        # A post without an image has none that could belong to it.
        has_image = images.mask.any(dim=1)
        match = match_logits.softmax(dim=-1)[:, 1] * has_image
        seen = match[:, None, None].to(attended.dtype) * attended
        gate = (self.text_gate(text_states) + self.image_gate(seen)).sigmoid()
        mismatch_logits = None
        if self.training:
            # The other post's patches, not what its words attended to: that would give its text away.
            other = next_with_image(has_image)
            attended = self.text_to_image(text_states, projected[other], patch_mask[other])
            mismatch_logits = self.match(text_states, text_mask, attended)
        return MAFModelOutput(
            last_hidden_state=torch.cat([text_states, gate * seen], dim=-1),
            match_logits=match_logits,
            mismatch_logits=mismatch_logits,
            text_vectors=text_vectors,
            image_vectors=self.image_head(patches.mean(dim=1)),
        )


class MAFForTokenClassification(SMCLTaggingModel):
    """MAF: matching and alignment. It reads the first image of a post alone.

    Xu, Huang, Sha and Wang, "MAF: A General Matching and Alignment Framework for Multimodal Named Entity Recognition",
    WSDM 2022, https://doi.org/10.1145/3488560.3498475. Words attend to image regions; a classifier tells how probably
    text and image belong together, by which what the words saw is multiplied; a gate lets through what is wanted of it.
    Two losses come besides: the classifier must tell a post's own image from another post's, and the vectors of text
    and image of one post must be closer than those of different posts.

    What differs: the tokens of a ViT's last layer in place of the 7 x 7 regions of a ResNet-152; the classifier reads
    the mean over real tokens, where the released code flattens 128 places, padding included; no pooler in front of the
    alignment; the CRF runs over words. For the mismatches, words attend to the other post's image, where the code
    exchanges what the other post's words had attended to: that holds the other text, so that no image need be looked
    at. Other images come from the posts that a process itself has; with fewer than two posts with an image there are
    none, and the matching loss is 0. In a post without an image, words pass on alone and no such loss is counted.

    Args:
        config ([`MAFConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = MAFConfig
    base_class = MAFModel
    output_class = MAFOutput

    def __init__(self, config: MAFConfig):
        super().__init__(config)
        self.classifier = nn.Linear(2 * config.text_config.hidden_size, config.num_labels)
        self.post_init()

    def further_losses(
        self,
        outputs: MAFModelOutput,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None = None,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Compute the matching and alignment losses; see [`SMCLTaggingModel.further_losses`]."""
        has_image = text_mask.new_zeros(len(text_mask)) if image_mask is None else image_mask[:, 0]
        total, gather = (as_it_is, as_it_is) if batch_share is None else (batch_share.sum, batch_share.gather)
        losses, counts = self._matching(outputs, has_image)
        matching = total(losses.sum()) / total(counts.sum()).clamp(min=1)
        texts = outputs.text_vectors.float()
        images = torch.zeros_like(texts) if outputs.image_vectors is None else outputs.image_vectors.float()
        texts, images, pairs = gather(texts), gather(images), gather(has_image.float()).bool()
        alignment = info_nce(texts, images, pairs, self.config.matching_temperature, TEXT_TO_IMAGE)
        return {
            "matching_loss": (self.config.matching_weight, matching),
            "alignment_loss": (self.config.alignment_weight, alignment),
        }

    def _matching(self, outputs: MAFModelOutput, has_image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the matching loss of each post, and 1 for the posts that it is counted for, both `(batch_size,)`."""
        if outputs.mismatch_logits is None:
            nothing = outputs.text_vectors.new_zeros(len(has_image), dtype=torch.float32)
            return nothing, nothing
        # With matches alone, the classifier would only learn to say so.
        counts = (has_image & (has_image.sum() > 1)).float()
        pairs = ((outputs.match_logits, 1), (outputs.mismatch_logits, 0))
        losses = [
            F.cross_entropy(logits.float(), torch.full_like(has_image, label, dtype=torch.long), reduction="none")
            for logits, label in pairs
        ]
        return sum(losses) * counts, counts


__all__ = ["MAFConfig", "MAFForTokenClassification", "MAFModel", "MAFModelOutput", "MAFOutput"]

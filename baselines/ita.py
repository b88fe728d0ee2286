"""ITA: images as text behind the post, and two views of a post that are to agree."""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch.nn import functional as F
from transformers.utils import can_return_tuple

from ..crf_smcl import gather_words
from ..modeling_smcl import SMCLOutput, SMCLTaggingModel
from .checks import check_positive, check_weights
from .context import AppendingProcessor, ContextTextModel
from .text_only import TextOnlyConfig

# Captions that are read, the best first.
MAX_CAPTIONS = 5


@strict
class ITAConfig(TextOnlyConfig):
    """Configuration of an [`ITAForTokenClassification`]; see [`TextOnlyConfig`].

    Args:
        text_view_weight (`float`, *optional*, defaults to 2.0): Weight of the tags' loss where the post is read alone;
            that of the post with its context is 1. Both ratios are the published ones.
        alignment_weight (`float`, *optional*, defaults to 1.0): Weight of the loss that draws the tag probabilities of
            the post alone to those of the post with its context.
        alignment_temperature (`float`, *optional*, defaults to 4.0): Divides the scores that the latter loss compares.
            The released settings are 4 and, for Twitter-2017, 2.
    """

    model_type = "smcl-ita"
    switches = (*TextOnlyConfig.switches, "text_view_weight", "alignment_weight", "alignment_temperature")
    keys_to_ignore_at_inference = [*TextOnlyConfig.keys_to_ignore_at_inference, "text_view_loss", "alignment_loss"]

    text_view_weight: int | float = 2.0
    alignment_weight: int | float = 1.0
    alignment_temperature: int | float = 4.0

    def validate_losses(self):
        """Check numbers; part of the strict validation on construction and saving."""
        check_weights(self, "text_view_weight", "alignment_weight")
        check_positive(self, "alignment_temperature")


@dataclass
class ITAOutput(SMCLOutput):
    """Output of [`ITAForTokenClassification`]: that of [`SMCLForTokenClassification`], and two losses more.

    Args:
        text_view_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): Mean over posts of the CRF's
            negative log-likelihood where the post is read alone; 0 for a post without context.
        alignment_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): Mean over posts of the divergence
            of their words' tag probabilities; 0 for a post without context.
    """

    text_view_loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None


class ITAProcessor(AppendingProcessor):
    """A processor that appends to a post the captions, object names and written text of its first image.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        max_context_tokens (`int`, *optional*, defaults to 128): Most tokens to append, separators among them.
    """

    context_columns = ("objects", "captions", "image_text")

    def context_text(self, context: dict[str, Any]) -> list[str]:
        """Join captions, object names and lines of text, parted by full stops; see [`AppendingProcessor`]."""
        names = [found["label"] for found in context["objects"]]
        parts = [*context["captions"][:MAX_CAPTIONS], " ".join(names), " ".join(context["image_text"])]
        return " . ".join(part for part in parts if part.strip()).split()


class ITAForTokenClassification(SMCLTaggingModel):
    """ITA: image-text alignments. It reads what was made of the first image, no pixels.

    Wang, Gui, Jiang, Jia, Bach, Wang, Huang and Tu, "ITA: Image-Text Alignments for Multi-Modal Named Entity
    Recognition", NAACL 2022, https://aclanthology.org/2022.naacl-main.232. Captions, names of objects and text found in
    the image stand behind the post, and one text encoder reads it all. In training it also reads the post alone, is
    taught the same tags there, and is drawn to the tag probabilities that it has in sight of the image; these stay as
    they are.

    What differs: BIO2 tags; detector, captioner and reader of text are those that made the columns, and the released
    system's names of objects have attributes; the published best figures are of XLM-RoBERTa large. The CRF never sees
    context, here as there. A post without context is read once: there its loss is that of its tags.

    Args:
        config ([`ITAConfig`]): The configuration; its `id2label` names the tags.
    """

    config_class = ITAConfig
    base_class = ContextTextModel
    output_class = ITAOutput
    processor_class = ITAProcessor
    input_modalities = ("text",)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        context_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> ITAOutput:
        """Score the tags of every token in sight of the context; see [`SMCLTaggingModel.forward`].

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): Posts, each with its context
                behind.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*): 1 marks a real token.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): Tag ids, -100 off word starts.
            context_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`, *optional*): `True` at the tokens that
                do not belong to the post, as an [`ITAProcessor`] returns it.
            **kwargs: The other arguments.

        Returns:
            [`ITAOutput`].

        Raises:
            ValueError: if `context_mask` is of another shape than the labels.
        """
        inputs = {"input_ids": input_ids, "labels": labels, "return_dict": True, **kwargs}
        outputs = super().forward(attention_mask=attention_mask, **inputs)
        if labels is None:
            return outputs
        nothing = outputs.loss.new_zeros(())
        outputs.text_view_loss, outputs.alignment_loss = nothing, nothing
        if context_mask is not None and context_mask.shape != labels.shape:
            raise ValueError(
                f"`context_mask` must have the shape (batch_size, num_tokens) of the labels, {tuple(labels.shape)}, "
                f"got {tuple(context_mask.shape)}."
            )
        if context_mask is None or not (self.config.text_view_weight or self.config.alignment_weight):
            return outputs
        is_post = ~context_mask.bool()
        alone = is_post.long() if attention_mask is None else attention_mask * is_post
        text_logits = super().forward(attention_mask=alone, **inputs | {"labels": None}).logits
        losses = self.view_losses(outputs.logits, text_logits, labels, (~is_post).any(dim=1))
        outputs.text_view_loss, outputs.alignment_loss = (loss.mean() for loss in losses)
        outputs.loss = outputs.loss + self.config.text_view_weight * outputs.text_view_loss
        outputs.loss = outputs.loss + self.config.alignment_weight * outputs.alignment_loss
        return outputs

    def view_losses(
        self, logits: torch.Tensor, text_logits: torch.Tensor, labels: torch.Tensor, has_context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the losses of reading posts alone.

        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Scores in sight of context.
            text_logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Scores without.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`): Tag ids, -100 off word starts.
            has_context (`torch.BoolTensor` of shape `(batch_size,)`): `True` marks the posts that count.

        Returns:
            The negative log-likelihood of the tags by the post alone, and the divergence of each word's tag
            probabilities, summed over words; both of shape `(batch_size,)`.
        """
        tau = self.config.alignment_temperature
        words, mask, positions = gather_words(text_logits, labels != -100)
        tags = labels.gather(1, positions).masked_fill(~mask, 0)
        seen, _, _ = gather_words(logits.detach(), labels != -100)
        teacher = (self.crf.log_marginals(seen, mask).detach() / tau).log_softmax(dim=-1)
        student = (self.crf.log_marginals(words, mask) / tau).log_softmax(dim=-1)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1) * mask
        log_likelihood = self.crf.log_likelihood(words, tags, mask)
        return -log_likelihood * has_context, tau**2 * divergence.sum(dim=1) * has_context


__all__ = ["ITAConfig", "ITAForTokenClassification", "ITAOutput", "ITAProcessor"]

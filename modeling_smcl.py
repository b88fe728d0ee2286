"""PyTorch SMCL model: multi-image multimodal named-entity recognition."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_smcl import SMCLConfig
from .crf_smcl import LinearChainCRF, gather_words
from .distributed_smcl import BatchShare
from .encoders_smcl import SMCLEncoders, SMCLPreTrainedModel
from .fusion_smcl import (
    SMCLConcatenation,
    SMCLImageRelations,
    SMCLImageRelevance,
    SMCLModalityEncoders,
    SMCLSymmetricFusion,
)
from .guidance_smcl import SMCLImageGuidance, check_text_backbone
from .losses_smcl import as_it_is, central_moment_discrepancy, info_nce, masked_mean, soft_orthogonality


@dataclass
class SMCLModelOutput(ModelOutput):
    """Output of [`SMCLModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`):
            The tokens as the head reads them: in SMCL the text encoder's states plus the paper's Hyper.
        text_shared, text_specific (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`, *optional*):
            Aligned and refined text, U_t^a and U_t^r (Eq. 6-9); `None` where the encoder is switched off.
        image_shared, image_specific (`torch.FloatTensor` of shape `(batch_size, num_images, hidden_size)`,
            *optional*): Likewise for images; also `None` without images.
        image_weights (`torch.FloatTensor` of shape `(batch_size, num_images)`, *optional*):
            Relevance of each image in (0, 1), 0 for padding; only with `image_weighting="relevance"`.
        fusion_attentions (`tuple` of two `torch.FloatTensor`, *optional*, with `output_attentions=True`):
            Weights of images over tokens `(batch_size, num_images, num_tokens)` (mu, Eq. 14) and of tokens over
            images `(batch_size, num_tokens, num_images)`.
        hidden_states (`tuple` of `torch.FloatTensor`, *optional*, with `output_hidden_states=True`):
            The text encoder's embeddings and layer outputs, each `(batch_size, num_tokens, hidden_size)`.
        attentions (`tuple` of `torch.FloatTensor`, *optional*, with `output_attentions=True`):
            The text encoder's weights over [images; tokens] by layer, each
            `(batch_size, num_heads, num_tokens, num_images + num_tokens)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    text_shared: torch.FloatTensor | None = None
    text_specific: torch.FloatTensor | None = None
    image_shared: torch.FloatTensor | None = None
    image_specific: torch.FloatTensor | None = None
    image_weights: torch.FloatTensor | None = None
    fusion_attentions: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SMCLOutput(ModelOutput):
    """Output of [`SMCLForTokenClassification`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`):
            task + alpha * similarity + beta * difference (Eq. 18).
        logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores of the CRF.
        task_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`):
            Mean over posts of the CRF's negative log-likelihood (Eq. 23).
        similarity_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): CMD_K (Eq. 20).
        difference_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): Soft orthogonality (Eq. 22).
        contrastive_loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`): InfoNCE, 0 by default.
        image_weights, fusion_attentions, hidden_states, attentions: See [`SMCLModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    task_loss: torch.FloatTensor | None = None
    similarity_loss: torch.FloatTensor | None = None
    difference_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    image_weights: torch.FloatTensor | None = None
    fusion_attentions: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class SMCLModel(SMCLEncoders):
    """Image-guided text encoder, alignment, refinement and symmetric fusion, without the CRF head.

    Not in the paper: the head reads H_t + Hyper, where Eq. 15 has Hyper alone. From few posts, the new layers between
    the text encoder and the CRF learn to name types worse than one linear layer on H_t does; with the sum they only
    have to learn what images add.

    Args:
        config ([`SMCLConfig`]): The configuration.

    Raises:
        ValueError: if a backbone is of a kind that does not work; names those that do.
    """

    def __init__(self, config: SMCLConfig):
        super().__init__(config)
        self.image_relations = SMCLImageRelations(config)
        self.image_guidance = SMCLImageGuidance(config) if config.use_image_guidance else None
        self.image_relevance = None
        if config.image_weighting == "relevance":
            self.image_relevance = SMCLImageRelevance(config, self.get_input_embeddings().embedding_dim)
        self.encoders = SMCLModalityEncoders(config)
        self.fusion = SMCLSymmetricFusion(config) if config.use_fusion else SMCLConcatenation(config)
        if config.use_image_guidance:
            check_text_backbone(self.text_model)
        self.post_init()

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
        """Represent the tokens of posts in the light of their images.

        Args:
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`): BERT's.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_tokens, embedding_size)`, *optional*):
                Word embeddings in place of `input_ids`.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_images, 3, height, width)`, *optional*):
                Normalised images in post order; padding slots may hold anything.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`, *optional*): `True` marks a real
                image; by default all are.
            image_embeds (`torch.FloatTensor` of shape `(batch_size, num_images, vision_hidden_size)`, *optional*):
                Vectors from `encode_images` in place of `pixel_values`.
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
        image_weights, guidance = None, None
        if image_states is not None:
            image_states = self.image_relations(image_states, image_mask)
            if self.image_relevance is not None:
                embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
                image_weights = self.image_relevance(embeds, text_mask, image_states, image_mask)
            if self.image_guidance is not None:
                guidance = self.image_guidance(image_states, image_mask, text_mask, image_weights)
        output_attentions = self._flag("output_attentions", output_attentions)
        text_outputs = self._encode_text(
            input_ids,
            text_mask,
            token_type_ids,
            inputs_embeds,
            image_guidance=guidance,
            output_attentions=output_attentions,
            output_hidden_states=self._flag("output_hidden_states", output_hidden_states),
        )
        text = self.encoders(text_outputs.last_hidden_state, "text")
        images = None if image_states is None else self.encoders(image_states, "image")
        hyper, fusion_attentions = self.fusion(text, text_mask, images, image_mask, image_weights, output_attentions)
        images = images or {}
        return SMCLModelOutput(
            # What BERT knows of a word need not pass through new layers; see the class.
            last_hidden_state=text_outputs.last_hidden_state + hyper,
            text_shared=text.get("shared"),
            text_specific=text.get("specific"),
            image_shared=images.get("shared"),
            image_specific=images.get("specific"),
            image_weights=image_weights,
            fusion_attentions=fusion_attentions,
            hidden_states=text_outputs.hidden_states,
            attentions=text_outputs.attentions,
        )


NOT_FINITE = "`logits` are not finite: expected numbers, got NaN or infinity. Check the weights that were loaded."


def _require(condition: torch.Tensor, message: str) -> None:
    """Raise a `ValueError` unless all of a bool tensor is `True`; an accelerator stops by itself, without a wait."""
    if torch.compiler.is_compiling():
        return
    if condition.device.type != "cpu":
        torch._assert_async(condition.all(), message)
    elif not condition.all():
        raise ValueError(message)


class SMCLTaggingModel(SMCLPreTrainedModel):
    """A CRF over the words of a post, on top of any model that represents its tokens.

    Subclasses name that model, `base_class`, which takes the arguments of [`SMCLModel.forward`] and returns an
    [`SMCLModelOutput`].

    Args:
        config ([`SMCLConfig`]): The configuration; its `id2label` names the tags.
    """

    base_class: type[SMCLPreTrainedModel]
    output_class: type[SMCLOutput] = SMCLOutput

    def __init__(self, config: SMCLConfig):
        super().__init__(config)
        self.smcl = self.base_class(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.text_config.hidden_size, config.num_labels)
        self.crf = LinearChainCRF([config.id2label[i] for i in range(config.num_labels)], config.constrain_bio)
        self.post_init()

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
        word_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        batch_share: BatchShare | None = None,
    ) -> SMCLOutput:
        """Score the tags of every token, and with labels compute the loss.

        The arguments that do not stand here are those of [`SMCLModel.forward`].

        Args:
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`, *optional*): Not used here; accepted so
                that a processor's output can be passed whole. [`~SMCLForTokenClassification.decode`] needs it.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): Tag ids at the words' first
                tokens, -100 elsewhere.
            output_attentions (`bool`, *optional*): Whether to return attention weights.
            output_hidden_states (`bool`, *optional*): Whether to return the text encoder's hidden states.
            batch_share ([`BatchShare`], *optional*): Where several processes share a batch: has the losses that look at
                all its posts look at those of all processes.

        Returns:
            [`SMCLOutput`].
        """
        outputs = self.smcl(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            image_mask=image_mask,
            image_embeds=image_embeds,
            image_indices=image_indices,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.emissions(outputs)
        losses = {}
        if labels is not None:
            text_mask = torch.ones_like(labels) if attention_mask is None else attention_mask
            images = pixel_values if image_embeds is None else image_embeds
            if images is None or images.shape[1] == 0:
                image_mask = None
            elif image_mask is None:
                image_mask = images.new_ones(images.shape[:2])
            masks = text_mask.bool(), None if image_mask is None else image_mask.bool()
            losses = self._losses(outputs, logits, labels, *masks, batch_share)
        return self.output_class(
            logits=logits,
            **losses,
            image_weights=outputs.image_weights,
            fusion_attentions=outputs.fusion_attentions,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _losses(
        self,
        outputs: SMCLModelOutput,
        logits: torch.Tensor,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None,
    ) -> dict[str, torch.Tensor]:
        """Return the loss, a weighted sum, and its parts; arguments as those of `further_losses`."""
        with torch.autocast(logits.device.type, enabled=False):
            task_loss = self.task_loss(logits, labels)
            losses = {"task_loss": task_loss, "loss": task_loss}
            further_losses = self.further_losses(outputs, labels, text_mask, image_mask, batch_share)
            for name, (weight, loss) in further_losses.items():
                losses[name] = loss
                losses["loss"] = losses["loss"] + weight * loss
        return losses

    def emissions(self, outputs: SMCLModelOutput) -> torch.Tensor:
        """Score the tags of every token from what the model below returned.

        Args:
            outputs ([`SMCLModelOutput`]): What the model below the head returned.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`.
        """
        return self.classifier(self.dropout(outputs.last_hidden_state))

    def further_losses(
        self,
        outputs: SMCLModelOutput,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None = None,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Compute the other parts of the loss, none by default, in float32.

        Args:
            outputs ([`SMCLModelOutput`]): What the model below the head returned.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`): Tag ids, -100 off word starts.
            text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`, *optional*): `True` marks a real image.
            batch_share ([`BatchShare`], *optional*): Shows the posts of other processes.

        Returns:
            `dict` from names to weights and losses of shape `()`.
        """
        return {}

    def task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the mean over posts of the CRF's negative log-likelihood (Eq. 23), in float32.

        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            labels (`torch.LongTensor` of shape `(batch_size, num_tokens)`): Tag ids at the words' first tokens, -100
                elsewhere.

        Returns:
            `torch.FloatTensor` of shape `()`.

        Raises:
            ValueError: if there is no such tag.
        """
        known = (labels == -100) | ((labels >= 0) & (labels < self.config.num_labels))
        _require(known, f"`labels` must be -100 or tag ids from 0 to {self.config.num_labels - 1}, got others.")
        words, mask, positions = gather_words(logits, labels != -100)
        tags = labels.gather(1, positions).masked_fill(~mask, 0)
        return -self.crf.log_likelihood(words, tags, mask).mean()

    @torch.no_grad()
    def decode(self, logits: torch.Tensor, word_mask: torch.Tensor) -> torch.Tensor:
        """Find the best tag sequence of each post (Viterbi over words).

        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` at each word's first token.

        Returns:
            `torch.LongTensor` of shape `(batch_size, num_tokens)`: tag ids at word starts, -100 elsewhere.

        Raises:
            ValueError: if `logits` are not finite.
        """
        _require(logits.isfinite(), NOT_FINITE)
        words, mask, positions = gather_words(logits, word_mask.bool())
        tags = self.crf.decode(words, mask)
        return torch.full_like(tags, -100).scatter(1, positions, tags)

    @torch.no_grad()
    def marginals(self, logits: torch.Tensor, word_mask: torch.Tensor) -> torch.Tensor:
        """Compute each word's tag probabilities under the CRF (forward-backward) at the configuration's temperature.

        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`): Emission scores.
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` at each word's first token.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_tokens, num_labels)`: probabilities, 0 off word starts.

        Raises:
            ValueError: if `logits` are not finite.
        """
        _require(logits.isfinite(), NOT_FINITE)
        words, mask, positions = gather_words(logits, word_mask.bool())
        probabilities = self.crf.marginals(words, mask, self.config.temperature)
        index = positions[..., None].expand_as(probabilities)
        return torch.zeros_like(probabilities).scatter(1, index, probabilities)


class SMCLForTokenClassification(SMCLTaggingModel):
    """SMCL with a CRF over the words of a post.

    Args:
        config ([`SMCLConfig`]): The configuration; its `id2label` names the tags.

    Example:
    ```python
    >>> from smcl import SMCLForTokenClassification, SMCLProcessor

    >>> processor = SMCLProcessor.from_pretrained("output")
    >>> model = SMCLForTokenClassification.from_pretrained("output")
    >>> inputs = processor(words=[["Joey", "and", "Niko", "rest"]], images=[[photo]], return_tensors="pt")
    >>> word_mask = inputs.pop("word_mask")
    >>> tags = model.decode(model(**inputs).logits, word_mask)
    ```
    """

    base_class = SMCLModel

    def further_losses(
        self,
        outputs: SMCLModelOutput,
        labels: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor | None,
        batch_share: BatchShare | None = None,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Compute the similarity (Eq. 20), difference (Eq. 22) and contrastive losses; 0 where a part is missing."""
        similarity = difference = contrastive = torch.zeros((), device=text_mask.device)
        total = gather = as_it_is
        if batch_share is not None:
            total, gather = batch_share.sum, batch_share.gather
        if image_mask is None:
            # Other processes may have images, and all must take part in the same sums.
            image_mask = text_mask.new_zeros(len(text_mask), 1)
        masks = {"text": text_mask, "image": image_mask}
        shared, specific = (self._streams(outputs, kind, masks) for kind in ("shared", "specific"))
        pooled_shared, pooled_specific = (
            {m: gather(masked_mean(x, masks[m])) for m, x in states.items()} for states in (shared, specific)
        )
        posts = {m: gather(mask.any(dim=1).float()).bool() for m, mask in masks.items()}
        if shared:
            # Squashed to [0, 1), where CMD is defined and its interval factors are 1.
            samples = [shared[m].flatten(0, 1).tanh() for m in masks]
            sample_masks = [mask.flatten() for mask in masks.values()]
            similarity = central_moment_discrepancy(*samples, *sample_masks, self.config.cmd_order, total)
            if self.config.contrastive_weight > 0:
                contrastive = info_nce(pooled_shared["text"], pooled_shared["image"], posts["image"])
        for m in pooled_shared.keys() & pooled_specific.keys():
            difference = difference + soft_orthogonality(pooled_shared[m], pooled_specific[m], posts[m])
        if specific:
            difference = difference + soft_orthogonality(*pooled_specific.values(), posts["image"])
        return {
            "similarity_loss": (self.config.similarity_weight, similarity),
            "difference_loss": (self.config.difference_weight, difference),
            "contrastive_loss": (self.config.contrastive_weight, contrastive),
        }

    def _streams(self, outputs: SMCLModelOutput, kind: str, masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the vectors of a kind in float32, by modality; none if that encoder is switched off."""
        if f"text_{kind}" not in outputs:
            return {}
        streams = {"text": outputs[f"text_{kind}"].float()}
        no_images = streams["text"].new_zeros(*masks["image"].shape, streams["text"].shape[-1])
        streams["image"] = outputs[f"image_{kind}"].float() if f"image_{kind}" in outputs else no_images
        return streams


__all__ = ["SMCLForTokenClassification", "SMCLModel", "SMCLModelOutput", "SMCLOutput", "SMCLTaggingModel"]

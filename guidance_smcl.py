"""Image guidance inside the text encoder's own attention, without a fork of it (Eq. 1-5)."""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .configuration_smcl import TEXT_BACKBONES, SMCLConfig

GUIDED_ATTENTION = "smcl_guided"

# What the text encoder may have as attention implementation: guidance is written for their masks and arithmetic.
TEXT_ATTENTIONS = ("eager", "sdpa")


class ImageGuidance(NamedTuple):
    """What a text layer needs to attend to the images of a post, handed through the encoder as one argument.

    Attributes:
        keys (`tuple` of `torch.Tensor` of shape `(batch_size, num_heads, num_images, head_size)`): K_z by layer.
        values (`tuple` of `torch.Tensor` of shape `(batch_size, num_heads, num_images, head_size)`): V_z by layer.
        image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`): `True` marks a real image.
        text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
        filter (`str`): The configuration's `image_key_filter`.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    image_mask: torch.Tensor
    text_mask: torch.Tensor
    filter: str


def _mean_weight(weights: torch.Tensor, guidance: ImageGuidance) -> torch.Tensor:
    """Average `(batch_size, num_heads, num_tokens, num_images)` over what is real in each post (w-bar of Eq. 5)."""
    real = guidance.text_mask[:, None, :, None] & guidance.image_mask[:, None, None, :]
    total = (weights * real).sum(dim=(1, 2, 3), keepdim=True)
    count = real.sum(dim=(1, 2, 3), keepdim=True) * weights.shape[1]
    return total / count.clamp(min=1)


@torch.no_grad()
def image_key_mask(
    query: torch.Tensor,
    key: torch.Tensor,
    image_key: torch.Tensor,
    guidance: ImageGuidance,
    attention_mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Choose the image keys that each token may attend to: the dynamic threshold after Eq. 4.

    Args:
        query (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_size)`): Q.
        key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_size)`): K.
        image_key (`torch.Tensor` of shape `(batch_size, num_heads, num_images, head_size)`): K_z.
        guidance (`ImageGuidance`): Masks and the filter's name.
        attention_mask (`torch.BoolTensor` of shape `(batch_size, 1, num_tokens or 1, num_tokens)`): Text mask.
        scaling (`float`): Factor of the scores.

    Returns:
        `torch.BoolTensor` of shape `(batch_size, num_heads or 1, num_tokens or 1, num_images)`.
    """
    real = guidance.image_mask[:, None, None, :]
    if guidance.filter == "none":
        return real
    # shape: (batch_size, num_heads, num_tokens, num_images)
    weights = (query.float() @ image_key.float().transpose(2, 3)) * scaling
    if guidance.filter == "score":
        # sigmoid(s) >= sigmoid(w) without the sigmoids, which round to equality for large scores
        return real & (weights >= _mean_weight(weights, guidance))
    text_scores = (query.float() @ key.float().transpose(2, 3)) * scaling
    lowest = torch.finfo(weights.dtype).min
    scores = torch.cat([weights.masked_fill(~real, lowest), text_scores.masked_fill(~attention_mask, lowest)], dim=-1)
    weights = scores.softmax(dim=-1)[..., : image_key.shape[2]]
    return real & (weights >= _mean_weight(weights, guidance).sigmoid())


def guided_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    image_guidance: ImageGuidance | None = None,
    output_attentions: bool = False,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend to [images; text] jointly (Eq. 4); an attention function for transformers' `AttentionInterface`.

    Args:
        module (`nn.Module`): The text encoder's attention layer, prepared by `guide_attention`.
        query (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_size)`): Q.
        key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_size)`): K.
        value (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_size)`): V.
        attention_mask (`torch.Tensor` of shape `(batch_size, 1, num_tokens, num_tokens)`, *optional*): As the encoder's
            implementation has it, bool with `True` = attend or float with 0 = attend; `None` where nothing is masked.
        scaling (`float`, *optional*, defaults to 1 / sqrt(head_size)): Factor of the scores.
        dropout (`float`, *optional*, defaults to 0): Dropout of the weights.
        image_guidance (`ImageGuidance`, *optional*): Image keys and values; without, this is stock attention.
        output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the weights.
        **kwargs: Handed on to the stock function.

    Returns:
        The attended values of shape `(batch_size, num_tokens, num_heads, head_size)`, and the weights over
        [images; text] of shape `(batch_size, num_heads, num_tokens, num_images + num_tokens)`, with
        `output_attentions` or in an `"eager"` encoder; else `None`.
    """
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    explicit = output_attentions or module.encoder_config._attn_implementation == "eager"
    if image_guidance is None and not explicit:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=False, **kwargs
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        attention_mask = attention_mask == 0
    if image_guidance is not None:
        image_key = image_guidance.keys[module.layer_idx].to(key.dtype)
        image_value = image_guidance.values[module.layer_idx].to(value.dtype)
        if attention_mask is None:
            attention_mask = image_guidance.text_mask[:, None, None, :]
        image_mask = image_key_mask(query, key, image_key, image_guidance, attention_mask, scaling)
        # shape: (batch_size, num_heads or 1, num_tokens, num_images) and (..., num_tokens)
        shape = (query.shape[0], image_mask.shape[1], query.shape[2], -1)
        attention_mask = torch.cat([image_mask.expand(shape), attention_mask.expand(shape)], dim=-1)
        key = torch.cat([image_key, key], dim=2)
        value = torch.cat([image_value, value], dim=2)
    if explicit:
        output, weights = weighted_attention(query, key, value, attention_mask, scaling, dropout)
    else:
        weights = None
        output = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
    return output.transpose(1, 2).contiguous(), weights


def weighted_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention that also returns its weights; what `F.scaled_dot_product_attention` hides."""
    scores = (query @ key.transpose(-1, -2)) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, dropout) @ value, weights


class SMCLImageGuidance(nn.Module):
    """Project images to keys and values of each text layer (Eq. 1 and 3)."""

    def __init__(self, config: SMCLConfig):
        super().__init__()
        text, vision = config.text_config, config.vision_config
        self.num_heads = text.num_attention_heads
        self.filter = config.image_key_filter

        def projections(in_features: int) -> nn.ModuleList:
            layers = range(text.num_hidden_layers)
            return nn.ModuleList(nn.Linear(in_features, text.hidden_size, bias=False) for _ in layers)

        self.projections = projections(vision.hidden_size)
        self.keys = projections(text.hidden_size)
        self.values = projections(text.hidden_size)

    def forward(
        self,
        image_states: torch.Tensor,
        image_mask: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> ImageGuidance:
        """Build the keys and values of all layers from G `(batch_size, num_images, vision_hidden_size)`."""
        projected = [layer(image_states) for layer in self.projections]

        def heads(layers: nn.ModuleList) -> tuple[torch.Tensor, ...]:
            pairs = zip(layers, projected, strict=True)
            return tuple(layer(z).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer, z in pairs)

        return ImageGuidance(heads(self.keys), heads(self.values), image_mask, text_mask, self.filter)


def guide_attention(text_model: PreTrainedModel) -> None:
    """Make the attention layers of a text encoder call `guided_attention_forward`.

    Only the layers see another configuration. The encoder's own still tells which of `TEXT_ATTENTIONS` does the
    arithmetic and makes the mask, and setting it, as transformers does in many places, can't take the guidance away.

    Args:
        text_model (`PreTrainedModel`): The encoder.

    Raises:
        ValueError: if it is a decoder, whose attention is not that of `guided_attention_forward`.
    """
    if getattr(text_model.config, "is_decoder", False):
        raise ValueError(
            "`text_config` has `is_decoder=True`, which hides from each word those that follow. Expected an encoder: "
            "set `is_decoder=False`."
        )
    guided = copy.copy(text_model.config)
    guided._attn_implementation = GUIDED_ATTENTION
    for module in text_model.modules():
        if hasattr(module, "layer_idx") and getattr(module, "config", None) is text_model.config:
            module.config, module.encoder_config = guided, text_model.config


class _RecordedKeys(tuple):
    """Image keys by layer that remember which layers asked for theirs."""

    def __getitem__(self, layer_idx):
        self.asked.add(layer_idx)
        return super().__getitem__(layer_idx)


@torch.no_grad()
def check_text_backbone(text_model: PreTrainedModel) -> None:
    """Run a text encoder on two tokens and one image to see that every layer takes the image's key.

    Args:
        text_model (`PreTrainedModel`): The encoder, after `guide_attention`.

    Raises:
        ValueError: if a layer does not; names the encoders that work.
    """
    config, device = text_model.config, text_model.device
    head_size = config.hidden_size // config.num_attention_heads
    key = torch.zeros(1, config.num_attention_heads, 1, head_size, device=device)
    keys = _RecordedKeys([key] * config.num_hidden_layers)
    keys.asked = set()
    image_mask, text_mask = (torch.ones(1, n, dtype=torch.bool, device=device) for n in (1, 2))
    guidance = ImageGuidance(keys, keys, image_mask, text_mask, "score")
    was_training = text_model.training
    cause = None
    try:
        input_ids = torch.zeros(1, 2, dtype=torch.long, device=device)
        text_model.eval()(input_ids=input_ids, image_guidance=guidance)
    except (AttributeError, TypeError, RuntimeError) as error:
        cause = error
    text_model.train(was_training)
    if cause is not None or keys.asked != set(range(config.num_hidden_layers)):
        raise ValueError(
            f"`text_config` of type {config.model_type!r} can't be guided by images: its attention layers reached "
            f"{len(keys.asked)} of {config.num_hidden_layers} image keys. Expected an encoder whose layers use "
            f"transformers' attention interface, such as {', '.join(TEXT_BACKBONES)}."
        ) from cause


AttentionInterface.register(GUIDED_ATTENTION, guided_attention_forward)


__all__ = [
    "TEXT_ATTENTIONS",
    "ImageGuidance",
    "SMCLImageGuidance",
    "check_text_backbone",
    "guide_attention",
    "guided_attention_forward",
    "image_key_mask",
    "weighted_attention",
]

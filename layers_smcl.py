"""The layers that join images and text (Sec. 3.3, Eq. 1-15).

First image guidance, inside the text encoder's own attention and without a fork of it; then the relations of images,
alignment, refinement and symmetric fusion.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .configuration_smcl import TEXT_BACKBONES, SMCLConfig
from .crf_smcl import in_order_scores

GUIDED_ATTENTION = "smcl_guided"
# What the text encoder may have as attention implementation: guidance is written for their masks and arithmetic.
TEXT_ATTENTIONS = ("eager", "sdpa")
# The largest score of a pair matched in order; e^8 is 3,000 times what a pair weighs that says nothing.
SHARPNESS = 8.0
# Share of what a token changes in others; where padding has less, it is a matter of rounding.
LEAST_LEAK = 1e-3


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
    """Scaled dot-product attention that also returns its weights; what `F.scaled_dot_product_attention` hides.

    Args:
        query, key, value (`torch.FloatTensor` of shape `(..., num_queries or num_keys, head_size)`): The projections.
        mask (`torch.BoolTensor`, *optional*): `True` where a query may look, of a shape that broadcasts to the weights.
        scaling, dropout (`float`): What multiplies the scores; the probability to drop a weight.

    Returns:
        `tuple`: outputs `(..., num_queries, head_size)` and weights `(..., num_queries, num_keys)` before dropout.
    """
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


def guide_attention(text_model: PreTrainedModel) -> bool:
    """Make the attention layers of a text encoder call `guided_attention_forward`.

    Only the layers see another configuration. The encoder's own still tells which of `TEXT_ATTENTIONS` does the
    arithmetic and makes the mask, and setting it, as transformers does in many places, can't take the guidance away.

    Args:
        text_model (`PreTrainedModel`): The encoder.

    Returns:
        `bool`: whether it has such layers.
    """
    guided = copy.copy(text_model.config)
    guided._attn_implementation = GUIDED_ATTENTION
    layers = [
        module
        for module in text_model.modules()
        if hasattr(module, "layer_idx") and getattr(module, "config", None) is text_model.config
    ]
    for layer in layers:
        layer.config, layer.encoder_config = guided, text_model.config
    return bool(layers)


@torch.no_grad()
def check_text_encoder(
    text_model: PreTrainedModel, encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """See that a model represents each token in the light of all real ones of its post, and of nothing else.

    Args:
        text_model (`PreTrainedModel`): The model. Before it has weights, its kind alone is looked at.
        encode (`Callable`): Calls it as its owner does: returns states `(batch_size, num_tokens, hidden_size)` for ids
            and a bool mask of real tokens, both `(batch_size, num_tokens)`.

    Raises:
        ValueError: if it does not; names the encoders that do.
    """
    config = text_model.config
    expected = f"Expected an encoder such as {', '.join(TEXT_BACKBONES)}."
    if getattr(config, "is_decoder", False):
        raise ValueError(
            "`text_config` has `is_decoder=True`, which hides from each word those that follow. Expected an encoder: "
            "set `is_decoder=False`."
        )
    if config.is_encoder_decoder or any(getattr(module, "is_causal", False) for module in text_model.modules()):
        raise ValueError(f"`text_config` of type {config.model_type!r} is or has a decoder. {expected}")
    pad_token_id = getattr(config, "pad_token_id", None)
    known = [number for number in range(min(8, getattr(config, "vocab_size", 8))) if number != pad_token_id]
    if len(known) < 2 or any(weight.is_meta or not weight.numel() for weight in text_model.parameters()):
        return
    # Two posts that differ in their last token, once with it and once with that token as padding.
    ids = torch.tensor([[known[0]] * 3, [known[0], known[0], known[1]]], device=text_model.device)
    was_training = text_model.training
    text_model.eval()
    try:
        pairs = [encode(ids, torch.tensor([[True, True, last]] * 2, device=ids.device)) for last in (True, False)]
    except (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"`text_config` of type {config.model_type!r} reads no text: {error}. {expected}") from error
    finally:
        text_model.train(was_training)
    if any(states.shape != (2, 3, config.hidden_size) for states in pairs):
        raise ValueError(f"`text_config` of type {config.model_type!r} gives no vector for each token. {expected}")
    of_word, of_padding = ((states[0, 0] - states[1, 0]).float().abs().max().item() for states in pairs)
    if of_word == 0:
        raise ValueError(
            f"`text_config` of type {config.model_type!r} hides from each word those that follow. {expected}"
        )
    if of_padding > LEAST_LEAK * of_word:
        raise ValueError(
            f"`text_config` of type {config.model_type!r} reads padding, so that a post's tags would depend on the "
            f"posts beside it. {expected}"
        )


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
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        cause = error
    text_model.train(was_training)
    if cause is not None or keys.asked != set(range(config.num_hidden_layers)):
        raise ValueError(
            f"`text_config` of type {config.model_type!r} can't be guided by images: its attention layers reached "
            f"{len(keys.asked)} of {config.num_hidden_layers} image keys. Expected an encoder whose layers use "
            f"transformers' attention interface, such as {', '.join(TEXT_BACKBONES)}."
        ) from cause


AttentionInterface.register(GUIDED_ATTENTION, guided_attention_forward)


class SMCLAttention(nn.Module):
    """Multi-head attention of one sequence over another, without an output projection.

    Args:
        hidden_size (`int`): Width of both sequences.
        num_heads (`int`): Number of heads.
        dropout (`float`): Dropout of the weights.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {hidden_size}, {num_heads}."
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, queries: torch.Tensor, states: torch.Tensor, mask: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend.

        Args:
            queries (`torch.Tensor` of shape `(batch_size, num_queries, hidden_size)`): Who asks.
            states (`torch.Tensor` of shape `(batch_size, num_states, hidden_size)`): Who is asked.
            mask (`torch.BoolTensor` of shape `(batch_size, num_states)`): `True` marks the states that count.
            output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the weights.

        Returns:
            Attended values `(batch_size, num_queries, hidden_size)`, exactly 0 where no state counts, and the
            weights `(batch_size, num_heads, num_queries, num_states)` or `None`.
        """
        # shape: (batch_size, num_heads, length, head_size)
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.query, queries), (self.key, states), (self.value, states))
        )
        has_state = mask.any(dim=1)[:, None, None]
        # A row that may attend to nothing is NaN in some kernels: let it attend to padding and drop the result.
        attended = (mask[:, None, :] | ~has_state)[:, None]
        dropout = self.dropout if self.training else 0.0
        weights = None
        if output_attentions:
            output, weights = weighted_attention(query, key, value, attended, query.shape[-1] ** -0.5, dropout)
            weights = weights * has_state[:, None]
        else:
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=attended, dropout_p=dropout)
        output = output.transpose(1, 2).flatten(2)
        return torch.where(has_state, output, torch.zeros_like(output)), weights


class SMCLOrderedAttention(SMCLAttention):
    """Attention of one head in which the k-th query that looks for a state tends to find the k-th that is looked for.

    Scores are cosines times `SHARPNESS`: without bounds all grow large together, and no order is learned.

    Args:
        hidden_size (`int`): Width of both sequences.
        max_states (`int`): Largest number of states.
        dropout (`float`): Dropout of the weights.
    """

    def __init__(self, hidden_size: int, max_states: int, dropout: float):
        super().__init__(hidden_size, 1, dropout)
        self.max_states = max_states

    def forward(
        self,
        queries: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
        output_attentions: bool = False,
        *,
        query_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend; see [`SMCLAttention.forward`]. `query_mask` `(batch_size, num_queries)` is `True` at real queries."""
        query, key, value = self.query(queries), self.key(states), self.value(states)
        exact = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(query.device.type, enabled=False):
            query, key = (F.normalize(x.to(exact), dim=-1) for x in (query, key))
            scores = SHARPNESS * query @ key.transpose(1, 2)
            scores = in_order_scores(scores, query_mask, mask, self.max_states)
            # What a padded token has in front of it is impossible throughout: it, too, sees real images alone.
            scores = scores.masked_fill(~mask[:, None], torch.finfo(exact).min)
            weights = scores.softmax(dim=-1).to(value.dtype)
        weights = weights * mask.any(dim=1)[:, None, None]
        output = F.dropout(weights, self.dropout, self.training) @ value
        return output, weights[:, None] if output_attentions else None


class SMCLFeedForward(nn.Module):
    """Two linear layers with GELU between, four times as wide inside, as in BERT and ViT."""

    def __init__(self, hidden_size: int, dropout: float):
        super().__init__()
        self.expand = nn.Linear(hidden_size, 4 * hidden_size)
        self.contract = nn.Linear(4 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(..., hidden_size)` to the same shape."""
        return self.dropout(self.contract(F.gelu(self.expand(x))))


class SMCLTransformerLayer(nn.Module):
    """A post-norm transformer encoder layer."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention = SMCLAttention(hidden_size, num_heads, dropout)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = SMCLFeedForward(hidden_size, dropout)
        self.output_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Relate the `(batch_size, length, hidden_size)` states whose `(batch_size, length)` mask is `True`."""
        attended, _ = self.attention(x, x, mask)
        x = self.attention_norm(x + self.dropout(self.output(attended)))
        return self.output_norm(x + self.feed_forward(x))


class SMCLImageRelations(nn.Module):
    """Temporal positions and the relations between the images of a post (Sec. 3.3.2-3.3.3)."""

    def __init__(self, config: SMCLConfig):
        super().__init__()
        vision = config.vision_config
        self.position_embeddings = nn.Parameter(torch.empty(config.max_images, vision.hidden_size))
        self.layers = nn.ModuleList(
            SMCLTransformerLayer(vision.hidden_size, vision.num_attention_heads, config.dropout)
            for _ in range(config.num_image_layers)
        )

    def forward(self, image_embeds: torch.Tensor, image_mask: torch.Tensor) -> torch.Tensor:
        """Return G `(batch_size, num_images, hidden_size)` from V of the same shape, 0 at padding."""
        x = image_embeds + self.position_embeddings[: image_embeds.shape[1]]
        for layer in self.layers:
            x = layer(x, image_mask)
        return x * image_mask[..., None]


class SMCLModalityEncoders(nn.Module):
    """Alignment and refinement encoders (Eq. 6-9): one ReLU layer shared by both modalities, one for each."""

    def __init__(self, config: SMCLConfig):
        super().__init__()
        hidden_size, vision_size = config.text_config.hidden_size, config.vision_config.hidden_size
        if vision_size != hidden_size:
            self.image_projection = nn.Linear(vision_size, hidden_size)
        self.alignment = self.refinement = self.projection = None
        if config.use_alignment:
            self.alignment = nn.Linear(hidden_size, hidden_size)
        if config.use_refinement:
            self.refinement = nn.ModuleDict(
                {modality: nn.Linear(hidden_size, hidden_size) for modality in ("text", "image")}
            )
        if not (config.use_alignment or config.use_refinement):
            self.projection = nn.Linear(hidden_size, hidden_size)

    def project(self, image_states: torch.Tensor) -> torch.Tensor:
        """Bring G `(batch_size, num_images, vision_hidden_size)` to the width of text, where it has another one."""
        return self.image_projection(image_states) if hasattr(self, "image_projection") else image_states

    def forward(self, states: torch.Tensor, modality: str) -> dict[str, torch.Tensor]:
        """Encode the states of one modality.

        Args:
            states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): H, or G as `project` returns it.
            modality (`str`): `"text"` or `"image"`.

        Returns:
            `dict` with `"shared"` and `"specific"`, as far as they are switched on, or else `"projected"`; each of
            shape `(batch_size, length, hidden_size)`.
        """
        streams = {}
        if self.alignment is not None:
            streams["shared"] = self.alignment(states).relu()
        if self.refinement is not None:
            streams["specific"] = self.refinement[modality](states).relu()
        if self.projection is not None:
            streams["projected"] = self.projection(states).relu()
        return streams


class SMCLUnion(nn.Module):
    """Join the streams of one modality: P_o = sigmoid(FC_o([P_o^a ; P_o^r])) (Eq. 12)."""

    def __init__(self, config: SMCLConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.dense = nn.Linear(hidden_size * max(1, config.use_alignment + config.use_refinement), hidden_size)

    def forward(self, streams: list[torch.Tensor]) -> torch.Tensor:
        """Map the streams, each `(batch_size, length, hidden_size)`, to one of the same shape."""
        return self.dense(torch.cat(streams, dim=-1)).sigmoid()


class SMCLSymmetricFusion(nn.Module):
    """Enhance each modality by itself, let images query tokens and tokens query those images (Eq. 10-15).

    As printed, Eq. 13-15 end in one vector for each image, but the CRF needs one for each token: the second attention
    is the mirror image of the first. The residuals keep tokens apart that see the same single image. P_t leaves a
    sigmoid with a small variance, so that the attended images, of variance 1, would drown what the words say: it is
    normalised first. What is known of an image need not pass through all the new layers: tokens attend to G, too. And
    images have an order in time, as names have: tokens attend to them in order ([`SMCLOrderedAttention`]). Nothing of
    this is so where it is wanted `as_printed`.
    """

    def __init__(self, config: SMCLConfig):
        super().__init__()
        hidden_size, dropout = config.text_config.hidden_size, config.dropout
        self.layers = nn.ModuleList(
            SMCLTransformerLayer(hidden_size, config.text_config.num_attention_heads, dropout)
            for _ in range(config.num_fusion_layers)
        )
        self.unions = nn.ModuleDict({modality: SMCLUnion(config) for modality in ("text", "image")})
        is_raw = config.prints("union")
        self.union_norm = nn.Identity() if is_raw else nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.image_to_text = SMCLAttention(hidden_size, 1, dropout)
        self.image_norm = nn.LayerNorm(hidden_size)
        self.state_norm = None if config.prints("images") else nn.LayerNorm(hidden_size, elementwise_affine=False)
        ordered = SMCLOrderedAttention(hidden_size, config.max_images, dropout)
        self.text_to_image = SMCLAttention(hidden_size, 1, dropout) if config.prints("order") else ordered
        self.text_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = SMCLFeedForward(hidden_size, dropout)
        self.output_norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def enhance(self, streams: dict[str, torch.Tensor], mask: torch.Tensor, modality: str) -> torch.Tensor:
        """Return P_o `(batch_size, length, hidden_size)` of one modality (Eq. 10-12)."""
        x = torch.cat(list(streams.values()))
        for layer in self.layers:
            x = layer(x, mask.repeat(len(streams), 1))
        return self.unions[modality](list(x.chunk(len(streams))))

    def forward(
        self,
        text: dict[str, torch.Tensor],
        text_mask: torch.Tensor,
        images: dict[str, torch.Tensor] | None = None,
        image_mask: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Fuse the streams of [`SMCLModalityEncoders`].

        Args:
            text (`dict` of `torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`): Text streams.
            text_mask (`torch.BoolTensor` of shape `(batch_size, num_tokens)`): `True` marks a real token.
            images (`dict` of `torch.Tensor` of shape `(batch_size, num_images, hidden_size)`, *optional*): Image
                streams; `None` where the batch has no image.
            image_mask (`torch.BoolTensor` of shape `(batch_size, num_images)`, *optional*): `True` = real image.
            image_states (`torch.Tensor` of shape `(batch_size, num_images, hidden_size)`, *optional*): G, projected;
                comes with `images`.
            output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the weights.

        Returns:
            Hyper `(batch_size, num_tokens, hidden_size)` and the `fusion_attentions` or `None`.
        """
        x = self.union_norm(self.enhance(text, text_mask, "text"))
        attentions = None
        attended = torch.zeros_like(x)
        if images is not None:
            y = self.enhance(images, image_mask, "image")
            reply, over_tokens = self.image_to_text(y, x, text_mask, output_attentions)
            y = self.image_norm(y + reply)
            if self.state_norm is not None:
                y = y + self.state_norm(image_states)
            order = {"query_mask": text_mask} if isinstance(self.text_to_image, SMCLOrderedAttention) else {}
            attended, over_images = self.text_to_image(x, y, image_mask, output_attentions, **order)
            if output_attentions:
                attentions = (over_tokens.squeeze(1), over_images.squeeze(1))
        x = self.text_norm(x + attended)
        return self.output(self.output_norm(x + self.feed_forward(x))), attentions


class SMCLConcatenation(nn.Module):
    """What replaces the symmetric fusion in its ablation: one transformer layer over [P_t; P_i]."""

    def __init__(self, config: SMCLConfig):
        super().__init__()
        self.unions = nn.ModuleDict({modality: SMCLUnion(config) for modality in ("text", "image")})
        hidden_size, num_heads = config.text_config.hidden_size, config.text_config.num_attention_heads
        self.layer = SMCLTransformerLayer(hidden_size, num_heads, config.dropout)

    def forward(
        self,
        text: dict[str, torch.Tensor],
        text_mask: torch.Tensor,
        images: dict[str, torch.Tensor] | None = None,
        image_mask: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, None]:
        """See [`SMCLSymmetricFusion.forward`]; there are no attentions between the modalities to return."""
        x = self.unions["text"](list(text.values()))
        num_tokens = x.shape[1]
        if images is not None:
            y = self.unions["image"](list(images.values()))
            x, text_mask = torch.cat([x, y], dim=1), torch.cat([text_mask, image_mask], dim=1)
        return self.layer(x, text_mask)[:, :num_tokens], None


__all__ = [
    "TEXT_ATTENTIONS",
    "ImageGuidance",
    "SMCLAttention",
    "SMCLConcatenation",
    "SMCLImageGuidance",
    "SMCLImageRelations",
    "SMCLModalityEncoders",
    "SMCLOrderedAttention",
    "SMCLSymmetricFusion",
    "SMCLTransformerLayer",
    "SMCLUnion",
    "check_text_backbone",
    "check_text_encoder",
    "guide_attention",
    "guided_attention_forward",
    "image_key_mask",
    "weighted_attention",
]

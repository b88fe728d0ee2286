"""The layers that join images and text (Sec. 3.3, Eq. 6-15): relations of images, alignment, refinement, fusion."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_smcl import SMCLConfig
from .guidance_smcl import weighted_attention

# The logarithm of no weight at all, small enough to vanish beside any score and finite, so that sums stay numbers.
IMPOSSIBLE = -1e4


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


def _earlier_pairs(scores: torch.Tensor) -> torch.Tensor:
    """Sum, in logarithms, over all ways to match the queries and states in front of each pair, as `in_order_scores`."""
    # shape: (batch_size, num_queries), of those states that stand in front
    ways = [torch.zeros_like(scores[:, :, 0])]
    for column in scores[:, :, :-1].unbind(-1):
        until = (column + ways[-1]).logcumsumexp(dim=1)
        ways.append(torch.logaddexp(ways[-1], F.pad(until[:, :-1], (1, 0), value=IMPOSSIBLE)))
    return torch.stack(ways, dim=-1)


def in_order_scores(
    scores: torch.Tensor, query_mask: torch.Tensor, state_mask: torch.Tensor, max_states: int
) -> torch.Tensor:
    """Score each pair of query and state by all ways to match both one to one and in order. Beyond the paper.

    A way is a set of pairs, of any size, in which nobody stands twice and the later query has the later state. Its
    weight is the exponential of the sum of its scores. A pair's new score is the logarithm of the summed weights of all
    ways that have the pair.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_queries, num_states)`): The scores, in float32 or better.
        query_mask (`torch.BoolTensor` of shape `(batch_size, num_queries)`): `True` marks a real query.
        state_mask (`torch.BoolTensor` of shape `(batch_size, num_states)`): `True` marks a real state.
        max_states (`int`): Largest number of states.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_queries, num_states)`.
    """
    num_states = scores.shape[-1]
    scores = scores.masked_fill(~(query_mask[:, :, None] & state_mask[:, None, :]), IMPOSSIBLE)
    # A fixed number of steps, so that the loops below can be exported.
    scores = F.pad(scores, (0, max_states - num_states), value=IMPOSSIBLE)
    scores = scores + _earlier_pairs(scores) + _earlier_pairs(scores.flip(1, 2)).flip(1, 2)
    return scores[:, :, :num_states]


class SMCLOrderedAttention(SMCLAttention):
    """Attention of one head in which the k-th query that looks for a state tends to find the k-th that is looked for.

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
            scores = (query.to(exact) @ key.to(exact).transpose(1, 2)) * query.shape[-1] ** -0.5
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
        self.in_order = not config.prints("order")
        if self.in_order:
            self.text_to_image = SMCLOrderedAttention(hidden_size, config.max_images, dropout)
        else:
            self.text_to_image = SMCLAttention(hidden_size, 1, dropout)
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
            order = {"query_mask": text_mask} if self.in_order else {}
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


def real_image_indices(image_mask: torch.Tensor) -> torch.Tensor:
    """Tell where the real images are; on an accelerator, the host waits for their number.

    Args:
        image_mask (`torch.Tensor` of shape `(batch_size, num_images)`): `True` or 1 marks a real image.

    Returns:
        `torch.LongTensor` of shape `(num_real_images,)`: their places among all slots, post by post.
    """
    return image_mask.flatten().nonzero().squeeze(1)


def check_image_indices(image_indices: torch.Tensor, image_mask: torch.Tensor) -> None:
    """Raise a `ValueError` unless `image_indices` are the `real_image_indices` of `image_mask`; both on the CPU."""
    expected = real_image_indices(image_mask)
    if not torch.equal(image_indices, expected):
        raise ValueError(
            f"`image_indices` must be the places of the {len(expected)} real images of the batch, "
            f"{expected.tolist()}, got {image_indices.tolist()}. Call `real_image_indices` anew where batches are cut."
        )


def image_mask_like(features: torch.Tensor, image_mask: torch.Tensor) -> torch.Tensor:
    """Give a mask of images as many dimensions as their features `(batch_size, num_images, ...)` have."""
    return image_mask.reshape(*image_mask.shape, *[1] * (features.dim() - 2))


__all__ = [
    "SMCLAttention",
    "SMCLConcatenation",
    "SMCLImageRelations",
    "SMCLModalityEncoders",
    "SMCLOrderedAttention",
    "SMCLSymmetricFusion",
    "SMCLTransformerLayer",
    "SMCLUnion",
    "in_order_scores",
    "real_image_indices",
]

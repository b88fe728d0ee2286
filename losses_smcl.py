"""The regularisers of SMCL's objective as pure functions: CMD, soft orthogonality, and InfoNCE (Eq. 18-22).

With [`BatchShare`], they look at the posts of all processes that share a batch. Where a batch has real images is told
here, too.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.distributed as dist

# Inside the roots: a norm has no gradient at 0.
EPSILON = 1e-8


def as_it_is(x: torch.Tensor) -> torch.Tensor:
    """Return `x`: what a single process adds up or gathers."""
    return x


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of a vector, exactly 0 with gradient 0 at the zero vector."""
    return (x.square().sum() + EPSILON**2).sqrt() - EPSILON


def _central_moments(
    x: torch.Tensor, mask: torch.Tensor, count: torch.Tensor, order: int, total: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """Return the mean and the 2nd to `order`-th central moments over the `count` rows where `mask` is `True`."""
    weights = mask.to(x.dtype)[:, None] / count.clamp(min=1)
    mean = total((x * weights).sum(dim=0))
    # Of one process, a total carries no gradient to another's summands, so those must not depend on `mean`. Moments
    # about a constant in its place have the same values, and change by -k * moment_(k-1) for each unit of the mean.
    centre = mean.detach()
    centred = x - centre
    moments = [total((centred**k * weights).sum(dim=0)) for k in range(2, order + 1)]
    shift = mean - centre
    corrected = [m - k * below.detach() * shift for k, (below, m) in enumerate(pairwise(moments), start=3)]
    return [mean, *moments[:1], *corrected]


def central_moment_discrepancy(
    x: torch.Tensor,
    y: torch.Tensor,
    x_mask: torch.Tensor,
    y_mask: torch.Tensor,
    order: int = 3,
    total: Callable[[torch.Tensor], torch.Tensor] = as_it_is,
) -> torch.Tensor:
    """Compute the central moment discrepancy CMD_K between two samples in [0, 1] (Eq. 19).

    Args:
        x (`torch.Tensor` of shape `(num_x, hidden_size)`): First sample, coordinates in [0, 1].
        y (`torch.Tensor` of shape `(num_y, hidden_size)`): Second sample, coordinates in [0, 1].
        x_mask (`torch.BoolTensor` of shape `(num_x,)`): `True` marks the rows that count.
        y_mask (`torch.BoolTensor` of shape `(num_y,)`): `True` marks the rows that count.
        order (`int`, *optional*, defaults to 3): Highest moment K.
        total (`Callable`, *optional*): Adds a tensor up over the processes that share the samples, such as
            [`BatchShare.sum`]; by default there is one process.

    Returns:
        Scalar `torch.Tensor`, exactly 0 where either sample is empty. The factors 1 / |b - a|^k are 1 on [0, 1].
    """
    num_x, num_y = total(x_mask.sum()), total(y_mask.sum())
    moments_x = _central_moments(x, x_mask, num_x, order, total)
    moments_y = _central_moments(y, y_mask, num_y, order, total)
    distance = sum(_norm(moment_x - moment_y) for moment_x, moment_y in zip(moments_x, moments_y, strict=True))
    return torch.where((num_x > 0) & (num_y > 0), distance, torch.zeros_like(distance))


def real_image_indices(image_mask: torch.Tensor) -> torch.Tensor:
    """Tell where the real images are; on an accelerator, the host waits for their number.

    Args:
        image_mask (`torch.Tensor` of shape `(batch_size, num_images)`): `True` or 1 marks a real image.

    Returns:
        `torch.LongTensor` of shape `(num_real_images,)`: their places among all slots, post by post.
    """
    return image_mask.flatten().nonzero().squeeze(1)


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average over the second last dimension where `mask` is `True`.

    Args:
        x (`torch.Tensor` of shape `(..., length, hidden_size)`): Vectors.
        mask (`torch.BoolTensor` of shape `(..., length)`): `True` marks what counts.

    Returns:
        `torch.Tensor` of shape `(..., hidden_size)`, 0 where nothing counts.
    """
    weights = mask.to(x.dtype)[..., None]
    return (x * weights).sum(dim=-2) / weights.sum(dim=-2).clamp(min=1)


def _centred_unit_rows(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Centre the marked rows over the batch and scale them to length 1; the other rows become 0."""
    centred = (x - masked_mean(x, mask)) * mask.to(x.dtype)[:, None]
    return centred * (centred.square().sum(dim=-1, keepdim=True) + EPSILON).rsqrt()


def soft_orthogonality(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor, divide: bool = True) -> torch.Tensor:
    """Compute ||X^T Y||_F^2 / B^2 of row-wise paired vectors (Eq. 21).

    Rows are centred over the batch and scaled to length 1. Without the division the term grows with the square of
    the batch size and drowns the task loss; with it, it lies in [0, 1].

    Args:
        x (`torch.Tensor` of shape `(batch_size, hidden_size)`): One vector for each post.
        y (`torch.Tensor` of shape `(batch_size, hidden_size)`): Another one for each post.
        mask (`torch.BoolTensor` of shape `(batch_size,)`): `True` marks the posts that count.
        divide (`bool`, *optional*, defaults to `True`): Whether to divide by B^2, which the paper does not.

    Returns:
        Scalar `torch.Tensor`, exactly 0 where no post counts.
    """
    x, y = _centred_unit_rows(x, mask), _centred_unit_rows(y, mask)
    if x.shape[0] < x.shape[1]:
        # ||X^T Y||^2 = <X X^T, Y Y^T>: two B x B products instead of one d x d.
        product = ((x @ x.T) * (y @ y.T)).sum()
    else:
        product = (x.T @ y).square().sum()
    return product / mask.sum().clamp(min=1).square() if divide else product


def info_nce(
    x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor, temperature: float = 0.07, weight: float = 0.5
) -> torch.Tensor:
    """Compute the InfoNCE loss of paired vectors, both ways, with the other pairs of the batch as negatives.

    Args:
        x (`torch.Tensor` of shape `(batch_size, hidden_size)`): One vector for each post.
        y (`torch.Tensor` of shape `(batch_size, hidden_size)`): Its partner.
        mask (`torch.BoolTensor` of shape `(batch_size,)`): `True` marks the pairs that count.
        temperature (`float`, *optional*, defaults to 0.07): Divides the cosine similarities.
        weight (`float`, *optional*, defaults to 0.5): Share of the direction from `x` to `y`; the other has the rest.

    Returns:
        Scalar `torch.Tensor`, exactly 0 where fewer than two pairs count.
    """
    x, y = (v * (v.square().sum(dim=-1, keepdim=True) + EPSILON).rsqrt() for v in (x, y))
    similarity = x @ y.T / temperature
    lowest = torch.finfo(similarity.dtype).min
    weights = mask.to(similarity.dtype) / mask.sum().clamp(min=1)
    loss = similarity.new_zeros(())
    for direction, share in ((similarity, weight), (similarity.T, 1 - weight)):
        log_probability = direction.masked_fill(~mask[None, :], lowest).log_softmax(dim=-1).diagonal()
        loss = loss - (log_probability.masked_fill(~mask, 0) * weights).sum() * share
    return torch.where(mask.sum() > 1, loss, torch.zeros_like(loss))


class _Sum(torch.autograd.Function):
    """Sum over processes; back goes the gradient of the own summand, times a scale."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(scale)
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None


class BatchShare:
    """The posts that this process has of a batch, and what it needs to see the others'.

    Data-parallel training averages the gradients of processes. Two things make that the gradient of the whole batch's
    loss. What a process returns is multiplied by `weight`, so that each post counts the same, however many the
    processes have. And a loss that looks at all posts at once, computed from `sum` and `gather`, is the same in all
    processes, each of which sends gradients back through its own posts only: `sum` multiplies those by the number of
    all posts over that of its own, which undoes `weight` and the average. Nothing is exchanged on the way back, so
    processes whose posts have no image can't get out of step with others.

    All processes must build it, and call `sum` and `gather`, equally often.

    Args:
        num_posts (`int`): Posts of this process, at least 1.
        capacity (`int`): Most posts that any process has.
        device (`torch.device`): Device of the model.

    Raises:
        ValueError: if there are more posts than `capacity`, or none.
    """

    def __init__(self, num_posts: int, capacity: int, device: torch.device):
        if not 1 <= num_posts <= capacity:
            raise ValueError(f"Expected 1 to `capacity` = {capacity} posts in the batch of a process, got {num_posts}.")
        self.capacity = capacity
        self.process_index, self.num_processes = dist.get_rank(), dist.get_world_size()
        total = torch.tensor(float(num_posts), device=device)
        dist.all_reduce(total)
        # Tensors of shape (): reading their numbers would wait for the GPU.
        self.weight = num_posts * self.num_processes / total
        self.scale = total / num_posts

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over all processes.

        Args:
            x (`torch.Tensor`): Of the same shape in all processes. With gradients, it must not depend on another sum.

        Returns:
            `torch.Tensor` of that shape.
        """
        return _Sum.apply(x, self.scale)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Collect a row for each post from all processes.

        Args:
            x (`torch.Tensor` of shape `(num_posts, ...)`): Numbers of this process's posts.

        Returns:
            `torch.Tensor` of shape `(num_processes * capacity, ...)`: the rows of all, in the order of processes, each
            process's followed by zeros.
        """
        rows = x.new_zeros(self.num_processes, self.capacity, *x.shape[1:])
        rows[self.process_index, : len(x)] = x
        return self.sum(rows).flatten(0, 1)


def regularisers(
    shared: dict[str, torch.Tensor],
    specific: dict[str, torch.Tensor],
    masks: dict[str, torch.Tensor],
    cmd_order: int = 3,
    contrast: bool = False,
    share: BatchShare | None = None,
    squash: bool = True,
    divide: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute what the objective has besides the task (Eq. 18), each 0 where its part of the model is missing.

    Args:
        shared (`dict` of `torch.FloatTensor` of shape `(batch_size, length, hidden_size)`): U^a of `"text"` and
            `"image"`; empty without an alignment encoder.
        specific (`dict`): U^r, likewise; empty without refinement encoders.
        masks (`dict` of `torch.BoolTensor` of shape `(batch_size, length)`): `True` marks a real token or image.
        cmd_order (`int`, *optional*, defaults to 3): Highest central moment, K in Eq. 19.
        contrast (`bool`, *optional*, defaults to `False`): Whether to compute the contrastive loss.
        share ([`BatchShare`], *optional*): Shows the posts of other processes.
        squash (`bool`, *optional*, defaults to `True`): Whether CMD compares vectors that tanh takes to [0, 1), where
            it is defined, or raw ones, as printed.
        divide (`bool`, *optional*, defaults to `True`): See [`soft_orthogonality`].

    Returns:
        The similarity loss (Eq. 20), the difference loss (Eq. 22) and InfoNCE, each of shape `()`.
    """
    similarity = difference = contrastive = torch.zeros((), device=masks["text"].device)
    total, gather = (as_it_is, as_it_is) if share is None else (share.sum, share.gather)
    pooled_shared, pooled_specific = (
        {m: gather(masked_mean(x, masks[m])) for m, x in states.items()} for states in (shared, specific)
    )
    posts = {m: gather(mask.any(dim=1).float()).bool() for m, mask in masks.items()}
    if shared:
        # Squashed to [0, 1), where CMD is defined and its interval factors are 1; raw vectors have no interval.
        samples = [shared[m].flatten(0, 1) for m in masks]
        samples = [x.tanh() for x in samples] if squash else samples
        sample_masks = [mask.flatten() for mask in masks.values()]
        similarity = central_moment_discrepancy(*samples, *sample_masks, cmd_order, total)
        if contrast:
            contrastive = info_nce(pooled_shared["text"], pooled_shared["image"], posts["image"])
    for m in pooled_shared.keys() & pooled_specific.keys():
        difference = difference + soft_orthogonality(pooled_shared[m], pooled_specific[m], posts[m], divide)
    if specific:
        difference = difference + soft_orthogonality(*pooled_specific.values(), posts["image"], divide)
    return similarity, difference, contrastive


__all__ = [
    "BatchShare",
    "as_it_is",
    "central_moment_discrepancy",
    "info_nce",
    "masked_mean",
    "real_image_indices",
    "regularisers",
    "soft_orthogonality",
]

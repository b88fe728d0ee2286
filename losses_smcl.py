"""The regularisers of SMCL's objective as pure functions: CMD, soft orthogonality, and InfoNCE."""

from collections.abc import Callable
from itertools import pairwise

import torch

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


def soft_orthogonality(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute ||X^T Y||_F^2 / B^2 of row-wise paired vectors (Eq. 21).

    Rows are centred over the batch and scaled to length 1. Without the division the term grows with the square of
    the batch size and drowns the task loss; with it, it lies in [0, 1].

    Args:
        x (`torch.Tensor` of shape `(batch_size, hidden_size)`): One vector for each post.
        y (`torch.Tensor` of shape `(batch_size, hidden_size)`): Another one for each post.
        mask (`torch.BoolTensor` of shape `(batch_size,)`): `True` marks the posts that count.

    Returns:
        Scalar `torch.Tensor`, exactly 0 where no post counts.
    """
    x, y = _centred_unit_rows(x, mask), _centred_unit_rows(y, mask)
    if x.shape[0] < x.shape[1]:
        # ||X^T Y||^2 = <X X^T, Y Y^T>: two B x B products instead of one d x d.
        product = ((x @ x.T) * (y @ y.T)).sum()
    else:
        product = (x.T @ y).square().sum()
    return product / mask.sum().clamp(min=1).square()


def info_nce(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """Compute the symmetric InfoNCE loss of paired vectors with the other pairs of the batch as negatives.

    Args:
        x (`torch.Tensor` of shape `(batch_size, hidden_size)`): One vector for each post.
        y (`torch.Tensor` of shape `(batch_size, hidden_size)`): Its partner.
        mask (`torch.BoolTensor` of shape `(batch_size,)`): `True` marks the pairs that count.
        temperature (`float`, *optional*, defaults to 0.07): Divides the cosine similarities.

    Returns:
        Scalar `torch.Tensor`, exactly 0 where fewer than two pairs count.
    """
    x, y = (v * (v.square().sum(dim=-1, keepdim=True) + EPSILON).rsqrt() for v in (x, y))
    similarity = x @ y.T / temperature
    lowest = torch.finfo(similarity.dtype).min
    weights = mask.to(similarity.dtype) / mask.sum().clamp(min=1)
    loss = similarity.new_zeros(())
    for direction in (similarity, similarity.T):
        log_probability = direction.masked_fill(~mask[None, :], lowest).log_softmax(dim=-1).diagonal()
        loss = loss - (log_probability.masked_fill(~mask, 0) * weights).sum() / 2
    return torch.where(mask.sum() > 1, loss, torch.zeros_like(loss))


__all__ = ["as_it_is", "central_moment_discrepancy", "info_nce", "masked_mean", "soft_orthogonality"]

import math

import pytest
import torch

from smcl.losses_smcl import central_moment_discrepancy, info_nce, masked_mean, soft_orthogonality


def sample(rows, columns=5, seed=0) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everything(x) -> torch.Tensor:
    return torch.ones(len(x), dtype=torch.bool)


def slow_cmd(x, y, order) -> float:
    def mean(rows):
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def moments(rows):
        centre = mean(rows)
        powers = [
            mean([[(v - c) ** k for v, c in zip(row, centre, strict=True)] for row in rows])
            for k in range(2, order + 1)
        ]
        return [centre, *powers]

    return sum(math.dist(a, b) for a, b in zip(moments(x.tolist()), moments(y.tolist()), strict=True))


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_cmd_equals_its_definition(order):
    x, y = sample(7), sample(4, seed=1)
    cmd = central_moment_discrepancy(x, y, everything(x), everything(y), order)
    assert cmd.item() == pytest.approx(slow_cmd(x, y, order), abs=1e-7)


def test_cmd_of_equal_samples_is_zero_with_finite_gradient():
    x = sample(6).requires_grad_()
    cmd = central_moment_discrepancy(x, x.detach(), everything(x), everything(x))
    assert cmd.item() == 0
    cmd.backward()
    assert torch.isfinite(x.grad).all()


def test_cmd_ignores_masked_rows_and_is_zero_without_a_sample():
    x, y = sample(7), sample(4, seed=1)
    x_mask = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
    masked = central_moment_discrepancy(x, y, x_mask, everything(y))
    torch.testing.assert_close(masked, central_moment_discrepancy(x[x_mask], y, everything(x[x_mask]), everything(y)))
    assert central_moment_discrepancy(x, y, torch.zeros(7).bool(), everything(y)).item() == 0


def slow_orthogonality(x, y) -> float:
    def unit(rows):
        centred = rows - rows.mean(dim=0)
        return torch.stack([row / row.norm() for row in centred])

    product = unit(x).T @ unit(y)
    return sum(v**2 for v in product.flatten().tolist()) / len(x) ** 2


@pytest.mark.parametrize(("rows", "columns"), [(4, 9), (9, 4)])
def test_soft_orthogonality_equals_its_definition_both_ways_of_computing(rows, columns):
    x, y = sample(rows, columns), sample(rows, columns, seed=1)
    loss = soft_orthogonality(x, y, everything(x))
    assert loss.item() == pytest.approx(slow_orthogonality(x, y), rel=1e-5)
    assert 0 <= loss.item() <= 1


def test_soft_orthogonality_does_not_grow_with_the_batch():
    x, y = sample(6, 3), sample(6, 3, seed=1)
    once = soft_orthogonality(x, y, everything(x))
    twice = soft_orthogonality(x.repeat(2, 1), y.repeat(2, 1), everything(x).repeat(2))
    torch.testing.assert_close(once, twice)


def test_soft_orthogonality_ignores_masked_rows():
    x, y = sample(6), sample(6, seed=1)
    mask = torch.tensor([1, 0, 1, 1, 1, 0]).bool()
    torch.testing.assert_close(soft_orthogonality(x, y, mask), soft_orthogonality(x[mask], y[mask], mask[mask]))
    assert soft_orthogonality(x, y, torch.zeros(6).bool()).item() == 0


def test_info_nce_is_low_for_partners_and_zero_without_negatives():
    x = torch.eye(4)
    mask = torch.ones(4, dtype=torch.bool)
    assert info_nce(x, x, mask) < 0.01 < info_nce(x, x.roll(1, 0), mask)
    assert info_nce(x, x.roll(1, 0), torch.tensor([True, False, False, False])).item() == 0
    masked = torch.tensor([True, True, True, False])
    torch.testing.assert_close(info_nce(x, x.roll(1, 0), masked), info_nce(x[:3], x.roll(1, 0)[:3], masked[:3]))


def test_info_nce_weighs_its_two_directions():
    x, y = sample(4), sample(4, seed=1)
    both = [info_nce(x, y, everything(x), weight=weight) for weight in (1.0, 0.0, 0.7)]
    torch.testing.assert_close(info_nce(y, x, everything(x), weight=0.0), both[0])
    torch.testing.assert_close(0.7 * both[0] + 0.3 * both[1], both[2])


@pytest.mark.parametrize("loss", [central_moment_discrepancy, soft_orthogonality, info_nce])
def test_gradients_are_right(loss):
    x, y = sample(5, 3).requires_grad_(), sample(5, 3, seed=1).requires_grad_()
    mask = torch.tensor([1, 1, 0, 1, 1]).bool()
    masks = (mask, mask) if loss is central_moment_discrepancy else (mask,)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, *masks), (x, y), atol=1e-4)


def test_masked_mean_of_nothing_is_zero():
    x = torch.ones(2, 3, 4)
    means = masked_mean(x, torch.tensor([[True, True, False], [False, False, False]]))
    assert means.tolist() == [[1.0] * 4, [0.0] * 4]

"""Alignment losses against slow twins, known answers, and the sign of the reversed gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from warmstart.core import UsageError
from warmstart.objectives import (
    MMD_SCALES,
    conditional_features,
    coral_loss,
    domain_loss,
    mmd_loss,
    prediction_entropy,
    reversal_strength,
    reverse_gradient,
)


def rows(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return drawn.double() + shift


def slow_mmd(source: Tensor, target: Tensor) -> float:
    """Every pair in turn."""
    x, y = source.tolist(), target.tolist()

    def squared(a: list[float], b: list[float]) -> float:
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    both = x + y
    apart = [squared(a, b) for i, a in enumerate(both) for j, b in enumerate(both) if i != j]
    width = sum(apart) / len(apart)

    def kernel(a: list[float], b: list[float]) -> float:
        values = [math.exp(-squared(a, b) / (s * width)) for s in MMD_SCALES]
        return sum(values) / len(values)

    def mean(one: list[list[float]], other: list[list[float]]) -> float:
        return sum(kernel(a, b) for a in one for b in other) / (len(one) * len(other))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_mmd_against_a_slow_twin(shift: float) -> None:
    source, target = rows(7, 4, 0), rows(5, 4, 1, shift)
    assert mmd_loss(source, target).item() == pytest.approx(slow_mmd(source, target), abs=1e-5)


def test_mmd_known_answers() -> None:
    same = rows(6, 3, 2)
    assert mmd_loss(same, same.clone()).item() == pytest.approx(0.0, abs=1e-6)
    # One point against another at distance d under one kernel: 1 + 1 - 2 exp(-d² / b).
    zero, two = torch.zeros(1, 1), torch.full((1, 1), 2.0)
    found = mmd_loss(zero, two, scales=(1.0,), bandwidth=8.0).item()
    assert found == pytest.approx(2 - 2 * math.exp(-4 / 8))
    assert (
        mmd_loss(rows(50, 3, 3), rows(50, 3, 4, 5.0)).item()
        > 10 * mmd_loss(rows(50, 3, 3), rows(50, 3, 4)).item()
    )


def test_mmd_pulls_the_domains_together() -> None:
    """A step down the gradient lowers the distance of the means; equal rows give no nan."""
    source = torch.zeros(4, 2, requires_grad=True)
    target = torch.ones(4, 2)
    loss = mmd_loss(source, target)
    loss.backward()
    assert source.grad is not None
    assert torch.isfinite(source.grad).all()
    assert (source.grad < 0).all(), "moving towards the target lowers it"


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0.0,)}, {"bandwidth": 0.0}, {"scales": (-1.0, 1.0)}]
)
def test_mmd_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="scales and bandwidth must be above 0"):
        mmd_loss(torch.ones(2, 2), torch.ones(2, 2), **wrong)


def test_coral_against_a_slow_twin() -> None:
    source, target = rows(8, 3, 5), rows(6, 3, 6) * 2

    def covariance(values: Tensor) -> list[list[float]]:
        table = values.tolist()
        count, width = len(table), len(table[0])
        mean = [sum(row[k] for row in table) / count for k in range(width)]
        return [
            [sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in table) / (count - 1)
             for j in range(width)]
            for i in range(width)
        ]  # fmt: skip

    one, other = covariance(source), covariance(target)
    squared = sum((a - b) ** 2 for p, q in zip(one, other, strict=True)
                  for a, b in zip(p, q, strict=True))  # fmt: skip
    expected = squared / (4 * 3**2)
    assert coral_loss(source, target).item() == pytest.approx(expected, rel=1e-5)


def test_coral_known_answer() -> None:
    """Variances 2 and 8 along one axis: (8 - 2)² / 4 = 9; a shift of the mean costs nothing."""
    source = torch.tensor([[-1.0], [1.0]])
    assert coral_loss(source, 2 * source).item() == pytest.approx(9.0)
    assert coral_loss(source, source + 100).item() == pytest.approx(0.0, abs=1e-6)


def test_the_reversed_gradient_has_the_other_sign() -> None:
    value = torch.tensor([1.0, -2.0], requires_grad=True)
    out = reverse_gradient(value, 0.25)
    assert torch.equal(out, value)
    (out * torch.tensor([3.0, 5.0])).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [-0.75, -1.25]


def test_what_lies_before_the_reversal_climbs_the_loss_that_what_follows_descends() -> None:
    feature = torch.tensor([[0.5]], requires_grad=True)
    weight = torch.tensor([[2.0]], requires_grad=True)
    plain = torch.tensor([[0.5]], requires_grad=True)

    def loss(of: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
        return domain_loss((of(start) @ weight).squeeze(1), torch.zeros(1))

    loss(lambda x: x, plain).backward()
    assert weight.grad is not None
    straight = weight.grad.clone()
    weight.grad = None
    loss(lambda x: reverse_gradient(x, 1.0), feature).backward()
    assert torch.equal(weight.grad, straight), "the discriminator learns as ever"
    assert plain.grad is not None
    assert feature.grad is not None
    assert torch.equal(feature.grad, -plain.grad)


def test_the_schedule_of_the_reversal() -> None:
    assert reversal_strength(0.0) == 0.0
    assert reversal_strength(0.1) == pytest.approx(2 / (1 + math.exp(-1.0)) - 1)
    assert reversal_strength(0.5) == pytest.approx(0.9866142981514305)
    assert reversal_strength(1.0, highest=0.3) == pytest.approx(0.3 * 0.9999092042625951)
    steps = [reversal_strength(p / 50) for p in range(51)]
    assert steps == sorted(steps)


def test_conditional_features_are_the_outer_product() -> None:
    features, proba = rows(3, 4, 7), torch.softmax(rows(3, 2, 8), dim=1)
    found = conditional_features(features, proba)
    for b in range(3):
        expected = [proba[b, c].item() * features[b, h].item() for c in range(2) for h in range(4)]
        assert found[b].tolist() == pytest.approx(expected)


def test_random_maps_keep_inner_products_in_expectation() -> None:
    features, proba = rows(2, 5, 9), torch.softmax(rows(2, 3, 10), dim=1)
    whole = conditional_features(features, proba)
    exact = float(whole[0] @ whole[1])
    width = 200_000
    maps = (rows(5, width, 11), rows(3, width, 12))
    small = conditional_features(features, proba, maps)
    assert small.shape == (2, width)
    assert float(small[0] @ small[1]) == pytest.approx(exact, abs=0.05 * abs(exact) + 0.02)


def test_entropy_known_answers() -> None:
    proba = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    found = prediction_entropy(proba).tolist()
    assert found == pytest.approx([math.log(4), 0.0, math.log(2)], abs=1e-6)


def test_the_domain_loss_against_a_slow_twin() -> None:
    source, target = rows(5, 1, 13).squeeze(1), rows(3, 1, 14).squeeze(1)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 4.0], dtype=torch.float64)

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    first = sum(-w * math.log(sigmoid(z)) for z, w in zip(source.tolist(), weights.tolist(),
                                                          strict=True)) / 8  # fmt: skip
    second = sum(-math.log(1 - sigmoid(z)) for z in target.tolist()) / 3
    found = domain_loss(source, target, weights).item()
    assert found == pytest.approx((first + second) / 2, rel=1e-5)
    knows_nothing = domain_loss(torch.zeros(9), torch.zeros(2)).item()
    assert knows_nothing == pytest.approx(math.log(2))

"""Contrastive losses against slow twins, known answers and their own symmetries."""

from __future__ import annotations

import math

import pytest
import torch

from warmstart.core import UsageError
from warmstart.objectives import cosine_pair_loss, supervised_contrastive


def test_pair_loss_known_answers() -> None:
    east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    same, other = torch.tensor([True]), torch.tensor([False])
    assert cosine_pair_loss(east, 3 * east, same).item() == pytest.approx(0.0, abs=1e-6)
    assert cosine_pair_loss(east, 3 * east, other).item() == pytest.approx(1.0)
    assert cosine_pair_loss(east, north, same).item() == pytest.approx(1.0)
    assert cosine_pair_loss(east, north, other).item() == pytest.approx(0.0, abs=1e-6)
    assert cosine_pair_loss(east, -east, same).item() == pytest.approx(4.0)


def test_pair_loss_against_a_slow_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 7, 5, generator=generator)
    same = torch.tensor([1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)
    total = 0.0
    for a, b, target in zip(left.tolist(), right.tolist(), same.tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        total += (dot / norms - float(target)) ** 2
    assert cosine_pair_loss(left, right, same).item() == pytest.approx(total / 7, rel=1e-5)


def test_supervised_contrastive_known_answers() -> None:
    """Four equal vectors: every other row is as likely, so the loss is log 3."""
    ones = torch.ones(4, 3)
    labels = torch.tensor([0, 0, 1, 1])
    assert supervised_contrastive(ones, labels).item() == pytest.approx(math.log(3))
    lonely = torch.tensor([0, 1, 2, 3])
    assert supervised_contrastive(ones, lonely).item() == 0.0
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    expected = math.log(1 + 2 * math.exp(-2 / 0.5))
    found = supervised_contrastive(apart, labels, temperature=0.5).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_supervised_contrastive_against_a_slow_twin() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels = [0, 1, 0, 2, 1, 0]
    unit = [(v / v.norm()).tolist() for v in vectors]
    losses = []
    for i, mine in enumerate(labels):
        mates = [j for j, label in enumerate(labels) if j != i and label == mine]
        if not mates:
            continue
        score = {
            j: sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) / 0.3
            for j in range(6)
            if j != i
        }
        whole = math.log(sum(math.exp(s) for s in score.values()))
        losses.append(-sum(score[j] - whole for j in mates) / len(mates))
    found = supervised_contrastive(vectors, torch.tensor(labels), temperature=0.3)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 3]])
def test_gradients_are_finite(labels: list[int]) -> None:
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    supervised_contrastive(vectors, torch.tensor(labels)).backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="temperature must be above 0, got 0"):
        supervised_contrastive(torch.ones(2, 2), torch.tensor([0, 0]), temperature=0.0)

"""Judging without target labels: slow twins, known answers, and a risk that is found again."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from warmstart.core import Streams, UsageError
from warmstart.models import Head, HeadShape
from warmstart.shift import (
    Validators,
    deep_embedded_risk,
    soft_neighbourhood_density,
    weighted_risk,
)
from warmstart.shift.validators import bottleneck_features

from .domains import clusters, domains


def test_weighted_risk_known_answers() -> None:
    losses = np.array([1.0, 0.0, 2.0])
    assert weighted_risk(losses, np.ones(3)) == pytest.approx(1.0)
    assert weighted_risk(losses, np.array([0.0, 0.0, 5.0])) == pytest.approx(2.0)
    assert weighted_risk(losses, np.array([1.0, 2.0, 1.0])) == pytest.approx(3 / 4)


def test_weighted_risk_is_the_targets() -> None:
    """Losses x² on N(0, 1) weighed to N(1, 1): the target's mean of x² is 2."""
    x = np.random.default_rng(0).normal(size=100_000)
    weights = np.exp(x - 0.5)
    assert weighted_risk(x**2, weights) == pytest.approx(2.0, abs=0.06)
    assert deep_embedded_risk(x**2, weights) == pytest.approx(2.0, abs=0.06)


def test_the_control_variate_against_a_slow_twin() -> None:
    drawn = np.random.default_rng(1)
    losses, weights = drawn.uniform(size=9), drawn.uniform(0.2, 3, 9)
    products = [w * loss for w, loss in zip(weights.tolist(), losses.tolist(), strict=True)]
    mean_p, mean_w = sum(products) / 9, weights.sum() / 9
    covariance = (
        sum((p - mean_p) * (w - mean_w) for p, w in zip(products, weights, strict=True)) / 8
    )
    variance = sum((w - mean_w) ** 2 for w in weights) / 8
    eta = -covariance / variance
    expected = mean_p + eta * mean_w - eta
    assert deep_embedded_risk(losses, weights) == pytest.approx(expected)


def test_the_control_variate_known_answers() -> None:
    """A constant loss: the weights' chance cancels exactly. Equal weights: the plain mean."""
    weights = np.array([0.2, 0.9, 1.5, 4.0])
    assert deep_embedded_risk(np.full(4, 0.7), weights) == pytest.approx(0.7)
    losses = np.array([1.0, 0.0, 2.0, 5.0])
    assert deep_embedded_risk(losses, np.ones(4)) == pytest.approx(2.0)


def test_the_control_variate_lowers_the_variance() -> None:
    plain, damped = [], []
    for seed in range(200):
        x = np.random.default_rng(seed).normal(size=200)
        weights = np.exp(x - 0.5)
        losses = 1 + 0.1 * x
        plain.append(float((weights * losses).mean()))
        damped.append(deep_embedded_risk(losses, weights))
    assert np.var(damped) < 0.5 * np.var(plain)


def slow_density(proba: np.ndarray, temperature: float) -> float:
    rows = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in proba.tolist()]
    total = 0.0
    for i, mine in enumerate(rows):
        scores = [
            sum(a * b for a, b in zip(mine, other, strict=True)) / temperature
            for j, other in enumerate(rows)
            if j != i
        ]
        whole = math.log(sum(math.exp(s) for s in scores))
        total += -sum(math.exp(s - whole) * (s - whole) for s in scores)
    return total / len(rows)


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_neighbourhood_density_against_a_slow_twin(block: int) -> None:
    proba = np.random.default_rng(2).dirichlet([0.5, 0.5, 0.5], 11)
    found = soft_neighbourhood_density(proba, temperature=0.1, block=block)
    assert found == pytest.approx(slow_density(proba, 0.1), rel=1e-9)


def test_neighbourhood_density_known_answers() -> None:
    """All alike: every neighbour counts the same, log 9. Two far clusters of five: log 4."""
    alike = np.tile([0.9, 0.1], (10, 1))
    assert soft_neighbourhood_density(alike) == pytest.approx(math.log(9))
    apart = np.array([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5)
    assert soft_neighbourhood_density(apart) == pytest.approx(math.log(4), abs=1e-6)
    lonely = np.eye(4)
    assert soft_neighbourhood_density(lonely) == pytest.approx(math.log(3))
    with pytest.raises(UsageError, match="needs two rows"):
        soft_neighbourhood_density(alike[:1])
    with pytest.raises(UsageError, match="temperature above 0"):
        soft_neighbourhood_density(alike, temperature=0.0)


def test_bottleneck_features_are_what_the_output_reads() -> None:
    shape = HeadShape(dimension=6, classes=3, hidden=5)
    head = Head(shape, Streams(0)).eval()
    vectors = np.random.default_rng(3).normal(size=(7, 6)).astype(np.float32)
    features = bottleneck_features(head, vectors)
    assert features.shape == (7, 5)
    with torch.no_grad():
        logits = head.output(torch.from_numpy(features))
        expected = head(torch.from_numpy(vectors))
    torch.testing.assert_close(logits, expected)
    linear = Head(HeadShape(dimension=6, classes=3))
    np.testing.assert_array_equal(bottleneck_features(linear, vectors), vectors)


def oracle(angle: float) -> Head:
    """The best linear head for two clusters that are turned by that angle."""
    direction = np.zeros(6)
    direction[:2] = [np.cos(angle), np.sin(angle)]
    return Head.linear(np.stack([direction, -direction]) * 4, np.zeros(2))


def test_every_validator_prefers_the_head_that_fits_the_target() -> None:
    """The source holds upright clusters and a few turned ones; the target turned ones alone."""
    upright, _ = domains(900, 600, seed=4)
    turned, truth = clusters(600, seed=5, turn=np.pi / 3, move=2.0)
    more, labels = clusters(300, seed=11, turn=np.pi / 3, move=2.0)
    held, held_labels = clusters(150, seed=12, turn=np.pi / 3, move=2.0)
    rows = replace(
        upright,
        train_ND=np.concatenate([upright.train_ND, more]),
        labels_N=np.concatenate([upright.labels_N, labels]),
        ids_N=tuple(f"s{i}" for i in range(1200)),
        validation_MD=np.concatenate([upright.validation_MD, held]),
        labels_M=np.concatenate([upright.labels_M, held_labels]),
        target_UD=turned,
    )
    validators = Validators(rows, Streams(0))
    good, bad = validators.judge(oracle(np.pi / 3)), validators.judge(oracle(-np.pi / 6))
    assert good.weighted < bad.weighted
    assert good.embedded < bad.embedded
    assert good.neighbours > bad.neighbours
    assert (oracle(np.pi / 3).proba(rows.target_UD).argmax(1) == truth).mean() > 0.95
    assert 0 <= good.accuracy <= 1
    assert not validators.gap.tiny
    assert good.goodness() == {
        "weighted": -good.weighted, "embedded": -good.embedded, "neighbours": good.neighbours
    }  # fmt: skip

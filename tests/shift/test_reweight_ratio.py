"""Density ratios by a discriminator against a known ratio, and weights that can be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import Streams, UsageError
from warmstart.shift import (
    domain_ratio,
    effective_size,
    fit_domain_classifier,
    settle_weights,
)
from warmstart.shift.reweight_ratio import flatten_weights


def normals(count: int, mean: float, seed: int) -> np.ndarray:
    """Rows of N(mean, 1) in two dimensions of which the second is noise."""
    drawn = np.random.default_rng(seed)
    return np.stack([drawn.normal(mean, 1, count), drawn.normal(0, 1, count)], axis=1)


def known_ratio(rows: np.ndarray, mean: float) -> np.ndarray:
    """N(mean, 1) over N(0, 1) along the first axis: exp(mean · x - mean² / 2)."""
    return np.exp(mean * rows[:, 0] - mean**2 / 2)


def test_a_known_ratio_is_found() -> None:
    source, target = normals(3000, 0, 0), normals(2000, 1, 1)
    found, classifier, gap = domain_ratio(source, target, streams=Streams(0))
    true = known_ratio(source, 1.0)
    assert np.corrcoef(np.log(found), np.log(true))[0, 1] > 0.98
    assert found.mean() == pytest.approx(1.0, abs=0.15), "as many rows of either domain or not"
    fresh = normals(500, 0, 2)
    gaps = np.abs(np.log(classifier.ratio(fresh)) - np.log(known_ratio(fresh, 1.0)))
    assert gaps.mean() < 0.15
    # Two unit normals a distance 1 apart: the best error is Φ(-1/2) = 0.3085.
    assert gap.error == pytest.approx(0.3085, abs=0.02)
    assert gap.a_distance == pytest.approx(2 * (1 - 2 * gap.error))
    low, high = gap.interval
    assert low < 2 * (1 - 2 * 0.3085) < high
    assert not gap.tiny


def test_domains_that_are_one_cannot_be_told_apart() -> None:
    _, _, gap = domain_ratio(normals(600, 0, 3), normals(300, 0, 4), streams=Streams(0))
    assert gap.tiny
    assert gap.a_distance < 0.2


def test_a_row_is_weighed_by_a_classifier_that_has_not_seen_it() -> None:
    """With as many dimensions as rows a classifier knows its own rows by heart; held out not."""
    drawn = np.random.default_rng(5)
    source, target = drawn.normal(size=(60, 200)), drawn.normal(size=(60, 200))
    found, classifier, gap = domain_ratio(source, target, streams=Streams(0))
    assert gap.low < 0.5, "chance, within its interval"
    assert gap.high >= 0.5
    own = np.abs(np.log(classifier.ratio(source))).mean()
    assert np.log(classifier.ratio(source)).mean() < 0, "its own rows look like the source to it"
    assert abs(np.log(found).mean()) < own


def test_rows_beyond_the_limit_are_weighed_too() -> None:
    source, target = normals(400, 0, 6), normals(300, 1, 7)
    found, _, gap = domain_ratio(source, target, streams=Streams(0), most=100)
    assert found.shape == (400,)
    assert gap.n == 200
    assert np.corrcoef(np.log(found), source[:, 0])[0, 1] > 0.9
    again, _, _ = domain_ratio(source, target, streams=Streams(0), most=100)
    assert np.array_equal(found, again)


def test_the_classifier_counts_domains_alike() -> None:
    """Twice the target rows move the logit by log 2, which the ratio takes back."""
    source, target = normals(2000, 0, 8), normals(2000, 1, 9)
    once = fit_domain_classifier(source, target, l2=1e-4)
    twice = fit_domain_classifier(source, np.concatenate([target, target]), l2=1e-4)
    assert twice.bias - once.bias == pytest.approx(np.log(2), abs=0.02)
    np.testing.assert_allclose(twice.ratio(source[:50]), once.ratio(source[:50]), rtol=0.05)


def test_effective_size_known_answers() -> None:
    assert effective_size(np.ones(7)) == pytest.approx(7.0)
    assert effective_size(np.array([5.0, 0, 0, 0])) == pytest.approx(1.0)
    weights = [1.0, 2.0, 3.0]
    slow = sum(weights) ** 2 / sum(w * w for w in weights)
    assert effective_size(np.array(weights)) == pytest.approx(slow)
    assert effective_size(np.zeros(3)) == 0.0


def test_weights_are_clipped_and_brought_to_mean_one() -> None:
    ratios = np.array([1.0] * 98 + [0.0, 500.0])
    settled = settle_weights(ratios, highest=10.0, least_share=0.01)
    assert settled.values_N.mean() == pytest.approx(1.0)
    assert settled.clipped == 1
    assert settled.exponent == 1.0
    assert settled.values_N.max() / settled.values_N[0] == pytest.approx(
        10.0 * ratios.mean() / 1.0
    ), "the limit counts in units of the mean"
    assert settled.raw == pytest.approx(effective_size(ratios))
    assert settled.effective > settled.raw
    assert "1 rows clipped" in settled.sentence()


def test_weights_are_flattened_until_enough_rows_are_left() -> None:
    ratios = np.exp(np.random.default_rng(0).normal(0, 4, 500))
    settled = settle_weights(ratios, highest=400.0, least_share=0.3)
    assert settled.exponent < 1
    assert settled.effective == pytest.approx(150, rel=1e-6)
    assert settled.effective >= 150
    assert "flattening to the power" in settled.sentence()
    values = np.minimum(ratios / ratios.mean(), 400.0)
    slow = max(g / 1000 for g in range(1001) if effective_size(values ** (g / 1000)) >= 150)
    assert flatten_weights(values, 150) == pytest.approx(slow, abs=1e-3)


@pytest.mark.parametrize(
    ("ratios", "settings"),
    [
        ([1.0, -1.0], {}),
        ([0.0, 0.0], {}),
        ([1.0, np.inf], {}),
        ([1.0, np.nan], {}),
        ([1.0], {"highest": 1.0}),
        ([1.0], {"least_share": 0.0}),
        ([1.0], {"least_share": 1.5}),
    ],
)
def test_bad_weights_are_refused(ratios: list[float], settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="weights:"):
        settle_weights(np.array(ratios), **settings)

"""Sliced Wasserstein: SciPy's one-dimensional distance, closed forms, intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from warmstart.core import Streams
from warmstart.shift import sliced_wasserstein
from warmstart.shift.distance_sliced import _couple, _directions


def draw(n: int, d: int = 4, seed: int = 0, by: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) + by


def directions(d: int, count: int, seed: int = 0) -> np.ndarray:
    streams = Streams(seed).child("shift", "sliced")
    return _directions(d, count, streams.numpy("directions"))


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 47), (2, 9), (64, 48)])
def test_order_one_equals_scipy(n: int, m: int) -> None:
    x, y = draw(n), draw(m, seed=1, by=0.5)
    found = sliced_wasserstein(x, y, order=1, directions=7)
    by_scipy = np.mean([wasserstein_distance(x @ a, y @ a) for a in directions(4, 7).T])
    assert found.value == pytest.approx(by_scipy, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 18), (5, 7)])
def test_order_two_equals_its_plain_twin(n: int, m: int) -> None:
    """Every sorted value n m times over, so that both sides are equally long."""
    x, y = draw(n), draw(m, seed=1, by=0.5)
    squares = []
    for a in directions(4, 5).T:
        u, v = np.repeat(np.sort(x @ a), m), np.repeat(np.sort(y @ a), n)
        squares.append(sum((p - q) ** 2 for p, q in zip(u, v, strict=True)) / (n * m))
    found = sliced_wasserstein(x, y, directions=5)
    assert found.value == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-9)


def test_known_answer_of_a_translation() -> None:
    """A set moved by δ: W_2 along a is |a·δ|, whose mean square over directions is |δ|² / d."""
    x = draw(200, 3)
    found = sliced_wasserstein(x, x + np.array([3.0, 0.0, 4.0]), directions=4000)
    assert found.value == pytest.approx(5 / np.sqrt(3), rel=0.03)
    one = sliced_wasserstein(x[:, :1], x[:, :1] - 2.5, directions=3)
    assert one.value == pytest.approx(2.5)


def test_coupling_carries_all_mass_in_order() -> None:
    at_a, at_b, weight = _couple(4, 6)
    assert weight.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.bincount(at_a, weight), np.full(4, 1 / 4))
    np.testing.assert_allclose(np.bincount(at_b, weight), np.full(6, 1 / 6))
    assert (np.diff(at_a) >= 0).all()
    assert (np.diff(at_b) >= 0).all()


def test_lots_of_directions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.shift import distance_sliced

    x, y = draw(60), draw(50, seed=1, by=1.0)
    whole = sliced_wasserstein(x, y, directions=9, halves=4)
    monkeypatch.setattr(distance_sliced, "_CELLS", 250)
    part = sliced_wasserstein(x, y, directions=9, halves=4)
    assert part.value == pytest.approx(whole.value)
    assert part.interval == pytest.approx(whole.interval)
    assert part.halves == pytest.approx(whole.halves)


@pytest.mark.parametrize("by", [0.0, 0.8])
def test_intervals_hold_the_distance_of_the_populations(by: float) -> None:
    truth = by * np.sqrt((directions(2, 128).sum(axis=0) ** 2).mean())
    held = 0
    for i in range(60):
        found = sliced_wasserstein(draw(150, 2, 3 * i + 1), draw(150, 2, 3 * i + 2, by=by))
        assert found.interval is not None
        held += found.interval[0] <= truth <= found.interval[1]
    assert held >= 51


def test_the_yardstick_and_too_few_rows() -> None:
    x, y = draw(300), draw(200, seed=1, by=1.0)
    found = sliced_wasserstein(x, y, halves=20)
    assert found.halves is not None
    assert 0 < found.halves < 0.5 * found.value
    few = sliced_wasserstein(x[:3], y[:2], halves=5)
    assert few.interval is None
    assert few.halves is None
    assert sliced_wasserstein(x, x.copy()).value == 0.0

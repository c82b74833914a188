"""CORAL, Fréchet, mean and covariance: SciPy, plain twins, known answers, intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm

from warmstart.shift import coral, frechet, mean_covariance
from warmstart.shift.distance_moments import (
    Moments,
    _quick_frechet,
    _Sums,
    frechet_of,
    moment_distances,
)

VERBS = [coral, frechet, mean_covariance]


def draw(n: int, d: int = 6, seed: int = 0, by: float = 0.0, scale: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return scale * generator.standard_normal((n, d)) @ (np.eye(d) + 0.2) + by


def covariance(rows: np.ndarray) -> np.ndarray:
    """One entry after the other."""
    n, d = rows.shape
    means = [sum(rows[i, a] for i in range(n)) / n for a in range(d)]
    return np.array(
        [
            [
                sum((rows[i, a] - means[a]) * (rows[i, b] - means[b]) for i in range(n)) / (n - 1)
                for b in range(d)
            ]
            for a in range(d)
        ]
    )


@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 2), (30, 41, 4), (60, 25, 7)])
def test_they_equal_their_plain_twins(n: int, m: int, d: int) -> None:
    x, y = draw(n, d), draw(m, d, seed=1, by=0.5, scale=1.3)
    a, b = covariance(x), covariance(y)
    square = sum((a[i, j] - b[i, j]) ** 2 for i in range(d) for j in range(d))
    means = sum((x[:, i].mean() - y[:, i].mean()) ** 2 for i in range(d))
    assert coral(x, y).value == pytest.approx(square / (4 * d * d), rel=1e-9)
    found = mean_covariance(x, y)
    assert found.value == pytest.approx(means + square, rel=1e-9)
    assert found.parts == pytest.approx({"mean": means, "covariance": square}, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (2000, 1500, 20)])
def test_frechet_equals_scipy(n: int, m: int, d: int) -> None:
    x, y = draw(n, d), draw(m, d, seed=1, by=0.3, scale=1.4)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    means = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    by_scipy = means + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    found = frechet(x, y)
    assert found.value == pytest.approx(by_scipy, abs=1e-6)
    assert found.parts["mean"] == pytest.approx(means, rel=1e-9)


def test_frechet_of_fewer_rows_than_dimensions() -> None:
    """Singular covariances, by rows: tr (AB)^½ = Σ σ(X Yᵀ) / sqrt((n - 1) (m - 1))."""
    x, y = draw(9, 40), draw(12, 40, seed=1, by=0.2)
    u, v = x - x.mean(axis=0), y - y.mean(axis=0)
    cross = np.linalg.svd(u @ v.T, compute_uv=False).sum() / np.sqrt(8 * 11)
    traces = (u**2).sum() / 8 + (v**2).sum() / 11
    means = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    assert frechet(x, y).value == pytest.approx(means + traces - 2 * cross, abs=1e-6)


def test_frechet_known_answers() -> None:
    """Commuting covariances: Σ (√a - √b)²."""
    a = Moments(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    b = Moments(np.array([1.0, 0.0, 2.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_of(a, b) == pytest.approx({"mean": 5.0, "covariance": 1 + 0 + 4})
    assert frechet_of(a, a) == pytest.approx({"mean": 0.0, "covariance": 0.0})
    assert _quick_frechet(a, b) == pytest.approx(frechet_of(a, b), rel=1e-4)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_set_against_itself_is_zero(verb: Callable[..., Any]) -> None:
    x = draw(50)
    found = verb(x, x.copy())
    assert found.value == pytest.approx(0.0, abs=1e-9)
    assert found.interval[0] == 0.0
    assert verb(np.ones((9, 3)), np.ones((8, 3)), halves=4).value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_intervals_hold_the_distance_of_the_populations(verb: Callable[..., Any]) -> None:
    """Measured on 40,000 rows it is nearly that of the populations; 60 small samples hold it."""
    kinds: list[dict[str, float]] = [{"by": 0.5, "scale": 1.3}, {}]
    for settings in kinds:
        truth = verb(draw(20_000, 4), draw(20_000, 4, seed=1, **settings)).value if settings else 0
        held = 0
        for i in range(60):
            x, y = draw(150, 4, seed=2 * i), draw(150, 4, seed=2 * i + 1, **settings)
            low, high = verb(x, y, seed=i).interval
            held += low <= truth <= high
        assert held >= 51, settings


def test_one_pass_gives_the_same_as_three() -> None:
    x, y = draw(90), draw(70, seed=1, by=1.0)
    together = moment_distances(x, y, halves=5, seed=3)
    alone = (coral(x, y, halves=5, seed=3), frechet(x, y, halves=5, seed=3),
             mean_covariance(x, y, halves=5, seed=3))  # fmt: skip
    assert together == alone
    assert [one.name for one in together] == ["coral", "frechet", "mean_covariance"]


def test_group_sums_give_the_moments_of_their_rows() -> None:
    rows = draw(103, 3)
    sums = _Sums.of(rows, rows.mean(axis=0), np.random.default_rng(0))
    whole = sums.moments()
    np.testing.assert_allclose(whole.covariance_DD, np.cov(rows, rowvar=False), rtol=1e-10)
    assert sums.rows == 103
    assert sums.groups == 20
    turned = sums.turned(np.eye(3)[:, [2, 0]])
    np.testing.assert_allclose(
        turned.moments().covariance_DD, np.cov(rows[:, [2, 0]], rowvar=False), rtol=1e-10
    )


def test_the_spread_in_leading_directions_is_nearly_that_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from warmstart.shift import distance_moments

    generator = np.random.default_rng(0)
    scale = 0.6 ** np.arange(12)
    x, y = (
        generator.standard_normal((300, 12)) * scale,
        generator.standard_normal((300, 12)) * scale,
    )
    y[:, 0] += 1
    whole = frechet(x, y)
    monkeypatch.setattr(distance_moments, "_LEADING", 6)
    part = frechet(x, y)
    assert part.value == whole.value
    assert part.interval == pytest.approx(whole.interval, rel=0.03)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_the_yardstick_and_too_few_rows(verb: Callable[..., Any]) -> None:
    x, y = draw(400), draw(400, seed=1, by=2.0, scale=2.0)
    found = verb(x, y, halves=20)
    assert 0 < found.halves < 0.2 * found.value
    few = verb(x[:3], y[:3], halves=5)
    assert few.interval is None
    assert few.halves is None
    assert few.value > 0


def test_a_common_offset_does_not_matter() -> None:
    x, y = draw(100), draw(100, seed=1, by=0.3)
    for verb in VERBS:
        assert verb(x + 1e4, y + 1e4).value == pytest.approx(verb(x, y).value, rel=1e-6)

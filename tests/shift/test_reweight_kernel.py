"""KLIEP and KMM against plain solvers, and on a known ratio."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from warmstart.core import Streams, UsageError
from warmstart.shift import fit_kliep, kernel_mean_matching, median_width, principal
from warmstart.shift.reweight_kernel import _mixture, _project


def normals(count: int, mean: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, (count, 1))


def slow_kernel(one: np.ndarray, other: np.ndarray, width: float) -> np.ndarray:
    return np.array([[np.exp(-sum((a - b) ** 2) / (2 * width**2)) for b in other] for a in one])


def test_kliep_against_a_plain_solver() -> None:
    """The same concave problem by sequential quadratic programming."""
    source, target = normals(40, 0, 0), normals(25, 0.7, 1)
    fitted = fit_kliep(source, target, streams=Streams(0), centres=8, widths=[0.8])
    on_target = slow_kernel(target, fitted.centres_LK, 0.8)
    means = slow_kernel(source, fitted.centres_LK, 0.8).mean(axis=0)

    def value(alphas: np.ndarray) -> float:
        return -float(np.log(np.maximum(on_target @ alphas, 1e-12)).mean())

    found = minimize(
        value, np.full(8, 1 / means.sum()), method="SLSQP", bounds=[(0, None)] * 8,
        constraints={"type": "eq", "fun": lambda alphas: means @ alphas - 1},
        options={"ftol": 1e-12, "maxiter": 1000},
    )  # fmt: skip
    assert means @ fitted.alphas_L == pytest.approx(1.0)
    assert (fitted.alphas_L >= 0).all()
    assert value(fitted.alphas_L) == pytest.approx(found.fun, abs=1e-4)
    assert fitted.gap <= 1.1e-4


def test_kliep_finds_a_known_ratio() -> None:
    source, target = normals(2000, 0, 2), normals(1500, 0.5, 3)
    fitted = fit_kliep(source, target, streams=Streams(0))
    found, true = fitted.ratio(source), np.exp(0.5 * source[:, 0] - 0.125)
    assert found.mean() == pytest.approx(1.0, abs=1e-6), "the constraint holds on the source"
    assert np.abs(found - true).mean() < 0.15
    assert np.corrcoef(found, true)[0, 1] > 0.95
    assert fitted.width == max(fitted.scores, key=lambda width: fitted.scores[width])
    assert len(fitted.scores) > 3


def test_the_mixture_never_falls_and_its_gap_bounds_what_is_missing() -> None:
    kernel = np.random.default_rng(4).uniform(0.01, 1, (30, 6))
    short, short_gap = _mixture(kernel, rounds=3)
    long, long_gap = _mixture(kernel, rounds=5000, within=1e-9)

    def value(shares: np.ndarray) -> float:
        return float(np.log(kernel @ shares).mean())

    assert value(long) >= value(short)
    assert value(long) - value(short) <= short_gap
    assert long_gap < 1e-6
    assert long.sum() == pytest.approx(1.0)


def test_a_target_row_that_no_kernel_reaches_does_no_harm() -> None:
    target = np.concatenate([normals(30, 0, 5), [[1e4]]])
    fitted = fit_kliep(normals(50, 0, 6), target, streams=Streams(1), widths=[0.5], centres=10)
    assert np.isfinite(fitted.alphas_L).all()


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_kmm_against_a_plain_solver(ridge: float) -> None:
    """The same quadratic program by a general solver, under the same constraints."""
    source, target = normals(18, 0, 7), normals(30, 0.8, 8)
    n, width, highest, slack = 18, 0.9, 5.0, 0.2
    kernel = slow_kernel(source, source, width)
    pull = n * slow_kernel(source, target, width).mean(axis=1)
    kernel, pull = kernel + ridge * np.eye(n), pull + ridge

    def value(beta: np.ndarray) -> float:
        return 0.5 * float(beta @ kernel @ beta) - float(pull @ beta)

    found = minimize(
        value, np.ones(n), jac=lambda beta: kernel @ beta - pull, method="SLSQP",
        bounds=[(0, highest)] * n,
        constraints=[
            {"type": "ineq", "fun": lambda beta: n * slack - (beta.sum() - n)},
            {"type": "ineq", "fun": lambda beta: n * slack + (beta.sum() - n)},
        ],
        options={"ftol": 1e-14, "maxiter": 2000},
    )  # fmt: skip
    ours = kernel_mean_matching(
        source, target, width=width, highest=highest, slack=slack, ridge=ridge,
        streams=Streams(0), rounds=200_000, within=1e-10,
    )  # fmt: skip
    assert ours.min() >= 0
    assert ours.max() <= highest + 1e-9
    assert abs(ours.sum() - n) <= n * slack + 1e-6
    assert value(ours) <= found.fun + 1e-5


def test_kmm_brings_the_means_together() -> None:
    source, target = normals(600, 0, 9), normals(500, 0.6, 10)
    width = median_width(np.concatenate([source, target]), streams=Streams(0))
    weights = kernel_mean_matching(source, target, width=width, streams=Streams(0))
    true = np.exp(0.6 * source[:, 0] - 0.18)
    assert np.corrcoef(weights, true)[0, 1] > 0.9
    moved = float((weights @ source)[0] / weights.sum())
    assert abs(moved - target.mean()) < 0.1 < abs(source.mean() - target.mean())
    parts = kernel_mean_matching(source, target, width=width, streams=Streams(0), block=200)
    assert parts.shape == (600,)
    assert np.corrcoef(parts, true)[0, 1] > 0.85


def test_the_projection_is_the_nearest_feasible_point() -> None:
    drawn = np.random.default_rng(11)
    for _ in range(10):
        values = drawn.normal(1, 2, 6)
        mine = _project(values, 3.0, 5.0, 7.0)
        found = minimize(
            lambda beta, at=values: float(((beta - at) ** 2).sum()), np.ones(6), method="SLSQP",
            bounds=[(0, 3.0)] * 6,
            constraints=[{"type": "ineq", "fun": lambda beta: beta.sum() - 5.0},
                         {"type": "ineq", "fun": lambda beta: 7.0 - beta.sum()}],
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        np.testing.assert_allclose(mine, found.x, atol=1e-4)


def test_principal_directions_keep_what_tells_the_domains_apart() -> None:
    drawn = np.random.default_rng(12)
    source, target = drawn.normal(size=(50, 30)) * 0.1, drawn.normal(size=(40, 30)) * 0.1
    target[:, 3] += 5
    one, other = principal(source, target, 2)
    assert one.shape == (50, 2)
    assert other.shape == (40, 2)
    assert abs(one[:, 0].mean() - other[:, 0].mean()) > 2
    both = np.concatenate([one, other])
    assert both.var(axis=0).mean() == pytest.approx(1.0)
    assert principal(source, target, 1000)[0].shape == (50, 30)


def test_median_width_known_answer() -> None:
    rows = np.array([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    assert median_width(rows, streams=Streams(0)) == pytest.approx(2.0)
    assert median_width(np.zeros((5, 2)), streams=Streams(0)) > 0


def test_bad_settings_are_refused() -> None:
    rows = normals(10, 0, 13)
    with pytest.raises(UsageError, match="centres must be at least 1"):
        fit_kliep(rows, rows, streams=Streams(0), centres=0)
    with pytest.raises(UsageError, match="widths above 0"):
        fit_kliep(rows, rows, streams=Streams(0), widths=[0.0])
    for wrong in ({"width": 0.0}, {"highest": 1.0}, {"slack": 1.0}, {"block": 1}, {"ridge": -1.0}):
        settings = {"width": 1.0, **wrong}
        with pytest.raises(UsageError, match=r"kmm: (width must be above 0|ridge must be)"):
            kernel_mean_matching(rows, rows, streams=Streams(0), **settings)

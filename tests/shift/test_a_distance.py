"""Proxy A-distance: scikit-learn's cross-validated classifier, known answers, bad rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from warmstart.core import DataError
from warmstart.shift import domain_scores, proxy_a_distance
from warmstart.shift.a_distance import _Rows
from warmstart.shift.a_distance_solver import Preconditioner, hessian, logistic, solve_many


def draw(n: int, d: int = 6, seed: int = 0, by: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) + by


def reference(x: np.ndarray, y: np.ndarray, folds: np.ndarray, c: float = 1.0) -> float:
    """scikit-learn on the same folds, solved to the end."""
    rows, side = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    solver = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, class_weight="balanced")
    said = cross_val_predict(solver, rows, side, cv=PredefinedSplit(folds))
    rates = [(said != side)[side == one].mean() for one in (0, 1)]
    return 2 * (1 - 2 * float(np.mean(rates)))


@pytest.mark.parametrize(
    ("n", "m", "d", "l2"), [(150, 150, 5, 1.0), (300, 90, 12, 1.0), (40, 60, 200, 1.0),
                            (200, 200, 8, 0.01)],
)  # fmt: skip
def test_it_equals_scikit_learn_on_the_same_folds(n: int, m: int, d: int, l2: float) -> None:
    x, y = draw(n, d), draw(m, d, seed=1, by=0.3)
    rows = _Rows(x, y, 5, l2, None, 0)
    # scikit-learn balances each fold's training rows, we balance all: the same up to rounding
    found = proxy_a_distance(x, y, resamples=0, l2=l2)
    assert found.value == pytest.approx(reference(x, y, rows.fold_N, 1 / l2), abs=0.03)
    assert found.value == pytest.approx(2 * (1 - 2 * found.error))


def test_the_batched_solver_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    x = np.concatenate([draw(120, 4), draw(120, 4, seed=1, by=0.5)])
    y = np.repeat([0.0, 1.0], 120)
    weights = generator.integers(0, 3, (240, 6)).astype(np.float64)
    rows = np.concatenate([x, np.ones((240, 1))], axis=1)
    for l2 in (1.0, 0.05):
        start = Preconditioner.of(hessian(rows, np.full(240, 0.25), l2))
        found = solve_many(
            rows, np.repeat(y[:, None], 6, axis=1), weights, l2, np.zeros(5), start, tolerance=1e-16
        )
        for k in range(6):
            solver = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=10_000)
            solver.fit(x, y, sample_weight=weights[:, k])
            by_hand = np.append(solver.coef_[0], solver.intercept_)
            np.testing.assert_allclose(found[:, k], by_hand, atol=1e-5)


def test_a_poor_start_of_the_solver_ends_at_the_same_place() -> None:
    """Far-out starts, separable rows and a Hessian that is no good: the solution is one."""
    x = np.concatenate([draw(60, 3), draw(60, 3, seed=1, by=4.0)])
    rows = np.concatenate([x, np.ones((120, 1))], axis=1)
    y, ones = np.repeat([0.0, 1.0], 60)[:, None], np.ones((120, 1))
    good = Preconditioner.of(hessian(rows, np.full(120, 0.25), 0.1))
    bad = Preconditioner.of(np.eye(4) * 3)
    found = [
        solve_many(rows, y, ones, 0.1, start, one, tolerance=1e-14, max_steps=500)
        for start in (np.zeros(4), np.full(4, 5.0))
        for one in (good, bad)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-4)


def test_logistic_and_hessian_have_plain_twins() -> None:
    z = np.array([-1000.0, -3.0, 0.0, 0.5, 25.0, 1000.0])
    np.testing.assert_allclose(logistic(z), expit(z), atol=1e-12)
    rows, weights = draw(50, 3), np.abs(draw(50, 1))[:, 0]
    by_hand = sum(w * np.outer(row, row) for w, row in zip(weights, rows, strict=True))
    by_hand = by_hand + np.diag([2.0, 2.0, 0.0])
    np.testing.assert_allclose(hessian(rows, weights, 2.0), by_hand, rtol=1e-12)


def test_known_answers() -> None:
    """Two Gaussians δ apart are told apart with Φ(δ / 2) right."""
    delta = 1.2
    x, y = draw(4000, 2), draw(4000, 2, seed=1)
    y[:, 0] += delta
    right = 0.5 * (1 + math.erf(delta / 2 / math.sqrt(2)))
    found = proxy_a_distance(x, y)
    assert found.value == pytest.approx(2 * (2 * right - 1), abs=0.05)
    assert found.interval is not None
    assert found.interval[0] < 2 * (2 * right - 1) < found.interval[1]
    apart = proxy_a_distance(draw(100), draw(100, seed=1, by=50.0))
    assert apart.value == 2.0
    assert apart.interval is not None
    assert apart.interval[0] == pytest.approx(4 * 0.025 ** (1 / 200) - 2)
    assert apart.interval[1] == 2.0


def test_without_a_shift_it_is_near_zero_and_its_interval_holds_zero() -> None:
    held = 0
    values = []
    for i in range(40):
        found = proxy_a_distance(draw(150, 4, seed=2 * i), draw(150, 4, seed=2 * i + 1), seed=i)
        assert found.interval is not None
        held += found.interval[0] <= 0.0
        values.append(found.value)
    assert held >= 36
    assert abs(float(np.mean(values))) < 0.08


def test_sides_of_different_size_weigh_the_same() -> None:
    """900 rows against 100 of the same kind: guessing the larger side would be right in 90 %."""
    found = proxy_a_distance(draw(900), draw(100, seed=1))
    assert abs(found.value) < 0.35
    assert found.rows == (900, 100)


def test_intervals_are_as_wide_as_values_vary() -> None:
    values, widths = [], []
    for i in range(40):
        found = proxy_a_distance(draw(200, 3, 2 * i), draw(200, 3, 2 * i + 1, by=0.5), seed=i)
        assert found.interval is not None
        values.append(found.value)
        widths.append(found.interval[1] - found.interval[0])
    told = float(np.mean(widths)) / 2 / 2.093
    assert told == pytest.approx(float(np.std(values, ddof=1)), rel=0.35)


def test_rows_on_both_sides_are_counted_and_cannot_be_learnt_by_heart() -> None:
    x = draw(120, 300)  # more dimensions than rows: every row could be learnt by heart
    copied = proxy_a_distance(x, x[::-1].copy())
    assert copied.shared == 120
    assert copied.value == pytest.approx(0.0, abs=1e-6)
    some = proxy_a_distance(x, np.concatenate([x[:5], draw(60, 300, seed=1)]))
    assert some.shared == 5
    twice = np.concatenate([x[:40], x[:40]])
    other = np.concatenate([x[40:80], x[40:80]])
    doubled = proxy_a_distance(twice, other)
    assert doubled.shared == 0
    assert doubled.value < 0.9  # 2 when a row's copy is among the training rows


def test_equal_rows_share_a_fold() -> None:
    x = np.repeat(draw(20, 3), 3, axis=0)
    rows = _Rows(x, draw(30, 3, seed=1), 5, 1.0, None, 0)
    for number in np.unique(rows.number_N):
        assert len(set(rows.fold_N[rows.number_N == number].tolist())) == 1


def test_constant_rows_and_features() -> None:
    flat = proxy_a_distance(np.ones((20, 3)), np.ones((30, 3)), halves=5)
    assert (flat.value, flat.halves, flat.shared) == (0.0, 0.0, 30)
    x, y = draw(200), draw(200, seed=1, by=0.5)
    with_constant = [np.concatenate([part, np.full((200, 1), 3.0)], axis=1) for part in (x, y)]
    assert proxy_a_distance(*with_constant).value == pytest.approx(proxy_a_distance(x, y).value)
    tiny = proxy_a_distance(draw(2), draw(2, seed=1))
    assert tiny.folds == 2
    assert -2 <= tiny.value <= 2


def test_an_offset_does_not_matter() -> None:
    x, y = draw(300), draw(300, seed=1, by=0.4)
    plain = proxy_a_distance(x, y)
    moved = proxy_a_distance(x + 1000, y + 1000)
    assert moved.value == pytest.approx(plain.value, abs=0.03)


def test_the_yardstick_is_what_halves_of_the_source_reach() -> None:
    found = proxy_a_distance(draw(400), draw(400, seed=1, by=2.0), halves=20)
    assert found.halves is not None
    assert 0 < found.halves < 0.5 < found.value


def test_scores_are_log_density_ratios() -> None:
    """Between N(0, I) and N(δ, I) the log ratio at x is δ·x - |δ|² / 2."""
    x, y = draw(4000, 2), draw(4000, 2, seed=1)
    y[:, 0] += 1.0
    scores = domain_scores(x, y)
    np.testing.assert_allclose(scores.source_N, x[:, 0] - 0.5, atol=0.35)
    assert scores.error == pytest.approx(proxy_a_distance(x, y, resamples=0).error)
    few = domain_scores(x, y[:400])  # sides weigh the same, whatever their sizes
    assert abs(float(np.mean(few.source_N - (x[:, 0] - 0.5)))) < 0.2


def test_source_weights_stand_for_copies() -> None:
    x, y = draw(200), draw(200, seed=1, by=0.7)
    near = x[:, 0] > 0
    weighted = proxy_a_distance(x, y, resamples=0, source_weights_N=near.astype(float))
    chosen = proxy_a_distance(x[near], y, resamples=0)
    assert weighted.value == pytest.approx(chosen.value, abs=0.15)
    assert weighted.value < proxy_a_distance(x, y, resamples=0).value
    for bad in (np.ones(5), np.full(200, -1.0), np.full(200, np.nan), np.zeros(200)):
        with pytest.raises(DataError, match="source_weights_N"):
            proxy_a_distance(x, y, source_weights_N=bad)


def test_lots_of_problems_are_solved_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.shift import a_distance

    x, y = draw(100), draw(100, seed=1, by=0.5)
    whole = proxy_a_distance(x, y, resamples=6)
    monkeypatch.setattr(a_distance, "_CELLS", 2000)
    assert proxy_a_distance(x, y, resamples=6).interval == pytest.approx(whole.interval, abs=1e-6)

"""Two arms on the same rows."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import DataError, UsageError
from warmstart.evaluation import METRICS, Paired, compare_arms, measure
from warmstart.evaluation.resampling import row_draws

from .test_metrics import make
from .test_scores import binary


def test_difference_and_interval_equal_a_loop() -> None:
    proba_a, truth = make(80, 4, 0)
    proba_b, _ = make(80, 4, 1)
    index = np.concatenate(list(row_draws(80, 400, 0, "rows", "pair", width=5)))
    for metric in METRICS:
        found = compare_arms(proba_a, proba_b, truth, metric=metric, resamples=400)
        slow = [
            measure(proba_a[rows], truth[rows], [metric])[metric]
            - measure(proba_b[rows], truth[rows], [metric])[metric]
            for rows in index
        ]
        whole = measure(proba_a, truth)[metric] - measure(proba_b, truth)[metric]
        assert found.difference == pytest.approx(whole)
        low, high = np.percentile(slow, [2.5, 97.5])
        assert (found.low, found.high) == pytest.approx((min(low, whole), max(high, whole)))


def test_an_arm_against_itself() -> None:
    proba, truth = make(100, 3, 2)
    found = compare_arms(proba, proba, truth)
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)
    assert not found.significant
    assert found.winner is None
    assert found.p_value == 1.0
    assert found.discordant == 0


def test_a_clear_win_and_its_mirror() -> None:
    rng = np.random.default_rng(0)
    good, truth = binary(rng.random(300) < 0.9)
    bad, _ = binary(rng.random(300) < 0.6)
    won, lost = compare_arms(good, bad, truth), compare_arms(bad, good, truth)
    assert won.significant
    assert won.winner == "a"
    assert lost.winner == "b"
    assert (lost.low, lost.high) == pytest.approx((-won.high, -won.low))
    assert won.turned.difference == lost.difference
    assert (won.turned.low, won.turned.high) == (-won.high, -won.low)
    assert won.p_value < 0.01


def test_direction_of_the_metric_decides_the_winner() -> None:
    rng = np.random.default_rng(0)
    good, truth = binary(rng.random(300) < 0.9)
    bad, _ = binary(rng.random(300) < 0.6)
    found = compare_arms(good, bad, truth, metric="log_loss")
    assert found.difference < 0
    assert found.significant
    assert found.winner == "a"


def test_pairing_sees_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(400) < 0.7
    better = right.copy()
    better[np.flatnonzero(~right)[:14]] = True
    a, truth = binary(better)
    b, _ = binary(right)
    found = compare_arms(a, b, truth)
    assert found.significant  # 3.5 points; the separate intervals are each about 9 points wide
    assert found.discordant == 14


def test_five_rows_are_not_proof() -> None:
    right = np.zeros(5, dtype=bool)
    a, truth = binary(~right)
    b, _ = binary(right)
    found = compare_arms(a, b, truth)
    assert found.difference == 1.0
    assert not found.significant
    assert found.p_value >= 0.05


def test_chance_is_called_a_difference_about_one_time_in_twenty() -> None:
    rng = np.random.default_rng(7)
    called = 0
    for trial in range(300):
        a, truth = binary(rng.random(150) < 0.75)
        b, _ = binary(rng.random(150) < 0.75)
        called += compare_arms(a, b, truth, seed=trial, resamples=200).significant
    assert 0.01 <= called / 300 <= 0.10


def test_a_lucky_seed_is_not_a_difference() -> None:
    rng = np.random.default_rng(2)
    truth = np.zeros(500, dtype=int)
    shares = (0.60, 0.80, 0.70)
    a = np.stack([binary(rng.random(500) < share)[0] for share in shares])
    b = binary(rng.random(500) < 0.66)[0]
    assert not compare_arms(a, b, truth).significant
    assert compare_arms(a[1], b, truth).significant


def test_arms_may_have_different_numbers_of_seeds() -> None:
    proba, truth = make(60, 3, 3)
    found = compare_arms(np.stack([proba] * 3), proba, truth)
    assert found.difference == 0.0
    assert found.n == 60


def test_survives_json() -> None:
    proba, truth = make(60, 3, 3)
    found = compare_arms(proba, np.roll(proba, 1, axis=0), truth)
    assert Paired.model_validate_json(found.model_dump_json()) == found


def test_bad_input() -> None:
    proba, truth = make(60, 3, 3)
    with pytest.raises(DataError, match="same rows and classes"):
        compare_arms(proba, proba[:-1], truth)
    with pytest.raises(DataError, match="60 rows but there are 59"):
        compare_arms(proba, proba, truth[:-1])
    with pytest.raises(DataError, match="proba_b must hold probabilities"):
        compare_arms(proba, proba * 2, truth)
    with pytest.raises(UsageError, match="Available"):
        compare_arms(proba, proba, truth, metric="auc")

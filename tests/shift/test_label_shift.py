"""Black-box shift estimation: known shares come back, intervals hold them, the level is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from warmstart.core import DataError, UsageError
from warmstart.shift import black_box_shares

NAMES = ("a", "b", "c")
CONFUSION = np.array([[0.8, 0.15, 0.1], [0.15, 0.7, 0.1], [0.05, 0.15, 0.8]])  # answer | class


def draw(
    n: int, shares: list[float], seed: int, confusion: np.ndarray = CONFUSION
) -> tuple[np.ndarray, np.ndarray]:
    """Classes drawn by their shares, and a classifier's answers on them."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(len(shares), n, p=shares)
    edges = np.cumsum(confusion, axis=0)[:, truth]
    answer = (generator.random(n) > edges).sum(axis=0)
    return truth, np.minimum(answer, len(shares) - 1)


def test_it_solves_the_system_exactly() -> None:
    """With answers as often as expected to the row, the shares come back exactly."""
    truth = np.repeat([0, 1, 2], [100, 100, 100])
    answer = np.concatenate([np.repeat([0, 1, 2], row) for row in
                             ([80, 15, 5], [20, 60, 20], [10, 10, 80])])  # fmt: skip
    # a target of 50, 30 and 20 in a hundred: 0.5 (80, 15, 5) + 0.3 (20, 60, 20) + 0.2 (10, 10, 80)
    target = np.repeat([0, 1, 2], [480, 275, 245])
    found = black_box_shares(truth, answer, target, NAMES, resamples=100)
    assert [one.target for one in found.shares] == pytest.approx([0.5, 0.3, 0.2], abs=1e-9)
    assert found.weights == pytest.approx((1.5, 0.9, 0.6), abs=1e-9)
    assert [one.source for one in found.shares] == pytest.approx([1 / 3] * 3)
    given = np.array([[0.8, 0.2, 0.1], [0.15, 0.6, 0.1], [0.05, 0.2, 0.8]])
    assert found.singular == pytest.approx(np.linalg.svd(given, compute_uv=False)[-1])
    assert found.reliable


def test_several_classifiers_are_averaged() -> None:
    truth, answer = draw(600, [0.4, 0.3, 0.3], 0)
    _, one = draw(400, [0.2, 0.2, 0.6], 1)
    _, two = draw(400, [0.2, 0.2, 0.6], 2)
    together = black_box_shares(truth, answer, np.stack([one, two]), NAMES, resamples=100)
    joint = np.zeros((3, 3))
    for said, was in zip(answer, truth, strict=True):
        joint[said, was] += 1 / 600
    mean = (np.bincount(one, minlength=3) + np.bincount(two, minlength=3)) / 800
    weights = np.linalg.solve(joint, mean)
    shares = np.maximum(weights, 0) * joint.sum(axis=0)
    by_hand = shares / shares.sum()
    assert [s.target for s in together.shares] == pytest.approx(by_hand.tolist(), abs=1e-9)


def test_intervals_hold_the_shares_of_the_population() -> None:
    held = np.zeros(3)
    truth_shares = [0.15, 0.25, 0.6]
    for i in range(60):
        truth, answer = draw(500, [0.4, 0.3, 0.3], 2 * i)
        _, target = draw(400, truth_shares, 2 * i + 1)
        found = black_box_shares(truth, answer, target, NAMES, resamples=200, seed=i)
        held += [s.low <= t <= s.high for s, t in zip(found.shares, truth_shares, strict=True)]
    assert (held >= 52).all()


def test_the_test_keeps_its_level_and_sees_a_shift() -> None:
    p_values = []
    for i in range(200):
        truth, answer = draw(300, [0.4, 0.3, 0.3], 2 * i)
        _, target = draw(300, [0.4, 0.3, 0.3], 2 * i + 1)
        p_values.append(black_box_shares(truth, answer, target, NAMES, resamples=100).p_value)
    assert 0.05 <= np.mean(np.array(p_values) <= 0.1) <= 0.16
    truth, answer = draw(500, [0.4, 0.3, 0.3], 0)
    _, target = draw(500, [0.2, 0.2, 0.6], 1)
    found = black_box_shares(truth, answer, target, NAMES)
    assert found.p_value < 1e-6
    assert found.degrees == 2


def test_two_classes_are_a_test_of_two_proportions() -> None:
    truth = np.repeat([0, 1], 50)
    answer = np.repeat([0, 1], [60, 40])
    target = np.repeat([0, 1], [30, 50])
    found = black_box_shares(truth, answer, target, NAMES[:2], resamples=100)
    gap, spread = 0.4 - 50 / 80, 0.4 * 0.6 / 100 + (50 / 80) * (30 / 80) / 80
    assert found.statistic == pytest.approx(gap**2 / spread)
    assert found.degrees == 1


def test_a_classifier_that_confuses_classes_is_not_believed() -> None:
    blind = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    truth, answer = draw(900, [0.3, 0.3, 0.4], 0, blind)
    _, target = draw(900, [0.5, 0.1, 0.4], 1, blind)
    found = black_box_shares(truth, answer, target, NAMES, resamples=100)
    assert found.singular < 0.05
    assert not found.reliable


def test_absent_classes_true_shares_and_odd_answers() -> None:
    truth, answer = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 0])
    target = np.array([1, 1, 1, 0])
    found = black_box_shares(
        truth, answer, target, NAMES, target_truth_M=np.array([2, 1, 1, -1]), resamples=100
    )
    assert found.shares[2].target == 0.0
    assert found.weights[2] == 0.0
    assert [one.truth for one in found.shares] == pytest.approx([0.0, 2 / 3, 1 / 3])
    assert sum(one.target for one in found.shares) == pytest.approx(1.0)
    same = black_box_shares(truth, np.zeros(5, dtype=int), np.zeros(4, dtype=int), NAMES,
                            resamples=100)  # fmt: skip
    assert (same.statistic, same.p_value) == (0.0, 1.0)
    other = black_box_shares(truth, np.zeros(5, dtype=int), np.ones(4, dtype=int), NAMES,
                             resamples=100)  # fmt: skip
    table = chi2_contingency([[5, 0], [0, 4]], correction=False)
    assert (other.statistic, other.p_value) == pytest.approx((table.statistic, table.pvalue))


def test_labelled_target_rows_are_counted() -> None:
    truth, answer = draw(400, [0.4, 0.3, 0.3], 0)
    target_truth, target = draw(300, [0.4, 0.3, 0.3], 1)
    few = np.where(np.arange(300) < 90, target_truth, -1)
    found = black_box_shares(truth, answer, target, NAMES, target_truth_M=few, resamples=100)
    ours, theirs = np.bincount(truth, minlength=3), np.bincount(target_truth[:90], minlength=3)
    expected = np.outer([400, 90], (ours + theirs) / 490)
    statistic = float(((np.stack([ours, theirs]) - expected) ** 2 / expected).sum())
    assert found.counted == 90
    assert found.counted_p_value == pytest.approx(np.exp(-statistic / 2))  # χ² with 2 degrees
    none = black_box_shares(truth, answer, target, NAMES, resamples=100)
    assert (none.counted, none.counted_p_value) == (0, None)
    ones = black_box_shares(truth, answer, target, NAMES, resamples=100,
                            target_truth_M=np.where(np.arange(300) < 5, 2, -1))  # fmt: skip
    assert ones.counted_p_value is not None
    assert ones.counted_p_value < 0.05


def test_what_cannot_be_estimated_is_refused() -> None:
    zeros = np.zeros(5, dtype=int)
    with pytest.raises(DataError, match="got 1 classes"):
        black_box_shares(zeros, zeros, zeros, NAMES)
    with pytest.raises(DataError, match="0 target rows"):
        black_box_shares(np.array([0, 1]), np.array([0, 1]), zeros[:0], NAMES)
    with pytest.raises(UsageError, match=r"black_box_shares.resamples must be at least 100"):
        black_box_shares(np.array([0, 1]), np.array([0, 1]), zeros, NAMES, resamples=5)

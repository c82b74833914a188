"""Forgetting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import UsageError
from warmstart.evaluation import check_budget, compare_arms, measure_forgetting


def proba(predicted: list[int], sure: float = 0.9) -> np.ndarray:
    made = np.full((len(predicted), 2), 1 - sure)
    made[np.arange(len(predicted)), predicted] = sure
    return made


TRUTH = np.array([0, 1] * 50)


def test_the_drop_is_paired_and_positive_when_worse() -> None:
    before = proba([0, 1] * 45 + [1, 0] * 5)
    after = proba([0, 1] * 35 + [1, 0] * 15)
    found = measure_forgetting(before, after, TRUTH)
    assert (found.before, found.after, found.n) == (0.9, 0.7, 100)
    assert found.drop == pytest.approx(0.2)
    assert found.points == pytest.approx(20)
    pair = compare_arms(before, after, TRUTH)
    assert (found.low, found.high) == (pair.low, pair.high)
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.certain
    assert found.within(20)
    assert not found.within(19.9)
    assert "20.0 points lost" in found.sentence(2)
    assert "budget of 2 is broken" in found.sentence(2)


def test_a_metric_that_is_better_when_lower_is_turned() -> None:
    found = measure_forgetting(proba([0, 1] * 50, 0.9), proba([0, 1] * 50, 0.8), TRUTH,
                               metric="log_loss")  # fmt: skip
    assert found.drop == pytest.approx(np.log(0.9 / 0.8))
    assert found.low <= found.drop <= found.high


def test_nothing_lost() -> None:
    same = measure_forgetting(proba([0, 1] * 50), proba([0, 1] * 50), TRUTH)
    assert (same.drop, same.low, same.high) == (0, 0, 0)
    assert not same.certain
    assert "0.0 points lost" in same.sentence()
    assert same.within(0)
    better = measure_forgetting(proba([0] * 100), proba([0, 1] * 50), TRUTH)
    assert better.drop == -0.5
    assert "50.0 points gained" in better.sentence()


@pytest.mark.parametrize("bad", [-1.0, 101.0, float("nan")])
def test_budgets(bad: float) -> None:
    with pytest.raises(UsageError, match="max_forgetting is a number of points from 0 to 100"):
        check_budget(bad)

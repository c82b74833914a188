"""What cannot be compared is refused; equal rows are found; folds keep them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, UsageError
from warmstart.shift import (
    coral,
    diagnose,
    frechet,
    mean_covariance,
    measure_distances,
    mmd,
    principal_plane,
    proxy_a_distance,
    sliced_wasserstein,
)
from warmstart.shift.distance_halves import deal, halves_of, spread_interval
from warmstart.shift.distance_inputs import equal_rows, grouped_folds, shared_rows

GOOD = np.arange(12.0).reshape(6, 2)
VERBS = [proxy_a_distance, mmd, coral, frechet, mean_covariance, sliced_wasserstein,
         principal_plane, measure_distances, diagnose]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (GOOD, np.ones((4, 3)), "source vectors have 2 dimensions and target vectors 3"),
        (GOOD[:1], GOOD, "the source must have at least 2 rows"),
        (GOOD, GOOD[:1], "the target must have at least 2 rows"),
        (GOOD, GOOD[0], "the target must be an array of numbers, one row a vector"),
        (GOOD, np.array([["a", "b"]] * 3), "must be an array of numbers"),
        (GOOD, [[1.0], [1.0, 2.0]], "the target's rows differ in length"),
        (np.where(GOOD == 6, np.nan, GOOD), GOOD, "row 3 of the source holds a number that is not"),
        (GOOD, np.where(GOOD == 6, np.inf, GOOD), "row 3 of the target"),
        (GOOD[:, :0], GOOD[:, :0], "1 dimension"),
    ],
)
def test_sets_that_have_no_distance(
    verb: Callable[..., Any], source: Any, target: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        verb(source, target)


@pytest.mark.parametrize(
    ("verb", "settings", "message"),
    [
        (mmd, {"permutations": -1}, "mmd.permutations must be at least 0, got -1"),
        (mmd, {"factors": ()}, "mmd.factors must be one or more"),
        (mmd, {"bandwidths": (1.0, -2.0)}, "mmd.bandwidths must be one or more"),
        (mmd, {"bandwidths": (float("nan"),)}, "mmd.bandwidths"),
        (mmd, {"method": "block"}, 'Did you mean "blocks"'),
        (mmd, {"block": 0}, "mmd.block must be at least 1"),
        (mmd, {"features": 1}, "mmd.features must be at least 2"),
        (proxy_a_distance, {"folds": 1}, "proxy_a_distance.folds must be at least 2, got 1"),
        (proxy_a_distance, {"l2": 0.0}, "proxy_a_distance.l2"),
        (proxy_a_distance, {"resamples": -2}, "proxy_a_distance.resamples"),
        (sliced_wasserstein, {"order": 3}, "order must be 1 or 2, got 3"),
        (sliced_wasserstein, {"directions": 0}, "sliced_wasserstein.directions"),
        (coral, {"halves": -1}, "coral.halves must be at least 0"),
        (measure_distances, {"names": ("corla",)}, 'Did you mean "coral"'),
    ],
)
def test_settings_out_of_range(
    verb: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        verb(GOOD, GOOD + 1, **settings)


def test_equal_rows_share_a_number() -> None:
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0], [0.0, 1.0], [2.0, 0.0]])
    for kind in (np.float32, np.float64):
        found = equal_rows(rows.astype(kind))
        assert found.tolist() == [0, 1, 0, 2, 1]
    assert shared_rows(equal_rows(rows), 2) == 2  # rows 2 and 4 stand among the first two


def test_equal_rows_of_many_agree_with_a_set() -> None:
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 3, (9000, 8)).astype(np.float32)
    found = equal_rows(rows)
    assert len(np.unique(found)) == len({row.tobytes() for row in rows})
    by_number: dict[int, bytes] = {}
    for number, row in zip(found.tolist(), rows, strict=True):
        assert by_number.setdefault(number, row.tobytes()) == row.tobytes()


def test_a_clash_of_hashes_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every hash equal, each unequal row still gets a number of its own."""
    monkeypatch.setattr(np, "einsum", lambda _, rows, factors: np.zeros(len(rows), dtype=np.uint64))
    found = equal_rows(np.array([[1.0], [2.0], [1.0], [3.0]]))
    assert found[0] == found[2]
    assert len({*found[[0, 1, 3]].tolist()}) == 3


def test_folds_keep_equal_rows_together_and_spread_strata() -> None:
    generator = np.random.default_rng(1)
    rows = generator.integers(0, 4, (200, 3)).astype(np.float64)
    numbers, strata = equal_rows(rows), generator.integers(0, 2, 200)
    folds = grouped_folds(numbers, strata, 5, np.random.default_rng(0))
    for number in np.unique(numbers):
        assert len(set(folds[numbers == number].tolist())) == 1
    apart = grouped_folds(np.arange(100), np.repeat([0, 1], [60, 40]), 5, generator)
    for stratum, size in ((0, 12), (1, 8)):
        counts = np.bincount(apart[:60] if stratum == 0 else apart[60:], minlength=5)
        assert counts.tolist() == [size] * 5


def test_halves_take_half_of_the_groups() -> None:
    taken = halves_of(6, 50, np.random.default_rng(0))
    assert set(taken.sum(axis=1).tolist()) == {3.0}
    assert 5 < len({tuple(row) for row in taken.tolist()}) <= 20  # of 20 halves
    odd = halves_of(5, 50, np.random.default_rng(0))
    assert sorted(set(odd.sum(axis=1).tolist())) == [2.0, 3.0]
    assert np.bincount(deal(11, 4, np.random.default_rng(0))).tolist() == [3, 3, 3, 2]


def test_half_sampling_knows_the_standard_error_of_a_mean() -> None:
    """For the mean the spread over halves is s / sqrt(G) of the groups' means, a known answer."""
    generator = np.random.default_rng(2)
    groups = generator.standard_normal(20)
    taken = halves_of(20, 200_000, generator)
    values = taken @ groups / 10
    assert np.std(values) == pytest.approx(groups.std(ddof=1) / np.sqrt(20), rel=0.01)
    low, high = spread_interval(groups.mean(), values, 20, floor=-np.inf)
    reach = 2.0930 * groups.std(ddof=1) / np.sqrt(20)  # Student's t with 19 degrees of freedom
    assert (high - low) / 2 == pytest.approx(reach, rel=0.02)


def test_an_interval_takes_off_a_bias_and_holds_its_value() -> None:
    """A bias of c / n is 2 c / n in halves, so the interval lies around value - c / n."""
    generator = np.random.default_rng(3)
    values = 1.0 + 0.5 + 0.01 * generator.standard_normal(400)  # truth 1, bias 0.25 at full size
    low, high = spread_interval(1.25, values, 1000)
    assert low == pytest.approx(1.0 - 0.02, abs=0.005)
    assert high == 1.25
    assert spread_interval(0.1, np.full(9, 0.4), 5) == (0.0, 0.1)
    near = spread_interval(1.95, np.array([1.7, 1.8, 1.9]), 3, ceiling=2.0)
    assert near == (pytest.approx(2.1 - 4.303 * 0.1, abs=1e-3), 2.0)
    flat = spread_interval(0.5, np.array([0.25, 0.25, 0.25]), 3, bias=False)
    assert flat == (0.5, 0.5)

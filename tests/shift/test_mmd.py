"""MMD²: a plain twin over all pairs, known answers, a test that keeps its level."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from warmstart.core import Streams
from warmstart.shift import mmd
from warmstart.shift.mmd import mmd_of
from warmstart.shift.mmd_kernels import block_sums, make_bins, median_distance


def draw(n: int, d: int = 5, seed: int = 0, by: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) + by


def plain(x: np.ndarray, y: np.ndarray, width: float) -> float:
    """MMD² as its definition has it, one pair of rows after the other."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * width**2))

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 5), (30, 41), (64, 129), (9, 150)])
@pytest.mark.parametrize("block", [4, 2048])
def test_it_equals_the_plain_twin(n: int, m: int, block: int) -> None:
    x, y = draw(n), draw(m, seed=1, by=0.4)
    found = mmd(x, y, permutations=0, block=block)
    assert len(found.by_bandwidth) == 3
    for one in found.by_bandwidth:
        assert one.value == pytest.approx(plain(x, y, one.bandwidth), abs=1e-12)
    assert found.value == found.by_bandwidth[0].value
    assert found.rows == (n, m)
    assert found.exact


def test_single_precision_blocks_equal_scikit_learn() -> None:
    """Above 4,096 rows blocks are in single precision; the mean over pairs is not."""
    x, y = draw(2600, 12).astype(np.float32), draw(2400, 12, seed=1, by=0.1).astype(np.float32)
    found = mmd(x, y, permutations=0, factors=(1.0, 0.5), block=700)
    for one in found.by_bandwidth:
        gamma = 1 / (2 * one.bandwidth**2)
        wide = [part.astype(np.float64) for part in (x, y)]
        xx, yy, xy = (rbf_kernel(a, b, gamma) for a, b in
                      ((wide[0], wide[0]), (wide[1], wide[1]), (wide[0], wide[1])))  # fmt: skip
        n, m = len(x), len(y)
        by_hand = (
            (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.sum() / (n * m)
        )
        assert one.value == pytest.approx(by_hand, abs=1e-7)


def test_rows_far_out_are_computed_in_double_precision() -> None:
    x, y = draw(2500, 3).astype(np.float32), draw(2500, 3, seed=1).astype(np.float32)
    near = mmd(x, y, permutations=0, bandwidths=(1.0,)).value
    far = x.copy(), y.copy()
    for part in far:
        part[:1250] += 3000.0  # two clouds on either side
    found = mmd(*far, permutations=0, bandwidths=(1.0,))
    wide = [part.astype(np.float64) for part in far]
    assert found.value == pytest.approx(
        sum(s * rbf_kernel(a, b, 0.5).sum() for s, a, b in _terms(*wide)) - 2 / 2499, abs=1e-7
    )
    assert abs(near) < 0.01


def _terms(x: np.ndarray, y: np.ndarray) -> list[tuple[float, np.ndarray, np.ndarray]]:
    n = len(x)
    return [(1 / (n * (n - 1)), x, x), (1 / (n * (n - 1)), y, y), (-2 / n**2, x, y)]


def test_known_answer_of_two_gaussians() -> None:
    """E k(x, y) of N(0, I) and N(δ, I) is (1 + 2 / σ²)^(-d / 2) exp(-|δ|² / (2 σ² + 4))."""
    d, width, shift = 3, 1.5, 0.7
    base = (1 + 2 / width**2) ** (-d / 2)
    truth = 2 * base * (1 - math.exp(-d * shift**2 / (2 * width**2 + 4)))
    found = mmd(draw(3000, d), draw(3000, d, seed=1, by=shift), bandwidths=(width,), permutations=0)
    assert found.value == pytest.approx(truth, abs=0.006)
    assert found.interval is not None
    assert found.interval[0] < truth < found.interval[1]


def test_features_come_near_the_exact_value() -> None:
    x, y = draw(800, 8), draw(900, 8, seed=1, by=0.25)
    exact = mmd(x, y, permutations=99)
    near = mmd(x, y, permutations=99, method="features", features=4096)
    assert not near.exact
    assert near.feature_error is not None
    assert near.feature_error < 0.1 * exact.value
    assert abs(near.value - exact.value) < 4 * near.feature_error
    assert near.p_value == exact.p_value == 0.01


def test_features_have_no_bias() -> None:
    x, y = draw(60, 4), draw(70, 4, seed=1, by=0.5)
    exact = mmd(x, y, permutations=0, factors=(1.0,)).value
    width = mmd(x, y, permutations=0).by_bandwidth[0].bandwidth
    found = [
        mmd(x, y, permutations=0, bandwidths=(width,), method="features", features=64, seed=seed)
        for seed in range(60)
    ]
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(exact, abs=4 * values.std() / np.sqrt(60))
    told = np.mean([one.feature_error for one in found if one.feature_error is not None])
    assert values.std(ddof=1) == pytest.approx(told, rel=0.35)


def test_the_median_is_that_of_all_pairs() -> None:
    rows = draw(40, 3)
    by_hand = np.median([np.linalg.norm(a - b) for a, b in combinations(rows, 2)])
    assert median_distance(rows, np.random.default_rng(0)) == pytest.approx(by_hand, rel=1e-12)
    many = draw(5000, 3)
    assert median_distance(many, np.random.default_rng(0)) == pytest.approx(
        float(np.median([np.linalg.norm(a - b) for a, b in combinations(many[:700], 2)])), rel=0.03
    )


def test_the_median_leaves_out_equal_rows_where_they_are_most() -> None:
    rows = np.concatenate([np.full((9, 2), 1e3), [[1e3, 1e3 + 2.0]]])
    assert median_distance(rows, np.random.default_rng(0)) == pytest.approx(2.0)
    assert median_distance(np.ones((5, 2)), np.random.default_rng(0)) == 1.0


@pytest.mark.parametrize(("n", "m"), [(5, 5), (63, 63), (64, 64), (200, 130), (1000, 40), (7, 900)])
def test_bins_hold_every_row_once_and_those_that_move_are_equal(n: int, m: int) -> None:
    bins = make_bins(n, m, np.random.default_rng(0))
    assert sorted(bins.order_N.tolist()) == list(range(n + m))
    assert bins.sizes_B.sum() == n + m
    assert (bins.sizes_B > 0).all()
    assert len(set(bins.sizes_B[bins.free_B].tolist())) == 1
    for side, rows in ((0, n), (1, m)):
        assert bins.sizes_B[bins.side_B == side].sum() == rows
        assert (bins.free_B & (bins.side_B == side)).any()
    ends = bins.ends_B
    starts = ends - bins.sizes_B
    for start, end, side in zip(starts, ends, bins.side_B, strict=True):
        assert ((bins.order_N[start:end] >= n) == bool(side)).all()
    assert len(bins.sizes_B) <= 640


def test_sums_by_bin_equal_sums_over_pairs() -> None:
    x = draw(37, 3)
    bins = make_bins(20, 17, np.random.default_rng(0))
    sums = block_sums(x, (0.9,), bins, 8)[0]
    ends = bins.ends_B
    members = [bins.order_N[end - size : end] for end, size in zip(ends, bins.sizes_B, strict=True)]
    for a, ours in enumerate(members):
        for b, theirs in enumerate(members):
            by_hand = sum(
                math.exp(-float(((x[i] - x[j]) ** 2).sum()) / (2 * 0.81))
                for i in ours for j in theirs if i != j
            )  # fmt: skip
            assert sums[a, b] == pytest.approx(by_hand, abs=1e-12)


def test_a_permutation_of_bins_is_the_statistic_on_permuted_rows() -> None:
    x, y = draw(10, 2), draw(10, 2, seed=1, by=1.0)
    pooled = np.concatenate([x, y])
    bins = make_bins(10, 10, np.random.default_rng(0))
    sums = block_sums(pooled, (1.1,), bins, 100)
    side = np.random.default_rng(5).permutation(bins.side_B)
    found = mmd_of(sums, bins, (side == 0)[None].astype(float), (side == 1)[None].astype(float))
    rows = np.repeat(side, bins.sizes_B)
    by_hand = plain(pooled[bins.order_N[rows == 0]], pooled[bins.order_N[rows == 1]], 1.1)
    assert found[0, 0] == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (150, 47)])
def test_the_test_keeps_its_level(n: int, m: int) -> None:
    """Without a shift one p-value in ten is at most 0.1, with three bandwidths too."""
    found = [
        mmd(draw(n, 3, seed=2 * i), draw(m, 3, seed=2 * i + 1), permutations=99, seed=i).p_value
        for i in range(200)
    ]
    p_values = np.array(found, dtype=float)
    assert 0.045 <= (p_values <= 0.1).mean() <= 0.165  # 200 draws of a share of 0.1
    assert 0.42 <= (p_values <= 0.5).mean() <= 0.58
    assert p_values.min() >= 0.01


def test_the_test_sees_a_shift() -> None:
    found = mmd(draw(150, 3), draw(150, 3, seed=1, by=0.6), permutations=199)
    assert found.p_value == 1 / 200
    assert all(one.p_value == 1 / 200 for one in found.by_bandwidth)
    spread = mmd(draw(400, 3), 1.5 * draw(400, 3, seed=1), permutations=199)  # means agree
    assert spread.p_value == 1 / 200


def test_intervals_cover_the_truth() -> None:
    """95 % intervals hold a known MMD² in most of 100 samples, and 0 without a shift."""
    d, width, shift = 2, 1.0, 0.5
    base = (1 + 2 / width**2) ** (-d / 2)
    truth = 2 * base * (1 - math.exp(-d * shift**2 / (2 * width**2 + 4)))
    held = zero = 0
    for i in range(100):
        x, y, z = (draw(120, d, seed=3 * i + j, by=by) for j, by in ((0, 0), (1, shift), (2, 0)))
        for other, value in ((y, truth), (z, 0.0)):
            one = mmd(x, other, bandwidths=(width,), permutations=0, seed=i)
            assert one.interval is not None
            inside = one.interval[0] <= value <= one.interval[1]
            held, zero = held + (inside and other is y), zero + (inside and other is z)
    assert held >= 88
    assert zero >= 93


def test_the_yardstick_is_what_halves_of_the_source_reach() -> None:
    x, y = draw(300, 3), draw(300, 3, seed=1, by=1.0)
    found = mmd(x, y, permutations=0, halves=20)
    assert found.halves is not None
    assert 0 < found.halves < 0.05 * found.value
    same = mmd(x, draw(300, 3, seed=2), permutations=0, halves=20)
    assert same.halves is not None
    assert same.value < 2 * same.halves


def test_few_or_equal_rows() -> None:
    found = mmd(draw(3), draw(3, seed=1), permutations=19)
    assert found.interval is None
    assert found.method.startswith("fewer than 4 rows")
    assert found.p_value is not None
    equal = mmd(np.ones((10, 3)), np.ones((12, 3)), permutations=19, halves=5)
    assert equal.value == pytest.approx(0.0, abs=1e-12)
    assert equal.p_value == 1.0
    constant = draw(50)
    constant[:, 2] = 7.0
    assert abs(mmd(constant, constant[::-1], permutations=19).value) < 0.1


def test_the_seed_decides_all_chance() -> None:
    x, y = draw(90), draw(80, seed=1, by=0.3)
    first: Any = mmd(x, y, permutations=49, halves=5, seed=3)
    assert first == mmd(x, y, permutations=49, halves=5, seed=3)
    assert first != mmd(x, y, permutations=49, halves=5, seed=4)
    assert first.value == mmd(x, y, permutations=49, seed=3).value
    order = Streams(0).numpy("order").permutation(90)
    assert mmd(x[order], y, permutations=0).value == pytest.approx(first.value, abs=1e-12)

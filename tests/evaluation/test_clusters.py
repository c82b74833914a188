"""Rows that come in clusters: whole clusters are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import DataError
from warmstart.evaluation import compare_arms, measure, score
from warmstart.evaluation.resampling import cluster_draws, cluster_numbers

from .test_metrics import make
from .test_scores import binary


def test_numbers_of_clusters() -> None:
    found = cluster_numbers(["b", "a", "b", None, None, 1, "1"], 7, "x")
    assert found is not None
    assert found.tolist() == [0, 1, 0, 2, 3, 4, 4]
    assert cluster_numbers(None, 7, "x") is None
    with pytest.raises(DataError, match="one value for each of the 3 rows, got 2"):
        cluster_numbers(["a", "b"], 3, "x")


def test_whole_clusters_are_drawn() -> None:
    clusters_N = np.array([0, 1, 1, 2, 2, 2])
    seen = set()
    for (rows,) in cluster_draws(clusters_N, 200, 0, "x"):
        counts = np.bincount(rows, minlength=6)
        assert counts[1] == counts[2]
        assert len({counts[3], counts[4], counts[5]}) == 1
        assert counts[0] + counts[1] + counts[3] == 3
        seen.add(len(rows))
    assert seen >= {3, 6, 9}


def test_intervals_equal_a_loop_over_the_draws() -> None:
    proba_a, truth = make(60, 3, 0)
    proba_b, _ = make(60, 3, 1)
    clusters = [f"author {i % 7}" for i in range(60)]
    numbers = cluster_numbers(clusters, 60, "x")
    assert numbers is not None
    for metric in ("accuracy", "macro_f1"):
        found = compare_arms(
            proba_a, proba_b, truth, metric=metric, clusters=clusters, resamples=300
        )
        slow = [
            measure(proba_a[rows], truth[rows], [metric])[metric]
            - measure(proba_b[rows], truth[rows], [metric])[metric]
            for (rows,) in cluster_draws(numbers, 300, 0, "clusters", "pair")
        ]
        low, high = np.percentile(slow, [2.5, 97.5])
        whole = found.difference
        assert (found.low, found.high) == pytest.approx((min(low, whole), max(high, whole)))


def test_alike_rows_widen_the_interval() -> None:
    """Twenty authors with twenty equal rows each hold the evidence of twenty rows, not 400."""
    right = np.repeat(np.random.default_rng(0).random(20) < 0.7, 20)
    proba, truth = binary(right)
    authors = [i // 20 for i in range(400)]
    apart = score(proba, truth, ["x", "y"]).main
    whole = score(proba, truth, ["x", "y"], clusters=authors).main
    twenty = score(*[part[::20] for part in (proba, truth)], ["x", "y"]).main

    def width(one: object) -> float:
        return one.high - one.low

    assert whole.value == apart.value
    assert width(whole) > 3 * width(apart)
    assert width(whole) == pytest.approx(width(twenty), rel=0.15)


def test_few_clusters_that_differ_prove_nothing() -> None:
    better, truth = binary(np.ones(100, dtype=bool))
    worse, _ = binary(np.arange(100) >= 40)
    assert compare_arms(better, worse, truth).significant
    found = compare_arms(better, worse, truth, clusters=[i // 20 for i in range(100)])
    assert found.discordant == 2
    assert not found.significant

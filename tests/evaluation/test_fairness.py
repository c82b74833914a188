"""Groups by the same draws of users, judged all at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, UsageError
from warmstart.evaluation import (
    FairnessGap,
    RankingTask,
    Ranks,
    fairness,
    measure_ranking,
    next_item_task,
    rank_targets,
)
from warmstart.evaluation.resampling import cluster_draws

from .ranking_events import Given, events

USERS, ITEMS, ASKED = 120, 30, 3


def make(shares: Any, seed: int = 0) -> tuple[Ranks, RankingTask, np.ndarray]:
    """Three queries a user, hit (rank 1, else 30) with the user's own probability."""
    past = events([(u, 0, 1) for u in range(USERS)], USERS, ITEMS)
    rng = np.random.default_rng(seed)
    rows = [
        (u, int(item), 10 + u)
        for u in range(USERS)
        for item in rng.choice(np.arange(1, ITEMS), ASKED, replace=False)
    ]
    task = next_item_task(past, events(rows, USERS, ITEMS))
    ranks = rank_targets(Given(np.zeros((len(task), ITEMS))), task, ITEMS, ks=())
    hits = rng.random(len(task)) < np.asarray(shares)[task.user_Q]
    return replace(ranks, rank_P=np.where(hits, 1, ITEMS)), task, rng.permutation(USERS)


def test_values_and_gap_equal_a_loop() -> None:
    ranks, task, _ = make(np.repeat([0.3, 0.5, 0.6], 40))
    groups = [f"g{u // 40}" for u in task.user_Q]
    found = fairness(ranks, task, groups, "HR@10", resamples=300)
    hits = ranks.rank_P <= 10
    values = {g: hits[[one == g for one in groups]].mean() for g in ("g0", "g1", "g2")}
    assert {name: one.value for name, one in found.groups.items()} == pytest.approx(values)
    assert found.users == {"g0": 40, "g1": 40, "g2": 40}
    assert found.groups["g0"].n == 120
    assert found.best == max(values, key=lambda g: values[g])
    assert found.worst == min(values, key=lambda g: values[g])
    drawn: dict[str, list[float]] = {g: [] for g in values}
    for (rows,) in cluster_draws(task.user_Q.astype(int), 300, 0, "users", "fairness"):
        for g in values:
            mine = [hits[q] for q in rows if groups[q] == g]
            drawn[g].append(sum(mine) / len(mine))
    errors, largest = {}, np.zeros(300)
    for a, b in combinations(sorted(values), 2):
        off = (np.array(drawn[a]) - values[a]) - (np.array(drawn[b]) - values[b])
        off *= (40 / 39) ** 0.5  # the bootstrap's missing variance
        errors[a, b] = max(off.std(ddof=1), (2 * (0.5 / 40) ** 2) ** 0.5)
        largest = np.maximum(largest, np.abs(off) / errors[a, b])
    bar = max(np.quantile(largest, 0.95), 1.96)
    half = bar * errors[tuple(sorted((found.best, found.worst)))]
    gap = max(values.values()) - min(values.values())
    assert found.gap.value == pytest.approx(gap)
    assert (found.gap.low, found.gap.high) == pytest.approx((gap - half, gap + half))
    apart = {(a, b) for (a, b), e in errors.items() if abs(values[a] - values[b]) > bar * e}
    assert {tuple(sorted(pair)) for pair in found.apart} == apart
    assert ("g0", "g2") in apart
    assert found.significant


def test_the_bar_rises_with_the_number_of_groups() -> None:
    ranks, task, order = make(np.full(USERS, 0.5))
    two = fairness(ranks, task, [int(order[u] % 2) for u in task.user_Q], "HR@1")
    many = fairness(ranks, task, [int(order[u] % 6) for u in task.user_Q], "HR@1")

    def bar(one: FairnessGap) -> float:
        return (one.gap.high - one.gap.value) / max(
            one.groups[g].high - one.groups[g].value for g in (one.best, one.worst)
        )

    assert bar(many) > 1.2 * bar(two)


def test_equal_groups_are_called_apart_at_most_one_time_in_twenty() -> None:
    called = any_pair = 0
    for trial in range(120):
        ranks, task, order = make(np.full(USERS, 0.4), seed=trial)
        groups = [int(order[u] % 6) for u in task.user_Q]
        found = fairness(ranks, task, groups, "HR@1", seed=trial, resamples=200)
        called += found.significant
        any_pair += bool(found.apart)
    assert called <= any_pair <= 12


def test_a_small_noisy_group_does_not_hide_two_large_ones() -> None:
    shares = np.concatenate([np.full(50, 0.7), np.full(58, 0.3), np.full(12, 0.5)])
    ranks, task, _ = make(shares)
    rank_P = ranks.rank_P.copy()
    edge = task.user_Q >= 108
    rank_P[edge] = np.where(task.user_Q[edge] < 116, 1, ITEMS)  # 8 of 12 users: 0.67 with noise
    groups = ["many" if u < 50 else "most" if u < 108 else "few" for u in task.user_Q]
    found = fairness(replace(ranks, rank_P=rank_P), task, groups, "HR@1", fewest_users=10)
    assert ("many", "most") in found.apart
    assert found.significant == ((found.best, found.worst) in found.apart)


def test_groups_that_never_vary() -> None:
    ranks, task, _ = make(np.repeat([0.0, 1.0], 60))
    found = fairness(ranks, task, [int(u >= 60) for u in task.user_Q], "HR@1")
    assert found.gap.value == 1.0
    assert found.significant
    alike = fairness(ranks, task, [int(u % 2) for u in task.user_Q], "HR@30")
    assert alike.gap.value == 0.0
    assert alike.best != alike.worst
    assert not alike.significant
    assert alike.gap.low < 0 < alike.gap.high
    assert alike.apart == ()


def test_categories_share_their_users() -> None:
    ranks, task, _ = make(np.full(USERS, 0.5))
    tags = [("all", "even") if item % 2 == 0 else ("all",) for item in task.targets.items]
    found = fairness(ranks, task, tags, "MRR")
    assert found.groups["all"].value == pytest.approx(measure_ranking(ranks, task, ["MRR"])["MRR"])
    assert found.groups["all"].n == len(task)
    even = 1 / ranks.rank_P[task.targets.items % 2 == 0]
    assert found.groups["even"].value == pytest.approx(even.mean())
    assert found.users["even"] < found.users["all"] == USERS


def test_small_groups_are_named_and_not_judged() -> None:
    ranks, task, _ = make(np.full(USERS, 0.5))
    groups = [None if u == 119 else "rare" if u < 5 else f"g{u % 2}" for u in task.user_Q]
    found = fairness(ranks, task, groups, "HR@1")
    assert found.too_small == {"rare": 5}
    assert set(found.groups) == {"g0", "g1"}
    assert sum(found.users.values()) == USERS - 6
    with pytest.raises(DataError, match=r"two groups with at least 70 users each, got 0 \(3"):
        fairness(ranks, task, groups, "HR@1", fewest_users=70)


def test_survives_json() -> None:
    ranks, task, _ = make(np.full(USERS, 0.5))
    found = fairness(ranks, task, [int(u % 3) for u in task.user_Q], "NDCG@10", resamples=100)
    assert FairnessGap.model_validate_json(found.model_dump_json()) == found


def test_refusals() -> None:
    ranks, task, _ = make(np.full(USERS, 0.5))
    groups = [int(u % 2) for u in task.user_Q]
    for metric in ("median_rank", "coverage@10"):
        with pytest.raises(UsageError, match="is no mean over queries"):
            fairness(ranks, task, groups, metric)
    with pytest.raises(UsageError, match="fewest_users must be at least 2, got 1"):
        fairness(ranks, task, groups, fewest_users=1)
    with pytest.raises(DataError, match="groups must hold one label"):
        fairness(ranks, task, groups[:-1])
    with pytest.raises(UsageError, match="there is no ranking metric"):
        fairness(ranks, task, groups, "accuracy")

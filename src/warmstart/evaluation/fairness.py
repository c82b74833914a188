"""Groups side by side: how far apart the best and the worst served are, and whether by chance.

With many groups the best and the worst lie apart by chance alone, and the bootstrap of "largest
minus smallest" never reaches 0. So every pair of groups is judged at once: a pair's difference
is divided by its bootstrap standard error, and the bar is what the largest such quotient of all
pairs reaches under resampling (the studentised range by the bootstrap). At most one time in twenty
any pair is called apart where all groups are served alike.

Users are drawn, the same for all groups: groups of item categories share their users.

Source: J. W. Tukey, The Problem of Multiple Comparisons, 1953; the resampled bar after P. H.
Westfall and S. S. Young, Resampling-Based Multiple Testing, 1993, section 2.3 (single step).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from warmstart.core import Config, DataError, UsageError

from .metrics import Floats
from .ranking import Ranks
from .ranking_metrics import Outcome, outcome, ranking_metric, user_sums
from .ranking_scores import group_members, user_weights
from .ranking_tasks import RankingTask
from .resampling import LEVEL, percentile_interval, proportion_interval
from .scores import Score

__all__ = ["FairnessGap", "fairness"]

_ONE_PAIR = 1.96  # the bar of a single pair, below which no number of groups brings it


class FairnessGap(Config):
    """One metric by group.

    Attributes:
        metric: What was measured; higher is better.
        groups: Group to its score; `n` is its queries.
        users: Group to its users.
        best: The group with the highest value.
        worst: The one with the lowest.
        gap: Best minus worst, with the interval that holds for all pairs of groups together.
        significant: Whether the gap's interval leaves 0 out.
        apart: Every pair (better, worse) whose own interval does, the widest first. A small
            group at the edge can hide in its noise what two large ones show.
        too_small: Groups with too few users to be judged, and how many they have.
    """

    metric: str
    groups: dict[str, Score]
    users: dict[str, int]
    best: str
    worst: str
    gap: Score
    significant: bool
    apart: tuple[tuple[str, str], ...]
    too_small: dict[str, int]


def fairness(
    ranks: Ranks,
    task: RankingTask,
    groups: Sequence[object],
    metric: str = "HR@100",
    *,
    fewest_users: int = 20,
    seed: int = 0,
    resamples: int = 2000,
) -> FairnessGap:
    """Compare groups of users, or categories of items, by one recommender's ranks.

    Args:
        ranks: What `rank_targets` found.
        task: The task that it was given.
        groups: A label for each query (user attributes) or target (item categories); None leaves
            a row out, a tuple puts it into several groups.
        metric: HR, Recall, NDCG, MRR or debiased_recall.
        fewest_users: Groups with fewer users are named and not judged; at least 2. Chance is called
            a difference in 5 to 6 of 100 data sets where every group has 20 users, in 9 where each
            has 10 (measured by simulation).
        seed: Root seed of the resampling.
        resamples: Draws of users.

    Raises:
        DataError: When fewer than two groups are large enough, or groups do not fit the task.
        UsageError: For a metric that is no mean, or too few users or resamples.
    """
    if fewest_users < 2:
        raise UsageError(
            f"fairness.fewest_users must be at least 2, got {fewest_users}. Typical: 20."
        )
    ranking_metric(metric, "fairness.metric")
    rows = outcome(ranks, task)
    top_UG, bottom_UG, queries, users, too_small = _sums_by_group(
        rows, group_members(groups, task, "fairness.groups"), metric, fewest_users
    )
    names = list(users)
    value_G = top_UG.sum(axis=0) / bottom_UG.sum(axis=0)
    drawn_RG = _drawn_by_group(top_UG, bottom_UG, value_G, seed, resamples)
    size_G = np.array([users[name] for name in names], dtype=np.float64)
    half_GG = _half_widths(drawn_RG, value_G, size_G)
    order_G = np.argsort(value_G, kind="stable")
    best, worst = int(order_G[-1]), int(order_G[0])
    gap = float(value_G[best] - value_G[worst])
    half = float(half_GG[best, worst])
    return FairnessGap(
        metric=metric,
        groups={
            name: _group_score(
                metric, float(value_G[g]), drawn_RG[:, g], users[name], queries[name]
            )
            for g, name in enumerate(names)
        },
        users=users,
        best=names[best],
        worst=names[worst],
        gap=Score(value=gap, low=gap - half, high=gap + half, n=sum(queries.values())),
        significant=gap > half,
        apart=_pairs_apart(names, value_G, half_GG),
        too_small=too_small,
    )


def _sums_by_group(
    rows: Outcome, members: dict[str, np.ndarray], metric: str, fewest_users: int
) -> tuple[Floats, Floats, dict[str, int], dict[str, int], dict[str, int]]:
    """Sums (U, G) by user of the groups that are large enough, their sizes, and the others."""
    tops, bottoms = [], []
    queries: dict[str, int] = {}
    users: dict[str, int] = {}
    too_small: dict[str, int] = {}
    for name, keep_P in members.items():
        part = rows.take(keep_P)
        top, bottom = user_sums(part, metric)
        counted = int(np.count_nonzero(bottom))
        if counted < fewest_users:
            too_small[name] = counted
            continue
        user_U = np.unique(rows.user_Q[rows.row_P[keep_P]])
        full = np.zeros((2, rows.users))
        full[0, user_U], full[1, user_U] = top, bottom
        tops.append(full[0])
        bottoms.append(full[1])
        queries[name], users[name] = len(part.user_Q), counted
    if len(users) < 2:
        raise DataError(
            f"fairness needs two groups with at least {fewest_users} users each, got {len(users)} "
            f"({len(too_small)} smaller). Join groups, or lower fewest_users."
        )
    return np.stack(tops, axis=1), np.stack(bottoms, axis=1), queries, users, too_small


def _group_score(metric: str, value: float, drawn_R: Floats, users: int, queries: int) -> Score:
    if metric == "MRR":
        low, high = percentile_interval(drawn_R, value)
    else:
        low, high = proportion_interval(drawn_R, value, users)
    return Score(value=value, low=low, high=high, n=queries)


def _drawn_by_group(
    top_UG: Floats, bottom_UG: Floats, value_G: Floats, seed: int, resamples: int
) -> Floats:
    """Values (R, G) on resampled users; a group of which nobody was drawn keeps its value."""
    drawn = []
    for weights_RU in user_weights(len(top_UG), resamples, seed, "users", "fairness"):
        top_RG, bottom_RG = weights_RU @ top_UG, weights_RU @ bottom_UG
        kept_RG = np.broadcast_to(value_G, top_RG.shape).copy()
        drawn.append(np.divide(top_RG, bottom_RG, out=kept_RG, where=bottom_RG > 0))
    return np.concatenate(drawn)


def _half_widths(drawn_RG: Floats, value_G: Floats, size_G: Floats) -> Floats:
    """Half the width (G, G) of the intervals of all differences, which hold together.

    The bootstrap of n users knows (n - 1) / n of their variance, which is made good here.
    The standard error of a difference is never taken below what half a hit of one user in each
    group would make: where all users of two groups fare alike, resamples do not vary at all.
    """
    off_RG = (drawn_RG - value_G) * np.sqrt(size_G / (size_G - 1))
    floor_G = 0.5 / size_G
    n_groups = len(value_G)
    error_GG = np.zeros((n_groups, n_groups))
    largest_R = np.zeros(len(drawn_RG))
    for a, b in combinations(range(n_groups), 2):
        off_R = off_RG[:, a] - off_RG[:, b]
        error = max(float(off_R.std(ddof=1)), float(np.hypot(floor_G[a], floor_G[b])))
        error_GG[a, b] = error_GG[b, a] = error
        np.maximum(largest_R, np.abs(off_R) / error, out=largest_R)
    half_GG: Floats = max(float(np.quantile(largest_R, LEVEL)), _ONE_PAIR) * error_GG
    return half_GG


def _pairs_apart(
    names: Sequence[str], value_G: Floats, half_GG: Floats
) -> tuple[tuple[str, str], ...]:
    found = []
    for a, b in combinations(range(len(names)), 2):
        difference = float(value_G[a] - value_G[b])
        if abs(difference) > half_GG[a, b]:
            better, worse = (a, b) if difference > 0 else (b, a)
            found.append((abs(difference), names[better], names[worse]))
    return tuple((better, worse) for _, better, worse in sorted(found, reverse=True))

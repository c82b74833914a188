"""Ranking metrics as sums over users, so that drawing users again costs one matrix product.

Every metric but two is a ratio of two sums over queries or targets; kept per user, they make a
resample of whole users a weighting of U numbers. The median rank needs the ranks themselves, and
coverage the lists.

Conventions, the same everywhere:

- A place is a place in the query's whole list of unseen items, ties counted against the model.
- HR@K: the share of queries with at least one target in the first K.
- Recall@K: the share of a query's targets in the first K, averaged over queries. With one target
  (next item) it is HR@K.
- NDCG@K: the sum of 1 / log2(1 + place) over targets in the first K, by the highest such sum that
  the query allows (Järvelin and Kekäläinen 2002, with binary gain), averaged over queries.
- MRR: 1 / place of the first target, averaged over queries.
- median_rank: the median over targets of the rank among items that are no other target of the
  query.
- coverage@K: the share of the items that could be recommended that stand in at least one list of
  K.
- debiased_recall@K: Recall@K with each target weighted by 1 / (its item's training events), as one
  weighted share of all targets. A target is observed the more often the more popular its item is;
  the inverse of that propensity makes items weigh alike. Items without training events have no
  propensity and are left out here, as in the authors' code; slices show them.
  Source: Yang, Cui, Xuan, Wang, Belongie and Estrin, Unbiased Offline Recommender Evaluation for
  Missing-Not-At-Random Implicit Feedback, RecSys 2018, the self-normalised estimator with the
  propensity n^((γ + 1) / 2) at γ = 1; there averaged within users first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.core import DataError, UsageError, nearest

from .metrics import Floats, Ints, Metric
from .ranking import Ranks
from .ranking_tasks import RankingTask

__all__ = [
    "RANKING_METRICS",
    "Outcome",
    "coverage",
    "median_of",
    "names_for",
    "outcome",
    "ranking_metric",
    "user_sums",
]

RANKING_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "HR": Metric(
            "Hit rate", True, True, "Share of queries with what came next among the first K."
        ),
        "Recall": Metric(
            "Recall", True, True, "Share of a query's later items that stand among the first K."
        ),
        "NDCG": Metric(
            "NDCG", True, True, "As recall, but an item counts less the further down it stands."
        ),
        "MRR": Metric("MRR", True, False, "Mean of 1 / place of the first item that came next."),
        "median_rank": Metric(
            "Median rank", False, False, "Half of what came next stands at this rank or above."
        ),
        "coverage": Metric(
            "Coverage", True, True, "Share of the catalogue that stands in at least one list of K."
        ),
        "debiased_recall": Metric(
            "Debiased recall",
            True,
            True,
            "Recall with each item weighted by 1 / its training events, so that hits on popular "
            "items do not decide alone.",
        ),
    }
)
_WITHOUT_K = ("MRR", "median_rank")


def ranking_metric(name: str, who: str = "metric") -> tuple[str, int | None]:
    """Family and K of a metric's name: `HR@100` is ("HR", 100), `MRR` is ("MRR", None).

    Raises:
        UsageError: For a name that is none, with the nearest.
    """
    family, at, number = name.partition("@")
    known = [f if f in _WITHOUT_K else f"{f}@100" for f in RANKING_METRICS]
    if family not in RANKING_METRICS or (family in _WITHOUT_K) == bool(at):
        raise UsageError(f"{who}: there is no ranking metric {name!r}.{nearest(name, known)}")
    if not at:
        return family, None
    if not re.fullmatch(r"[1-9][0-9]*", number):
        raise UsageError(f"{who}: {name!r} needs a whole number above 0 after the @, as in HR@100.")
    return family, int(number)


def names_for(ks: Sequence[int]) -> tuple[str, ...]:
    """Every metric, those with a K at each of `ks`, in the order of tables."""
    found = []
    for family in RANKING_METRICS:
        found += [family] if family in _WITHOUT_K else [f"{family}@{k}" for k in ks]
    return tuple(found)


@dataclass(frozen=True)
class Outcome:
    """What the metrics need of one recommender's ranks, by query and target.

    Attributes:
        user_Q: The user of each query, counted from 0 among those that are here.
        users: How many there are.
        offsets_Q1: Query q's targets lie from offsets_Q1[q] to offsets_Q1[q + 1]; none is empty.
        rank_P: Rank of each target.
        position_P: Its place in the whole list.
        weight_P: Its weight in the debiased metric, 0 for items without training events.
    """

    user_Q: Ints
    users: int
    offsets_Q1: Ints
    rank_P: Ints
    position_P: Ints
    weight_P: Floats

    @cached_property
    def row_P(self) -> Ints:
        """The query of each target."""
        return np.repeat(np.arange(len(self.user_Q)), np.diff(self.offsets_Q1))

    @cached_property
    def best_Q(self) -> Ints:
        """The first place at which each query finds a target."""
        return np.minimum.reduceat(self.position_P, self.offsets_Q1[:-1])

    def take(self, keep_P: NDArray[np.bool_]) -> Outcome:
        """The same with some targets only; queries and users that lose all of theirs are gone."""
        counts_Q = np.bincount(self.row_P[keep_P], minlength=len(self.user_Q))
        kept_Q = counts_Q > 0
        present, user_Q = np.unique(self.user_Q[kept_Q], return_inverse=True)
        return Outcome(
            user_Q=user_Q.astype(np.int64),
            users=len(present),
            offsets_Q1=np.concatenate([[0], np.cumsum(counts_Q[kept_Q])]),
            rank_P=self.rank_P[keep_P],
            position_P=self.position_P[keep_P],
            weight_P=self.weight_P[keep_P],
        )


def outcome(ranks: Ranks, task: RankingTask) -> Outcome:
    """Bring ranks into the form that metrics read.

    Raises:
        DataError: When the ranks are of another task.
    """
    same = (
        ranks.kind == task.kind
        and ranks.n_items == task.n_items
        and np.array_equal(ranks.user_Q, task.user_Q)
        and np.array_equal(ranks.targets.offsets_Q1, task.targets.offsets_Q1)
        and np.array_equal(ranks.targets.items, task.targets.items)
    )
    if not same:
        raise DataError(
            f"The ranks of {ranks.recommender} are of another task ({ranks.kind}, "
            f"{len(ranks.user_Q)} queries) than the one given ({task.kind}, {len(task)} queries). "
            "Score ranks with the task that they were made for."
        )
    present, user_Q = np.unique(task.user_Q, return_inverse=True)
    counts_P = task.popularity_I[task.targets.items].astype(np.float64)
    return Outcome(
        user_Q=user_Q.astype(np.int64),
        users=len(present),
        offsets_Q1=task.targets.offsets_Q1,
        rank_P=ranks.rank_P,
        position_P=ranks.position_P,
        weight_P=np.divide(1.0, counts_P, out=np.zeros_like(counts_P), where=counts_P > 0),
    )


def user_sums(rows: Outcome, name: str) -> tuple[Floats, Floats]:
    """Numerator and denominator (U) of a metric, by user: the metric is the ratio of their sums.

    Raises:
        UsageError: For the median rank and coverage, which are no such ratio.
    """
    top_Q, bottom_Q = _query_sums(rows, name)
    top_U = np.bincount(rows.user_Q, weights=top_Q, minlength=rows.users).astype(np.float64)
    bottom_U = np.bincount(rows.user_Q, weights=bottom_Q, minlength=rows.users).astype(np.float64)
    return top_U, bottom_U


def _query_sums(rows: Outcome, name: str) -> tuple[Floats, Floats]:
    family, k = ranking_metric(name)
    starts_Q = rows.offsets_Q1[:-1]
    ones_Q = np.ones(len(rows.user_Q))
    if family == "MRR":
        return 1.0 / rows.best_Q, ones_Q
    if k is None or family == "coverage":
        raise UsageError(f"{name} is no mean over queries. Take HR, Recall, NDCG or MRR.")
    if family == "HR":
        return (rows.best_Q <= k).astype(np.float64), ones_Q
    hit_P = rows.position_P <= k
    if family == "Recall":
        return np.add.reduceat(hit_P.astype(np.float64), starts_Q) / np.diff(
            rows.offsets_Q1
        ), ones_Q
    if family == "debiased_recall":
        return (
            np.add.reduceat(hit_P * rows.weight_P, starts_Q),
            np.add.reduceat(rows.weight_P, starts_Q),
        )
    gain_P = np.where(hit_P, 1.0 / np.log2(1.0 + rows.position_P), 0.0)
    best_K1 = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, k + 1)))])
    ideal_Q = best_K1[np.minimum(np.diff(rows.offsets_Q1), k)]
    return np.add.reduceat(gain_P, starts_Q) / ideal_Q, ones_Q


def median_of(rows: Outcome, weights_RU: NDArray[Any] | None = None) -> Floats:
    """Median rank over targets; with weights, one for each row of user counts (R, U).

    A user drawn twice counts twice, exactly as if the targets were written down twice.
    """
    if weights_RU is None:
        return np.array([np.median(rows.rank_P)])
    order_P = np.argsort(rows.rank_P, kind="stable")
    rank_P, user_P = rows.rank_P[order_P], rows.user_Q[rows.row_P[order_P]]
    found = np.empty(len(weights_RU))
    for number, weight_U in enumerate(weights_RU):
        total_P = np.cumsum(weight_U[user_P])
        middle = ((total_P[-1] - 1) // 2, total_P[-1] // 2)
        places = np.searchsorted(total_P, middle, side="right")
        found[number] = rank_P[places].mean()
    return found


def coverage(ranks: Ranks, k: int) -> float:
    """Share of the items that could be recommended that stand in at least one list of K.

    Raises:
        UsageError: When lists of that length were not counted.
    """
    if k not in ranks.shown:
        raise UsageError(
            f"coverage@{k} needs the lists of {k}, but {ranks.recommender} was ranked with ks="
            f"{tuple(ranks.shown)}. Give rank_targets ks=({k},)."
        )
    return float(np.count_nonzero(ranks.shown[k]) / ranks.pool)

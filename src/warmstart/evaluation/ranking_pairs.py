"""Two recommenders on the same queries: the difference, and whether chance explains it.

The difference may be told of some of the targets alone, such as those whose items training never
saw: the places stay those of the whole lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from warmstart.core import DataError, UsageError

from .paired import Paired, judged
from .ranking import Ranks
from .ranking_metrics import RANKING_METRICS, Outcome, outcome, ranking_metric, user_sums
from .ranking_scores import drawn_values, mean_value, runs_of
from .ranking_tasks import RankingTask

__all__ = ["RankedPair", "compare_recommenders"]


class RankedPair(Paired):
    """Recommender a minus recommender b on the same queries; `discordant` counts users."""

    @property
    def winner(self) -> Literal["a", "b"] | None:
        """The one that is significantly better, by the metric's direction; None where neither."""
        if not self.significant:
            return None
        better = RANKING_METRICS[ranking_metric(self.metric)[0]].higher_is_better
        return "a" if (self.difference > 0) == better else "b"


def compare_recommenders(
    ranks_a: Ranks | Sequence[Ranks],
    ranks_b: Ranks | Sequence[Ranks],
    task: RankingTask,
    metric: str = "HR@100",
    *,
    only: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> RankedPair:
    """Compare two recommenders on the same queries by the bootstrap of their difference over users.

    Each draw of users holds for both; training seeds, where one has several, are drawn apart. With
    fewer than six users on whom they differ the interval is widened to hold 0, as for two arms of
    classification.

    Args:
        ranks_a: Ranks of one; of several training seeds, one entry a seed.
        ranks_b: Ranks of the other.
        task: The task that both were given.
        metric: What to compare; any but coverage.
        only: True or false for each query or each target: those that are compared; None for all.
        seed: Root seed of the resampling.
        resamples: Draws of users.

    Returns:
        The difference a minus b with its interval; `n` is the queries that were compared.

    Raises:
        DataError: When the ranks or `only` are of another task, or `only` leaves nothing.
        UsageError: For an unknown metric or coverage, or too few resamples.
    """
    family = ranking_metric(metric, "compare_recommenders.metric")[0]
    if family == "coverage":
        raise UsageError(
            "compare_recommenders cannot draw users again for coverage, which shrinks with every "
            "user left out. Take HR, Recall, NDCG, MRR, debiased_recall or median_rank."
        )
    sides = (runs_of(ranks_a, "compare_recommenders"), runs_of(ranks_b, "compare_recommenders"))
    keep_P = None if only is None else _mask(only, task)
    a, b = (
        [rows if keep_P is None else rows.take(keep_P) for rows in (outcome(r, task) for r in runs)]
        for runs in sides
    )
    difference = mean_value(a, sides[0], metric) - mean_value(b, sides[1], metric)
    drawn_a, drawn_b = (
        drawn_values(rows, [metric], seed, resamples, "pair", runs=name)[metric]
        for name, rows in (("a", a), ("b", b))
    )
    discordant = _discordant([*a, *b], metric)
    low, high, p_value = judged(difference, drawn_a - drawn_b, discordant)
    return RankedPair(
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        n=len(a[0].user_Q),
        metric=metric,
        discordant=discordant,
    )


def _mask(only: Sequence[object], task: RankingTask) -> np.ndarray:
    """Which targets are compared."""
    mask = np.asarray(only)
    n_targets = len(task.targets.items)
    if mask.dtype != np.bool_ or mask.shape not in ((len(task),), (n_targets,)):
        raise DataError(
            f"compare_recommenders.only must hold true or false for each of the {len(task)} "
            f"queries or the {n_targets} targets, got {mask.dtype} of shape {mask.shape}."
        )
    keep_P: np.ndarray = mask if len(mask) == n_targets else mask[task.targets.rows]
    if not keep_P.any():
        raise DataError("compare_recommenders.only leaves no target to compare.")
    return keep_P


def _discordant(outcomes: Sequence[Outcome], metric: str) -> int:
    """Users on whom the runs of both recommenders are not all alike."""
    first = outcomes[0]
    if ranking_metric(metric)[0] == "median_rank":
        differ_P = np.zeros(len(first.rank_P), dtype=bool)
        for rows in outcomes[1:]:
            differ_P |= rows.rank_P != first.rank_P
        return len(np.unique(first.user_Q[first.row_P[differ_P]]))
    sums = np.stack([user_sums(rows, metric)[0] for rows in outcomes])
    return int(np.count_nonzero((sums != sums[0]).any(axis=0)))

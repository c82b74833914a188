"""The scores of one recommender with intervals over users, and over training seeds.

Queries of one user are alike, so whole users are drawn; where a recommender was trained with
several seeds, a metric is the mean over the drawn seeds. Coverage has no interval: a draw of users
with replacement holds 63 % of them, whose lists cover fewer items by construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.core import Config, DataError, UsageError

from .metrics import Floats
from .ranking import KS, Ranks
from .ranking_metrics import (
    RANKING_METRICS,
    Outcome,
    coverage,
    median_of,
    names_for,
    outcome,
    ranking_metric,
    user_sums,
)
from .ranking_tasks import Kind, RankingTask
from .resampling import percentile_interval, proportion_interval, row_draws, seed_weights
from .scores import Score

__all__ = [
    "RankingScores",
    "drawn_values",
    "group_members",
    "mean_value",
    "measure_ranking",
    "runs_of",
    "score_ranking",
    "user_weights",
]

_SHARES = ("HR", "Recall", "NDCG", "debiased_recall")


class RankingScores(Config):
    """Everything measured of one recommender on a task.

    Attributes:
        recommender: Its name.
        kind: Of the task.
        primary: The metric that decides.
        higher_is_better: Its direction.
        n: Queries.
        n_targets: Targets.
        n_users: Users who asked; intervals draw them.
        n_items: Items that could be recommended.
        left_out: Reason to number of targets that were not asked for.
        unscored: Targets whose score was NaN, counted as last, of all seeds together.
        metrics: Metric to score; `n` is the queries, or the targets for the median rank and the
            debiased recall, which is missing where no target's item had been seen in training.
        slices: Slice to label to metric to score.
        seeds: Training seeds whose mean the metrics are.
    """

    recommender: str
    kind: Kind
    primary: str
    higher_is_better: bool
    n: int
    n_targets: int
    n_users: int
    n_items: int
    left_out: dict[str, int]
    unscored: int
    metrics: dict[str, Score]
    slices: dict[str, dict[str, dict[str, Score]]]
    seeds: int = 1

    @property
    def main(self) -> Score:
        """The primary metric's score."""
        return self.metrics[self.primary]


def user_weights(users: int, resamples: int, seed: int, *name: str) -> Iterator[NDArray[np.int64]]:
    """How often each user is drawn when whole users are drawn with replacement.

    Args:
        users: U.
        resamples: How many samples in all, at least 100.
        seed: Root seed.
        *name: Name of the random stream, after "bootstrap".

    Yields:
        (r, U) counts whose rows sum to U; r × U stays under a million, or r is 1.

    Raises:
        UsageError: For fewer than 100 resamples.
    """
    if resamples < 100:
        raise UsageError(
            f"resamples must be at least 100, got {resamples}. Typical values: 1000 to 10000."
        )
    for index_RU in row_draws(users, resamples, seed, *name):
        flat = index_RU + users * np.arange(len(index_RU))[:, None]
        yield np.bincount(flat.ravel(), minlength=index_RU.size).reshape(index_RU.shape)


def runs_of(ranks: Ranks | Sequence[Ranks], who: str) -> tuple[Ranks, ...]:
    """The ranks of every training seed.

    Raises:
        UsageError: For none at all.
    """
    runs = (ranks,) if isinstance(ranks, Ranks) else tuple(ranks)
    if not runs:
        raise UsageError(f"{who} needs the ranks of one training seed or more, got none.")
    return runs


def measure_ranking(ranks: Ranks, task: RankingTask, names: Sequence[str]) -> dict[str, float]:
    """Some metrics without their intervals.

    Raises:
        DataError: When the ranks are of another task, or the debiased recall of new items alone is
            asked for.
        UsageError: For an unknown metric.
    """
    rows = outcome(ranks, task)
    return {name: _value(rows, ranks, name) for name in names}


def score_ranking(
    ranks: Ranks | Sequence[Ranks],
    task: RankingTask,
    *,
    ks: Sequence[int] = KS,
    primary: str | None = None,
    slices: Mapping[str, Sequence[object]] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> RankingScores:
    """Score one recommender's ranks, with intervals by the bootstrap over users and seeds.

    Args:
        ranks: What `rank_targets` found; of several training seeds, one entry a seed.
        task: The task that it was given.
        ks: Lengths of the lists; `ranks` must have counted them for coverage.
        primary: The metric that decides; None takes HR at the longest list.
        slices: For each slice a label for each query or for each target. A label's scores are
            those of its queries or targets alone, in the places of the whole list. None as a
            label leaves a row out, a tuple puts it under each of its labels.
        seed: Root seed of the resampling.
        resamples: Draws of users.

    Raises:
        DataError: When ranks or slices do not fit the task.
        UsageError: For an unknown metric, no K at all or too few resamples.
    """
    if not ks:
        raise UsageError("ks must name at least one list length, got none. Typical: 10 and 100.")
    decides = f"HR@{max(ks)}" if primary is None else primary
    names = names_for(sorted(set(ks)))
    if decides not in names:
        ranking_metric(decides, "score_ranking.primary")
        raise UsageError(
            f"score_ranking.primary: {decides} is not among ks={tuple(ks)}. Add its K."
        )
    runs = runs_of(ranks, "score_ranking")
    outcomes = [outcome(one, task) for one in runs]
    return RankingScores(
        recommender=runs[0].recommender,
        kind=task.kind,
        primary=decides,
        higher_is_better=RANKING_METRICS[ranking_metric(decides)[0]].higher_is_better,
        n=len(task),
        n_targets=len(task.targets.items),
        n_users=outcomes[0].users,
        n_items=runs[0].pool,
        left_out=dict(task.left_out),
        unscored=sum(one.unscored for one in runs),
        metrics=_with_intervals(outcomes, runs, names, seed, resamples),
        slices={
            name: _by_label(outcomes, runs, task, name, labels, names, seed, resamples)
            for name, labels in (slices or {}).items()
        },
        seeds=len(runs),
    )


def group_members(labels: Sequence[object], task: RankingTask, who: str) -> dict[str, NDArray[Any]]:
    """Which targets stand under each label.

    Args:
        labels: One for each query or for each target: text or a number, None for neither, or a
            tuple, list or set of several.
        task: The task.
        who: Begins the message.

    Returns:
        Label to the mask (P) of its targets, in the order of the labels' text.

    Raises:
        DataError: When there are as many labels as neither queries nor targets.
    """
    n_targets = len(task.targets.items)
    if len(labels) not in (len(task), n_targets):
        raise DataError(
            f"{who} must hold one label for each of the {len(task)} queries or the {n_targets} "
            f"targets, got {len(labels)}."
        )
    members: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        several = label if isinstance(label, tuple | list | set | frozenset) else (label,)
        for name in {str(one) for one in several if one is not None}:
            members.setdefault(name, []).append(row)
    found = {}
    for name in sorted(members):
        mask = np.zeros(len(labels), dtype=bool)
        mask[members[name]] = True
        found[name] = mask if len(labels) == n_targets else mask[task.targets.rows]
    return found


def _by_label(
    outcomes: Sequence[Outcome],
    runs: Sequence[Ranks],
    task: RankingTask,
    name: str,
    labels: Sequence[object],
    names: Sequence[str],
    seed: int,
    resamples: int,
) -> dict[str, dict[str, Score]]:
    members = group_members(labels, task, f"slices[{name!r}]")
    kept = [metric for metric in names if not metric.startswith("coverage@")]
    found = {}
    for label, keep_P in members.items():
        parts = [rows.take(keep_P) for rows in outcomes]
        found[label] = _with_intervals(parts, runs, kept, seed, resamples, name, label)
    return found


def _value(rows: Outcome, ranks: Ranks, name: str) -> float:
    family, k = ranking_metric(name)
    if family == "coverage":
        assert k is not None
        return coverage(ranks, k)
    if family == "median_rank":
        return float(median_of(rows)[0])
    top_U, bottom_U = user_sums(rows, name)
    if not bottom_U.any():
        raise DataError(
            f"{name} cannot be measured: no target's item has events before the cut, by which "
            "targets are weighted. Take another metric."
        )
    return float(top_U.sum() / bottom_U.sum())


def mean_value(outcomes: Sequence[Outcome], runs: Sequence[Ranks], name: str) -> float:
    """A metric's mean over training seeds.

    Raises:
        DataError: When the debiased recall of new items alone is asked for.
    """
    pairs = zip(outcomes, runs, strict=True)
    return sum(_value(rows, ranks, name) for rows, ranks in pairs) / len(runs)


def drawn_values(
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    seed: int,
    resamples: int,
    *stream: str,
    runs: str = "",
) -> dict[str, Floats]:
    """Metrics on resampled users and training seeds.

    Args:
        outcomes: One a training seed; all see the same draws of users.
        names: Any metrics but coverage.
        seed: Root seed of the draws.
        resamples: R.
        *stream: Further name of the stream of users.
        runs: Further name of the stream of seeds: recommenders' seeds are drawn apart.

    Returns:
        Metric to its R values; a draw without any weight for a metric gives 0.
    """
    parts = [_drawn(rows, names, seed, resamples, *stream) for rows in outcomes]
    if len(parts) == 1:
        return parts[0]
    weights_RS = seed_weights(len(parts), resamples, seed, "ranking", runs, *stream)
    return {
        name: np.einsum("rs,sr->r", weights_RS, np.stack([one[name] for one in parts]))
        for name in names
    }


def _drawn(
    rows: Outcome, names: Sequence[str], seed: int, resamples: int, *stream: str
) -> dict[str, Floats]:
    """Metrics of one training seed on resampled users."""
    ratios = [name for name in names if name != "median_rank"]
    sums = [user_sums(rows, name) for name in ratios]
    tops_UM = np.stack([top for top, _ in sums], axis=1) if sums else np.zeros((rows.users, 0))
    bottoms_UM = np.stack([low for _, low in sums], axis=1) if sums else tops_UM
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for weights_RU in user_weights(rows.users, resamples, seed, "users", *stream):
        top_RM, bottom_RM = weights_RU @ tops_UM, weights_RU @ bottoms_UM
        values_RM = np.divide(top_RM, bottom_RM, out=np.zeros_like(top_RM), where=bottom_RM > 0)
        for column, name in enumerate(ratios):
            found[name].append(values_RM[:, column])
        if "median_rank" in found:
            found["median_rank"].append(median_of(rows, weights_RU))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _with_intervals(
    outcomes: Sequence[Outcome],
    runs: Sequence[Ranks],
    names: Sequence[str],
    seed: int,
    resamples: int,
    *stream: str,
) -> dict[str, Score]:
    rows = outcomes[0]
    weighted = int(np.count_nonzero(rows.weight_P))
    absent = () if weighted else ("debiased_recall",)
    names = [name for name in names if ranking_metric(name)[0] not in absent]
    drawable = [name for name in names if ranking_metric(name)[0] != "coverage"]
    drawn = drawn_values(outcomes, drawable, seed, resamples, *stream)
    counts = {"median_rank": len(rows.rank_P), "debiased_recall": weighted}
    found = {}
    for name in names:
        family = ranking_metric(name)[0]
        value = mean_value(outcomes, runs, name)
        low: float | None = None
        high: float | None = None
        if rows.users > 1 and family in _SHARES:
            low, high = proportion_interval(drawn[name], value, rows.users)
        elif rows.users > 1 and family != "coverage":
            low, high = percentile_interval(drawn[name], value)
        n = counts.get(family, len(rows.user_Q))
        found[name] = Score(value=value, low=low, high=high, n=n)
    return found

"""The scores of one arm on the held-out rows, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from warmstart.core import Config, DataError

from .metrics import (
    ECE_BINS,
    METRICS,
    Ints,
    Outcomes,
    check_metrics,
    check_proba,
    check_truth,
    metric_names,
    outcomes,
    values_at,
)
from .resampling import cluster_numbers, percentile_interval, proportion_interval, resampled

__all__ = [
    "ClassScore",
    "ReliabilityBin",
    "Score",
    "Scores",
    "primary_metric",
    "score",
    "score_metric",
]

_SHARES = ("accuracy", "top3_accuracy")


class Score(Config):
    """One number with its 95 % bootstrap interval.

    Attributes:
        value: The mean over training seeds.
        low: Lower bound, or None where a single row allows no interval.
        high: Upper bound, or None.
        n: Held-out rows behind it.
    """

    value: float
    low: float | None
    high: float | None
    n: int


class ClassScore(Config):
    """How one class fares.

    Attributes:
        precision: Share of its predictions that are right; None where it was never predicted.
        recall: Share of its rows that are found; None where it has no row.
        f1: Harmonic mean of both; None where it neither occurs nor was predicted.
        n: Its held-out rows.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    n: int


class ReliabilityBin(Config):
    """Rows whose confidence lies in (low, high]; over all seeds.

    Attributes:
        low: Lower edge.
        high: Upper edge.
        n: Predictions in the bin.
        confidence: Their mean confidence.
        accuracy: The share of them that is right.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class Scores(Config):
    """Everything measured of one arm on the held-out rows.

    Attributes:
        primary: The metric that decides.
        higher_is_better: Its direction.
        n: Held-out rows.
        seeds: Training seeds that the values average; intervals resample them with the rows.
        invalid: Predictions with a score that is not finite, counted as wrong (over all seeds).
        metrics: Metric to score.
        per_class: Label name to its score, over all seeds.
        confusion: Rows are true classes, columns predicted ones, added up over seeds; predictions
            that are not finite stand in no column.
        reliability: Non-empty confidence bins.
        by_group: Group to accuracy, where groups were given.
    """

    primary: str
    higher_is_better: bool
    n: int
    seeds: int = 1
    invalid: int = 0
    metrics: dict[str, Score]
    per_class: dict[str, ClassScore]
    confusion: list[list[int]]
    reliability: tuple[ReliabilityBin, ...] = ()
    by_group: dict[str, Score] | None = None

    @property
    def main(self) -> Score:
        """The primary metric's score."""
        return self.metrics[self.primary]


def primary_metric(labels_N: Any) -> str:
    """Accuracy, or macro F1 where the rarest class holds under 5 % of the labelled rows.

    Args:
        labels_N: Class numbers; -1 (unknown) is left out.

    Raises:
        DataError: When no row is labelled.
    """
    labels = np.asarray(labels_N)
    labels = labels[labels >= 0]
    if labels.size == 0:
        raise DataError("primary_metric needs at least one labelled row, got none.")
    counts = np.unique(labels, return_counts=True)[1]
    return "macro_f1" if counts.min() < 0.05 * labels.size else "accuracy"


def score(
    proba_NC: Any,
    truth_N: Any,
    label_names: Sequence[str],
    *,
    primary: str = "accuracy",
    groups: Iterable[object] | None = None,
    clusters: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Scores:
    """Score one arm's predictions with bootstrap intervals.

    Args:
        proba_NC: Class probabilities (N, C), or (S, N, C) for S training seeds; then every value
            is the mean over seeds and intervals resample seeds and rows. Rows that are not finite
            count as wrong.
        truth_N: True class numbers.
        label_names: C distinct names.
        primary: The metric that decides.
        groups: A value for each row, to get accuracy by group.
        clusters: A value for each row where rows come in clusters (several of one author), which
            the bootstrap then draws whole; often the same as `groups`.
        seed: Root seed of the resampling.
        resamples: Bootstrap samples. Time grows with N × resamples × S: about a second or two
            for 10,000 rows and 1,000 samples.

    Returns:
        The scores.

    Raises:
        DataError: For probabilities, labels, names or groups that do not fit one another.
        UsageError: For an unknown metric or too few resamples.
    """
    names = list(label_names)
    n_classes = check_proba(proba_NC).shape[2]
    truth = check_truth(truth_N, n_classes)
    proba_SNC = check_proba(proba_NC, len(truth))
    if len(names) != n_classes or len(set(names)) != n_classes:
        raise DataError(
            f"label_names must be {n_classes} distinct names, one for each column of proba, got "
            f"{len(names)} ({len(set(names))} distinct)."
        )
    check_metrics([primary], n_classes, "score.primary")
    runs = [outcomes(proba_NC, truth) for proba_NC in proba_SNC]
    return Scores(
        primary=primary,
        higher_is_better=METRICS[primary].higher_is_better,
        n=len(truth),
        seeds=len(runs),
        invalid=sum(rows.invalid for rows in runs),
        metrics=_with_intervals(
            runs,
            metric_names(n_classes),
            seed,
            resamples,
            clusters_N=cluster_numbers(clusters, len(truth), "score"),
        ),
        per_class=_per_class(runs, names),
        confusion=_confusion(runs).tolist(),
        reliability=tuple(_reliability(runs)),
        by_group=None if groups is None else _by_group(runs, list(groups), seed, resamples),
    )


def score_metric(
    proba_NC: Any, truth_N: Any, metric: str, *, seed: int = 0, resamples: int = 1000
) -> Score:
    """One metric of one arm with its bootstrap interval: `score` where nothing else is wanted.

    Args:
        proba_NC: As for `score`.
        truth_N: True class numbers.
        metric: Which.
        seed: Root seed of the resampling.
        resamples: Bootstrap samples.

    Raises:
        DataError: For probabilities and labels that do not fit one another.
        UsageError: For an unknown metric or too few resamples.
    """
    n_classes = check_proba(proba_NC).shape[2]
    truth = check_truth(truth_N, n_classes)
    proba_SNC = check_proba(proba_NC, len(truth))
    check_metrics([metric], n_classes, "score_metric.metric")
    runs = [outcomes(one_NC, truth) for one_NC in proba_SNC]
    return _with_intervals(runs, [metric], seed, resamples)[metric]


def _with_intervals(
    runs: Sequence[Outcomes],
    names: Sequence[str],
    seed: int,
    resamples: int,
    stream: Sequence[str] = (),
    clusters_N: Ints | None = None,
) -> dict[str, Score]:
    n_rows = len(runs[0].truth_N)
    everything = np.arange(n_rows)[None]
    values = [values_at(rows, everything, names) for rows in runs]
    drawn = resampled(
        [runs], names, seed=seed, resamples=resamples, stream=stream, clusters_N=clusters_N
    )[0]
    draws = n_rows if clusters_N is None else int(clusters_N.max()) + 1
    found = {}
    for name in names:
        value = float(np.mean([one[name][0] for one in values]))
        low: float | None = None
        high: float | None = None
        if draws > 1 and name in _SHARES:
            low, high = proportion_interval(drawn[name], value, draws)
        elif draws > 1:
            low, high = percentile_interval(drawn[name], value)
        found[name] = Score(value=value, low=low, high=high, n=n_rows)
    return found


def _confusion(runs: Sequence[Outcomes]) -> Ints:
    n_classes = runs[0].n_classes
    total_CC = np.zeros((n_classes, n_classes), dtype=np.int64)
    for rows in runs:
        keys = rows.truth_N * (n_classes + 1) + rows.predicted_N
        flat = np.bincount(keys, minlength=n_classes * (n_classes + 1))
        total_CC += flat.reshape(n_classes, n_classes + 1)[:, :n_classes]
    return total_CC


def _per_class(runs: Sequence[Outcomes], names: Sequence[str]) -> dict[str, ClassScore]:
    confusion_CC = _confusion(runs)
    truth_C = np.bincount(runs[0].truth_N, minlength=len(names))
    found = {}
    for number, name in enumerate(names):
        right = int(confusion_CC[number, number])
        predicted = int(confusion_CC[:, number].sum())
        actual = int(truth_C[number]) * len(runs)
        found[name] = ClassScore(
            precision=right / predicted if predicted else None,
            recall=right / actual if actual else None,
            f1=2 * right / (actual + predicted) if actual + predicted else None,
            n=int(truth_C[number]),
        )
    return found


def _reliability(runs: Sequence[Outcomes]) -> list[ReliabilityBin]:
    bins = np.concatenate([rows.bin_N for rows in runs])
    confidence = np.concatenate([rows.confidence_N for rows in runs])
    right = np.concatenate([rows.right_N for rows in runs])
    found = []
    for number in range(ECE_BINS):
        inside = bins == number
        if inside.any():
            found.append(
                ReliabilityBin(
                    low=number / ECE_BINS,
                    high=(number + 1) / ECE_BINS,
                    n=int(inside.sum()),
                    confidence=float(confidence[inside].mean()),
                    accuracy=float(right[inside].mean()),
                )
            )
    return found


def _by_group(
    runs: Sequence[Outcomes], groups: Sequence[object], seed: int, resamples: int
) -> dict[str, Score]:
    n_rows = len(runs[0].truth_N)
    if len(groups) != n_rows:
        raise DataError(
            f"groups must hold one value for each of the {n_rows} rows, got {len(groups)}."
        )
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault("(none)" if group is None else str(group), []).append(row)
    found = {}
    for group, rows in sorted(members.items()):
        index = np.asarray(rows)
        part = [run.take(index) for run in runs]
        scored = _with_intervals(part, ["accuracy"], seed, resamples, ("group", group))
        found[group] = scored["accuracy"]
    return found

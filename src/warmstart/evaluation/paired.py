"""Two arms on the same held-out rows: the difference, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from warmstart.core import Config, DataError

from .metrics import METRICS, Outcomes, check_metrics, check_proba, check_truth, outcomes, values_at
from .resampling import cluster_numbers, percentile_interval, resampled

__all__ = ["Paired", "compare_arms", "judged"]

_FEWEST = 6


class Paired(Config):
    """Arm a minus arm b on the same rows.

    Attributes:
        difference: Metric of a minus metric of b, each the mean over its seeds.
        low: Lower bound of its 95 % bootstrap interval.
        high: Upper bound.
        p_value: Two-sided, from the same resamples: twice the smaller share on either side of 0.
        n: Held-out rows.
        metric: What was compared.
        discordant: Rows that the two arms treat differently (clusters that hold such rows, where
            rows come in clusters); nothing else carries evidence.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    metric: str
    discordant: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    @property
    def turned(self) -> Paired:
        """The same comparison as b minus a."""
        return self.model_copy(
            update={"difference": -self.difference, "low": -self.high, "high": -self.low}
        )

    @property
    def winner(self) -> Literal["a", "b"] | None:
        """The arm that is significantly better, by the metric's direction; None where neither."""
        if not self.significant:
            return None
        return "a" if (self.difference > 0) == METRICS[self.metric].higher_is_better else "b"


def compare_arms(
    proba_a: Any,
    proba_b: Any,
    truth_N: Any,
    *,
    metric: str = "accuracy",
    clusters: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = 2000,
    paired_seeds: bool = False,
) -> Paired:
    """Compare two arms on the same rows by the bootstrap of their difference.

    Each resample draws the rows once for both arms, and each arm's training seeds on their own
    where it has several. With fewer than six rows on which the arms differ no sign test reaches
    5 % (2 × 0.5^5 = 0.0625), whatever the resamples say; the interval is then widened to hold 0.

    Args:
        proba_a: Class probabilities (N, C), or (S, N, C) for S training seeds.
        proba_b: The same for the other arm; its number of seeds may differ.
        truth_N: True class numbers.
        metric: What to compare.
        clusters: A value for each row where rows come in clusters, which are drawn whole.
        seed: Root seed of the resampling.
        resamples: Bootstrap samples.
        paired_seeds: Whether run s of both arms had the same training rows: runs are then drawn
            together. Both must have as many.

    Returns:
        The difference a minus b with its interval.

    Raises:
        DataError: For probabilities or labels that do not fit one another.
        UsageError: For an unknown metric or too few resamples.
    """
    a_SNC = check_proba(proba_a, who="proba_a")
    b_SNC = check_proba(proba_b, who="proba_b")
    if a_SNC.shape[1:] != b_SNC.shape[1:]:
        raise DataError(
            "compare_arms needs both arms on the same rows and classes, got "
            f"{a_SNC.shape[1:]} and {b_SNC.shape[1:]} (rows, classes)."
        )
    if paired_seeds and len(a_SNC) != len(b_SNC):
        raise DataError(
            "compare_arms: paired runs need as many of each arm, got "
            f"{len(a_SNC)} and {len(b_SNC)}."
        )
    n_classes = a_SNC.shape[2]
    truth = check_truth(truth_N, n_classes)
    check_proba(proba_a, len(truth), who="proba_a")
    check_metrics([metric], n_classes, "compare_arms.metric")
    arms = [[outcomes(proba_NC, truth) for proba_NC in arm] for arm in (a_SNC, b_SNC)]
    everything = np.arange(len(truth))[None]
    value_a, value_b = (
        float(np.mean([values_at(rows, everything, [metric])[metric][0] for rows in arm]))
        for arm in arms
    )
    difference = value_a - value_b
    clusters_N = cluster_numbers(clusters, len(truth), "compare_arms")
    drawn_a, drawn_b = resampled(
        arms,
        [metric],
        seed=seed,
        resamples=resamples,
        stream=["pair"],
        paired_seeds=paired_seeds,
        clusters_N=clusters_N,
    )
    discordant = _discordant(arms[0], arms[1], metric, clusters_N)
    low, high, p_value = judged(difference, drawn_a[metric] - drawn_b[metric], discordant)
    return Paired(
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        n=len(truth),
        metric=metric,
        discordant=discordant,
    )


def judged(
    difference: float, drawn_R: NDArray[np.float64], discordant: int
) -> tuple[float, float, float]:
    """Interval and p-value of a difference from its resampled values.

    Args:
        difference: On all rows.
        drawn_R: On each resample.
        discordant: Rows (or clusters) that tell the two arms apart; fewer than six prove nothing.

    Returns:
        Lower bound, upper bound, two-sided p-value.
    """
    drawn_R = np.where(np.abs(drawn_R) < 1e-12, 0.0, drawn_R)
    low, high = percentile_interval(drawn_R, difference)
    tail = min(np.count_nonzero(drawn_R <= 0), np.count_nonzero(drawn_R >= 0))
    p_value = min(1.0, 2 * (1 + int(tail)) / (1 + len(drawn_R)))
    if discordant < _FEWEST:
        low, high = min(low, 0.0), max(high, 0.0)
        p_value = max(p_value, min(1.0, 2 * 0.5**discordant))
    return low, high, p_value


def _discordant(
    arm_a: list[Outcomes], arm_b: list[Outcomes], metric: str, clusters_N: NDArray[Any] | None
) -> int:
    """Rows (or clusters) on which the runs of both arms are not all alike."""
    seen = np.stack([_looked_at(rows, metric) for rows in (*arm_a, *arm_b)])
    differ_N = (seen != seen[0]).any(axis=0)
    if clusters_N is not None:
        return len(np.unique(clusters_N[differ_N]))
    return int(np.count_nonzero(differ_N))


def _looked_at(rows: Outcomes, metric: str) -> NDArray[Any]:
    if metric in {"accuracy", "balanced_accuracy"}:
        return rows.right_N
    if metric == "top3_accuracy":
        return rows.in_top3_N
    if metric == "log_loss":
        return rows.loss_N
    if metric == "ece":
        return rows.gap_N
    return rows.predicted_N

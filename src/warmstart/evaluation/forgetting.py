"""Forgetting: what an old task lost, on the same rows before and after."""

from __future__ import annotations

from typing import Any

from warmstart.core import Config, UsageError

from .metrics import METRICS, measure
from .paired import compare_arms

__all__ = ["Forgetting", "check_budget", "measure_forgetting"]


class Forgetting(Config):
    """How much worse an old task is served after a new one was learned.

    Attributes:
        metric: What was measured on the old task.
        before: Its value by the untouched model.
        after: Its value by the adapted model.
        drop: What was lost: above 0 is worse, in the metric's own unit; 0.02 of accuracy is two
            points.
        low: Lower bound of the drop's 95 % interval, paired on rows.
        high: Upper bound.
        n: Old rows.
    """

    metric: str
    before: float
    after: float
    drop: float
    low: float
    high: float
    n: int

    @property
    def points(self) -> float:
        """The drop in points, hundredths of the metric's unit."""
        return 100.0 * self.drop

    @property
    def certain(self) -> bool:
        """Whether the interval says that something was lost."""
        return self.low > 0.0

    def within(self, budget: float) -> bool:
        """Whether the measured drop is at most this many points."""
        return self.points <= budget + 1e-9

    def sentence(self, budget: float | None = None) -> str:
        """What happened, in words."""
        what = f"{abs(self.points):.1f} points {'gained' if self.drop < 0 else 'lost'}"
        words = (
            f"Old task: {METRICS[self.metric].words} {self.before:.3f} before, {self.after:.3f} "
            f"after: {what} (95 % interval of the loss {100 * self.low:.1f} to "
            f"{100 * self.high:.1f}, {self.n} rows)."
        )
        if budget is None:
            return words
        return f"{words} The budget of {budget:g} is {'kept' if self.within(budget) else 'broken'}."


def measure_forgetting(
    before_proba: Any,
    after_proba: Any,
    truth_N: Any,
    *,
    metric: str = "accuracy",
    seed: int = 0,
    resamples: int = 2000,
) -> Forgetting:
    """Compare an old task's predictions before and after adaptation, row by row.

    Args:
        before_proba: Class probabilities (N, C) of the old classes by the untouched model.
        after_proba: The same rows by the adapted model.
        truth_N: True old class numbers.
        metric: What to measure.
        seed: Root seed of the resampling.
        resamples: Bootstrap samples.

    Raises:
        DataError: For probabilities or labels that do not fit one another.
        UsageError: For an unknown metric.
    """
    pair = compare_arms(
        before_proba, after_proba, truth_N, metric=metric, seed=seed, resamples=resamples
    )
    before = measure(before_proba, truth_N, [metric])[metric]
    after = measure(after_proba, truth_N, [metric])[metric]
    better = METRICS[metric].higher_is_better
    low, high = (pair.low, pair.high) if better else (-pair.high, -pair.low)
    drop = before - after if better else after - before
    return Forgetting(
        metric=metric, before=before, after=after, drop=drop, low=low, high=high, n=pair.n
    )


def check_budget(points: float) -> None:
    """Refuse a budget that means nothing."""
    if not 0.0 <= points <= 100.0:
        raise UsageError(
            f"max_forgetting is a number of points from 0 to 100, got {points}. Typical: 1 to 5."
        )

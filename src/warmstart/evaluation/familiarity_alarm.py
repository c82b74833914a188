"""An alarm at a stated rate: its threshold, its true rate, and how many alarms are too many.

Scores of n held-out rows are sorted; the threshold is the k-th smallest, k = ⌈(n + 1)(1 - α)⌉. A
new row of the same kind lies above it with probability (n + 1 - k) / (n + 1), which is at most α
(split conformal prediction: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
2005). That is the mean over held-out samples; for the one at hand the rate is a draw from
Beta(n + 1 - k, k), the law of an order statistic, and its quantiles are the interval. The number of
alarms among M new rows of the same kind is then beta-binomial, which gives an exact test.
"""

from __future__ import annotations

import math

import numpy as np

from warmstart.core import Config, UsageError

__all__ = ["Alarm", "alarm_p_value", "lowest_rate", "set_alarm", "share_interval"]

DEFAULT_RATE = 0.01
_LEVEL = 0.95


class Alarm(Config):
    """A threshold and what is known of it.

    Attributes:
        rate: The stated false-alarm rate.
        threshold: Scores above it are alarms.
        rows: Held-out rows that it was set on.
        beyond: How many of these lie above it.
        low: Lower bound of the 95 % interval of the rate that it has on new rows.
        high: Upper bound.
    """

    rate: float
    threshold: float
    rows: int
    beyond: int
    low: float
    high: float


def lowest_rate(rows: int) -> float:
    """The lowest false-alarm rate that so many held-out rows can state: 1 / (rows + 1)."""
    return 1 / (rows + 1)


def set_alarm(scores_N: np.ndarray, rate: float | None = None) -> Alarm:
    """Set the threshold for a false-alarm rate.

    Args:
        scores_N: Scores of held-out rows, at least one.
        rate: In (0, 1); None for 1 %, or the lowest that the rows can state where that is more.

    Raises:
        UsageError: For a rate outside (0, 1), or one that needs more held-out rows.
    """
    from scipy.stats import beta

    rows = len(scores_N)
    least = lowest_rate(rows)
    chosen = max(DEFAULT_RATE, least) if rate is None else float(rate)
    if not 0 < chosen < 1:
        raise UsageError(
            f"false_alarms must be above 0 and below 1, got {rate!r}. Typical values: 0.001 to "
            "0.05."
        )
    if chosen < least * (1 - 1e-9):
        raise UsageError(
            f"false_alarms must be at least {_up(least):.2g} here, got {chosen:g}: the threshold "
            f"is set on {rows} validation rows, and a rate of {chosen:g} needs "
            f"{math.ceil(1 / chosen) - 1:,}."
        )
    place = min(rows, max(1, math.ceil((rows + 1) * (1 - chosen) - 1e-9)))
    threshold = float(np.sort(scores_N)[place - 1])
    low, high = beta.interval(_LEVEL, rows + 1 - place, place)
    return Alarm(
        rate=chosen, threshold=threshold, rows=rows, beyond=rows - place, low=float(low),
        high=float(high),
    )  # fmt: skip


def _up(rate: float) -> float:
    """Rounded up to two digits that count."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return math.ceil(rate / unit - 1e-9) * unit


def alarm_p_value(alarms: int, rows: int, alarm: Alarm) -> float:
    """How likely so many alarms or more are among new rows of the same kind as the held-out ones.

    Args:
        alarms: Rows above the threshold.
        rows: New rows.
        alarm: The threshold; that it was set on few rows is taken into account.
    """
    from scipy.stats import betabinom

    if not alarms:
        return 1.0
    above = alarm.beyond + 1
    return float(betabinom.sf(alarms - 1, rows, above, alarm.rows + 1 - above))


def share_interval(count: int, rows: int) -> tuple[float, float]:
    """Exact 95 % interval of a share (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    tail = (1 - _LEVEL) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, rows - count + 1))
    high = 1.0 if count == rows else float(beta.ppf(1 - tail, count + 1, rows - count))
    return low, high

"""From the scores of several backbones to an order, how sure it is, and whether others agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from warmstart.core import Config, UsageError, nearest
from warmstart.evaluation import METRICS, compare_arms, kendall_tau
from warmstart.evaluation.resampling import percentile_interval
from warmstart.shift.distance_halves import spread_interval

from .transferability import TRANSFER_SCORES, Transfer, TransferRows

__all__ = ["ORDERED_BY", "Agreement", "Gap", "TransferOrder", "check_by", "order_backbones"]

Floats = npt.NDArray[np.float64]
ORDERED_BY = ("probe", "knn", "log_me", "h_score")
"""Scores that every backbone has, so that all can be put in order by them."""


class Gap(Config):
    """How much worse than the first a backbone is, on the same rows.

    Attributes:
        difference: Its score less the first's.
        low: Lower bound of the 95 % interval.
        high: Upper bound.
    """

    difference: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


class Agreement(Config):
    """Whether two scores put the backbones in one order.

    Attributes:
        first: A score.
        second: Another, or `size`: more parameters first.
        tau: Kendall's tau-b; 1 for one order, -1 for its reverse.
        low: Lower bound of its 95 % interval over resamples of the first score; None where both
            are scores of other resamples.
        high: Upper bound.
        backbones: How many have both.
    """

    first: str
    second: str
    tau: float
    low: float | None
    high: float | None
    backbones: int


class TransferOrder(Config):
    """The backbones in order.

    Attributes:
        by: The score that orders them.
        order: Positions of the backbones, the best first. Equal ones: by LogME, then the smaller.
        size_order: Positions, more parameters first: the plain list that any score has to beat.
        gaps: For each backbone its distance to the first; None for the first.
        first_share: For each backbone the share of resamples in which it comes first.
        agreement: Each pair of scores, and each score with size, where at least two backbones have
            both and neither puts all in one place.
    """

    by: str
    order: tuple[int, ...]
    size_order: tuple[int, ...]
    gaps: tuple[Gap | None, ...]
    first_share: tuple[float, ...]
    agreement: tuple[Agreement, ...]


def check_by(by: str) -> str:
    """The score to order by, `log-me` written as `log_me`.

    Raises:
        UsageError: For a score that cannot order all backbones.
    """
    name = by.strip().lower().replace("-", "_")
    if name not in ORDERED_BY:
        raise UsageError(f'rank.by: no such score is called "{by}".{nearest(name, ORDERED_BY)}')
    return name


def order_backbones(
    measured: Sequence[Transfer], sizes: Sequence[int], rows: TransferRows, *, by: str = "probe"
) -> TransferOrder:
    """Put backbones in order by a score.

    Args:
        measured: What was measured of each, on the same rows and resamples; at least one.
        sizes: Parameters of each.
        rows: The rows.
        by: One of `ORDERED_BY`.

    Raises:
        UsageError: For another score.
    """
    by = check_by(by)
    count = range(len(measured))
    value_B = [_sign(rows.metric, by) * one.scores[by].value for one in measured]
    order = sorted(
        count, key=lambda b: (-value_B[b], -measured[b].scores["log_me"].value, sizes[b], b)
    )
    size_order = sorted(count, key=lambda b: (-sizes[b], b))
    draws_BR = _sign(rows.metric, by) * np.stack([one.draws[by] for one in measured])
    first_BR = draws_BR == draws_BR.max(axis=0)
    gaps: list[Gap | None] = [None] * len(measured)
    for place in order[1:]:
        gaps[place] = _gap(measured[place], measured[order[0]], by, rows)
    return TransferOrder(
        by=by,
        order=tuple(order),
        size_order=tuple(size_order),
        gaps=tuple(gaps),
        first_share=tuple(float(v) for v in (first_BR / first_BR.sum(axis=0)).mean(axis=1)),
        agreement=tuple(_agreements(measured, sizes, rows.metric)),
    )


def _sign(metric: str, score: str) -> float:
    """1 where a higher value of that score is better, -1 where a lower one is."""
    predicts = TRANSFER_SCORES[score].predicts
    return -1.0 if predicts and not METRICS[metric].higher_is_better else 1.0


def _gap(other: Transfer, first: Transfer, by: str, rows: TransferRows) -> Gap:
    if by in other.proba:
        paired = compare_arms(
            other.proba[by], first.proba[by], rows.labels_N, metric=rows.metric,
            clusters=rows.clusters, seed=rows.seed,
        )  # fmt: skip
        return Gap(difference=paired.difference, low=paired.low, high=paired.high)
    value = other.scores[by].value - first.scores[by].value
    drawn_R = other.draws[by] - first.draws[by]
    low, high = spread_interval(value, drawn_R, len(drawn_R), floor=-np.inf, bias=False)
    return Gap(difference=value, low=low, high=high)


def _agreements(measured: Sequence[Transfer], sizes: Sequence[int], metric: str) -> list[Agreement]:
    names = [name for name in TRANSFER_SCORES if any(name in one.scores for one in measured)]
    found = []
    for place, first in enumerate(names):
        for second in (*names[place + 1 :], "size"):
            both = [
                b
                for b, one in enumerate(measured)
                if first in one.scores and (second == "size" or second in one.scores)
            ]
            one = _agreement(measured, sizes, both, first, second, metric)
            if one is not None:
                found.append(one)
    return found


def _agreement(
    measured: Sequence[Transfer],
    sizes: Sequence[int],
    both: Sequence[int],
    first: str,
    second: str,
    metric: str,
) -> Agreement | None:
    def values(name: str) -> list[float]:
        if name == "size":
            return [float(sizes[b]) for b in both]
        return [_sign(metric, name) * measured[b].scores[name].value for b in both]

    tau = kendall_tau(values(first), values(second))
    if tau is None:
        return None
    low: float | None = None
    high: float | None = None
    if second == "size":
        draws_BR = _sign(metric, first) * np.stack([measured[b].draws[first] for b in both])
        taus = [kendall_tau(column_B, values(second)) or 0.0 for column_B in draws_BR.T]
        low, high = percentile_interval(np.asarray(taus), tau)
    return Agreement(first=first, second=second, tau=tau, low=low, high=high, backbones=len(both))

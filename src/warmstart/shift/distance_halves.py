"""Intervals and a yardstick from random halves of the rows.

The bootstrap with replacement fails for distances between samples. Under no shift MMD² is a
degenerate U-statistic, whose bootstrap does not follow its own law (Bretagnolle 1983; Arcones and
Giné 1992); and drawing a row twice puts ties into a sample, which moves it away from every other
one. So rows are drawn without replacement: random halves of the source against random halves of the
target (half-sampling, the delete-half jackknife; Shao and Wu 1989). The spread of a distance over
halves is, to first order, the spread over new samples of full size: n/2 drawn from n without
replacement vary as much around the whole as n drawn from the population vary around that. Under no
shift, where the error shrinks as 1/n and not as 1/√n, halves vary more than that and the interval
is too wide, never too narrow. A bias that goes as 1/n is twice as large in halves, so the
difference of their mean to the value estimates it, and the interval is moved by it.

Rows are first dealt into groups, and halves are made of whole groups, so that sums are formed once
a group. With G groups the spread is known with G - 1 degrees of freedom (Student's factor).

The yardstick cuts the source itself into two random halves, again and again: how far sets lie apart
that do not differ. Halves have half the rows, so a distance with a bias is a little larger there.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student

from .distance_inputs import Floats, Ints

__all__ = ["deal", "halves_of", "spread_interval"]

TAIL = 0.975


def deal(rows: int, groups: int, generator: np.random.Generator) -> Ints:
    """The group of each row; groups differ in size by one at most."""
    return generator.permutation(np.arange(rows, dtype=np.int64) % groups)


def halves_of(groups: int, count: int, generator: np.random.Generator) -> Floats:
    """Random halves of the groups: (count, G) of 0 and 1.

    Of an odd number of groups one more or one fewer than the rest is taken, in turn.
    """
    sizes = (groups + np.arange(count) % 2) // 2
    ranks = np.argsort(generator.random((count, groups)), axis=1)
    taken: Floats = (np.argsort(ranks, axis=1) < sizes[:, None]).astype(np.float64)
    return taken


def spread_interval(
    value: float,
    values_R: Floats,
    groups: int,
    *,
    floor: float = 0.0,
    ceiling: float = np.inf,
    bias: bool = True,
) -> tuple[float, float]:
    """95 % interval from what resamples gave.

    Args:
        value: On all rows.
        values_R: On resamples whose spread is that of the value.
        groups: Independent pieces behind the spread; their number less one is Student's degrees
            of freedom.
        floor: The least that the distance can be.
        ceiling: The most.
        bias: Whether the mean of the resamples shows a bias to be taken off.

    Returns:
        The bounds inside [floor, ceiling], widened where needed to hold the value.
    """
    spread = float(np.std(values_R, ddof=1)) * float(student.ppf(TAIL, max(groups - 1, 1)))
    centre = 2 * value - float(np.mean(values_R)) if bias else value
    low = min(max(centre - spread, floor), ceiling)
    high = min(max(centre + spread, floor), ceiling)
    return min(low, value), max(high, value)

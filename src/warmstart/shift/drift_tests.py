"""Tests that two samples of a model's answers are alike, exact at any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.core import Config

from .distance_inputs import Floats, Ints

__all__ = ["Difference", "accuracy_difference", "answers_p_value", "confidence_difference", "holm"]

_Z = 1.959963984540054  # of the 95 % interval


class Difference(Config):
    """A quantity before and after.

    Attributes:
        before: On held-out rows of training.
        after: On the new rows.
        difference: After less before.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        p_value: That nothing changed, two-sided.
        rows: Rows before and after.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    p_value: float
    rows: tuple[int, int]


def answers_p_value(
    answer_N: Ints,
    answer_M: Ints,
    classes: int,
    *,
    permutations: int,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """χ² of the counts of answers on two samples, and its permutation p-value.

    With the margins of the 2 × C table held, counts are hypergeometric, which is what permuting the
    rows' sides gives; so the test is exact however few rows a class has.

    Args:
        answer_N: Answers on one sample, in [0, C).
        answer_M: On the other.
        classes: C.
        permutations: Draws.
        generator: Of the draws.

    Returns:
        The statistic and the p-value.
    """
    ours_C = np.bincount(answer_N, minlength=classes)
    theirs_C = np.bincount(answer_M, minlength=classes)
    both_C = ours_C + theirs_C
    statistic = float(_chi_squared(theirs_C[None], both_C)[0])
    drawn_PC = generator.multivariate_hypergeometric(both_C, len(answer_M), size=permutations)
    reached = _chi_squared(drawn_PC, both_C) >= statistic - 1e-9 * max(statistic, 1.0)
    return statistic, float((1 + reached.sum()) / (1 + permutations))


def _chi_squared(theirs_PC: Ints, both_C: Ints) -> Floats:
    """χ² (P,) of tables whose second rows are given, and the sums of both rows."""
    present = both_C > 0
    theirs_PC, whole_C = theirs_PC[:, present], both_C[present]
    total, size_P1 = whole_C.sum(), theirs_PC.sum(axis=1, keepdims=True)
    expected_PC = whole_C * size_P1 / total
    squares_PC = (theirs_PC - expected_PC) ** 2
    found: Floats = (squares_PC / expected_PC + squares_PC / (whole_C - expected_PC)).sum(axis=1)
    return found


def confidence_difference(
    top_N: Floats, top_M: Floats, *, permutations: int, generator: np.random.Generator
) -> Difference:
    """Mean probability of the likeliest class on two samples.

    The interval is Welch's; the p-value that of permutations of the rows.

    Args:
        top_N: Highest probability of each row, before; at least 2 rows a side.
        top_M: The same after.
        permutations: Draws.
        generator: Of the draws.
    """
    from scipy.stats import t as student

    pooled = np.concatenate([top_N, top_M])
    difference = float(top_M.mean() - top_N.mean())
    m, n, total = len(top_M), len(top_N), float(pooled.sum())
    square_n, square_m = float(top_N.var(ddof=1)) / n, float(top_M.var(ddof=1)) / m
    reach = 0.0
    if square_n + square_m > 0:
        degrees = (square_n + square_m) ** 2 / (square_n**2 / (n - 1) + square_m**2 / (m - 1))
        reach = float(student.ppf(0.975, degrees)) * float(np.sqrt(square_n + square_m))
    sums_P = np.array([pooled[generator.permutation(m + n)[:m]].sum() for _ in range(permutations)])
    drawn_P = np.abs(sums_P / m - (total - sums_P) / n)
    reached = (drawn_P >= abs(difference) - 1e-12).sum()
    return Difference(
        before=float(top_N.mean()), after=float(top_M.mean()), difference=difference,
        low=difference - reach, high=difference + reach,
        p_value=float((1 + reached) / (1 + permutations)), rows=(n, m),
    )  # fmt: skip


def accuracy_difference(right_N: np.ndarray, right_M: np.ndarray) -> Difference:
    """Share of right answers on two samples.

    The interval is Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 1998, method
    10); the p-value Fisher's exact one.

    Args:
        right_N: Whether each row was answered rightly, before; at least 1 row.
        right_M: The same after.
    """
    from scipy.stats import fisher_exact

    n, m = len(right_N), len(right_M)
    ours, theirs = int(right_N.sum()), int(right_M.sum())
    before, after = ours / n, theirs / m
    low_n, high_n = _wilson(ours, n)
    low_m, high_m = _wilson(theirs, m)
    difference = after - before
    below = np.hypot(after - low_m, high_n - before)
    above = np.hypot(high_m - after, before - low_n)
    table = [[ours, n - ours], [theirs, m - theirs]]
    return Difference(
        before=before, after=after, difference=difference, low=float(difference - below),
        high=float(difference + above), p_value=float(fisher_exact(table).pvalue), rows=(n, m),
    )  # fmt: skip


def _wilson(count: int, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share = count / rows
    centre = share + _Z**2 / (2 * rows)
    reach = _Z * np.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    scale = 1 + _Z**2 / rows
    return float((centre - reach) / scale), float((centre + reach) / scale)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm, 1979): valid however the tests depend."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    most = 0.0
    for place, at in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - place) * float(p_values[at])))
        adjusted[int(at)] = most
    return adjusted

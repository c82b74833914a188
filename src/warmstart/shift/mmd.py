"""Maximum mean discrepancy: how far apart the mean embeddings of two sets are.

MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y) with x, x' from the source, y, y' from the target and a
Gaussian kernel k(x, y) = exp(-|x - y|² / (2 σ²)). It is 0 if and only if both are one distribution.
The estimate is the unbiased one (a U-statistic): under no shift it scatters around 0 and may be
negative. Source: Gretton et al., A Kernel Two-Sample Test, JMLR 2012, lemma 6 and §5.

The p-value comes from permutations of source and target rows. With several bandwidths it is that of
the smallest of their p-values among the smallest ones of the permutations (Westfall and Young), so
that looking at several costs nothing in level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from warmstart.core import Config, Streams, UsageError, nearest

from .distance_halves import halves_of, spread_interval
from .distance_inputs import Estimate, Floats, at_least, two_sets
from .mmd_kernels import Bins, block_sums, feature_sums, make_bins, median_distance

__all__ = ["EXACT_ROWS", "MMD", "Bandwidth", "mmd"]

EXACT_ROWS = 40_000
"""Rows of both sides up to which `auto` sums over all pairs: 8e8 of them."""

_HALVES = 400
_METHODS = ("auto", "blocks", "features")
Method = Literal["auto", "blocks", "features"]


class Bandwidth(Config):
    """MMD² at one bandwidth.

    Attributes:
        bandwidth: σ of the Gaussian kernel, in the unit of the vectors.
        value: MMD², unbiased.
        p_value: Of the permutation test at this bandwidth alone; None without permutations.
    """

    bandwidth: float
    value: float
    p_value: float | None = None


class MMD(Estimate):
    """MMD², with its test. The value is that of the first bandwidth (the median distance).

    Attributes:
        p_value: Of the permutation test over all bandwidths; None without permutations.
        permutations: How many there were.
        by_bandwidth: Each bandwidth on its own.
        exact: Whether the sums went over all pairs of rows.
        feature_error: Standard error of the value from the drawn frequencies, where not exact.
    """

    p_value: float | None = None
    permutations: int = 0
    by_bandwidth: tuple[Bandwidth, ...] = ()
    exact: bool = True
    feature_error: float | None = None


def mmd(
    source_ND: npt.ArrayLike,
    target_MD: npt.ArrayLike,
    *,
    bandwidths: Sequence[float] | None = None,
    factors: Sequence[float] = (1.0, 0.5, 2.0),
    permutations: int = 999,
    halves: int = 0,
    method: Method = "auto",
    features: int = 1024,
    block: int = 2048,
    seed: int = 0,
) -> MMD:
    """Estimate MMD² of two sets of vectors.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        bandwidths: σ of each kernel; the value is that of the first. By default the median
            distance of pooled rows times `factors`.
        factors: See `bandwidths`.
        permutations: Of the test; 0 for none.
        halves: Random halvings of the source for the yardstick; 0 for none.
        method: `blocks`: all pairs, exact. `features`: random Fourier features, in time that grows
            with the rows and not with their square. `auto`: exact up to 40,000 rows in all.
        features: Frequencies of `features`.
        block: Rows of a block; memory is a few times block² numbers, whatever the data's size.
        seed: Of permutations, halves, bins and frequencies.

    Returns:
        Value, interval (half-sampling; at least 4 rows on either side), p-value.

    Raises:
        DataError: For vectors that cannot be compared.
        UsageError: For settings out of range.
    """
    _check(bandwidths, factors, permutations, halves, method, features, block)
    source, target = two_sets(source_ND, target_MD, "mmd")
    pooled = np.concatenate([source, target])
    streams = Streams(seed).child("shift", "mmd")
    if bandwidths is None:
        middle = median_distance(pooled, streams.numpy("median"))
        bandwidths = [factor * middle for factor in factors]
    bins = make_bins(len(source), len(target), streams.numpy("bins"))
    exact = method == "blocks" or (method == "auto" and len(pooled) <= EXACT_ROWS)
    error = None
    if exact:
        sums = block_sums(pooled, bandwidths, bins, block)
    else:
        sums, alone = feature_sums(
            pooled, bandwidths, bins, block, features, streams.numpy("frequencies")
        )
        error = float(alone[0].std(ddof=1) / np.sqrt(features))
    return _estimate(sums, bins, bandwidths, permutations, halves, error, streams)


def _estimate(
    sums: np.ndarray,
    bins: Bins,
    bandwidths: Sequence[float],
    permutations: int,
    halves: int,
    error: float | None,
    streams: Streams,
) -> MMD:
    rows = (
        int(bins.sizes_B[bins.side_B == 0].sum()),
        int(bins.sizes_B[bins.side_B == 1].sum()),
    )
    ours_B, theirs_B = (bins.side_B == 0).astype(float), (bins.side_B == 1).astype(float)
    value_K = mmd_of(sums, bins, ours_B[None], theirs_B[None])[:, 0]
    p_each, p_all = _permuted(sums, bins, value_K, permutations, streams.numpy("permutations"))
    interval, method = None, "fewer than 4 rows on a side: no interval"
    if min(rows) >= 4:
        generator = streams.numpy("halves")
        ours_RB, theirs_RB = (_side_halves(bins, side, _HALVES, generator) for side in (0, 1))
        values_R = mmd_of(sums[:1], bins, ours_RB, theirs_RB)[0]
        if error is not None:  # what the frequencies add is not in the halves: they share them
            values_R = values_R + error * generator.standard_normal(_HALVES)
        groups = min(int((bins.side_B == side).sum()) for side in (0, 1))
        interval = spread_interval(float(value_K[0]), values_R, groups)
        method = f"half-sampling over {groups} groups of rows"
    yardstick = None
    if halves and rows[0] >= 4:
        ours_RB = _side_halves(bins, 0, halves, streams.numpy("yardstick"))
        other_RB = ours_B[None] - ours_RB
        yardstick = float(mmd_of(sums[:1], bins, ours_RB, other_RB)[0].max())
    return MMD(
        name="mmd", value=float(value_K[0]), interval=interval, method=method, rows=rows,
        halves=yardstick, p_value=p_all, permutations=permutations, exact=error is None,
        feature_error=error,
        by_bandwidth=tuple(
            Bandwidth(bandwidth=float(width), value=float(value), p_value=p)
            for width, value, p in zip(bandwidths, value_K, p_each, strict=True)
        ),
    )  # fmt: skip


def mmd_of(sums: np.ndarray, bins: Bins, ours_RB: Floats, theirs_RB: Floats) -> np.ndarray:
    """Unbiased MMD² between unions of bins.

    Args:
        sums: (K, B, B) kernel sums.
        bins: Their sizes.
        ours_RB: Which bins form the one set: 0 or 1.
        theirs_RB: Which form the other.

    Returns:
        (K, R).
    """
    n_R, m_R = ours_RB @ bins.sizes_B, theirs_RB @ bins.sizes_B
    found = []
    for sums_BB in sums:
        reach_RB = ours_RB @ sums_BB
        inner_R = (reach_RB * ours_RB).sum(axis=1)
        across_R = (reach_RB * theirs_RB).sum(axis=1)
        outer_R = ((theirs_RB @ sums_BB) * theirs_RB).sum(axis=1)
        found.append(
            inner_R / (n_R * (n_R - 1)) + outer_R / (m_R * (m_R - 1)) - 2 * across_R / (n_R * m_R)
        )
    return np.stack(found)


def _permuted(
    sums: np.ndarray,
    bins: Bins,
    value_K: np.ndarray,
    permutations: int,
    generator: np.random.Generator,
) -> tuple[list[float | None], float | None]:
    """p-values of each bandwidth, and of all together."""
    if not permutations:
        return [None] * len(value_K), None
    free = np.flatnonzero(bins.free_B)
    side_PB = np.tile(bins.side_B, (permutations, 1))
    side_PB[:, free] = generator.permuted(side_PB[:, free], axis=1)
    drawn_KP = mmd_of(sums, bins, (side_PB == 0).astype(float), (side_PB == 1).astype(float))
    all_KP = np.concatenate([value_K[:, None], drawn_KP], axis=1)
    # equal up to rounding counts as reached: it can only raise a p-value
    slack_K = 1e-12 * np.abs(all_KP).max(axis=1)
    order_KP = np.sort(all_KP, axis=1)
    below = [
        np.searchsorted(order, row - slack, side="left")
        for order, row, slack in zip(order_KP, all_KP, slack_K, strict=True)
    ]
    p_KP = (permutations + 1 - np.stack(below)) / (permutations + 1)
    least_P = p_KP.min(axis=0)
    together = float((least_P <= least_P[0] + 1e-12).mean())
    return [float(p) for p in p_KP[:, 0]], together


def _side_halves(bins: Bins, side: int, count: int, generator: np.random.Generator) -> Floats:
    """Random halves of a side's bins (count, B), of those that move and of the others alike."""
    found = np.zeros((count, len(bins.sizes_B)))
    for moving in (True, False):
        at = np.flatnonzero((bins.side_B == side) & (bins.free_B == moving))
        if len(at):
            found[:, at] = halves_of(len(at), count, generator)
    return found


def _check(
    bandwidths: Sequence[float] | None,
    factors: Sequence[float],
    permutations: int,
    halves: int,
    method: str,
    features: int,
    block: int,
) -> None:
    named = ("factors", factors) if bandwidths is None else ("bandwidths", bandwidths)
    if not len(named[1]) or not all(np.isfinite(one) and one > 0 for one in named[1]):
        raise UsageError(
            f"mmd.{named[0]} must be one or more finite numbers above 0, got {list(named[1])}. "
            "Leave bandwidths out for the median distance."
        )
    at_least("mmd", "permutations", permutations, 0, "199 to 9999")
    at_least("mmd", "halves", halves, 0, "20")
    at_least("mmd", "features", features, 2, "512 to 4096")
    at_least("mmd", "block", block, 1, "1024 to 4096")
    if method not in _METHODS:
        raise UsageError(f"mmd.method {method!r} is unknown.{nearest(method, _METHODS)}")

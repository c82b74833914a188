"""Sliced Wasserstein distance: the mean transport cost over random directions.

In one dimension optimal transport pairs sorted values, so W_p^p is the mean of |F⁻¹(u) - G⁻¹(u)|^p
over u in (0, 1), exact also where the two sets differ in size. The sliced distance is the p-th root
of its mean over directions drawn evenly from the sphere.

Source: Bonneel, Rabin, Peyré and Pfister, Sliced and Radon Wasserstein Barycenters of Measures,
2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmstart.core import Streams, UsageError

from .distance_halves import deal, halves_of, spread_interval
from .distance_inputs import Estimate, Floats, Ints, at_least, two_sets

__all__ = ["sliced_wasserstein"]

_GROUPS, _HALVES = 20, 20
_CELLS = 8_000_000  # projected numbers held at a time


def sliced_wasserstein(
    source_ND: npt.ArrayLike,
    target_MD: npt.ArrayLike,
    *,
    order: int = 2,
    directions: int = 128,
    halves: int = 0,
    seed: int = 0,
) -> Estimate:
    """Estimate the sliced Wasserstein distance of two sets of vectors, in their own unit.

    Interval and yardstick are for the directions that were drawn: half-sampling of the rows.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        order: p, 1 or 2.
        directions: Random directions.
        halves: Random halvings of the source for the yardstick; 0 for none.
        seed: Of directions and halves.

    Raises:
        DataError: For vectors that cannot be compared.
        UsageError: For settings out of range.
    """
    if order not in (1, 2):
        raise UsageError(f"sliced_wasserstein.order must be 1 or 2, got {order!r}.")
    at_least("sliced_wasserstein", "directions", directions, 1, "50 to 500")
    at_least("sliced_wasserstein", "halves", halves, 0, "20")
    source, target = two_sets(source_ND, target_MD, "sliced_wasserstein")
    n, m = len(source), len(target)
    streams = Streams(seed).child("shift", "sliced")
    axes_DL = _directions(source.shape[1], directions, streams.numpy("directions"))
    pairings = _pairings(n, m, halves, streams)
    costs = np.zeros(len(pairings))
    mean_D = source.mean(axis=0, dtype=np.float64)
    step = max(1, _CELLS // (n + m))
    for start in range(0, directions, step):
        ours, theirs = (
            _sorted(axes_DL[:, start : start + step].T @ (rows - mean_D).T)
            for rows in (source, target)
        )
        for number, pairing in enumerate(pairings):
            costs[number] += pairing.cost(ours, theirs, order)
    distances = (costs / directions) ** (1 / order)
    value = float(distances[0])
    interval, method = None, "fewer than 4 rows on a side: no interval"
    if min(n, m) >= 4:
        groups = min(_GROUPS, n, m)
        # squared, the error under no shift goes as 1/n, which halving the rows doubles
        low, high = spread_interval(value**2, distances[1 : 1 + _HALVES] ** 2, groups)
        interval = (low**0.5, high**0.5)
        method = f"half-sampling over {groups} groups of rows"
    yardstick = float(distances[-halves:].max()) if halves and n >= 4 else None
    return Estimate(
        name="sliced_wasserstein", value=value, interval=interval, method=method, rows=(n, m),
        halves=yardstick,
    )  # fmt: skip


def _directions(width: int, count: int, generator: np.random.Generator) -> Floats:
    """Directions (D, L) of length 1."""
    axes_DL = generator.standard_normal((width, count))
    found: Floats = axes_DL / np.linalg.norm(axes_DL, axis=0)
    return found


@dataclass(frozen=True)
class _Projected:
    """Projections of rows, sorted: (L, N) values, and which row each is."""

    values_LN: Floats
    rows_LN: Ints

    def taking(self, take_N: np.ndarray) -> Floats:
        """The sorted projections of some rows (L, n)."""
        found: Floats = self.values_LN[take_N[self.rows_LN]].reshape(len(self.values_LN), -1)
        return found


def _sorted(projected_LN: Floats) -> _Projected:
    order_LN = np.argsort(projected_LN, axis=1)
    return _Projected(np.take_along_axis(projected_LN, order_LN, axis=1), order_LN)


@dataclass(frozen=True)
class _Pairing:
    """Which rows are compared: of source and target, or of the source with itself.

    None takes all rows.
    """

    ours_N: np.ndarray | None
    theirs_M: np.ndarray | None
    within: bool = False

    def cost(self, ours: _Projected, theirs: _Projected, order: int) -> float:
        """Sum over directions of W_p^p."""
        other = ours if self.within else theirs
        a = ours.values_LN if self.ours_N is None else ours.taking(self.ours_N)
        b = other.values_LN if self.theirs_M is None else other.taking(self.theirs_M)
        if a.shape == b.shape:
            return _total(a - b, order) / float(a.shape[1])
        at_a, at_b, weight = _couple(a.shape[1], b.shape[1])
        return _total(a[:, at_a] - b[:, at_b], order, weight)


def _total(gap_LN: Floats, order: int, weight_N: Floats | None = None) -> float:
    """Sum of |gap|^p, weighted where weights are given."""
    if order == 1:
        np.abs(gap_LN, out=gap_LN)
        return float(gap_LN.sum() if weight_N is None else (gap_LN @ weight_N).sum())
    if weight_N is None:
        return float(np.vdot(gap_LN, gap_LN))
    return float(((gap_LN**2) @ weight_N).sum())


def _couple(n: int, m: int) -> tuple[Ints, Ints, Floats]:
    """How sorted values meet: pairs (i, j) and the share of mass that each carries.

    Steps of F⁻¹ lie at i / n and of G⁻¹ at j / m; all are whole multiples of 1 / (n m).
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)


def _pairings(n: int, m: int, halves: int, streams: Streams) -> list[_Pairing]:
    found = [_Pairing(None, None)]
    if min(n, m) >= 4:
        generator = streams.numpy("halves")
        takes = []
        for rows in (n, m):
            groups = min(_GROUPS, n, m)
            group_N = deal(rows, groups, generator)
            takes.append(halves_of(groups, _HALVES, generator)[:, group_N] > 0)
        found += [_Pairing(a, b) for a, b in zip(*takes, strict=True)]
    if halves and n >= 4:
        groups = min(_GROUPS, n)
        group_N = deal(n, groups, streams.numpy("groups"))
        take_RN = halves_of(groups, halves, streams.numpy("yardstick"))[:, group_N] > 0
        found += [_Pairing(take, ~take, within=True) for take in take_RN]
    return found

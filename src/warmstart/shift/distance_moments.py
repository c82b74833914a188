"""Distances between means and covariances: CORAL, Fréchet, mean and covariance.

All three are functions of two means and two covariances (with n - 1), which are summed once, group
by group of rows, so that halves of the rows cost no further pass over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmstart.core import Streams

from .distance_halves import deal, halves_of, spread_interval
from .distance_inputs import Estimate, Floats, at_least, two_sets

__all__ = ["coral", "frechet", "mean_covariance", "moment_distances"]

_GROUPS = 20
_HALVES = 20
_BYTES = 768_000_000  # for the groups' sums of products
_BLOCK = 8192
_LEADING = 512  # directions in which the spread of the Fréchet distance is taken at most


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D) of some rows."""

    mean_D: Floats
    covariance_DD: Floats


Formula = Callable[[Moments, Moments], dict[str, float]]


def coral_of(a: Moments, b: Moments) -> dict[str, float]:
    """|C_a - C_b|²_F / (4 D²): Sun and Saenko, Deep CORAL, 2016, equation 1."""
    difference_DD = a.covariance_DD - b.covariance_DD
    return {"covariance": float((difference_DD**2).sum()) / (4 * len(difference_DD) ** 2)}


def mean_covariance_of(a: Moments, b: Moments) -> dict[str, float]:
    """|m_a - m_b|² + |C_a - C_b|²_F, both parts told."""
    return {
        "mean": float(((a.mean_D - b.mean_D) ** 2).sum()),
        "covariance": float(((a.covariance_DD - b.covariance_DD) ** 2).sum()),
    }


def frechet_of(a: Moments, b: Moments) -> dict[str, float]:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½): Dowson and Landau 1982.

    The squared 2-Wasserstein distance of two Gaussians; on Inception features it is known as FID.
    tr (C_a C_b)^½ is the sum of the singular values of C_a^½ C_b^½, which loses no digits where
    covariances are singular.
    """
    roots = [_root(one.covariance_DD) for one in (a, b)]
    cross = float(np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum())
    return _frechet(a, b, cross)


def _quick_frechet(a: Moments, b: Moments) -> dict[str, float]:
    """The same by a Cholesky factor and eigenvalues alone: for halves, where digits matter less."""
    jitter = 1e-10 * (float(np.trace(a.covariance_DD)) / len(a.mean_D) + 1e-300)
    lower_DD = np.linalg.cholesky(a.covariance_DD + jitter * np.eye(len(a.mean_D)))
    values_D = np.linalg.eigvalsh(lower_DD.T @ b.covariance_DD @ lower_DD)
    return _frechet(a, b, float(np.sqrt(np.maximum(values_D, 0)).sum()))


def _frechet(a: Moments, b: Moments, cross: float) -> dict[str, float]:
    spread = float(np.trace(a.covariance_DD) + np.trace(b.covariance_DD)) - 2 * cross
    return {"mean": float(((a.mean_D - b.mean_D) ** 2).sum()), "covariance": max(spread, 0.0)}


def _root(covariance_DD: Floats) -> Floats:
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    values_D = np.where(
        values_D > len(values_D) * np.finfo(np.float64).eps * values_D[-1], values_D, 0.0
    )
    found: Floats = (vectors_DD * np.sqrt(values_D)) @ vectors_DD.T
    return found


FORMULAS: dict[str, Formula] = {
    "coral": coral_of,
    "frechet": frechet_of,
    "mean_covariance": mean_covariance_of,
}


def coral(
    source_ND: npt.ArrayLike, target_MD: npt.ArrayLike, *, halves: int = 0, seed: int = 0
) -> Estimate:
    """CORAL distance |C_s - C_t|²_F / (4 D²) of two sets of vectors.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        halves: Random halvings of the source for the yardstick; 0 for none.
        seed: Of the halves.

    Raises:
        DataError: For vectors that cannot be compared.
    """
    return moment_distances(source_ND, target_MD, ("coral",), halves=halves, seed=seed)[0]


def frechet(
    source_ND: npt.ArrayLike, target_MD: npt.ArrayLike, *, halves: int = 0, seed: int = 0
) -> Estimate:
    """Fréchet distance (squared, as FID is told) of Gaussians fitted to two sets of vectors.

    Above 512 dimensions the spread and the yardstick are taken in the 512 directions in which all
    rows together vary most; the value is that of all dimensions.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        halves: Random halvings of the source for the yardstick; 0 for none.
        seed: Of the halves.

    Raises:
        DataError: For vectors that cannot be compared.
    """
    return moment_distances(source_ND, target_MD, ("frechet",), halves=halves, seed=seed)[0]


def mean_covariance(
    source_ND: npt.ArrayLike, target_MD: npt.ArrayLike, *, halves: int = 0, seed: int = 0
) -> Estimate:
    """|m_s - m_t|² + |C_s - C_t|²_F of two sets of vectors, with both parts.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        halves: Random halvings of the source for the yardstick; 0 for none.
        seed: Of the halves.

    Raises:
        DataError: For vectors that cannot be compared.
    """
    return moment_distances(source_ND, target_MD, ("mean_covariance",), halves=halves, seed=seed)[0]


def moment_distances(
    source_ND: npt.ArrayLike,
    target_MD: npt.ArrayLike,
    names: tuple[str, ...] = ("coral", "frechet", "mean_covariance"),
    *,
    halves: int = 0,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Several of these distances from one pass over the rows.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        names: Which: coral, frechet, mean_covariance.
        halves: Random halvings of the source for the yardstick; 0 for none.
        seed: Of the halves.

    Raises:
        DataError: For vectors that cannot be compared.
    """
    who = names[0] if len(names) == 1 else "moment_distances"
    at_least(who, "halves", halves, 0, "20")
    source, target = two_sets(source_ND, target_MD, who)
    shift_D = (source.mean(axis=0, dtype=np.float64) + target.mean(axis=0, dtype=np.float64)) / 2
    streams = Streams(seed).child("shift", "moments")
    ours = _Sums.of(source, shift_D, streams.numpy("source"))
    theirs = _Sums.of(target, shift_D, streams.numpy("target"))
    return tuple(_one(name, ours, theirs, halves, streams) for name in names)


def _one(name: str, ours: _Sums, theirs: _Sums, halves: int, streams: Streams) -> Estimate:
    formula = FORMULAS[name]
    parts = formula(ours.moments(), theirs.moments())
    value = sum(parts.values())
    if name == "frechet":
        formula = _quick_frechet
        ours, theirs = _leading(ours, theirs)
    interval, method = None, "fewer than 4 rows on a side: no interval"
    if min(ours.rows, theirs.rows) >= 4:
        generator = streams.numpy("halves")
        takes = [halves_of(one.groups, _HALVES, generator) for one in (ours, theirs)]
        values_R = np.array(
            [
                sum(formula(ours.moments(a), theirs.moments(b)).values())
                for a, b in zip(*takes, strict=True)
            ]
        )
        base = sum(formula(ours.moments(), theirs.moments()).values())
        groups = min(ours.groups, theirs.groups)
        interval = spread_interval(value, values_R + (value - base), groups)
        method = f"half-sampling over {groups} groups of rows"
    yardstick = None
    if halves and ours.rows >= 4:
        take_RG = halves_of(ours.groups, halves, streams.numpy("yardstick"))
        yardstick = max(
            sum(formula(ours.moments(a), ours.moments(1 - a)).values()) for a in take_RG
        )
    return Estimate(
        name=name, value=value, interval=interval, method=method, rows=(ours.rows, theirs.rows),
        halves=yardstick, parts=parts if len(parts) > 1 else {},
    )  # fmt: skip


@dataclass(frozen=True)
class _Sums:
    """Row counts, sums and sums of products of each group of rows, around a common point."""

    count_G: Floats
    sum_GD: Floats
    product_GDD: Floats

    @classmethod
    def of(cls, rows_ND: Floats, shift_D: Floats, generator: np.random.Generator) -> _Sums:
        width = rows_ND.shape[1]
        most = int(np.clip(_BYTES // (16 * width * width), 4, _GROUPS))
        groups = min(most, len(rows_ND))
        if len(rows_ND) >= 4:  # a half needs two rows
            groups = min(groups, 2 * (len(rows_ND) // 2))
        group_N = deal(len(rows_ND), groups, generator)
        sums = np.zeros((groups, width))
        products = np.zeros((groups, width, width))
        for group in range(groups):
            at_N = np.flatnonzero(group_N == group)
            for start in range(0, len(at_N), _BLOCK):
                block_BD = rows_ND[at_N[start : start + _BLOCK]] - shift_D
                sums[group] += block_BD.sum(axis=0)
                products[group] += block_BD.T @ block_BD
        return cls(np.bincount(group_N).astype(np.float64), sums, products)

    @property
    def groups(self) -> int:
        return len(self.count_G)

    @property
    def rows(self) -> int:
        return int(self.count_G.sum())

    def moments(self, take_G: Floats | None = None) -> Moments:
        """Mean and covariance of all rows, or of the groups that are taken."""
        take_G = np.ones(self.groups) if take_G is None else take_G
        count = float(take_G @ self.count_G)
        mean_D = take_G @ self.sum_GD / count
        product_DD = np.tensordot(take_G, self.product_GDD, axes=1)
        return Moments(mean_D, (product_DD - count * np.outer(mean_D, mean_D)) / (count - 1))

    def turned(self, axes_DE: Floats) -> _Sums:
        """The sums in other directions."""
        products = np.stack([axes_DE.T @ one @ axes_DE for one in self.product_GDD])
        return _Sums(self.count_G, self.sum_GD @ axes_DE, products)


def _leading(ours: _Sums, theirs: _Sums) -> tuple[_Sums, _Sums]:
    """Both sides in the directions in which all rows vary most, where there are too many."""
    if ours.sum_GD.shape[1] <= _LEADING:
        return ours, theirs
    joint = _Sums(
        np.concatenate([ours.count_G, theirs.count_G]),
        np.concatenate([ours.sum_GD, theirs.sum_GD]),
        np.concatenate([ours.product_GDD, theirs.product_GDD]),
    )
    axes_DE = np.linalg.eigh(joint.moments().covariance_DD)[1][:, -_LEADING:]
    return ours.turned(axes_DE), theirs.turned(axes_DE)

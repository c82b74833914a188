"""Both sets in one plane: the two directions in which all rows together vary most.

A picture, not a measure: what lies apart in other directions is not seen in it. The share of all
variance that the plane holds is told with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmstart.core import Streams

from .distance_inputs import Floats, Ints, two_sets

__all__ = ["Plane", "principal_plane"]

_BLOCK = 8192


@dataclass(frozen=True)
class Plane:
    """Rows of both sides in two dimensions.

    Attributes:
        source_N2: Coordinates of the source rows that were drawn.
        target_M2: Coordinates of the target rows that were drawn.
        source_at_N: Which source rows these are.
        target_at_M: Which target rows these are.
        shares: Shares of the variance of all rows along either direction.
    """

    source_N2: Floats
    target_M2: Floats
    source_at_N: Ints
    target_at_M: Ints
    shares: tuple[float, float]


def principal_plane(
    source_ND: npt.ArrayLike, target_MD: npt.ArrayLike, *, most: int = 1000, seed: int = 0
) -> Plane:
    """The first two principal components of the pooled rows (all of them).

    Args:
        source_ND: Source vectors (N, D).
        target_MD: Target vectors (M, D).
        most: Rows of a side whose coordinates are told; above it, a draw.
        seed: Of the draw.

    Raises:
        DataError: For vectors that cannot be compared.
    """
    source, target = two_sets(source_ND, target_MD, "principal_plane")
    sides = (source, target)
    total = len(source) + len(target)
    mean_D = sum(side.sum(axis=0, dtype=np.float64) for side in sides) / total
    product_DD = np.zeros((source.shape[1], source.shape[1]))
    for side in sides:
        for start in range(0, len(side), _BLOCK):
            block_BD = side[start : start + _BLOCK] - mean_D
            product_DD += block_BD.T @ block_BD
    values_D, vectors_DD = np.linalg.eigh(product_DD)
    axes_D2 = vectors_DD[:, ::-1][:, :2]
    if axes_D2.shape[1] < 2:
        axes_D2 = np.concatenate([axes_D2, np.zeros_like(axes_D2)], axis=1)
    # the sign of a direction is free: the entry of largest size is made positive
    at_2 = np.abs(axes_D2).argmax(axis=0)
    axes_D2 = axes_D2 * np.where(axes_D2[at_2, np.arange(2)] < 0, -1.0, 1.0)
    whole = float(values_D.sum())
    held = [float(value) / whole if whole > 0 else 0.0 for value in values_D[::-1][:2]]
    streams = Streams(seed).child("shift", "plane")
    drawn = [
        np.sort(streams.numpy(name).permutation(len(side))[:most])
        for name, side in zip(("source", "target"), sides, strict=True)
    ]
    shown = [(side[at] - mean_D) @ axes_D2 for side, at in zip(sides, drawn, strict=True)]
    return Plane(shown[0], shown[1], drawn[0], drawn[1], (held[0], (*held, 0.0)[1]))

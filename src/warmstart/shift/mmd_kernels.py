"""Gaussian kernel sums between bins of rows, block by block or by random Fourier features.

MMD², its permutation test, its interval and its yardstick are all functions of one small matrix:
the kernel summed over each pair of bins. Rows are dealt into bins by chance. What is held at a time
is a block of kernel values (exact) or of features (approximate), never the matrix of all pairs.

Sources: Gretton, Borgwardt, Rasch, Schölkopf and Smola, A Kernel Two-Sample Test, JMLR 2012; Rahimi
and Recht, Random Features for Large-Scale Kernel Machines, NeurIPS 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .distance_inputs import Floats, Ints

__all__ = ["Bins", "block_sums", "feature_sums", "make_bins", "median_distance"]

_WANTED = 64  # bins of the smaller side
_MOST = 256  # exchangeable bins of a side
_MEDIAN_ROWS = 2000
_DOUBLE_ROWS = 4096  # up to so many rows in all, kernels are computed in double precision


@dataclass(frozen=True)
class Bins:
    """How pooled rows lie in bins: source bins first, then target bins.

    Attributes:
        order_N: Pooled row numbers, bin after bin.
        sizes_B: Rows of each bin.
        side_B: 0 for a source bin, 1 for a target bin.
        free_B: Whether the bin may change sides in a permutation: these are of equal size. Rows
            that fill no such bin lie in others, which stay where they are.
    """

    order_N: Ints
    sizes_B: Ints
    side_B: Ints
    free_B: np.ndarray

    @property
    def ends_B(self) -> Ints:
        """Where each bin ends in `order_N`."""
        return np.cumsum(self.sizes_B)


def make_bins(n_source: int, n_target: int, generator: np.random.Generator) -> Bins:
    """Deal the rows of both sides into bins.

    Bins that may change sides have equally many rows: permuting them is permuting rows by a
    subgroup of all permutations, so that the test keeps its level exactly, whatever the numbers of
    rows (Hemerik and Goeman 2018; on power, Domingo-Enrich, Dwivedi and Mackey 2025).
    """
    size = max(1, min(n_source, n_target) // _WANTED)
    order, sizes, side, free = [], [], [], []
    for number, (start, rows) in enumerate(((0, n_source), (n_source, n_target))):
        order.append(start + generator.permutation(rows))
        moving = min(rows // size, _MOST)
        rest = rows - moving * size
        staying = min(_WANTED, -(-rest // size))
        edges = np.linspace(0, rest, staying + 1).round().astype(np.int64)
        sizes.append(np.concatenate([np.full(moving, size), np.diff(edges)]).astype(np.int64))
        side.append(np.full(moving + staying, number))
        free.append(np.arange(moving + staying) < moving)
    return Bins(*(np.concatenate(parts) for parts in (order, sizes, side, free)))


def median_distance(pooled_ND: Floats, generator: np.random.Generator) -> float:
    """Median Euclidean distance of two different rows; above 2,000 rows, of a draw of so many.

    Pairs at distance zero are left out where the median would be zero. 1.0 where all rows are
    equal.
    """
    rows = pooled_ND
    if len(rows) > _MEDIAN_ROWS:
        rows = rows[generator.choice(len(rows), _MEDIAN_ROWS, replace=False)]
    rows = rows.astype(np.float64)
    rows = rows - rows.mean(axis=0)
    norms_N = np.einsum("nd,nd->n", rows, rows)
    square_NN = norms_N[:, None] + norms_N[None, :] - 2 * (rows @ rows.T)
    square_P = np.maximum(square_NN[np.triu_indices(len(rows), k=1)], 0.0)
    # what cancellation leaves of a distance that is zero
    square_P[square_P < 1e-13 * max(float(norms_N.max()), 1e-300)] = 0.0
    distance_P = np.sqrt(square_P)
    middle = float(np.median(distance_P))
    if middle == 0.0:
        above_P = distance_P[distance_P > 0]
        middle = float(np.median(above_P)) if len(above_P) else 1.0
    return middle


def block_sums(
    pooled_ND: Floats, bandwidths: Sequence[float], bins: Bins, block: int
) -> np.ndarray:
    """Exact sums of exp(-|x - y|² / (2 σ²)) over pairs of different rows, by pair of bins.

    Args:
        pooled_ND: Source rows, then target rows.
        bandwidths: σ, one after the other.
        bins: How rows lie in bins.
        block: Rows of a block; it takes a few times block² numbers.

    Returns:
        (bandwidths, B, B) float64. On the diagonal a row's pair with itself is left out.
    """
    mean_D = pooled_ND.mean(axis=0, dtype=np.float64)
    ends_B = bins.ends_B
    sums = np.zeros((len(bandwidths), len(ends_B), len(ends_B)))
    starts = range(0, len(pooled_ND), block)
    dtype = _precision(pooled_ND, mean_D, min(bandwidths))
    for i in starts:
        left_ND, left_norms_N, left_AB, left_bins = _block(
            pooled_ND, mean_D, bins, ends_B, i, block, dtype
        )
        for j in range(i, len(pooled_ND), block):
            right_ND, right_norms_N, right_AB, right_bins = (
                (left_ND, left_norms_N, left_AB, left_bins)
                if i == j
                else _block(pooled_ND, mean_D, bins, ends_B, j, block, dtype)
            )
            square_NM = left_ND @ right_ND.T
            square_NM *= -2
            square_NM += left_norms_N[:, None]
            square_NM += right_norms_N[None, :]
            np.maximum(square_NM, 0, out=square_NM)
            for number, width in enumerate(bandwidths):
                kernel_NM = square_NM * dtype(-0.5 / width**2)
                np.exp(kernel_NM, out=kernel_NM)
                if i == j:
                    np.fill_diagonal(kernel_NM, 0)
                part = left_AB.T @ (kernel_NM @ right_AB)
                sums[number, left_bins, right_bins] += part
                if i != j:
                    sums[number, right_bins, left_bins] += part.T
    return sums


def _precision(pooled_ND: Floats, mean_D: Floats, width: float) -> type[np.floating]:
    """Single precision where it is enough: many rows, none of them far out.

    In single precision |x - y|² / σ² is wrong by about 1e-7 (|x|² + |y|²) / σ², rows being centred.
    """
    if len(pooled_ND) <= _DOUBLE_ROWS:
        return np.float64
    farthest = max(
        float(((pooled_ND[i : i + 8192] - mean_D) ** 2).sum(axis=1).max())
        for i in range(0, len(pooled_ND), 8192)
    )
    return np.float32 if farthest <= 100 * width**2 else np.float64


def _block(
    pooled_ND: Floats,
    mean_D: Floats,
    bins: Bins,
    ends_B: Ints,
    start: int,
    block: int,
    dtype: type[np.floating],
) -> tuple[Floats, Floats, Floats, slice]:
    """Centred rows of a block, their squared lengths, which bin each is in, and these bins."""
    at = slice(start, min(start + block, len(pooled_ND)))
    rows_ND = (pooled_ND[bins.order_N[at]] - mean_D).astype(dtype)
    norms_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
    bin_N = np.searchsorted(ends_B, np.arange(at.start, at.stop), side="right")
    first, last = int(bin_N[0]), int(bin_N[-1])
    inside_NB = np.zeros((len(rows_ND), last - first + 1), dtype=dtype)
    inside_NB[np.arange(len(rows_ND)), bin_N - first] = 1
    return rows_ND, norms_N, inside_NB, slice(first, last + 1)


def feature_sums(
    pooled_ND: Floats,
    bandwidths: Sequence[float],
    bins: Bins,
    block: int,
    features: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The same sums with the kernel of random frequencies in place of the Gaussian one.

    k(x, y) = mean over R frequencies w of cos(w·(x - y)), w drawn from N(0, 1/σ²): right on
    average, with a standard error that goes as 1/√R.

    Returns:
        (bandwidths, B, B) as `block_sums`, and (bandwidths, R): MMD² by each frequency alone, whose
        mean is MMD² and whose spread tells the error of the approximation.
    """
    mean_D = pooled_ND.mean(axis=0, dtype=np.float64)
    ends_B, count = bins.ends_B, len(bins.sizes_B)
    frequency_DR = generator.standard_normal((pooled_ND.shape[1], features)).astype(np.float32)
    cosines = np.zeros((len(bandwidths), count, features))
    sines = np.zeros((len(bandwidths), count, features))
    for start in range(0, len(pooled_ND), block):
        rows_ND, _, inside_NB, within = _block(
            pooled_ND, mean_D, bins, ends_B, start, block, np.float32
        )
        angle_NR = rows_ND @ frequency_DR
        for number, width in enumerate(bandwidths):
            scaled_NR = angle_NR * np.float32(1 / width)
            cosines[number, within] += inside_NB.T @ np.cos(scaled_NR)
            sines[number, within] += inside_NB.T @ np.sin(scaled_NR)
    sums = np.empty((len(bandwidths), count, count))
    alone = np.empty((len(bandwidths), features))
    rows = [int(bins.sizes_B[bins.side_B == side].sum()) for side in (0, 1)]
    for number in range(len(bandwidths)):
        c, s = cosines[number], sines[number]
        sums[number] = (c @ c.T + s @ s.T) / features - np.diag(bins.sizes_B)  # k(x, x) = 1
        (cs, ct), (ss, st) = (
            [part[bins.side_B == side].sum(axis=0) for side in (0, 1)] for part in (c, s)
        )
        alone[number] = (
            (cs**2 + ss**2 - rows[0]) / (rows[0] * (rows[0] - 1))
            + (ct**2 + st**2 - rows[1]) / (rows[1] * (rows[1] - 1))
            - 2 * (cs * ct + ss * st) / (rows[0] * rows[1])
        )
    return sums, alone

"""Near duplicates by cosine similarity, block by block, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from warmstart.core.progress import task

__all__ = ["NearDuplicates", "NearPair", "near_duplicates"]

BLOCK = 2048
"""Rows of one side of a block: its similarities take BLOCK^2 x 4 bytes, 16 MiB."""

_KEPT = 5


@dataclass(frozen=True, order=True)
class NearPair:
    """Two row positions, i < j, and their cosine similarity."""

    similarity: float
    i: int
    j: int


@dataclass(frozen=True)
class NearDuplicates:
    """How many pairs are near (equal contents not counted), and the closest of them.

    `leaking` counts validation and test rows with a near row in an earlier part: training for
    validation rows, training or validation for test rows.
    """

    pairs: int
    leaking: int
    closest: tuple[NearPair, ...]
    closest_across: tuple[NearPair, ...]


def near_duplicates(
    vectors_ND: npt.NDArray[Any],
    contents: Sequence[str],
    parts: Sequence[str | None],
    threshold: float,
    *,
    block: int = BLOCK,
) -> NearDuplicates:
    """Find all pairs with cosine similarity of `threshold` or more and different content.

    Cost is N^2 D / 2 multiplications; vectors of length zero are near to nothing.
    """
    norms_N = np.linalg.norm(vectors_ND.astype(np.float32), axis=1)
    unit_ND = vectors_ND.astype(np.float32) / np.maximum(norms_N, 1e-12)[:, None]
    content_N = np.unique(np.asarray(contents), return_inverse=True)[1]
    order = {"train": 0, "validation": 1, "test": 2, None: -1}
    part_N = np.asarray([order.get(part, -1) for part in parts], dtype=np.int64)
    n = len(unit_ND)
    starts = range(0, n, block)
    total = 0
    leaking_N = np.zeros(n, dtype=bool)
    closest: list[NearPair] = []
    across: list[NearPair] = []
    with task("near duplicates", total=len(starts) * (len(starts) + 1) // 2, unit="blocks") as bar:
        for a in starts:
            for b in range(a, n, block):
                i_K, j_K, similar_K = _near_in_block(unit_ND, a, b, block, threshold)
                keep_K = content_N[i_K] != content_N[j_K]
                i_K, j_K, similar_K = i_K[keep_K], j_K[keep_K], similar_K[keep_K]
                total += len(i_K)
                closest = _closest(closest, i_K, j_K, similar_K)
                crossing_K = (part_N[i_K] != part_N[j_K]) & (part_N[i_K] >= 0) & (part_N[j_K] >= 0)
                i_K, j_K, similar_K = i_K[crossing_K], j_K[crossing_K], similar_K[crossing_K]
                later_K = np.where(part_N[i_K] > part_N[j_K], i_K, j_K)
                leaking_N[later_K] = True
                across = _closest(across, i_K, j_K, similar_K)
                bar.advance()
    return NearDuplicates(total, int(leaking_N.sum()), tuple(closest), tuple(across))


def _near_in_block(
    unit_ND: npt.NDArray[np.float32], a: int, b: int, block: int, threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    similar_AB = unit_ND[a : a + block] @ unit_ND[b : b + block].T
    near_AB = similar_AB >= threshold - 1e-6
    if a == b:
        near_AB = np.triu(near_AB, k=1)
    row_K, column_K = np.nonzero(near_AB)
    return row_K + a, column_K + b, similar_AB[row_K, column_K]


def _closest(
    kept: list[NearPair],
    i_K: npt.NDArray[np.int64],
    j_K: npt.NDArray[np.int64],
    similar_K: npt.NDArray[np.float32],
) -> list[NearPair]:
    best = np.argsort(-similar_K, kind="stable")[:_KEPT]
    pairs = [NearPair(float(similar_K[k]), int(i_K[k]), int(j_K[k])) for k in best]
    return sorted([*kept, *pairs], key=lambda p: (-p.similarity, p.i, p.j))[:_KEPT]

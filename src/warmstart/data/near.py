"""Near duplicates by cosine similarity, block by block, so that memory stays bounded.

All pairs are compared up to `CAP` rows. Above that, so many rows as cost no more are drawn, by
their content and from the parts that judge where there are such, and each is compared with all
rows: of the drawn rows every near duplicate is found, so their share is that of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from warmstart.core.progress import track

__all__ = ["NearDuplicates", "NearPair", "near_duplicates"]

BLOCK = 2048
"""Rows of one side of a block: its similarities take BLOCK^2 x 4 bytes, 16 MiB."""

CAP = 50_000
"""Rows up to which all pairs are compared: 1.25e9 pairs, about a minute of a core for D = 384."""

_KEPT = 5
_LEAST_DRAWN = 1000


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
    validation rows, training or validation for test rows. `compared` rows were each compared with
    all `rows`; where these are fewer, `pairs` and `leaking` count what those rows take part in.
    """

    pairs: int
    leaking: int
    closest: tuple[NearPair, ...]
    closest_across: tuple[NearPair, ...]
    compared: int
    rows: int

    @property
    def sampled(self) -> bool:
        """Whether there were too many rows to compare all pairs."""
        return self.compared < self.rows


def near_duplicates(
    vectors_ND: npt.NDArray[Any],
    contents: Sequence[str],
    parts: Sequence[str | None],
    threshold: float,
    *,
    block: int = BLOCK,
    cap: int = CAP,
) -> NearDuplicates:
    """Find pairs with cosine similarity of `threshold` or more and different content.

    Cost is N^2 D / 2 multiplications up to `cap` rows and cap^2 D / 2 above, where rows are drawn
    (1,000 at least); vectors of length zero are near to nothing.
    """
    order = {"train": 0, "validation": 1, "test": 2, None: -1}
    part_N = np.asarray([order.get(part, -1) for part in parts], dtype=np.int64)
    content_N = np.unique(np.asarray(contents), return_inverse=True)[1]
    n = len(vectors_ND)
    chosen_M = np.arange(n) if n <= cap else _draw(contents, part_N, cap)
    drawn_N = np.zeros(n, dtype=bool)
    drawn_N[chosen_M] = True
    exact = len(chosen_M) == n
    total = 0
    leaking_N = np.zeros(n, dtype=bool)
    closest: list[NearPair] = []
    across: list[NearPair] = []
    blocks = [
        (a, b)
        for a in range(0, len(chosen_M), block)
        for b in range(a if exact else 0, n, block)
    ]  # fmt: skip
    for a, b in track(blocks, "near duplicates", unit="blocks"):
        rows_A = chosen_M[a : a + block]
        near_AB, similar_AB = _similar(vectors_ND, rows_A, b, block, threshold)
        at_A, at_B = np.nonzero(near_AB)
        row_K, other_K, similar_K = rows_A[at_A], at_B + b, similar_AB[at_A, at_B]
        # a pair of two drawn rows is met from both sides; once is enough
        keep_K = (content_N[row_K] != content_N[other_K]) & ((row_K < other_K) | ~drawn_N[other_K])
        row_K, other_K, similar_K = row_K[keep_K], other_K[keep_K], similar_K[keep_K]
        total += len(row_K)
        closest = _closest(closest, row_K, other_K, similar_K)
        crossing_K = (
            (part_N[row_K] != part_N[other_K]) & (part_N[row_K] >= 0) & (part_N[other_K] >= 0)
        )
        row_K, other_K = row_K[crossing_K], other_K[crossing_K]
        leaking_N[np.where(part_N[row_K] > part_N[other_K], row_K, other_K)] = True
        across = _closest(across, row_K, other_K, similar_K[crossing_K])
    leaking = int((leaking_N & drawn_N).sum())
    return NearDuplicates(total, leaking, tuple(closest), tuple(across), len(chosen_M), n)


def _draw(
    contents: Sequence[str], part_N: npt.NDArray[np.int64], cap: int
) -> npt.NDArray[np.int64]:
    """Rows to compare with all: those of lowest hash, whatever the order of the data."""
    count = max(_LEAST_DRAWN, cap * cap // 2 // len(contents))
    judging = np.flatnonzero(part_N > 0)
    among = judging if len(judging) else np.arange(len(contents))
    keys = [blake2b(contents[i].encode("utf-8", "surrogatepass")).digest() for i in among.tolist()]
    lowest = sorted(range(len(among)), key=lambda place: (keys[place], place))[:count]
    return np.sort(among[lowest])


def _similar(
    vectors_ND: npt.NDArray[Any],
    rows_A: npt.NDArray[np.int64],
    start: int,
    block: int,
    threshold: float,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Which of these rows are near which of the block that begins at `start`, and how near."""
    similar_AB = _unit(vectors_ND[rows_A]) @ _unit(vectors_ND[start : start + block]).T
    return similar_AB >= threshold - 1e-6, similar_AB


def _unit(vectors_ND: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    wide_ND = vectors_ND.astype(np.float32)
    norms_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    unit_ND: npt.NDArray[np.float32] = wide_ND / np.maximum(norms_N1, 1e-12)
    return unit_ND


def _closest(
    kept: list[NearPair],
    i_K: npt.NDArray[np.int64],
    j_K: npt.NDArray[np.int64],
    similar_K: npt.NDArray[np.float32],
) -> list[NearPair]:
    best = np.argsort(-similar_K, kind="stable")[:_KEPT]
    pairs = [NearPair(float(similar_K[k]), *sorted((int(i_K[k]), int(j_K[k])))) for k in best]
    return sorted([*kept, *pairs], key=lambda p: (-p.similarity, p.i, p.j))[:_KEPT]

"""Item vectors in shards, and the exact answer that every engine is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import faiss
import numpy as np

from warmstart.core import DataError, UsageError

from .ids import ItemId

__all__ = ["Vectors", "best_of", "checked_vectors", "exact_top"]

ROWS = 65_536
"""Rows that are scored at a time."""
QUERIES = 256
_inner_products = getattr(faiss, "fvec_inner_products_by_idx")  # noqa: B009 (no stub has it)
LARGEST = 1e15
"""Larger components could overflow in an inner product; those of unit vectors are at most 1."""


@dataclass(frozen=True)
class Vectors:
    """Rows of float32 in one array or several (in memory or mapped from disk), never copied.

    Attributes:
        shards: Arrays (rows, D) in order.
        dimension: D.
        weights_DD: How much directions count in the scores of users' queries
            (`weighing.query_weights`); None where no queries are known.
    """

    shards: tuple[np.ndarray, ...]
    dimension: int
    weights_DD: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(shard) for shard in self.shards)])

    @cached_property
    def inverse_weights_DD(self) -> np.ndarray:
        """The inverse of the weights, (D, D) float32; the identity where there are none."""
        if self.weights_DD is None:
            return np.eye(self.dimension, dtype=np.float32)
        inverse_DD: np.ndarray = np.linalg.inv(self.weights_DD).astype(np.float32)
        return inverse_DD

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All rows in order, a block at a time, each with the number of its first row."""
        for start, shard in zip(self._starts.tolist(), self.shards, strict=False):
            for first in range(0, len(shard), ROWS):
                yield start + first, np.asarray(shard[first : first + ROWS])

    def take(self, rows_N: np.ndarray) -> np.ndarray:
        """The rows (N, D) of those numbers, in their order."""
        if len(self.shards) == 1:
            return np.asarray(self.shards[0][rows_N], dtype=np.float32)
        taken_ND = np.empty((len(rows_N), self.dimension), dtype=np.float32)
        which_N = np.searchsorted(self._starts, rows_N, side="right") - 1
        for number in np.unique(which_N).tolist():
            mine_N = which_N == number
            taken_ND[mine_N] = self.shards[number][rows_N[mine_N] - self._starts[number]]
        return taken_ND

    def inner(self, query_D: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
        """Inner products (N,) of a query with those rows, whose numbers rise.

        The rows are read where they lie: copying them first takes longer than multiplying.
        """
        if len(rows_N) and not 0 <= rows_N[0] <= rows_N[-1] < len(self):
            raise IndexError(f"rows {rows_N[0]} to {rows_N[-1]} of {len(self)}")
        scores_N = np.empty(len(rows_N), dtype=np.float32)
        query_D = np.ascontiguousarray(query_D, dtype=np.float32)
        bounds = np.searchsorted(rows_N, self._starts).tolist()
        starts = self._starts.tolist()
        for number, (first, stop) in enumerate(pairwise(bounds)):
            if first == stop:
                continue
            shard = np.ascontiguousarray(self.shards[number], dtype=np.float32)
            mine_N = np.ascontiguousarray(rows_N[first:stop] - starts[number], dtype=np.int64)
            pointers = map(faiss.swig_ptr, (scores_N[first:stop], query_D, shard, mine_N))
            _inner_products(*pointers, self.dimension, 1, stop - first)
        return scores_N

    def whole(self) -> np.ndarray:
        """All rows as one array (N, D); a copy unless there is one shard."""
        if len(self.shards) == 1:
            return np.asarray(self.shards[0])
        return np.concatenate([np.empty((0, self.dimension), np.float32), *self.shards])

    def extended(self, more_ND: np.ndarray) -> Vectors:
        """These rows and then `more_ND`."""
        return replace(self, shards=(*self.shards, more_ND))


def checked_vectors(
    values: Any, dimension: int | None, who: str, ids: Sequence[ItemId] | None = None
) -> np.ndarray:
    """Vectors as a contiguous float32 array (N, D).

    Args:
        values: Anything that NumPy reads as numbers.
        dimension: The D that is asked for, or None for any.
        who: Begins the message.
        ids: One id a row, to name the row that is wrong.

    Raises:
        UsageError: For another shape than (N, D).
        DataError: For NaN, infinity or a component above 1e15, naming the row.
    """
    try:
        vectors_ND = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{who} must be numbers in an array (N, D): {error}.") from None
    if (
        vectors_ND.ndim != 2
        or vectors_ND.shape[1] < 1
        or (dimension is not None and vectors_ND.shape[1] != dimension)
    ):
        wanted = f"(N, {dimension})" if dimension is not None else "(N, D)"
        raise UsageError(f"{who} must be an array {wanted}, got shape {vectors_ND.shape}.")
    if ids is not None and len(ids) != len(vectors_ND):
        raise UsageError(f"{who}: {len(ids)} ids came with {len(vectors_ND)} vectors.")
    sound_N = np.abs(vectors_ND).max(axis=1, initial=0.0) <= LARGEST  # NaN is not
    if not sound_N.all():
        row = int(np.argmin(sound_N))
        name = repr(ids[row]) if ids is not None else f"row {row}"
        raise DataError(
            f"{who} must be finite and at most {LARGEST:g} in size; the vector of {name} is not."
        )
    return vectors_ND


def exact_top(
    queries_QD: np.ndarray, vectors: Vectors, k: int, allowed_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows with the largest inner products for each query, by computing all of them.

    Memory grows with the block, not with the number of rows.

    Args:
        queries_QD: Queries.
        vectors: Rows to rank.
        k: How many; fewer when there are fewer.
        allowed_N: Which rows may be answered; None for all.

    Returns:
        Scores and row numbers (Q, K), best first, equal scores in the order of the rows.
    """
    available = len(vectors) if allowed_N is None else int(np.count_nonzero(allowed_N))
    k = min(k, available)
    scores_QK = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    rows_QK = np.full((len(queries_QD), k), -1, dtype=np.int64)
    if k == 0:
        return scores_QK, rows_QK
    for first in range(0, len(queries_QD), QUERIES):
        part = slice(first, first + QUERIES)
        best = (scores_QK[part], rows_QK[part])
        for start, block_ND in vectors.blocks():
            scores_QN = queries_QD[part] @ block_ND.T
            if allowed_N is not None:
                scores_QN[:, ~allowed_N[start : start + len(block_ND)]] = -np.inf
            best = best_of(best, _top_of_block(scores_QN, k, start), k)
        scores_QK[part], rows_QK[part] = best
    return scores_QK, rows_QK


def best_of(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` of two ranked lists a query: scores and rows (Q, K), best first."""
    scores_QK = np.concatenate([one[0], other[0]], axis=1)
    rows_QK = np.concatenate([one[1], other[1]], axis=1)
    order_QK = np.lexsort((rows_QK, -scores_QK), axis=1)[:, :k]
    return (
        np.take_along_axis(scores_QK, order_QK, axis=1),
        np.take_along_axis(rows_QK, order_QK, axis=1),
    )


def _top_of_block(scores_QN: np.ndarray, k: int, start: int) -> tuple[np.ndarray, np.ndarray]:
    if k < scores_QN.shape[1]:
        columns_QK = np.argpartition(-scores_QN, k - 1, axis=1)[:, :k]
    else:
        columns_QK = np.broadcast_to(np.arange(scores_QN.shape[1]), scores_QN.shape)
    return np.take_along_axis(scores_QN, columns_QK, axis=1), columns_QK + start

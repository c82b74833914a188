"""One state of an index, which never changes: searched by many threads, replaced whole.

The engine covers the base rows. A deleted or replaced row stays in the engine and is masked (HNSW
cannot remove); a new row waits in a small pending block that is searched exactly. `FaissIndex`
folds both in when they have grown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import faiss
import numpy as np

from .engine import Engine
from .ids import ItemId
from .vectors import Vectors, best_of, exact_top

__all__ = ["Chosen", "State"]

EXACT_ALLOWED = 32_768
"""Up to so many allowed base rows are compared one by one: exact, and faster than a filter."""
OVER_FETCH = 512
"""Up to so many excluded rows are asked for on top and dropped; more are masked in the engine."""


@dataclass(frozen=True, eq=False)
class State:
    """Items as they stand.

    Attributes:
        vectors: Base rows, live and dead.
        ids: Id of each base row.
        alive_M: Which base rows are live.
        engine: Settings that made `searcher` and that ask it.
        searcher: FAISS index over all base rows.
        trained_rows: Base rows when the engine was last built anew.
        pending_ids: Ids of the pending rows; all of them are live.
        pending_PD: Their vectors.
    """

    vectors: Vectors
    ids: Sequence[ItemId]
    alive_M: np.ndarray
    engine: Engine
    searcher: faiss.Index
    trained_rows: int
    pending_ids: tuple[ItemId, ...]
    pending_PD: np.ndarray

    @cached_property
    def dead(self) -> int:
        """Base rows that are masked."""
        return len(self.alive_M) - int(np.count_nonzero(self.alive_M))

    @cached_property
    def base_rows(self) -> dict[ItemId, int]:
        """Live base row of each id."""
        rows = np.flatnonzero(self.alive_M).tolist()
        return {self.ids[row]: row for row in rows}

    @cached_property
    def pending_rows(self) -> dict[ItemId, int]:
        """Place of each id in the pending block."""
        return {item: place for place, item in enumerate(self.pending_ids)}

    @cached_property
    def live_ids(self) -> tuple[ItemId, ...]:
        """Ids of all live items: base rows in order, then the pending ones."""
        return (*self.base_rows, *self.pending_ids)

    @cached_property
    def _pending(self) -> Vectors:
        return Vectors((self.pending_PD,), self.vectors.dimension)

    def __len__(self) -> int:
        return len(self.ids) - self.dead + len(self.pending_ids)

    def __contains__(self, item: object) -> bool:
        return item in self.pending_rows or item in self.base_rows

    def vectors_of(self, ids: Sequence[ItemId]) -> np.ndarray:
        """Vectors (N, D) of items that are there."""
        if not self.pending_ids:
            return self.vectors.take(np.array([self.base_rows[item] for item in ids], np.int64))
        taken_ND = np.empty((len(ids), self.vectors.dimension), dtype=np.float32)
        places = [self.pending_rows.get(item, -1) for item in ids]
        waits_N = np.array(places, dtype=np.int64) >= 0
        taken_ND[waits_N] = self.pending_PD[[place for place in places if place >= 0]]
        base = [self.base_rows[item] for item, waits in zip(ids, waits_N, strict=True) if not waits]
        taken_ND[~waits_N] = self.vectors.take(np.array(base, dtype=np.int64))
        return taken_ND

    def without(self, ids: Sequence[ItemId]) -> State:
        """The state after removing items that are there."""
        gone = set(ids)
        rows = [self.base_rows[item] for item in ids if item not in self.pending_rows]
        state = self
        if rows:
            alive_M = self.alive_M.copy()
            alive_M[rows] = False
            state = replace(state, alive_M=alive_M)
            # The copy of a large dictionary is cheaper than making it again from the ids.
            state.__dict__["base_rows"] = _without(self.base_rows, gone)
        if len(rows) < len(ids):
            keep_P = np.array([item not in gone for item in self.pending_ids], dtype=bool)
            kept = tuple(item for item in self.pending_ids if item not in gone)
            state = _carried(state, pending_ids=kept, pending_PD=self.pending_PD[keep_P])
        return state

    def with_pending(self, ids: Sequence[ItemId], vectors_ND: np.ndarray) -> State:
        """The state after adding items that are not there."""
        return _carried(
            self,
            pending_ids=(*self.pending_ids, *ids),
            pending_PD=np.concatenate([self.pending_PD, vectors_ND]),
        )

    def search(
        self,
        queries_QD: np.ndarray,
        k: int,
        banned: Iterable[ItemId],
        chosen: Chosen | None,
        effort: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and row numbers (Q, K), best first; numbers from len(ids) on are pending rows."""
        out = [(self.base_rows.get(item, -1), self.pending_rows.get(item, -1)) for item in banned]
        out_base = np.unique(np.array([row for row, _ in out if row >= 0], dtype=np.int64))
        waiting_P = np.ones(len(self.pending_ids), dtype=bool)
        waiting_P[[place for _, place in out if place >= 0]] = False
        if chosen is None:
            base = self._search_all(queries_QD, k, out_base, effort)
        else:
            rows_A = np.setdiff1d(chosen.base_rows, out_base, True)
            base = self._search_some(queries_QD, k, rows_A, effort)
            waiting_P &= chosen.pending_P
        if not waiting_P.any():
            return base
        scores_QK, places_QK = exact_top(queries_QD, self._pending, k, waiting_P)
        return best_of(base, (scores_QK, places_QK + len(self.ids)), k)

    def _search_all(
        self, queries_QD: np.ndarray, k: int, out_rows: np.ndarray, effort: float
    ) -> tuple[np.ndarray, np.ndarray]:
        eligible = len(self.ids) - self.dead - len(out_rows)
        wanted = min(k, eligible)
        if not wanted or wanted * 4 >= len(
            self.ids
        ):  # a search of near rows would walk through them all
            return exact_top(queries_QD, self.vectors, wanted, self._without_rows(out_rows))
        if not self.dead and len(out_rows) <= OVER_FETCH:
            found = self._ask(queries_QD, wanted, None, effort, spare=len(out_rows))
        else:
            found = self._ask(queries_QD, wanted, self._without_rows(out_rows), effort)
        kept = _dropped(*found, out_rows, wanted)
        return self._completed(queries_QD, *kept, lambda: self._without_rows(out_rows))

    def _search_some(
        self, queries_QD: np.ndarray, k: int, rows_A: np.ndarray, effort: float
    ) -> tuple[np.ndarray, np.ndarray]:
        if len(rows_A) <= EXACT_ALLOWED or 4 * k >= len(rows_A):
            few = Vectors((self.vectors.take(rows_A),), self.vectors.dimension)
            scores_QK, places_QK = exact_top(queries_QD, few, k)
            return scores_QK, rows_A[places_QK]
        allowed_M = np.zeros(len(self.ids), dtype=bool)
        allowed_M[rows_A] = True
        effort *= min(16.0, len(self.ids) / len(rows_A))
        found = _dropped(*self._ask(queries_QD, k, allowed_M, effort), rows_A[:0], k)
        return self._completed(queries_QD, *found, lambda: allowed_M)

    def _ask(
        self,
        queries_QD: np.ndarray,
        k: int,
        allowed_M: np.ndarray | None,
        effort: float,
        spare: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        selector = None
        if allowed_M is not None:
            bits = np.packbits(allowed_M, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
        return self.engine.search(
            self.searcher, self.vectors, queries_QD, k, selector, effort, spare
        )

    def _completed(
        self,
        queries_QD: np.ndarray,
        scores_QK: np.ndarray,
        rows_QK: np.ndarray,
        allowed: Callable[[], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Queries for which the engine found too few are answered exactly."""
        short_Q = (rows_QK < 0).any(axis=1)
        if short_Q.any():
            exact = exact_top(queries_QD[short_Q], self.vectors, rows_QK.shape[1], allowed())
            scores_QK[short_Q], rows_QK[short_Q] = exact
        return scores_QK, rows_QK

    def _without_rows(self, out_rows: np.ndarray) -> np.ndarray:
        if not len(out_rows):
            return self.alive_M
        allowed_M = self.alive_M.copy()
        allowed_M[out_rows] = False
        return allowed_M


@dataclass(frozen=True, eq=False)
class Chosen:
    """A selection: ids, and where they lie in one state.

    Attributes:
        state: The state that the numbers belong to; on another one they are looked up again.
        ids: What was selected.
        base_rows: Live base rows of them, in order.
        pending_P: Which pending rows are among them.
    """

    state: State = field(repr=False)
    ids: frozenset[ItemId]
    base_rows: np.ndarray
    pending_P: np.ndarray

    @classmethod
    def of(cls, state: State, ids: Iterable[ItemId]) -> Chosen:
        """Look items up; unknown ids are passed over."""
        wanted = frozenset(ids)
        rows = [row for item in wanted if (row := state.base_rows.get(item, -1)) >= 0]
        pending = np.array([item in wanted for item in state.pending_ids], dtype=bool)
        return cls(state, wanted, np.sort(np.array(rows, dtype=np.int64)), pending)

    def __len__(self) -> int:
        return len(self.base_rows) + int(np.count_nonzero(self.pending_P))

    def on(self, state: State) -> Chosen:
        """The same items in that state."""
        return self if state is self.state else Chosen.of(state, self.ids)


def _dropped(
    scores_QK: np.ndarray, rows_QK: np.ndarray, out_rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `k` that were found and are not to be left out; -1 where there are fewer.

    The rows to leave out come in order, none twice.
    """
    keep_QK = rows_QK >= 0
    if len(out_rows):
        places_QK = np.searchsorted(out_rows, rows_QK).clip(max=len(out_rows) - 1)
        keep_QK &= out_rows[places_QK] != rows_QK
    scores_QK = np.where(keep_QK, scores_QK, -np.inf)
    kept = best_of(
        (scores_QK, np.where(keep_QK, rows_QK, -1)),
        (scores_QK[:, :0], rows_QK[:, :0]),
        k,
    )
    missing = k - kept[0].shape[1]
    if missing <= 0:
        return kept
    fill = ((0, 0), (0, missing))
    return (
        np.pad(kept[0], fill, constant_values=-np.inf),
        np.pad(kept[1], fill, constant_values=-1),
    )


def _without(rows: dict[ItemId, int], gone: set[ItemId]) -> dict[ItemId, int]:
    kept = dict(rows)
    for item in gone:
        kept.pop(item, None)
    return kept


def _carried(state: State, *, pending_ids: tuple[ItemId, ...], pending_PD: np.ndarray) -> State:
    """Another pending block; what was derived from the base stays."""
    new = replace(state, pending_ids=pending_ids, pending_PD=pending_PD)
    for name in ("dead", "base_rows"):
        if name in state.__dict__:
            new.__dict__[name] = state.__dict__[name]
    return new

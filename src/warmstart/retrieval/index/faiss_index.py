"""The item index in this process: ids, changes and searches over a FAISS engine.

Writers build the next state and put it in place at once; a search takes the state once. So any
number of threads may search while one changes the index.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from warmstart.core import DataError, NotApplicable, UsageError
from warmstart.core.progress import note

from .choosing import Target, choose
from .engine import Engine, use_threads
from .engines import Flat, engine_from
from .folder import Published, read_index, write_index
from .ids import ItemId, first_repeated, plain_ids, some_ids
from .protocol import Selection
from .state import Chosen, State
from .vectors import Vectors, checked_vectors
from .weighing import query_weights

__all__ = ["FaissIndex"]

PENDING_ROWS = 4096
"""So many new rows wait beside the engine before they are put into it."""
DEAD_SHARE = 0.2
"""The engine is built anew when so large a part of its rows is dead."""
DEAD_ROWS = 1000
"""But not for fewer dead rows than these."""
UNSAVED = "unsaved"


class FaissIndex:
    """An `ItemIndex` on FAISS.

    Make one with `FaissIndex.build`, `FaissIndex.load` or `build_index`.

    Attributes:
        threads: OpenMP threads of a search. One gives the steadiest latency under load; more
            share a search over many queries.
        choice: What `choose` measured, as JSON has it; None where the engine was given.
    """

    def __init__(
        self,
        state: State,
        tower: str,
        *,
        seed: int = 0,
        threads: int = 1,
        name: str = UNSAVED,
        choice: dict[str, Any] | None = None,
    ) -> None:
        self._state = state
        self._tower = tower
        self._seed = seed
        self._name = name
        self._lock = threading.Lock()
        self.choice = choice
        self.threads = _checked_threads(threads)

    @classmethod
    def build(
        cls,
        ids: Iterable[Any],
        vectors_ND: Any,
        *,
        tower: str,
        engine: Engine | str = "auto",
        target: Target | None = None,
        queries_QD: np.ndarray | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> FaissIndex:
        """An index over items in memory.

        Args:
            ids: An id an item: text or whole numbers.
            vectors_ND: Their vectors, of the item tower.
            tower: Fingerprint of that tower.
            engine: Settings of an engine, its name, or `auto`: what `choose` finds by measurement.
            target: What `auto` has to reach; recall 0.95 and p99 5 ms unless given.
            queries_QD: Queries of real users. Every other one measures `auto`, the others say
                which directions count in scores (`weighing`).
            seed: Root of what the engine draws.
            threads: OpenMP threads of a search.

        Raises:
            UsageError: For ids, vectors or queries that cannot be used, or an unknown engine.
            DataError: For an id that comes twice, or a vector with NaN.
            NotApplicable: When the engine does not fit so few rows.
        """
        plain = plain_ids(ids)
        array_ND = checked_vectors(vectors_ND, None, "The item vectors", plain)
        vectors = Vectors((array_ND,), array_ND.shape[1])
        return cls.over(
            plain,
            vectors,
            tower=tower,
            engine=engine,
            target=target,
            queries_QD=queries_QD,
            seed=seed,
            threads=threads,
        )

    @classmethod
    def over(
        cls,
        ids: Sequence[ItemId],
        vectors: Vectors,
        *,
        tower: str,
        engine: Engine | str = "auto",
        target: Target | None = None,
        queries_QD: np.ndarray | None = None,
        seed: int = 0,
        threads: int = 1,
        thorough: bool = False,
    ) -> FaissIndex:
        """An index over checked vectors, which may lie on disk; see `build`, and `choose`."""
        if (twice := first_repeated(ids)) is not None:
            raise DataError(f"The item id {twice!r} comes twice. Ids must differ.")
        if queries_QD is not None:
            vectors, queries_QD = _asked(vectors, queries_QD)
        if engine == "auto":
            choice = choose(vectors, target, queries_QD=queries_QD, seed=seed, thorough=thorough)
            state = _built(ids, vectors, choice.engine, choice.searcher)
            return cls(state, tower, seed=seed, threads=threads, choice=choice.to_json())
        settings = engine_from(engine) if isinstance(engine, str) else engine
        state = _built(ids, vectors, settings, settings.build(vectors, seed))
        return cls(state, tower, seed=seed, threads=threads)

    @classmethod
    def load(cls, folder: Path | str, *, tower: str | None = None, threads: int = 1) -> FaissIndex:
        """A published index; every file is checked first.

        Args:
            folder: What `save` or `build_index` published.
            tower: Fingerprint of the item tower that queries will come from; None: not checked.
            threads: OpenMP threads of a search.

        Raises:
            RunError: When the folder is damaged or of another version, naming the file; when it
                belongs to another tower, naming both.
        """
        found = read_index(Path(folder), tower=tower)
        return cls(
            found.state,
            found.tower,
            seed=found.seed,
            threads=threads,
            name=found.name,
            choice=found.choice,
        )

    @property
    def name(self) -> str:
        """Which published index this is: `folder@checksum`; `unsaved` before, or after changes."""
        return self._name

    @property
    def tower(self) -> str:
        """Fingerprint of the item tower that made the vectors."""
        return self._tower

    @property
    def dimension(self) -> int:
        """D."""
        return self._state.vectors.dimension

    @property
    def engine(self) -> Engine:
        """Settings of the engine."""
        return self._state.engine

    @property
    def ids(self) -> tuple[ItemId, ...]:
        """Ids of all items: in the order of the build, then as they were added."""
        return self._state.live_ids

    def __len__(self) -> int:
        return len(self._state)

    def __contains__(self, item: object) -> bool:
        return item in self._state

    def search(
        self,
        queries_QD: np.ndarray,
        k: int,
        *,
        exclude: Iterable[Any] = (),
        allow: Iterable[Any] | Selection | None = None,
        tower: str | None = None,
    ) -> tuple[np.ndarray, list[list[ItemId]]]:
        """The k nearest items of each query; see `ItemIndex.search`.

        Raises:
            UsageError: For k below 1, queries of another dimension or of another tower.
            DataError: For queries with NaN or infinity.
        """
        if tower is not None and tower != self._tower:
            raise UsageError(
                f"The queries come from tower {tower} and the index from tower {self._tower}. "
                "Build the index with the model that asks it."
            )
        queries_QD = checked_vectors(queries_QD, self.dimension, "Queries")
        return self._nearest(self._state, queries_QD, k, exclude, allow)

    def similar(
        self,
        item: Any,
        k: int,
        *,
        exclude: Iterable[Any] = (),
        allow: Iterable[Any] | Selection | None = None,
    ) -> tuple[np.ndarray, list[ItemId]]:
        """The k items nearest to an item; see `ItemIndex.similar`.

        With the effort that items need, where that was measured when the engine was chosen.

        Raises:
            UsageError: For k below 1.
            DataError: For an unknown id.
        """
        state, plain = self._state, plain_ids([item])
        _check_known(state, plain)
        effort = ((self.choice or {}).get("similar") or {}).get("effort", 1.0)
        scores_1K, found = self._nearest(
            state, state.vectors_of(plain), k, [*exclude, *plain], allow, effort
        )
        return scores_1K[0], found[0]

    def select(self, ids: Iterable[Any]) -> Selection:
        """Items for `allow`, looked up once; unknown ids are passed over."""
        return Chosen.of(self._state, plain_ids(ids))

    def vectors(self, ids: Sequence[Any]) -> np.ndarray:
        """The vectors (N, D) of items.

        Raises:
            DataError: For an unknown id.
        """
        state, plain = self._state, plain_ids(ids)
        _check_known(state, plain)
        return state.vectors_of(plain)

    def add(self, ids: Sequence[Any], vectors_ND: Any) -> None:
        """Add new items, all or none.

        Raises:
            DataError: For an id that is there already or comes twice, or a vector with NaN.
        """
        plain = plain_ids(ids)
        new_ND = checked_vectors(vectors_ND, self.dimension, "The new vectors", plain)
        with self._lock:
            _check_once(plain)
            if known := [item for item in plain if item in self._state]:
                raise DataError(
                    f"The index has {some_ids(known)} already; nothing was added. Give these new "
                    "vectors with update()."
                )
            self._put(self._state.with_pending(plain, new_ND))

    def update(self, ids: Sequence[Any], vectors_ND: Any) -> None:
        """Give items new vectors, all or none.

        Raises:
            DataError: For an unknown id or one that comes twice, or a vector with NaN.
        """
        plain = plain_ids(ids)
        new_ND = checked_vectors(vectors_ND, self.dimension, "The new vectors", plain)
        with self._lock:
            _check_once(plain)
            _check_known(self._state, plain)
            self._put(self._state.without(plain).with_pending(plain, new_ND))

    def delete(self, ids: Sequence[Any]) -> None:
        """Remove items, all or none.

        Their vectors stay in the engine, masked, until it is built anew (`rebuild`).

        Raises:
            DataError: For an unknown id or one that comes twice.
        """
        plain = plain_ids(ids)
        with self._lock:
            _check_once(plain)
            _check_known(self._state, plain)
            self._put(self._state.without(plain))

    def rebuild(self, engine: Engine | None = None) -> None:
        """Build the engine anew over the live items, with other settings where they are given.

        What `choose` measured holds for its own engine alone, so `choice` is then None.
        """
        with self._lock:
            rebuilt = _rebuilt(self._state, engine or self._state.engine, self._seed)
            if rebuilt.engine != self._state.engine:
                self.choice = None
            self._state = rebuilt
            self._name = UNSAVED

    def save(self, folder: Path | str, *, replace: bool = False) -> None:
        """Publish the index as a folder; see `warmstart.retrieval.index.folder`.

        Raises:
            RunError: When the folder exists and `replace` is false, or when what was written does
                not answer as the index does; nothing is published then.
        """
        with self._lock:
            self._state = _absorbed(self._state)
            published = Published(self._state, self._tower, self._seed, self._name, self.choice)
            self._name = write_index(published, Path(folder), replace=replace)

    def _nearest(
        self,
        state: State,
        queries_QD: np.ndarray,
        k: int,
        exclude: Iterable[Any],
        allow: Iterable[Any] | Selection | None,
        effort: float = 1.0,
    ) -> tuple[np.ndarray, list[list[ItemId]]]:
        """Scores (Q, K), best first, and the ids of each query."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise UsageError(f"k must be a whole number of at least 1, got {k!r}.")
        chosen = None if allow is None else _chosen(state, allow)
        use_threads(self.threads)
        scores_QK, rows_QK = state.search(queries_QD, int(k), plain_ids(exclude), chosen, effort)
        base = len(state.ids)
        ids = [
            [state.ids[row] if row < base else state.pending_ids[row - base] for row in rows]
            for rows in rows_QK.tolist()
        ]
        return scores_QK, ids

    def _put(self, state: State) -> None:
        """Fold in what has grown, then let searches see it."""
        if len(state.pending_ids) > PENDING_ROWS:
            state = _absorbed(state)
        outgrown = state.engine.trained and len(state.ids) > 2 * max(state.trained_rows, 1)
        if state.dead > max(DEAD_ROWS, DEAD_SHARE * len(state.ids)) or outgrown:
            state = _rebuilt(state, state.engine, self._seed)
        self._state = state
        self._name = UNSAVED


def _asked(vectors: Vectors, queries_QD: np.ndarray) -> tuple[Vectors, np.ndarray]:
    """The vectors with the weights that every other query gives, and the queries between them."""
    checked_QD = checked_vectors(queries_QD, vectors.dimension, "Queries")
    if len(checked_QD) < 2:
        return vectors, checked_QD
    return replace(vectors, weights_DD=query_weights(checked_QD[1::2])), checked_QD[::2]


def _built(ids: Sequence[ItemId], vectors: Vectors, engine: Engine, searcher: faiss.Index) -> State:
    if not getattr(engine, "query_aware", False):
        vectors = replace(vectors, weights_DD=None)
    return State(
        vectors=vectors,
        ids=ids,
        alive_M=np.ones(len(ids), dtype=bool),
        engine=engine,
        searcher=searcher,
        trained_rows=len(ids),
        pending_ids=(),
        pending_PD=np.empty((0, vectors.dimension), dtype=np.float32),
    )


def _absorbed(state: State) -> State:
    """The pending rows put into a copy of the engine."""
    if not state.pending_ids:
        return state
    searcher = faiss.clone_index(state.searcher)
    searcher.add(np.ascontiguousarray(state.pending_PD))
    return replace(
        state,
        vectors=state.vectors.extended(state.pending_PD),
        ids=(*state.ids, *state.pending_ids),
        alive_M=np.concatenate([state.alive_M, np.ones(len(state.pending_ids), dtype=bool)]),
        searcher=searcher,
        pending_ids=(),
        pending_PD=state.pending_PD[:0],
    )


def _rebuilt(state: State, engine: Engine, seed: int) -> State:
    """The live items alone; flat where the engine does not fit so few."""
    ids = state.live_ids
    kept_ND = np.concatenate([state.vectors.take(np.flatnonzero(state.alive_M)), state.pending_PD])
    vectors = replace(state.vectors, shards=(kept_ND,))
    try:
        return _built(ids, vectors, engine, engine.build(vectors, seed))
    except NotApplicable as reason:
        note(f"The index is searched item by item now: {reason}")
        return _built(ids, vectors, Flat(), Flat().build(vectors, seed))


def _chosen(state: State, allow: Iterable[Any] | Selection) -> Chosen:
    if isinstance(allow, Chosen):
        return allow.on(state)
    if isinstance(allow, Iterable):
        return Chosen.of(state, plain_ids(allow))
    raise UsageError(f"allow must be a list of ids or a selection, got {type(allow).__name__}.")


def _check_once(ids: Sequence[ItemId]) -> None:
    if (twice := first_repeated(ids)) is not None:
        raise DataError(f"The item id {twice!r} comes twice; nothing was changed.")


def _check_known(state: State, ids: Sequence[ItemId]) -> None:
    if unknown := [item for item in ids if item not in state]:
        raise DataError(f"The index has no item {some_ids(unknown)}; nothing was changed.")


def _checked_threads(threads: int) -> int:
    if threads < 1:
        raise UsageError(f"index.threads must be at least 1, got {threads}. Usual: 1.")
    return threads

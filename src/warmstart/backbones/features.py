"""Features of a dataset: each distinct content is embedded once, never again while cached."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from warmstart.core import progress
from warmstart.data import Dataset

from .cache import FeatureCache, SpaceStore
from .embedding import Job, iterate_vectors
from .encoder import Encoder
from .rowstore import content_key, human_size
from .space import Features, Space

__all__ = ["features_of"]

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 3.0
Depth = int | None


def features_of(
    dataset: Dataset,
    spaces: Mapping[Depth, Space],
    *,
    cache: FeatureCache | None,
    make_encoder: Callable[[], Encoder],
    batch_size: int,
    label: str,
) -> dict[Depth, Features]:
    """Embed the rows of a dataset at one or several depths.

    Args:
        dataset: Rows; equal contents are computed once.
        spaces: The space of each depth wanted.
        cache: Where vectors are kept, or None.
        make_encoder: Called when a row is missing.
        batch_size: See `embedding.Job`.
        label: Name of the backbone for the progress bar.

    Raises:
        BackboneError: When a vector is not finite, naming the row.
    """
    contents = dataset.contents
    first = {content: row for row, content in reversed(list(enumerate(contents)))}
    unique = list(dict.fromkeys(contents))
    keys = [content_key(content) for content in unique]
    work = _Work(dataset, [first[content] for content in unique], keys, spaces, cache)
    missing = work.find()
    if len(missing):
        work.compute(missing, make_encoder(), batch_size, label)
    elif not keys:
        encoder = make_encoder()
        for depth in spaces:
            width = encoder.dimension_at(depth, spaces[depth].pooling)
            work.vectors[depth] = np.zeros((0, width), dtype=np.float32)
    place = {content: position for position, content in enumerate(unique)}
    inverse_N = np.array([place[content] for content in contents], dtype=np.int64)
    ids = tuple(dataset.ids)
    return {
        depth: Features(
            vectors if len(unique) == len(contents) else vectors[inverse_N], ids, spaces[depth]
        )
        for depth, vectors in work.vectors.items()
    }


class _Work:
    """Distinct rows on their way to vectors."""

    def __init__(
        self,
        dataset: Dataset,
        rows: Sequence[int],
        keys: Sequence[bytes],
        spaces: Mapping[Depth, Space],
        cache: FeatureCache | None,
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        self.keys = keys
        self.spaces = spaces
        self.cache = cache
        self.stores: dict[Depth, SpaceStore] = {}
        self.vectors: dict[Depth, np.ndarray] = {}
        self.lacking: dict[Depth, np.ndarray] = {}
        self._pending: list[int] = []
        self._flushed_at = time.monotonic()

    def find(self) -> np.ndarray:
        """Take what the cache has; returns the positions that some depth lacks."""
        for depth, space in self.spaces.items():
            if self.cache is None:
                self.lacking[depth] = np.ones(len(self.keys), dtype=bool)
                continue
            store = self.stores[depth] = self.cache.open(space)
            where = store.positions(self.keys)
            hit = where >= 0
            self.lacking[depth] = ~hit
            if store.dimension is not None and len(where):
                found = np.empty((len(where), store.dimension), dtype=np.float32)
                if hit.any():
                    found[hit] = store.vectors()[where[hit]]
                self.vectors[depth] = found
        lacking = np.any(list(self.lacking.values()), axis=0)
        _log.info("features: %d rows cached, %d to compute", (~lacking).sum(), lacking.sum())
        return np.flatnonzero(lacking)

    def compute(self, missing: np.ndarray, encoder: Encoder, batch_size: int, label: str) -> None:
        """Embed the rows at these positions, keeping what is done every few seconds."""
        self._allocate(encoder)
        self._announce(len(missing))
        wanted = {d: s.pooling for d, s in self.spaces.items() if self.lacking[d].any()}
        job = Job(wanted, batch_size)
        with progress.task(f"Embedding with {label}", total=len(missing)) as bar:
            try:
                for chosen, found in iterate_vectors(
                    encoder, missing.tolist(), self._fetch, self._name, job
                ):
                    for depth, vectors_BD in found.items():
                        fresh = self.lacking[depth][chosen]  # what was cached keeps its bits
                        self.vectors[depth][np.array(chosen)[fresh]] = vectors_BD[fresh]
                    self._pending += chosen
                    if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
                        self._flush()
                    bar.advance(len(chosen))
            finally:
                self._flush()

    def _allocate(self, encoder: Encoder) -> None:
        for depth, space in self.spaces.items():
            if depth not in self.vectors:
                width = encoder.dimension_at(depth, space.pooling)
                self.vectors[depth] = np.empty((len(self.keys), width), dtype=np.float32)

    def _announce(self, count: int) -> None:
        """Say how much will be written; keep it in memory where the limit forbids it."""
        if self.cache is None:
            return
        size = sum(
            int(lacking.sum()) * (4 * self.vectors[depth].shape[1] + 16)
            for depth, lacking in self.lacking.items()
        )
        if not self.cache.room_for(size):
            progress.note(
                f"The feature cache {self.cache.root} would grow by {human_size(size)} beyond its "
                f"limit of {human_size(self.cache.limit_bytes)}, so these features stay in memory. "
                "Delete old folders there, or set WARMSTART_CACHE_LIMIT (for example 40G)."
            )
            self.stores = {}
        else:
            progress.note(
                f"Features of {count:,} {'row takes' if count == 1 else 'rows take'} "
                f"{human_size(size)} in {self.cache.root}."
            )

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        pending, self._pending = self._pending, []
        if not pending:
            return
        keys = [self.keys[position] for position in pending]
        try:
            for depth, store in self.stores.items():
                fresh = np.flatnonzero(self.lacking[depth][pending])
                rows = self.vectors[depth][np.array(pending)[fresh]]
                store.append([keys[i] for i in fresh], rows)
        except OSError as error:
            self.stores = {}
            progress.note(
                f"The feature cache cannot be written ({error}); the features stay in memory. "
                "Free some space or name another folder with WARMSTART_CACHE."
            )

    def _fetch(self, positions: Sequence[int]) -> list[object]:
        return list(self.dataset.inputs([self.rows[position] for position in positions]))

    def _name(self, position: int) -> str:
        return repr(self.dataset.ids[self.rows[position]])

"""The engines by name: FAISS flat, HNSW, IVF-Flat and IVF-PQ, each a value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import faiss
from pydantic import Field

from warmstart.core import NotApplicable, UsageError, nearest

from .engine import Engine, parameters
from .ivf import IVFPQ, IVFFlat
from .vectors import Vectors

__all__ = ["ENGINES", "HNSW", "Flat", "engine_from"]


class Flat(Engine):
    """Every vector is compared: exact, and the time grows with the catalogue.

    Pick when: up to about 50,000 items.
    """

    kind: ClassVar[str] = "flat"
    _type: ClassVar[type[Any]] = faiss.IndexFlat

    @classmethod
    def _efforts(cls, vectors: Vectors, k: int) -> Iterator[Engine]:
        yield cls()

    def _empty(self, vectors: Vectors, seed: int) -> faiss.Index:
        return faiss.IndexFlatIP(vectors.dimension)

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        return None if selector is None else parameters("SearchParameters", sel=selector)

    def _bytes(self, rows: int, dimension: int) -> float:
        return 4 * rows * dimension


class HNSW(Engine):
    """A graph of near neighbours, walked greedily from coarse to fine.

    Pick when: lowest latency at high recall, and memory for the vectors is there. Building is slow.
    Source: Malkov and Yashunin 2018, arXiv 1603.09320.

    Attributes:
        neighbours: Links a row on each level (twice as many on the lowest).
        building: Candidates kept while a row is linked.
        searching: Candidates kept while a query is answered; raised to k where k is larger.
    """

    kind: ClassVar[str] = "hnsw"
    _type: ClassVar[type[Any]] = faiss.IndexHNSWFlat
    neighbours: int = Field(default=32, ge=2, le=512)
    building: int = Field(default=120, ge=1, le=4096)
    searching: int = Field(default=128, ge=1, le=65_536)

    @classmethod
    def _efforts(cls, vectors: Vectors, k: int) -> Iterator[Engine]:
        rows = len(vectors)
        if rows < 1000:
            raise NotApplicable(f"{rows} rows are searched faster one by one (hnsw: from 1,000).")
        for width in (64, 128, 192, 256, 384, 512, 1024):
            yield cls(searching=width)

    def _empty(self, vectors: Vectors, seed: int) -> faiss.Index:
        index = faiss.IndexHNSWFlat(vectors.dimension, self.neighbours, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.building
        return index

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        width = max(k, math.ceil(self.searching * effort))
        return parameters("SearchParametersHNSW", efSearch=width, sel=selector)

    def _bytes(self, rows: int, dimension: int) -> float:
        return rows * (4 * dimension + 4 * 2 * self.neighbours * 1.05 + 12)


ENGINES: dict[str, type[Engine]] = {engine.kind: engine for engine in (Flat, HNSW, IVFFlat, IVFPQ)}


def engine_from(kind: str, settings: dict[str, object] | None = None) -> Engine:
    """An engine by its name.

    Raises:
        UsageError: For an unknown name or a setting out of its range.
    """
    if kind not in ENGINES:
        raise UsageError(f'There is no engine "{kind}".{nearest(kind, ENGINES)}')
    return ENGINES[kind].parse(settings or {}, kind)

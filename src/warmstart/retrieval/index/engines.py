"""The engines that find near vectors: FAISS flat, HNSW, IVF-Flat and IVF-PQ, each a value.

An engine holds settings only. `build` makes a FAISS index over rows 0 .. N-1, `search` asks one;
neither knows ids, deletions or files. The metric is the inner product, which for unit vectors is
the cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import faiss
import numpy as np
from pydantic import Field

from warmstart.core import Config, NotApplicable, Streams, UsageError, nearest

from .vectors import Vectors

__all__ = ["ENGINES", "HNSW", "IVFPQ", "Engine", "Flat", "IVFFlat", "engine_from", "use_threads"]

TRAINING_ROWS = 39
"""Rows that k-means should have for each centroid; below, FAISS warns and lists stay empty."""
ROWS_A_CANDIDATE = 170
"""Rows whose 4-bit codes are read in the time in which one candidate is compared again."""
BUILD_THREADS = faiss.omp_get_max_threads()
"""Building takes what OpenMP gives the process (every core, or OMP_NUM_THREADS)."""


class Engine(Config):
    """How near vectors are found.

    Attributes:
        kind: Its name in settings and files.
        trained: Whether it learns from the rows it is built on, so that many later rows call for
            building it anew.
    """

    kind: ClassVar[str]
    trained: ClassVar[bool] = False
    _type: ClassVar[type[Any]]

    @classmethod
    def ladder(cls, rows: int, dimension: int, k: int = 100) -> list[Engine]:
        """Settings to try for so many rows, least effort first; one built index serves them all.

        Args:
            rows: Rows of the index.
            dimension: D.
            k: How many nearest rows are asked for.

        Raises:
            NotApplicable: With the reason why this engine makes no sense here.
        """
        return list(cls._efforts(rows, dimension, k))

    def build(self, vectors: Vectors, seed: int) -> faiss.Index:
        """A FAISS index over all rows, in their order.

        Raises:
            NotApplicable: When the rows or the dimension do not suffice.
        """
        use_threads(BUILD_THREADS)
        index = self._empty(len(vectors), vectors.dimension)
        if isinstance(index, faiss.IndexIVF):
            _train(index, vectors, seed)
        for _, block_ND in vectors.blocks():
            index.add(np.ascontiguousarray(block_ND))
        return index

    def search(
        self,
        index: faiss.Index,
        vectors: Vectors,
        queries_QD: np.ndarray,
        k: int,
        selector: faiss.IDSelector | None = None,
        effort: float = 1.0,
        spare: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and row numbers (Q, k + spare), best first; -1 where nothing was found.

        Args:
            index: What `build` made.
            vectors: The rows it was made from.
            queries_QD: Queries.
            k: How many rows a query.
            selector: Which rows may be answered.
            effort: Factor on what bounds the search; above 1 where a selector leaves few rows.
            spare: Further rows, for those of the `k` that the caller will drop.
        """
        k += spare
        return index.search(queries_QD, k, params=self._parameters(k, selector, effort))

    def megabytes(self, rows: int, dimension: int) -> float:
        """Memory of the built index in MB, about; item vectors kept on disk are not counted."""
        return self._bytes(rows, dimension) / 1e6

    def fits(self, index: faiss.Index) -> bool:
        """Whether a FAISS index is of the type and shape that these settings build."""
        lists = getattr(self, "lists", None)
        return isinstance(index, self._type) and getattr(index, "nlist", None) == lists

    @classmethod
    def _efforts(cls, rows: int, dimension: int, k: int) -> Iterator[Engine]:
        raise NotImplementedError

    def _empty(self, rows: int, dimension: int) -> faiss.Index:
        raise NotImplementedError

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        raise NotImplementedError

    def _bytes(self, rows: int, dimension: int) -> float:
        raise NotImplementedError


class Flat(Engine):
    """Every vector is compared: exact, and the time grows with the catalogue.

    Pick when: up to about 50,000 items.
    """

    kind: ClassVar[str] = "flat"
    _type: ClassVar[type[Any]] = faiss.IndexFlat

    @classmethod
    def _efforts(cls, rows: int, dimension: int, k: int) -> Iterator[Engine]:
        yield cls()

    def _empty(self, rows: int, dimension: int) -> faiss.Index:
        return faiss.IndexFlatIP(dimension)

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        return None if selector is None else _parameters("SearchParameters", sel=selector)

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
    def _efforts(cls, rows: int, dimension: int, k: int) -> Iterator[Engine]:
        if rows < 1000:
            raise NotApplicable(f"{rows} rows are searched faster one by one (hnsw: from 1,000).")
        for width in (64, 128, 192, 256, 384, 512, 1024):
            yield cls(searching=width)

    def _empty(self, rows: int, dimension: int) -> faiss.Index:
        index = faiss.IndexHNSWFlat(dimension, self.neighbours, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.building
        return index

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        width = max(k, math.ceil(self.searching * effort))
        return _parameters("SearchParametersHNSW", efSearch=width, sel=selector)

    def _bytes(self, rows: int, dimension: int) -> float:
        return rows * (4 * dimension + 4 * 2 * self.neighbours * 1.05 + 12)


class IVFFlat(Engine):
    """Lists around k-means centroids; the lists nearest to the query are compared one by one.

    Pick when: building must be fast, or rows are added all the time.

    Attributes:
        lists: Centroids.
        probes: Lists that are read for a query.
    """

    kind: ClassVar[str] = "ivf-flat"
    trained: ClassVar[bool] = True
    _type: ClassVar[type[Any]] = faiss.IndexIVFFlat
    lists: int = Field(default=1024, ge=1, le=1_048_576)
    probes: int = Field(default=16, ge=1, le=1_048_576)

    @classmethod
    def _efforts(cls, rows: int, dimension: int, k: int) -> Iterator[Engine]:
        lists = _lists(rows, cls.kind)
        for probes in _probes(lists):
            yield cls(lists=lists, probes=probes)

    def _empty(self, rows: int, dimension: int) -> faiss.Index:
        _check_rows(self.kind, rows, self.lists)
        quantizer = faiss.IndexFlatIP(dimension)
        return faiss.IndexIVFFlat(quantizer, dimension, self.lists, faiss.METRIC_INNER_PRODUCT)

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        probes = min(self.lists, math.ceil(self.probes * effort))
        return _parameters("SearchParametersIVF", nprobe=probes, sel=selector)

    def _bytes(self, rows: int, dimension: int) -> float:
        return rows * (4 * dimension + 8) + 4 * self.lists * dimension


class IVFPQ(IVFFlat):
    """Lists of compressed vectors; the best candidates are compared again with the vectors proper.

    Pick when: the catalogue is large. With 4 bits a piece all codes of a million items are read in
    a few milliseconds; with the vectors left on disk only candidates are read.
    Source: Jégou et al. 2011 (product quantisation); André et al. 2017, arXiv 1704.07355 (4 bits,
    looked up in registers).

    Attributes:
        lists: Centroids.
        probes: Lists that are read for a query.
        codes: Bytes a vector is compressed to.
        bits: Of each piece of a vector: 8, or 4 for half as long pieces that are faster to compare
            and coarser, so that more candidates are needed. `8 codes / bits` pieces must divide
            the dimension.
        refine: Candidates compared again for each one asked for.
    """

    kind: ClassVar[str] = "ivf-pq"
    codes: int = Field(default=32, ge=1, le=1024)
    bits: Literal[4, 8] = 8
    refine: int = Field(default=4, ge=1, le=64)

    @property
    def pieces(self) -> int:
        """Parts that a vector is cut into, each with a code of its own."""
        return 8 * self.codes // self.bits

    @property
    def _built(self) -> type[Any]:
        return faiss.IndexIVFPQ if self.bits == 8 else faiss.IndexIVFPQFastScan

    def fits(self, index: faiss.Index) -> bool:
        """As `Engine.fits`."""
        return isinstance(index, self._built) and index.nlist == self.lists

    def search(
        self,
        index: faiss.Index,
        vectors: Vectors,
        queries_QD: np.ndarray,
        k: int,
        selector: faiss.IDSelector | None = None,
        effort: float = 1.0,
        spare: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.search`; the scores are those of the vectors, not of the codes."""
        candidates = min(k * self.refine + spare, len(vectors))
        found = super().search(index, vectors, queries_QD, candidates, selector, effort)
        return _rescored(queries_QD, vectors, found[1], k + spare)

    @classmethod
    def _efforts(cls, rows: int, dimension: int, k: int) -> Iterator[Engine]:
        if dimension % 4 == 0:
            yield from cls._fast_efforts(rows, dimension // 4, k)
            return
        lists = _lists(rows, cls.kind)
        _check_rows(cls.kind, rows, 256)
        codes = max(c for c in range(1, max(2, dimension // 4 + 1)) if dimension % c == 0)
        for probes in _probes(lists):
            for refine in (4, 8):
                yield cls(lists=lists, probes=probes, codes=codes, refine=refine)

    @classmethod
    def _fast_efforts(cls, rows: int, codes: int, k: int) -> Iterator[Engine]:
        """With 4 bits: few long lists, since codes are read in a stream, and many candidates."""
        lists = _lists(rows, cls.kind, 1.4)
        parts = (1, 2, 4, 6, 8, 12, 16)
        refines = [one for one in (4, 8, 16, 24, 32, 48) if one == 4 or k * one < 2 * rows]
        pairs = {(max(1, lists * part // 16), refine) for part in parts for refine in refines}

        def work(pair: tuple[int, int]) -> float:
            return rows * pair[0] / lists + ROWS_A_CANDIDATE * k * pair[1]

        for probes, refine in sorted(pairs, key=work):
            yield cls(lists=lists, probes=probes, codes=codes, bits=4, refine=refine)

    def _empty(self, rows: int, dimension: int) -> faiss.Index:
        if dimension % self.pieces:
            raise NotApplicable(
                f"ivf-pq cuts a vector into 8 codes / bits = {self.pieces} pieces, which must "
                f"divide the dimension {dimension}, got codes {self.codes} and bits {self.bits}."
            )
        _check_rows(self.kind, rows, max(2**self.bits, self.lists))
        quantizer, metric = faiss.IndexFlatIP(dimension), faiss.METRIC_INNER_PRODUCT
        made: faiss.Index = self._built(
            quantizer, dimension, self.lists, self.pieces, self.bits, metric
        )
        return made

    def _bytes(self, rows: int, dimension: int) -> float:
        return rows * (self.codes + 8) + 4 * self.lists * dimension


ENGINES: dict[str, type[Engine]] = {engine.kind: engine for engine in (Flat, HNSW, IVFFlat, IVFPQ)}


def use_threads(count: int) -> None:
    """Set the OpenMP threads of what this thread asks FAISS; each calling thread has its own."""
    faiss.omp_set_num_threads(count)


def engine_from(kind: str, settings: dict[str, object] | None = None) -> Engine:
    """An engine by its name.

    Raises:
        UsageError: For an unknown name or a setting out of its range.
    """
    if kind not in ENGINES:
        raise UsageError(f'There is no engine "{kind}".{nearest(kind, ENGINES)}')
    return ENGINES[kind].parse(settings or {}, kind)


def _parameters(kind: str, **values: object) -> faiss.SearchParameters:
    """FAISS's search parameters by name: its type stubs lack the keywords, and one class."""
    made: faiss.SearchParameters = getattr(faiss, kind)(**values)
    return made


def _train(index: faiss.IndexIVF, vectors: Vectors, seed: int) -> None:
    """Train on a sample: 64 rows a centroid, at least 65,536; drawn from all over the catalogue."""
    streams = Streams(seed)
    index.cp.seed = streams.seed("k-means") % (2**31 - 1)
    index.cp.spherical = True
    if isinstance(index, faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan):
        index.pq.cp.seed = streams.seed("codes") % (2**31 - 1)
    wanted = min(len(vectors), max(64 * index.nlist, 65_536))
    rows_N = streams.numpy("training rows").choice(len(vectors), wanted, replace=False)
    index.train(vectors.take(np.sort(rows_N)))


def _rescored(
    queries_QD: np.ndarray, vectors: Vectors, rows_QR: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` of each query's candidates by their true inner product."""
    k = min(k, rows_QR.shape[1])
    scores_QK = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    rows_QK = np.full((len(queries_QD), k), -1, dtype=np.int64)
    for query, candidates_R in enumerate(rows_QR):
        found_R = np.sort(candidates_R[candidates_R >= 0])
        scores_R = vectors.inner(queries_QD[query], found_R)
        best_K = _first(scores_R, k)
        scores_QK[query, : len(best_K)] = scores_R[best_K]
        rows_QK[query, : len(best_K)] = found_R[best_K]
    return scores_QK, rows_QK


def _first(scores_R: np.ndarray, k: int) -> np.ndarray:
    """Places of the `k` largest scores, best first and among equals in order."""
    places_R = np.arange(len(scores_R))
    if k < len(scores_R):
        places_R = np.flatnonzero(scores_R >= np.partition(scores_R, -k)[-k])
    return places_R[np.argsort(-scores_R[places_R], kind="stable")[:k]]


def _lists(rows: int, kind: str, factor: float = 4.0) -> int:
    """About `factor` sqrt(N) lists, a power of two, with rows enough to train each."""
    _check_rows(kind, rows, 32)
    wanted = min(factor * math.sqrt(rows), rows / TRAINING_ROWS)
    return int(2 ** math.floor(math.log2(wanted)))


def _probes(lists: int) -> Iterator[int]:
    probes = 4
    while probes <= max(4, lists // 4):
        yield min(probes, lists)
        probes *= 2


def _check_rows(kind: str, rows: int, centroids: int) -> None:
    if rows < TRAINING_ROWS * centroids:
        raise NotApplicable(
            f"{kind} learns {centroids} centroids and needs {TRAINING_ROWS * centroids:,} rows "
            f"for that; here are {rows:,}."
        )

"""Engines of lists (inverted files): IVF-Flat and IVF-PQ.

IVF-PQ can learn from the users' queries what matters. An inner product is not changed by
q.x = (A^-T q).(A x), so lists and codes may be learned in the space of A x, where items are as far
from one another as queries tell them apart. Queries are no random directions: users' vectors share
one along which items differ, and the plain space spends no more on it than on any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import faiss
import numpy as np
from pydantic import Field, model_validator

from warmstart.core import NotApplicable, Streams

from .engine import Engine, parameters
from .vectors import Vectors
from .weighing import item_map, query_map

__all__ = ["IVFPQ", "IVFFlat"]

TRAINING_ROWS = 39
"""Rows that k-means should have for each centroid; below, FAISS warns and lists stay empty."""
ROWS_A_CANDIDATE = 170
"""Rows whose 4-bit codes are read in the time in which one candidate is compared again."""


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
    def _efforts(cls, vectors: Vectors, k: int) -> Iterator[Engine]:
        lists = _lists(len(vectors), cls.kind)
        for probes in _probes(lists):
            yield cls(lists=lists, probes=probes)

    def _empty(self, vectors: Vectors, seed: int) -> faiss.Index:
        _check_rows(self.kind, len(vectors), self.lists)
        quantizer = faiss.IndexFlatIP(vectors.dimension)
        return faiss.IndexIVFFlat(
            quantizer, vectors.dimension, self.lists, faiss.METRIC_INNER_PRODUCT
        )

    def _train(self, index: faiss.Index, vectors: Vectors, seed: int) -> None:
        lists, streams = _lists_of(index), Streams(seed)
        lists.cp.seed = streams.seed("k-means") % (2**31 - 1)
        lists.cp.spherical = lists.quantizer.metric_type == faiss.METRIC_INNER_PRODUCT
        if hasattr(lists, "pq"):
            lists.pq.cp.seed = streams.seed("codes") % (2**31 - 1)
        index.train(_sample(vectors, seed, self.lists))

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        probes = min(self.lists, math.ceil(self.probes * effort))
        return parameters("SearchParametersIVF", nprobe=probes, sel=selector)

    def _bytes(self, rows: int, dimension: int) -> float:
        return rows * (4 * dimension + 8) + 4 * self.lists * dimension


class IVFPQ(IVFFlat):
    """Lists of compressed vectors; the best candidates are compared again with the vectors proper.

    Pick when: the catalogue is large. With 4 bits a piece all codes of a million items are read in
    a few milliseconds; with the vectors left on disk only candidates are read.
    Source: Jégou et al. 2011 (product quantisation); André et al. 2017, arXiv 1704.07355 (4 bits,
    looked up in registers); Guo et al. 2016, arXiv 1509.01469 (error weighted by the queries).

    Attributes:
        lists: Centroids.
        probes: Lists that are read for a query.
        codes: Bytes a vector is compressed to.
        bits: Of each piece of a vector: 8, or 4 for half as long pieces that are faster to compare
            and coarser, so that more candidates are needed. `8 codes / bits` pieces must divide
            the dimension.
        refine: Candidates compared again for each one asked for.
        query_aware: Whether lists and codes are learned where distances are what queries tell
            apart (`weighing`); needs 4 bits, and the queries' weights.
    """

    kind: ClassVar[str] = "ivf-pq"
    codes: int = Field(default=32, ge=1, le=1024)
    bits: Literal[4, 8] = 8
    refine: int = Field(default=4, ge=1, le=64)
    query_aware: bool = False

    @model_validator(mode="after")
    def _check_bits(self) -> Self:
        if self.query_aware and self.bits != 4:
            raise ValueError("query_aware needs bits 4")
        return self

    @property
    def pieces(self) -> int:
        """Parts that a vector is cut into, each with a code of its own."""
        return 8 * self.codes // self.bits

    @property
    def _built(self) -> type[Any]:
        return faiss.IndexIVFPQ if self.bits == 8 else faiss.IndexIVFPQFastScan

    def fits(self, index: faiss.Index) -> bool:
        """As `Engine.fits`."""
        if isinstance(index, faiss.IndexPreTransform) != self.query_aware:
            return False
        lists = _lists_of(index)
        return isinstance(lists, self._built) and lists.nlist == self.lists

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
        if self.query_aware:
            settings = self._parameters(candidates, selector, effort)
            rows_QR = _weighed_rows(index, vectors, queries_QD, candidates, settings)
        else:
            rows_QR = super().search(index, vectors, queries_QD, candidates, selector, effort)[1]
        return _rescored(queries_QD, vectors, rows_QR, k + spare)

    @classmethod
    def _efforts(cls, vectors: Vectors, k: int) -> Iterator[Engine]:
        rows, dimension = len(vectors), vectors.dimension
        if dimension % 4 == 0:
            yield from cls._fast_efforts(vectors, k)
            return
        lists = _lists(rows, cls.kind)
        _check_rows(cls.kind, rows, 256)
        codes = max(c for c in range(1, max(2, dimension // 4 + 1)) if dimension % c == 0)
        for probes in _probes(lists):
            for refine in (4, 8):
                yield cls(lists=lists, probes=probes, codes=codes, refine=refine)

    @classmethod
    def _fast_efforts(cls, vectors: Vectors, k: int) -> Iterator[Engine]:
        """With 4 bits: few long lists, since codes are read in a stream, and many candidates."""
        rows, aware = len(vectors), vectors.weights_DD is not None
        lists = _lists(rows, cls.kind, 1.4)
        parts = (2, 3, 4, 6, 8, 12, 16, 24, 32)
        refines = [one for one in (4, 6, 8, 16, 24, 32, 48) if one == 4 or k * one < 2 * rows]
        pairs = {(max(1, lists * part // 32), refine) for part in parts for refine in refines}

        def work(pair: tuple[int, int]) -> float:
            return rows * pair[0] / lists + ROWS_A_CANDIDATE * k * pair[1]

        codes = vectors.dimension // 4
        for probes, refine in sorted(pairs, key=work):
            yield cls(
                lists=lists, probes=probes, codes=codes, bits=4, refine=refine, query_aware=aware
            )

    def _empty(self, vectors: Vectors, seed: int) -> faiss.Index:
        rows, dimension = len(vectors), vectors.dimension
        if dimension % self.pieces:
            raise NotApplicable(
                f"ivf-pq cuts a vector into 8 codes / bits = {self.pieces} pieces, which must "
                f"divide the dimension {dimension}, got codes {self.codes} and bits {self.bits}."
            )
        _check_rows(self.kind, rows, max(2**self.bits, self.lists))
        if self.query_aware and vectors.weights_DD is None:
            raise NotApplicable(
                "ivf-pq with query_aware learns from users' queries what matters, and none were "
                "given. Give queries, or set query_aware false."
            )
        if not self.query_aware:
            return self._codes(faiss.IndexFlatIP(dimension), dimension)
        turn_DD = item_map(vectors, _sample(vectors, seed, self.lists), self.pieces)
        turn = faiss.LinearTransform(dimension, dimension, False)
        faiss.copy_array_to_vector(turn_DD.ravel(), turn.A)
        turn.is_trained = True
        lists = self._codes(faiss.IndexFlatL2(dimension), dimension)
        lists.by_residual = True
        return faiss.IndexPreTransform(turn, lists)

    def _codes(self, quantizer: faiss.Index, dimension: int) -> faiss.IndexIVF:
        made: faiss.IndexIVF = self._built(
            quantizer, dimension, self.lists, self.pieces, self.bits, faiss.METRIC_INNER_PRODUCT
        )
        return made

    def _bytes(self, rows: int, dimension: int) -> float:
        return rows * (self.codes + 8) + 4 * self.lists * dimension


def _sample(vectors: Vectors, seed: int, lists: int) -> np.ndarray:
    """Rows to learn from: 64 a list, at least 65,536; drawn from all over the catalogue."""
    wanted = min(len(vectors), max(64 * lists, 65_536))
    draw = Streams(seed).numpy("training rows")
    return vectors.take(np.sort(draw.choice(len(vectors), wanted, replace=False)))


def _weighed_rows(
    index: Any,
    vectors: Vectors,
    queries_QD: np.ndarray,
    candidates: int,
    settings: Any,
) -> np.ndarray:
    """Rows (Q, candidates) that codes say are nearest; -1 where there are fewer.

    Rows are put into the list whose centre is nearest; a query reads the lists whose centres have
    the largest inner products with it. FAISS has one rule for both, so lists are named to it.
    """
    lists = _lists_of(index)
    turn: Any = faiss.downcast_VectorTransform(index.chain.at(0))
    turned_QD = query_map(vectors, _floats(turn.A.data(), index.d, index.d), queries_QD)
    centres: Any = faiss.downcast_index(lists.quantizer)
    near_QL = turned_QD @ _floats(centres.get_xb(), lists.nlist, index.d).T
    best_QP = np.argpartition(-near_QL, settings.nprobe - 1, axis=1)[:, : settings.nprobe]
    read_QP = np.ascontiguousarray(best_QP)
    centre_scores_QP = np.take_along_axis(near_QL, read_QP, axis=1)
    found_QR = np.empty((len(queries_QD), candidates), dtype=np.float32)
    rows_QR = np.empty((len(queries_QD), candidates), dtype=np.int64)
    asked, *rest = map(faiss.swig_ptr, (turned_QD, read_QP, centre_scores_QP, found_QR, rows_QR))
    lists.search_preassigned_c(len(queries_QD), asked, candidates, *rest, False, settings)
    return rows_QR


def _lists_of(index: Any) -> Any:
    """The lists, which a map may stand before."""
    return faiss.downcast_index(
        index.index if isinstance(index, faiss.IndexPreTransform) else index
    )


def _floats(pointer: Any, rows: int, columns: int) -> np.ndarray:
    """What a FAISS object holds, where it lies."""
    held: np.ndarray = faiss.rev_swig_ptr(pointer, rows * columns).reshape(rows, columns)
    return held


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

"""What an engine is: settings that build a FAISS index over rows and ask it.

An engine holds settings only. `build` makes a FAISS index over rows 0 .. N-1, `search` asks one;
neither knows ids, deletions or files. The metric is the inner product, which for unit vectors is
the cosine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import faiss
import numpy as np

from warmstart.core import Config

from .vectors import Vectors

__all__ = ["BUILD_THREADS", "Engine", "parameters", "use_threads"]

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
    def ladder(cls, vectors: Vectors, k: int = 100) -> list[Engine]:
        """Settings to try for these rows, least effort first; one built index serves them all.

        Args:
            vectors: Rows of the index.
            k: How many nearest rows are asked for.

        Raises:
            NotApplicable: With the reason why this engine makes no sense here.
        """
        return list(cls._efforts(vectors, k))

    def build(self, vectors: Vectors, seed: int) -> faiss.Index:
        """A FAISS index over all rows, in their order.

        Raises:
            NotApplicable: When the rows or the dimension do not suffice.
        """
        use_threads(BUILD_THREADS)
        index = self._empty(vectors, seed)
        self._train(index, vectors, seed)
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
    def _efforts(cls, vectors: Vectors, k: int) -> Iterator[Engine]:
        raise NotImplementedError

    def _empty(self, vectors: Vectors, seed: int) -> faiss.Index:
        raise NotImplementedError

    def _train(self, index: faiss.Index, vectors: Vectors, seed: int) -> None:
        """Learn from the rows; most engines have nothing to learn."""

    def _parameters(
        self, k: int, selector: faiss.IDSelector | None, effort: float
    ) -> faiss.SearchParameters | None:
        raise NotImplementedError

    def _bytes(self, rows: int, dimension: int) -> float:
        raise NotImplementedError


def use_threads(count: int) -> None:
    """Set the OpenMP threads of what this thread asks FAISS; each calling thread has its own."""
    faiss.omp_set_num_threads(count)


def parameters(kind: str, **values: object) -> faiss.SearchParameters:
    """FAISS's search parameters by name: its type stubs lack the keywords, and one class."""
    made: faiss.SearchParameters = getattr(faiss, kind)(**values)
    return made

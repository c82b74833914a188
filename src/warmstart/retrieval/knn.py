"""Item-kNN: an item is recommended for being had by the same users as the user's latest items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt
from scipy import sparse

from warmstart.core import Run
from warmstart.evaluation import Events, Recommender, popularity

from .baselines import Baseline, register
from .matrices import ItemSimilarity, user_item_matrix

__all__ = ["ItemKnn", "cosine_neighbours"]

_CELLS = 16_000_000
_DENSE = 64_000_000


@register
class ItemKnn(Baseline):
    """The sum of the cosines between an item and the newest of the history, shrunk.

    The cosine of two items is the number of users who have both by the root of the product of
    the users of each; `shrinkage` is added below, so that two items with few users each are
    not called alike.

    Source: Sarwar, Karypis, Konstan and Riedl, Item-based collaborative filtering recommendation
    algorithms, WWW 2001; shrinkage as in Ferrari Dacrema, Cremonesi and Jannach, RecSys 2019.

    Attributes:
        last: How many of the newest events of a history are looked at.
        shrinkage: Added to the denominator, in users.
        neighbours: Each item speaks for so many of its nearest items; None for all, whose memory
            grows with the square of the catalogue.
    """

    name: ClassVar[str] = "item-knn"
    title: ClassVar[str] = "Item-kNN"
    last: PositiveInt = 20
    shrinkage: NonNegativeFloat = 10.0
    neighbours: PositiveInt | None = 500

    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Count the users whom each two items share."""
        return ItemSimilarity(
            name=self.name,
            weights_II=cosine_neighbours(past, self.shrinkage, self.neighbours),
            popularity_I=popularity(past).astype(np.float32),
            last=self.last,
        )

    @classmethod
    def grid(cls) -> tuple[Self, ...]:
        """Short and long histories with little and much shrinkage."""
        return tuple(
            cls(last=last, shrinkage=shrinkage)
            for shrinkage in (10.0, 0.0, 30.0, 100.0)
            for last in (20, 5, 10, 40)
        )

    def fit_like(
        self, fitted: Recommender, settings: Baseline, past: Events, run: Run | None = None
    ) -> Recommender:
        """The same neighbours where only the length of the history differs."""
        same = self.model_copy(update={"last": getattr(settings, "last", None)}) == settings
        if same and isinstance(fitted, ItemSimilarity):
            return replace(fitted, last=self.last)
        return self.fit(past, run)


def cosine_neighbours(past: Events, shrinkage: float, neighbours: int | None) -> Any:
    """Shrunk cosines (I, I) between items, the nearest of each row; nothing on the diagonal.

    Some rows are made at a time, so memory is that of the neighbours kept. Returned dense where
    that is small, which multiplies faster, else sparse.
    """
    users_UI = user_item_matrix(past)
    items_IU = users_UI.T.tocsr()
    n_items = past.n_items
    root_I = np.sqrt(np.asarray(users_UI.sum(axis=0), dtype=np.float64)).ravel()
    kept = n_items if neighbours is None else min(neighbours, n_items)
    rows = max(1, _CELLS // n_items)
    parts = []
    for start in range(0, n_items, rows):
        stop = min(start + rows, n_items)
        shared_BI = (items_IU[start:stop] @ users_UI).toarray()
        below_BI = root_I[start:stop, None] * root_I[None] + shrinkage
        cosine_BI = np.divide(shared_BI, below_BI, out=np.zeros_like(below_BI), where=below_BI > 0)
        cosine_BI[np.arange(stop - start), np.arange(start, stop)] = 0.0
        if kept < n_items:
            bar_B = np.partition(cosine_BI, n_items - kept, axis=1)[:, n_items - kept]
            cosine_BI[cosine_BI < bar_B[:, None]] = 0.0
        parts.append(sparse.csr_matrix(cosine_BI.astype(np.float32)))
    weights_II = sparse.vstack(parts, format="csr")
    return weights_II.toarray() if n_items * n_items <= _DENSE else weights_II

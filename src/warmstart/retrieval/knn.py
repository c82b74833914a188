"""Item-kNN: an item is recommended for being had by the same users as the user's latest items."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt
from scipy import sparse

from warmstart.core import NotApplicable, Run
from warmstart.evaluation import Events, Recommender, popularity

from .baselines import OfHistory, register
from .matrices import ItemSimilarity, user_item_matrix

__all__ = ["ItemKnn", "cosine_neighbours"]

_CELLS = 16_000_000
_DENSE = 64_000_000
_MOST = 20_000


@register
class ItemKnn(OfHistory):
    """The sum of the cosines between an item and the newest of the history, shrunk.

    The cosine of two items is the number of users who have both by the root of the product of
    the users of each; `shrinkage` is added below, so that two items with few users each are
    not called alike.

    Source: Sarwar, Karypis, Konstan and Riedl, Item-based collaborative filtering recommendation
    algorithms, WWW 2001; shrinkage as in Ferrari Dacrema, Cremonesi and Jannach, RecSys 2019.

    Attributes:
        last: How many of the newest events of a history are looked at; None for all.
        shrinkage: Added to the denominator, in users.
        neighbours: Each item speaks for so many of its nearest items (more where the last are
            equally near); None for all, in catalogues of at most 20,000 items, since memory then
            grows with the square.
    """

    name: ClassVar[str] = "item-knn"
    title: ClassVar[str] = "Item-kNN"
    last: PositiveInt | None = 20
    shrinkage: NonNegativeFloat = 10.0
    neighbours: PositiveInt | None = 100

    def check(self, past: Events) -> None:
        """All neighbours of all items must fit into memory."""
        if self.neighbours is None and past.n_items > _MOST:
            raise NotApplicable(
                f"item-knn with all neighbours keeps items × items numbers, and {past.n_items:,} "
                f"items are more than {_MOST:,}. Set item-knn.neighbours; typical values: 50 to "
                "500."
            )

    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Count the users whom each two items share."""
        self.check(past)
        return ItemSimilarity(
            name=self.name,
            weights_II=cosine_neighbours(past, self.shrinkage, self.neighbours),
            popularity_I=popularity(past).astype(np.float32),
            last=self.last,
        )

    @classmethod
    def grid(cls) -> tuple[Self, ...]:
        """Few neighbours and all, little and much shrinkage, short and long histories."""
        return tuple(
            cls(last=last, shrinkage=shrinkage, neighbours=neighbours)
            for neighbours in (100, 50, None)
            for shrinkage in (10.0, 0.0, 30.0)
            for last in (20, 3, 5, 10)
        )


def cosine_neighbours(past: Events, shrinkage: float, neighbours: int | None) -> Any:
    """Shrunk cosines (I, I) between items, the nearest of each row; nothing on the diagonal.

    Some rows are made at a time, so memory is that of the neighbours kept. Returned dense where
    that is small, which multiplies faster, else sparse.
    """
    users_UI = user_item_matrix(past)
    items_IU = users_UI.T.tocsr()
    n_items = past.n_items
    root_I = np.sqrt(np.asarray(users_UI.sum(axis=0), dtype=np.float64)).ravel()
    rows = max(1, _CELLS // n_items)
    parts = []
    for start in range(0, n_items, rows):
        shared_BI = items_IU[start : start + rows] @ users_UI  # entries only where users are shared
        own_E = start + np.repeat(np.arange(shared_BI.shape[0]), np.diff(shared_BI.indptr))
        cosine_E = shared_BI.data / (root_I[own_E] * root_I[shared_BI.indices] + shrinkage)
        shared_BI.data = np.where(own_E == shared_BI.indices, 0.0, cosine_E).astype(np.float32)
        shared_BI.eliminate_zeros()
        parts.append(shared_BI if neighbours is None else _nearest(shared_BI, neighbours))
    weights_II = sparse.vstack(parts, format="csr")
    return weights_II.toarray() if n_items * n_items <= _DENSE else weights_II


def _nearest(cosine_BI: Any, kept: int) -> Any:
    """The largest `kept` entries of each row of a sparse matrix, and those equal to the last."""
    counts_B = np.diff(cosine_BI.indptr)
    crowded = np.flatnonzero(counts_B > kept)
    bar_B = np.zeros(len(counts_B), dtype=np.float32)
    if len(crowded):
        place = cosine_BI.shape[1] - kept
        bar_B[crowded] = np.partition(cosine_BI[crowded].toarray(), place, axis=1)[:, place]
    cosine_BI.data[cosine_BI.data < np.repeat(bar_B, counts_B)] = 0.0
    cosine_BI.eliminate_zeros()
    return cosine_BI

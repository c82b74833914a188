"""Events and histories as sparse matrices of ones: what the baselines multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from warmstart.evaluation import Events, Queries, positives

__all__ = ["ItemSimilarity", "history_matrix", "or_popularity", "user_item_matrix"]

Floats = NDArray[np.float32]


def user_item_matrix(past: Events) -> Any:
    """Sparse matrix (U, I) with a one wherever a user has a positive event with an item."""
    user_N, item_N, _ = positives(past)
    return _ones(user_N, item_N, (past.n_users, past.n_items))


def history_matrix(queries: Queries, n_items: int, last: int | None = None) -> Any:
    """Sparse matrix (Q, I) with a one for every item among the newest `last` of the history."""
    kept = queries.last(last)
    return _ones(kept.rows_H, kept.items_H, (len(kept), n_items))


def _ones(rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]) -> Any:
    values = np.ones(len(rows), dtype=np.float32)
    matrix = sparse.csr_matrix((values, (rows, columns)), shape=shape)
    matrix.data[:] = 1.0  # an item that came twice was added up
    return matrix


def or_popularity(scores_QI: Floats, queries: Queries, popularity_I: Floats) -> Floats:
    """The same scores with popularity in the rows of the queries that have no history."""
    scores_QI[queries.lengths_Q == 0] = popularity_I
    return scores_QI


@dataclass(frozen=True)
class ItemSimilarity:
    """Scores that are sums over the history: how much each of its items speaks for another.

    Attributes:
        name: What tables call it.
        weights_II: Row i is what having item i adds to the score of each item; dense or sparse.
        popularity_I: Answer where there is no history.
        last: How many of the newest events are looked at; None for all.
    """

    name: str
    weights_II: Any
    popularity_I: Floats
    last: int | None

    def scores(self, queries: Queries) -> Floats:
        """Scores (Q, I) of all items."""
        scores = history_matrix(queries, len(self.popularity_I), self.last) @ self.weights_II
        dense_QI = scores.toarray() if sparse.issparse(scores) else np.asarray(scores)
        return or_popularity(dense_QI, queries, self.popularity_I)

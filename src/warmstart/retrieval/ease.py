"""EASE: the linear map from a history to itself with nothing on the diagonal, in closed form."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from scipy.linalg import lapack

from warmstart.core import NotApplicable, Run
from warmstart.evaluation import Events, Recommender, popularity

from .baselines import OfHistory, register
from .matrices import ItemSimilarity, user_item_matrix

__all__ = ["Ease", "ease_weights"]


@register
class Ease(OfHistory):
    """Each item's score is a weighted sum over the newest of the history, with learned weights.

    The weights minimise the squared error of rebuilding the user-item matrix from itself with a
    zero diagonal, under an l2 penalty.

    Source: H. Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, equation 8.

    Attributes:
        l2: The penalty λ, in users.
        last: How many of the newest events of a history are looked at; None for all.
        max_items: Larger catalogues are refused: a square matrix of them is inverted, which takes
            12 × I² bytes and time that grows with I³ (20,000 items: 4.8 GB and some minutes).
    """

    name: ClassVar[str] = "ease"
    title: ClassVar[str] = "EASE"
    l2: PositiveFloat = 500.0
    last: PositiveInt | None = 30
    max_items: PositiveInt = 20_000

    def check(self, past: Events) -> None:
        """A catalogue that is too large to invert is refused."""
        if past.n_items > self.max_items:
            raise NotApplicable(
                f"ease inverts a matrix of items × items, and {past.n_items:,} items are more than "
                f"ease.max_items, {self.max_items:,}. Raise it if memory and time allow."
            )

    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Invert once."""
        self.check(past)
        return ItemSimilarity(
            name=self.name,
            weights_II=ease_weights(past, self.l2),
            popularity_I=popularity(past).astype(np.float32),
            last=self.last,
        )

    @classmethod
    def grid(cls) -> tuple[Self, ...]:
        """Penalties from 100 to 5,000 with short and long histories."""
        return tuple(
            cls(l2=l2, last=last)
            for l2 in (500.0, 100.0, 200.0, 1000.0, 2000.0, 5000.0)
            for last in (30, 5, 10, 20, 60)
        )


def ease_weights(past: Events, l2: float) -> NDArray[np.float32]:
    """Weights (I, I): with P = (XᵀX + λ)⁻¹, B_ij = -P_ij / P_jj off the diagonal and 0 on it."""
    users_UI = user_item_matrix(past).astype(np.float64)
    gram_II = (users_UI.T @ users_UI).toarray(order="F")
    gram_II[np.diag_indices_from(gram_II)] += l2
    factor_II, failed = lapack.dpotrf(gram_II, lower=False, overwrite_a=True)
    inverse_II, failed_too = lapack.dpotri(factor_II, lower=False, overwrite_c=True)
    if failed or failed_too:
        raise NotApplicable(
            f"ease cannot invert the matrix of shared users at ease.l2 = {l2:g}. Raise l2; typical "
            "values: 50 to 2000."
        )
    for row in range(1, len(inverse_II)):  # only the upper triangle was filled
        inverse_II[row, :row] = inverse_II[:row, row]
    inverse_II /= -np.diag(inverse_II)
    weights_II: NDArray[np.float32] = inverse_II.astype(np.float32, order="C")
    np.fill_diagonal(weights_II, 0.0)
    return weights_II

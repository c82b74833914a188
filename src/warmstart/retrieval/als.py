"""Implicit's ALS: factors of users and items, a history folded in as a user of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from warmstart.core import NotApplicable, Run, Streams
from warmstart.evaluation import Events, Queries, Recommender, popularity

from .baselines import OfHistory, register
from .matrices import history_matrix, or_popularity, user_item_matrix

__all__ = ["Als"]


@dataclass(frozen=True)
class _Folded:
    """Item factors; a history's factors are solved for when it asks."""

    name: str
    model: Any
    popularity_I: NDArray[np.float32]
    last: int | None

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        history_QI = history_matrix(queries, len(self.popularity_I), self.last)
        user_QF = self.model.recalculate_user(np.arange(len(queries)), history_QI)
        scores_QI = np.asarray(user_QF @ self.model.item_factors.T, dtype=np.float32)
        return or_popularity(scores_QI, queries, self.popularity_I)


@register
class Als(OfHistory):
    """Weighted matrix factorisation by alternating least squares, from the package `implicit`.

    Users who came after the fit, and later events of those who were there, are folded in: the
    factors of a history are the least-squares solution with the items' factors held fixed.

    Source: Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM
    2008, equations 4 and 5.

    Attributes:
        factors: Width of the factors.
        regularization: The l2 penalty.
        alpha: Confidence of a positive event, where that of no event is 1.
        iterations: Passes over users and items.
        last: How many of the newest events of a history are folded in; None for all.
    """

    name: ClassVar[str] = "als"
    title: ClassVar[str] = "ALS (implicit)"
    factors: PositiveInt = 64
    regularization: NonNegativeFloat = 0.05
    alpha: PositiveFloat = 2.0
    iterations: PositiveInt = 15
    last: PositiveInt | None = None

    def check(self, past: Events) -> None:
        """The package must be there."""
        _solver()

    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Alternate."""
        solver = _solver()
        from threadpoolctl import threadpool_limits

        seed = (Streams(0) if run is None else run.streams).seed("als") % 2**32
        with threadpool_limits(1, "blas"):  # implicit has threads of its own
            model = solver(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                random_state=seed,
            )
            model.fit(user_item_matrix(past), show_progress=False)
        return _Folded(self.name, model, popularity(past).astype(np.float32), self.last)

    @classmethod
    def grid(cls) -> tuple[Self, ...]:
        """Narrow and wide factors, weak and strong confidence, short and whole histories."""
        return tuple(
            cls(factors=factors, alpha=alpha, last=last)
            for factors in (64, 8, 16, 32)
            for alpha in (2.0, 5.0)
            for last in (None, 10, 30)
        )


def _solver() -> Any:
    """The class of the package's solver for the CPU.

    Raises:
        NotApplicable: When the package is not installed.
    """
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError as error:
        raise NotApplicable(
            f"als needs the package implicit, which cannot be imported ({error}). Install it with "
            "pip install 'warmstart[als]'."
        ) from None
    return AlternatingLeastSquares

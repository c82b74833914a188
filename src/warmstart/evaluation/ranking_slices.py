"""Labels that part a task's queries and targets: who is new, what is new, what is popular.

Labels are values for `score_ranking(slices=...)` and `fairness`; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.core import DataError

from .metrics import Ints
from .ranking_queries import Events, positives
from .ranking_tasks import RankingTask

__all__ = ["head_items", "item_labels", "standard_slices", "user_labels"]

_LENGTHS = ((0, "0"), (4, "1-4"), (19, "5-19"))


def standard_slices(task: RankingTask, past: Events) -> dict[str, list[str]]:
    """The slices that every table shows.

    Args:
        task: The task.
        past: Events before the cut: what the recommenders were fitted on.

    Returns:
        user: "warm" or "cold" for each query; a cold user has no positive event before the cut.
        item: "warm" or "cold" for each target, in the same sense.
        popularity: "head" or "tail" for each target; new items are tail.
        history: "0", "1-4", "5-19" or "20+" events before the question, for each query.
    """
    warm_U = np.bincount(positives(past)[0], minlength=task.n_users) > 0
    items_P = task.targets.items
    head_I = head_items(task.popularity_I)
    edges = np.array([edge for edge, _ in _LENGTHS])
    names = [*(name for _, name in _LENGTHS), "20+"]
    places_Q = np.searchsorted(edges, task.history_lengths_Q, side="left")
    return {
        "user": ["warm" if warm else "cold" for warm in warm_U[task.user_Q]],
        "item": ["warm" if count else "cold" for count in task.popularity_I[items_P]],
        "popularity": ["head" if head else "tail" for head in head_I[items_P]],
        "history": [names[place] for place in places_Q],
    }


def head_items(popularity_I: Ints) -> np.ndarray:
    """Mask of the fewest items that hold half of the events or more; of equal ones the first."""
    order_I = np.argsort(-popularity_I, kind="stable")
    total_I = np.cumsum(popularity_I[order_I])
    mask_I = np.zeros(len(popularity_I), dtype=bool)
    if len(total_I) and total_I[-1]:
        mask_I[order_I[: np.searchsorted(total_I, total_I[-1] / 2, side="left") + 1]] = True
    return mask_I


def user_labels(task: RankingTask, values_U: Sequence[object]) -> list[object]:
    """The attribute of each query's user, from one value a user.

    Raises:
        DataError: When there is not one value for each user.
    """
    _check_length(values_U, task.n_users, "users")
    return [values_U[user] for user in task.user_Q]


def item_labels(task: RankingTask, values_I: Sequence[object]) -> list[object]:
    """The category of each target, from one value an item; a tuple of several is allowed.

    Raises:
        DataError: When there is not one value for each item.
    """
    _check_length(values_I, task.n_items, "items")
    return [values_I[item] for item in task.targets.items]


def _check_length(values: Sequence[object], wanted: int, what: str) -> None:
    if len(values) != wanted:
        raise DataError(
            f"There must be one value for each of the {wanted} {what}, got {len(values)}."
        )

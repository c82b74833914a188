"""Made-up events in the form that evaluation reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


def events(
    rows: list[tuple[int, int, int]],
    n_users: int,
    n_items: int,
    positive: list[bool] | None = None,
) -> Any:
    """Events from (user, item, time) in the order of the file; sorted by time as a reader does."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    order = np.argsort(table[:, 2], kind="stable")
    marks = np.ones(len(table), dtype=bool) if positive is None else np.array(positive, dtype=bool)
    return SimpleNamespace(
        user_N=table[order, 0].astype(np.int32),
        item_N=table[order, 1].astype(np.int32),
        time_N=table[order, 2],
        positive_N=marks[order],
        n_users=n_users,
        n_items=n_items,
    )


def random_events(
    seed: int, count: int, n_users: int, n_items: int, start: int, stop: int
) -> list[tuple[int, int, int]]:
    """Rows at whole seconds, few enough that many share one."""
    rng = np.random.default_rng(seed)
    return [
        (int(rng.integers(n_users)), int(rng.integers(n_items)), int(rng.integers(start, stop)))
        for _ in range(count)
    ]


class Given:
    """A recommender that answers from a table of scores, one row a query of the task."""

    name = "given"

    def __init__(self, scores_QI: Any) -> None:
        self.scores_QI = scores_QI
        self.asked: list[int] = []

    def scores(self, queries: Any) -> Any:
        start = sum(self.asked)
        self.asked.append(len(queries))
        return self.scores_QI[start : start + len(queries)]

"""Made-up events with tastes: users of one kind take items of one kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


def events(rows: list[tuple[int, int, int]], n_users: int, n_items: int) -> Any:
    """Positive events from (user, item, time), sorted by time as a reader sorts them."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    order = np.argsort(table[:, 2], kind="stable")
    return SimpleNamespace(
        user_N=table[order, 0].astype(np.int32),
        item_N=table[order, 1].astype(np.int32),
        time_N=table[order, 2],
        positive_N=np.ones(len(table), dtype=bool),
        n_users=n_users,
        n_items=n_items,
    )


def tastes(
    seed: int = 0, n_users: int = 40, n_items: int = 30, count: int = 12, start: int = 0
) -> Any:
    """Users take items of their own kind (number modulo 3) nine times in ten, each item once."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        weight = np.where(np.arange(n_items) % 3 == user % 3, 9.0, 0.5) / (1 + np.arange(n_items))
        items = rng.choice(n_items, count, replace=False, p=weight / weight.sum())
        rows += [(user, int(item), start + int(rng.integers(1000))) for item in items]
    return events(rows, n_users, n_items)


def part(data: Any, keep: np.ndarray) -> Any:
    """Some of the events with the same users and items."""
    columns = {name: getattr(data, name)[keep] for name in vars(data) if name.endswith("_N")}
    return SimpleNamespace(**{**vars(data), **columns})


def parted(data: Any, fractions: tuple[float, float] = (0.8, 0.9)) -> Any:
    """Training, validation and test events by time."""
    first, second = (int(fraction * len(data.user_N)) for fraction in fractions)
    row = np.arange(len(data.user_N))
    return SimpleNamespace(
        train=part(data, row < first),
        validation=part(data, (row >= first) & (row < second)),
        fitted=part(data, row < second),
        test=part(data, row >= second),
    )

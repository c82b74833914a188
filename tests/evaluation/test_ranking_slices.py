"""Slices against a plain reading of their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import DataError
from warmstart.evaluation import (
    all_future_task,
    head_items,
    item_labels,
    next_item_task,
    standard_slices,
    user_labels,
)

from .ranking_events import events, random_events


@pytest.mark.parametrize("kind", [next_item_task, all_future_task])
def test_slices_equal_a_loop(kind: object) -> None:
    past = events(random_events(0, 150, 5, 20, 0, 50), 8, 30)
    future = events(random_events(1, 200, 8, 30, 50, 90), 8, 30)
    task = kind(past, future)
    found = standard_slices(task, past)
    assert found["user"] == ["warm" if u in past.user_N else "cold" for u in task.user_Q]
    assert found["item"] == ["warm" if i in past.item_N else "cold" for i in task.targets.items]
    lengths = np.diff(task.queries.offsets_Q1)
    bounds = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, 10**9)}
    assert found["history"] == [
        next(name for name, (low, high) in bounds.items() if low <= n <= high) for n in lengths
    ]
    counts = [int((past.item_N == i).sum()) for i in range(30)]
    head: set[int] = set()
    for item in sorted(range(30), key=lambda i: (-counts[i], i)):
        if sum(counts[i] for i in head) < sum(counts) / 2:
            head.add(item)
    assert found["popularity"] == ["head" if i in head else "tail" for i in task.targets.items]
    assert {"warm", "cold"} == set(found["user"]) == set(found["item"])


def test_history_lengths_at_the_edges() -> None:
    past = events([(0, i, i) for i in range(25)], 2, 60)
    future = events([(1, i, 100 + i) for i in range(22)] + [(0, 50, 200)], 2, 60)
    labels = standard_slices(next_item_task(past, future), past)["history"]
    assert labels == ["0", *["1-4"] * 4, *["5-19"] * 15, *["20+"] * 2, "20+"]


def test_head_items_by_hand() -> None:
    assert head_items(np.array([1, 5, 3, 1])).tolist() == [False, True, False, False]
    assert head_items(np.array([2, 2, 2, 2])).tolist() == [True, True, False, False]
    assert head_items(np.array([4, 3, 3])).tolist() == [True, True, False]
    assert head_items(np.array([0, 0])).tolist() == [False, False]
    assert head_items(np.array([], dtype=int)).tolist() == []


def test_attributes_of_users_and_items() -> None:
    past = events([(0, 0, 1), (1, 1, 2)], 2, 4)
    task = next_item_task(past, events([(1, 2, 5), (0, 3, 6), (0, 2, 7)], 2, 4))
    assert user_labels(task, ["f", "m"]) == ["m", "f", "f"]
    tags = [("a",), (), ("a", "b"), None]
    assert item_labels(task, tags) == [("a", "b"), None, ("a", "b")]
    with pytest.raises(DataError, match="each of the 2 users, got 3"):
        user_labels(task, ["f", "m", "x"])
    with pytest.raises(DataError, match="each of the 4 items, got 1"):
        item_labels(task, ["a"])

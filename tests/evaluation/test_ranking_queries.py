"""Queries against a plain loop over the events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.core import DataError
from warmstart.evaluation import Queries, all_future_task, next_item_task

from .ranking_events import events, random_events


def rows_of(data: Any) -> list[tuple[int, int, int]]:
    """Positive events as tuples, in their order."""
    columns = zip(data.user_N, data.item_N, data.time_N, data.positive_N, strict=True)
    return [(int(u), int(i), int(t)) for u, i, t, positive in columns if positive]


def history(queries: Queries, q: int) -> list[tuple[int, int]]:
    part = slice(queries.offsets_Q1[q], queries.offsets_Q1[q + 1])
    return list(zip(queries.items_H[part].tolist(), queries.times_H[part].tolist(), strict=True))


def slow_next_item(past: Any, future: Any) -> tuple[list[Any], int]:
    """(user, time, history, target) of each query, and how many events were left out."""
    old, new = rows_of(past), rows_of(future)
    # Sorting is stable: at equal times the past comes first, then the order of the file.
    together = sorted(
        [(t, 0, n, u, i) for n, (u, i, t) in enumerate(old)]
        + [(t, 1, n, u, i) for n, (u, i, t) in enumerate(new)]
    )
    found: dict[int, Any] = {}
    left = 0
    before: dict[int, list[tuple[int, int]]] = {}
    for t, is_new, n, u, i in together:
        mine = before.setdefault(u, [])
        if is_new and i in [item for item, _ in mine]:
            left += 1
        elif is_new:
            found[n] = (u, t, list(mine), i)
        mine.append((i, t))
    return [found[n] for n in sorted(found)], left


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_past=st.integers(0, 60),
    n_future=st.integers(1, 40),
    cut=st.integers(1, 20),
    views=st.booleans(),
)
def test_next_item_equals_a_loop(
    seed: int, n_past: int, n_future: int, cut: int, views: bool
) -> None:
    # With cut < 10 past and future interleave, as after a random split.
    marks = np.random.default_rng(seed).random(n_past + n_future) < (0.6 if views else 1.0)
    past = events(random_events(seed, n_past, 4, 8, 0, 10), 5, 8, marks[:n_past].tolist())
    future = events(
        random_events(seed + 1, n_future, 5, 8, cut, cut + 6), 5, 8, marks[n_past:].tolist()
    )
    wanted, left = slow_next_item(past, future)
    if not wanted:
        with pytest.raises(DataError, match="nothing to ask"):
            next_item_task(past, future)
        return
    task = next_item_task(past, future)
    queries = task.queries
    assert task.kind == "next_item"
    assert task.left_out == {"already seen": left}
    assert queries.user_Q.tolist() == [u for u, _, _, _ in wanted]
    assert queries.time_Q.tolist() == [t for _, t, _, _ in wanted]
    assert task.targets.items.tolist() == [i for _, _, _, i in wanted]
    assert task.targets.lengths_Q.tolist() == [1] * len(wanted)
    assert [history(queries, q) for q in range(len(task))] == [h for _, _, h, _ in wanted]
    assert task.history_lengths_Q.tolist() == [len(h) for _, _, h, _ in wanted]
    assert task.popularity_I.tolist() == [
        sum(i == item for _, i, _ in rows_of(past)) for item in range(8)
    ]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_past=st.integers(0, 60), n_future=st.integers(1, 40))
def test_all_future_equals_a_loop(seed: int, n_past: int, n_future: int) -> None:
    past = events(random_events(seed, n_past, 4, 8, 0, 10), 5, 8)
    future = events(random_events(seed + 1, n_future, 5, 8, 10, 16), 5, 8)
    had: dict[int, list[tuple[int, int]]] = {}
    for u, i, t in rows_of(past):
        had.setdefault(u, []).append((i, t))
    wanted: dict[int, list[int]] = {}
    seen = again = 0
    for u, i, _ in rows_of(future):
        if i in [item for item, _ in had.get(u, [])]:
            seen += 1
        elif i in wanted.get(u, []):
            again += 1
        else:
            wanted.setdefault(u, []).append(i)
    if not wanted:
        with pytest.raises(DataError, match="nothing to ask"):
            all_future_task(past, future)
        return
    task = all_future_task(past, future)
    assert task.kind == "all_future"
    assert task.left_out == {"already seen": seen, "repeated": again}
    assert task.user_Q.tolist() == sorted(wanted)
    assert set(task.time_Q.tolist()) == {min(t for _, _, t in rows_of(future))}
    offsets = task.targets.offsets_Q1
    for q, user in enumerate(sorted(wanted)):
        assert task.targets.items[offsets[q] : offsets[q + 1]].tolist() == wanted[user]
        assert history(task.queries, q) == had.get(user, [])


def test_events_of_one_second_stand_in_the_order_of_the_file() -> None:
    past = events([(0, 3, 5)], 1, 9)
    future = events([(0, 7, 10), (0, 2, 10), (0, 5, 10)], 1, 9)
    task = next_item_task(past, future)
    assert task.targets.items.tolist() == [7, 2, 5]
    assert [[i for i, _ in history(task.queries, q)] for q in range(3)] == [[3], [3, 7], [3, 7, 2]]


def test_a_repeated_item_is_left_out_and_stays_history() -> None:
    past = events([(0, 3, 5)], 1, 9)
    future = events([(0, 3, 10), (0, 4, 11), (0, 4, 12), (0, 5, 13)], 1, 9)
    task = next_item_task(past, future)
    assert task.left_out == {"already seen": 2}
    assert task.targets.items.tolist() == [4, 5]
    assert [i for i, _ in history(task.queries, 1)] == [3, 3, 4, 4]
    assert task.seen.items.tolist() == task.queries.items_H.tolist()


def test_blocks_are_parts_of_the_whole() -> None:
    past = events(random_events(0, 80, 6, 9, 0, 20), 6, 9)
    future = events(random_events(1, 50, 6, 9, 20, 30), 6, 9)
    for task in (next_item_task(past, future), all_future_task(past, future)):
        whole = task.queries
        for start in range(0, len(task), 4):
            stop = min(start + 4, len(task))
            for part in (task.block(start, stop), whole.block(start, stop)):
                assert part.user_Q.tolist() == whole.user_Q[start:stop].tolist()
                assert part.time_Q.tolist() == whole.time_Q[start:stop].tolist()
                for q in range(len(part)):
                    assert history(part, q) == history(whole, start + q)
            assert task.targets.block(start, stop).items.tolist() == [
                i
                for q in range(start, stop)
                for i in task.targets.items[
                    task.targets.offsets_Q1[q] : task.targets.offsets_Q1[q + 1]
                ]
            ]
        assert whole.rows_H.tolist() == [q for q in range(len(task)) for _ in history(whole, q)]
        assert task.targets.rows.tolist() == [
            q for q, n in enumerate(task.targets.lengths_Q) for _ in range(n)
        ]


@pytest.mark.parametrize("count", [1, 2, 3, 10, None])
def test_the_last_events_of_each_history(count: int | None) -> None:
    histories = [[1, 2, 3], [], [4], [5, 6, 7, 8]]
    kept = Queries.of(histories, users=[3, 1, 2, 0], time=7).last(count)
    keep = count or 99
    assert kept.items_H.tolist() == [i for h in histories for i in h[-keep:]]
    assert kept.lengths_Q.tolist() == [min(len(h), keep) for h in histories]
    assert kept.user_Q.tolist() == [3, 1, 2, 0]
    assert set(kept.times_H.tolist()) == {7}


def test_users_without_a_number() -> None:
    assert Queries.of([[1], []]).user_Q.tolist() == [-1, -1]
    assert len(Queries.of([]).last(3)) == 0


def test_refusals() -> None:
    past, future = events([(0, 0, 1)], 2, 3), events([(0, 1, 2)], 2, 4)
    with pytest.raises(DataError, match="2 and 2 users, 3 and 4 items"):
        next_item_task(past, future)
    with pytest.raises(DataError, match="nothing to ask"):
        all_future_task(past, events([(0, 0, 2)], 2, 3))
    with pytest.raises(DataError, match="nothing to ask"):
        next_item_task(past, events([], 2, 3))
    good = Queries.of([[1, 2]])
    with pytest.raises(DataError, match="one offset more"):
        Queries(good.user_Q, good.time_Q, good.offsets_Q1[:1], good.items_H, good.times_H)
    with pytest.raises(DataError, match="from 0 to the 2 events"):
        Queries(good.user_Q, good.time_Q, good.offsets_Q1 + 1, good.items_H, good.times_H)

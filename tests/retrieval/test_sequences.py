"""Windows: every event foretold once an epoch, from the newest events before it, none after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from warmstart.core import Streams, UsageError
from warmstart.evaluation import Queries
from warmstart.retrieval.sequences import (
    Sequences,
    WindowBatch,
    WindowRows,
    before_last,
    group_events,
    query_batch,
)

from .towerkit import events


def lengths_of(*counts: int) -> Sequences:
    """Users with that many events; item codes count on over all users: each is one place."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Sequences(offsets, np.arange(sum(counts)), np.arange(sum(counts)))


def foretold(batch: WindowBatch) -> list[tuple[int, int, list[int]]]:
    """(user, target, what it is foretold from) for each position, read off the batch."""
    found = []
    for row, place, target in zip(
        batch.row_N.tolist(), batch.place_N.tolist(), batch.targets_N.tolist(), strict=True
    ):
        past = batch.items_BT[row, :place].tolist()
        found.append((int(batch.users_B[row]), target, past))
    return found


def every_window(rows: WindowRows, epoch: int = 0, size: int = 3) -> list[WindowBatch]:
    places = list(range(len(rows)))
    return [rows.batch(places[at : at + size], epoch) for at in range(0, len(rows), size)]


def test_group_events_keeps_order_and_leaves_views_out() -> None:
    data = events([(1, 5), (0, 3), (1, 4), (1, 6), (0, 2)], n_users=3, n_items=8, views=[2])
    found = group_events(data)
    assert found.offsets_U1.tolist() == [0, 2, 4, 4]
    assert found.items_P.tolist() == [3, 2, 5, 6]
    assert found.times_P.tolist() == [1, 4, 0, 3]
    assert found.users_P.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(("history", "stride"), [(1, None), (4, None), (4, 1), (4, 3), (50, None)])
def test_every_event_is_foretold_once_from_what_was_before(
    shift: bool, history: int, stride: int | None
) -> None:
    counts = (1, 0, 4, 5, 13, 9)
    sequences = lengths_of(*counts)
    rows = WindowRows(sequences, history=history, stride=stride, shift=shift, streams=Streams(1))
    assert rows.targets == sum(counts)
    for epoch in range(3):
        found = [item for batch in every_window(rows, epoch) for item in foretold(batch)]
        assert sorted(target for _, target, _ in found) == list(range(sum(counts)))
        for user, target, past in found:
            first = int(sequences.offsets_U1[user])
            assert past == list(range(target - len(past), target))
            assert target - len(past) >= first
            assert len(past) <= history
            if target > first:
                assert past, "an event with a past is foretold from it"
            if target - first <= history and not shift and stride is None and history == 50:
                assert len(past) == target - first


def test_the_stride_says_how_long_the_past_is_at_least() -> None:
    sequences = lengths_of(40)
    for stride in (1, 2, 5):
        rows = WindowRows(sequences, history=5, stride=stride)
        for _, target, past in (item for batch in every_window(rows) for item in foretold(batch)):
            assert len(past) >= min(target, 5 - stride + 1)


def test_shifted_cuts_change_from_epoch_to_epoch_and_repeat() -> None:
    rows = WindowRows(lengths_of(30, 30), history=6, shift=True, streams=Streams(4))
    again = WindowRows(lengths_of(30, 30), history=6, shift=True, streams=Streams(4))
    epochs = [[foretold(batch) for batch in every_window(rows, epoch)] for epoch in range(4)]
    assert epochs == [[foretold(b) for b in every_window(again, epoch)] for epoch in range(4)]
    assert len({str(epoch) for epoch in epochs}) > 1


def test_only_ties_are_shuffled() -> None:
    """Events of one second come in any order, all others stay; nobody gets another's events."""
    times = np.array([0, 5, 5, 5, 9, 2, 2, 7])
    sequences = Sequences(np.array([0, 5, 8]), np.arange(8), times)
    rows = WindowRows(sequences, history=8, shuffle_ties=True, streams=Streams(2))
    orders = set()
    for epoch in range(20):
        batch = rows.batch([0, 1], epoch)
        order = batch.targets_N.tolist()
        assert sorted(order) == list(range(8))
        assert times[order].tolist() == times.tolist()
        assert batch.items_BT[0, :4].tolist() == order[:4]
        assert order == rows.batch([0, 1], epoch).targets_N.tolist()
        orders.add(tuple(order))
    assert len(orders) > 6
    still = WindowRows(sequences, history=8, streams=Streams(2))
    assert still.fingerprint != rows.fingerprint
    assert still.batch([0, 1], 3).targets_N.tolist() == list(range(8))


def test_only_learned_events_are_foretold() -> None:
    sequences = lengths_of(5, 5)
    learned = np.array([0, 1, 0, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    rows = WindowRows(sequences, history=2, learned_P=learned)
    found = [item for batch in every_window(rows) for item in foretold(batch)]
    assert sorted(target for _, target, _ in found) == [1, 4]
    assert set(rows.users_R.tolist()) == {0}
    with pytest.raises(UsageError, match="no positive event to learn from"):
        WindowRows(sequences, history=2, learned_P=np.zeros(10, dtype=bool))


def test_padding_stands_after_the_events() -> None:
    rows = WindowRows(lengths_of(2, 6), history=6)
    batch = rows.batch([0, 1], 0)
    assert batch.items_BT.tolist() == [[0, -1, -1, -1, -1], [2, 3, 4, 5, 6]]
    assert batch.row_N.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert batch.place_N.tolist() == [0, 1, 0, 1, 2, 3, 4, 5]
    assert len(batch) == 2
    assert rows.lengths() == [2, 6]


def test_chunks_are_the_same_windows() -> None:
    rows = WindowRows(lengths_of(9, 4, 7), history=4)
    batch = rows.batch(range(len(rows)), 0)
    parts = batch.chunks(2)
    assert [item for part in parts for item in foretold(part)] == foretold(batch)
    assert torch.cat([part.rows_B for part in parts]).tolist() == batch.rows_B.tolist()


def test_the_fingerprint_knows_events_and_cuts() -> None:
    base = WindowRows(lengths_of(9, 4), history=4)
    same = WindowRows(lengths_of(9, 4), history=4)
    assert base.fingerprint == same.fingerprint
    others = [
        WindowRows(lengths_of(4, 9), history=4),
        WindowRows(lengths_of(9, 4), history=5),
        WindowRows(lengths_of(9, 4), history=4, stride=2),
        WindowRows(lengths_of(9, 4), history=4, shift=True),
        WindowRows(Sequences(np.array([0, 9, 13]), np.arange(13)[::-1], np.arange(13)), history=4),
    ]
    assert len({rows.fingerprint for rows in [base, *others]}) == 6


def test_before_last() -> None:
    histories, taken = before_last(lengths_of(3, 0, 1))
    assert taken.tolist() == [2, -1, 3]
    assert histories.offsets_Q1.tolist() == [0, 2, 2, 2]
    assert histories.items_H.tolist() == [0, 1]
    assert len(histories) == 3


def asked(batch: WindowBatch) -> list[list[int]]:
    """The history of each query, read off the batch."""
    return [
        batch.items_BT[row, :place].tolist()
        for row, place in zip(batch.row_N.tolist(), batch.place_N.tolist(), strict=True)
    ]


def test_queries_are_cut_to_their_newest_events() -> None:
    histories: Sequence[Sequence[int]] = [[1, 2, 3, 4, 5], [], [7], [8, 9]]
    queries = Queries.of(histories)
    assert asked(query_batch(queries, 0, 4, 3)) == [[3, 4, 5], [], [7], [8, 9]]
    assert asked(query_batch(queries, 1, 3, 3)) == [[], [7]]
    assert asked(query_batch(Queries.of([[], []]), 0, 2, 3)) == [[], []]


def test_queries_that_run_along_share_a_window() -> None:
    """A user's prefixes are asked within the longest; another past is a window of its own."""
    histories: Sequence[Sequence[int]] = [
        [1], [1, 2], [5, 6], [1, 2, 3], [9, 2, 4, 6], [], [1, 2], [1],
    ]  # fmt: skip
    users = [0, 0, 1, 0, 0, 0, 2, -1]
    batch = query_batch(Queries.of(histories, users=users), 0, 8, 4)
    assert asked(batch) == [list(items) for items in histories]
    shared = [histories[row] for row in batch.rows_B.tolist()]
    assert sorted(map(tuple, shared)) == [(1,), (1, 2), (1, 2, 3), (5, 6), (9, 2, 4, 6)]
    assert [users[row] for row in batch.rows_B.tolist()] == batch.users_B.tolist()


def test_unknown_users_share_nothing() -> None:
    batch = query_batch(Queries.of([[1], [1, 2]], users=[-1, -1]), 0, 2, 4)
    assert len(batch) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"history": 0}, "history must be at least 1 event, got 0"),
        ({"history": 5, "stride": 6}, r"stride must be 1 to 5 \(the history\), got 6"),
        ({"history": 5, "stride": 0}, "got 0"),
    ],
)
def test_refuses(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WindowRows(lengths_of(5), **settings)

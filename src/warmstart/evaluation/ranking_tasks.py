"""What came after the queries: the answers that evaluation keeps to itself.

A recommender sees the queries alone; which items came next lies in the task that only evaluation
opens. A target that the user already had is left out and counted: a seen item is never
recommended, so no recommender could find it.

Queries of one user share their history: the task keeps each user's events once, with the place up
to which a query may look, and writes a query's own copy only for the block that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from warmstart.core import DataError

from .metrics import Ints
from .ranking_queries import Events, ItemLists, Queries, popularity, positives, spread

__all__ = ["Kind", "RankingTask", "all_future_task", "next_item_task"]

Kind = Literal["next_item", "all_future"]


@dataclass(frozen=True)
class _Timeline:
    """Each user's positive events once, by user and then in order; queries are stretches of it."""

    start_Q: Ints
    stop_Q: Ints
    item_E: NDArray[np.int32]
    time_E: NDArray[np.int64]


@dataclass(frozen=True)
class RankingTask:
    """Queries and what came after them. Only evaluation looks at the targets.

    Attributes:
        kind: "next_item": each future event is a query with one target, and the user's earlier
            future events are history by then. "all_future": one query a user, with the history as
            it stood at the cut and all later items as targets.
        user_Q: Number of each query's user.
        time_Q: The moment of each question, in seconds since 1970.
        targets: The items that each query should find; at least one, none twice, none seen.
        left_out: Reason to number of targets that were not asked for.
        popularity_I: Positive events of each item before the cut: what debiasing and slices use.
        n_users: U.
    """

    kind: Kind
    user_Q: NDArray[np.int32]
    time_Q: NDArray[np.int64]
    targets: ItemLists
    left_out: Mapping[str, int]
    popularity_I: Ints
    n_users: int
    _timeline: _Timeline = field(repr=False)

    def __len__(self) -> int:
        return len(self.user_Q)

    @property
    def n_items(self) -> int:
        """I, the whole catalogue."""
        return len(self.popularity_I)

    @property
    def history_lengths_Q(self) -> Ints:
        """Events before each question."""
        return self._timeline.stop_Q - self._timeline.start_Q

    @cached_property
    def queries(self) -> Queries:
        """All queries with a copy of each history; `block` gives some of them in less memory."""
        return self.block(0, len(self))

    @property
    def seen(self) -> ItemLists:
        """The items that each query leaves out of the ranking: those of its history."""
        return ItemLists(self.queries.offsets_Q1, self.queries.items_H)

    def block(self, start: int, stop: int) -> Queries:
        """The queries from `start` up to `stop`."""
        line = self._timeline
        offsets_Q1, index_H = spread(line.start_Q[start:stop], line.stop_Q[start:stop])
        return Queries(
            user_Q=self.user_Q[start:stop],
            time_Q=self.time_Q[start:stop],
            offsets_Q1=offsets_Q1,
            items_H=line.item_E[index_H],
            times_H=line.time_E[index_H],
        )


def next_item_task(past: Events, future: Events) -> RankingTask:
    """Ask before every future event which item comes next; the history runs along.

    Events of one user at the same second stand in the order of the file: the second has the first
    in its history. Where past and future interleave (a random split), a history holds whatever of
    both came before.

    Args:
        past: Events before the cut.
        future: Events after it.

    Returns:
        One query for each future event whose item the user did not have yet, in the events' order.

    Raises:
        DataError: When both are not of the same catalogue and users, or nothing can be asked.
    """
    line = _merged(past, future)
    ask_E = line.future_E & line.first_E
    place_Q = np.flatnonzero(ask_E)
    place_Q = place_Q[np.argsort(line.row_E[place_Q], kind="stable")]
    _check_asked(len(place_Q))
    return RankingTask(
        kind="next_item",
        user_Q=line.user_E[place_Q].astype(np.int32),
        time_Q=line.time_E[place_Q],
        targets=ItemLists(np.arange(len(place_Q) + 1, dtype=np.int64), line.item_E[place_Q]),
        left_out={"already seen": int((line.future_E & ~line.first_E).sum())},
        popularity_I=popularity(past),
        n_users=past.n_users,
        _timeline=_Timeline(line.begin_E[place_Q], place_Q, line.item_E, line.time_E),
    )


def all_future_task(past: Events, future: Events) -> RankingTask:
    """Ask once a user, at the cut, for all items that are new to the user afterwards.

    Args:
        past: Events before the cut: the histories.
        future: Events after it.

    Returns:
        One query for each user with at least one such item, in the order of user numbers.

    Raises:
        DataError: When both are not of the same catalogue and users, or nothing can be asked.
    """
    line = _merged(past, future, past_first=True)
    ask_E = line.future_E & line.first_E
    place_P = np.flatnonzero(ask_E)
    _check_asked(len(place_P))
    # In `line` a user's past comes before the user's future: the past ends where the future begins.
    users, first_P, counts = np.unique(line.user_E[place_P], return_index=True, return_counts=True)
    start_Q = line.begin_E[place_P[first_P]]
    past_U = np.bincount(line.user_E[~line.future_E], minlength=past.n_users)
    seen = _seen_before(line)
    again = int((line.future_E & ~line.first_E).sum()) - seen
    return RankingTask(
        kind="all_future",
        user_Q=users.astype(np.int32),
        time_Q=np.full(len(users), line.time_E[line.future_E].min(), dtype=np.int64),
        targets=ItemLists(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), line.item_E[place_P]
        ),
        left_out={"already seen": seen, "repeated": again},
        popularity_I=popularity(past),
        n_users=past.n_users,
        _timeline=_Timeline(start_Q, start_Q + past_U[users], line.item_E, line.time_E),
    )


@dataclass(frozen=True)
class _Merged:
    """Past and future positive events of the users who have a future, by user, then in order.

    Attributes:
        user_E: Number of the user.
        item_E: Number of the item.
        time_E: Seconds.
        future_E: Whether the event lies after the cut.
        first_E: Whether it is the user's first with that item.
        row_E: Its place among past and future events, one after the other.
        begin_E: Where its user's events begin.
    """

    user_E: Ints
    item_E: NDArray[np.int32]
    time_E: Ints
    future_E: NDArray[np.bool_]
    first_E: NDArray[np.bool_]
    row_E: Ints
    begin_E: Ints


def _merged(past: Events, future: Events, *, past_first: bool = False) -> _Merged:
    if (past.n_users, past.n_items) != (future.n_users, future.n_items):
        raise DataError(
            "past and future must have the same users and items, got "
            f"{past.n_users} and {future.n_users} users, {past.n_items} and {future.n_items} "
            "items. Take both from one split of the same interactions."
        )
    before, after = positives(past), positives(future)
    asked_U = np.zeros(past.n_users, dtype=bool)
    asked_U[after[0]] = True
    keep_N = asked_U[before[0]]
    user, item, time = (
        np.concatenate([old[keep_N], new]) for old, new in zip(before, after, strict=True)
    )
    future_E = np.arange(len(user)) >= np.count_nonzero(keep_N)
    row_E = np.lexsort((time, future_E, user) if past_first else (time, user))
    user, item, time, future_E = user[row_E], item[row_E], time[row_E], future_E[row_E]
    first_E = np.zeros(len(user), dtype=bool)
    first_E[np.unique(user * past.n_items + item, return_index=True)[1]] = True
    begin_E = np.searchsorted(user, user, side="left")
    return _Merged(user, item.astype(np.int32), time, future_E, first_E, row_E, begin_E)


def _seen_before(line: _Merged) -> int:
    """Future events whose item is among the same user's past ones, where the past comes first."""
    key_E = line.user_E * (int(line.item_E.max(initial=0)) + 1) + line.item_E
    return int(np.isin(key_E[line.future_E], key_E[~line.future_E]).sum())


def _check_asked(count: int) -> None:
    if not count:
        raise DataError(
            "There is nothing to ask: after the cut no user has a positive event with an item "
            "that is new to the user. Move the cut, or check which events count as positive."
        )

"""The questions put to a recommender: a user at a moment, with what the user had done before it.

Positive events are what counts here: histories, seen items and targets are made of them. Other
events ("viewed but not completed") serve as negatives in training and are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.core import DataError

from .metrics import Ints

__all__ = [
    "Events",
    "ItemLists",
    "Queries",
    "popularity",
    "positives",
    "spread",
]


class Events(Protocol):
    """Users' events in the order of (time, file row): what `data.Interactions` is to evaluation."""

    @property
    def user_N(self) -> NDArray[Any]:
        """Number of each event's user, from 0."""

    @property
    def item_N(self) -> NDArray[Any]:
        """Number of its item, from 0."""

    @property
    def time_N(self) -> NDArray[Any]:
        """Seconds since 1970."""

    @property
    def positive_N(self) -> NDArray[Any]:
        """Whether the event says that the user wanted the item."""

    @property
    def n_users(self) -> int:
        """U, those without events included."""

    @property
    def n_items(self) -> int:
        """I, the whole catalogue."""


def positives(events: Events) -> tuple[Ints, Ints, Ints]:
    """User, item and time of the positive events, in their order."""
    keep_N = np.asarray(events.positive_N, dtype=bool)
    user, item, time = (
        np.asarray(part)[keep_N].astype(np.int64)
        for part in (events.user_N, events.item_N, events.time_N)
    )
    return user, item, time


def popularity(events: Events) -> Ints:
    """How many positive events each of the I items has."""
    return np.bincount(positives(events)[1], minlength=events.n_items).astype(np.int64)


def spread(starts_Q: Ints, stops_Q: Ints) -> tuple[Ints, Ints]:
    """The numbers start, ..., stop - 1 of every query in one array.

    Returns:
        Offsets (Q + 1) into the second array, and the numbers.
    """
    lengths_Q = stops_Q - starts_Q
    offsets_Q1 = np.concatenate([[0], np.cumsum(lengths_Q)]).astype(np.int64)
    index_H = np.arange(offsets_Q1[-1], dtype=np.int64)
    index_H += np.repeat(starts_Q - offsets_Q1[:-1], lengths_Q)
    return offsets_Q1, index_H


@dataclass(frozen=True)
class ItemLists:
    """A list of items for each query, written one after the other.

    Attributes:
        offsets_Q1: Query q's items lie from offsets_Q1[q] to offsets_Q1[q + 1].
        items: Item numbers.
    """

    offsets_Q1: NDArray[np.int64]
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets_Q1) - 1

    @property
    def lengths_Q(self) -> Ints:
        """Items of each query."""
        return np.diff(self.offsets_Q1)

    @property
    def rows(self) -> Ints:
        """Number of the query that each entry of `items` belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths_Q)

    def block(self, start: int, stop: int) -> ItemLists:
        """The lists of the queries from `start` up to `stop`."""
        offsets = self.offsets_Q1[start : stop + 1]
        return ItemLists(offsets - offsets[0], self.items[offsets[0] : offsets[-1]])


@dataclass(frozen=True)
class Queries:
    """Q times the question "what next?", with all that a recommender may see.

    Attributes:
        user_Q: Number of the user, -1 for one who has none.
        time_Q: The moment of the question, in seconds since 1970.
        offsets_Q1: Query q's history lies from offsets_Q1[q] to offsets_Q1[q + 1].
        items_H: Items of the user's positive events before the question, oldest first.
        times_H: Their times.
    """

    user_Q: NDArray[np.int32]
    time_Q: NDArray[np.int64]
    offsets_Q1: NDArray[np.int64]
    items_H: NDArray[np.int32]
    times_H: NDArray[np.int64]

    def __post_init__(self) -> None:
        n, events = len(self.user_Q), len(self.items_H)
        if len(self.time_Q) != n or len(self.offsets_Q1) != n + 1 or len(self.times_H) != events:
            raise DataError(
                "Queries need one time a user, one offset more than users and one time an event, "
                f"got {n} users, {len(self.time_Q)} times, {len(self.offsets_Q1)} offsets, "
                f"{events} events with {len(self.times_H)} times."
            )
        if self.offsets_Q1[0] != 0 or self.offsets_Q1[-1] != events:
            raise DataError(
                f"Queries' offsets must run from 0 to the {events} events of the histories, got "
                f"{self.offsets_Q1[0]} to {self.offsets_Q1[-1]}."
            )

    @classmethod
    def of(
        cls,
        histories: Sequence[Sequence[int]],
        *,
        users: Sequence[int] | None = None,
        time: int = 0,
    ) -> Queries:
        """Queries from plain lists of item numbers, oldest first.

        Args:
            histories: One list a query, which may be empty.
            users: Numbers of the users; without, nobody is known.
            time: The moment of the questions; the histories' events get the same time.
        """
        lengths = [len(items) for items in histories]
        offsets_Q1 = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        items_H = np.array([item for items in histories for item in items], dtype=np.int32)
        known = [-1] * len(histories) if users is None else users
        return cls(
            user_Q=np.asarray(known, dtype=np.int32),
            time_Q=np.full(len(histories), time, dtype=np.int64),
            offsets_Q1=offsets_Q1,
            items_H=items_H,
            times_H=np.full(len(items_H), time, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.user_Q)

    @property
    def lengths_Q(self) -> Ints:
        """Events in each history."""
        return np.diff(self.offsets_Q1)

    @property
    def rows_H(self) -> Ints:
        """Number of the query that each event of the histories belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths_Q)

    def block(self, start: int, stop: int) -> Queries:
        """The queries from `start` up to `stop`, as views."""
        offsets = self.offsets_Q1[start : stop + 1]
        events = slice(offsets[0], offsets[-1])
        return Queries(
            user_Q=self.user_Q[start:stop],
            time_Q=self.time_Q[start:stop],
            offsets_Q1=offsets - offsets[0],
            items_H=self.items_H[events],
            times_H=self.times_H[events],
        )

    def last(self, count: int | None) -> Queries:
        """The same queries with the newest `count` events of each history; None keeps all."""
        if count is None or not len(self) or self.lengths_Q.max() <= count:
            return self
        ends_Q = self.offsets_Q1[1:]
        offsets_Q1, index_H = spread(ends_Q - np.minimum(self.lengths_Q, count), ends_Q)
        return Queries(
            user_Q=self.user_Q,
            time_Q=self.time_Q,
            offsets_Q1=offsets_Q1,
            items_H=self.items_H[index_H],
            times_H=self.times_H[index_H],
        )

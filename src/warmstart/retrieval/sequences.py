"""Users' events as sequences, cut into windows from which every prefix is learned in one pass.

A window holds the events that its positions look back on and the event that each position is to
foretell. The windows of a user share out the events to foretell: each is foretold once an epoch,
from the newest events before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from warmstart.core import Streams, UsageError, fingerprint
from warmstart.evaluation import Events

__all__ = [
    "Histories",
    "QueryRows",
    "Sequences",
    "WindowBatch",
    "WindowRows",
    "before_last",
    "group_events",
    "query_batch",
]


class QueryRows(Protocol):
    """The part of `warmstart.evaluation.Queries` that a recommender reads."""

    @property
    def user_Q(self) -> np.ndarray:
        """Code of the user who asks."""

    @property
    def offsets_Q1(self) -> np.ndarray:
        """The history of query q is `items_H[offsets_Q1[q]:offsets_Q1[q + 1]]`."""

    @property
    def items_H(self) -> np.ndarray:
        """Items of all histories, oldest first."""

    def __len__(self) -> int:
        """Q."""


@dataclass(frozen=True)
class Sequences:
    """The positive events of each user side by side, oldest first.

    Attributes:
        offsets_U1: Those of user u are at `offsets_U1[u]` to `offsets_U1[u + 1]`.
        items_P: Their items.
        times_P: Their times in seconds.
    """

    offsets_U1: np.ndarray
    items_P: np.ndarray
    times_P: np.ndarray

    def __len__(self) -> int:
        return len(self.items_P)

    @property
    def users_P(self) -> np.ndarray:
        """User of each event."""
        return np.repeat(np.arange(len(self.offsets_U1) - 1), np.diff(self.offsets_U1))

    def select(self, kept_P: np.ndarray) -> Sequences:
        """The same users with some of their events."""
        before_P1 = np.concatenate([[0], np.cumsum(kept_P)]).astype(np.int64)
        return Sequences(before_P1[self.offsets_U1], self.items_P[kept_P], self.times_P[kept_P])


def group_events(events: Events) -> Sequences:
    """Sort positive events by user; within a user they stay in the order in which they come."""
    positive_N = np.asarray(events.positive_N, dtype=bool)
    users_P = np.asarray(events.user_N)[positive_N]
    order = np.argsort(users_P, kind="stable")
    counts_U = np.bincount(users_P, minlength=events.n_users)
    return Sequences(
        np.concatenate([[0], np.cumsum(counts_U)]).astype(np.int64),
        np.asarray(events.item_N)[positive_N][order].astype(np.int64),
        np.asarray(events.time_N)[positive_N][order].astype(np.int64),
    )


@dataclass(frozen=True)
class Histories:
    """Plain `QueryRows`."""

    user_Q: np.ndarray
    offsets_Q1: np.ndarray
    items_H: np.ndarray

    def __len__(self) -> int:
        return len(self.user_Q)


def before_last(sequences: Sequences) -> tuple[Histories, np.ndarray]:
    """Every user's history as it was before the last event, and that event's item (-1 for none)."""
    counts_U = np.diff(sequences.offsets_U1)
    last_U = sequences.offsets_U1[1:] - 1
    has_U = counts_U > 0
    kept_P = np.ones(len(sequences), dtype=bool)
    kept_P[last_U[has_U]] = False
    taken_U = np.full(len(counts_U), -1, dtype=np.int64)
    taken_U[has_U] = sequences.items_P[last_U[has_U]]
    offsets = np.concatenate([[0], np.cumsum(np.maximum(counts_U - 1, 0))]).astype(np.int64)
    return Histories(np.arange(len(counts_U)), offsets, sequences.items_P[kept_P]), taken_U


@dataclass(frozen=True)
class WindowBatch:
    """B windows of at most T events, padded on the right.

    Position 0 is the start, before any event; position t stands after the event `items_BT[t - 1]`.

    Attributes:
        items_BT: Events looked back on, -1 where there is none.
        users_B: User of each window, -1 for one without a profile.
        row_N: Window of each position that is learned or asked for.
        place_N: Its place in the window, 0 to T.
        targets_N: The item to foretell there.
        rows_B: Row of each window in its source.
        told_NE: Vector of the user's text at each position, for a tower that reads texts in place
            of items; None for any other.
    """

    items_BT: Tensor
    users_B: Tensor
    row_N: Tensor
    place_N: Tensor
    targets_N: Tensor
    rows_B: Tensor
    told_NE: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items_BT)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> WindowBatch:
        """The same batch on a device."""
        moved = [
            value.to(device, non_blocking=non_blocking)
            for value in (
                self.items_BT, self.users_B, self.row_N, self.place_N, self.targets_N, self.rows_B
            )
        ]  # fmt: skip
        told = self.told_NE
        told = told if told is None else told.to(device, non_blocking=non_blocking)
        return replace(WindowBatch(*moved), told_NE=told)

    def chunks(self, size: int) -> list[WindowBatch]:
        """The same windows, at most `size` at a time; positions stay in order."""
        parts = []
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            mine = (self.row_N >= start) & (self.row_N < stop)
            parts.append(
                WindowBatch(
                    self.items_BT[start:stop], self.users_B[start:stop],
                    self.row_N[mine] - start, self.place_N[mine], self.targets_N[mine],
                    self.rows_B[start:stop], None if self.told_NE is None else self.told_NE[mine],
                )
            )  # fmt: skip
        return parts


class WindowRows:
    """The windows of all users, as rows of the training loop.

    A user's events to foretell are cut into stretches of `stride`; the window of a stretch looks
    back on up to `history` events before each of them, all from the same `history` places: the
    last position of a window sees the most. With `shift` the cuts lie elsewhere in each epoch, so
    that an event is foretold from shorter and longer pasts.

    Attributes:
        parallel: False: making a batch is cheap.
    """

    parallel = False

    def __init__(
        self,
        sequences: Sequences,
        *,
        history: int = 50,
        stride: int | None = None,
        shift: bool = False,
        shuffle_ties: bool = False,
        streams: Streams | None = None,
        learned_P: np.ndarray | None = None,
        told: Callable[[np.ndarray], Tensor] | None = None,
    ) -> None:
        """Cut the sequences.

        Args:
            sequences: Who did what.
            history: Events that a position looks back on, at least 1.
            stride: Events that a window foretells, 1 to `history`; smaller gives each a longer past
                at the price of more windows. `history` when None.
            shift: Whether the cuts move from epoch to epoch.
            shuffle_ties: Whether a user's events of the same second, whose order says nothing, come
                in another order in each epoch.
            streams: Source of the cuts and of the order of ties.
            learned_P: Which events are foretold; all when None.
            told: From events to vectors of their users' texts before them; then windows have
                these in place of items.

        Raises:
            UsageError: For settings outside their range, or when nothing is to be foretold.
        """
        step = history if stride is None else stride
        if history < 1:
            raise UsageError(f"history must be at least 1 event, got {history}. Typical: 50.")
        if not 1 <= step <= history:
            raise UsageError(
                f"stride must be 1 to {history} (the history), got {step}. Typical: {history}."
            )
        self._sequences = sequences
        self._history = history
        self._step = step
        self._shift = shift
        self._shuffle_ties = shuffle_ties
        self._drawn: tuple[int, np.ndarray] = (-1, sequences.items_P)
        self._streams = streams or Streams(0)
        self._told = told
        self._learned_P = np.ones(len(sequences), dtype=bool) if learned_P is None else learned_P
        if not self._learned_P.any():
            raise UsageError("there is no positive event to learn from. Give at least one.")
        counts_U = np.diff(sequences.offsets_U1)
        windows_U = -(-counts_U // step) + (1 if shift else 0)
        windows_U = np.where(counts_U > 0, windows_U, 0)
        self.users_R = np.repeat(np.arange(len(counts_U)), windows_U)
        first_U = np.concatenate([[0], np.cumsum(windows_U)[:-1]])
        self._number_R = np.arange(len(self.users_R)) - np.repeat(first_U, windows_U)
        if not shift:
            self._drop_silent()
        self.ids = [
            f"{user}/{number}" for user, number in zip(self.users_R, self._number_R, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.users_R)

    @property
    def targets(self) -> int:
        """Events that an epoch foretells."""
        return int(self._learned_P.sum())

    @property
    def fingerprint(self) -> str:
        """Of the events and of how they are cut."""
        seqs = self._sequences
        return fingerprint(
            seqs.offsets_U1,
            seqs.items_P,
            seqs.times_P,
            self._learned_P,
            self._history,
            self._step,
            self._shift,
            self._shuffle_ties,
        )

    def lengths(self) -> list[int]:
        """Events that a window holds at most (without shift: exactly)."""
        _, stop_R = self._stretches(0, shifted=False)
        lengths: list[int] = (stop_R - np.maximum(0, stop_R - 1 - self._history)).tolist()
        return lengths

    def batch(self, rows: Sequence[int], epoch: int) -> WindowBatch:
        """These windows, as they are cut in that epoch (from 0)."""
        chosen_B = np.asarray(rows, dtype=np.int64)
        start_B, stop_B = self._stretches(epoch, rows=chosen_B)
        offset_B = self._sequences.offsets_U1[self.users_R[chosen_B]]
        stop_B = np.maximum(start_B, stop_B)
        back_B = np.maximum(0, stop_B - 1 - self._history)  # the oldest event that is looked at
        seen_B = np.where(stop_B > start_B, stop_B - 1 - back_B, 0)
        seen_B = seen_B if self._told is None else np.zeros_like(seen_B)
        width = max(1, int(seen_B.max()))
        place_T = np.arange(width)
        held_BT = place_T[None, :] < seen_B[:, None]
        source_BT = np.where(held_BT, (offset_B + back_B)[:, None] + place_T[None, :], 0)
        items_P = self._items(epoch)
        items_BT = np.where(held_BT, items_P[source_BT], -1)
        row_N = np.repeat(np.arange(len(chosen_B)), stop_B - start_B)
        event_N = _ranges(start_B, stop_B)
        source_N = offset_B[row_N] + event_N
        kept_N = self._learned_P[source_N]
        row_N, event_N, source_N = row_N[kept_N], event_N[kept_N], source_N[kept_N]
        return WindowBatch(
            torch.from_numpy(items_BT),
            torch.from_numpy(self.users_R[chosen_B]),
            torch.from_numpy(row_N),
            torch.from_numpy(event_N - back_B[row_N]),
            torch.from_numpy(items_P[source_N]),
            torch.from_numpy(chosen_B),
            None if self._told is None else self._told(source_N),
        )

    def _stretches(
        self, epoch: int, *, rows: np.ndarray | None = None, shifted: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """First event that each window foretells and the one after its last, within the user."""
        chosen = slice(None) if rows is None else rows
        users, number = self.users_R[chosen], self._number_R[chosen]
        counts = np.diff(self._sequences.offsets_U1)[users]
        moved = np.zeros(len(users), dtype=np.int64)
        if self._shift:
            moved += self._step
            if shifted:
                moved = self._cuts(epoch)[users]
        start = np.maximum(0, (number - (1 if self._shift else 0)) * self._step + moved)
        stop = (number + (0 if self._shift else 1)) * self._step + moved
        return np.minimum(start, counts), np.minimum(stop, counts)

    def _items(self, epoch: int) -> np.ndarray:
        """Items of all events in the order of that epoch."""
        seqs = self._sequences
        if not self._shuffle_ties:
            return seqs.items_P
        if self._drawn[0] != epoch:
            chance_P = self._streams.numpy("ties", epoch).random(len(seqs))
            order_P = np.lexsort((chance_P, seqs.times_P, seqs.users_P))
            self._drawn = (epoch, seqs.items_P[order_P])
        return self._drawn[1]

    def _cuts(self, epoch: int) -> np.ndarray:
        """Where the first stretch of each user ends in this epoch, 1 to the stride."""
        generator = self._streams.numpy("windows", epoch)
        users = len(self._sequences.offsets_U1) - 1
        return generator.integers(1, self._step + 1, users)

    def _drop_silent(self) -> None:
        """Leave out windows in which nothing is foretold."""
        start_R, stop_R = self._stretches(0)
        offset_R = self._sequences.offsets_U1[self.users_R]
        before_N1 = np.concatenate([[0], np.cumsum(self._learned_P)])
        spoken_R = before_N1[offset_R + stop_R] > before_N1[offset_R + start_R]
        self.users_R, self._number_R = self.users_R[spoken_R], self._number_R[spoken_R]


def query_batch(queries: QueryRows, start: int, stop: int, history: int) -> WindowBatch:
    """Queries `start` to `stop` as windows; of each history the newest `history` events are used.

    A query whose history begins another one's of the same user is asked within that one's window.
    There is nothing to foretell, so targets are -1.
    """
    begin_B = np.asarray(queries.offsets_Q1[start:stop], dtype=np.int64)
    end_B = np.asarray(queries.offsets_Q1[start + 1 : stop + 1], dtype=np.int64)
    begin_B = np.maximum(begin_B, end_B - history)
    seen_B = end_B - begin_B
    place_T = np.arange(max(1, int(seen_B.max(initial=0))))
    held_BT = place_T[None, :] < seen_B[:, None]
    source_BT = np.where(held_BT, begin_B[:, None] + place_T[None, :], 0)
    items_H = np.asarray(queries.items_H, dtype=np.int64)
    items_BT = np.where(held_BT, items_H[source_BT] if len(items_H) else -1, -1)
    users_B = np.asarray(queries.user_Q[start:stop], dtype=np.int64)
    leader_B = _leaders(items_BT, users_B, seen_B)
    chosen_R, row_B = np.unique(leader_B, return_inverse=True)
    return WindowBatch(
        torch.from_numpy(items_BT[chosen_R]),
        torch.from_numpy(users_B[chosen_R]),
        torch.from_numpy(row_B.astype(np.int64)),
        torch.from_numpy(seen_B),
        torch.full((stop - start,), -1),
        torch.from_numpy(start + chosen_R),
    )


def _leaders(items_BT: np.ndarray, users_B: np.ndarray, seen_B: np.ndarray) -> np.ndarray:
    """For each row the longest row of the same user that begins with it; itself where none does."""
    order_B = np.lexsort((seen_B, users_B))
    here, after = order_B[:-1], order_B[1:]
    same_BT = (items_BT[here] == items_BT[after]) | (items_BT[here] < 0)
    begins = same_BT.all(axis=1) & (users_B[here] == users_B[after]) & (users_B[here] >= 0)
    place_B = np.arange(len(order_B))
    last_B = np.where(np.append(begins, False), len(order_B), place_B)
    last_B = np.minimum.accumulate(last_B[::-1])[::-1]
    leader_B = np.empty_like(order_B)
    leader_B[order_B] = order_B[last_B]
    return leader_B


def _ranges(start_B: np.ndarray, stop_B: np.ndarray) -> np.ndarray:
    """`start, ..., stop - 1` of each row, one after the other."""
    counts_B = stop_B - start_B
    before_B = np.cumsum(counts_B) - counts_B
    places: np.ndarray = np.arange(int(counts_B.sum())) - np.repeat(before_B - start_B, counts_B)
    return places

"""Who did what when: events of users with items in time order, with the tables of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from warmstart.core.fingerprint import fingerprint
from warmstart.data.dataset import Skipped

__all__ = ["EVENT_ARRAYS", "Histories", "Interactions", "occurring"]

EVENT_ARRAYS = (
    "user_N", "item_N", "time_N", "weight_N", "rating_N", "event_N", "positive_N",
)  # fmt: skip
"""The arrays of `Interactions` with one entry an event."""


@dataclass(frozen=True, eq=False)
class Histories:
    """The events of each user, oldest first, in one row of arrays (CSR).

    Attributes:
        offsets_U1: User u's events are at `offsets_U1[u]:offsets_U1[u + 1]`.
        items_N: Item of each event.
        times_N: Second of each event.
        events_N: Position of each event among those of the `Interactions`.
    """

    offsets_U1: npt.NDArray[np.int64]
    items_N: npt.NDArray[np.int32]
    times_N: npt.NDArray[np.int64]
    events_N: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets_U1) - 1

    def of(self, user: int) -> npt.NDArray[np.int32]:
        """The items of one user, oldest first. Raises IndexError for an unknown code."""
        if not 0 <= user < len(self):
            raise IndexError(f"user {user} of {len(self)}")
        return self.items_N[self.offsets_U1[user] : self.offsets_U1[user + 1]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Interactions:
    """Events of users with items, sorted by time and then by place in the file. Never changed.

    Attributes:
        user_N: Code of the user of each event.
        item_N: Code of the item, its row in `items`.
        time_N: Second since 1970, UTC. Fractions of a second order events and are then dropped.
        weight_N: Weight of each event, 0 or more; None where the file has none.
        rating_N: Rating of each event, NaN where it is missing; None where the file has none.
        event_N: Kind of each event, counted in `event_names`; None where the file has none.
        event_names: Kinds of events.
        positive_N: Whether the event counts as a positive.
        user_ids: Code to id, of users in the users table or in events.
        item_ids: Code to id, of the whole catalogue, items without events included.
        items: One row an item: item_id, title, description, tags (list), image (path relative to
            the folder, `/` between its parts), text (what an encoder reads, "" where nothing is
            known), then the user's own columns.
        users: One row a user: user_id and attributes, null for users outside the users table; None
            where there is no table.
        source: As the caller named it.
        skipped: Bad rows that were left out, of events up to 1,000 of a kind.
        notes: Sentences about how the data was read.
        folder: What image paths are relative to.
        n_skipped: How many rows were left out.
    """

    user_N: npt.NDArray[np.int32]
    item_N: npt.NDArray[np.int32]
    time_N: npt.NDArray[np.int64]
    weight_N: npt.NDArray[np.float32] | None = None
    rating_N: npt.NDArray[np.float32] | None = None
    event_N: npt.NDArray[np.int16] | None = None
    event_names: tuple[str, ...] = ()
    positive_N: npt.NDArray[np.bool_]
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    items: pl.DataFrame
    users: pl.DataFrame | None = None
    source: str = "memory"
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    n_skipped: int = 0

    def __post_init__(self) -> None:
        n = len(self.time_N)
        for name in EVENT_ARRAYS:
            values_N = getattr(self, name)
            if values_N is None:
                continue
            if values_N.shape != (n,):
                raise ValueError(f"{name} must have shape ({n},), got {values_N.shape}.")
            fixed_N = values_N.view()  # the caller's own array stays writable
            fixed_N.setflags(write=False)
            object.__setattr__(self, name, fixed_N)
        if self.items.height != len(self.item_ids):
            raise ValueError(f"items has {self.items.height} rows for {len(self.item_ids)} ids.")
        if self.users is not None and self.users.height != len(self.user_ids):
            raise ValueError(f"users has {self.users.height} rows for {len(self.user_ids)} ids.")
        for codes_N, ids, what in (
            (self.user_N, self.user_ids, "user"),
            (self.item_N, self.item_ids, "item"),
        ):
            if n and not (codes_N.min() >= 0 and codes_N.max() < len(ids)):
                raise ValueError(f"a code of {what}_N lies outside 0 to {len(ids) - 1}.")
        if n > 1 and (self.time_N[1:] < self.time_N[:-1]).any():
            raise ValueError("events must be in the order of their times.")

    def __len__(self) -> int:
        return len(self.time_N)

    def __repr__(self) -> str:
        return (
            f"Interactions({self.source!r}, {len(self):,} events, {self.n_users:,} users, "
            f"{self.n_items:,} items)"
        )

    @property
    def n_users(self) -> int:
        """Users, those without events included."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Items of the catalogue, those without events included."""
        return len(self.item_ids)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when an event, an id, an item's text, tags or image, or a user changes."""
        users = None if self.users is None else [str(row) for row in self.users.rows()]
        return fingerprint(
            "interactions",
            *(getattr(self, name) for name in EVENT_ARRAYS),
            self.event_names,
            self.user_ids,
            self.item_ids,
            self.items["text"].to_list(),
            self.items["tags"].to_list(),
            self.items["image"].to_list(),
            users,
        )

    def select(self, events: npt.NDArray[Any] | Sequence[int] | Sequence[bool]) -> Interactions:
        """Some of the events, in time order, with the same tables and codes.

        Args:
            events: A mask over all events, or their positions in any order (each counts once).

        Raises:
            IndexError: For a mask of another length or a position that is not there.
        """
        where_N = np.asarray(events)
        if where_N.dtype == bool:
            if where_N.shape != (len(self),):
                raise IndexError(f"a mask of shape {where_N.shape} over {len(self)} events")
        else:
            where_N = where_N.astype(np.int64)
            if len(where_N) and not (np.diff(where_N) > 0).all():
                where_N = np.unique(where_N)
            if len(where_N) and not (where_N[0] >= 0 and where_N[-1] < len(self)):
                raise IndexError(f"events {where_N[0]} to {where_N[-1]} of {len(self)}")
        chosen: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[where_N]
            for name in EVENT_ARRAYS
        }
        return replace(self, **chosen)

    def histories(self, *, positive_only: bool = False) -> Histories:
        """The events of each user, oldest first; of all `n_users` users, also those without any."""
        events_N = np.flatnonzero(self.positive_N) if positive_only else np.arange(len(self))
        user_N = self.user_N[events_N]
        events_N = events_N[np.argsort(user_N, kind="stable")]
        counts_U = np.bincount(user_N, minlength=self.n_users)
        offsets_U1 = np.concatenate(([0], np.cumsum(counts_U))).astype(np.int64)
        return Histories(offsets_U1, self.item_N[events_N], self.time_N[events_N], events_N)

    def image_files(self) -> list[Path | None]:
        """The image file of every item, None where it has none."""
        root = self.folder or Path()
        return [None if image is None else root / image for image in self.items["image"].to_list()]


def occurring(codes_N: npt.NDArray[np.integer[Any]], total: int) -> npt.NDArray[np.bool_]:
    """Whether each code from 0 to `total` - 1 occurs: (total,)."""
    found = np.zeros(total, dtype=bool)
    found[codes_N] = True
    return found

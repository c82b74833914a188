"""Reading interactions: find the files and columns, check every row, number users and items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from warmstart.core.errors import DataError, UsageError, nearest
from warmstart.core.progress import note
from warmstart.data.dataset import Skipped
from warmstart.data.interaction_blocks import column_names
from warmstart.data.interaction_columns import EventColumns, find_event_columns
from warmstart.data.interaction_events import Events, in_time_order, read_events, without_repeats
from warmstart.data.interaction_layouts import Layout, find_layout
from warmstart.data.interaction_positives import about_kinds, positives
from warmstart.data.interaction_rejects import RowFaults
from warmstart.data.interaction_tables import IdTable, bare_items, item_table, user_table
from warmstart.data.interactions import Interactions, occurring
from warmstart.data.limit import rank, rank_key
from warmstart.data.rejects import Rejects, summary
from warmstart.data.tables import read_table

__all__ = ["read_interactions", "read_items"]


def read_interactions(
    source: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    event: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
    positive: Sequence[str] | str | None = None,
    skip_bad: bool = False,
    limit_users: int | None = None,
    seed: int = 0,
) -> Interactions:
    """Read interactions, items and users, and check every row.

    Args:
        source: A folder with interactions.csv or .parquet, beside it items.* and users.* where
            there are some; a MovieLens folder (100K, 1M, latest); a folder of RecBole's atomic
            files; or one file of interactions, whose items are then known by their ids alone.
        user: Column of users; by default found by its name.
        item: Column of items; by default found by its name.
        time: Column of times (numbers since 1970 or ISO dates); by default found by its name.
        event: Column that says what happened; by default found by its name, if it is there.
        rating: Column of ratings; likewise.
        weight: Column of weights; likewise. Both are for `positive`: nothing is weighted by them.
        positive: Which events count as positives: names of events, or comparisons such as
            `rating>=4`, joined by "or"; all by default.
        skip_bad: Leave bad rows out, counted and listed in `skipped`, instead of raising.
        limit_users: At most so many users with all of their events, drawn by `seed`.
        seed: Root seed of the draw.

    Raises:
        DataError: Naming file and row, or what is wrong with the whole.
        UsageError: For settings that fit no data.
    """
    if limit_users is not None and limit_users < 2:
        raise UsageError(f"limit_users must be at least 2, got {limit_users}.")
    if not isinstance(source, str | Path) or not str(source) or "\0" in str(source):
        raise UsageError(f"The source must be the path of a folder or file, got {source!r}.")
    layout = find_layout(Path(source).expanduser())
    file = layout.events
    names = column_names(file)
    columns = find_event_columns(
        names, str(file.path), user=user, item=item, time=time, event=event, rating=rating,
        weight=weight,
    )  # fmt: skip
    rejects = Rejects(skip=skip_bad)
    notes: list[str] = []
    items = _items(layout, columns, rejects, notes)
    users = _users(layout, columns, rejects, notes)
    in_tables = len(rejects.items)
    told = [summary(rejects.items)] if in_tables else []
    faults = RowFaults(str(file.path), file.unit, rejects)
    catalogue = None if items is None else items.frame["item_id"].to_list()
    events = read_events(file, columns, catalogue, faults)
    _check_some(events, faults, str(file.path))
    if limit_users is not None:
        _limit(events, limit_users, seed, notes)
    in_time_order(events)
    without_repeats(events, faults)
    notes += events.notes
    told += faults.notes()
    for line in told:
        note(line)
    notes += told
    n_skipped = in_tables + faults.counts.total()
    unread = [name for name in names if name not in columns.used]
    if unread:
        notes.append(f"{file.path.name}: columns that are not read: {', '.join(unread)}.")
    return _assemble(
        events,
        str(source),
        layout,
        items,
        users if limit_users is None else _only(users, events),
        positive=positive,
        skipped=tuple(sorted(rejects.items, key=lambda s: (s.file, s.row or 0))),
        n_skipped=n_skipped,
        notes=notes,
    )


def read_items(
    source: str | Path,
    *,
    item: str | None = None,
    usual: str | None = None,
    skip_bad: bool = False,
) -> pl.DataFrame:
    """Read a table of items alone, as it stands beside interactions.

    Args:
        source: A CSV, TSV, JSONL or Parquet file.
        item: Column of ids; by default found by its name.
        usual: How interactions call it: taken where the table has it and `item` is not given.
        skip_bad: Leave bad rows out, counted and shown, instead of raising.

    Returns:
        One row an item with the columns of `Interactions.items`.

    Raises:
        DataError: Naming file and row, or what is wrong with the whole.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"{path} is no file. Name a table of items.")
    rejects = Rejects(skip=skip_bad)
    table = read_table(path, rejects)
    if item is not None and item not in table.columns:
        raise DataError(
            f"{path} has no column {item!r} of item ids.{nearest(item, list(table.columns))}"
        )
    found = item_table(table, rejects, path.parent, item or usual)
    rejects.announce()
    for line in found.notes:
        note(line)
    return found.frame


# --- from tables and events to the whole ---------------------------------------------------------


def _items(
    layout: Layout, columns: EventColumns, rejects: Rejects, notes: list[str]
) -> IdTable | None:
    if layout.items is None:
        notes.append(
            f"{layout.kind[0].upper()}{layout.kind[1:]} without a table of items: items are known "
            "by their ids alone, without title or text."
        )
        return None
    found = item_table(layout.items(rejects, notes), rejects, layout.folder, columns.item)
    notes += found.notes
    return found


def _users(
    layout: Layout, columns: EventColumns, rejects: Rejects, notes: list[str]
) -> IdTable | None:
    if layout.users is None:
        return None
    found = user_table(layout.users(rejects, notes), rejects, columns.user)
    notes += found.notes
    return found


def _check_some(events: Events, faults: RowFaults, file: str) -> None:
    """Refuse what is too little to learn anything from."""
    left = f" ({faults.counts.total():,} bad rows were left out)" if faults.counts else ""
    if not len(events):
        raise DataError(f"{file} has no usable rows{left}.")
    for meaning, ids in (("user", events.user_ids), ("item", events.item_ids)):
        codes = np.flatnonzero(occurring(events.columns[meaning], len(ids)))
        if len(codes) < 2:
            raise DataError(
                f"{file}: every event is of the {meaning} {ids[codes[0]]!r}{left}. Two {meaning}s "
                "or more are needed to recommend."
            )


def _limit(events: Events, limit: int, seed: int, notes: list[str]) -> None:
    """Keep the events of at most `limit` users; a function of the seed and the users' ids."""
    present = _users_present(events)
    if len(present) <= limit:
        return
    key = rank_key(seed, "limit-users")
    ids = events.user_ids
    chosen = sorted(present.tolist(), key=lambda code: rank(key, ids[code]))[:limit]
    keep_U = np.zeros(len(ids), dtype=bool)
    keep_U[chosen] = True
    total = len(events)
    events.keep(keep_U[events.columns["user"]])
    notes.append(
        f"{limit:,} of {len(present):,} users are used (limit_users={limit}), with {len(events):,} "
        f"of {total:,} events."
    )
    if occurring(events.columns["item"], len(events.item_ids)).sum() < 2:
        raise DataError(f"limit_users={limit} leaves events of one item only. Raise it.")


def _users_present(events: Events) -> npt.NDArray[np.int64]:
    """Codes of users that have events, in order of first sight."""
    return np.flatnonzero(occurring(events.columns["user"], len(events.user_ids)))


def _only(users: IdTable | None, events: Events) -> IdTable | None:
    """The users that have events."""
    if users is None:
        return None
    ids = [events.user_ids[code] for code in _users_present(events)]
    return IdTable(users.frame.filter(users.frame["user_id"].is_in(ids)), users.notes)


def _assemble(
    events: Events,
    source: str,
    layout: Layout,
    items: IdTable | None,
    users: IdTable | None,
    *,
    positive: Sequence[str] | str | None,
    skipped: tuple[Skipped, ...],
    n_skipped: int,
    notes: list[str],
) -> Interactions:
    columns = events.columns
    user_ids, user_N, user_frame = _number_users(events, users, notes)
    if items is None:
        present = np.flatnonzero(occurring(columns["item"], len(events.item_ids)))
        item_ids = [events.item_ids[code] for code in present]
        item_N = np.searchsorted(present, columns["item"]).astype(np.int32)
        item_frame = bare_items(item_ids)
    else:
        item_ids, item_N, item_frame = events.item_ids, columns["item"], items.frame
        unused = len(item_ids) - int(occurring(item_N, len(item_ids)).sum())
        if unused:
            notes.append(f"{unused:,} of {len(item_ids):,} items have no event.")
    event_N = columns.get("event")
    if event_N is not None:
        used, event_N = np.unique(event_N, return_inverse=True)
        events.event_names = [events.event_names[code] for code in used]
        event_N = event_N.astype(np.int16)
    notes += about_kinds(positive, event_N, events.event_names)
    rating_N, weight_N = columns.get("rating"), columns.get("weight")
    missing = 0 if rating_N is None else int(np.isnan(rating_N).sum())
    if missing:
        notes.append(f"{missing:,} events have no rating.")
    return Interactions(
        user_N=user_N,
        item_N=item_N,
        time_N=columns["time"],
        positive_N=positives(
            positive,
            len(events),
            event_N=event_N,
            event_names=events.event_names,
            numbers={"rating": rating_N, "weight": weight_N},
            file=str(layout.events.path),
        ),
        user_ids=tuple(user_ids),
        item_ids=tuple(item_ids),
        items=item_frame,
        weight_N=weight_N,
        rating_N=rating_N,
        event_N=event_N,
        event_names=tuple(events.event_names),
        users=user_frame,
        source=source,
        folder=layout.folder,
        skipped=skipped,
        n_skipped=n_skipped,
        notes=tuple(notes),
    )


def _number_users(
    events: Events, users: IdTable | None, notes: list[str]
) -> tuple[list[str], npt.NDArray[np.int32], pl.DataFrame | None]:
    """Users of the table first, in its order; then others in the order of their first event."""
    present = _users_present(events)
    ids: list[str] = [] if users is None else users.frame["user_id"].to_list()
    place = {text: i for i, text in enumerate(ids)}
    known = len(ids)
    code_R = np.full(len(events.user_ids), -1, dtype=np.int32)
    for code in present:
        text = events.user_ids[code]
        code_R[code] = place.setdefault(text, len(place))
    ids = list(place)
    frame = None
    if users is not None:
        strangers = pl.DataFrame({"user_id": ids[known:]}, schema={"user_id": pl.String})
        frame = pl.concat([users.frame, strangers], how="diagonal")
        if strangers.height:
            notes.append(f"{strangers.height:,} users of events are not in the users table.")
        silent = known - (len(present) - strangers.height)
        if silent:
            notes.append(f"{silent:,} of {known:,} users of the users table have no event.")
    return ids, code_R[events.columns["user"]], frame

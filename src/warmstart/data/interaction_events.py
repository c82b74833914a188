"""From blocks of cells to arrays of events: every cell checked, ids numbered, order by time.

Events are held as arrays from the first block on, some forty bytes each, so that 25 million of
them take about a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from warmstart.core.errors import DataError
from warmstart.core.progress import task
from warmstart.data.interaction_blocks import Block, EventFile, blocks
from warmstart.data.interaction_columns import EventColumns
from warmstart.data.interaction_ids import Canonical, Codebook, canonical, id_texts
from warmstart.data.interaction_rejects import RowFaults
from warmstart.data.interaction_times import LAST_SECOND, Ticks, TimeReader
from warmstart.data.labels import MISSING

__all__ = ["Events", "in_time_order", "read_events", "without_repeats"]

MAX_KINDS = 1000
"""More different events than this, and the column says something else than what happened."""

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]


@dataclass
class Events:
    """Checked events; each array has one entry an event.

    Attributes:
        columns: user, item (codes), time (seconds), tick (the file's own unit), at (place in the
            file) and, where the file has them, part (of a tick), event, rating, weight.
        user_ids: By code, in order of first sight; some may have lost their events.
        item_ids: By code; the catalogue where one was given.
        event_names: By code.
        notes: Sentences for the user.
    """

    columns: dict[str, Array]
    user_ids: list[str]
    item_ids: list[str]
    event_names: list[str]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns["at"])

    def keep(self, where_N: Array) -> None:
        """Keep these events (a mask, or positions in their new order), one array at a time."""
        if where_N.dtype == bool and where_N.all():
            return
        for name, values_N in self.columns.items():
            self.columns[name] = values_N[where_N]


def read_events(
    file: EventFile, columns: EventColumns, catalogue: list[str] | None, faults: RowFaults
) -> Events:
    """All events in the file's order, with every cell checked.

    Args:
        file: Where they lie.
        columns: What its columns mean.
        catalogue: Ids of the items table; an event of another item is bad. None without a table.
        faults: Takes bad rows.
    """
    reader = _Reader(file, columns, faults)
    with task("reading interactions", unit="events") as bar:
        for block in blocks(file, columns.used, faults):
            bar.advance(reader.read(block))
    return reader.finish(catalogue)


# --- block by block ------------------------------------------------------------------------------


class _Reader:
    def __init__(self, file: EventFile, columns: EventColumns, faults: RowFaults) -> None:
        self._file = str(file.path)
        self._columns = columns
        self._faults = faults
        self._ids = {"user": Codebook(), "item": Codebook(), "event": Codebook()}
        self._times = TimeReader(columns.time, self._file)
        self._chunks: dict[str, list[Array]] = {}
        self._parts: dict[int, Array] = {}
        self._rows = 0

    def read(self, block: Block) -> int:
        """Check one block and keep its good rows; returns the number of rows it had."""
        n = len(block.at_N)
        self._rows += n
        keep_N = np.ones(n, dtype=bool)
        cells: dict[str, Array] = {"at": block.at_N}
        for meaning, book in self._ids.items():
            name = getattr(self._columns, meaning)
            if name is not None:
                texts, broken = id_texts(block.frame[name], name, self._file)
                if broken is not None:
                    self._reject(block, name, broken.to_numpy(), keep_N, _NO_WHOLE)
                cells[meaning] = book.encode(texts)
        ticks = self._ticks(block, keep_N)
        cells["tick"] = ticks.whole_N
        for meaning, fault in (("rating", _NO_RATING), ("weight", _NO_WEIGHT)):
            name = getattr(self._columns, meaning)
            if name is not None:
                values_N, bad_N = _numbers(block.frame[name], needed=meaning == "weight")
                self._reject(block, name, bad_N, keep_N, fault)
                cells[meaning] = values_N
        for meaning, values_N in cells.items():
            chunk = values_N if keep_N.all() else values_N[keep_N]
            self._chunks.setdefault(meaning, []).append(chunk)
        if ticks.part_N is not None:
            self._parts[len(self._chunks["at"]) - 1] = ticks.part_N[keep_N]
        return n

    def _ticks(self, block: Block, keep_N: BoolArray) -> Ticks:
        name = self._columns.time
        ticks = self._times.read(block.frame[name])
        self._reject(block, name, ticks.missing_N, keep_N, _NO_TIME)
        self._reject(block, name, ticks.foreign_N, keep_N, _BAD_TIME)
        return ticks

    def _reject(
        self, block: Block, column: str, bad_N: BoolArray, keep_N: BoolArray, fault: tuple[str, str]
    ) -> None:
        where = np.flatnonzero(bad_N & keep_N)
        if len(where):
            cells = block.frame[column]
            kind, sentence = fault
            self._faults.take(
                block.at_N[where],
                kind,
                lambda i: sentence.format(value=_shown(cells[int(where[i])]), column=column),
            )
            keep_N &= ~bad_N

    def finish(self, catalogue: list[str] | None) -> Events:
        """Give ids and times their final form, which only the whole column tells."""
        if not self._rows and not self._faults.counts.total():
            raise DataError(f"{self._file} has no rows.")
        columns = self._joined()
        events = Events(columns, [], [], [])
        bad_N = np.zeros(len(columns.get("at", ())), dtype=bool)
        if not len(bad_N):
            return events
        events.user_ids = self._number(events, "user", bad_N)
        item_ids = self._number(events, "item", bad_N)
        if self._columns.event is not None:
            events.event_names = self._number(events, "event", bad_N)
            self._check_kinds(events.event_names)
        if catalogue is None:
            events.item_ids = item_ids
        else:
            self._look_up(events, item_ids, catalogue, bad_N)
            events.item_ids = catalogue
        self._seconds(events, bad_N)
        events.keep(~bad_N)
        return events

    def _joined(self) -> dict[str, Array]:
        """One array a column; the chunks are let go as they are joined."""
        lengths = [len(chunk) for chunk in self._chunks.get("at", ())]
        columns = {}
        if self._parts:
            parts = [self._parts.get(i, np.zeros(n)) for i, n in enumerate(lengths)]
            columns["part"] = np.concatenate(parts)
        for meaning in list(self._chunks):
            columns[meaning] = np.concatenate(self._chunks.pop(meaning))
        return columns

    def _number(self, events: Events, meaning: str, bad_N: BoolArray) -> list[str]:
        """Raw codes to codes of ids without spaces; texts that name nothing are bad rows."""
        name = getattr(self._columns, meaning)
        raw_N = events.columns[meaning]
        found: Canonical = canonical(self._ids[meaning].texts)
        code_R = np.append(found.code_R, np.int32(-1))  # the last for cells without a text
        code_N = code_R[raw_N]
        events.columns[meaning] = code_N
        what = "event" if meaning == "event" else f"{meaning} id"
        texts = self._ids[meaning].texts

        def reason(code: int) -> str:
            fault = found.faults.get(code)
            if fault:
                return f"the {what} {_shown(texts[code])} (column {name!r}) {fault}."
            return f"the {what} (column {name!r}) is empty."

        where = np.flatnonzero((code_N < 0) & ~bad_N)
        self._take(events, where, f"{what}s that are empty or unusable", lambda i: reason(raw_N[i]))
        bad_N |= code_N < 0
        if found.note:
            events.notes.append(f"{self._file}: values of the column {name!r} {found.note}.")
        return found.ids

    def _look_up(
        self, events: Events, ids: list[str], catalogue: list[str], bad_N: BoolArray
    ) -> None:
        """Codes of the file's own numbering to rows of the items table."""
        place = {text: i for i, text in enumerate(catalogue)}
        row_I = np.asarray([*(place.get(text, -1) for text in ids), -1], dtype=np.int32)
        own_N = events.columns["item"]
        events.columns["item"] = row_I[own_N]
        where = np.flatnonzero((events.columns["item"] < 0) & ~bad_N)
        if len(where):
            n = len(np.unique(own_N[where]))
            more = "" if len(where) == 1 else f" ({n:,} such ids in {len(where):,} events)"
            self._take(
                events,
                where,
                "items that the items table lacks",
                lambda i: (
                    f"the item id {ids[own_N[i]]!r} is not in the items table{more}."
                    + _zeros(ids[own_N[i]], place)
                ),
            )
            bad_N[where] = True

    def _seconds(self, events: Events, bad_N: BoolArray) -> None:
        tick_N = events.columns["tick"]
        found = self._times.seconds(tick_N)
        events.columns["time"] = found.time_N
        events.notes.append(found.note)
        name = self._columns.time
        for kind, wrong_N, sentence in (
            ("times in another unit", found.stray_N, "is not in {unit} as most others are"),
            ("times before 1970", found.time_N < 0, "lies before 1970 (read as {unit})"),
            ("times after 2100", found.time_N > LAST_SECOND, "lies after 2100 (read as {unit})"),
        ):
            where = np.flatnonzero(wrong_N & ~bad_N)
            text = sentence.format(unit=found.unit)

            def reason(i: int, text: str = text) -> str:
                return f"the time {tick_N[i]} (column {name!r}) {text}."

            self._take(events, where, kind, reason)
            bad_N |= wrong_N

    def _check_kinds(self, names: list[str]) -> None:
        if len(names) > MAX_KINDS:
            raise DataError(
                f"{self._file}: the column {self._columns.event!r} holds {len(names):,} different "
                f"events; at most {MAX_KINDS:,} are allowed. Name the column that says what "
                "happened with event=NAME (--event NAME)."
            )

    def _take(self, events: Events, where: Array, kind: str, reason: Callable[[int], str]) -> None:
        if len(where):
            at_N = events.columns["at"][where]
            self._faults.take(at_N, kind, lambda i: reason(int(where[i])))


_NO_WHOLE = (
    "ids that are no whole numbers",
    "the id {value} (column {column!r}) is no whole number.",
)
_NO_TIME = ("times that are missing", "the time (column {column!r}) is missing.")
_BAD_TIME = (
    "times that cannot be read",
    "the time {value} (column {column!r}) cannot be read. Write seconds since 1970 or an ISO date "
    "such as 2024-03-01 12:00:00.",
)
_NO_RATING = ("ratings that are no numbers", "the rating {value} (column {column!r}) is no number.")
_NO_WEIGHT = (
    "weights that are negative or missing",
    "the weight {value} (column {column!r}) must be a number of 0 or more.",
)


def _shown(value: object) -> str:
    text = "" if value is None else str(value)
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _zeros(text: str, place: Mapping[str, int]) -> str:
    """A hint where the two tables differ in leading zeros alone."""
    bare = text.lstrip("0")
    if bare != text and bare in place:
        return f" It has {bare!r}: leading zeros differ."
    same = next((f"{'0' * n}{text}" for n in range(1, 12) if f"{'0' * n}{text}" in place), None)
    return f" It has {same!r}: leading zeros differ." if same else ""


def _numbers(cells: pl.Series, *, needed: bool) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """A column as float32, and the bad cells; a cell without a number is NaN.

    With `needed` a cell must hold a number of 0 or more; else it may be empty.
    """
    if cells.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        cells = cells.cast(pl.String).str.strip_chars()
        empty = cells.is_null() | cells.str.to_lowercase().is_in(sorted(MISSING)).fill_null(False)
        empty_N = empty.to_numpy().astype(bool)
        numbers = cells.cast(pl.Float64, strict=False)
    else:
        numbers = cells.cast(pl.Float64, strict=False)
        empty_N = (cells.is_null() | numbers.is_nan().fill_null(False)).to_numpy().astype(bool)
    with np.errstate(over="ignore"):
        values_N = numbers.fill_null(np.nan).to_numpy().astype(np.float32)
    finite_N = np.isfinite(values_N)
    if needed:
        return values_N, ~finite_N | (values_N < 0)
    values_N[empty_N] = np.nan
    return values_N, ~finite_N & ~empty_N


# --- order and repeats ---------------------------------------------------------------------------


def in_time_order(events: Events) -> None:
    """Sort by time as the file gives it, then by place in the file."""
    tick_N, part_N = events.columns["tick"], events.columns.get("part")
    if part_N is not None:
        events.keep(np.lexsort((part_N, tick_N)))
    elif len(tick_N) > 1 and (tick_N[1:] < tick_N[:-1]).any():
        events.keep(np.argsort(tick_N, kind="stable"))


def without_repeats(events: Events, faults: RowFaults) -> None:
    """Reject events that repeat an earlier one in every column. They must be in time order."""
    tick_N = events.columns["tick"]
    if len(tick_N) < 2:
        return
    tied_N = np.zeros(len(tick_N), dtype=bool)  # only events of equal time can be repeats
    tied_N[1:] = tick_N[1:] == tick_N[:-1]
    tied_N[:-1] |= tied_N[1:]
    tied = np.flatnonzero(tied_N)
    keys = [_sortable(values_N[tied]) for name, values_N in events.columns.items()
            if name not in ("at", "time")]  # fmt: skip
    order = np.lexsort(keys)
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for key in keys:
        same &= key[order[1:]] == key[order[:-1]]
    again = np.flatnonzero(same) + 1
    if not len(again):
        return
    new_group = np.concatenate(([True], ~same))
    leader = np.flatnonzero(new_group)[np.cumsum(new_group) - 1]
    at_N = events.columns["at"]
    repeats, firsts = tied[order[again]], tied[order[leader[again]]]
    by_place = np.argsort(at_N[repeats], kind="stable")
    repeats, firsts = repeats[by_place], firsts[by_place]
    faults.take(
        at_N[repeats],
        "events that repeat an earlier one",
        lambda i: (
            f"the event stands at {faults.unit} {at_N[firsts[i]]} already: the same user, "
            "item and time, and all else equal."
        ),
    )
    keep_N = np.ones(len(tick_N), dtype=bool)
    keep_N[repeats] = False
    events.keep(keep_N)


def _sortable(values_N: Array) -> Array:
    """Floats by their bits, so that NaN equals NaN."""
    if values_N.dtype == np.float32:
        return values_N.view(np.int32)
    return values_N.view(np.int64) if values_N.dtype == np.float64 else values_N

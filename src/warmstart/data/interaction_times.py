"""When events happened: whatever a column of times holds, as whole seconds since 1970 in UTC.

The unit of numbers is told by the magnitude of the column's median, for all rows alike: seconds
below 1e11, milliseconds below 1e14, microseconds below 1e17, else nanoseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from warmstart.core.errors import DataError, UsageError

__all__ = ["LAST_SECOND", "Seconds", "Ticks", "TimeReader", "moment", "say_time"]

LAST_SECOND = 4_133_980_799
"""The end of the year 2100; a later time is an error."""

_UNITS: dict[str, int] = {
    "seconds": 1,
    "milliseconds": 1_000,
    "microseconds": 1_000_000,
    "nanoseconds": 1_000_000_000,
}
_BOUNDS = ((1e11, "seconds"), (1e14, "milliseconds"), (1e17, "microseconds"))
_PLAUSIBLE = 100_000_000
"""In seconds, March 1973: a time that is later than this when read in a coarser unit is of that."""

_MISSING = ["", "nan", "nat", "<na>", "#n/a", "n/a", "null", "none", "\\n"]
_CLOCK = r"(:\d{2}(?:[.,]\d+)?)\s*"
_ZONE = r"([+-]\d{2}(?::?\d{2})?)$"
_SHAPE = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}( \d{1,2}:\d{2}(:[0-5]\d(\.\d+)?)?)?$"
_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M",
)
_SAMPLE = 1000

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ticks:
    """Times in the column's own unit.

    Attributes:
        whole_N: The whole number of ticks, 0 where there is none.
        part_N: The fraction of a tick in [0, 1), or None where all are whole.
        missing_N: Where the cell is empty.
        foreign_N: Where the cell holds something else than a time.
    """

    whole_N: IntArray
    part_N: FloatArray | None
    missing_N: BoolArray
    foreign_N: BoolArray


@dataclass(frozen=True)
class Seconds:
    """Times in seconds since 1970, with what was found out about the column.

    Attributes:
        time_N: Whole seconds, rounded down.
        unit: Of the numbers in the file.
        stray_N: Rows whose number is of a coarser unit than the others.
        note: A sentence for the user.
    """

    time_N: IntArray
    unit: str
    stray_N: BoolArray
    note: str


class TimeReader:
    """Reads the blocks of one column; the first times decide of what kind all others must be."""

    def __init__(self, column: str, file: str) -> None:
        self._column = column
        self._file = file
        self._kind: Literal["number", "text"] | None = None
        self._unit: str | None = None
        self._zoneless = False

    def read(self, cells: pl.Series) -> Ticks:
        """One block as ticks.

        Raises:
            DataError: For a column whose type is no time.
        """
        kind = cells.dtype
        if kind == pl.Date:
            self._unit, self._kind = "seconds", "text"
            return _ticks(cells.cast(pl.Int32).cast(pl.Int64) * 86_400, cells.is_null())
        if isinstance(kind, pl.Datetime):
            self._unit, self._kind = "microseconds", "text"
            self._zoneless |= kind.time_zone is None
            return _ticks(cells.dt.timestamp("us"), cells.is_null())
        if kind.is_integer():
            self._kind = self._kind or "number"
            return _ticks(cells.cast(pl.Int64, strict=False), cells.is_null())
        if kind.is_float():
            self._kind = self._kind or "number"
            missing = cells.is_null() | cells.is_nan().fill_null(False)
            return _fractions(cells.cast(pl.Float64), missing)
        if kind in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            return self._read_text(cells.cast(pl.String).str.strip_chars())
        raise DataError(
            f"{self._file}: the column {self._column!r} of times is of the type {kind}. Write "
            "times as seconds since 1970 or as ISO dates."
        )

    def _read_text(self, cells: pl.Series) -> Ticks:
        missing = cells.is_null() | cells.str.to_lowercase().is_in(_MISSING).fill_null(False)
        if self._kind is None:
            some = cells.filter(~missing).head(_SAMPLE)
            numbers = int(some.cast(pl.Float64, strict=False).is_not_null().sum())
            dates = int(_dates(some)[0].is_not_null().sum())
            if numbers or dates:
                self._kind = "number" if numbers >= dates else "text"
        if self._kind is None:
            return _ticks(cells.cast(pl.Int64, strict=False), missing)
        if self._kind == "number":
            whole = cells.cast(pl.Int64, strict=False)
            if (whole.is_null() & ~missing).any():
                return _numbers(cells, whole, missing)
            return _ticks(whole, missing)
        self._unit = "microseconds"
        found, zoneless = _dates(cells)
        self._zoneless |= zoneless
        return _ticks(found, missing)

    def seconds(self, whole_N: IntArray) -> Seconds:
        """All of the column's ticks as seconds; call it after the last block."""
        if self._unit is None and _all_days(whole_N):
            time_N = _days(whole_N)
            note = f"The column {self._column!r} holds days written as YYYYMMDD, taken as UTC."
            return Seconds(time_N, "days", np.zeros(len(time_N), dtype=bool), note)
        unit = self._unit or _unit_of(whole_N)
        per_second = _UNITS[unit]
        time_N = whole_N if per_second == 1 else whole_N // per_second
        stray_N = np.zeros(len(time_N), dtype=bool)
        if self._kind == "number":
            for other in (n for n in _UNITS.values() if n < per_second):
                coarser_N = whole_N // other
                stray_N |= (coarser_N >= _PLAUSIBLE) & (coarser_N <= LAST_SECOND)
        return Seconds(time_N, unit, stray_N, self._note(unit))

    def _note(self, unit: str) -> str:
        if self._kind == "number":
            return f"The column {self._column!r} holds {unit} since 1970, by their magnitude."
        zone = " Times without a zone are taken as UTC." if self._zoneless else ""
        return f"The column {self._column!r} holds dates.{zone}"


def moment(value: str | int, who: str) -> int:
    """A user's date or number of seconds as seconds since 1970; without a zone it is UTC.

    Raises:
        UsageError: When it is neither, or lies outside 1970 to 2100.
    """
    seconds: int | None = None
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        seconds = int(value)
    elif isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"-?\d{1,12}", text) and len(text) != 8:
            seconds = int(text)
        else:
            try:
                when = datetime.fromisoformat(text)
            except ValueError:
                when = None
            if when is not None:
                when = when if when.tzinfo else when.replace(tzinfo=UTC)
                seconds = int(when.timestamp() // 1)
    if seconds is None:
        raise UsageError(
            f"{who} must be a date such as 2024-03-01, a time such as 2024-03-01T12:00, or seconds "
            f"since 1970; got {value!r}."
        )
    if not 0 <= seconds <= LAST_SECOND:
        raise UsageError(f"{who} must lie between 1970 and 2100, got {value!r}.")
    return seconds


def say_time(seconds: int) -> str:
    """A moment as text, in UTC; the number itself where the calendar has no such day."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"


# --- kinds of cells ------------------------------------------------------------------------------


def _ticks(whole: pl.Series, missing: pl.Series) -> Ticks:
    missing_N = missing.to_numpy().astype(bool)
    foreign_N = whole.is_null().to_numpy().astype(bool) & ~missing_N
    whole_N = whole.fill_null(0).cast(pl.Int64).to_numpy().astype(np.int64)
    return Ticks(whole_N, None, missing_N, foreign_N)


def _fractions(numbers: pl.Series, missing: pl.Series) -> Ticks:
    """Ticks of a column of floats."""
    value_N = numbers.fill_null(0.0).to_numpy().astype(np.float64)
    usable_N = np.isfinite(value_N) & (np.abs(value_N) < 2.0**62)
    missing_N = missing.to_numpy().astype(bool)
    safe_N = np.where(usable_N, value_N, 0.0)
    floor_N = np.floor(safe_N)
    part_N = safe_N - floor_N
    foreign_N = ~usable_N & ~missing_N
    return Ticks(floor_N.astype(np.int64), part_N if part_N.any() else None, missing_N, foreign_N)


def _numbers(cells: pl.Series, whole: pl.Series, missing: pl.Series) -> Ticks:
    """Whole numbers where they are, exactly; fractions and exponents elsewhere."""
    rough = _fractions(cells.cast(pl.Float64, strict=False).fill_nan(None), missing)
    exact_N = whole.is_not_null().to_numpy().astype(bool)
    read_N = cells.cast(pl.Float64, strict=False).is_not_null().to_numpy().astype(bool)
    whole_N = np.where(exact_N, whole.fill_null(0).to_numpy(), rough.whole_N)
    part_N = None if rough.part_N is None else np.where(exact_N, 0.0, rough.part_N)
    foreign_N = (rough.foreign_N | ~read_N) & ~rough.missing_N & ~exact_N
    return Ticks(whole_N, part_N, rough.missing_N, foreign_N)


def _dates(cells: pl.Series) -> tuple[pl.Series, bool]:
    """Microseconds since 1970 of ISO dates and times, null elsewhere; whether some lack a zone."""
    text, zone = pl.col("text"), pl.col("zone")
    frame = (
        pl.DataFrame({"text": cells})
        .select(
            text.str.replace(r"^(\S+)T(\d)", "${1} ${2}").str.replace(
                r"(?i)(\d)\s*(z|utc|gmt)$", "${1}+00"
            )
        )
        .with_columns(zone=text.str.extract(_CLOCK + _ZONE, 2))
        .with_columns(text.str.replace(_CLOCK + _ZONE, "${1}").str.replace(",", ".", literal=True))
        .with_columns(pl.when(text.str.contains(_SHAPE)).then(text))
        .with_columns(
            time=pl.coalesce(
                text.str.to_datetime(form, strict=False, time_unit="us") for form in _FORMATS
            ).dt.timestamp("us"),
            minutes=zone.str.slice(1, 2).cast(pl.Int64) * 60
            + zone.str.slice(3).str.strip_prefix(":").cast(pl.Int64, strict=False).fill_null(0),
        )
        .with_columns(
            minutes=pl.when(zone.str.starts_with("-")).then(-pl.col("minutes"))
            .otherwise(pl.col("minutes")).fill_null(0)
        )
    )  # fmt: skip
    zoneless = bool(frame.select((zone.is_null() & pl.col("time").is_not_null()).any()).item())
    return frame.select(pl.col("time") - pl.col("minutes") * 60_000_000).to_series(), zoneless


# --- units ---------------------------------------------------------------------------------------


def _unit_of(whole_N: IntArray) -> str:
    middle = float(np.median(np.abs(whole_N))) if len(whole_N) else 0.0
    return next((unit for bound, unit in _BOUNDS if middle < bound), "nanoseconds")


def _all_days(whole_N: IntArray) -> bool:
    """Whether every number is a day such as 20240229."""
    if not len(whole_N) or whole_N.min() < 19_000_101 or whole_N.max() > 21_001_231:
        return False
    return all(_day(int(day)) is not None for day in np.unique(whole_N))


def _day(number: int) -> date | None:
    try:
        return date(number // 10_000, number // 100 % 100, number % 100)
    except ValueError:
        return None


def _days(whole_N: IntArray) -> IntArray:
    days, place_N = np.unique(whole_N, return_inverse=True)
    first = date(1970, 1, 1)
    seconds = [86_400 * ((_day(int(day)) or first) - first).days for day in days]
    return np.asarray(seconds, dtype=np.int64)[place_N]

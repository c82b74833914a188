"""Times: every way of writing one gives the same second, and what is no time is told."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.errors import DataError, UsageError
from warmstart.data import read_interactions
from warmstart.data.interaction_times import LAST_SECOND, TimeReader, moment, say_time

from .helpers import write

NOON = int(datetime(2024, 2, 29, 12, 0, tzinfo=UTC).timestamp())


def read(values: Any, dtype: Any = None) -> tuple[list[int], str]:
    reader = TimeReader("when", "a.csv")
    ticks = reader.read(pl.Series(values, dtype=dtype))
    assert not ticks.missing_N.any()
    assert not ticks.foreign_N.any()
    found = reader.seconds(ticks.whole_N)
    assert not found.stray_N.any()
    return found.time_N.tolist(), found.note


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([NOON, NOON + 1], "seconds"),
        ([str(NOON), f" {NOON + 1} "], "seconds"),
        ([f"{NOON}.0", f"{NOON + 1}.5"], "seconds"),
        ([float(NOON), NOON + 1.25], "seconds"),
        ([f"{NOON / 1e9:.9f}e9", str(NOON + 1)], "seconds"),
        ([NOON * 1000, NOON * 1000 + 1999], "milliseconds"),
        ([str(NOON * 1000), str(NOON * 1000 + 1000)], "milliseconds"),
        ([NOON * 10**6, NOON * 10**6 + 1_000_001], "microseconds"),
        ([NOON * 10**9, NOON * 10**9 + 10**9], "nanoseconds"),
    ],
)
def test_numbers_tell_their_unit_by_magnitude(values: list[Any], unit: str) -> None:
    assert read(values) == (
        [NOON, NOON + 1],
        f"The column 'when' holds {unit} since 1970, by their magnitude.",
    )


def test_nanoseconds_are_exact() -> None:
    reader = TimeReader("when", "a.csv")
    ticks = reader.read(pl.Series([str(NOON * 10**9 + 1), str(NOON * 10**9 + 2)]))
    assert np.diff(ticks.whole_N).tolist() == [1]  # a float would lose it


@pytest.mark.parametrize(
    "text",
    ["2024-02-29T12:00:00", "2024-02-29 12:00:00", "2024-02-29 12:00", "2024-02-29T12:00:00Z",
     "2024-02-29T12:00Z", "2024-02-29 12:00:00 UTC", "2024-02-29T12:00:00.000", "2024/02/29 12:00",
     "2024-02-29T12:00:00,999", "2024-02-29T17:30:00+05:30", "2024-02-29 07:00:00-0500",
     "2024-02-29 13:00:00.123456+01", "2024-02-29T12:00:00.5+00:00", "2024-2-29 12:00:00"],
)  # fmt: skip
def test_dates(text: str) -> None:
    found, note = read([text, "1970-01-01"])
    assert found == [NOON, 0]
    assert note == "The column 'when' holds dates. Times without a zone are taken as UTC."


@pytest.mark.parametrize(
    "text",
    ["2024-02-30", "2023-02-29 12:00", "2024-13-01", "29/02/2024", "02/29/2024 12:00", "24-02-29",
     "2024-02-29 24:00:00", "2024-02-29 12:60", "2024-02-29 12:00:60", "2024-02-29x", "yesterday",
     "2024", "2024-02", "2024-02-29 noon"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    ticks = TimeReader("when", "a.csv").read(pl.Series(["2020-01-01", "2020-01-02", text]))
    assert ticks.foreign_N.tolist() == [False, False, True]


def test_days_as_numbers() -> None:
    expected = [int(datetime(2024, 2, d, tzinfo=UTC).timestamp()) for d in (28, 29)]
    for values in ([20240228, 20240229], ["20240228", "20240229"]):
        found, note = read(values)
        assert found == expected
        assert "YYYYMMDD" in note
    assert read([20240230, 20240228])[0] == [20240230, 20240228]  # no such day: seconds


def test_types_of_parquet() -> None:
    aware = datetime(2024, 2, 29, 13, 0, 0, 7, tzinfo=timezone(timedelta(hours=1)))
    naive = datetime(2024, 2, 29, 12, 0, 0, 999_999)
    for unit in ("ms", "us", "ns"):
        assert read([naive], pl.Datetime(unit))[0] == [NOON]
        assert read([aware], pl.Datetime(unit, "Europe/Paris"))[0] == [NOON]
    assert "zone" not in read([aware], pl.Datetime("us", "UTC"))[1]
    assert read([date(2024, 2, 29), date(1970, 1, 2)])[0] == [NOON - 43_200, 86_400]
    assert read([7, 8], pl.UInt8)[0] == [7, 8]
    assert read(["2024-02-29 12:00"], pl.Categorical)[0] == [NOON]
    with pytest.raises(DataError, match=r"a\.csv: the column 'when' of times is of the type"):
        read([timedelta(1)])


def test_the_first_block_decides() -> None:
    reader = TimeReader("when", "a.csv")
    assert not reader.read(pl.Series(["", None], dtype=pl.String)).foreign_N.any()
    reader.read(pl.Series(["2024-01-01", "2024-01-02"]))
    assert reader.read(pl.Series(["2024-01-03", "17"])).foreign_N.tolist() == [False, True]


@pytest.mark.parametrize("per_second", [10**3, 10**6, 10**9])
def test_numbers_in_a_coarser_unit_are_strays(per_second: int) -> None:
    values = np.full(9, NOON * per_second, dtype=np.int64)
    values[4] = NOON
    reader = TimeReader("when", "a.csv")
    found = reader.seconds(reader.read(pl.Series(values)).whole_N)
    assert np.flatnonzero(found.stray_N).tolist() == [4]


def test_mixed_units_name_the_row(tmp_path: Path) -> None:
    rows = [f"u{i},x{i},{NOON * 1000 + i}" for i in range(5)]
    rows[2] = f"u,x,{NOON}"
    path = write(tmp_path / "a.csv", "user_id,item_id,timestamp\n" + "\n".join(rows))
    with pytest.raises(DataError, match=r"line 4: .* is not in milliseconds as most others are"):
        read_interactions(path)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 12, 31)), st.integers(-14 * 60, 14 * 60))
def test_agrees_with_python(when: datetime, minutes: int) -> None:
    moved = when.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    seconds = int((when - datetime(1970, 1, 1)) // timedelta(seconds=1))
    assert read([when.isoformat(), when.isoformat(sep=" ")])[0] == [seconds] * 2
    there = int((moved - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1))
    assert read([moved.isoformat(), moved.isoformat(sep=" ")])[0] == [there] * 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [(NOON, NOON), (np.int64(NOON), NOON), (str(NOON), NOON), ("2024-02-29T12:00", NOON),
     ("2024-02-29 13:00+01:00", NOON), ("2024-02-29", NOON - 43_200), ("20240229", NOON - 43_200),
     (0, 0), (LAST_SECOND, LAST_SECOND), ("2100-12-31T23:59:59", LAST_SECOND)],
)  # fmt: skip
def test_moments(value: Any, expected: int) -> None:
    assert moment(value, "test_from") == expected


@pytest.mark.parametrize(
    "value", ["", "tomorrow", "2024-02-30", 1.5, None, False, -1, "2101-01-01"]
)
def test_what_is_no_moment(value: Any) -> None:
    with pytest.raises(UsageError, match="test_from must"):
        moment(value, "test_from")


def test_times_are_shown_in_utc() -> None:
    assert say_time(NOON) == "2024-02-29 12:00:00"
    assert say_time(10**18) == f"second {10**18}"

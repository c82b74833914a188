"""The cut in time: nothing of the future before it, equal times on one side, shares kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.core.errors import DataError, UsageError
from warmstart.data import Interactions, TimeSplit, time_split
from warmstart.data import held_out_events as held_out  # under its own name pytest would run it
from warmstart.data.interaction_tables import bare_items

from .helpers import notes


def events(rows: list[tuple[int, int, int]], **further: Any) -> Interactions:
    """Events of (user, item, second), in memory."""
    rows = sorted(rows, key=lambda row: row[2])
    users, items, times = (np.array([row[i] for row in rows]) for i in range(3))
    user_ids = tuple(f"u{u}" for u in range(users.max() + 1))
    item_ids = tuple(f"i{i}" for i in range(items.max() + 1))
    return Interactions(
        user_N=users.astype(np.int32),
        item_N=items.astype(np.int32),
        time_N=times.astype(np.int64),
        positive_N=np.ones(len(rows), dtype=bool),
        user_ids=user_ids,
        item_ids=item_ids,
        items=bare_items(item_ids),
        **further,
    )


def triples(data: Interactions) -> list[tuple[int, int, int]]:
    return list(zip(data.user_N.tolist(), data.item_N.tolist(), data.time_N.tolist(), strict=True))


TEN = [(t % 2, t % 3, 100 + t) for t in range(10)]


def test_known_answer() -> None:
    data = events(TEN)
    made = time_split(data)
    assert (made.validation_cut, made.test_cut) == (108, 109)
    assert (len(made.train), len(made.validation)) == (8, 1)
    assert triples(held_out(data, made)) == [(1, 0, 109)]
    assert triples(made.fitted) == TEN[:9]
    assert made.fitted.items is data.items
    assert not made.random


def test_equal_times_stay_on_one_side() -> None:
    data = events([(u, 0, t) for u, t in enumerate([1, 1, 1, 2, 2, 2, 2, 3, 3, 3])])
    made = time_split(data, fractions=(0.5, 0.25, 0.25))
    assert (made.validation_cut, made.test_cut) == (2, 3)
    assert [len(made.train), len(made.validation), len(held_out(data, made))] == [3, 4, 3]


def slow_cut(times: list[int], share: float, least: int) -> int:
    """Try every event time as the cut; the nearest share wins, of equals the later one."""
    different = sorted(set(times))
    best, nearest = different[-1], float("inf")
    for cut in different[least:]:
        off = abs(sum(t >= cut for t in times) - share * len(times))
        if off <= nearest:
            best, nearest = cut, off
    return best


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 25)), min_size=6, max_size=80
)
SHARES = st.tuples(*[st.integers(1, 20)] * 3).map(
    lambda parts: (parts[0] / sum(parts), parts[1] / sum(parts), parts[2] / sum(parts))
)


@settings(max_examples=200, deadline=None)
@given(ROWS, SHARES)
def test_properties(
    rows: list[tuple[int, int, int]], fractions: tuple[float, float, float]
) -> None:
    data = events(rows)
    times = data.time_N.tolist()
    if len(set(times)) < 3:
        told = "of one time" if len(set(times)) == 1 else "part is empty"
        with pytest.raises(DataError, match=told):
            time_split(data, fractions=fractions)
        return
    made = time_split(data, fractions=fractions)
    test = held_out(data, made)
    # nothing is lost, doubled or changed
    assert triples(made.train) + triples(made.validation) + triples(test) == triples(data)
    assert triples(made.fitted) == triples(made.train) + triples(made.validation)
    # time runs forwards, strictly
    assert made.train.time_N.max() < made.validation_cut <= made.validation.time_N.min()
    assert made.validation.time_N.max() < made.test_cut <= test.time_N.min()
    assert made.audit["leaks"] == {"validation": 0, "test": 0}
    # the shares are as near as equal times allow
    assert made.test_cut == slow_cut(times, fractions[2], 2)
    past = [t for t in times if t < made.test_cut]
    share = fractions[1] / (fractions[0] + fractions[1])
    assert made.validation_cut == slow_cut(past, share, 1)
    # the same by the moments themselves
    again = time_split(data, validation_from=made.validation_cut, test_from=made.test_cut)
    assert triples(again.train) == triples(made.train)
    assert triples(again.validation) == triples(made.validation)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_audit_agrees_with_plain_loops(rows: list[tuple[int, int, int]]) -> None:
    data = events(rows)
    if len(set(data.time_N.tolist())) < 3:
        return
    made = time_split(data, fractions=(0.4, 0.3, 0.3))
    parts = {
        "train": triples(made.train),
        "validation": triples(made.validation),
        "test": triples(held_out(data, made)),
    }
    past: list[tuple[int, int, int]] = []
    for name, part in parts.items():
        found = made.audit[name]
        assert found["events"] == len(part)
        assert found["users"] == len({u for u, _, _ in part})
        assert found["items"] == len({i for _, i, _ in part})
        assert (found["first"], found["last"]) == (part[0][2], part[-1][2])
        if name != "train":
            users, items = {u for u, _, _ in past}, {i for _, i, _ in past}
            assert found["cold_users"] == len({u for u, _, _ in part} - users)
            assert found["cold_items"] == len({i for _, i, _ in part} - items)
            assert found["cold_user_events"] == sum(u not in users for u, _, _ in part)
            assert found["cold_item_events"] == sum(i not in items for _, i, _ in part)
            had = {(u, i) for u, i, _ in past}
            seen = 0
            for u, i, _ in part:
                seen += (u, i) in had
                had.add((u, i))
            assert found["seen_share"] == pytest.approx(seen / len(part))
        past += part


def test_notes_say_what_the_audit_counted() -> None:
    rows = [(0, 0, 1), (1, 1, 2), (0, 0, 3), (2, 2, 4)]
    made = time_split(events(rows), fractions=(0.5, 0.25, 0.25))
    assert made.notes[0] == (
        "train: 2 events of 2 users with 2 items, 1970-01-01 00:00:01 to 1970-01-01 00:00:02."
    )
    assert made.notes[1].endswith(
        "0 items (0 events); 100.0% of events repeat an item of the user's."
    )
    assert "cold: 1 users (1 events), 1 items (1 events); 0.0%" in made.notes[2]
    assert made.notes[3:] == (
        "Leak audit: every event of a later part comes after all earlier parts.",
    )


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize("test_from", ["2020-01-08", "2020-01-08T00:00:00Z", at("2020-01-08")])
def test_dates_move_the_cuts(test_from: str | int) -> None:
    data = events([(d % 2, d % 3, at(f"2020-01-{d:02d}")) for d in range(1, 11)])
    made = time_split(data, test_from=test_from)
    assert made.test_cut == at("2020-01-08")
    assert len(held_out(data, made)) == 3
    assert made.validation_cut == at("2020-01-07")  # a ninth of the seven days before
    both = time_split(data, validation_from="2020-01-03 12:00", test_from=test_from)
    assert [len(both.train), len(both.validation)] == [3, 4]
    assert both.validation_cut == at("2020-01-03T12:00")
    only = time_split(data, validation_from="2020-01-05")
    assert (only.validation_cut, only.test_cut) == (at("2020-01-05"), at("2020-01-08"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.8, 0.2, 0.1)}, "sum of 1"),
        ({"fractions": (0.9, 0.1, 0.0)}, "above 0"),
        ({"fractions": (0.9, 0.1)}, r"three numbers.*got \(0\.9, 0\.1\)"),
        ({"fractions": 0.8}, r"three numbers.*got 0\.8\."),
        ({"fractions": "0.8,0.1,0.1"}, r"three numbers.*got '0\.8,0\.1,0\.1'"),
        ({"fractions": (float("nan"), 0.5, 0.5)}, "three numbers"),
        ({"test_from": "soon"}, "test_from must be a date.*got 'soon'"),
        ({"test_from": True}, "test_from must be a date"),
        ({"test_from": -5}, "between 1970 and 2100"),
        ({"validation_from": 9_999_999_999}, "validation_from must lie between"),
        ({"validation_from": 108, "test_from": 105}, "must lie before test_from"),
        ({"random": True, "test_from": 105}, "divides without dates"),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        time_split(events(TEN), **options)


@pytest.mark.parametrize(
    ("rows", "options", "part"),
    [
        ([(0, 0, 5), (1, 1, 6), (2, 0, 6)], {}, "train"),
        (TEN, {"test_from": 200}, "test"),
        (TEN, {"test_from": 100}, "train"),
        (TEN, {"validation_from": 50, "test_from": 105}, "train"),
        (TEN, {"validation_from": 200}, "validation"),
    ],
)
def test_an_empty_part_is_an_error(
    rows: list[tuple[int, int, int]], options: dict[str, Any], part: str
) -> None:
    with pytest.raises(DataError, match=f"the {part} part is empty"):
        time_split(events(rows), **options)


def test_one_time_alone_has_no_before() -> None:
    with pytest.raises(DataError, match="all 3 events are of one time"):
        time_split(events([(0, 0, 5), (1, 1, 5), (2, 0, 5)]))


def test_random_is_warned_and_reproducible() -> None:
    data = events([(t % 5, t % 7, t) for t in range(100)])
    with notes() as shown:
        made = time_split(data, random=True, seed=1)
    assert made.random
    assert "random" in shown[0]
    assert "after those it is judged by" in made.notes[0]
    test = held_out(data, made)
    assert [len(made.train), len(made.validation), len(test)] == [80, 10, 10]
    every = triples(made.train) + triples(made.validation) + triples(test)
    assert sorted(every) == sorted(triples(data))
    assert sorted(triples(made.fitted)) == sorted(triples(made.train) + triples(made.validation))
    leaks = made.audit["leaks"]
    assert leaks["test"] > 0
    assert made.notes[-1] == (
        f"Leak audit: {leaks['validation']} of 10 validation events and {leaks['test']} of 10 test "
        "events do not come after all earlier parts."
    )
    assert triples(held_out(data, time_split(data, random=True, seed=1))) == triples(test)
    assert triples(held_out(data, time_split(data, random=True, seed=2))) != triples(test)
    with pytest.raises(DataError, match="too few"):
        time_split(events(TEN[:2]), random=True)


def test_other_data_are_refused() -> None:
    data = events(TEN)
    made = time_split(data)
    with pytest.raises(DataError, match="is not what this split was made of"):
        held_out(data.select(np.arange(9)), made)


def test_an_audit_that_finds_a_leak_stops_the_split() -> None:
    data = events(TEN)
    made = time_split(data, validation_from=104, test_from=107)
    time_N = np.array(data.time_N)
    moved = replace(data, time_N=time_N)
    time_N[0] = 109  # whoever made the array may still write to it: order is not checked again
    assert np.searchsorted(time_N, [104, 107]).tolist() == [4, 7], "the cuts stay where they were"
    with pytest.raises(DataError, match="memory: a test event precedes a training event; nothing"):
        time_split(moved, validation_from=104, test_from=107)
    assert made.audit["leaks"] == {"validation": 0, "test": 0}


def test_a_split_that_leaks_cannot_be_made() -> None:
    data = events(TEN)
    made = time_split(data, fractions=(0.4, 0.3, 0.3))
    parts = {"test_cut": made.test_cut, "validation_cut": made.validation_cut}
    with pytest.raises(DataError, match="outside its time"):
        TimeSplit(train=data, validation=made.validation, **parts)
    with pytest.raises(DataError, match="outside its time"):
        TimeSplit(train=made.train, validation=data, **parts)
    with pytest.raises(DataError, match="must begin before the test"):
        replace(made, validation_cut=made.test_cut)


def test_further_arrays_follow() -> None:
    rating_N = np.arange(10, dtype=np.float32)
    data = events(TEN, rating_N=rating_N)
    made = time_split(data, fractions=(0.4, 0.3, 0.3))
    assert made.fitted.rating_N is not None
    assert made.fitted.rating_N.tolist() == list(range(7))
    assert made.fitted.weight_N is None

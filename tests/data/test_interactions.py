"""Interactions: what is read comes out as arrays in time order, the same from every form."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.core.errors import DataError, UsageError
from warmstart.core.rng import Streams
from warmstart.data import Interactions, is_interactions, read_interactions
from warmstart.data import interaction_blocks as blocks

from .helpers import notes, write

EVENTS = """user_id,item_id,timestamp,event,rating,weight
ann,x,1000000300,view,3,1
bob,y,1000000100,complete,5,0.5
ann,y,1000000200,view,,2
bob,x,1000000100,view,4,0
"""
ITEMS = "item_id,title,genres\nx,Alpha,Drama|War\ny,Beta,War\nz,Gamma,\n"
USERS = "user_id,age,zip\nbob,31,02134\ncid,40,90210\n"


def folder(tmp_path: Path, events: str = EVENTS, items: str | None = ITEMS) -> Path:
    write(tmp_path / "interactions.csv", events)
    if items is not None:
        write(tmp_path / "items.csv", items)
    return tmp_path


def as_rows(data: Interactions) -> list[tuple[Any, ...]]:
    """Events by id, in their order."""
    kinds = [None] * len(data) if data.event_N is None else data.event_N.tolist()
    return [
        (data.user_ids[u], data.item_ids[i], t, None if k is None else data.event_names[k])
        for u, i, t, k in zip(
            data.user_N.tolist(), data.item_N.tolist(), data.time_N.tolist(), kinds, strict=True
        )
    ]


def test_known_answer(tmp_path: Path) -> None:
    write(tmp_path / "users.csv", USERS)
    data = read_interactions(folder(tmp_path))
    assert as_rows(data) == [
        ("bob", "y", 1000000100, "complete"),  # equal times keep the order of the file
        ("bob", "x", 1000000100, "view"),
        ("ann", "y", 1000000200, "view"),
        ("ann", "x", 1000000300, "view"),
    ]
    assert data.user_ids == ("bob", "cid", "ann")  # the table's users first
    assert data.item_ids == ("x", "y", "z")
    assert data.user_N.dtype == data.item_N.dtype == np.int32
    assert data.time_N.dtype == np.int64
    assert data.event_N is not None
    assert data.event_N.dtype == np.int16
    assert data.weight_N is not None
    assert data.rating_N is not None
    assert data.weight_N.tolist() == [0.5, 0.0, 2.0, 1.0]
    np.testing.assert_array_equal(data.rating_N, np.float32([5, 4, np.nan, 3]))
    assert data.positive_N.all()
    assert data.items.rows() == [
        ("x", "Alpha", None, ["Drama", "War"], None, "Alpha. Drama, War"),
        ("y", "Beta", None, ["War"], None, "Beta. War"),
        ("z", "Gamma", None, [], None, "Gamma"),
    ]
    assert data.users is not None
    assert data.users.rows() == [("bob", 31, "02134"), ("cid", 40, "90210"), ("ann", None, None)]
    assert (data.n_users, data.n_items, len(data)) == (3, 3, 4)
    assert data.skipped == ()
    told = " ".join(data.notes)
    assert "1 of 3 items have no event" in told
    assert "1 of 2 users of the users table have no event" in told
    assert "1 users of events are not in the users table" in told
    assert "1 events have no rating" in told


def forms(tmp_path: Path) -> dict[str, Path]:
    rows = list(csv.reader(io.StringIO(EVENTS)))
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}
    typed = {
        **columns,
        "timestamp": [int(t) for t in columns["timestamp"]],
        "rating": [float(r) if r else None for r in columns["rating"]],
        "weight": [float(w) for w in columns["weight"]],
    }
    pq.write_table(pa.table(typed), tmp_path / "typed.parquet")
    pq.write_table(pa.table(columns), tmp_path / "texts.parquet")
    pl.DataFrame(columns).with_columns(pl.col("user_id").cast(pl.Categorical)).write_parquet(
        tmp_path / "categories.pq"
    )
    header, body = EVENTS.split("\n", 1)
    named = header.replace("item_id", '"item_id"')
    quoted = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    atomic = EVENTS.replace(",", "\t").replace("user_id", "user_id:token", 1)
    return {
        "plain": write(tmp_path / "a.csv", EVENTS),
        "mark": write(tmp_path / "b.csv", "\ufeff" + EVENTS),
        "windows": write(tmp_path / "c.csv", EVENTS.replace("\n", "\r\n")),
        "blank lines": write(tmp_path / "d.csv", EVENTS.replace("\n", "\n\n")),
        "no last line feed": write(tmp_path / "e.csv", EVENTS.rstrip("\n")),
        "semicolons": write(tmp_path / "f.csv", EVENTS.replace(",", ";")),
        "bars": write(tmp_path / "g.csv", EVENTS.replace(",", "|")),
        "tabs": write(tmp_path / "h.tsv", EVENTS.replace(",", "\t")),
        "quoted": write(tmp_path / "i.csv", quoted),
        "quoted header": write(tmp_path / "j.csv", named + "\n" + body),
        "quoted late": write(tmp_path / "k.csv", EVENTS.replace("bob,x", '"bob",x')),
        "spaces": write(tmp_path / "l.csv", EVENTS.replace(",", " , ")),
        "atomic": write(tmp_path / "m.inter", atomic),
        "typed": tmp_path / "typed.parquet",
        "texts": tmp_path / "texts.parquet",
        "categories": tmp_path / "categories.pq",
    }  # fmt: skip


@pytest.mark.parametrize("size", [16, 40, 2**20])
def test_every_form_and_block_size_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", max(1, size // 16))
    made = forms(tmp_path)
    expected = read_interactions(made["plain"])
    assert [row[0] for row in as_rows(expected)] == ["bob", "bob", "ann", "ann"]
    for name, path in made.items():
        data = read_interactions(path)
        assert data.fingerprint == expected.fingerprint, name
        assert is_interactions(path), name


def slow_read(text: str) -> list[tuple[str, str, int]]:
    """Events in order, by a plain loop over csv rows and Python's own sort."""
    rows = list(csv.DictReader(io.StringIO(text)))
    return sorted(
        ((r["user_id"], r["item_id"], int(r["timestamp"])) for r in rows), key=lambda r: r[2]
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 6)),
        min_size=4, max_size=60, unique=True,
    ),
    st.integers(20, 200),
)  # fmt: skip
def test_agrees_with_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], size: int
) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in rows)
    path = write(tmp_path_factory.mktemp("loop") / "interactions.csv", text)
    expected = slow_read(text)
    users = list(dict.fromkeys(f"u{u}" for u, _, _ in rows))
    if len(users) < 2 or len({i for _, i, _ in rows}) < 2:
        with pytest.raises(DataError, match=r"every event is of the (user|item)"):
            read_interactions(path)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", size)
        data = read_interactions(path)
    assert [row[:3] for row in as_rows(data)] == expected
    assert list(data.user_ids) == users
    histories = data.histories()
    for code, user in enumerate(users):
        mine = [item for u, item, _ in expected if u == user]
        assert [data.item_ids[i] for i in histories.of(code)] == mine


def test_fractions_of_a_second_order_events_and_are_dropped(tmp_path: Path) -> None:
    rows = ["a,x,1700000000.7", "b,y,1700000000.2", "a,y,1700000000", "b,x,1699999999.9"]
    data = read_interactions(write(tmp_path / "a.csv", "user,item,time\n" + "\n".join(rows) + "\n"))
    assert [row[:3] for row in as_rows(data)] == [
        ("b", "x", 1699999999), ("a", "y", 1700000000), ("b", "y", 1700000000),
        ("a", "x", 1700000000),
    ]  # fmt: skip


# --- the noun ------------------------------------------------------------------------------------


def test_histories_hold_every_user(tmp_path: Path) -> None:
    write(tmp_path / "users.csv", USERS)
    data = read_interactions(folder(tmp_path), positive="view")
    histories = data.histories()
    assert len(histories) == 3
    assert [histories.of(u).tolist() for u in range(3)] == [[1, 0], [], [1, 0]]
    assert histories.times_N.tolist() == [1000000100, 1000000100, 1000000200, 1000000300]
    np.testing.assert_array_equal(data.item_N[histories.events_N], histories.items_N)
    liked = data.histories(positive_only=True)
    assert [liked.of(u).tolist() for u in range(3)] == [[0], [], [1, 0]]
    with pytest.raises(IndexError):
        histories.of(3)


def test_select_keeps_tables_and_order(tmp_path: Path) -> None:
    data = read_interactions(folder(tmp_path))
    part = data.select([3, 0, 3])
    assert as_rows(part) == [as_rows(data)[0], as_rows(data)[3]]
    assert part.items is data.items
    assert part.user_ids == data.user_ids
    assert as_rows(data.select(data.time_N > 1000000100)) == as_rows(data)[2:]
    assert len(data.select([])) == 0
    for wrong in ([4], [-1], np.ones(3, dtype=bool)):
        with pytest.raises(IndexError):
            data.select(wrong)
    with pytest.raises(ValueError, match="read-only"):
        data.user_N[0] = 1


def test_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    seen = set()
    for i, (events, items) in enumerate(
        [
            (EVENTS, ITEMS),
            (EVENTS.replace("0300", "0301"), ITEMS),
            (EVENTS.replace("view,3", "view,2"), ITEMS),
            (EVENTS.replace("complete", "finish"), ITEMS),
            (EVENTS, ITEMS.replace("Gamma", "Delta")),
            (EVENTS, ITEMS.replace("y,Beta,War", "y,Beta,Drama")),
        ]
    ):
        seen.add(read_interactions(folder(tmp_path / str(i), events, items)).fingerprint)
    assert len(seen) == 6
    again = read_interactions(folder(tmp_path / "again"))
    assert again.fingerprint == read_interactions(tmp_path / "0").fingerprint
    assert again.select([0, 1]).fingerprint != again.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_N": np.zeros(3, dtype=np.int32)}, "user_N must have shape"),
        ({"item_N": np.array([0, 1, 2, 3], dtype=np.int32)}, "item_N lies outside 0 to 2"),
        ({"user_N": np.array([0, -1, 0, 0], dtype=np.int32)}, "user_N lies outside"),
        ({"time_N": np.array([1, 2, 3, 2])}, "order of their times"),
        ({"item_ids": ("x",)}, "items has 3 rows for 1 ids"),
        ({"users": pl.DataFrame({"user_id": ["bob"]})}, "users has 1 rows for 2 ids"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=message):
        replace(read_interactions(folder(tmp_path)), **change)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positive", "expected"),
    [
        (None, [True, True, True, True]),
        ("complete", [True, False, False, False]),
        (["view", "complete"], [True, True, True, True]),
        ("rating>=4", [True, True, False, False]),
        ("rating > 4, weight=2", [True, False, True, False]),
        ("weight<1", [True, True, False, False]),
        (["rating==3"], [False, False, False, True]),
        ("rating<=3", [False, False, False, True]),
    ],
)
def test_positives(tmp_path: Path, positive: Any, expected: list[bool]) -> None:
    data = read_interactions(folder(tmp_path), positive=positive)
    assert data.positive_N.tolist() == expected


@pytest.mark.parametrize(
    ("positive", "error", "message"),
    [
        ("complet", UsageError, 'no such event. Did you mean "complete"'),
        ("", UsageError, "must name events or compare"),
        ([], UsageError, "must name events or compare"),
        ("rating>=9", DataError, "no event is a positive"),
    ],
)
def test_positives_that_fit_nothing(
    tmp_path: Path, positive: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_interactions(folder(tmp_path), positive=positive)


def test_kinds_that_nobody_chose_from_are_told(tmp_path: Path) -> None:
    source = folder(tmp_path)
    told = (
        "Events are of 2 kinds (view 3, complete 1), and every one counts as a positive. Say which "
        "do with positive= (--positive complete)."
    )
    assert told in read_interactions(source).notes
    for chosen in ("view", "rating>=4"):
        assert "kinds" not in " ".join(read_interactions(source, positive=chosen).notes)
    one_kind = folder(tmp_path / "one", EVENTS.replace("complete", "view"))
    assert "kinds" not in " ".join(read_interactions(one_kind).notes)
    rows = [f"u{n % 3},i{n % 2},{n},kind {min(n // 2, 6)}" for n in range(20)]
    many = write(tmp_path / "many.csv", "\n".join(["user,item,time,event", *rows]) + "\n")
    told = " ".join(read_interactions(many).notes)
    assert "7 kinds (kind 6 8, kind 0 2, kind 1 2, kind 2 2, kind 3 2, ...)" in told
    assert "(--positive 'kind 3')" in told


def test_positives_need_their_column(tmp_path: Path) -> None:
    bare = "user_id,item_id,timestamp\na,x,1\nb,y,2\n"
    path = write(tmp_path / "bare.csv", bare)
    with pytest.raises(UsageError, match="has no column of ratings"):
        read_interactions(path, positive="rating>=4")
    with pytest.raises(UsageError, match="has no column of events"):
        read_interactions(path, positive="complete")


def test_columns_by_argument(tmp_path: Path) -> None:
    text = EVENTS.replace("user_id,item_id,timestamp,event", "viewer,film,moment,did")
    path = write(tmp_path / "a.csv", text)
    data = read_interactions(path, user="viewer", item="film", time="moment", event="did")
    assert as_rows(data)[0] == ("bob", "y", 1000000100, "complete")
    assert not is_interactions(path)
    assert is_interactions(path, user="viewer", item="film", time="moment")
    assert is_interactions(path, user="vewer", item="film", time="moment"), "the reader tells"
    assert not is_interactions(path, user="viewer", item="film"), "no time"
    with pytest.raises(DataError, match=r"no column of the item .* item=NAME"):
        read_interactions(path, user="viewer", time="moment")
    with pytest.raises(DataError, match=r"has no column 'vewer' \(user='vewer'\)\. Did you mean"):
        read_interactions(path, user="vewer")
    with pytest.raises(DataError, match="cannot be two things at once"):
        read_interactions(path, user="viewer", item="viewer", time="moment")


def test_ratings_and_weights_by_argument(tmp_path: Path) -> None:
    text = EVENTS.replace("rating,weight", "liked,share")
    path = write(tmp_path / "a.csv", text)
    data = read_interactions(path, rating="liked", weight="share", positive="rating>=4,weight>1")
    assert data.rating_N is not None
    assert data.weight_N is not None
    assert data.weight_N.tolist() == [0.5, 0.0, 2.0, 1.0]
    assert data.positive_N.tolist() == [True, True, True, False]
    assert not any("not read" in line for line in data.notes)
    with pytest.raises(UsageError, match=r"no column of ratings .* rating=NAME \(--rating NAME\)"):
        read_interactions(path, positive="rating>=4")
    with pytest.raises(DataError, match=r"has no column 'shar' \(weight='shar'\)\. Did you mean"):
        read_interactions(path, weight="shar")


@pytest.mark.parametrize(
    "header",
    ["userId,movieId,timestamp", "User ID,Product-ID,event_time", "customer,track_id,ts",
     "uid,iid,date", "visitorid,itemid,timestamp", "reviewerID,asin,unixReviewTime"],
)  # fmt: skip
def test_columns_by_name(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "a.csv", f"{header}\na,x,5\nb,y,6\n")
    assert [row[:3] for row in as_rows(read_interactions(path))] == [("a", "x", 5), ("b", "y", 6)]
    assert is_interactions(path)


def test_limit_users(tmp_path: Path) -> None:
    rows = [f"u{u},i{i},{10 * u + i}" for u in range(40) for i in range(3)]
    text = "user_id,item_id,timestamp\n" + "\n".join(rows) + "\n"
    write(tmp_path / "users.csv", "user_id,age\n" + "".join(f"u{u},{u}\n" for u in range(45)))
    source = folder(tmp_path, text, "item_id\ni0\ni1\ni2\ni3\n")
    few = read_interactions(source, limit_users=7, seed=3)
    assert (few.n_users, len(few), few.n_items) == (7, 21, 4)
    assert few.users is not None
    assert few.users["age"].to_list() == [int(user[1:]) for user in few.user_ids]
    assert "7 of 40 users are used" in " ".join(few.notes)
    assert read_interactions(source, limit_users=7, seed=3).user_ids == few.user_ids
    assert read_interactions(source, limit_users=7, seed=4).user_ids != few.user_ids
    more = read_interactions(source, limit_users=20, seed=3)
    assert set(few.user_ids) < set(more.user_ids)
    every = read_interactions(source, limit_users=40)
    assert (every.n_users, len(every)) == (40, 120)  # no draw, and still none without events
    assert read_interactions(source).n_users == 45
    lowest = sorted(range(40), key=lambda u: _slow_rank(3, f"u{u}"))[:7]
    assert set(few.user_ids) == {f"u{u}" for u in lowest}
    with pytest.raises(UsageError, match="limit_users must be at least 2, got 1"):
        read_interactions(source, limit_users=1)


def _slow_rank(seed: int, user: str) -> bytes:
    from hashlib import blake2b

    key = Streams(seed).seed("limit-users").to_bytes(8, "big")
    return blake2b(user.encode(), key=key, digest_size=16).digest()


def test_notes_are_shown_where_rows_were_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", EVENTS + "ann,x\n")
    with notes() as shown:
        data = read_interactions(path, skip_bad=True)
    assert data.n_skipped == 1
    assert shown == [f"{path}: 1 bad row was left out (rows with too many or too few fields: 1)."]
    assert shown[0] in data.notes


@pytest.mark.parametrize("source", ["", "a\0b", 3])
def test_sources_that_are_none(source: Any) -> None:
    with pytest.raises(UsageError, match="must be the path"):
        read_interactions(source)
    assert not is_interactions(source)


def test_missing_source_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", EVENTS)
    with pytest.raises(DataError, match=r"does not exist\. Did you mean \"interactions\.csv\""):
        read_interactions(tmp_path / "interaction.csv")
    assert not is_interactions(tmp_path / "interaction.csv")

"""Bad interactions: each fault names its file and row, or is left out, counted and listed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.core.errors import DataError, WarmstartError
from warmstart.data import interaction_blocks as blocks
from warmstart.data import interaction_rejects, is_interactions, read_interactions

from .helpers import write

HEADER = "user_id,item_id,timestamp,weight\n"
ROWS = ["ann,x,1000000100,1", "bob,y,1000000200,1", "ann,y,1000000300,1", "bob,x,1000000400,1"]


def good(*bad: str) -> str:
    """Four good rows with bad ones between the second and the third, from line 4 on."""
    return HEADER + "\n".join([*ROWS[:2], *bad, *ROWS[2:]]) + "\n"


BAD: list[tuple[str, str]] = [
    ("ann,x,1000000500", "the row has 3 fields, not 4"),
    ("ann,x,1000000500,1,", "the row has 5 fields, not 4"),
    (" ,x,1000000500,1", "the user id (column 'user_id') is empty"),
    (",x,1000000500,1", "the user id (column 'user_id') is empty"),
    ("NaN,x,1000000500,1", "the user id (column 'user_id') is empty"),
    ("ann,,1000000500,1", "the item id (column 'item_id') is empty"),
    ("ann,null,1000000500,1", "the item id (column 'item_id') is empty"),
    ("a\0n,x,1000000500,1", "holds a control character"),
    (f"{'a' * 1001},x,1000000500,1", "is longer than 1,000 characters"),
    ("ann,q,1000000500,1", "the item id 'q' is not in the items table"),
    ("ann,X,1000000500,1", "the item id 'X' is not in the items table"),
    ("ann,x,,1", "the time (column 'timestamp') is missing"),
    ("ann,x,NULL,1", "the time (column 'timestamp') is missing"),
    ("ann,x,soon,1", "the time 'soon' (column 'timestamp') cannot be read"),
    ("ann,x,2020-01-01,1", "the time '2020-01-01' (column 'timestamp') cannot be read"),
    ("ann,x,inf,1", "the time 'inf' (column 'timestamp') cannot be read"),
    ("ann,x,99999999999999999999999,1", "cannot be read"),
    ("ann,x,-1,1", "the time -1 (column 'timestamp') lies before 1970"),
    ("ann,x,4133980800,1", "the time 4133980800 (column 'timestamp') lies after 2100"),
    ("ann,x,1000000500000,1", "lies after 2100 (read as seconds)"),
    ("ann,x,1000000500,-0.5", "the weight '-0.5' (column 'weight') must be a number of 0 or more"),
    ("ann,x,1000000500,", "the weight '' (column 'weight') must be a number of 0 or more"),
    ("ann,x,1000000500,nan", "the weight 'nan' (column 'weight') must be"),
    ("ann,x,1000000500,inf", "the weight 'inf' (column 'weight') must be"),
    ("ann,x,1000000500,much", "the weight 'much' (column 'weight') must be"),
    ("ann,x,1000000100,1", "the event stands at line 2 already"),
    ("bob , y,1000000200,1.0", "the event stands at line 3 already"),
]


@pytest.mark.parametrize("quoted", [False, True], ids=["plain", "quoted"])
@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason[:40] for _, reason in BAD])
def test_bad_row_is_an_error_or_a_counted_skip(
    tmp_path: Path, row: str, reason: str, quoted: bool
) -> None:
    text = good(row).replace("bob,x", '"bob",x') if quoted else good(row)
    path = write(tmp_path / "interactions.csv", text)
    write(tmp_path / "items.csv", "item_id\nx\ny\n")
    with pytest.raises(DataError) as caught:
        read_interactions(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 4: ")
    assert reason in message
    assert "skip_bad=True (--skip-bad)" in message
    data = read_interactions(tmp_path, skip_bad=True)
    assert data.time_N.tolist() == [1000000100, 1000000200, 1000000300, 1000000400]
    assert set(data.user_ids) == {"ann", "bob"}
    assert data.n_skipped == 1
    [skipped] = data.skipped
    assert (skipped.file, skipped.row) == (str(path), 4)
    assert reason in skipped.reason


def test_bad_rows_of_parquet_name_the_row(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "user_id": [1.0, 2.0, 1.5, None, 1.0, 2.0**60],
        "item_id": ["a", "b", "a", "a", "b", "a"],
        "timestamp": [1, 2, 3, 4, None, 6],
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 3: the id '1\.5' .* no whole number"):
        read_interactions(path)
    data = read_interactions(path, skip_bad=True)
    assert [skipped.row for skipped in data.skipped] == [3, 4, 5, 6]
    assert data.user_ids == ("1", "2")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    raw = good("ann\xe9,x,1000000500,1").encode("latin-1")
    for text in (raw, raw.replace(b"bob,x", b'"bob",x')):
        path = write(tmp_path / "a.csv", text)
        with pytest.raises(
            DataError, match=r"a\.csv, line 4: the row holds bytes that are not UTF-8"
        ):
            read_interactions(path)
        data = read_interactions(path, skip_bad=True)
        assert [s.row for s in data.skipped] == [4]
        assert len(data) == 4


def test_many_foreign_lines_are_each_found(tmp_path: Path) -> None:
    rows = [f"u{i}\xe9,x{i % 2},{i},1" if i % 3 else f"u{i},x{i % 2},{i},1" for i in range(60)]
    path = write(tmp_path / "a.csv", (HEADER + "\n".join(rows)).encode("latin-1"))
    data = read_interactions(path, skip_bad=True)
    assert [s.row for s in data.skipped] == [i + 2 for i in range(60) if i % 3]
    assert data.time_N.tolist() == list(range(0, 60, 3))


def test_other_letters_are_welcome(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp\nZoë,éclair,5\n王,шницель,6\n"
    data = read_interactions(write(tmp_path / "a.csv", text))
    assert data.user_ids == ("Zoë", "王")
    assert data.item_ids == ("éclair", "шницель")


@pytest.mark.parametrize("size", [20, 64, 2**20])
def test_lines_are_counted_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    rows = [f"u{i % 3},x{i % 4},{i},1" for i in range(200)]
    rows[50] = "short,row"
    rows[120] = ""
    rows[121] = "u1,x1,never,1"
    rows[150] = "\xa0,\xa0,,"
    path = write(tmp_path / "a.csv", HEADER + "\n".join(rows))
    data = read_interactions(path, skip_bad=True)
    assert [s.row for s in data.skipped] == [52, 123, 152]
    assert len(data) == 196


def test_quotes_hold_lines_and_separators(tmp_path: Path) -> None:
    text = 'user_id,item_id,timestamp,remark\na,x,1,"one\ntwo, ""three"""\nb,y,2,\nb,y,zwei,\n'
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=r"a\.csv, line 5: the time 'zwei'"):
        read_interactions(path)
    data = read_interactions(path, skip_bad=True)
    assert (len(data), data.user_ids) == (2, ("a", "b"))
    assert "columns that are not read: remark" in data.notes[-1]
    broken = write(tmp_path / "b.csv", 'user_id,item_id,timestamp\na,"x,1\nb,y,2\n')
    with pytest.raises(DataError, match=r"b\.csv, line 2: a quotation mark is opened"):
        read_interactions(broken, skip_bad=True)


def test_repeats_are_found_among_events_of_equal_time(tmp_path: Path) -> None:
    head = "user_id,item_id,timestamp,event,rating\n"
    rows = ["a,x,5,view,", "b,x,5,view,", "a,x,5,like,", "a,y,5,view,", "a,x,5,view,3",
            "a,x,6,view,", "a,x,5,view,", "b,x,5,view,", "a,x,5,view,"]  # fmt: skip
    path = write(tmp_path / "a.csv", head + "\n".join(rows))
    with pytest.raises(DataError, match=r"line 8: the event stands at line 2 already"):
        read_interactions(path)
    data = read_interactions(path, skip_bad=True)
    assert [(s.row, s.reason.split(" already")[0]) for s in data.skipped] == [
        (8, "the event stands at line 2"),
        (9, "the event stands at line 3"),
        (10, "the event stands at line 2"),
    ]
    assert len(data) == 6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=3, max_size=40))
def test_repeats_agree_with_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, int]]
) -> None:
    rows = [*rows, (8, 8, 8, 0), (9, 9, 9, 0)]
    text = "user_id,item_id,timestamp,weight\n" + "".join(
        f"{u},{i},{t},{w}\n" for u, i, t, w in rows
    )
    path = write(tmp_path_factory.mktemp("twin") / "a.csv", text)
    seen: set[tuple[int, int, int, int]] = set()
    again = []
    for line, row in enumerate(rows, start=2):
        if row in seen:
            again.append(line)
        seen.add(row)
    data = read_interactions(path, skip_bad=True)
    assert [s.row for s in data.skipped] == again
    assert len(data) == len(seen)


def test_millions_of_bad_rows_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interaction_rejects, "LISTED", 3)
    rows = [f"u{i},x,{i},1" for i in range(5)] + [f"u,y,{9}" for _ in range(20)] + ["a,y,b,1"] * 7
    path = write(tmp_path / "a.csv", HEADER + "\n".join([*rows, "u,z,50,1"]))
    data = read_interactions(path, skip_bad=True)
    assert (len(data), data.n_skipped, len(data.skipped)) == (6, 27, 6)
    assert (
        f"{path}: 27 bad rows were left out (rows with too many or too few fields: 20; times that "
        "cannot be read: 7). The first 3 of a kind are listed." in data.notes
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "user_id,item_id,timestamp\n", "has no rows"),
        ("a.csv", "user_id,item_id,timestamp", "has no rows"),
        ("a.csv", "user_id,item_id,timestamp,user_id\na,b,1,c\n", "'user_id' twice"),
        ("a.csv", b"us\xff,item_id,timestamp\na,b,1\n", "header holds bytes that are not UTF-8"),
        ("a.csv", "user_id,item_id,timestamp\n".encode("utf-16"), "UTF-16"),
        ("a.csv", "user_id,item_id,timestamp\ra,x,1\rb,y,2\r", "carriage returns"),
        ("a.csv", "user_id,item,rating\na,b,1\n", "no column of the time .* time=NAME"),
        ("a.csv", "who,item_id,timestamp\na,b,1\n", "no column of the user .* user=NAME"),
        ("a.csv", "user_id,item_id,timestamp\na,x,1\na,y,2\n", "every event is of the user 'a'"),
        ("a.csv", "user_id,item_id,timestamp\na,x,1\nb,x,2\n", "every event is of the item 'x'"),
        ("a.txt", "user_id,item_id,timestamp\na,x,1\n", "is no file of interactions"),
        ("a.jsonl", '{"user_id": 1}', "is no file of interactions"),
        ("a.parquet", "", "is empty"),
        ("a.parquet", "no parquet at all", "cannot be read as Parquet"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=message) as caught:
            read_interactions(path, skip_bad=skip_bad)
        assert str(path) in str(caught.value)


def test_nothing_left_says_how_much_was_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + "a,x\nb,y,when,1\n")
    with pytest.raises(DataError, match=r"no usable rows \(2 bad rows were left out\)"):
        read_interactions(path, skip_bad=True)


def test_types_that_are_no_ids_or_times(tmp_path: Path) -> None:
    def parquet(**columns: Any) -> Path:
        base: dict[str, Any] = {"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [1, 2]}
        pq.write_table(pa.table({**base, **columns}), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    with pytest.raises(DataError, match=r"'user_id' is of the type .*ids must be text"):
        read_interactions(parquet(user_id=[[1], [2]]))
    with pytest.raises(DataError, match="'timestamp' of times is of the type Boolean"):
        read_interactions(parquet(timestamp=[True, False]))
    kinds = [f"kind {i}" for i in range(1001)]
    many = {"user_id": ["a", "b"] * 500 + ["a"], "item_id": kinds, "timestamp": range(1001)}
    with pytest.raises(DataError, match="1,001 different events"):
        read_interactions(parquet(**many, event=kinds))


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "interactions.csv"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="no ordinary file"):
        read_interactions(pipe)
    with pytest.raises(DataError, match="no ordinary file"):
        read_interactions(tmp_path)
    assert not is_interactions(pipe)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)), st.booleans())
def test_no_bytes_give_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, skip_bad: bool
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for name, head in (
        ("a.csv", good().encode()), ("b.tsv", b"user\titem\ttime\na\tb\t1\n"),
        ("c.csv", b""), ("d.parquet", b"PAR1"), ("e.inter", b"user_id:token\titem_id:token\tt\n"),
    ):  # fmt: skip
        path = write(folder / name, head + tail)
        is_interactions(path)
        with suppress(WarmstartError):  # any other error fails the test
            read_interactions(path, skip_bad=skip_bad)

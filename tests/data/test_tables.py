"""Tables: what is accepted, and that each fault names its file and place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmstart.core.errors import DataError, UsageError, WarmstartError
from warmstart.data import Skipped, read

from .helpers import notes, write

GOOD = "text,label\ngood film,pos\nbad film,neg\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", GOOD),
        ("a.csv", "\ufeff" + GOOD),
        ("a.csv", GOOD.replace("\n", "\r\n")),
        ("a.csv", GOOD.replace(",", ";")),
        ("a.csv", GOOD.replace("\n", "\n\n")),
        ("a.csv", 'label,text\npos,"good film"\nneg,"bad film"\n'),
        ("a.tsv", GOOD.replace(",", "\t")),
        ("a.jsonl", '{"text":"good film","label":"pos"}\n\n{"text":"bad film","label":"neg"}'),
        ("a.json", '[{"text":"good film","label":"pos"},{"text":"bad film","label":"neg"}]'),
    ],
)
def test_formats_give_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    data = read(write(tmp_path / name, content))
    assert data.inputs() == ["good film", "bad film"]
    assert data.label_names == ("neg", "pos")
    assert data.labels_N.tolist() == [1, 0]
    assert data.modality == "text"
    assert len(set(data.ids)) == 2


def test_parquet_with_integer_labels(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": ["x", "y", "z"], "label": [10, 2, 10]}), tmp_path / "a.parquet"
    )
    data = read(tmp_path / "a.parquet")
    assert data.label_names == ("2", "10")  # natural order
    assert data.labels_N.tolist() == [1, 0, 1]


def test_quoted_cells_may_hold_lines_quotes_and_delimiters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"one\ntwo, ""three""",a\nplain,b\nshort\n')
    with pytest.raises(DataError, match=r"a\.csv, line 5: the row has 1 field, the header has 2"):
        read(path)
    data = read(path, skip_bad=True)
    assert data.inputs() == ['one\ntwo, "three"', "plain"]
    assert data.skipped[0].row == 5


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ("text,label\na,x\nb,y,z\nc,y\nd,x\n", 3, "3 fields"),
        (b"text,label\na,x\nb\xff,y\nc,y\nd,x\n", 3, "UTF-8"),
        ("text,label\na,x\nb,\nc,y\nd,x\n", 3, "label.*empty"),
        ("text,label\na,x\nb,NaN\nc,y\nd,x\n", 3, "label.*empty"),
        ("text,label\na,x\n  ,y\nc,y\nd,x\n", 3, "text.*empty"),
        ("id,text,label\n1,a,x\n1,b,y\n2,c,y\n3,d,x\n", 3, "id '1' stands at line 2"),
        ("id,text,label\n1,a,x\n,b,y\n2,c,y\n3,d,x\n", 3, "id is empty"),
        ('text,label\na,x\n"b"c,y\nc,y\nd,x\n', 3, "no valid CSV"),
    ],
)
def test_bad_row_is_an_error_or_a_counted_skip(
    tmp_path: Path, content: str | bytes, place: int, reason: str
) -> None:
    path = write(tmp_path / "bad.csv", content)
    with pytest.raises(DataError, match=rf"bad\.csv, line {place}: .*{reason}"):
        read(path)
    with notes() as lines:
        data = read(path, skip_bad=True)
    assert len(data) == 3
    assert [(s.file, s.row) for s in data.skipped] == [(str(path), place)]
    assert any("Left out 1 bad row" in line for line in lines)


def test_few_blank_texts_are_left_out_and_told(tmp_path: Path) -> None:
    body = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40))
    path = write(tmp_path / "a.csv", "text,label\n" + body + ",a\n")
    with notes() as lines:
        data = read(path)
    assert data.skipped == (Skipped(str(path), 42, "the text (column 'text') is empty."),)
    assert any("line 42" in line for line in lines)


def test_an_open_quote_is_never_skipped_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\na,x\n"b,y\nc,y\n')
    for skip in (False, True):
        with pytest.raises(DataError, match=r"line 3: a quotation mark is opened"):
            read(path, skip_bad=skip)


def test_tsv_with_loose_quotes_is_read_plainly(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"half open\tx\nb "q" c\ty\n')
    with notes() as lines:
        assert read(path).inputs() == ['"half open', 'b "q" c']
    assert any("ordinary character" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", " \n", "is empty"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,text\na,b\n", "'text' twice"),
        ("a.csv", "text,lable\na,b\n", 'label.*Did you mean "lable"'),
        ("a.csv", "text,sentimnt\na,b\n", 'label.*Did you mean "sentimnt"'),
        ("a.csv", "text,label\na,x\nb,x\n", "every row has the label 'x'"),
        ("a.csv", "\ufeff".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"text": "a"\n', "line 1: the row is no valid JSON"),
        ("a.jsonl", '{"text":"a","label":"x"}\n[1]\n', "line 2: the row must be an object"),
        ("a.jsonl", '{"text":"a","label":["x"]}\n', "line 1: the label is a list"),
        ("a.jsonl", '{"text":5,"label":"x"}\n', "line 1: the text .* got int"),
        ("a.jsonl", '{"text":"\\ud800","label":"x"}\n', "line 1: .*surrogate"),
        ("a.json", "[" * 100_000, "no valid JSON"),
        ("a.json", '[{"text":"a"}, 4]', "row 2: the row must be an object"),
        ("a.parquet", b"PAR1 nothing", "cannot be read as Parquet"),
        ("a.parquet", b"", "is empty"),
        ("a.csv", "text,label,x\0y\na,b,c\nd,e,f\n", "holds NUL"),
        ("a.xlsx", b"PK", "is no table"),
    ],
)
def test_whole_file_faults(tmp_path: Path, name: str, content: str | bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(write(tmp_path / name, content), text="text")


def test_missing_columns_name_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", GOOD)
    for flag in ("text", "label", "image", "split_column", "group"):
        with pytest.raises(DataError, match=r'has no column.*Did you mean "label"'):
            read(path, **{flag: "lebel"})


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", GOOD)
    with pytest.raises(DataError, match=r'does not exist.*Did you mean "reviews\.csv"'):
        read(tmp_path / "reviws.csv")


def test_columns_are_found_by_name_or_by_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "who,words,category\nann,a long text,x\nbob,another text,y\n")
    with notes() as lines:
        data = read(path)
    assert data.inputs() == ["a long text", "another text"]
    assert data.column("who") == ["ann", "bob"]
    assert any("'words' is used" in line for line in lines)
    assert read(path, text="who").inputs() == ["ann", "bob"]


def test_numbers_as_labels(tmp_path: Path) -> None:
    whole = read(write(tmp_path / "a.csv", "text,label\na,1.0\nb,0.0\nc,10.0\n"))
    assert whole.label_names == ("0", "1", "10")
    halves = read(write(tmp_path / "b.csv", "text,label\na,1.5\nb,2\n"))
    assert halves.label_names == ("1.5", "2")
    body = "".join(f"t{i},{i / 7:.4f}\n" for i in range(60))
    with pytest.raises(DataError, match="Regression is not supported"):
        read(write(tmp_path / "c.csv", "text,label\n" + body))
    truth = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    assert read(write(tmp_path / "d.json", json.dumps(truth))).label_names == ("False", "True")


def test_a_label_that_differs_in_every_row_is_refused(tmp_path: Path) -> None:
    body = "".join(f"t{i},name {i}\n" for i in range(60))
    with pytest.raises(DataError, match="can hardly be a class"):
        read(write(tmp_path / "c.csv", "text,label\n" + body))


def test_further_columns_survive_and_never_clash(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        '{"title":"a","text":"long a","label":"x","n":1,"mixed":1}\n'
        '{"title":"b","text":"long b","label":"y","n":2,"mixed":{"k":2}}\n',
    )
    data = read(path, text="title")
    assert data.inputs() == ["a", "b"]
    assert data.column("text_original") == ["long a", "long b"]
    assert data.column("n") == [1, 2]
    assert data.column("mixed") == ["1", "{'k': 2}"]


def test_odd_columns_beside_do_no_harm(tmp_path: Path) -> None:
    odd = ["{}", "[]", "[{}]", '{"k\\u0000": 1}', "null", "99999999999999999999", "1.5", '"s"']
    body = "".join(
        f'{{"text":"t{i}","label":{i % 2},"a":{value},"b":{{}},"c":{{"k\\u0000":1}}}}\n'
        for i, value in enumerate(odd)
    )
    data = read(write(tmp_path / "a.jsonl", body))
    assert len(data) == len(data.column("a")) == len(data.column("c")) == 8


def test_ids_are_the_users_or_stable_under_appending(tmp_path: Path) -> None:
    own = read(write(tmp_path / "a.csv", "id,text,label\n7,a,x\n9,b,y\n"))
    assert own.ids == ["7", "9"]
    before = read(write(tmp_path / "b.csv", "text,label\na,x\na,x\nb,y\n"))
    after = read(write(tmp_path / "b.csv", "text,label\na,x\na,x\nb,y\nb,y\nc,x\n"))
    assert after.ids[:3] == before.ids
    assert before.ids[1] == before.ids[0] + "#2"


def test_rows_without_labels_can_be_read_for_prediction(tmp_path: Path) -> None:
    data = read(write(tmp_path / "a.csv", "text\na\nb\n"), need_label=False)
    assert data.labels_N.tolist() == [-1, -1]
    assert data.label_names == ()


@settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]),
    data=st.one_of(
        st.binary(max_size=300),
        st.text(alphabet='ab,;\t"\n\r{}[]:1.\\\0é', max_size=200).map(str.encode),
        st.text(alphabet='ab,"\n1', max_size=100).map(lambda s: b"text,label\n" + s.encode()),
    ),
    skip=st.booleans(),
)
def test_no_bytes_give_a_traceback(tmp_path: Path, suffix: str, data: bytes, skip: bool) -> None:
    path = write(tmp_path / f"fuzz{suffix}", data)
    try:
        found = read(path, skip_bad=skip)
    except WarmstartError as error:
        assert "fuzz" in str(error)  # noqa: PT017 - whether it raises is open
    else:
        assert len(set(found.ids)) == len(found) > 1


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv is no ordinary file"):
        read(tmp_path / "a.csv")


def test_a_name_that_is_no_text_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", GOOD).rename(os.fsdecode(bytes(tmp_path) + b"/\xff.csv"))
    with pytest.raises(DataError, match=r"\\udcff\.csv is not UTF-8: rename it"):
        read(path)


def test_a_group_is_a_further_column(tmp_path: Path) -> None:
    """The texts, the labels and the parts group nothing; columns made here are not listed."""
    lines = "review,mood,part,site,day\n" + "".join(
        f"film {i},{'good' if i % 2 else 'bad'},{part},s{i % 3},d{i}\n"
        for i, part in enumerate(["train"] * 6 + ["test"] * 4)
    )
    path = write(tmp_path / "a.csv", lines)
    told = {"text": "review", "label": "mood", "split_column": "part"}
    for group, role in (("review", "texts"), ("mood", "labels"), ("part", "parts")):
        message = rf"group='{group}' is the column of the {role}\..* columns here: day, site\."
        with pytest.raises(UsageError, match=message):
            read(path, group=group, **told)
    data = read(path, group="site", **told)
    assert data.user_columns == ("text", "label", "split", "site", "day")
    with pytest.raises(
        DataError, match=r'Did you mean "site"\? Available: day, label, site, split'
    ):
        data.column("sites")

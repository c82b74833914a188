"""The Dataset: selections, fingerprints, label names, inputs given in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmstart.core.errors import DataError, UsageError
from warmstart.data import from_inputs, read
from warmstart.data.labels import name_classes, natural_key
from warmstart.data.limit import shares

from .helpers import notes, picture, rows, write


def test_selection_keeps_order_and_shares_nothing() -> None:
    data = rows(["a", "b", "c"], [0, 1, 0])
    chosen = data.select([2, 0])
    assert chosen.inputs() == ["c", "a"]
    assert chosen.inputs([1]) == ["a"]
    assert chosen.inputs([]) == []
    assert chosen.labels_N.tolist() == [0, 0]
    assert chosen.select([1]).ids == ["a#1"]
    assert chosen.rows.data.num_rows == 2
    with pytest.raises(IndexError):
        data.select([3])
    assert data.take_ids(["b#1"]).contents == [data.contents[1]]
    assert data.class_counts == {"c0": 2, "c1": 1}
    assert len(data.select([])) == 0


def test_labels_are_gone_and_read_only() -> None:
    data = rows(["a", "b"], [0, 1])
    assert data.without_labels().labels_N.tolist() == [-1, -1]
    with pytest.raises(ValueError, match="read-only"):
        data.labels_N[0] = 1


def test_fingerprint_follows_rows_labels_and_names() -> None:
    data = rows(["a", "b", "c"], [0, 1, 0])
    same = rows(["a", "b", "c"], [0, 1, 0])
    assert data.fingerprint == same.fingerprint
    others = [
        rows(["a", "b", "d"], [0, 1, 0]),
        rows(["a", "b", "c"], [0, 1, 1]),
        data.select([0, 1]),
        data.without_labels(),
    ]
    assert len({data.fingerprint, *(o.fingerprint for o in others)}) == 5


def test_relabel_follows_the_models_order() -> None:
    data = rows(["a", "b"], [0, 1])
    again = data.relabel(["c1", "c0", "c2"])
    assert again.labels_N.tolist() == [1, 0]
    with pytest.raises(DataError, match="'c1', which the model does not know"):
        data.relabel(["c0"])


def test_duplicate_ids_and_missing_columns_are_refused() -> None:
    data = rows(["a", "b"], [0, 1])
    with pytest.raises(DataError, match=r"no column 'txt'.*text"):
        data.column("txt")
    with pytest.raises(DataError, match="no row with id 'z'"):
        data.take_ids(["z"])


def test_inputs_from_memory(tmp_path: Path) -> None:
    texts = from_inputs(["a", ""], "text")
    assert texts.inputs() == ["a", ""]
    assert texts.ids == ["0", "1"]
    path = picture(tmp_path / "a.png")
    images = from_inputs([path, Image.new("L", (3, 4), 9), path.read_bytes()], "image")
    assert [image.size for image in images.inputs()] == [(8, 6), (3, 4), (8, 6)]
    assert images.contents[0] == images.contents[2]
    with pytest.raises(UsageError, match="must be a list"):
        from_inputs("a", "text")
    with pytest.raises(DataError, match="Input 0 must be a text"):
        from_inputs([3], "text")
    with pytest.raises(DataError, match=r"Input 0 .*does not exist"):
        from_inputs([tmp_path / "none.png"], "image")


def test_natural_order() -> None:
    names = ["img10", "img2", "B", "a", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "B", "img2", "img10"]


def test_label_names_as_list_and_mapping() -> None:
    assert name_classes(["10", "2"], ["two", "ten"]) == (("two", "ten"), {"2": 0, "10": 1})
    merged = name_classes(["1", "2", "3"], {1: "bad", 2: "bad", 3: "good"})
    assert merged == (("bad", "good"), {"1": 0, "2": 0, "3": 1})
    with pytest.raises(
        UsageError, match="must be 2 different names, none empty, one for each of 2, 10"
    ):
        name_classes(["10", "2"], ["two"])
    with pytest.raises(UsageError, match="no name for the label '3'"):
        name_classes(["3"], {1: "bad"})


@pytest.mark.parametrize(
    ("sizes", "total", "least", "expected"),
    [
        ([70, 20, 10], 10, [0, 0, 0], [7, 2, 1]),
        ([98, 1, 1], 10, [2, 2, 2], [8, 1, 1]),
        ([97, 3], 10, [2, 2], [8, 2]),
        ([5, 5], 3, [2, 2], [2, 1]),
        ([1, 1], 5, [0, 0], [1, 1]),
    ],
)
def test_shares_known_answers(
    sizes: list[int], total: int, least: list[int], expected: list[int]
) -> None:
    assert shares(sizes, total, least) == expected


def test_limit_keeps_classes_parts_and_is_a_function_of_the_seed(tmp_path: Path) -> None:
    body = "".join(f"text {i},{'abbb'[i % 4]}\n" for i in range(400))
    path = write(tmp_path / "a.csv", "text,label\n" + body)
    with notes() as lines:
        data = read(path, limit=100)
    assert data.class_counts == {"a": 25, "b": 75}
    assert "100 of 400 rows" in lines[0]
    assert read(path, limit=100).ids == data.ids
    assert read(path, limit=100, seed=1).ids != data.ids
    assert set(read(path, limit=50).ids) < set(data.ids)
    assert len(read(path, limit=1000)) == 400
    write(tmp_path / "d" / "train.csv", "text,label\n" + body)
    write(
        tmp_path / "d" / "test.csv",
        "text,label\n" + "".join(f"other {i},{'ab'[i % 2]}\n" for i in range(100)),
    )
    both = read(tmp_path / "d", limit=100)
    assert both.parts is not None
    assert 15 < both.parts.count("test") < 30
    with pytest.raises(UsageError, match="limit must be at least 2"):
        read(path, limit=1)


def test_ten_thousand_rows_are_read_in_a_second_or_two(tmp_path: Path) -> None:
    import time

    words = np.random.default_rng(0).choice(["one", "two", "three", "four"], (10_000, 20))
    body = "".join(f"{i} {' '.join(w)},{'ab'[i % 2]}\n" for i, w in enumerate(words))
    path = write(tmp_path / "a.csv", "text,label\n" + body)
    start = time.perf_counter()
    assert len(read(path)) == 10_000
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(("value", "modality"), [(3, "image"), (None, "image"), (3, "text")])
def test_inputs_of_another_kind_are_refused_by_position(value, modality):
    with pytest.raises(DataError, match="Input 0 must be"):
        from_inputs([value], modality)

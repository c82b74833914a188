"""Splits: disjoint by id, content and group, deterministic, and blind to the order of rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from warmstart.core.errors import DataError, RunError, UsageError
from warmstart.data import Dataset, Split, read, split

from .helpers import notes, rows, write


def plain(n: int = 200, classes: int = 2) -> Dataset:
    return rows([f"t{i:04d}" for i in range(n)], [i % classes for i in range(n)])


def part_counts(data: Dataset, made: Split) -> dict[str, Counter[int]]:
    return {
        part: Counter(data.take_ids(getattr(made, part)).labels_N.tolist())
        for part in ("train", "validation", "test")
    }


def test_stratified_shares_known_answer() -> None:
    data = rows([f"t{i}" for i in range(300)], [0] * 200 + [1] * 100)
    made = split(data)
    assert part_counts(data, made) == {
        "train": {0: 140, 1: 70},
        "validation": {0: 30, 1: 15},
        "test": {0: 30, 1: 15},
    }
    assert made.kind == "stratified"
    assert made.dropped == 0


def test_many_small_classes_keep_the_wanted_sizes() -> None:
    made = split(plain(770, classes=77))  # ten rows a class: 1.5 belong to the test part
    assert abs(len(made.test) - 115.5) <= 2
    assert abs(len(made.validation) - 115.5) <= 2


def test_order_of_rows_plays_no_part_and_seed_does() -> None:
    data = plain()
    shuffled = data.select(np.random.default_rng(0).permutation(len(data)))
    assert split(data) == split(shuffled)
    assert split(data).fingerprint == split(data).fingerprint
    assert split(data, seed=1).fingerprint != split(data).fingerprint


def test_appended_rows_move_few_others() -> None:
    before, after = split(plain(200)), split(plain(210))
    assert len(set(before.test) - set(after.test)) <= 2


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (2, 0, 1)), (4, (2, 1, 1))]
)
def test_tiny_classes(n: int, expected: tuple[int, ...]) -> None:
    data = rows([f"t{i}" for i in range(100 + n)], [0] * 100 + [1] * n)
    counts = part_counts(data, made := split(data))
    assert tuple(counts[part][1] for part in ("train", "validation", "test")) == expected
    assert any("no test row" in line for line in made.notes) == (expected[2] == 0)


def test_equal_content_stays_together() -> None:
    data = rows([f"t{i // 4}" for i in range(400)], [(i // 4) % 2 for i in range(400)])
    made = split(data)
    parts = {i: p for p in ("train", "validation", "test") for i in getattr(made, p)}
    assert all(len({parts[f"t{t}#{k}"] for k in range(1, 5)}) == 1 for t in range(100))


def test_groups_stay_whole_and_classes_balanced() -> None:
    generator = np.random.default_rng(0)
    groups = [f"g{g}" for g in generator.integers(0, 60, 600)]
    data = rows([f"t{i}" for i in range(600)], [i % 3 for i in range(600)], user=groups)
    made = split(data, group="user")
    assert made.kind == "grouped"
    where: dict[str, set[str]] = {}
    for value, part in zip(groups, made.parts_of(data), strict=True):
        where.setdefault(value, set()).add(str(part))
    assert all(len(found) == 1 for found in where.values())
    for part, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        for count in part_counts(data, made)[part].values():
            assert abs(count / 200 - share) < 0.05
    with pytest.raises(DataError, match="no column 'usr'"):
        split(data, group="usr")


def test_too_few_groups_is_an_error() -> None:
    data = rows(list("abcdef"), [0, 1] * 3, user=["x", "x", "x", "y", "y", "y"])
    with pytest.raises(DataError, match="3 parts need at least one each"):
        split(data, group="user")


def test_given_split_drops_what_leaks_and_carves_validation(tmp_path: Path) -> None:
    train = "".join(f"train {i},{'ab'[i % 2]}\n" for i in range(100))
    test = "".join(f"test {i},{'ab'[i % 2]}\n" for i in range(30))
    write(tmp_path / "train.csv", "text,label\n" + train + "test 3,a\ntest 4,a\n")
    write(tmp_path / "test.csv", "text,label\n" + test)
    data = read(tmp_path)
    with notes() as lines:
        made = split(data)
    assert made.kind == "given"
    assert made.dropped == 2
    assert len(made.test) == 30
    assert len(made.validation) == 18  # 100 x 0.15 / 0.85
    assert len(made.train) == 82
    assert any("2 train rows dropped" in line for line in lines)
    held = set(data.take_ids(made.test).contents)
    assert not held & set(data.take_ids((*made.train, *made.validation)).contents)


def test_given_validation_alone_gets_a_test_part_from_training(tmp_path: Path) -> None:
    body = "".join(
        f"{part} {i},{'ab'[i % 2]},{part}\n" for part in ("train", "dev") for i in range(60)
    )
    data = read(write(tmp_path / "a.csv", "text,label,split\n" + body))
    made = split(data)
    assert all(text.startswith("dev") for text in data.take_ids(made.validation).inputs())
    assert all(text.startswith("train") for text in data.take_ids(made.test).inputs())
    assert any("no test part" in line for line in made.notes)


def test_given_split_drops_groups_that_leak() -> None:
    data = rows(
        [f"t{i}" for i in range(60)],
        [0, 1] * 30,
        user=[f"u{i // 2}" for i in range(60)],
        split=["train" if i < 41 else "test" for i in range(60)],  # u20 stands in both
    )
    made = split(data, group="user")
    assert made.dropped == 1
    assert "t40#1" not in (*made.train, *made.validation, *made.test)


def test_a_given_split_whose_groups_all_leak_is_refused_with_its_reason() -> None:
    data = rows(
        [f"t{i}" for i in range(40)],
        [0, 1] * 20,
        user=[f"u{i % 4}" for i in range(40)],
        split=["train" if i < 20 else "test" for i in range(40)],
    )
    with pytest.raises(DataError, match=r"all 20 training rows would be dropped.*their group"):
        split(data, group="user")
    copied = rows(["a", "b"] * 20, [0, 1] * 20, split=["train"] * 20 + ["test"] * 20)
    with pytest.raises(DataError, match=r"all 20 training rows would be dropped.*their content"):
        split(copied)


def test_shots_are_few_distinct_nested_and_leave_the_test_part() -> None:
    data = rows([f"t{i // 2}" for i in range(400)], [(i // 2) % 2 for i in range(400)])
    whole, few, more = split(data), split(data, shots=4), split(data, shots=8)
    assert part_counts(data, few)["train"] == {0: 4, 1: 4}
    assert part_counts(data, few)["validation"] == {0: 4, 1: 4}
    assert few.test == whole.test
    assert set(few.train) < set(more.train) < set(whole.train)
    assert len(set(data.take_ids(few.train).contents)) == 8
    scarce = split(data, shots=1000)
    assert any("fewer than 1000" in line for line in scarce.notes)


def test_view_holds_no_test_row_and_is_a_copy() -> None:
    data = plain()
    made = split(data)
    view = made.view(data)
    reachable = set()
    for part in (view.train, view.validation):
        reachable |= set(part.rows.data.column("id").to_pylist())  # the storage itself
    assert reachable == {*made.train, *made.validation}
    assert view.n_classes == 2
    assert view.label_names == data.label_names
    assert made.test_rows(data).ids == list(made.test)


def test_split_refuses_overlap_and_empty_parts() -> None:
    with pytest.raises(ValidationError, match="stand twice"):
        Split(train=("a",), validation=("b",), test=("a",))
    with pytest.raises(ValidationError, match="test part is empty"):
        Split(train=("a",), validation=("b",), test=())


def test_split_survives_json(tmp_path: Path) -> None:
    made = split(plain())
    made.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == made
    write(tmp_path / "split.json", '{"train": ["a"], "validation": ["a"], "test": ["b"]}')
    with pytest.raises(RunError, match="stand twice"):
        Split.load(tmp_path / "split.json")


def test_split_of_another_file_is_noticed() -> None:
    made = split(plain(200))
    with pytest.raises(DataError, match="no row with id"):
        made.view(plain(100))


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.7, 0.3)])
def test_bad_fractions(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="fractions must be three"):
        split(plain(), fractions=fractions)


def test_bad_settings() -> None:
    with pytest.raises(UsageError, match="shots must be at least 1"):
        split(plain(), shots=0)
    with pytest.raises(UsageError, match=r"'content' is the column of hashes of the rows. A group"):
        split(plain(), group="content")
    with pytest.raises(UsageError, match=r"group='text' is the column of the texts\. .* none here"):
        split(plain(), group="text")
    with pytest.raises(DataError, match="without a label"):
        split(plain().without_labels())
    with pytest.raises(DataError, match="part would be empty"):
        split(rows(["a", "b"], [0, 1]))
    same = rows(["a", "b"] * 20, [0, 1] * 20)  # not the rows are too few, but what differs
    with pytest.raises(DataError, match=r"40 rows, 2 of them different.*where the commonest has 1"):
        split(same)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=8, max_size=60),
    seed=st.integers(0, 5),
    grouped=st.booleans(),
)
def test_any_split_is_disjoint(texts: list[str], seed: int, grouped: bool) -> None:
    data = rows(texts, [i % 2 for i in range(len(texts))], user=[t + t for t in texts])
    try:
        made = split(data, seed=seed, group="user" if grouped else None)
    except DataError:
        return
    found = {
        p: set(data.take_ids(getattr(made, p)).contents) for p in ("train", "validation", "test")
    }
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]
    assert sum(made.sizes.values()) == len(data)

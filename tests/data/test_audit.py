"""The audit: each rule with a known answer, and no look at the labels of test rows."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from warmstart.core.errors import UsageError
from warmstart.data import Dataset, Split, audit, near, split
from warmstart.data.near import near_duplicates

from .helpers import picture, rows, write


def message(data: Dataset, code: str, made: Split | None = None, **options: object) -> str:
    found = audit(data, made, **options).find(code)
    assert found is not None, code
    return found.message


def test_clean_data_has_facts_only() -> None:
    data = rows([f"a fine text {i}" for i in range(100)], [i % 2 for i in range(100)])
    found = audit(data, split(data))
    assert found.clean
    assert found.lines()[0] == "100 texts in 2 classes (70 train, 15 validation, 15 test)."
    assert json.loads(json.dumps(found.to_dict()))["rows"] == 100


def test_duplicates_and_conflicts() -> None:
    data = rows(["same", "same", "same", "else", "else", "lone"], [0, 1, 0, 1, 1, 0])
    assert message(data, "duplicates") == (
        "Exact repeats of another row: 3 (contents that stand more than once: 2)."
    )
    assert message(data, "conflicts").startswith(
        "Contents with different labels in different rows: 1"
    )
    assert "same#1 c0 / same#2 c1" in message(data, "conflicts")


def test_given_parts_that_share_content() -> None:
    data = rows(["a text", "b text", "b text"], [0, 1, 1], split=["train", "train", "test"])
    found = audit(data).find("duplicates_across")
    assert found is not None
    assert found.severity == "warning"
    leaky = Split(train=("a text#1", "b text#1"), validation=("b text#2",), test=("z",))
    worse = audit(data, leaky).find("duplicates_across")
    assert worse is not None
    assert worse.severity == "problem"


def test_dropped_rows_are_told() -> None:
    texts = [f"text {i}" for i in range(40)]
    data = rows(
        [*texts, "text 3"],
        [i % 2 for i in range(41)],
        split=["train"] * 30 + ["test"] * 10 + ["test"],
    )
    assert message(data, "dropped", split(data)).endswith("judges them: 1.")


def test_single_and_rare_and_unlearnable_classes() -> None:
    labels = [0] * 60 + [1] * 39 + [2]
    data = rows([f"text {i}" for i in range(100)], labels)
    assert message(data, "single") == "Classes with one example: c2."
    assert "c2, has 1.0%" in message(data, "rare")
    ids = data.ids
    bad = Split(train=tuple(ids[:50]), validation=tuple(ids[50:60]), test=tuple(ids[60:]))
    assert message(data, "unlearnable", bad).endswith("c1, c2.")


def test_test_labels_are_not_read() -> None:
    data = rows([f"text {i}" for i in range(100)], [i % 2 for i in range(100)])
    made = split(data)
    held = set(made.test)
    flipped = rows(
        [f"text {i}" for i in range(100)],
        [1 - i % 2 if row_id in held else i % 2 for i, row_id in enumerate(data.ids)],
    )
    assert audit(data, made) == audit(flipped, made)


def test_group_leak() -> None:
    data = rows([f"text {i}" for i in range(4)], [0, 1, 0, 1], user=["u", "v", "u", "w"])
    made = Split(train=("text 0#1", "text 1#1"), validation=("text 2#1",), test=("text 3#1",))
    assert message(data, "group_leak", made, group="user").endswith("more than one part: u.")


def test_spelling_and_short_and_long_texts() -> None:
    from dataclasses import replace

    data = replace(rows(["ok then", "x", "word " * 500], [0, 1, 0]), label_names=("Yes", "yes"))
    assert message(data, "spelling").endswith("Yes / yes.")
    assert message(data, "short") == "Texts of fewer than 3 characters: 1."
    assert message(data, "long").startswith("Texts of more than 380 words")


def test_skipped_rows_are_shown(tmp_path: object) -> None:
    from pathlib import Path

    from warmstart.data import read

    path = write(Path(str(tmp_path)) / "a.csv", "text,label\none text,x\nbad\nanother,y\n")
    found = audit(read(path, skip_bad=True)).find("skipped")
    assert found is not None
    assert found.examples == (f"{path}:3",)


def test_image_sizes(tmp_path: object) -> None:
    from pathlib import Path

    from warmstart.data import read

    root = Path(str(tmp_path))
    for i, name in enumerate(("a", "b", "b2")):
        picture(root / name[0] / f"{name}.png", seed=i, size=(40, 40 + 10 * (i == 2)))
    assert "from 40 x 40 to 40 x 50 pixels" in message(read(root), "image_size")


@pytest.mark.parametrize("block", [3, 7, 64])
def test_near_duplicates_equal_the_slow_twin(block: int) -> None:
    generator = np.random.default_rng(0)
    vectors_ND = generator.normal(size=(40, 4))
    contents = [str(i // 2) for i in range(40)]
    parts = [("train", "validation", "test", None)[i % 4] for i in range(40)]
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    order = {"train": 0, "validation": 1, "test": 2}
    pairs, leaking = 0, set()
    for i in range(40):
        for j in range(i + 1, 40):
            if contents[i] == contents[j] or unit_ND[i] @ unit_ND[j] < 0.8:
                continue
            pairs += 1
            a, b = parts[i], parts[j]
            if a is not None and b is not None and a != b:
                leaking.add(i if order[a] > order[b] else j)
    found = near_duplicates(vectors_ND, contents, parts, 0.8, block=block)
    assert (found.pairs, found.leaking) == (pairs, len(leaking))
    assert pairs > 0
    assert found.closest[0].similarity >= found.closest[-1].similarity


def test_above_the_cap_drawn_rows_are_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    n = 300
    vectors_ND = generator.normal(size=(n, 5))
    contents = [f"text {i // 2}" for i in range(n)]
    parts = [("train", "train", "validation", "test", None)[i % 5] for i in range(n)]
    order = {"train": 0, "validation": 1, "test": 2}
    monkeypatch.setattr(near, "_LEAST_DRAWN", 30)
    found = near_duplicates(vectors_ND, contents, parts, 0.8, block=64, cap=100)
    assert (found.compared, found.rows, found.sampled) == (30, n, True)

    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    part_N = np.array([order.get(part or "", -1) for part in parts])
    drawn = set(near._draw(contents, part_N, 100).tolist())
    assert len(drawn) == 30
    assert all(parts[i] in ("validation", "test") for i in drawn)
    pairs, leaking = set(), set()
    for i in drawn:
        for j in range(n):
            if contents[i] == contents[j] or unit_ND[i] @ unit_ND[j] < 0.8:
                continue
            pairs.add((min(i, j), max(i, j)))
            if 0 <= part_N[j] < part_N[i]:
                leaking.add(i)
    assert (found.pairs, found.leaking) == (len(pairs), len(leaking))
    assert pairs
    assert leaking
    assert all(pair.i < pair.j for pair in (*found.closest, *found.closest_across))

    turn = generator.permutation(n)  # which rows are drawn does not hang on their order
    again = near_duplicates(
        vectors_ND[turn], [contents[i] for i in turn], [parts[i] for i in turn], 0.8, cap=100
    )
    assert again.compared == 30
    unsplit = near_duplicates(vectors_ND, contents, [None] * n, 0.8, cap=100)
    assert (unsplit.compared, unsplit.leaking) == (30, 0)


def test_the_audit_says_what_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["warmstart.data.audit"], "CAP", 20)
    monkeypatch.setattr(near, "_LEAST_DRAWN", 4)
    data = rows([f"text {i}" for i in range(40)], [i % 2 for i in range(40)])
    ids = data.ids
    made = Split(train=tuple(ids[:20]), validation=tuple(ids[20:30]), test=tuple(ids[30:]))
    vectors_ND = np.tile(np.eye(20), (2, 1))  # every held-out row repeats a training row
    found = audit(data, made, vectors_ND=vectors_ND)
    sampled = found.find("near_sampled")
    assert sampled is not None
    assert sampled.message == (
        "Too many rows to compare every pair: 5 rows of validation and test were drawn and each "
        "was compared with all 40."
    )
    assert "(similarity 0.97 or more): 5 of the 5 drawn." in message(
        data, "near_across", made, vectors_ND=vectors_ND
    )
    assert message(data, "near", made, vectors_ND=vectors_ND).startswith(
        "Pairs of rows, one of them drawn, that are nearly the same"
    )
    monkeypatch.undo()
    assert audit(data, made, vectors_ND=vectors_ND).find("near_sampled") is None


def test_near_duplicates_in_the_audit() -> None:
    data = rows([f"text {i}" for i in range(4)], [0, 1, 0, 1])
    made = Split(train=("text 0#1", "text 1#1"), validation=("text 2#1",), test=("text 3#1",))
    vectors_ND = np.eye(4)
    vectors_ND[3] = [1, 0.01, 0, 0]
    found = audit(data, made, vectors_ND=vectors_ND)
    leak = found.find("near_across")
    assert leak is not None
    assert leak.count == 1
    assert leak.examples[0].startswith("text 0#1 ~ text 3#1")
    with pytest.raises(UsageError, match="one vector for each of the 4 rows"):
        audit(data, vectors_ND=np.eye(3))
    with pytest.raises(UsageError, match="not finite"):
        audit(data, vectors_ND=np.full((4, 2), np.nan))
    with pytest.raises(UsageError, match="near must be"):
        audit(data, vectors_ND=np.eye(4), near=2)

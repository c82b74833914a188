"""Rows that a run has seen are told by their content, whatever their ids and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmstart.core import RunError
from warmstart.workflow import FinishedRun, evaluate, fit, write_seen
from warmstart.workflow.prepare import prepare
from warmstart.workflow.seen import CONTENTS_FILE


@pytest.fixture
def fitted(table: Path, tiny_text: Path, tmp_path: Path) -> FinishedRun:
    return fit(table, backbone=tiny_text, strategy="probe", controls="none", out=tmp_path / "run")


def with_ids(path: Path, rows: list[str], ids: list[str]) -> Path:
    lines = [f"{one},{row}" for one, row in zip(ids, rows, strict=True)]
    path.write_text("id,text,label,site\n" + "\n".join(lines) + "\n")
    return path


def test_a_run_keeps_the_contents_of_what_it_saw(
    fitted: FinishedRun, table: Path, tiny_text: Path, tmp_path: Path
) -> None:
    known = json.loads((fitted.folder / CONTENTS_FILE).read_text())
    assert (known["format_version"], known["task_type"]) == (1, "classify")
    assert (len(known["train"]), len(known["validation"])) == (56, 12)
    assert not set(known["train"]) & set(known["validation"])
    write_seen(tmp_path, prepare(table, backbone=tiny_text))
    assert json.loads((tmp_path / CONTENTS_FILE).read_text()) == known


def test_seen_rows_are_counted_under_other_ids(
    fitted: FinishedRun, table: Path, tmp_path: Path, notes: list[str]
) -> None:
    rows = table.read_text().splitlines()[1:]
    other = with_ids(tmp_path / "other.csv", rows, [f"new-{i}" for i in range(len(rows))])
    found = evaluate(fitted, other)
    assert (found.seen_in_training, found.seen_in_validation) == (56, 12)
    assert any("of 80 rows the run was trained on 56 and chosen on 12" in line for line in notes)
    assert found.main.value == found.metrics["accuracy"].value
    assert found.model_dump(mode="json")["seen_in_training"] == 56


def test_new_rows_under_old_ids_are_not_taken_for_seen(
    fitted: FinishedRun, tmp_path: Path, notes: list[str]
) -> None:
    ids = json.loads((fitted.folder / "split.json").read_text())["train"][:4]
    words = {"kiwi": "fruit", "lime": "fruit", "van": "vehicle", "bus": "vehicle"}
    rows = [f"a {word} of my own,{name},s" for word, name in words.items()]
    found = evaluate(fitted, with_ids(tmp_path / "new.csv", rows, ids))
    assert (found.seen_in_training, found.seen_in_validation) == (0, 0)
    assert found.caution is None
    assert not any("Warning" in line for line in notes)


def test_a_run_without_a_record_says_so(fitted: FinishedRun, table: Path, notes: list[str]) -> None:
    path = fitted.folder / CONTENTS_FILE
    path.write_text("[]")
    with pytest.raises(RunError, match=r"contents\.json is damaged"):
        evaluate(fitted, table)
    path.unlink()
    found = evaluate(fitted, table)
    assert (found.seen_in_training, found.seen_in_validation) == (None, None)
    assert any("cannot be told" in line for line in notes)

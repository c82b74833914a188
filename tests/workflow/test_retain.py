"""An old task beside the new one: watched, budgeted, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmstart.core import UsageError
from warmstart.strategies import OldTask
from warmstart.strategies.retain import FISHER_ROWS
from warmstart.workflow import fit


@pytest.fixture
def old(tmp_path: Path, topics: Any) -> Path:
    texts, labels = topics(60)
    path = tmp_path / "old.csv"
    rows = [f'"{text} indeed","{label} old"' for text, label in zip(texts, labels, strict=True)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def test_what_was_forgotten_is_told(
    table: Path, old: Path, tiny_text: Path, tmp_path: Path
) -> None:
    run = fit(table, backbone=tiny_text, strategy="finetune", settings={"epochs": 2, "rate": 0.05},
              controls="none", retain=old, out=tmp_path / "run")  # fmt: skip
    told = run.results["forgetting"]
    assert told["n"] == 9
    assert told["drop"] == pytest.approx(told["before"] - told["after"])
    assert told["low"] <= told["drop"] <= told["high"]
    assert "Old task: accuracy" in told["sentence"]
    assert told["sentence"] in run.report.read_text()
    (history,) = run.arm()["history"]
    assert all("retained_accuracy" in record for record in history)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert any("retained_accuracy" in line for line in lines)


def test_a_budget_is_kept_by_going_back(
    table: Path, old: Path, tiny_text: Path, tmp_path: Path
) -> None:
    run = fit(table, backbone=tiny_text, strategy="lp-ft", controls="none", retain=old,
              settings={"epochs": 3, "rate": 0.2, "schedule": "constant", "patience": 9},
              max_forgetting=0.0, out=tmp_path / "run")  # fmt: skip
    (history,) = run.arm()["history"]
    assert "The budget of 0 is" in run.results["forgetting"]["sentence"]
    assert run.results["forgetting"]["budget"] == 0.0
    assert history


def test_nothing_is_forgotten_by_a_frozen_backbone(
    table: Path, old: Path, tiny_text: Path, tmp_path: Path
) -> None:
    run = fit(table, backbone=tiny_text, strategy="probe", controls="none", retain=old,
              out=tmp_path / "run")  # fmt: skip
    assert run.results["forgetting"]["drop"] == 0
    words = fit(table, backbone=tiny_text, strategy="tfidf", controls="none", retain=old,
                out=tmp_path / "words")  # fmt: skip
    assert "no encoder" in words.results["forgetting"]["sentence"]


def test_budgets_and_rows_that_make_no_sense(
    table: Path, old: Path, pictures: Path, tiny_text: Path, tmp_path: Path
) -> None:
    def go(**settings: Any) -> None:
        fit(table, backbone=tiny_text, strategy="probe", out=tmp_path / "run", **settings)

    with pytest.raises(UsageError, match="give --retain PATH"):
        go(max_forgetting=2)
    with pytest.raises(UsageError, match="from 0 to 100, got 101"):
        go(retain=old, max_forgetting=101)
    with pytest.raises(UsageError, match="the rows to retain are images"):
        go(retain=pictures)


def test_the_price_counts_the_old_task(
    table: Path, old: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step a few rows of the old task are timed."""
    asked: list[int | None] = []
    real = OldTask.elastic

    def elastic(self: OldTask, *args: Any, rows: int | None = None, **settings: Any) -> Any:
        asked.append(rows)
        return real(self, *args, rows=rows, **settings)

    monkeypatch.setattr(OldTask, "elastic", elastic)
    run = fit(table, backbone=tiny_text, strategy="finetune", settings={"epochs": 1, "ewc": 10.0},
              controls="none", retain=old, out=tmp_path / "run")  # fmt: skip
    assert asked == [1, 8, FISHER_ROWS]  # to warm up, to be timed, and what it learns from
    assert run.results["cost_check"]["expected_seconds"] > 0

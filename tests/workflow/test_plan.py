"""A measured plan from data to report, and a fit that follows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from warmstart.core import DataError, UsageError
from warmstart.data import View
from warmstart.planning import Plan
from warmstart.workflow import check_plan_path, fit, plan, write_plan


@pytest.fixture(scope="module")
def planned(table: Path, tiny_text: Path) -> Plan:
    return plan(table, backbone=tiny_text, device="cpu", within="10m")


def test_the_plan_names_all_that_it_promises(planned: Plan) -> None:
    assert planned.tree == "zero-shot"
    chosen = planned.expectation(planned.strategy)
    assert chosen is not None
    assert chosen.low <= chosen.gain <= chosen.high
    assert planned.cost == chosen.price is not None
    assert planned.runner_up not in {None, planned.strategy}
    assert planned.command.endswith(planned.strategy) or "--backbone" in planned.command
    assert {item.name for item in planned.evidence} >= {"probe", "short_finetune", "labels"}
    assert planned.quadrant is not None
    assert planned.metric == "accuracy"


def test_fit_follows_the_plan_that_was_measured(
    planned: Plan, table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.workflow import measured_plan

    def never(*args: Any, **settings: Any) -> None:
        raise AssertionError("it was measured before")

    monkeypatch.setattr(measured_plan, "survey", never)
    run = fit(table, backbone=tiny_text, device="cpu", out=tmp_path / "run", controls="none")
    assert run.best == planned.strategy
    assert run.results["plan"]["sentence"] == planned.sentence
    assert run.results["plan"]["expected"][0]["price"]["seconds"] > 0
    checked = run.results["cost_check"]
    assert checked["strategy"] == planned.strategy
    assert checked["actual_seconds"] > 0
    assert checked["sentence"] in run.report.read_text().replace("&#39;", "'")
    card = (run.folder / "README.md").read_text()
    assert "Cost: " in card
    assert "Plan: " in card


def test_fit_holds_what_it_took_against_real_steps(
    table: Path, tiny_text: Path, tmp_path: Path
) -> None:
    run = fit(table, backbone=tiny_text, device="cpu", strategy="finetune", controls="none",
              settings={"epochs": 2}, out=tmp_path / "run")  # fmt: skip
    checked = run.results["cost_check"]
    assert checked["expected_epochs"] == 2
    assert checked["actual_epochs"] == pytest.approx(2)
    assert checked["ratio"] == pytest.approx(
        checked["actual_seconds"] / checked["expected_seconds"]
    )
    assert checked["expected_peak_bytes"] > 0
    assert run.arm()["seconds_full"] == checked["full_seconds"]
    assert "plan" not in run.results


def test_test_rows_are_never_looked_at(
    table: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.data import read, split
    from warmstart.workflow import measured_plan

    seen: list[View] = []

    def look(backbone: Any, view: View, **settings: Any) -> Any:
        seen.append(view)
        raise DataError("enough")

    monkeypatch.setattr(measured_plan, "survey", look)
    with pytest.raises(DataError, match="enough"):
        plan(table, backbone=tiny_text, device="cpu")
    data = read(table)
    test = set(split(data).test)
    (view,) = seen
    for rows in (view.train, view.validation):
        assert not test & set(rows.rows.data.column("id").to_pylist())


def test_a_plan_is_written(planned: Plan, tmp_path: Path) -> None:
    write_plan(planned, tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["strategy"] == planned.strategy
    write_plan(planned, tmp_path / "plan.html", source="a <b>.csv", command="warmstart plan x")
    page = (tmp_path / "plan.html").read_text()
    assert "a &lt;b&gt;.csv" in page
    assert "<svg" in page
    assert "src=" not in page
    assert "<script" not in page
    with pytest.raises(UsageError, match=r"must end in .html"):
        check_plan_path(tmp_path / "plan.txt")
    with pytest.raises(DataError, match="does not exist"):
        check_plan_path(tmp_path / "nowhere" / "plan.html")


def test_limits_without_measuring(table: Path, tiny_text: Path) -> None:
    bound = plan(table, backbone=tiny_text, quick=True, max_size="1KB")
    assert bound.strategy == "tfidf"
    assert not bound.evidence
    assert plan(table, backbone=tiny_text, quick=True, licence="mit").strategy == "tfidf"
    for setting in ({"memory": "1GB"}, {"latency": "5ms"}, {"reference": "x.npy"}):
        with pytest.raises(UsageError, match="leave out --quick"):
            plan(table, backbone=tiny_text, quick=True, **setting)


def test_without_a_backbone_the_tree_speaks(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.core import BackboneError

    def closed(*args: Any, **settings: Any) -> None:
        raise BackboneError("the hub cannot be reached")

    monkeypatch.setattr(sys.modules["warmstart.workflow.plan"], "as_backbone", closed)
    found = plan(pictures)
    assert found.strategy == "prototypes"
    assert any("hub cannot be reached" in warning for warning in found.warnings)
    with pytest.raises(BackboneError):
        plan(pictures, max_size="1MB")

"""A measured plan from data to report, and a fit that follows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, OutOfMemory, UsageError
from warmstart.data import View
from warmstart.planning import Plan, Survey, default_prior, survey, tree
from warmstart.workflow import check_plan_path, fit, measured_plan, plan, write_plan


@pytest.fixture(scope="module")
def looked(table: Path, tiny_text: Path) -> tuple[Plan, Survey]:
    """A plan and what it rests on."""
    found: list[Survey] = []

    def look(*args: Any, **settings: Any) -> Survey:
        found.append(survey(*args, **settings))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured_plan, "survey", look)
        planned = plan(table, backbone=tiny_text, device="cpu", within="10m")
    return planned, found[-1]


@pytest.fixture(scope="module")
def planned(looked: tuple[Plan, Survey]) -> Plan:
    return looked[0]


def never(*args: Any, **settings: Any) -> None:
    raise AssertionError("it was measured before")


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


@pytest.mark.parametrize("asked", ["reference", "distance", "prior"])
def test_fit_follows_what_the_plan_was_told(
    asked: str, table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "PROBE", 20)  # 56 training rows lie where the tree asks how far
    monkeypatch.setattr(tree, "FEW", 10)
    np.save(tmp_path / "reference.npy", np.random.default_rng(0).normal(size=(60, 24)))
    told: dict[str, Any] = {
        "reference": {"reference": tmp_path / "reference.npy"},
        "distance": {"distance": "far"},
        "prior": {"prior": default_prior().model_copy(update={"origin": "a table of our own",
                                                              "tolerance": 1.0})},
    }[asked]  # fmt: skip
    settings: dict[str, Any] = {"backbone": tiny_text, "device": "cpu", "seed": 7}
    planned = plan(table, within="3s", **told, **settings)
    where = [item for item in planned.evidence if item.name == "distance"]
    assert bool(where) == (asked != "prior")
    monkeypatch.setattr(measured_plan, "survey", never)
    run = fit(table, out=tmp_path / "run", controls="none", **settings)
    followed = run.results["plan"]
    assert followed["strategy"] == planned.strategy
    assert followed["sentence"] == planned.sentence
    assert followed["rule"] == planned.rule
    assert followed["prior"] == planned.prior
    assert ("far domain" in planned.rule) == (asked == "distance")
    assert (planned.prior == "a table of our own") == (asked == "prior")
    assert [one for one in followed["evidence"] if one["name"] == "distance"] == [
        item.model_dump(mode="json") for item in where
    ]


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


def test_limits_of_a_measured_plan(
    looked: tuple[Plan, Survey], table: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = looked[1]
    prices = {n: p.model_copy(update={"seconds": 50.0 if p.steps else 0.5})
              for n, p in found.prices.items()}  # fmt: skip
    slow = found.model_copy(update={"prices": prices})
    monkeypatch.setattr(measured_plan, "survey", lambda *args, **settings: slow)
    settings: dict[str, Any] = {"backbone": tiny_text, "device": "cpu", "seed": 8}
    short = plan(table, budget="10s", **settings)
    assert {one.strategy for one in short.expected if one.out and "the budget is 10 s" in one.out} \
        >= {"lora", "finetune", "unfreeze", "scratch"}  # fmt: skip
    assert short.expectation(short.strategy).out is None
    for limit, words in (
        ({"memory": "1MB"}, "1 MiB are allowed"),
        ({"latency": "0.0001ms"}, "0.0001 ms are allowed"),
    ):
        bound = plan(table, **limit, **settings)
        assert bound.strategy == "tfidf"
        assert words in bound.sentence
        (option,) = limit
        assert f"is not measured against --{option}" in bound.warnings[-1]


@pytest.mark.parametrize("failing", ["rows", "memory"])
def test_limits_where_nothing_can_be_measured(
    failing: str, table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **settings: Any) -> Survey:
        raise OutOfMemory("no memory is left")

    if failing == "memory":
        monkeypatch.setattr(measured_plan, "survey", full)
    else:  # three validation rows
        lines = table.read_text().splitlines(keepends=True)
        table = tmp_path / "few.csv"
        table.write_text("".join(lines[:21]))
    settings: dict[str, Any] = {"backbone": tiny_text, "device": "cpu", "seed": 9}
    for limit in ({"max_size": "1KB"}, {"licence": "mit"}):
        bound = plan(table, **limit, **settings)
        assert bound.strategy == "tfidf", "the backbone is ruled out by its card"
        assert bound.command.split()[4] == "tfidf"
        assert [one.name for one in bound.missing] == ["everything"]
    unknown = plan(table, latency="5ms", memory="1GB", budget="1m", **settings)
    assert unknown.strategy == unknown.tree
    assert "is not measured against --budget, --memory, --latency:" in unknown.warnings[-1]


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
    hurried = plan(pictures, budget="1m")
    assert any("is not measured against --budget" in warning for warning in hurried.warnings)
    with pytest.raises(BackboneError):
        plan(pictures, max_size="1MB")

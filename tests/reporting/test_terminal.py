"""Terminal tables: narrow, without colour, with hostile names."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from warmstart.reporting import (
    ComparisonTable,
    audit_view,
    comparison_view,
    plan_view,
    rates_view,
    scores_view,
    verdict_view,
    view,
)

from .sample import accuracy_of, sample


def show(renderable: Any, width: int = 80, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True, **options)
    console.print(renderable)
    text: str = console.file.getvalue()
    return text


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return sample()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_no_line_is_wider_than_the_console(results: dict[str, Any], width: int) -> None:
    text = show(comparison_view(results), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert f"{accuracy_of(results, 'finetune')[0]} %" in text
    assert "Fine-tuning" in text


def test_eighty_columns_hold_every_column(results: dict[str, Any]) -> None:
    text = show(ComparisonTable(results))
    _, low, high = accuracy_of(results, "finetune")
    bounds = f"{low}-{high}"
    for word in ("Accuracy", "Time", "Trained", "Memory", "Latency", "Size", bounds, "100 %"):
        assert word in text, word
    assert "Left out" not in text


def test_a_wide_console_gives_each_arm_one_line(results: dict[str, Any]) -> None:
    text = show(ComparisonTable(results), 160)
    value, low, high = accuracy_of(results, "finetune")
    assert f"{value} % ({low}-{high})" in text
    assert "22.7 M, 100 %" in text
    assert "Fine-tuning [best]" in text


def test_a_narrow_console_says_what_it_left_out(results: dict[str, Any]) -> None:
    text = show(ComparisonTable(results), 44)
    assert "Left out at this width:" in text
    assert "Size" in text.split("Left out")[1]


def test_every_column_that_is_shown_is_shown_whole() -> None:
    results = sample()
    for arm in results["arms"]:
        arm["cost"] = {"money": 0.0123, "co2_grams": 4.56}
        arm["status"] = "cut" if arm["role"] == "control" else "done"
    for width in range(50, 110):
        text = show(ComparisonTable(results), width)
        shown = [title for title in ("Cost", "CO₂") if title in text.split("Left out")[0]]
        for title, value in (("Cost", "0.01"), ("CO₂", "4.6 g")):
            assert title not in shown or value in text, (width, title)


def test_words_carry_what_colour_does(results: dict[str, Any]) -> None:
    text = show(ComparisonTable(results))
    for word in ("[best]", "[control]", "[not applicable]", "[below TF-IDF"):
        assert word in text


def test_arms_that_were_cut_shortened_or_failed_say_so(results: dict[str, Any]) -> None:
    changed = sample()
    changed["arms"][2].update(status="shortened", reason="4 of 6 epochs fit the budget")
    changed["arms"][3].update(
        status="cut", scores=None, reason="no epoch fits", seconds_estimated=5000.0
    )
    changed["arms"][1].update(status="failed", scores=None, reason="out of memory")
    text = " ".join(show(comparison_view(changed), 160).split())
    assert "Fine-tuning: shortened: 4 of 6 epochs fit the budget." in text
    assert "cut by the budget: no epoch fits (its full run was estimated at 1 h 23 min)." in text
    assert "Linear probe: failed: out of memory." in text
    assert "[best, shortened]" in text


def test_cost_columns_only_where_there_is_a_cost(results: dict[str, Any]) -> None:
    assert "Cost" not in show(ComparisonTable(results), 160)
    changed = sample()
    for arm in changed["arms"]:
        arm["cost"] = {"money": 0.25}
    text = show(ComparisonTable(changed), 160)
    assert "Cost" in text
    assert "0.25" in text
    assert "CO₂" not in text


def test_texts_are_never_markup_or_escape_codes(results: dict[str, Any]) -> None:
    hostile = "[red]x[/red]\x1b[31m"
    changed = sample((hostile, "b"))
    changed["arms"][0]["label"] = hostile
    changed["verdict"]["sentences"] = [hostile]
    found = {"findings": [{"severity": "problem", "message": hostile}]}
    for shown in (
        comparison_view(changed),
        scores_view(changed["arms"][0]["scores"]),
        audit_view(found),
        plan_view({"strategy": hostile, "rule": hostile, "reasons": [{"text": hostile}]}),
        rates_view([{"group": hostile, "parameters": 1, "rate": 0.1, "frozen": False}]),
    ):
        text = show(shown, 200, force_terminal=True, color_system=None)
        assert "[red]x[/red]\ufffd[31m" in text
        assert "\x1b[31m" not in text


def test_verdict(results: dict[str, Any]) -> None:
    text = show(verdict_view(results))
    assert text.startswith("Fine-tuning is best")
    assert "Next:" in text
    assert "Below control:" not in text  # a sentence says it already
    silent = {**results, "verdict": {**results["verdict"], "sentences": ["Fine-tuning is best."]}}
    assert "Below control: Zero-shot is significantly below TF-IDF" in show(verdict_view(silent))
    assert "no verdict" in show(verdict_view({}))


def test_pairs_name_the_better_arm_by_the_direction_of_the_metric() -> None:
    changed = sample()
    changed["settings"]["primary"] = "log_loss"
    changed["pairs"] = [
        {"a": "probe", "b": "scratch", "difference": -0.2, "low": -0.3, "high": -0.1,
         "significant": True},
        {"a": "probe", "b": "tfidf", "difference": 0.0, "low": -0.1, "high": 0.1,
         "significant": False},
    ]  # fmt: skip
    text = show(comparison_view(changed), 160)
    assert "Linear probe is better" in text
    assert "no clear difference" in text
    assert "-0.300 to -0.100" in text


def test_only_pairs_with_the_best_arm_are_listed(results: dict[str, Any]) -> None:
    text = show(comparison_view(results), 160)
    assert "Fine-tuning minus Linear probe" in text
    assert "Linear probe minus From scratch" not in text
    assert "3 pairs without the best arm are in the report." in text


def test_an_arm_that_was_cut_is_not_judged(results: dict[str, Any]) -> None:
    changed = sample()
    changed["arms"][3]["status"] = "cut"
    text = show(comparison_view(changed), 160)
    assert "not judged: From scratch was cut" in text


def test_a_pair_is_turned_so_that_the_best_arm_is_first() -> None:
    pair = {"a": "b1", "b": "top", "difference": -0.1, "low": -0.3, "high": 0.1,
            "significant": False}  # fmt: skip
    rows = view.pair_rows({"pairs": [pair], "verdict": {"best": "top"}})
    assert [(row["a"], row["b"], row["difference"], row["interval"]) for row in rows] == [
        ("top", "b1", "+10.0", "−10.0 to +30.0")
    ]


def test_scores(results: dict[str, Any]) -> None:
    text = show(scores_view(results["arms"][1]["scores"]))
    assert "Accuracy (decides)" in text
    assert "Accuracy of group" in text
    assert "Precision" in text
    many = sample(tuple(f"class {i}" for i in range(77)), 300)
    text = show(scores_view({**many["arms"][0]["scores"], "invalid": 3}))
    assert "The 20 weakest of 77 classes" in text
    assert "3 predictions are not finite" in text


def test_audit_and_rates_and_plan(results: dict[str, Any]) -> None:
    text = show(audit_view(results["audit"]))
    assert text.index("warning") < text.index("fact")
    assert "nothing to report" in show(audit_view({}))
    old = {"problems": ["One class only."], "warnings": [], "facts": [{"message": "2 rows."}]}
    assert "problem  One class only." in show(audit_view(old))
    text = show(rates_view(results["arms"][2]["rates"]))
    assert "frozen" in text
    assert "5.00e-05" in text
    planned = {
        "strategy": "probe",
        "settings": {"l2": "auto"},
        "rule": "100 to 1,000 labels: probe",
        "reasons": [{"text": "560 labels carry a convex head.", "name": "labels", "value": 560}],
        "alternatives": ["finetune"],
        "warnings": ["Classes are unbalanced."],
        "command": "warmstart fit reviews.csv --strategy probe",
    }
    text = show(plan_view(planned))
    for word in ("Recommended: probe", "Rule: 100 to 1,000", "560 labels", "finetune", "Run: "):
        assert word in text


def test_empty_results_are_no_error() -> None:
    assert "no verdict" in show(comparison_view({}))
    assert show(ComparisonTable({"arms": [{"name": "probe"}]}), 30)

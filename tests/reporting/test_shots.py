"""The k-shot table in the terminal, the report and the README."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from rich.console import Console

from warmstart.reporting import render_report, shot_curve, shots_markdown, shots_view
from warmstart.reporting.shots import shot_rows


def cell(k: int, value: float | None, draws: int = 3, **more: Any) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.05, value + 0.04)
    return {"k": k, "draws": draws, "value": value, "low": low, "high": high, "values": [],
            "seconds": 0.1, "reason": None, **more}  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    arms = [
        {"name": "zero-shot", "label": "Zero-shot", "learns": False, "cells": [cell(0, 0.4, 1)]},
        {"name": "knn", "label": "Nearest <b>neighbours</b>", "learns": True,
         "cells": [cell(1, 0.35), cell(4, 0.551, 2), cell(16, 0.7)]},
        {"name": "setfit", "label": "SetFit", "learns": True,
         "cells": [cell(1, 0.301), cell(4, 0.62), cell(16, None, 0, reason="the budget ended")]},
    ]  # fmt: skip
    pair = {"a": "setfit", "b": "knn", "k_a": 4, "k_b": 4, "difference": 0.069, "low": 0.01,
            "high": 0.12, "significant": True, "draws": 2}  # fmt: skip
    step = pair | {"a": "knn", "k_a": 16, "difference": 0.15}
    return {
        "command": "warmstart compare x.csv --shots 1,4,16",
        "data": {"source": "x.csv", "rows": 10, "label_names": ["a", "b"]},
        "settings": {"primary": "accuracy"},
        "arms": [], "pairs": [],
        "shots": {"k": [1, 4, 16], "draws": 3, "test_rows": 126, "validation": "Few rows.",
                  "arms": arms, "pairs": [pair, step]},
        "verdict": {"best": None, "sentences": ["SetFit leads."], "next": ["More labels."]},
    }  # fmt: skip


def printed(results: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(shots_view(results))
    return console.file.getvalue()


def test_the_terminal_shows_every_number(results: dict[str, Any]) -> None:
    text = printed(results)
    assert max(len(line) for line in text.splitlines()) <= 80
    for words in ("none", "40.0 %", "35.0-44.0", "55.1 %", "62.0 %*", "70.0 %*", "2 of 3 draws",
                  "SetFit leads.", "- More labels.", "Validation: Few rows.",
                  "tested on the same 126 rows"):  # fmt: skip
        assert words in text, words
    assert "30.1 %*" not in text
    from warmstart.reporting import comparison_view

    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_view(results))
    assert console.file.getvalue() == text
    assert "zero-shot 0.1 s, knn 0.1 s, setfit 0.1 s" in " ".join(text.split())
    results["shots"]["draws"] = 1
    assert "another draw may differ by more" in " ".join(printed(results).split())


def test_a_value_stands_in_its_own_line(results: dict[str, Any]) -> None:
    table = shot_rows(results)
    assert table is not None
    assert [row["k"] for row in table["rows"]] == ["none", "1", "4", "16"]
    values = [[one["value"] for one in row["cells"]] for row in table["rows"]]
    assert values == [["40.0 %", "–", "–"], ["–", "35.0 %", "30.1 %"], ["–", "55.1 %", "62.0 %"],
                      ["–", "70.0 %", "–"]]  # fmt: skip
    assert [p["words"] for p in table["pairs"]] == ["SetFit is better", "more rows help"]
    assert [p["a"] for p in table["pairs"]] == [
        "SetFit, k = 4",
        "Nearest <b>neighbours</b>, k = 16",
    ]
    results["shots"]["pairs"][0]["b"] = "zero-shot"
    again = shot_rows(results)
    assert again is not None
    assert again["pairs"][0]["b"] == "Zero-shot"
    assert shot_rows({"arms": []}) is None


def test_the_report_has_the_table_and_the_curve(results: dict[str, Any]) -> None:
    page = render_report(results)
    assert '<section id="shots">' in page
    assert '<section id="comparison">' not in page, "there are no arms side by side"
    assert "No arm finished" not in page
    assert "Nearest &lt;b&gt;neighbours&lt;/b&gt;" in page
    assert "<b>neighbours" not in page
    assert "62.0 %" in page
    assert 'id="shots-' in page


def test_other_reports_have_no_such_part() -> None:
    page = render_report({"arms": []})
    assert '<section id="shots">' not in page
    assert '<section id="comparison">' in page


def test_the_curve(results: dict[str, Any]) -> None:
    arms = results["shots"]["arms"]
    svg = shot_curve(arms, "accuracy", [1, 4, 16])
    assert svg is not None
    ET.fromstring(svg)
    assert "Zero-shot: 40.0 % with none" in svg
    assert "SetFit: 30.1 % with 1, 62.0 % with 4" in svg
    assert svg == shot_curve(arms, "accuracy", [1, 4, 16])
    assert shot_curve([], "accuracy", [1]) is None
    assert shot_curve([{"name": "x", "cells": [cell(1, None)]}], "accuracy", [1]) is None
    one = shot_curve([{"name": "x", "label": "x", "cells": [cell(2, 0.5)]}], "log_loss", [2])
    assert one is not None


def test_the_readme(results: dict[str, Any]) -> None:
    text = shots_markdown(results, name="my_run")
    lines = text.splitlines()
    assert lines[0] == "# my\\_run"
    assert "| 4 | – | 55.1 % 50.1–59.1 | 62.0 % 57.0–66.0 |" in lines
    assert "- SetFit leads." in lines
    assert "    warmstart compare x.csv --shots 1,4,16" in lines


def test_the_star_is_at_the_arm_that_the_sentences_call_the_leader(results: dict[str, Any]) -> None:
    """A mean over fewer draws than others have leads nothing, however high."""
    results["shots"]["arms"][1]["cells"][1] = cell(4, 0.99, 2)
    row = shot_rows(results)["rows"][2]
    assert (row["k"], [one["best"] for one in row["cells"]]) == ("4", [False, False, True])

"""A measured plan drawn: the table, the picture in text and as a plot, the page."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from warmstart.reporting import plan_view, quadrant_lines, quadrant_plot, render_plan_report

NAUGHTY = "[bold]<script>alert(1)</script>\x1b[31m"


def arm(name: str, gain: float, **more: Any) -> dict[str, Any]:
    price = {"seconds": 100.0, "seconds_per_epoch": 20.0, "peak_bytes": 2**30}
    return {"strategy": name, "title": name.capitalize(), "gain": gain, "low": gain - 0.05,
            "high": gain + 0.05, "prior": 0.01, "price": price, "out": None} | more  # fmt: skip


PLANNED: dict[str, Any] = {
    "strategy": "finetune", "runner_up": "probe", "tree": "probe", "rule": "by labels",
    "sentence": "Plan: Finetune.", "metric": "accuracy", "seconds": 42.0,
    "expected": [arm("finetune", 0.123), arm("probe", 0.0), arm("lora", 0.1, price=None,
                 out="no layers")],
    "reasons": [{"text": "It is +12.3 points ahead.", "name": "x", "value": 0.123}],
    "evidence": [{"name": "probe", "value": 0.784, "interval": [0.7, 0.85], "seconds": 1.0,
                  "text": "The probe reaches 78.4%."}],
    "missing": [{"name": "label_noise", "text": "cleanlab is not installed"}],
    "warnings": [NAUGHTY], "command": "warmstart fit x.csv --strategy finetune",
    "quadrant": {"labels": 256, "distance": -1.0, "name": "few labels, near domain",
                 "advice": "a probe"},
}  # fmt: skip


def show(width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(plan_view(PLANNED))
    return console.file.getvalue()


def test_the_terminal_tells_all_of_it() -> None:
    text = show()
    for words in ("Recommended: finetune", "+12.3", "+7.3 to +17.3", "[recommended]",
                  "[runner-up]", "Lora is out: no layers.", "Also measured:",
                  "The probe reaches 78.4%.", "cleanlab is not installed",
                  "* is your data: 256 labels.", "Run: warmstart fit x.csv"):  # fmt: skip
        assert words in text
    assert "\x1b" not in text
    assert max(len(line) for line in show(80).splitlines()) <= 80


@pytest.mark.parametrize(
    ("labels", "distance", "row", "column"),
    [(10, -1.0, 3, 0), (10, 1.0, 0, 0), (5000, -1.0, 3, 1), (5000, 1.0, 0, 1)],
)
def test_the_star_stands_in_its_field(labels: int, distance: float, row: int, column: int) -> None:
    lines = quadrant_lines({"labels": labels, "distance": distance})
    starred = [
        (place, cell)
        for place, line in enumerate(lines[:-1])
        for cell, text in enumerate(line.split("|"))
        if text.strip().startswith("*")
    ]
    assert starred == [(row, column)]
    assert quadrant_lines({}) == []


def test_an_unknown_distance_marks_both_fields() -> None:
    lines = quadrant_lines({"labels": 10, "distance": None})
    assert sum(line.startswith("?") for line in lines[:-1]) == 2
    assert lines[-1].startswith("? is where")


def test_the_plot_and_the_page() -> None:
    assert quadrant_plot(None) is None
    svg = quadrant_plot(PLANNED["quadrant"])
    assert svg is not None
    assert "few labels, near domain" in svg
    line = quadrant_plot(PLANNED["quadrant"] | {"distance": None})
    assert line is not None
    assert line != svg
    page = render_plan_report(PLANNED, source=NAUGHTY, command=NAUGHTY)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for words in ("+12.3", "no layers", "78.4%", "0.7 to 0.85", "cleanlab", "<svg"):
        assert words in page

"""What a measured shift looks like: tables at 80 columns, a page that stands alone."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from warmstart.reporting import render_shift_report, shift_view, write_shift_report
from warmstart.reporting.shift import class_rows, distance_rows, number
from warmstart.reporting.shift_plots import plane_plot, window_plot

EVIL = "<script>alert(1)</script>\x1b[31m"


def results() -> dict[str, Any]:
    rate = {"value": 0.2, "error": 0.02, "rows": 100.0}
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "warmstart": "0.1.0",
        "command": "warmstart shift a.csv b.csv",
        "source": {"source": "data/a.csv", "rows": 1200, "modality": "text", "labelled": 1200},
        "target": {"source": f"b{EVIL}.csv", "rows": 800, "modality": "text", "labelled": 60},
        "backbone": {"name": "MiniLM", "parameters": 22_713_216, "languages": ["en"]},
        "distances": [
            {"name": "proxy_a_distance", "title": "Proxy A-distance", "meaning": "How well.",
             "value": 1.2345, "interval": [1.1, 1.3], "halves": 0.05, "size": "25 times",
             "method": "bootstrap"},
            {"name": "mmd", "title": "MMD²", "meaning": "Kernel.", "value": 0.00123,
             "interval": None, "halves": None, "size": "", "p_value": 0.001,
             "method": "half-sampling"},
            {"name": "word_divergence", "title": "Word divergence", "meaning": "Words.",
             "value": 0.3, "interval": [0.2, 0.4], "halves": 0.01, "size": "30 times",
             "method": "half-sampling",
             "moved": [{"word": EVIL, "source": 0.001, "target": 0.02, "adds": 0.01}]},
        ],
        "per_class": [
            {"label": EVIL, "value": 0.4, "interval": [0.3, 0.5], "halves": 0.01, "rows": [9, 10]},
            {"label": "calm", "value": -0.01, "interval": None, "halves": None, "rows": [9, 10]},
        ],
        "diagnosis": {
            "findings": [
                {"kind": "covariate", "verdict": "yes", "test": "Two-sample test",
                 "statistic": "MMD²", "value": 0.00123, "p_value": 0.001, "words": "They differ.",
                 "limits": ["Small ones too."]},
                {"kind": "label", "verdict": "no", "test": "Answers", "statistic": "χ²",
                 "value": 0.4, "p_value": 0.5, "words": "Alike.", "limits": ["If alike."]},
                {"kind": "concept", "verdict": "cannot tell", "test": "Errors", "statistic": None,
                 "value": None, "p_value": None, "words": "No labels.", "limits": []},
            ],
            "label_shift": {
                "shares": [{"name": "calm", "source": 0.5, "target": 0.25, "low": 0.2,
                            "high": 0.3, "truth": None}],
            },
            "windows": [
                {"first": "2024-01-01 00:00", "last": "2024-02-01", "error": rate,
                 "expected": rate, "excess": 0.0, "p_value": 0.04},
                {"first": "2024-02-02", "last": "2024-03-01", "error": rate, "expected": None,
                 "excess": None, "p_value": None},
            ],
            "windows_test": {"explanation": "rows", "statistic": 12.345, "degrees": 1,
                             "p_value": 0.0123},
            "bound": {"source_error": 0.1, "half_divergence": 0.6, "joint_error": 0.2,
                      "bound": 0.9, "target_error": 0.3, "rows": 60},
        },
        "plane": {"source": [[0.0, 1.0], [1.0, 0.5]], "target": [[2.0, 1.0], [2.5, -1.0]],
                  "shares": [0.3, 0.2]},
        "sentences": ["A linear classifier tells them apart.", f"Careful: {EVIL}"],
    }  # fmt: skip


def show(value: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shift_view(value))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return str(text)


def test_the_terminal_shows_every_part() -> None:
    text = show(results())
    for words in (
        "Proxy A-distance", "1.23", "1.1 to 1.3", "0.05", "25 times", "MMD² of class", "calm",
        "-0.01", "Word that moved", "Rows (covariate shift)", "cannot tell", "0.5",
        "25.0 %", "20.0 % to 30.0 %", "2024-01-01", "Wald χ² = 12.3", "p = 0.0123",
        "Ben-David", "Joint error", "0.900", "A linear classifier tells them apart.",
    ):  # fmt: skip
        assert words in text, words
    assert "\x1b" not in text


def test_missing_parts_leave_their_place_empty() -> None:
    bare = results()
    for key in ("diagnosis", "plane", "per_class"):
        del bare[key]
    bare["distances"] = bare["distances"][:1]
    assert "Did it change?" not in show(bare)
    page = render_shift_report(bare)
    assert "Class by class" not in page
    assert "Which shift" not in page


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        for key, value in attributes:
            assert not (key in ("src", "href") and not str(value).startswith("#")), value
            if key == "id":
                self.ids.append(str(value))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_what_comes_from_data() -> None:
    page = render_shift_report(results())
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.tags
    assert len(parser.ids) == len(set(parser.ids))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert not re.search(r"(https?:)?//(?!www\.w3\.org)", page)
    for words in ("Both sets in one plane", "hold 50 % of their variance", "Class by class",
                  "Which shift it is", "Covariate shift: yes", "Over time", "--p: 100.0",
                  "MiniLM", "warmstart shift a.csv b.csv", "half-sampling"):  # fmt: skip
        assert words in page, words


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_shift_report(results(), tmp_path / "deep" / "shift.html")
    assert path.read_text(encoding="utf-8") == render_shift_report(results())


def test_bars_and_numbers() -> None:
    rows = class_rows(results())
    assert [row["percent"] for row in rows] == [100.0, 0.0]
    assert rows[1]["interval"] == "–"
    assert [number(value) for value in (1.23456, 3.4e-10, 12345.0, -0.01, None)] == [
        "1.23", "3.4e-10", "12,300", "-0.01", "–",
    ]  # fmt: skip
    assert distance_rows(results()["distances"])[1]["p"] == "p = 0.001"


@pytest.mark.parametrize("plane", [{}, {"source": [], "target": [[0, 1]], "shares": [0, 0]}])
def test_no_points_no_plot(plane: dict[str, Any]) -> None:
    assert plane_plot(plane) is None
    assert window_plot([]) is None

"""What measured drift looks like: tables at 80 columns, a page that stands alone."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from warmstart.reporting import drift_view, render_drift_report, write_drift_report

EVIL = "<script>alert(1)</script>\x1b[31m"


def results(found: bool = True) -> dict[str, Any]:
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "warmstart": "0.1.0",
        "command": "warmstart drift runs/a new.csv",
        "found": found,
        "level": 0.05,
        "run": {"folder": f"runs/{EVIL}", "reference_rows": 1200, "test_rows": 300,
                "model": "Probe", "created": None},
        "data": {"source": "new.csv", "rows": 800, "modality": "text", "labelled": 60},
        "tests": [
            {"name": "rows", "title": "Rows", "test": "MMD² of the vectors", "value": 0.0123,
             "p_value": 0.001, "adjusted": 0.005, "changed": True, "words": "They differ."},
            {"name": "unfamiliar", "title": "Unfamiliar rows", "test": "Beta-binomial",
             "value": 0.3, "p_value": 1e-30, "adjusted": 2e-30, "changed": True, "words": "Many."},
            {"name": "confidence", "title": "Confidence", "test": "Means", "value": -0.01,
             "p_value": 0.4, "adjusted": 0.4, "changed": False, "words": "As sure."},
        ],
        "distances": [
            {"name": "proxy_a_distance", "title": "Proxy A-distance", "meaning": "How well.",
             "value": 1.2345, "interval": [1.1, 1.3], "halves": 0.05, "size": "25 times",
             "method": "bootstrap"},
        ],
        "classes": [{"label": f"c{i}", "train": 0.1, "before": 0.1, "after": 0.1 + 0.01 * i}
                    for i in range(14)] + [{"label": EVIL, "train": 0.5, "before": 0.25,
                                            "after": 0.75}],
        "shares": {"shares": [{"name": "calm", "source": 0.5, "target": 0.25, "low": 0.2,
                               "high": 0.3, "truth": None}]},
        "windows": [
            {"first": "2024-01-01 00:00", "last": "2024-02-01", "rows": 400, "unfamiliar": 0.02,
             "low": 0.01, "high": 0.04, "confidence": 0.875, "accuracy": None, "labelled": 0},
            {"first": "2024-02-02", "last": EVIL, "rows": 400, "unfamiliar": 0.5, "low": 0.45,
             "high": 0.55, "confidence": 0.5, "accuracy": 0.625, "labelled": 40},
        ],
        "plane": {"source": [[0.0, 1.0], [1.0, 0.5]], "target": [[2.0, 1.0], [2.5, -1.0]],
                  "shares": [0.3, 0.2]},
        "sentences": ["Drift: 2 of 3 tests see a change (rows, unfamiliar).", f"Careful: {EVIL}"],
    }  # fmt: skip


def show(value: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(drift_view(value))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return str(text)


def test_the_terminal_shows_every_part() -> None:
    text = show(results())
    for words in (
        "Did it change?", "yes", "not seen", "0.005", "< 0.0001", "Proxy A-distance", "25 times",
        "75.0 %", "The 12 of 15 classes that moved most", "2024-01-01", "50.0 %", "62.5 %",
        "Drift: 2 of 3 tests see a change",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("c13") < text.index("c4"), "what moved most comes first"
    assert "\x1b" not in text


def test_the_verdict_is_red_or_green() -> None:
    for found, style in ((True, "31m"), (False, "32m")):
        console = Console(
            file=io.StringIO(), width=80, force_terminal=True, color_system="standard"
        )
        console.print(drift_view(results(found)))
        line = next(one for one in console.file.getvalue().splitlines()
                    if "Drift: 2 of" in one)  # fmt: skip
        assert style in line


def test_missing_parts_leave_their_place_empty() -> None:
    bare = results()
    bare |= {"plane": None, "windows": [], "shares": None}
    assert "Stretch of time" not in show(bare)
    page = render_drift_report(bare)
    for title in ("Both sets in one plane", "Over time", "Shares of the classes themselves"):
        assert title not in page
        assert title in render_drift_report(results())


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
    page = render_drift_report(results())
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.tags
    assert len(parser.ids) == len(set(parser.ids))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert "training" in re.sub(r"<[^>]+>", " ", page)


@pytest.mark.parametrize("found", [True, False])
def test_the_file_is_the_page(found: bool, tmp_path: Path) -> None:
    path = write_drift_report(results(found), tmp_path / "drift.html")
    assert path.read_text(encoding="utf-8") == render_drift_report(results(found))

"""What a ranking of backbones looks like: tables at 80 columns, a page that stands alone."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from warmstart.planning import TRANSFER_SCORES
from warmstart.reporting import render_transfer_report, transfer_view, write_transfer_report
from warmstart.reporting.transfer import agreement_rows, backbone_rows
from warmstart.reporting.transfer_plots import size_plot
from warmstart.workflow.rank_words import rank_sentences

EVIL = "<script>alert(1)</script>\x1b[31m"


def backbone(place: int, value: float, *, sure: bool, **changes: Any) -> dict[str, Any]:
    def score(of: float, reach: float) -> dict[str, Any]:
        return {"value": of, "low": of - reach, "high": of + reach, "method": "so"}

    card = {"name": "net", "source": "net", "family": "BERT", "parameters": 20_000_000,
            "license": "mit", "objective": "masked language modelling", "size_bytes": 90_000_000,
            "pretraining_data": "a, b, c, d, e, f", "languages": "en"}  # fmt: skip
    gap = {"difference": value - 0.9, "low": value - 0.95, "high": 0.01, "sure": sure}
    return {
        "label": f"net-{place}", "place": place, "size_place": 3 - place,
        "scores": {"probe": score(value, 0.03), "knn": score(value - 0.1, 0.03),
                   "log_me": score(-0.1 * place, 0.012), "h_score": score(2.5, 0.2)},
        "gap": None if place == 1 else gap, "first_share": 1.0 if place == 1 else 0.0,
        "card": card, "parameters": 20_000_000 * place, "dimension": 384,
        "milliseconds_a_row": 4.2, "source_classes": None,
        "source_reason": "its checkpoint has no classification head", **changes,
    }  # fmt: skip


def results(**changes: Any) -> dict[str, Any]:
    second = backbone(
        2, 0.85, sure=False, label=EVIL, source_classes=1000, source_reason=None,
        source_named_most=["tabby", EVIL], downloads=12_345, date="2024-05-31",
    )  # fmt: skip
    second["scores"]["leep"] = {"value": -0.5, "low": -0.6, "high": -0.4, "method": "so"}
    agreement = [
        {"first": "probe", "second": "size", "tau": -1.0, "low": -1.0, "high": 0.33,
         "backbones": 2},
        {"first": "probe", "second": "log_me", "tau": 1.0, "low": None, "high": None,
         "backbones": 2},
    ]  # fmt: skip
    found: dict[str, Any] = {
        "created": "2026-01-02T03:04:05+00:00", "warmstart": "0.1.0",
        "command": "warmstart rank a.csv --backbones x y", "machine": {"cpus": 2},
        "metric": "accuracy", "by": "probe", "folds": 5, "resamples": 20,
        "data": {"source": "data/a.csv", "used": 1200, "rows": 2000, "classes": 3, "group": None},
        "scores": {name: info.model_dump() for name, info in TRANSFER_SCORES.items()},
        "backbones": [backbone(1, 0.9, sure=True), second],
        "size_order": [EVIL, "net-1"], "agreement": agreement,
        "failed": [{"name": f"gone{EVIL}", "reason": "is not there."}],
    }  # fmt: skip
    found |= changes
    return found | {"sentences": rank_sentences(found)}


def show(value: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(transfer_view(value))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return str(text)


def test_the_terminal_shows_every_part() -> None:
    text = show(results())
    told = " ".join(text.split())
    for words in (
        "1 net-1", "90.0 %", "87.0–93.0", "± 0.012", "−0.100", "20.0 M", "40.0 M", "90.0 MB",
        "4.2 ms", "mit", "masked language modelling", "data a, b, c, d, and 2 more",
        "Kendall's tau with size", "−1.00 to 0.33",
    ):  # fmt: skip
        assert words in told, words
    assert "\x1b" not in text


def test_date_and_downloads_stand_where_they_are_known() -> None:
    told = " ".join(show(results()).split())
    assert "date 2024-05-31, 12.3 k downloads in the last month" in told
    assert "net-1: date" not in told
    dated = results()
    dated["backbones"][0]["card"]["date"] = "2023-01-02"
    dated["backbones"][1]["card"]["date"] = "2022-03-04"
    told = " ".join(show(dated).split())
    assert "net-1: date 2023-01-02" in told
    assert "date 2022-03-04, 12.3 k" in told, "the card's own date comes first"
    assert [row["date"] for row in backbone_rows(dated)] == ["2023-01-02", "2022-03-04"]


def test_six_scores_and_long_names_fit() -> None:
    wide = results()
    for one in wide["backbones"]:
        one["label"] = f"paraphrase-multilingual-mpnet-{one['place']}"
        one["card"]["license"] = "creativeml-openrail-m"
        for name in ("leep", "nce"):
            one["scores"][name] = {"value": -10.512, "low": -10.9, "high": -10.1, "method": "so"}
    text = show(wide)
    told = "".join(text.split())
    for words in ("−10.512", "±0.400", "±0.200", "87.0–93.0", "40.0M", "90.0MB", "4.2ms"):
        assert words in told, words
    assert "openrai" in told  # folded, not cut off
    assert "…" not in text


def test_the_sentences() -> None:
    told = results()["sentences"]
    assert told[0] == (
        "net-1 comes first of 2: Probe accuracy 90.0 % (87.0 to 93.0) on 1,200 training rows, "
        "5-fold cross-validated."
    )
    assert told[1].startswith("Not told apart from it by these rows: <script>")
    assert "−5.0 points (−10.0 to +1.0)" in told[1]
    assert "begins with <script>" in told[2]
    assert "tau of the two orders is −1.00 (−1.00 to 0.33 over resamples)" in told[2]
    assert told[3].startswith("Pretrained by masking: net-1")
    assert told[4] == (
        "LEEP and NCE need source classes. net-1: its checkpoint has no classification head."
    )
    assert told[5].endswith("is left out: is not there.")
    apart = results(backbones=[backbone(1, 0.9, sure=True), backbone(2, 0.5, sure=True)])
    assert apart["sentences"][1].startswith("These rows tell it apart from every other one; the")
    lone = results(backbones=[backbone(1, 0.9, sure=True)], failed=[], agreement=[])
    assert "One backbone has no order" in lone["sentences"][0]
    assert len(lone["sentences"]) == 3
    alike = [backbone(1, 0.9, sure=True), backbone(2, 0.8, sure=True, parameters=20_000_000)]
    assert "All have the same number of parameters" in results(backbones=alike)["sentences"][2]
    by_log_me = results(by="log_me")["sentences"][0]
    assert by_log_me.endswith("LogME −0.100 (−0.112 to −0.088) on 1,200 training rows.")


def test_what_is_not_known_is_said() -> None:
    unknown = backbone(1, 0.9, sure=True)
    unknown["card"] |= {"license": None, "pretraining_data": None, "size_bytes": None}
    row = backbone_rows(results(backbones=[unknown]))[0]
    assert (row["license"], row["data"], row["disk"]) == ("not told", "not told", "–")
    assert row["downloads"] == "–"
    assert "leep" not in row["scores"]
    rows = backbone_rows(results())
    assert rows[0]["scores"]["leep"] == {"value": "–", "interval": ""}
    assert rows[1]["scores"]["leep"] == {"value": "−0.500", "interval": "± 0.100"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in {"meta", "br", "link", "img", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_what_comes_from_data() -> None:
    page = render_transfer_report(results())
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.tags
    assert len(parser.ids) == len(set(parser.ids))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert not re.search(r"(https?:)?//(?!www\.w3\.org)", page)
    for words in ("The order", "Beside the list by size", "not told apart from the first",
                  "Left out", "1,000", "tabby", "12.3 k", "2024-05-31", "warmstart rank a.csv",
                  "so", "Kendall", "1,200 training rows in 3 classes · 2 backbones"):  # fmt: skip
        assert words in page, words


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_transfer_report(results(), tmp_path / "deep" / "rank.html")
    assert path.read_text(encoding="utf-8") == render_transfer_report(results())


def test_orders_that_agree() -> None:
    rows = agreement_rows(results())
    assert rows[0] == {
        "first": "Probe accuracy", "second": "Size", "tau": "−1.00", "interval": "−1.00 to 0.33",
        "backbones": "2",
    }  # fmt: skip
    assert rows[1]["interval"] == ""


@pytest.mark.parametrize("percent", [True, False])
def test_the_plot_tells_each_point(percent: bool) -> None:
    points = [
        {"label": f"net {EVIL}", "place": place, "parameters": 10**6 * place, "value": 0.5,
         "low": 0.4, "high": 0.6}
        for place in (1, 2)
    ]  # fmt: skip
    svg = size_plot(points, "Probe accuracy", percent)
    assert svg is not None
    assert svg == size_plot(points, "Probe accuracy", percent)
    assert ("50.0" if percent else "0.500") in svg.split(">")[0]
    assert "<script>" not in svg
    assert size_plot([], "LogME", False) is None

"""The report: self-contained, escaped, complete, and never stopped by a missing part."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from warmstart.reporting import render_report, write_report
from warmstart.reporting import view as views

from .sample import accuracy_of, sample

HOSTILE = '<script>alert("x")</script>|`*_&\x1b[2J'


class Page(HTMLParser):
    """Collects tags, ids and text, and checks that elements close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br", "img", "input", "hr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(sample())


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    ids = [attrs["id"] for _, attrs in Page(page).tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert page.startswith("<!doctype html>")
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page


def test_every_table_scrolls_in_its_own_box(page: str) -> None:
    assert page.count("<table") == page.count('<div class="scroll"')


def test_the_verdict_comes_first_and_every_section_is_there(page: str) -> None:
    order = [
        "verdict", "comparison", "intervals", "curves", "mistakes", "metrics", "data", "settings",
        "reproduce", "meaning",
    ]  # fmt: skip
    places = [page.index(f'id="{name}"') for name in order]
    assert places == sorted(places)
    text = Page(page).text
    value, low, high = accuracy_of(sample(), "finetune")
    for words in (
        "Fine-tuning is best",
        "What to try next",
        f"{value} %",
        f"{low}–{high}",
        "2 min 28 s",
        "no NLI model was given",
        "7 pairs of near duplicates",
        "0f3a9be2c4d15e6f708192a3b4c5d6e7",
        "layer.5",
        "5.00e-05",
        "frozen",
        "torch",
        "warmstart compare reviews.csv --seeds 3 --budget 15m",
        "Expected calibration error",
        "Linear probe is better",
        "no clear difference",
        "Accuracy by group",
    ):
        assert words in text, words


def test_plots_are_drawn_and_described(page: str) -> None:
    plots = [attrs for tag, attrs in Page(page).tags if tag == "svg"]
    assert len(plots) == 4  # intervals, two learning curves, reliability
    assert all(attrs.get("aria-label") for attrs in plots)


def test_the_report_is_the_same_each_time() -> None:
    assert render_report(sample()) == render_report(sample())


def test_hostile_texts_stay_texts() -> None:
    results = sample((HOSTILE, "ok"))
    hostile: Any = copy.deepcopy(results)
    hostile["data"]["source"] = HOSTILE
    hostile["data"]["split"]["notes"] = [HOSTILE]
    hostile["audit"] = {"findings": [{"severity": "warning", "message": HOSTILE}]}
    hostile["command"] = ["warmstart", "compare", HOSTILE]
    hostile["backbone"]["name"] = HOSTILE
    hostile["machine"]["platform"] = HOSTILE
    hostile["verdict"]["sentences"] = hostile["verdict"]["next"] = [HOSTILE]
    for arm in hostile["arms"]:
        arm["label"] = HOSTILE
        arm["notes"] = [HOSTILE]
        arm["settings"] = {HOSTILE: HOSTILE}
        if arm.get("scores"):
            groups = arm["scores"]["by_group"]
            arm["scores"]["by_group"] = {HOSTILE: groups["long"]}
    page = render_report(hostile)
    tags = [tag for tag, _ in Page(page).tags]
    assert "script" not in tags
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert not [attrs for _, attrs in Page(page).tags if any(key.startswith("on") for key in attrs)]


def test_labels_in_other_scripts_are_shown() -> None:
    results = sample(("हिन्दी", "Deutsch", "日本語"))
    results["arms"][0]["label"] = "हिन्दी"
    text = Page(render_report(results)).text
    assert "हिन्दी" in text
    assert "日本語" in text


def test_up_to_twenty_classes_are_a_matrix_and_more_are_pairs() -> None:
    few = Page(render_report(sample(tuple(f"c{i}" for i in range(20)), 200))).text
    assert "Confusion matrix" in few
    assert "Most often confused" not in few
    many = Page(render_report(sample(tuple(f"class {i}" for i in range(77)), 400))).text
    assert "Confusion matrix" not in many
    assert "Most often confused" in many
    assert "All 77 classes, weakest first" in many
    assert "Top-3 accuracy" in many


def test_arms_without_scores_and_missing_parts_never_stop_it() -> None:
    results = sample()
    results["arms"][3].update(status="cut", scores=None, reason="no epoch fits", history=[])
    text = Page(render_report(results)).text
    assert "From scratch: cut by the budget: no epoch fits" in text
    for arm in results["arms"]:
        arm["history"] = []  # drawing is slow and is not what is asked here
        if arm.get("scores"):
            arm["scores"]["reliability"] = []
    for key in list(results):
        Page(render_report({k: v for k, v in results.items() if k != key}))
    for key in list(results["arms"][0]):
        arms = [{k: v for k, v in arm.items() if k != key} for arm in results["arms"]]
        Page(render_report({**results, "arms": arms}))
    assert "there is no verdict" in Page(render_report({})).text


def test_cost_columns_follow_the_results() -> None:
    results = sample()
    for arm in results["arms"]:
        arm["cost"] = {"money": 0.25, "co2_grams": 12.0}
    text = Page(render_report(results)).text
    assert "CO₂" in text
    assert "0.25" in text
    assert "CO₂" not in Page(render_report(sample())).text


def test_flags_are_shown_where_no_sentence_says_them() -> None:
    results = sample()
    results["verdict"]["negative_transfer"] = ["zero-shot"]
    results["verdict"]["sentences"] = ["Fine-tuning is best."]
    text = Page(render_report(results)).text
    assert "Negative transfer. Zero-shot is significantly below the same network" in text
    assert "negative transfer, below TF-IDF" in text


def test_a_metric_where_lower_is_better_says_so() -> None:
    results = sample()
    results["settings"]["primary"] = "log_loss"
    page = render_report(results)
    assert "lower is better" in page
    first = views.scored_rows(results, "log_loss")[0]
    assert first["name"] == "finetune"


def test_the_command_is_rebuilt_where_none_was_recorded() -> None:
    results = sample()
    del results["command"]
    results["data"]["source"] = "my data.csv"
    results["backbone"]["source"] = "hub:owner/name"
    assert views.command(results) == (
        "warmstart compare 'my data.csv' --backbone owner/name --seeds 3 --limit 800 "
        "--max-length 128 --budget 900s"
    )


def test_written_report_reads_json_back(tmp_path: Path) -> None:
    results = json.loads(json.dumps(sample(), allow_nan=False))
    path = write_report(results, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == render_report(results)
    assert path.stat().st_size < 500_000


def test_confused_pairs_are_the_largest_cells_off_the_diagonal() -> None:
    scores = {
        "per_class": {"a": {}, "b": {}, "c": {}},
        "confusion": [[5, 3, 0], [0, 9, 1], [4, 0, 6]],
    }
    found = views.confused_pairs(scores, most=2)
    assert [(p["truth"], p["predicted"], p["n"], p["share"]) for p in found] == [
        ("c", "a", 4, "40 %"),
        ("a", "b", 3, "38 %"),
    ]


def test_interpolated_weights_are_a_plot_and_not_a_list_of_numbers() -> None:
    results = sample()
    points = [
        {"share": share, "chosen": share == 0.5, "validation_loss": 0.5 - share / 4,
         "validation_accuracy": 0.7 + share / 5}
        for share in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    results["arms"][2]["chosen"] = {"wise_share": 0.5, "wise_curve": points}
    page = render_report(results)
    assert "Interpolated weights: validation loss from 0.500 untouched to 0.250 tuned" in page
    assert "Kept: 50% of the tuned weights." in page
    assert "from the untouched to the tuned weights" in page
    assert "chosen wise_share" in page
    assert "wise_curve" not in page


def test_an_old_task_is_drawn_beside_the_new_one() -> None:
    results = sample()
    for place, epoch in enumerate(results["arms"][2]["history"][0]):
        epoch["retained_accuracy"] = 0.8 - 0.125 * place
    page = render_report(results)
    last = 0.8 - 0.125 * (len(results["arms"][2]["history"][0]) - 1)
    assert f"retained accuracy from 0.800 to {last:.3f}" in page
    assert "old task" in page
    assert "old task" not in render_report(sample())


def test_the_head_tells_how_many_seeds_were_run() -> None:
    results = sample()
    assert "· 3 seeds" in render_report(results)
    for arm in results["arms"]:
        arm["seeds"] = min(arm["seeds"], 1)
    assert "· 1 of 3 seeds" in render_report(results)

"""The comparison of recommenders as a table, a page and Markdown."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from warmstart.evaluation import KS
from warmstart.evaluation.ranking_metrics import names_for
from warmstart.reporting import (
    comparison_view,
    index_view,
    ranking_markdown,
    ranking_rows,
    render_index_report,
    render_ranking_report,
    trade_off_plot,
)
from warmstart.reporting.ranking import (
    lift_rows,
    metric_rows,
    metric_text,
    metric_title,
    slice_rows,
)

from .test_html import Page

HOSTILE = '<script>alert("x")</script>|`*'


def score(value: float, n: int = 100) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


def arm(name: str, value: float, role: str = "arm", **more: Any) -> dict[str, Any]:
    metrics = {"HR@10": score(value / 2), "HR@100": score(value), "NDCG@10": score(value / 3),
               "MRR": score(value / 4), "coverage@10": {"value": 0.5, "low": None, "high": None,
                                                        "n": 100}}  # fmt: skip
    cold = {"cold": {"HR@100": score(value / 5, 7)}, "warm": {"HR@100": score(value, 93)}}
    return {
        "name": name, "label": name.title(), "role": role, "status": "done", "seconds": 12.0,
        "settings": {"width": 128}, "trainable_parameters": 1000,
        "tried": [{"last": 5, "HR@100": 0.5, "chosen": True}],
        "next_item": {"validation": {"HR@100": value},
                      "test": {"metrics": metrics, "slices": {"item": cold}}},
        "all_future": {"test": {"metrics": {"Recall@10": score(0.1)}}}, **more,
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    left_out = {"name": "als", "label": "ALS", "role": "control", "status": "not applicable",
                "reason": "the package implicit is not installed", "seconds": None}  # fmt: skip
    return copy.deepcopy({
        "task_type": "retrieve", "command": "warmstart compare films/", "warmstart": "0",
        "data": {"source": "films/", "name": "films", "events": 1000, "users": 50, "items": 90,
                 "notes": ["Times are seconds."], "split": {"test events": 100}},
        "settings": {"primary": "HR@100"}, "kept": "two-tower",
        "arms": [arm("two-tower", 0.7), arm("ease", 0.6, "control"), left_out],
        "lifts": [{"a": "two-tower", "b": "ease", "metric": "HR@100", "difference": 0.1,
                   "low": 0.05, "high": 0.15, "significant": True}],
        "fairness": [{"by": "team", "metric": "HR@100", "best": "red", "worst": "blue",
                      "groups": {"red": score(0.7), "blue": score(0.6)}, "gap": score(0.1),
                      "significant": True}],
        "verdict": {"best": "two-tower", "sentences": ["Two-tower is best."], "next": ["Serve."]},
    })  # fmt: skip


def printed(results: dict[str, Any], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_view(results))
    return console.file.getvalue()


def test_the_terminal_shows_what_decides(results: dict[str, Any]) -> None:
    text = printed(results)
    for words in ("Two-Tower", "70.0 %", "65.0-75.0", "0.175", "Coverage@10", "+10.0",
                  "+5.0 to +15.0", "clearly better", "the package implicit is not installed",
                  "cold items", "14.0 % 9.0-19.0", "By team: a clear gap; red is 10.0 points",
                  "Two-tower is best.", "- Serve."):  # fmt: skip
        assert words in text, words


def test_a_lift_that_is_not_significant_is_called_so(results: dict[str, Any]) -> None:
    results["lifts"][0] |= {"significant": False, "difference": -0.02, "low": -0.05, "high": 0.01}
    assert lift_rows(results)[0]["words"] == "no clear difference"
    results["lifts"][0] |= {"significant": True}
    assert lift_rows(results)[0]["words"] == "clearly worse"
    assert lift_rows(results)[0]["difference"] == "−2.0"


def test_slices_stand_beside_their_counts(results: dict[str, Any]) -> None:
    found = slice_rows(results)
    assert found is not None
    assert [row["label"] for row in found["rows"]] == ["cold items", "warm items"]
    assert [row["n"] for row in found["rows"]] == [7, 93]
    assert [cell["value"] for cell in found["rows"][0]["cells"]] == ["14.0 %", "12.0 %"]
    del results["arms"][0]["next_item"]["test"]["slices"]
    del results["arms"][1]["next_item"]["test"]["slices"]
    assert slice_rows(results) is None


def test_the_page_is_whole_and_loads_nothing(results: dict[str, Any]) -> None:
    page = render_ranking_report(results)
    parsed = Page(page)
    text = " ".join(" ".join(parsed.words).split())
    for words in ("Two-Tower", "70.0 %", "clearly better", "cold items", "Are groups served alike",
                  "All that came later", "Times are seconds.", "warmstart compare films/",
                  "1,000 events", "the package implicit is not installed"):  # fmt: skip
        assert words in text, words
    assert "<script" not in page
    assert not [1 for tag, attrs in parsed.tags if attrs.get("src") or attrs.get("href")]
    ids = [attrs["id"] for _, attrs in parsed.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert "<svg" in page


def test_hostile_texts_stay_texts(results: dict[str, Any]) -> None:
    results["arms"][0]["label"] = results["data"]["name"] = HOSTILE
    results["fairness"][0]["by"] = results["verdict"]["sentences"][0] = HOSTILE
    assert "<script" not in render_ranking_report(results)
    assert "<script" in printed(results), "shown as it is, not read as markup"
    assert "\\<script\\>" in ranking_markdown(results, name="x")


def test_missing_parts_never_stop_it(results: dict[str, Any]) -> None:
    bare = {"arms": [], "verdict": {}, "task_type": "retrieve"}
    for one in (bare, {**results, "arms": [{"name": "x", "status": "cut"}]}):
        assert "<html" in render_ranking_report(one)
        printed(one)
        ranking_markdown(one, name="x")


def test_metrics_are_named_and_written_by_their_kind(results: dict[str, Any]) -> None:
    assert metric_title("coverage@10") == "Coverage@10"
    assert metric_title("HR@10") == "HR@10"
    assert metric_text("HR@10", 0.123) == "12.3 %"
    assert metric_text("MRR", 0.123) == "0.123"
    assert metric_text("median_rank", 12.0) == "12"
    assert metric_text("MRR", None) == "–"
    rows = ranking_rows(results)
    assert [row["best"] for row in rows] == [True, False, False]


@pytest.mark.parametrize(
    ("similar", "told"),
    [
        (None, ""),
        ({"effort": 1.0, "meets": True}, "take the same effort: recall 0.970, p99 1.5 ms."),
        (
            {"effort": 4.0, "meets": False},
            "take 4 times the effort: recall 0.970, p99 1.5 ms, short of what was asked for.",
        ),
    ],
)
def test_an_index_tells_what_items_find_that_ask(similar: Any, told: str) -> None:
    if similar is not None:
        similar |= {"recall": 0.97, "recall_low": 0.96, "p99_ms": 1.5}
    choice = {"trials": [], "rows": 90, "queries": 9, "target": {"recall": 0.95, "p99_ms": 5.0},
              "similar": similar}  # fmt: skip
    shown = render_index_report({"engine": "flat", "items": 90, "choice": choice})
    assert told in shown
    assert ("asked as queries" in shown) == bool(told)


def test_an_index_tells_what_was_tried() -> None:
    trial = {"engine": "flat", "settings": {}, "recall": 1.0, "p50_ms": 0.2, "p99_ms": 0.5,
             "megabytes": 1.5, "meets": True}  # fmt: skip
    skipped = {"engine": "hnsw", "recall": None, "reason": "too few items"}
    choice = {"trials": [trial, skipped], "target": {"recall": 0.95, "p99_ms": 5.0}}
    found = {"engine": "flat", "items": 90, "folder": "runs/x.index/0001", "choice": choice,
             "settings": {}}  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    console.print(index_view(found))
    text = console.file.getvalue()
    for words in ("flat", "1.000", "0.50 ms", "1.5 MB", "too few items", "90 items in a flat index",
                  "runs/x.index/0001", "recall 0.95"):  # fmt: skip
        assert words in text, words


def trial(engine: str, recall: float, p99: float, **settings: int) -> dict[str, Any]:
    return {"engine": engine, "settings": settings, "recall": recall, "recall_low": recall - 0.01,
            "p50_ms": p99 / 2, "p99_ms": p99, "build_seconds": 1.0, "megabytes": 2.0,
            "meets": recall >= 0.95 and p99 <= 5, "reason": None}  # fmt: skip


@pytest.fixture
def index() -> dict[str, Any]:
    trials = [trial("flat", 1.0, 9.0), trial("hnsw", 0.9, 0.5, searching=64),
              trial("hnsw", 0.97, 0.9, searching=128),
              {"engine": "ivf-pq", "settings": {}, "recall": None,
               "reason": "too few <rows>"}]  # fmt: skip
    choice = {"engine": "hnsw", "settings": {"searching": 128}, "met": True, "rows": 90_000,
              "queries": 500, "target": {"recall": 0.95, "p99_ms": 5.0, "k": 100},
              "trials": trials}  # fmt: skip
    return {"folder": "runs/films.index/0001", "items": 90_000, "engine": "hnsw",
            "settings": {"searching": 128}, "choice": choice}  # fmt: skip


def test_the_page_of_an_index_draws_what_was_measured(index: dict[str, Any]) -> None:
    page = render_index_report(index)
    found = Page(page)
    for words in ("90,000 items in a hnsw index.", "recall 0.95", "searching 128", "0.970",
                  "too few <rows>", "chosen", "films"):  # fmt: skip
        assert words in found.text, words
    assert "<script" not in page
    assert "<rows>" not in page
    plot = trade_off_plot(index["choice"])
    assert plot is not None
    assert "hnsw 97.0% within 0.9 ms" in plot
    assert "ivf-pq" not in plot, "what was not measured has no point"
    assert plot == trade_off_plot(index["choice"])


def test_an_engine_that_was_named_has_no_plot(index: dict[str, Any]) -> None:
    found = Page(render_index_report(index | {"choice": None}))
    assert "The engine was named, not chosen." in found.text
    assert not [tag for tag, _ in found.tags if tag == "svg"]
    assert trade_off_plot({"trials": [{"engine": "flat", "recall": None}]}) is None


def test_lifts_on_new_items_are_shown(results: dict[str, Any]) -> None:
    results["cold_lifts"] = [{"a": "two-tower", "b": "ease", "metric": "HR@100", "n": 1234,
                              "difference": 0.2, "low": 0.1, "high": 0.3,
                              "significant": True}]  # fmt: skip
    text = printed(results, 140)
    assert "HR@100 on the 1,234 questions about new items" in text
    assert "Two-Tower - Ease +20.0" in text
    found = Page(render_ranking_report(results)).text
    assert "New items: what reading them is worth" in found
    assert "+20.0" in found


def test_several_seeds_and_later_events_are_named(results: dict[str, Any]) -> None:
    results["arms"][0]["next_item"]["test"]["seeds"] = 3
    assert "mean of 3 seeds" in printed(results)
    assert "the best baseline" in printed(results)
    results["run"] = "runs/films"
    assert "the best baseline" not in printed(results)


def test_the_bound_on_the_information_stands_beside_its_limit(results: dict[str, Any]) -> None:
    assert "nats" not in printed(results)
    results["arms"][0] |= {
        "information": {"nats": -0.4567, "most": 6.9315},
        "history": [[{"epoch": 1, "train_loss": 1.0}]],
    }
    results["arms"][1]["information"] = None
    line = (
        "Two-Tower: mutual information of user and next item on validation at least −0.46 nats; "
        "this bound cannot show more than 6.93."
    )
    assert line in printed(results, 160)
    assert line in Page(render_ranking_report(results)).text


def test_groups_that_are_clearly_apart_are_named_beside_best_and_worst(
    results: dict[str, Any],
) -> None:
    """The extremes may hide in their noise what larger groups show."""
    one = results["fairness"][0]
    one |= {"significant": False, "too_small": {"green": 7}, "apart": [["many", HOSTILE]]}
    text = printed(results, 300)
    assert "By team: no clear gap between best and worst, but between others; red is" in text
    assert f"Clearly apart too: many above {HOSTILE}." in text
    assert "Too few users to judge: green (7)." in text
    page = render_ranking_report(results)
    assert "no clear gap between best and worst, but between others;" in Page(page).text
    assert f"many above {HOSTILE}" in Page(page).text
    assert "Clearly apart: 1 pair of groups" in Page(page).text
    assert "Too few users to judge (how many): green (7)." in Page(page).text
    one |= {"significant": True, "apart": [["red", "blue"], *([f"g{n}", "h"] for n in range(5))]}
    text = printed(results, 300)
    assert "By team: a clear gap; red is" in text
    assert "Clearly apart too: g0 above h, g1 above h, g2 above h and 2 more." in text
    assert "Clearly apart too: 5 pairs of groups" in Page(render_ranking_report(results)).text
    one |= {"significant": False, "apart": [], "too_small": {}}
    assert "By team: no clear gap; red is" in printed(results, 300)
    assert "Clearly apart" not in printed(results, 300) + Page(render_ranking_report(results)).text


def test_the_page_holds_every_metric_with_its_interval(results: dict[str, Any]) -> None:
    for arm in results["arms"][:2]:
        found = {name: score(0.25) for name in names_for(KS)}
        found["median_rank"] = {"value": 12.0, "low": 9.0, "high": 15.0, "n": 100}
        arm["next_item"]["test"]["metrics"] = arm["all_future"]["test"]["metrics"] = found
    page = Page(render_ranking_report(results))
    assert [tag for tag, _ in page.tags].count("details") == 2
    assert "All metrics of next item" in page.text
    assert "All metrics of all future items" in page.text
    titles = [metric_title(name) for name in names_for(KS)]
    assert {"HR@1", "NDCG@50", "Median rank", "Debiased recall@5", "Coverage@100"} <= set(titles)
    for kind in ("next_item", "all_future"):
        table = metric_rows(results, kind)
        assert table is not None
        assert table["heads"] == ["Two-Tower", "Ease"], "what has no score has no column"
        assert [row["label"] for row in table["rows"]] == titles
        values = {row["label"]: row["cells"][0] for row in table["rows"]}
        assert values["Median rank"] == {"value": "12", "interval": "9–15"}
        assert values["Debiased recall@50"] == {"value": "25.0 %", "interval": "20.0–30.0"}
    assert "Median rank 12 9–15" in page.text
    assert metric_rows({"arms": []}) is None

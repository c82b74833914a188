"""The report of a comparison of recommenders: one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart.core import write_atomic
from warmstart.evaluation import RANKING_METRICS

from . import format as fmt
from . import plots, ranking, view
from .pages import machine_facts, page, trusted, when
from .view import Json

__all__ = ["render_ranking_report", "write_ranking_report"]

_KINDS = ("next_item", "all_future")
_FUTURE = ("Recall@10", "Recall@100", "NDCG@10", "MRR", "coverage@10")
_TITLES = {"events": "Events", "users": "Users", "items": "Items"}


def write_ranking_report(results: Json, path: Path) -> Path:
    """Write the report, replacing the file whole.

    Args:
        results: The content of results.json of a retrieval run.
        path: The file to write.
    """
    write_atomic(Path(path), render_ranking_report(results))
    return Path(path)


def render_ranking_report(results: Json) -> str:
    """The report as one self-contained page.

    Args:
        results: The content of results.json; missing parts leave their place empty.
    """
    return page("ranking.html.j2", _context(results))


def _context(results: Json) -> dict[str, Any]:
    data, verdict = results.get("data") or {}, results.get("verdict") or {}
    primary = view.primary_of(results)
    future = ranking.ranking_rows(results, "all_future", _FUTURE)
    words = view.command(results).split()
    return {
        "verb": words[1] if len(words) > 1 else "compare",
        "title": fmt.clean(data.get("name") or "comparison"),
        "when": when(results.get("created")),
        "version": fmt.clean(results.get("warmstart") or ""),
        "summary": _summary(data),
        "sentences": [fmt.clean(text) for text in verdict.get("sentences") or []],
        "next": [fmt.clean(text) for text in verdict.get("next") or []],
        "primary": ranking.metric_title(primary),
        "heads": [ranking.metric_title(name) for name in ranking.COLUMNS],
        "rows": ranking.ranking_rows(results),
        "all_metrics": {kind: ranking.metric_rows(results, kind) for kind in _KINDS},
        "notices": view.notices(results),
        "forest": trusted(
            plots.forest(_forest(results, primary), primary, best=verdict.get("best"))
        ),
        "lifts": ranking.lift_rows(results),
        "cold_lifts": ranking.lift_rows(results, kind="cold_lifts"),
        "slices": ranking.slice_rows(results),
        "future": [row for row in future if any(c["value"] != fmt.MISSING for c in row["cells"])],
        "future_heads": [ranking.metric_title(name) for name in _FUTURE],
        "fairness": ranking.fairness_rows(results),
        "curves": _curves(results),
        "information": ranking.information_lines(results),
        "data": _data(data),
        "data_notes": [fmt.clean(note) for note in data.get("notes") or []],
        "settings": [_settings(arm) for arm in view.arms_in_order(results)],
        "command": view.command(results),
        "machine": machine_facts(results.get("machine") or {}),
        "glossary": _glossary(),
    }


def _summary(data: Json) -> str:
    parts = [f"{data[key]:,} {key}" for key in ("events", "users", "items") if data.get(key)]
    return " · ".join(parts)


def _forest(results: Json, primary: str) -> list[dict[str, Any]]:
    rows = []
    for arm in ranking.scored(results):
        score = arm["next_item"]["test"]["metrics"].get(primary)
        if score:
            rows.append(
                {
                    "label": fmt.clean(arm.get("label") or arm.get("name")),
                    "name": arm.get("name"),
                    "role": arm.get("role"),
                    **{key: score.get(key) for key in ("value", "low", "high")},
                }
            )
    return sorted(rows, key=lambda row: -float(row["value"]))


def _curves(results: Json) -> list[dict[str, Any]]:
    found = []
    for number, arm in enumerate(view.arms_in_order(results)):
        svg = plots.learning_curves(arm, name=f"curves{number}", color=number)
        if svg is not None:
            label = fmt.clean(arm.get("label") or arm.get("name"))
            found.append({"label": label, "svg": trusted(svg)})
    return found


def _data(data: Json) -> list[tuple[str, str]]:
    facts = [("Source", fmt.clean(data.get("source") or fmt.MISSING))]
    facts += [(_TITLES[key], f"{data[key]:,}") for key in _TITLES if data.get(key) is not None]
    for key, value in (data.get("split") or {}).items():
        shown = f"{value:,}" if isinstance(value, int) else view.plain(value)
        facts.append((fmt.clean(key).replace("_", " ").capitalize(), shown))
    if data.get("fingerprint"):
        facts.append(("Fingerprint", fmt.clean(data["fingerprint"])))
    return facts


def _settings(arm: Json) -> dict[str, Any]:
    pairs = [(fmt.clean(k), view.plain(v)) for k, v in (arm.get("settings") or {}).items()]
    tried = list(arm.get("tried") or [])
    heads = list(tried[0]) if tried else []
    return {
        "label": fmt.clean(arm.get("label") or arm.get("name")),
        "pairs": pairs,
        "tried_heads": [fmt.clean(head) for head in heads],
        "tried": [[view.plain(row.get(head)) for head in heads] for row in tried],
    }


def _glossary() -> list[tuple[str, str]]:
    words = [(one.title, one.meaning) for one in RANKING_METRICS.values()]
    return [
        *words,
        (
            "95 % interval",
            "From a bootstrap over users: whole users are drawn again with replacement, and so are "
            "training seeds where an arm has several; the middle 95 % of the results is shown.",
        ),
        (
            "Baseline",
            "Popularity, neighbours of items and the like, each with the settings that validation "
            "chose. A model that does not clearly beat the best of them is not worth its cost.",
        ),
        (
            "Mutual information",
            "How much a user's vector tells of the item that comes next, in nats, at the least: "
            "log(K + 1) minus the InfoNCE loss among K + 1 validation questions, so never more "
            "than log(K + 1). Below 0 it tells nothing.",
        ),
    ]

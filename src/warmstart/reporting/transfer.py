"""A ranking of backbones for people: the terminal's tables, and the report as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmstart.core import write_atomic
from warmstart.evaluation import METRICS

from . import format as fmt
from .pages import machine_facts, page, trusted, when
from .transfer_plots import size_plot
from .view import Json, plain

__all__ = ["backbone_rows", "render_transfer_report", "transfer_view", "write_transfer_report"]

_UNTOLD = "not told"
_SHOWN_SETS = 4
_LABEL_WIDTH = 16


def transfer_view(results: Json) -> RenderableType:
    """Scores, the order by size, what the cards say, and what it comes to.

    Args:
        results: The JSON of a ranking.
    """
    rows = backbone_rows(results)
    names = score_names(results)
    parts: list[RenderableType] = [_scores(results, rows, names), Text(), _facts(rows)]
    parts += [Text(line, style="dim") for line in _pretraining(rows) + _published(rows)]
    sized = [row for row in agreement_rows(results) if row["second"] == "Size"]
    if sized:
        table = _table("Kendall's tau with size", "", "95 % interval")
        for row in sized:
            table.add_row(*(Text(row[key]) for key in ("first", "tau", "interval")))
        parts += [Text(), table]
    parts.append(Text())
    for number, sentence in enumerate(results.get("sentences") or []):
        parts.append(Text(fmt.clean(sentence), style="bold" if number == 0 else ""))
    return Group(*parts)


def write_transfer_report(results: Json, path: Path) -> Path:
    """Write the report of a ranking; it loads nothing and runs no script.

    Args:
        results: The JSON of a ranking.
        path: The file to write, replaced whole.

    Returns:
        The path.
    """
    write_atomic(Path(path), render_transfer_report(results))
    return Path(path)


def render_transfer_report(results: Json) -> str:
    """The report as one self-contained HTML page.

    Args:
        results: The JSON of a ranking.
    """
    data = results["data"]
    rows = backbone_rows(results)
    names = score_names(results)
    by = _title(results, results["by"])
    plot = size_plot(_points(results), by, _percent(results, results["by"]))
    count = f"{len(rows)} backbone{'s' if len(rows) != 1 else ''}"
    shown = {
        "title": Path(str(data["source"])).name or str(data["source"]),
        "when": when(results.get("created")),
        "version": fmt.clean(results.get("warmstart") or ""),
        "summary": f"{data['used']:,} training rows in {data['classes']} classes · {count}",
        "sentences": [fmt.clean(one) for one in results.get("sentences") or []],
        "rows": rows,
        "titles": [(name, _title(results, name)) for name in names],
        "by": by,
        "plot": trusted(plot),
        "size_order": [fmt.clean(name) for name in results.get("size_order") or []],
        "agreement": agreement_rows(results),
        "failed": [(fmt.clean(one["name"]), fmt.clean(one["reason"])) for one in results["failed"]],
        "methods": _methods(results),
        "meanings": [
            (_title(results, name), fmt.clean(results["scores"][name]["meaning"])) for name in names
        ],
        "data": [
            (key.replace("_", " ").capitalize(), plain(value))
            for key, value in data.items()
            if value not in (None, "")
        ],
        "machine": machine_facts(results.get("machine") or {}),
        "command": fmt.clean(results.get("command") or ""),
    }  # fmt: skip
    return page("transfer.html.j2", shown | {"title": fmt.clean(shown["title"])})


def score_names(results: Json) -> list[str]:
    """Scores that some backbone has, in their order."""
    return [
        name
        for name in results["scores"]
        if any(name in one["scores"] for one in results["backbones"])
    ]


def backbone_rows(results: Json) -> list[dict[str, Any]]:
    """Each backbone as texts, the best first."""
    found = []
    for one in results["backbones"]:
        card = one["card"]
        gap = one.get("gap")
        classes = one.get("source_classes")
        named = ", ".join(map(fmt.clean, one.get("source_named_most") or []))
        found.append(
            {
                "label": fmt.clean(one["label"]),
                "place": str(one["place"]),
                "size_place": str(one["size_place"]),
                "scores": {name: _score(results, one, name) for name in score_names(results)},
                "near": gap is not None and not gap["sure"],
                "gap": _gap(results, gap),
                "first_share": f"{one['first_share']:.0%}".replace("%", " %"),
                "parameters": fmt.count(one["parameters"]),
                "dimension": f"{one['dimension']:,}",
                "disk": fmt.memory(card.get("size_bytes")),
                "time": fmt.milliseconds(one["milliseconds_a_row"]),
                "license": fmt.clean(card.get("license") or _UNTOLD),
                "objective": fmt.clean(card.get("objective") or _UNTOLD),
                "data": fmt.clean(card.get("pretraining_data") or _UNTOLD),
                "languages": fmt.clean(card.get("languages") or ""),
                "family": fmt.clean(card.get("family") or ""),
                "source": fmt.clean(card.get("source") or ""),
                "downloads": fmt.count(one.get("downloads")),
                "date": fmt.clean(card.get("date") or one.get("date") or fmt.MISSING),
                "classes": f"{classes:,}" if classes else fmt.MISSING,
                "classes_words": named if classes else fmt.clean(one.get("source_reason") or ""),
            }
        )
    return found


def agreement_rows(results: Json) -> list[dict[str, str]]:
    """Each pair of orders as texts."""
    found = []
    for one in results.get("agreement") or []:
        interval = ""
        if one.get("low") is not None:
            interval = f"{one['low']:.2f} to {one['high']:.2f}"
        second = one["second"]
        found.append(
            {
                "first": _title(results, one["first"]),
                "second": "Size" if second == "size" else _title(results, second),
                "tau": f"{one['tau']:.2f}".replace("-", "−"),
                "interval": interval.replace("-", "−"),
                "backbones": str(one["backbones"]),
            }
        )
    return found


def _title(results: Json, name: str) -> str:
    info = results["scores"][name]
    if not info["predicts"]:
        return fmt.clean(info["title"])
    return f"{fmt.clean(info['title'])} {fmt.metric_words(results['metric'])}"


def _percent(results: Json, name: str) -> bool:
    metric = METRICS.get(results["metric"])
    return bool(results["scores"][name]["predicts"] and metric is not None and metric.percent)


def _number(results: Json, name: str, value: float, digits: int = 1) -> str:
    if _percent(results, name):
        return f"{100 * value:.{digits}f}"
    return f"{value:.3f}".replace("-", "−")


def _score(results: Json, one: Mapping[str, Any], name: str) -> dict[str, str]:
    score = one["scores"].get(name)
    if score is None:
        return {"value": fmt.MISSING, "interval": ""}
    unit = " %" if _percent(results, name) else ""
    low, high = (_number(results, name, score[key]) for key in ("low", "high"))
    # Values of halves have a symmetric interval; "-0.1 to -0.03" is harder to read.
    symmetric = not results["scores"][name]["predicts"]
    reach = _number(results, name, (score["high"] - score["low"]) / 2)
    return {
        "value": f"{_number(results, name, score['value'])}{unit}",
        "interval": f"± {reach}" if symmetric else f"{low}–{high}",
    }


def _gap(results: Json, gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return fmt.MISSING
    scale = 100 if _percent(results, results["by"]) else 1
    digits = 1 if scale == 100 else 3
    shown = [f"{scale * gap[key]:+.{digits}f}" for key in ("difference", "low", "high")]
    shown = [value.replace("-", "−") for value in shown]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _points(results: Json) -> list[dict[str, Any]]:
    by = results["by"]
    return [
        {
            "label": one["label"],
            "place": one["place"],
            "parameters": one["parameters"],
            **{key: one["scores"][by][key] for key in ("value", "low", "high")},
        }
        for one in results["backbones"]
    ]


def _methods(results: Json) -> list[tuple[str, str]]:
    first = results["backbones"][0]
    return [
        (_title(results, name), fmt.clean(score["method"]))
        for name, score in first["scores"].items()
    ]


def _pretraining(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each was pretrained for and on, backbones of one kind together."""
    told: dict[str, list[str]] = {}
    for row in rows:
        sets = row["data"].split(", ")
        more = f", and {len(sets) - _SHOWN_SETS} more" if len(sets) > _SHOWN_SETS else ""
        line = f"pretraining {row['objective']}; data {', '.join(sets[:_SHOWN_SETS])}{more}"
        told.setdefault(line, []).append(row["label"])
    return [f"{', '.join(labels)}: {line}" for line, labels in told.items()]


def _published(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Date and downloads of each backbone that has one of them."""
    found = []
    for row in rows:
        told = [] if row["date"] == fmt.MISSING else [f"date {row['date']}"]
        if row["downloads"] != fmt.MISSING:
            told.append(f"{row['downloads']} downloads in the last month")
        found += [f"{row['label']}: {', '.join(told)}"] if told else []
    return found


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, name in enumerate(names):
        least = None if place else _LABEL_WIDTH
        side: Any = "right" if place else "left"
        table.add_column(Text(name), justify=side, overflow="fold", min_width=least)
    return table


def _scores(results: Json, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    # Titles in two lines: six scores and the names must fit into 80 columns.
    titles = [_title(results, name).replace(" ", "\n", 1) for name in names]
    table = _table("Backbone", *titles)
    for row in rows:
        cells = []
        for name in names:
            score = row["scores"][name]
            value = Text(score["value"].replace(fmt.MISSING, "-"))
            if score["interval"]:
                value.append(f"\n{score['interval']}", style="dim")
            cells.append(value)
        table.add_row(Text(f"{row['place']}\u00a0{row['label']}"), *cells)
    return table


def _facts(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Backbone", "By\nsize", "Parameters", "Width", "On disk", "A row", "Licence")
    for row in rows:
        cells = [
            row[key].replace(fmt.MISSING, "-")
            for key in ("size_place", "parameters", "dimension", "disk", "time", "license")
        ]
        table.add_row(Text(row["label"]), *map(Text, cells))
    return table

"""Measured drift for people: the terminal's tables, and the report as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmstart.core import write_atomic

from . import format as fmt
from .pages import page, trusted, when
from .shift import distance_rows, number, share_rows
from .shift_plots import plane_plot
from .view import Json, plain

__all__ = ["drift_view", "render_drift_report", "write_drift_report"]

_SHOWN_CLASSES = 12


def drift_view(results: Json) -> RenderableType:
    """The verdict, the tests, distances, classes and stretches of time.

    Args:
        results: The JSON of measured drift.
    """
    parts: list[RenderableType] = [_tests(results), Text(), _distances(results)]
    classes = class_rows(results)
    if classes:
        table = _table("Share of class", "Training rows", "Answers, test", "Answers, new")
        for row in classes[:_SHOWN_CLASSES]:
            table.add_row(*(Text(row[key]) for key in ("label", "train", "before", "after")))
        parts += [Text(), table]
        if len(classes) > _SHOWN_CLASSES:
            more = f"The {_SHOWN_CLASSES} of {len(classes)} classes that moved most."
            parts.append(Text(more, style="dim"))
    windows = window_rows(results)
    if windows:
        table = _table("Stretch of time", "Rows", "Unfamiliar", "Confidence", "Accuracy")
        for row in windows:
            keys = ("span", "rows", "unfamiliar", "confidence", "accuracy")
            table.add_row(*(Text(row[key].replace(fmt.MISSING, "-")) for key in keys))
        parts += [Text(), table]
    parts.append(Text())
    for place, sentence in enumerate(results.get("sentences") or []):
        style = ("bold red" if results["found"] else "bold green") if place == 0 else ""
        parts.append(Text(fmt.clean(sentence), style=style))
    return Group(*parts)


def write_drift_report(results: Json, path: Path) -> Path:
    """Write the report of measured drift; it loads nothing and runs no script.

    Args:
        results: The JSON of measured drift.
        path: The file to write, replaced whole.

    Returns:
        The path.
    """
    write_atomic(Path(path), render_drift_report(results))
    return Path(path)


def render_drift_report(results: Json) -> str:
    """The report as one self-contained HTML page.

    Args:
        results: The JSON of measured drift.
    """
    run, data = results["run"], results["data"]
    plane = results.get("plane") or {}
    sides = ("training", "new")
    return page(
        "drift.html.j2",
        {
            "title": fmt.clean(f"{_name(run['folder'])} → {_name(data['source'])}"),
            "when": when(results.get("created")),
            "version": fmt.clean(results.get("warmstart") or ""),
            "summary": f"{run['reference_rows']:,} reference rows · {run['test_rows']:,} test rows "
            f"· {data['rows']:,} new rows",
            "sentences": [fmt.clean(one) for one in results.get("sentences") or []],
            "tests": question_rows(results),
            "level": f"{results['level']:g}",
            "distances": distance_rows(results["distances"]),
            "meanings": [
                (fmt.clean(one["title"]), fmt.clean(one["meaning"])) for one in results["distances"]
            ],
            "plane": trusted(plane_plot(plane, sides=sides)) if plane else None,
            "plane_share": f"{sum(plane['shares']):.0%}".replace("%", " %") if plane else "",
            "classes": class_rows(results),
            "shares": share_rows({"label_shift": results.get("shares")}),
            "windows": window_rows(results),
            "run": _facts(run),
            "data": _facts(data),
            "command": fmt.clean(results.get("command") or ""),
        },
    )


def question_rows(results: Json) -> list[dict[str, Any]]:
    """Each test as texts: title, test, value, p, adjusted p, answer, words."""
    return [
        {
            "title": fmt.clean(one["title"]),
            "test": fmt.clean(one["test"]),
            "value": number(one["value"]),
            "p": _p(one["p_value"]),
            "adjusted": _p(one["adjusted"]),
            "changed": bool(one["changed"]),
            "answer": "yes" if one["changed"] else "not seen",
            "words": fmt.clean(one["words"]),
        }
        for one in results["tests"]
    ]


def class_rows(results: Json) -> list[dict[str, str]]:
    """Shares of each class as texts, what moved most first."""
    rows = sorted(results.get("classes") or [], key=lambda one: -abs(one["after"] - one["before"]))
    return [
        {"label": fmt.clean(one["label"])}
        | {key: _percent(one[key]) for key in ("train", "before", "after")}
        for one in rows
    ]


def window_rows(results: Json) -> list[dict[str, str]]:
    """Stretches of time as texts."""
    return [
        {
            "span": f"{fmt.clean(one['first'])[:19]} to {fmt.clean(one['last'])[:19]}",
            "rows": f"{one['rows']:,}",
            "unfamiliar": f"{_percent(one['unfamiliar'])} ({_percent(one['low'])} to "
            f"{_percent(one['high'])})",
            "confidence": f"{one['confidence']:.3f}",
            "accuracy": fmt.MISSING if one["accuracy"] is None else _percent(one["accuracy"]),
        }
        for one in results.get("windows") or []
    ]


def _name(source: object) -> str:
    return Path(str(source)).name or str(source)


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _facts(side: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.replace("_", " ").capitalize(), plain(value))
        for key, value in side.items()
        if value not in (None, "")
    ]


def _tests(results: Json) -> Table:
    table = _table("Did it change?", "", "p", "p (Holm)", right_from=2)
    for row in question_rows(results):
        style = "bold red" if row["changed"] else "green"
        answer = Text(row["answer"], style=style)
        table.add_row(Text(row["title"]), answer, Text(row["p"]), Text(row["adjusted"]))
    return table


def _distances(results: Json) -> Table:
    table = _table("Distance", "Value", "95 % interval", "Halves", "Ratio")
    keys: Sequence[str] = ("label", "value", "interval", "halves", "size")
    for row in distance_rows(results["distances"]):
        table.add_row(*(Text(row[key].replace(fmt.MISSING, "-")) for key in keys))
    return table


def _table(*names: str, right_from: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for place, name in enumerate(names):
        side: Any = "right" if place >= right_from else "left"
        table.add_column(Text(name), justify=side, overflow="fold")
    return table

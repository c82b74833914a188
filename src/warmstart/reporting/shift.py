"""A measured shift for people: the terminal's tables, and the report as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmstart.core import write_atomic

from . import format as fmt
from .shift_plots import plane_plot, window_plot
from .view import Json, plain

__all__ = ["render_shift_report", "shift_view", "write_shift_report"]

_SHOWN_CLASSES = 12
_SHOWN_WORDS = 10
_VERDICTS = {"yes": "bold red", "no": "green", "cannot tell": "yellow"}
_KINDS = {"covariate": "Rows", "label": "Class shares", "concept": "Meaning"}


def shift_view(results: Json) -> RenderableType:
    """Distances, what moved, which shift it is, and what it comes to.

    Args:
        results: The JSON of a measured shift.
    """
    cut = "source" if results["source"].get("rows") else "data"
    halves = f"Halves: the largest distance between two random halves of the {cut}."
    parts: list[RenderableType] = [_distances(results["distances"]), Text(halves, style="dim")]
    rows = class_rows(results)
    if rows:
        parts += [Text(), _classes(rows[:_SHOWN_CLASSES])]
        if len(rows) > _SHOWN_CLASSES:
            more = f"The {_SHOWN_CLASSES} farthest of {len(rows)} classes; the report has all."
            parts.append(Text(more, style="dim"))
    moved = moved_words(results)[:_SHOWN_WORDS]
    if moved:
        parts += [Text(), _words(moved)]
    diagnosis = results.get("diagnosis")
    if diagnosis:
        parts += [Text(), _findings(diagnosis)]
        parts += _extras(diagnosis)
    parts.append(Text())
    for number, sentence in enumerate(results.get("sentences") or []):
        parts.append(Text(fmt.clean(sentence), style="bold" if number == 0 else ""))
    return Group(*parts)


def write_shift_report(results: Json, path: Path) -> Path:
    """Write the report of a measured shift; it loads nothing and runs no script.

    Args:
        results: The JSON of a measured shift.
        path: The file to write, replaced whole.

    Returns:
        The path.
    """
    write_atomic(Path(path), render_shift_report(results))
    return Path(path)


def render_shift_report(results: Json) -> str:
    """The report as one self-contained HTML page.

    Args:
        results: The JSON of a measured shift.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    folder = files(__package__) / "templates"
    sources = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("shift.html.j2", "report.css")
    }
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("shift.html.j2").render(**_context(results))


def _context(results: Json) -> dict[str, Any]:
    from markupsafe import Markup

    def drawn(svg: str | None) -> Any:
        return None if svg is None else Markup(svg)

    source, target = results["source"], results["target"]
    diagnosis = results.get("diagnosis") or {}
    plane = results.get("plane") or {}
    names = [Path(str(side["source"])).name or str(side["source"]) for side in (source, target)]
    return {
        "title": fmt.clean(f"{names[0]} → {names[1]}"),
        "when": str(results.get("created") or "")[:16].replace("T", " "),
        "version": fmt.clean(results.get("warmstart") or ""),
        "summary": _summary(results),
        "sentences": [fmt.clean(one) for one in results.get("sentences") or []],
        "distances": distance_rows(results["distances"]),
        "meanings": [
            (fmt.clean(one.get("title") or one["name"]), fmt.clean(one.get("meaning") or ""))
            for one in results["distances"]
        ],
        "cut": "source" if source.get("rows") else "data",
        "methods": sorted({fmt.clean(one["method"]) for one in results["distances"]}),
        "plane": drawn(plane_plot(plane)) if plane else None,
        "plane_share": f"{sum(plane['shares']):.0%}".replace("%", " %") if plane else "",
        "classes": class_rows(results),
        "words": moved_words(results),
        "findings": finding_rows(diagnosis),
        "shares": share_rows(diagnosis),
        "windows": drawn(window_plot(diagnosis.get("windows") or [])),
        "windows_words": windows_words(diagnosis),
        "bound": bound_rows(diagnosis),
        "layers": [
            (fmt.clean(one["name"]), number(one["value"]))
            for entry in results["distances"]
            for one in entry.get("layers") or []
        ],
        "sides": [_facts(side) for side in (source, target)],
        "backbone": [
            (key.replace("_", " ").capitalize(), plain(value))
            for key, value in (results.get("backbone") or {}).items()
            if value is not None and not isinstance(value, dict | list)
        ],
        "command": fmt.clean(results.get("command") or ""),
    }


def number(value: float | None) -> str:
    """A distance: three digits that count, `1.06`, `0.000287`, `3.4e-10`, `2,530`."""
    if value is None:
        return fmt.MISSING
    short = f"{value:.3g}"
    return f"{float(short):,.0f}" if 1000 <= abs(value) < 1e7 else short


def distance_rows(distances: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each distance as texts: label, value, interval, yardstick, size, p."""
    found = []
    for one in distances:
        interval = one.get("interval")
        p_value = one.get("p_value")
        found.append(
            {
                "label": fmt.clean(one.get("title") or one["name"]),
                "value": number(one["value"]),
                "interval": "–" if not interval else " to ".join(map(number, interval)),
                "halves": number(one.get("halves")),
                "size": fmt.clean(one.get("size") or fmt.MISSING),
                "p": "" if p_value is None else f"p = {p_value:.3g}",
            }
        )
    return found


def class_rows(results: Json) -> list[dict[str, Any]]:
    """MMD² of each class as texts, with the length of its bar in per cent."""
    rows = results.get("per_class") or []
    most = max((row["value"] for row in rows), default=0.0)
    return [
        {
            "label": fmt.clean(row["label"]),
            "value": number(row["value"]),
            "interval": "–" if not row["interval"] else " to ".join(map(number, row["interval"])),
            "halves": number(row.get("halves")),
            "rows": f"{row['rows'][0]:,} / {row['rows'][1]:,}",
            "percent": round(100 * max(row["value"], 0.0) / most, 1) if most > 0 else 0.0,
        }
        for row in rows
    ]


def moved_words(results: Json) -> list[dict[str, str]]:
    """Words whose share moved most, a share in a thousand words on either side."""
    return [
        {
            "word": fmt.clean(one["word"]),
            "source": f"{1000 * one['source']:.2f}",
            "target": f"{1000 * one['target']:.2f}",
            "way": "more" if one["target"] > one["source"] else "less",
        }
        for entry in results["distances"]
        for one in entry.get("moved") or []
    ]


def finding_rows(diagnosis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each question of the diagnosis as texts."""
    found = []
    for one in diagnosis.get("findings") or []:
        statistic = ""
        if one.get("statistic") and one.get("value") is not None:
            statistic = f"{one['statistic']} = {number(one['value'])}"
        p_value = one.get("p_value")
        found.append(
            {
                "kind": _KINDS[one["kind"]],
                "name": f"{one['kind']} shift",
                "verdict": one["verdict"],
                "test": fmt.clean(one["test"]),
                "statistic": fmt.clean(statistic),
                "p": "" if p_value is None else f"{p_value:.3g}",
                "words": fmt.clean(one["words"]),
                "limits": [fmt.clean(limit) for limit in one.get("limits") or []],
            }
        )
    return found


def share_rows(diagnosis: Mapping[str, Any]) -> list[dict[str, str]]:
    """Class shares as texts."""
    shift = diagnosis.get("label_shift") or {}
    return [
        {
            "label": fmt.clean(one["name"]),
            "source": _percent(one["source"]),
            "target": _percent(one["target"]),
            "interval": f"{_percent(one['low'])} to {_percent(one['high'])}",
            "truth": fmt.MISSING if one.get("truth") is None else _percent(one["truth"]),
        }
        for one in shift.get("shares") or []
    ]


def windows_words(diagnosis: Mapping[str, Any]) -> str:
    """The test over all stretches of time as a sentence; empty where there is none."""
    test = diagnosis.get("windows_test")
    if not test:
        return ""
    change = {"rows": "the rows", "classes": "the class shares"}[test["explanation"]]
    return (
        f"All stretches together, against what they would be if only {change} changed: Wald χ² = "
        f"{number(test['statistic'])} on {test['degrees']} degrees of freedom, p = "
        f"{test['p_value']:.3g}."
    )


def bound_rows(diagnosis: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The terms of the bound, and what it bounds."""
    found = diagnosis.get("bound")
    if not found:
        return []
    return [
        ("Error on the source", f"{found['source_error']:.3f}"),
        ("Half the divergence", f"{found['half_divergence']:.3f}"),
        ("Joint error λ", f"{found['joint_error']:.3f}"),
        ("Sum of the terms", f"{found['bound']:.3f}"),
        ("Error on the target", f"{found['target_error']:.3f}"),
    ]


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _summary(results: Json) -> str:
    parts = [
        f"{side['rows']:,} {name} rows"
        for name, side in (("source", results["source"]), ("target", results["target"]))
        if side.get("rows") is not None
    ]
    backbone = (results.get("backbone") or {}).get("name")
    return " · ".join([*parts, *([fmt.clean(backbone)] if backbone else [])])


def _facts(side: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.capitalize(), plain(value)) for key, value in side.items() if value not in (None, "")
    ]


def _table(*names: str, right_from: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for place, name in enumerate(names):
        side: Any = "right" if place >= right_from else "left"
        table.add_column(Text(name), justify=side, overflow="fold")
    return table


def _distances(distances: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Distance", "Value", "95 % interval", "Halves", "Ratio")
    for row in distance_rows(distances):
        cells = [row[key].replace(fmt.MISSING, "-") for key in
                 ("label", "value", "interval", "halves", "size")]  # fmt: skip
        table.add_row(*map(Text, cells))
    return table


def _classes(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("MMD² of class", "Value", "95 % interval", "Halves", "Rows")
    for row in rows:
        cells = [str(row[key]).replace(fmt.MISSING, "-") for key in
                 ("label", "value", "interval", "halves", "rows")]  # fmt: skip
        table.add_row(*map(Text, cells))
    return table


def _words(rows: Sequence[Mapping[str, str]]) -> Table:
    table = _table("Word that moved", "in 1,000 of source", "of target")
    for row in rows:
        table.add_row(Text(row["word"]), Text(row["source"]), Text(row["target"]))
    return table


def _findings(diagnosis: Mapping[str, Any]) -> Table:
    table = _table("Did it change?", "", "p", right_from=9)
    for row in finding_rows(diagnosis):
        verdict = Text(row["verdict"], style=_VERDICTS[row["verdict"]])
        table.add_row(Text(f"{row['kind']} ({row['name']})"), verdict, Text(row["p"] or "-"))
    return table


def _extras(diagnosis: Mapping[str, Any]) -> list[RenderableType]:
    """Class shares, stretches of time and the bound, where they are there."""
    parts: list[RenderableType] = []
    shares = share_rows(diagnosis)
    if shares:
        table = _table("Share of class", "Source", "Target, estimated", "95 % interval", "Labelled")
        for row in shares[:_SHOWN_CLASSES]:
            cells = [row[key].replace(fmt.MISSING, "-") for key in
                     ("label", "source", "target", "interval", "truth")]  # fmt: skip
            table.add_row(*map(Text, cells))
        parts += [Text(), table]
    windows = diagnosis.get("windows") or []
    if windows:
        table = _table("Stretch of time", "Rows", "Error", "Expected", "p (Holm)")
        for one in windows:
            expected = one.get("expected")
            table.add_row(
                Text(f"{fmt.clean(one['first'])[:19]} to {fmt.clean(one['last'])[:19]}"),
                Text(f"{one['error']['rows']:.0f}"), Text(_percent(one["error"]["value"])),
                Text("-" if expected is None else _percent(expected["value"])),
                Text("-" if one.get("p_value") is None else f"{one['p_value']:.3g}"),
            )  # fmt: skip
        parts += [Text(), table]
        if words := windows_words(diagnosis):
            parts.append(Text(words, style="dim"))
    bound = bound_rows(diagnosis)
    if bound:
        table = _table("Ben-David bound", "")
        for name, value in bound:
            table.add_row(Text(name), Text(value))
        parts += [Text(), table]
    return parts

"""The k-shot table: for the terminal, the report and the run's README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import format as fmt
from . import view
from .terminal import verdict_view
from .view import Json

__all__ = ["shot_rows", "shots_markdown", "shots_view"]


def shot_rows(results: Json, dash: str = "–") -> dict[str, Any] | None:
    """The table as texts.

    Args:
        results: The content of results.json.
        dash: Between the bounds of an interval.

    Returns:
        `heads` (an arm each), `names`, `rows` (k and cells with value, interval, draws, best),
        `pairs` and `notes`; None where the results hold no such table.
    """
    table = results.get("shots")
    if not table:
        return None
    metric = view.primary_of(results)
    arms = list(table.get("arms") or [])
    sizes = [0] if any(not arm.get("learns", True) for arm in arms) else []
    rows = []
    for k in (*sizes, *(table.get("k") or [])):
        cells = [_cell(arm, k, metric, int(table.get("draws") or 0), dash) for arm in arms]
        best = _best(cells)
        for cell in cells:
            cell["best"] = bool(k) and best is not None and cell["number"] == best
        rows.append({"k": str(k) if k else "none", "cells": cells})
    return {
        "heads": [fmt.clean(arm.get("label") or arm.get("name")) for arm in arms],
        "names": [fmt.clean(arm.get("name")) for arm in arms],
        "rows": rows,
        "pairs": [_pair(pair, table, metric) for pair in table.get("pairs") or []],
        "notes": _notes(table),
    }


def _best(cells: Sequence[Mapping[str, Any]]) -> float | None:
    """The highest mean among arms with as many draws as any has: what sentences call the leader."""
    found = [cell for cell in cells if cell["number"] is not None]
    most = max((cell["count"] for cell in found), default=0)
    return max((cell["number"] for cell in found if cell["count"] == most), default=None)


def shots_view(results: Json) -> RenderableType:
    """The k-shot table, what it rests on, and the verdict, for the terminal."""
    found = shot_rows(results, dash="-")
    if found is None:
        return Text("The results hold no k-shot table.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(Text("Rows a\nclass"), justify="right", no_wrap=True)
    for name in found["names"]:
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in found["rows"]:
        table.add_row(Text(row["k"]), *(_text(cell) for cell in row["cells"]))
    head = f"{fmt.metric_title(view.primary_of(results))}: mean, 95 % interval; * leads its line"
    notes = [Text(line, style="dim") for line in found["notes"]]
    return Group(Text(head), Text(), table, *notes, Text(), verdict_view(results))


def shots_markdown(results: Json, *, name: str) -> str:
    """The table as Markdown: the README.md of a run that keeps no model."""
    found = shot_rows(results) or {"names": [], "rows": [], "notes": []}
    lines = [
        f"# {_plain(name)}",
        "",
        f"{fmt.metric_title(view.primary_of(results))} by labelled rows a class, with 95 % "
        "intervals. No model is kept here.",
        "",
        f"| rows a class | {' | '.join(_plain(one) for one in found['names'])} |",
        f"|---:|{'---:|' * len(found['names'])}",
    ]
    for row in found["rows"]:
        cells = [f"{one['value']} {one['interval']}".strip() for one in row["cells"]]
        lines.append(f"| {row['k']} | {' | '.join(cells)} |")
    said = (results.get("verdict") or {}).get("sentences") or []
    lines += ["", *(f"- {_plain(fmt.clean(one))}" for one in (*said, *found["notes"]))]
    lines += ["", f"    {view.command(results)}"]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown leaves alone."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def _text(cell: Mapping[str, Any]) -> Text:
    value = cell["value"].replace(fmt.MISSING, "-") + ("*" if cell["best"] else "")
    lines = [value, *(line for line in (cell["interval"], cell["draws"]) if line)]
    return Text("\n".join(lines), style="bold" if cell["best"] else "")


def _cell(arm: Json, k: int, metric: str, draws: int, dash: str) -> dict[str, Any]:
    """One arm at one k; arms that read no rows stand in the line of none alone."""
    found = next((one for one in arm.get("cells") or [] if one.get("k") == k), None)
    if found is None or found.get("value") is None:
        return {"value": fmt.MISSING, "interval": "", "draws": "", "number": None, "count": 0}
    few = int(found.get("draws") or 0)
    return {
        "value": fmt.metric_value(metric, found["value"]),
        "interval": fmt.interval(metric, found.get("low"), found.get("high"), dash),
        "draws": f"{few} of {draws} draws" if k and few < draws else "",
        "number": found["value"],
        "count": few,
    }


def _pair(pair: Json, table: Json, metric: str) -> dict[str, Any]:
    titles = {arm.get("name"): arm.get("label") or arm.get("name") for arm in table["arms"]}
    a, b = (fmt.clean(titles.get(pair.get(key), pair.get(key))) for key in ("a", "b"))
    still = {arm.get("name") for arm in table["arms"] if not arm.get("learns", True)}
    at = [("" if pair.get(key) in still else f", k = {pair.get(f'k_{key}')}") for key in ("a", "b")]
    same = pair.get("a") == pair.get("b")
    significant = bool(pair.get("significant"))
    higher = a if (pair.get("difference") or 0) > 0 else b
    words = f"{higher} is better" if significant else "no clear difference"
    if same and significant:
        words = "more rows help" if (pair.get("difference") or 0) > 0 else "more rows hurt"
    return {
        "a": a + at[0],
        "b": b + at[1],
        "difference": fmt.difference(metric, pair.get("difference")),
        "interval": f"{fmt.difference(metric, pair.get('low'))} to "
        f"{fmt.difference(metric, pair.get('high'))}",
        "significant": significant,
        "words": words,
    }


def _notes(table: Json) -> list[str]:
    draws, rows = table.get("draws"), table.get("test_rows")
    first = (
        f"Each k: {draws} draws, the same for every arm; all tested on the same {rows} rows. "
        "Intervals resample draws and test rows."
        if draws != 1
        else f"Each k: one draw, the same for every arm, tested on the same {rows} rows. "
        "Intervals resample test rows alone: another draw may differ by more."
    )
    lines = [first]
    if table.get("validation"):
        lines.append(f"Validation: {fmt.clean(table['validation'])}")
    times = [
        f"{fmt.clean(arm.get('name'))} {fmt.seconds(fitted[-1]['seconds'])}"
        for arm in table.get("arms") or []
        if (fitted := [one for one in arm.get("cells") or [] if one.get("seconds") is not None])
    ]
    if times:
        lines.append(
            f"Mean time of a fit, at the largest k of each: {', '.join(times)}; the embedding that "
            "arms share is not in it."
        )
    return lines

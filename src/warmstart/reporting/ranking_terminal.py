"""A comparison of recommenders for the terminal: one table, and beneath it what decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import view
from .ranking import (
    COLUMNS,
    fairness_rows,
    information_lines,
    lift_rows,
    metric_title,
    ranking_rows,
    slice_rows,
)
from .terminal import verdict_view
from .view import Json

__all__ = ["ranking_view"]

_PAIRS = 3


def ranking_view(results: Json) -> RenderableType:
    """The comparison of recommenders for the terminal."""
    primary = view.primary_of(results)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Arm", overflow="fold", min_width=12)
    columns = tuple(dict.fromkeys([primary, *COLUMNS])) if primary not in COLUMNS else COLUMNS
    for name in columns:
        table.add_column(Text(metric_title(name)), justify="right", no_wrap=True)
    table.add_column("Time", justify="right", no_wrap=True)
    previous = None
    for row in ranking_rows(results, columns=columns, dash="-"):
        if previous == "arm" and row["role"] == "control":
            table.add_section()
        previous = row["role"]
        words = [word for word in row["words"] if word != "control"]
        label = Text(row["label"] + (f"\n{', '.join(words)}" if words else ""))
        cells = [
            Text(
                cell["value"]
                + (f"\n{cell['interval']}" if name == primary and cell["interval"] else "")
            )
            for name, cell in zip(columns, row["cells"], strict=True)
        ]
        style = "bold" if row["best"] else "dim" if row["reason"] else ""
        table.add_row(label, *cells, Text(row["seconds"]), style=style)
    parts: list[RenderableType] = [table]
    parts += [
        Text(f"  {row['label']}: {row['reason']}", style="dim")
        for row in ranking_rows(results)
        if row["reason"]
    ]
    parts += [Text(f"  {line}", style="dim") for line in information_lines(results)]
    parts += _lifts(results)
    parts += _slices(results)
    parts += _cold_lifts(results)
    parts += _fairness(results)
    return Group(*parts, Text(), verdict_view(results))


def _lifts(results: Json) -> list[RenderableType]:
    rows = lift_rows(results)
    what = "" if "run" in results else ", the best baseline"  # one on later events: no choice made
    found: list[RenderableType] = []
    for other in dict.fromkeys(row["b"] for row in rows):
        head = f"{rows[0]['metric']} against {other}{what} (95 % by users):"
        found += [Text(), Text(head), _differences([row for row in rows if row["b"] == other])]
    return found


def _cold_lifts(results: Json) -> list[RenderableType]:
    rows = lift_rows(results, kind="cold_lifts")
    if not rows:
        return []
    head = (
        f"{rows[0]['metric']} on the {rows[0]['n'] or 0:,} questions about new items, against what "
        "ranks by content or popularity alone (95 % by users):"
    )
    return [Text(), Text(head), _differences(rows, both=True)]


def _differences(rows: Sequence[Mapping[str, Any]], both: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    for row in rows:
        style = "bold" if row["significant"] else ""
        names = f"{row['a']} - {row['b']}" if both else row["a"]
        table.add_row(
            Text(names), Text(row["difference"]), Text(row["interval"]), Text(row["words"]),
            style=style,
        )  # fmt: skip
    return table


def _slices(results: Json) -> list[RenderableType]:
    best = (results.get("verdict") or {}).get("best")
    lifts = results.get("lifts") or []
    wanted = [results.get("kept"), best, *(lift.get("b") for lift in lifts[:1])]
    names = [view.label_of(results, name) for name in dict.fromkeys(wanted) if name]
    found = slice_rows(results, dash="-")
    if found is None or not names:
        return []
    places = [found["heads"].index(name) for name in names if name in found["heads"]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(Text(found["metric"]))
    for place in places:
        table.add_column(Text(found["heads"][place]), justify="right")
    table.add_column("n", justify="right")
    for row in found["rows"]:
        cells = [
            Text(f"{row['cells'][place]['value']} {row['cells'][place]['interval']}".strip())
            for place in places
        ]
        table.add_row(Text(row["label"]), *cells, Text(f"{row['n'] or 0:,}"))
    return [Text(), table]


def _fairness(results: Json) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for row in fairness_rows(results, dash=" to "):
        apart, small = row["apart"], row["too_small"]
        more = f" and {len(apart) - _PAIRS} more" if len(apart) > _PAIRS else ""
        also = f" Clearly apart too: {', '.join(apart[:_PAIRS])}{more}." if apart else ""
        few = f" Too few users to judge: {', '.join(small)}." if small else ""
        lines.append(
            Text(
                f"By {row['by']}: {row['told']}; {row['best']} is {row['gap'].lstrip('+')} points "
                f"of {row['metric']} above {row['worst']} ({row['interval']}).{also}{few}",
                style="yellow" if row["significant"] or apart else "dim",
            )
        )
    return [Text(), *lines] if lines else []

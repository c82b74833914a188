"""A comparison of recommenders as tables: for the terminal, the report and the run's README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmstart.data.labels import natural_key
from warmstart.evaluation import RANKING_METRICS

from . import format as fmt
from . import view
from .terminal import verdict_view
from .view import Json

__all__ = [
    "COLUMNS",
    "fairness_rows",
    "lift_rows",
    "metric_text",
    "metric_title",
    "ranking_markdown",
    "ranking_rows",
    "ranking_view",
    "slice_rows",
]

COLUMNS = ("HR@10", "HR@100", "NDCG@10", "MRR", "coverage@10")
_SLICES = {
    "user": "users",
    "item": "items",
    "popularity": "items",
    "history": "events of history",
}


def metric_title(name: str) -> str:
    """`HR@100` as it is, `coverage@10` as Coverage@10."""
    family, at, number = name.partition("@")
    known = RANKING_METRICS.get(family)
    if known is None or family.isupper():
        return fmt.clean(name)
    return f"{known.title}{at}{number}"


def metric_text(name: str, value: float | None) -> str:
    """A ranking metric as people read it: shares in per cent, the rest with three decimals."""
    if value is not None and name == "median_rank":
        return f"{value:.0f}"
    return fmt.metric_value(name, value)


def _bounds(name: str, score: Json, dash: str) -> str:
    low, high = score.get("low"), score.get("high")
    return "" if low is None or high is None else fmt.interval(name, low, high, dash)


def scored(results: Json) -> Iterator[Json]:
    """The arms that have test scores, adapted models first."""
    for arm in view.arms_in_order(results):
        if ((arm.get("next_item") or {}).get("test") or {}).get("metrics"):
            yield arm


def ranking_rows(
    results: Json, kind: str = "next_item", columns: Sequence[str] = COLUMNS, dash: str = "–"
) -> list[dict[str, Any]]:
    """One dict an arm: label, role, words, and for each column a value with its interval.

    Args:
        results: The content of results.json.
        kind: `next_item` or `all_future`.
        columns: Metrics.
        dash: Between the bounds of an interval.
    """
    best = (results.get("verdict") or {}).get("best")
    found = []
    for arm in view.arms_in_order(results):
        metrics = ((arm.get(kind) or {}).get("test") or {}).get("metrics") or {}
        cells = []
        for name in columns:
            score = metrics.get(name) or {}
            shown = metric_text(name, score.get("value"))
            cells.append({"value": shown, "interval": _bounds(name, score, dash)})
        found.append(
            {
                "label": fmt.clean(arm.get("label") or arm.get("name")),
                "name": arm.get("name"),
                "role": arm.get("role"),
                "best": arm.get("name") == best,
                "words": view.status_words(arm, best=best) + _seed_words(arm),
                "cells": cells,
                "seconds": fmt.seconds(arm.get("seconds")),
                "trainable": fmt.count(arm.get("trainable_parameters")),
                "reason": fmt.clean(arm.get("reason") or ""),
            }
        )
    return found


def _seed_words(arm: Json) -> list[str]:
    """How many training seeds a mean is of."""
    seeds = ((arm.get("next_item") or {}).get("test") or {}).get("seeds") or 1
    return [f"mean of {seeds} seeds"] if seeds > 1 else []


def slice_rows(results: Json, metric: str | None = None, dash: str = "–") -> dict[str, Any] | None:
    """The primary metric by slice: heads (arms) and rows with counts; None without slices."""
    name = metric or view.primary_of(results)
    arms = [arm for arm in scored(results) if arm["next_item"]["test"].get("slices")]
    if not arms:
        return None
    rows = []
    for part, labels in arms[0]["next_item"]["test"]["slices"].items():
        for label in sorted(labels, key=natural_key):
            cells = []
            count = None
            for arm in arms:
                metrics = arm["next_item"]["test"]["slices"].get(part, {}).get(label) or {}
                score = metrics.get(name) or {}
                count = score.get("n", count)
                cells.append(
                    {
                        "value": metric_text(name, score.get("value")),
                        "interval": _bounds(name, score, dash),
                    }
                )
            title = f"{label} {_SLICES.get(part, part)}"
            rows.append({"label": fmt.clean(title), "n": count, "cells": cells})
    heads = [fmt.clean(arm.get("label") or arm.get("name")) for arm in arms]
    return {"heads": heads, "rows": rows, "metric": metric_title(name)}


def lift_rows(
    results: Json, dash: str = " to ", kind: Literal["lifts", "cold_lifts"] = "lifts"
) -> list[dict[str, Any]]:
    """Each arm against the best tuned baseline on the same queries, or what is told of new items.

    Args:
        results: The content of results.json.
        dash: Between the bounds of an interval.
        kind: `lifts`, or `cold_lifts`: trained tracks that read the items against arms that rank
            by content or popularity alone, on items that training never saw.
    """
    found = []
    for lift in results.get(kind) or []:
        name = str(lift.get("metric"))
        found.append(
            {
                "a": view.label_of(results, lift.get("a")),
                "b": view.label_of(results, lift.get("b")),
                "metric": metric_title(name),
                "difference": fmt.difference(name, lift.get("difference")),
                "interval": dash.join(
                    fmt.difference(name, lift.get(key)) for key in ("low", "high")
                ),
                "significant": bool(lift.get("significant")),
                "n": lift.get("n"),
                "words": _words(lift),
            }
        )
    return found


def _words(lift: Json) -> str:
    if not lift.get("significant"):
        return "no clear difference"
    return "clearly better" if (lift.get("difference") or 0) > 0 else "clearly worse"


def fairness_rows(results: Json, dash: str = "–") -> list[dict[str, Any]]:
    """Groups of users and items, as the kept model serves them."""
    found = []
    for one in results.get("fairness") or []:
        name = str(one.get("metric"))
        gap = one.get("gap") or {}
        found.append(
            {
                "by": fmt.clean(one.get("by")),
                "metric": metric_title(name),
                "best": fmt.clean(one.get("best")),
                "worst": fmt.clean(one.get("worst")),
                "gap": fmt.difference(name, gap.get("value")),
                "interval": _bounds(name, gap, dash),
                "significant": bool(one.get("significant")),
                "groups": [
                    {
                        "label": fmt.clean(label),
                        "n": score.get("n"),
                        "value": metric_text(name, score.get("value")),
                        "interval": _bounds(name, score, dash),
                    }
                    for label, score in (one.get("groups") or {}).items()
                ],
            }
        )
    return found


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
        told = "a clear gap" if row["significant"] else "no clear gap"
        lines.append(
            Text(
                f"By {row['by']}: {told}; {row['best']} is {row['gap'].lstrip('+')} points of "
                f"{row['metric']} above {row['worst']} ({row['interval']}).",
                style="yellow" if row["significant"] else "dim",
            )
        )
    return [Text(), *lines] if lines else []


def ranking_markdown(results: Json, *, name: str) -> str:
    """The README.md of a retrieval run."""
    data = results.get("data") or {}
    cuts = (results.get("settings") or {}).get("cuts", True)
    divided = "One cut in time parts" if cuts else "A random draw of events parts"
    lines = [
        f"# {_plain(name)}",
        "",
        f"Candidate retrieval over {data.get('items', 0):,} items for {data.get('users', 0):,} "
        f"users, from {data.get('events', 0):,} events of {_plain(fmt.clean(data.get('name')))}. "
        f"{divided} training, validation and test.",
        "",
        f"| arm | {' | '.join(metric_title(one) for one in COLUMNS)} |",
        f"|---|{'---:|' * len(COLUMNS)}",
    ]
    for row in ranking_rows(results):
        cells = " | ".join(f"{cell['value']} {cell['interval']}".strip() for cell in row["cells"])
        lines.append(f"| {_plain(row['label'])} | {cells} |")
    said = (results.get("verdict") or {}).get("sentences") or []
    lines += ["", *(f"- {_plain(fmt.clean(one))}" for one in said)]
    lines += ["", f"    {view.command(results)}"]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown leaves alone."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)

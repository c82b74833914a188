"""A comparison of recommenders as rows for the terminal and the report, and the run's README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from warmstart.data.labels import natural_key
from warmstart.evaluation import RANKING_METRICS

from . import format as fmt
from . import view
from .view import Json

__all__ = [
    "COLUMNS",
    "fairness_rows",
    "information_lines",
    "lift_rows",
    "metric_rows",
    "metric_text",
    "metric_title",
    "ranking_markdown",
    "ranking_rows",
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
    if low is None or high is None:
        return ""
    if name == "median_rank":
        return f"{metric_text(name, low)}{dash}{metric_text(name, high)}"
    return fmt.interval(name, low, high, dash)


def _cell(name: str, score: Json, dash: str) -> dict[str, str]:
    """A score as a cell of a table."""
    return {
        "value": metric_text(name, score.get("value")),
        "interval": _bounds(name, score, dash),
    }


def scored(results: Json, kind: str = "next_item") -> Iterator[Json]:
    """The arms that have test scores of that kind, adapted models first."""
    for arm in view.arms_in_order(results):
        if ((arm.get(kind) or {}).get("test") or {}).get("metrics"):
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
        cells = [_cell(name, metrics.get(name) or {}, dash) for name in columns]
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


def metric_rows(results: Json, kind: str = "next_item", dash: str = "–") -> dict[str, Any] | None:
    """Every metric of every arm: heads (arms) and a row a metric; None where nothing was scored.

    Args:
        results: The content of results.json.
        kind: `next_item` or `all_future`.
        dash: Between the bounds of an interval.
    """
    arms = list(scored(results, kind))
    names = dict.fromkeys(name for arm in arms for name in arm[kind]["test"]["metrics"])
    rows = [
        {
            "label": metric_title(name),
            "cells": [
                _cell(name, arm[kind]["test"]["metrics"].get(name) or {}, dash) for arm in arms
            ],
        }
        for name in names
    ]
    heads = [fmt.clean(arm.get("label") or arm.get("name")) for arm in arms]
    return {"heads": heads, "rows": rows} if rows else None


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
                cells.append(_cell(name, score, dash))
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
    """Groups of users and items, as the kept model serves them.

    `told` says whether the best and the worst lie apart, or other groups alone; `apart` are the
    other pairs that do, the widest first, and `too_small` groups with too few users to be judged.
    """
    found = []
    for one in results.get("fairness") or []:
        name = str(one.get("metric"))
        gap = one.get("gap") or {}
        edge = [one.get("best"), one.get("worst")]
        apart = [pair for pair in one.get("apart") or [] if list(pair) != edge]
        told = (
            "no clear gap between best and worst, but between others" if apart else "no clear gap"
        )
        found.append(
            {
                "by": fmt.clean(one.get("by")),
                "metric": metric_title(name),
                "best": fmt.clean(one.get("best")),
                "worst": fmt.clean(one.get("worst")),
                "gap": fmt.difference(name, gap.get("value")),
                "interval": _bounds(name, gap, dash),
                "significant": bool(one.get("significant")),
                "told": "a clear gap" if one.get("significant") else told,
                "apart": [f"{fmt.clean(a)} above {fmt.clean(b)}" for a, b in apart],
                "too_small": [
                    f"{fmt.clean(label)} ({users})"
                    for label, users in (one.get("too_small") or {}).items()
                ],
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


def information_lines(results: Json) -> list[str]:
    """What each trained track's vectors tell of what comes next, a sentence an arm, in nats."""
    found = []
    for arm in view.arms_in_order(results):
        told = arm.get("information")
        if told:
            label = fmt.clean(arm.get("label") or arm.get("name"))
            nats, most = (f"{told[key]:.2f}".replace("-", "−") for key in ("nats", "most"))
            found.append(
                f"{label}: mutual information of user and next item on validation at least {nats} "
                f"nats; this bound cannot show more than {most}."
            )
    return found


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

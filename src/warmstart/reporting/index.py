"""What an index became: the engine, and what was tried on the way, in words and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmstart.core import write_atomic

from . import format as fmt
from .pages import page, trusted
from .plots import percent_axis
from .svg import ARM_COLORS, FAINT, INK, figure, style, to_svg
from .view import Json

__all__ = ["index_view", "render_index_report", "trade_off_plot", "write_index_report"]

_MARKS = "oDs^vPX"


def index_view(found: Json) -> RenderableType:
    """The engine of an index and the trade-off that it was chosen from.

    Args:
        found: The JSON of an index report.
    """
    settings = ", ".join(f"{key} {value}" for key, value in (found.get("settings") or {}).items())
    engine = fmt.clean(found.get("engine"))
    parts: list[RenderableType] = []
    choice = found.get("choice") or {}
    trials = choice.get("trials") or []
    if trials:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        for name in ("Engine", "Settings"):
            table.add_column(name)
        for name in ("Recall@100", "Median", "p99", "Memory"):
            table.add_column(name, justify="right")
        for trial in trials:
            told = ", ".join(f"{k} {v}" for k, v in (trial.get("settings") or {}).items())
            if trial.get("recall") is None:
                table.add_row(trial["engine"], Text(fmt.clean(trial.get("reason") or "")))
                continue
            table.add_row(
                Text(trial["engine"], style="bold" if trial.get("meets") else ""), Text(told),
                f"{trial['recall']:.3f}", fmt.milliseconds(trial["p50_ms"]),
                fmt.milliseconds(trial["p99_ms"]), fmt.memory(1e6 * trial["megabytes"]),
            )  # fmt: skip
        parts += [table, Text(_asked_for(choice), style="dim")]
    tail = f" ({settings})" if settings else ""
    parts.append(Text(f"{found.get('items', 0):,} items in a {engine} index{tail}."))
    parts.append(Text(f"Index:  {fmt.clean(found.get('folder'))}"))
    return Group(*parts)


def _asked_for(choice: Json) -> str:
    """The target, whether it was met, and what items find that are asked as queries."""
    target = choice.get("target") or {}
    similar = choice.get("similar")
    told = (
        f"Asked for: recall {target.get('recall'):g} of the exact 100 nearest, p99 within "
        f"{target.get('p99_ms'):g} ms on one thread. "
        + (
            "The exact engine is taken where it is fast enough, else the fastest."
            if choice.get("met")
            else "No engine does it; the nearest is taken."
        )
    )
    if similar is None:
        return told
    effort = "the same effort"
    if similar["effort"] > 1:
        effort = f"{similar['effort']:g} times the effort"
    short = "" if similar["meets"] else ", short of what was asked for"
    return (
        f"{told} Items asked as queries take {effort}: recall {similar['recall']:.3f}, p99 "
        f"{fmt.milliseconds(similar['p99_ms'])}{short}."
    )


def write_index_report(found: Json, path: Path) -> Path:
    """Write the report of an index; it loads nothing and runs no script.

    Args:
        found: The JSON of an index report.
        path: The file to write.
    """
    write_atomic(Path(path), render_index_report(found))
    return Path(path)


def render_index_report(found: Json) -> str:
    """The report as one self-contained page.

    Args:
        found: The JSON of an index report.
    """
    choice = found.get("choice") or {}
    settings = [(fmt.clean(k), fmt.clean(v)) for k, v in (found.get("settings") or {}).items()]
    facts = [("Engine", fmt.clean(found.get("engine"))), *settings]
    if choice:
        facts.append(("Measured", f"{choice['rows']:,} items, {choice['queries']:,} queries"))
    engine, items = fmt.clean(found.get("engine")), found.get("items", 0)
    return page(
        "index.html.j2",
        {
            "title": Path(str(found.get("folder") or "index")).parent.stem or "index",
            "lead": f"{items:,} items in a {engine} index.",
            "asked": _asked_for(choice) if choice else "The engine was named, not chosen.",
            "plot": trusted(trade_off_plot(choice)),
            "rows": [_row(trial, found) for trial in choice.get("trials") or []],
            "facts": facts,
        },
    )


def _row(trial: Json, found: Json) -> dict[str, Any]:
    """One line of the table of all that was tried."""
    told = ", ".join(f"{key} {value}" for key, value in (trial.get("settings") or {}).items())
    row = {
        "engine": fmt.clean(trial["engine"]),
        "settings": fmt.clean(told),
        "reason": fmt.clean(trial.get("reason") or ""),
        "chosen": _is_chosen(trial, found),
        "meets": bool(trial.get("meets")),
    }
    if trial.get("recall") is not None:
        row |= {
            "recall": f"{trial['recall']:.3f}",
            "p50": fmt.milliseconds(trial["p50_ms"]),
            "p99": fmt.milliseconds(trial["p99_ms"]),
            "build": fmt.seconds(trial["build_seconds"]),
            "memory": fmt.memory(1e6 * trial["megabytes"]),
        }
    return row


def _is_chosen(trial: Json, choice: Json) -> bool:
    same = trial["engine"] == choice.get("engine")
    return same and (trial.get("settings") or {}) == (choice.get("settings") or {})


def trade_off_plot(choice: Json, name: str = "tradeoff") -> str | None:
    """Recall against latency: a line an engine, from its least effort to its greatest.

    Args:
        choice: The JSON of a choice: engine, settings, target and trials.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None where nothing was measured.
    """
    tried = [one for one in choice.get("trials") or [] if one.get("recall") is not None]
    if not tried:
        return None
    from matplotlib.ticker import LogLocator

    target = choice.get("target") or {}
    engines = list(dict.fromkeys(one["engine"] for one in tried))
    with style(name):
        drawn, (axis,) = figure(480, 340)
        axis.set_xscale("log")
        for place, engine in enumerate(engines):
            own = [one for one in tried if one["engine"] == engine]
            axis.plot(
                [one["p99_ms"] for one in own], [one["recall"] for one in own],
                color=ARM_COLORS[place % len(ARM_COLORS)], marker=_MARKS[place % len(_MARKS)],
                markersize=5.5, label=fmt.clean(engine),
            )  # fmt: skip
        for one in tried:
            if _is_chosen(one, choice):
                axis.plot([one["p99_ms"]], [one["recall"]], "o", markersize=13, color=INK,
                          fillstyle="none", markeredgewidth=1.4, linestyle="none",
                          label="chosen")  # fmt: skip
        axis.axhline(target["recall"], color=FAINT, linewidth=0.9, linestyle=(0, (3, 3)))
        axis.axvline(target["p99_ms"], color=FAINT, linewidth=0.9, linestyle=(0, (3, 3)))
        percent_axis(axis.yaxis, "accuracy", 6)
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set_xlabel("99 of 100 searches take less, milliseconds on one thread")
        axis.set_title("Part of the exact 100 nearest that is found")
        axis.legend(loc="best", handlelength=2.0)
        words = "; ".join(
            f"{fmt.clean(one['engine'])} {one['recall']:.1%} within {one['p99_ms']:.2g} ms"
            for one in tried
        )
        return to_svg(drawn, name, f"Recall against latency. {words}.", max_width=640)

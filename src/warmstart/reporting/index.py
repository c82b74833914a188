"""What an index became: the engine, and what was tried on the way."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import format as fmt
from .view import Json

__all__ = ["index_view"]


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
        target = choice.get("target") or {}
        parts += [
            table,
            Text(
                f"Asked for: recall {target.get('recall'):g} of the exact 100 nearest, p99 within "
                f"{target.get('p99_ms'):g} ms on one thread. "
                + (
                    "The exact engine is taken where it is fast enough, else the fastest."
                    if choice.get("met")
                    else "No engine does it; the nearest is taken."
                ),
                style="dim",
            ),
        ]
    tail = f" ({settings})" if settings else ""
    parts.append(Text(f"{found.get('items', 0):,} items in a {engine} index{tail}."))
    parts.append(Text(f"Index:  {fmt.clean(found.get('folder'))}"))
    return Group(*parts)

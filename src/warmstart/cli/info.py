"""`warmstart info`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["info"]


def info(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="A run folder, a backbone or data."),
    ] = None,
    allow_bin: o.AllowBin = False,
    json: o.Json = False,
) -> None:
    """Describe a run, a backbone or data; without a target, this installation.

    Examples:
      warmstart info

      warmstart info runs/reviews

      warmstart info sentence-transformers/all-MiniLM-L6-v2
    """
    from warmstart.reporting import audit_view, comparison_view
    from warmstart.workflow import info as verb

    found = verb(target, allow_bin=allow_bin)
    if json:
        print_json(found)
        return
    if found["kind"] == "run":
        answer(comparison_view(found))
        return
    answer(_facts({k: v for k, v in found.items() if k not in {"kind", "audit"}}))
    if "audit" in found:
        answer(audit_view(found["audit"]))


def _facts(values: dict[str, Any]) -> Any:
    """Names and values as a two-column table; nested ones below their name."""
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in values.items():
        if isinstance(value, dict):
            table.add_row(escape(name), _facts(value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            table.add_row(escape(name), "\n".join(_line(item) for item in value))
        elif value is not None and value != []:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else _number(value)
            table.add_row(escape(name), escape(shown))
    return table


def _line(item: dict[str, Any]) -> str:
    from rich.markup import escape

    return escape("  ".join(_number(value) for value in item.values()))


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

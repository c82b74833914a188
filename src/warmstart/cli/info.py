"""`warmstart info`."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from warmstart.core import UsageError

from . import _options as o
from ._show import answer, print_json

__all__ = ["info"]


def info(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="A run folder, a backbone or data."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="Count what it would learn on the backbone."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy: rank=8"),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes of the head.")] = 2,
    batch_size: Annotated[
        list[int] | None,
        typer.Option("--batch-size", min=1, help="Rows a batch; may be repeated."),
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", min=1, help="Tokens, or pixels on a side.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights: fp32, bf16, fp16.")] = (
        "fp32"
    ),
    allow_bin: o.AllowBin = False,
    json: o.Json = False,
) -> None:
    """Describe a run, a backbone or data; without a target, this installation.

    With --strategy, count what that strategy would learn on the backbone and the memory that takes,
    from config.json alone.

    Examples:
      warmstart info

      warmstart info runs/reviews

      warmstart info sentence-transformers/all-MiniLM-L6-v2

      warmstart info bert-base/ --strategy lora --set rank=4 --set 'targets=["query", "value"]'
    """
    from warmstart.reporting import audit_view, comparison_view, counting_view
    from warmstart.workflow import info as verb

    if dtype not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"--dtype must be fp32, bf16 or fp16, got {dtype!r}.")
    found = verb(
        target, allow_bin=allow_bin, strategy=strategy, settings=o.parse_settings(set_),
        classes=classes, batch_sizes=batch_size or (1, 8, 32), length=length,
        dtype=cast("Any", dtype),
    )  # fmt: skip
    if json:
        print_json(found)
        return
    if found["kind"] == "counting":
        answer(counting_view(found))
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

"""`warmstart recommend`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["recommend"]


def recommend(
    run: o.RunFolder,
    user: Annotated[str | None, typer.Option("--user", help="A user of the data.")] = None,
    history: Annotated[
        str | None,
        typer.Option("--history", help="Item ids by comma, oldest first, for anybody else."),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=1000, help="How many items.")] = 10,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="Item ids to leave out, by comma.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only items with this tag.")] = None,
    about: Annotated[
        list[str] | None,
        typer.Option("--about", metavar="KEY=VALUE", help="An attribute of whoever asks: age=30"),
    ] = None,
    backbone: o.RunEncoder = None,
    allow_bin: o.AllowBin = False,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Recommend items to a user of a retrieval run, or to anybody with a history.

    Examples:
      warmstart recommend runs/fit-ml-100k --user 196

      warmstart recommend runs/fit-ml-100k --history 50,172,181 --k 5 --json

      warmstart recommend runs/fit-ml-100k --history 50 --about age=30 --about gender=F
    """
    from rich.markup import escape
    from rich.table import Table

    from warmstart.workflow import recommend as verb

    found = verb(
        run, user=user, history=o.ids(history), k=k, exclude=o.ids(exclude) or (), tag=tag,
        attributes=o.parse_settings(about, "--about") or None, device=device,
        backbone=backbone, allow_bin=allow_bin,
    )  # fmt: skip
    if json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    table = Table("item", "title", "tags", "score", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            escape(one.item), escape(one.title or ""), escape(", ".join(one.tags)),
            f"{one.score:.3f}",
        )  # fmt: skip
    answer(table)

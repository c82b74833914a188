"""`warmstart refresh`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["refresh"]


def refresh(
    run: o.RunFolder,
    items: Annotated[
        str | None,
        typer.Option("--items", help="A table of items: item_id, title, description, tags, image."),
    ] = None,
    remove: Annotated[
        str | None, typer.Option("--remove", help="Ids of items to take out, by comma.")
    ] = None,
    item: o.ItemColumn = None,
    recall: o.IndexRecall = 0.95,
    p99: o.IndexTime = "5ms",
    engine: o.IndexEngine = "auto",
    backbone: o.Backbone = None,
    image_backbone: o.ImageBackbone = None,
    allow_bin: o.AllowBin = False,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Change the catalogue of a retrieval run's index: new items by their texts and pictures.

    Nothing is trained. Known items are shown as the table now has them and keep their vectors. A
    server that runs takes the new index up whole, without a failed request.

    Examples:
      warmstart refresh runs/films --items new.parquet

      warmstart refresh runs/films --remove 267,1373
    """
    from warmstart.reporting import index_view
    from warmstart.workflow import refresh as verb

    found = verb(
        run, items, remove=o.ids(remove) or (), item=item, recall=recall,
        p99_ms=o.milliseconds(p99), engine=engine, backbone=backbone,
        image_backbone=image_backbone, skip_bad=skip_bad, device=device, allow_bin=allow_bin,
    ).to_json()  # fmt: skip
    if json:
        print_json(found)
        return
    answer(index_view(found))

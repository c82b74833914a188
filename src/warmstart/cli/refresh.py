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
        str, typer.Option("--items", help="A table of items: item_id, title, description, tags.")
    ],
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
    """Add new items to a retrieval run's index by their texts and pictures.

    Nothing is trained. A server that runs takes the new index up whole, without a failed request.

    Example:
      warmstart refresh runs/films --items new.parquet
    """
    from warmstart.reporting import index_view
    from warmstart.workflow import refresh as verb

    found = verb(
        run, items, recall=recall, p99_ms=o.milliseconds(p99), engine=engine, backbone=backbone,
        image_backbone=image_backbone, skip_bad=skip_bad, device=device, allow_bin=allow_bin,
    ).to_json()  # fmt: skip
    if json:
        print_json(found)
        return
    answer(index_view(found))

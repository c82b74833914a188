"""`warmstart embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["embed"]


def embed(
    data: o.Data,
    backbone: o.Backbone = None,
    allow_bin: o.AllowBin = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, help="Layers to use; all otherwise.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="mean, cls, last or model.")
    ] = None,
    image_size: o.ImageSize = None,
    max_length: o.MaxLength = None,
    limit: o.Limit = None,
    text: o.TextColumn = None,
    image: o.ImageColumn = None,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write .npy (with .ids.json) or .parquet.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Embed every row once and keep the vectors in the cache.

    Examples:
      warmstart embed reviews.csv

      warmstart embed photos/ --backbone facebook/dinov2-small --out vectors.parquet
    """
    from warmstart.workflow import check_features_path, write_features
    from warmstart.workflow import embed as verb

    if out:
        check_features_path(out)
    features = verb(
        data, backbone=backbone, allow_bin=allow_bin, depth=depth, pooling=pooling,
        image_size=image_size, max_length=max_length, device=device, limit=limit, text=text,
        image=image, skip_bad=skip_bad,
    )  # fmt: skip
    if out:
        write_features(features, out)
    rows, dimension = features.vectors_ND.shape
    if json:
        space = features.space.model_dump(mode="json")
        print_json({"rows": rows, "dimension": dimension, "space": space, "out": out})
        return
    answer(f"{rows} rows in {dimension} dimensions ({features.space.pooling} pooling).")
    if out:
        answer(f"Written: {out}")

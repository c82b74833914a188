"""`warmstart embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    label: o.LabelColumn = None,
    image: o.ImageColumn = None,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write .npy (with .ids.json) or .parquet.")
    ] = None,
    episodes: Annotated[
        str | None,
        typer.Option(
            "--episodes",
            metavar="WxK",
            help="Also draw 600 tasks of W classes and K rows a class, and tell how many of their "
            "other rows the nearest class mean gets right: 5x1, 5x5. All rows need labels then.",
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Embed every row once and keep the vectors in the cache.

    Examples:
      warmstart embed reviews.csv

      warmstart embed photos/ --backbone facebook/dinov2-small --out vectors.parquet

      warmstart embed photos/ --episodes 5x1
    """
    from warmstart.core import pick_device
    from warmstart.data import read
    from warmstart.workflow import (
        check_features_path,
        parse_episodes,
        refuse_own_input,
        write_features,
    )
    from warmstart.workflow import embed as verb
    from warmstart.workflow import episodes as draw_episodes

    if out:
        check_features_path(out)
        refuse_own_input(out, data)
    shape = parse_episodes(episodes) if episodes else None
    settings: dict[str, Any] = {
        "backbone": backbone, "allow_bin": allow_bin, "depth": depth, "pooling": pooling,
        "image_size": image_size, "max_length": max_length, "device": device,
    }  # fmt: skip
    pick_device(device)  # a wrong one is told before the data is read
    rows = read(
        data, need_label=shape is not None, text=text, label=label, image=image,
        skip_bad=skip_bad, limit=limit,
    )  # fmt: skip
    features = verb(rows, **settings)
    if out:
        write_features(features, out)
    score = None
    if shape:
        score = draw_episodes(rows, way=shape[0], shots=shape[1], **settings)
    count, dimension = features.vectors_ND.shape
    if json:
        space = features.space.model_dump(mode="json")
        told = {"episodes": score.model_dump()} if score else {}
        print_json({"rows": count, "dimension": dimension, "space": space, "out": out, **told})
        return
    answer(f"{count:,} rows in {dimension} dimensions ({features.space.pooling} pooling).")
    if score:
        answer(
            f"{score.way}-way {score.shots}-shot, nearest class mean: {score.accuracy:.1%} right "
            f"({score.low:.1%} to {score.high:.1%}, 95 % over {score.episodes} episodes)."
        )
    if out:
        answer(f"Written: {out}")

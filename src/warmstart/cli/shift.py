"""`warmstart shift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["shift"]


def shift(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="What you have or trained on; as DATA.", show_default=False
        ),
    ],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="What you want to work on; as DATA. Left out, SOURCE is held against --reference "
            "or the backbone's own statistics of its pretraining data.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Vectors (.npy, .parquet) of `embed --out` in a source's place."
        ),
    ] = None,
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
    target_text: Annotated[
        str | None, typer.Option("--target-text", help="Text column of TARGET, if another.")
    ] = None,
    target_label: Annotated[
        str | None, typer.Option("--target-label", help="Label column of TARGET, if another.")
    ] = None,
    target_image: Annotated[
        str | None, typer.Option("--target-image", help="Image column of TARGET, if another.")
    ] = None,
    date: Annotated[
        str | None,
        typer.Option("--date", help="Column of TARGET with times: error by stretch of time."),
    ] = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Stretches of time.")] = 5,
    permutations: Annotated[
        int, typer.Option("--permutations", min=19, help="Of the two-sample test.")
    ] = 999,
    seed: Annotated[int, typer.Option("--seed", help="Root seed.")] = 0,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report (.html) or all of it (.json).")
    ] = None,
    json: o.Json = False,
) -> None:
    """Measure how far TARGET lies from SOURCE, and tell which shift it is.

    Labels are optional on both sides; those of the source tell more, and those of a few target rows
    tell whether rows mean something else there.

    Examples:
      warmstart shift reviews.csv tweets.csv --out shift.html

      warmstart shift train/ photos/ --backbone facebook/dinov2-small --json

      warmstart shift photos/ --backbone microsoft/resnet-50
    """
    from warmstart.reporting import shift_view
    from warmstart.workflow import check_shift_path, refuse_own_input, write_shift
    from warmstart.workflow import shift as verb

    if out:
        check_shift_path(out)
        for data in (source, target):
            refuse_own_input(out, data)
    found = verb(
        source, target, reference=reference, backbone=backbone, depth=depth, pooling=pooling,
        image_size=image_size, max_length=max_length, device=device, allow_bin=allow_bin,
        date=date, windows=windows, permutations=permutations, seed=seed, limit=limit,
        command=o.command_line(), target_text=target_text, target_label=target_label,
        target_image=target_image, **o.reading(text, label, image, None, None, skip_bad),
    )  # fmt: skip
    if out:
        write_shift(found, out)
    if json:
        print_json(found.results)
        return
    answer(shift_view(found.results))
    if out:
        answer(f"Written: {out}")

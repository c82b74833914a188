"""`warmstart adapt`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["adapt"]


def adapt(
    source: Annotated[
        str, typer.Option("--source", help="Labelled rows to learn from.", show_default=False)
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target", help="Rows to adapt to; labels are not needed.", show_default=False
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="By comma; settings by colon: mmd,dann,reweight:ratio=kmm. All otherwise; "
            "source-only is always beside them.",
        ),
    ] = None,
    trainable: Annotated[
        str,
        typer.Option(
            "--trainable",
            help="What learns beside bottleneck and head: features (nothing; vectors are computed "
            "once), lora, last:N (the last N layer groups) or all.",
        ),
    ] = "features",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Training seeds.")] = 3,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            help="Keep the model of this method whatever the evidence says, such as mmd.",
            show_default=False,
        ),
    ] = None,
    backbone: o.Backbone = None,
    allow_bin: o.AllowBin = False,
    image_size: o.ImageSize = None,
    max_length: o.MaxLength = None,
    limit: o.Limit = None,
    text: o.TextColumn = None,
    label: o.LabelColumn = None,
    target_label: Annotated[
        str | None,
        typer.Option(
            "--target-label",
            help="Label column of the target, for the final report; found by its name otherwise.",
        ),
    ] = None,
    image: o.ImageColumn = None,
    label_names: o.LabelNames = None,
    skip_bad: o.SkipBad = False,
    metric: o.Metric = None,
    out: o.Out = None,
    replace: o.Replace = False,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Carry a labelled source over to a target without labels, where the evidence speaks for it.

    Aligns, reweights, corrects and self-trains on the untouched backbone's vectors, or with a part
    of the encoder (--trainable), chooses method and epoch without a target label, and keeps
    source-only where the evidence is against adapting or there is none. Labels that the target has
    are read for the final report alone. Interrupted, it goes on when the command is repeated.

    Examples:
      warmstart adapt --source films.csv --target gadgets.csv

      warmstart adapt --source scans/ --target photos/ --methods mmd,dann --out runs/photos

      warmstart adapt --source films.csv --target gadgets.csv --methods mmd --keep mmd

      warmstart adapt --source films.csv --target gadgets.csv --trainable last:2 --methods mmd,coral

      warmstart predict runs/photos new_photos/
    """
    from warmstart.reporting import adaptation_view, audit_view
    from warmstart.workflow import adapt as verb

    run = verb(
        source,
        target,
        methods=None if methods is None else [m for m in methods.split(",") if m.strip()],
        trainable=trainable,
        seeds=seeds,
        keep=keep,
        backbone=backbone,
        allow_bin=allow_bin,
        image_size=image_size,
        max_length=max_length,
        limit=limit,
        metric=metric,
        target_label=target_label,
        out=out,
        replace=replace,
        device=device,
        command=o.command_line(),
        show_audit=None if json else lambda found: answer(audit_view(found.to_dict())),
        **o.reading(text, label, image, None, label_names, skip_bad),
    )
    if json:
        print_json({"folder": str(run.folder), **run.results})
        return
    answer(adaptation_view(run.results))
    answer(f"Model:  {run.folder / 'model'}")
    answer(f"Report: {run.report.resolve()}")

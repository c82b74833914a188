"""`warmstart fit`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["fit"]


def fit(
    data: o.Data,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="What to do; the plan's recommendation otherwise."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy: l2=0.01"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Training seed.")] = 0,
    shots: Annotated[
        int | None, typer.Option("--shots", min=1, help="Training rows a class.")
    ] = None,
    backbone: o.Backbone = None,
    allow_bin: o.AllowBin = False,
    image_size: o.ImageSize = None,
    max_length: o.MaxLength = None,
    limit: o.Limit = None,
    text: o.TextColumn = None,
    label: o.LabelColumn = None,
    image: o.ImageColumn = None,
    split_column: o.SplitColumn = None,
    group: o.Group = None,
    label_names: o.LabelNames = None,
    skip_bad: o.SkipBad = False,
    metric: o.Metric = None,
    out: o.Out = None,
    replace: o.Replace = False,
    device: o.Device = "auto",
    tracker: o.Tracker = None,
    json: o.Json = False,
) -> None:
    """Adapt a backbone by one strategy and write a run folder.

    Examples:
      warmstart fit reviews.csv

      warmstart fit reviews.csv --strategy finetune --set epochs=3 --out runs/reviews

      warmstart predict runs/reviews new.csv
    """
    from warmstart.reporting import audit_view, scores_view
    from warmstart.workflow import fit as verb

    run = verb(
        data,
        strategy=strategy,
        settings=o.parse_settings(set_),
        backbone=backbone,
        allow_bin=allow_bin,
        seed=seed,
        limit=limit,
        image_size=image_size,
        max_length=max_length,
        metric=metric,
        group=group,
        shots=shots,
        out=out,
        replace=replace,
        device=device,
        trackers=tuple(tracker or ()),
        command=o.command_line(),
        show_audit=None if json else lambda found: answer(audit_view(found.to_dict())),
        **o.reading(text, label, image, split_column, label_names, skip_bad),
    )
    if json:
        print_json({"folder": str(run.folder), **run.results})
        return
    answer(scores_view(run.arm()["scores"]))
    answer(f"Model:  {run.folder / 'model'}")
    answer(f"Report: {run.report.resolve()}")

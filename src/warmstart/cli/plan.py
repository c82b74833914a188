"""`warmstart plan`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["plan"]


def plan(
    data: o.Data,
    backbone: o.Backbone = None,
    allow_bin: o.AllowBin = False,
    distance: Annotated[
        Literal["near", "far", "unknown"],
        typer.Option("--distance", help="How far the data is from the pretraining data."),
    ] = "unknown",
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time for training: 15m, 2h.")
    ] = None,
    limit: o.Limit = None,
    text: o.TextColumn = None,
    label: o.LabelColumn = None,
    image: o.ImageColumn = None,
    split_column: o.SplitColumn = None,
    group: o.Group = None,
    label_names: o.LabelNames = None,
    skip_bad: o.SkipBad = False,
    user: o.UserColumn = None,
    item: o.ItemColumn = None,
    time: o.TimeColumn = None,
    event: o.EventColumn = None,
    positive: o.Positive = None,
    limit_users: o.LimitUsers = None,
    test_from: o.TestFrom = None,
    validation_from: o.ValidationFrom = None,
    json: o.Json = False,
) -> None:
    """Say which strategy the data calls for, and which rule spoke.

    Example:
      warmstart plan reviews.csv
    """
    from warmstart.reporting import plan_view
    from warmstart.workflow import plan as verb

    found = verb(
        data, backbone=backbone, allow_bin=allow_bin, distance=distance, budget=budget,
        limit=limit, group=group,
        **o.reading(text, label, image, split_column, label_names, skip_bad),
        **o.interactions(
            user, item, time, event, positive, limit_users, test_from, validation_from
        ),
    )  # fmt: skip
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        answer(plan_view(found.model_dump(mode="json")))

"""`warmstart plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["plan"]

_LIMITS, _LOOK = "What must be kept to", "Measuring"


def _limit(flag: str, words: str) -> Any:
    return typer.Option(flag, help=words, rich_help_panel=_LIMITS)


def _look(flag: str, words: str) -> Any:
    return typer.Option(flag, help=words, rich_help_panel=_LOOK)


def plan(
    data: o.Data,
    quick: Annotated[
        bool, _look("--quick", "Measure nothing: the number of labels decides, at once.")
    ] = False,
    within: Annotated[str, _look("--within", "Time that measuring may take: 30s, 2m.")] = "2m",
    backbone: o.Backbone = None,
    allow_bin: o.AllowBin = False,
    image_size: o.ImageSize = None,
    max_length: o.MaxLength = None,
    distance: Annotated[
        Literal["near", "far", "unknown"],
        _look("--distance", "How far the data is from the pretraining data, where you know it."),
    ] = "unknown",
    reference: Annotated[
        Path | None,
        _look("--reference", "Vectors of the pretraining domain (.npy, .parquet), from `embed`."),
    ] = None,
    prior: Annotated[
        Path | None, _look("--prior", "A table of expectations instead of the package's.")
    ] = None,
    seed: Annotated[int, _look("--seed", "Of short trainings and draws.")] = 0,
    budget: Annotated[str | None, _limit("--budget", "Time for training: 15m, 2h.")] = None,
    memory: Annotated[str | None, _limit("--memory", "Memory for training: 4GB.")] = None,
    latency: Annotated[str | None, _limit("--latency", "Time for one answer: 20ms.")] = None,
    max_size: Annotated[str | None, _limit("--max-size", "Model on disk: 1MB, 200MB.")] = None,
    licence: Annotated[
        str | None,
        _limit("--licence", "Licences that the weights may have: apache-2.0,mit."),
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
    rating: o.RatingColumn = None,
    weight: o.WeightColumn = None,
    positive: o.Positive = None,
    limit_users: o.LimitUsers = None,
    fractions: o.Fractions = None,
    test_from: o.TestFrom = None,
    validation_from: o.ValidationFrom = None,
    random_split: o.RandomSplit = False,
    metric: o.Metric = None,
    device: o.Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write a report (.html) or everything (.json)."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Say which strategy the data calls for, with the evidence, the cost and the runner-up.

    The untouched model, the probe and a short fine-tuning are tried, and a few real steps of each
    way of training are timed. Test rows are never looked at. `fit` without --strategy follows it.

    Examples:
      warmstart plan reviews.csv

      warmstart plan reviews.csv --quick

      warmstart plan reviews.csv --budget 15m --max-size 200MB --out plan.html
    """
    from warmstart.reporting import plan_view
    from warmstart.workflow import check_plan_path, write_plan
    from warmstart.workflow import plan as verb

    if out is not None:
        check_plan_path(out)
    found = verb(
        data, backbone=backbone, allow_bin=allow_bin, distance=distance, budget=budget,
        limit=limit, group=group, quick=quick, within=within, reference=reference, memory=memory,
        latency=latency, max_size=max_size, licence=licence, prior=prior, metric=metric,
        image_size=image_size, max_length=max_length, device=device, seed=seed,
        **o.reading(text, label, image, split_column, label_names, skip_bad),
        **o.interactions(
            user, item, time, event, rating, weight, positive, limit_users, fractions,
            test_from, validation_from, random_split,
        ),
    )  # fmt: skip
    if out is not None:
        write_plan(found, out, source=data, command=o.command_line())
    values = found.model_dump(mode="json")
    if json:
        print_json(values)
        return
    answer(plan_view(values))
    if out is not None:
        answer(f"Report: {out.resolve()}")

"""`warmstart compare`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from . import _options as o
from ._show import answer, print_json

__all__ = ["CompareCommand", "compare"]

_SHOTS = "1,2,4,8,16,32"  # planning.SHOTS, which is not imported before a command runs


class CompareCommand(TyperCommand):
    """`--shots` may stand alone: what follows it is its value only where that is numbers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--shots` its default."""
        filled = [
            f"--shots={_SHOTS}"
            if word == "--shots" and not re.fullmatch(r"\[.*|\s*-?\d[\d.\s]*(,.*)?", after)
            else word
            for word, after in zip(args, [*args, ""][1:], strict=True)
        ]
        return super().parse_args(ctx, filled)


def compare(
    data: o.Data,
    strategies: Annotated[
        str | None,
        typer.Option(
            "--strategies",
            help="Arms, by comma; settings by colon: probe,knn:k=5; `all` for every strategy: "
            f"{o.STRATEGIES}. On interactions: {o.ARMS}.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            help="Training seeds, as the budget allows: 3; 1 on interactions.",
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", help="Time for everything: 90s (or 90), 15m, 1h, none.")
    ] = "15m",
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
    image_backbone: o.ImageBackbone = None,
    metric: o.Metric = None,
    out: o.Out = None,
    replace: o.Replace = False,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep every arm's model, not only the best.")
    ] = False,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="Money for an hour here.")
    ] = None,
    watts: Annotated[
        float | None, typer.Option("--watts", min=0, help="Mean power draw under load.")
    ] = None,
    grams_per_kwh: Annotated[
        float, typer.Option("--grams-per-kwh", min=0, help="CO2 of your electricity.")
    ] = 480.0,
    shots: Annotated[
        str | None,
        typer.Option(
            "--shots",
            metavar="[K,K,...]",
            help="The k-shot table: rows a class, 1,2,4,8,16,32 when none are named.",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Draws of each number of shots.")
    ] = 5,
    device: o.Device = "auto",
    tracker: o.Tracker = None,
    json: o.Json = False,
) -> None:
    """Try ways of adapting on one split, and say which was worth it.

    Runs zero-shot, a linear probe, fine-tuning and training from scratch, with a cheap control
    beside them, on the same rows; then prints the table, the verdict and where the report is. On
    interactions: tracks from frozen encoders to two towers against tuned baselines, one time cut.
    Interrupted, it goes on when the command is repeated.

    Examples:
      warmstart compare reviews.csv

      warmstart compare reviews.csv --strategies probe,finetune --seeds 5 --budget 1h

      warmstart compare photos/ --backbone facebook/dinov2-small --image-size 96

      warmstart compare reviews.csv --shots 1,4,16 --draws 5

      warmstart compare ml-100k/ --strategies two-tower,ease,popularity --out runs/films
    """
    from warmstart.planning import Prices
    from warmstart.reporting import audit_view, comparison_view
    from warmstart.workflow import compare as verb

    run = verb(
        data,
        backbone=backbone,
        allow_bin=allow_bin,
        strategies=None if strategies is None else o.parse_arms(strategies),
        seeds=seeds,
        budget=budget,
        limit=limit,
        image_size=image_size,
        max_length=max_length,
        metric=metric,
        group=group,
        out=out,
        replace=replace,
        keep_models=keep_models,
        prices=Prices.parse(
            {"price_per_hour": price_per_hour, "watts": watts, "grams_per_kwh": grams_per_kwh},
            who="prices",
        ),
        device=device,
        trackers=tuple(tracker or ()),
        shots=shots,
        draws=draws,
        command=o.command_line(),
        show_audit=None if json else lambda found: answer(audit_view(found.to_dict())),
        **o.reading(text, label, image, split_column, label_names, skip_bad),
        **o.interactions(
            user, item, time, event, rating, weight, positive, limit_users, fractions,
            test_from, validation_from, random_split,
        ),
        **({} if image_backbone is None else {"image_backbone": image_backbone}),
    )  # fmt: skip
    if json:
        print_json({"folder": str(run.folder), **run.results})
        return
    answer(comparison_view(run.results))
    if (run.folder / "model").is_dir():
        answer(f"Model:  {run.folder / 'model'}")
    answer(f"Report: {run.report.resolve()}")

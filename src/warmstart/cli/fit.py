"""`warmstart fit`."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["fit"]


def fit(
    data: o.Data,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help=f"{o.STRATEGIES}; the plan's recommendation otherwise. On interactions: frozen, "
            "user-tower, two-tower (otherwise), both-towers, text-history, scratch, zero-shot.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Without --strategy: measure nothing, labels alone decide."),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy: l2=0.01"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Training seed.")] = 0,
    shots: Annotated[
        int | None, typer.Option("--shots", min=1, help="Training rows a class.")
    ] = None,
    controls: Annotated[
        str,
        typer.Option(
            "--controls",
            help="What it must beat: cheap (untouched model, probe, TF-IDF), full (and training "
            "from scratch), none.",
        ),
    ] = "cheap",
    retain: Annotated[
        str | None,
        typer.Option("--retain", help="Rows of an old task that must not be forgotten."),
    ] = None,
    max_forgetting: Annotated[
        float | None,
        typer.Option("--max-forgetting", help="Points that the old task may lose: 2."),
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
    device: o.Device = "auto",
    tracker: o.Tracker = None,
    json: o.Json = False,
) -> None:
    """Adapt a backbone by one strategy, see whether it was worth it, and write a run folder.

    The untouched model, the probe and, for text, TF-IDF are fitted beside it on the same rows.
    Where one of them is better on the validation rows, that model is kept and the run says so.

    Examples:
      warmstart fit reviews.csv

      warmstart fit reviews.csv --strategy finetune --set epochs=3 --out runs/reviews

      warmstart fit new.csv --strategy finetune --retain old.csv --max-forgetting 2

      warmstart predict runs/reviews new.csv

      warmstart fit ml-100k/ --out runs/films
    """
    from warmstart.reporting import audit_view, comparison_view, scores_view
    from warmstart.workflow import fit as verb

    run = verb(
        data,
        strategy=strategy,
        quick=quick,
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
        controls=cast("Any", controls),
        retain=retain,
        max_forgetting=max_forgetting,
        out=out,
        replace=replace,
        device=device,
        trackers=tuple(tracker or ()),
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
    if run.results["task_type"] == "retrieve":
        answer(comparison_view(run.results))
        if (run.folder / "model").is_dir():
            answer(f"Model:  {run.folder / 'model'}")
        answer(f"Report: {run.report.resolve()}")
        return
    if len(run.results["arms"]) > 1:
        answer(comparison_view(run.results))
        answer(f"The kept model, {run.arm()['label']}, on the test rows:")
    elif run.results.get("cost_check"):
        answer(run.results["cost_check"]["sentence"])
    answer(scores_view(run.arm()["scores"]))
    answer(f"Model:  {run.folder / 'model'}")
    answer(f"Report: {run.report.resolve()}")

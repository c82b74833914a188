"""`warmstart evaluate`."""

from __future__ import annotations

from . import _options as o
from ._show import answer, print_json

__all__ = ["evaluate"]


def evaluate(
    run: o.RunFolder,
    data: o.Data,
    metric: o.Metric = None,
    text: o.TextColumn = None,
    label: o.LabelColumn = None,
    image: o.ImageColumn = None,
    group: o.Group = None,
    skip_bad: o.SkipBad = False,
    user: o.UserColumn = None,
    item: o.ItemColumn = None,
    time: o.TimeColumn = None,
    event: o.EventColumn = None,
    rating: o.RatingColumn = None,
    weight: o.WeightColumn = None,
    positive: o.Positive = None,
    backbone: o.RunEncoder = None,
    allow_bin: o.AllowBin = False,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Score a finished run on labelled rows that it has not seen.

    Rows whose content the run was trained or chosen on are counted, and a warning says so. A run
    on interactions is asked what came next in later events, beside popularity.

    Examples:
      warmstart evaluate runs/reviews held_out.csv --json

      warmstart evaluate runs/films next_month.csv
    """
    from warmstart.reporting import comparison_view, scores_view
    from warmstart.workflow import RetrievalEvaluation
    from warmstart.workflow import evaluate as verb

    scores = verb(
        run, data, metric=metric, group=group, text=text, label=label, image=image,
        skip_bad=skip_bad, device=device, backbone=backbone, allow_bin=allow_bin,
        **o.interactions(user, item, time, event, rating, weight, positive),
    )  # fmt: skip
    if isinstance(scores, RetrievalEvaluation):
        found = scores.to_json()
        if json:
            print_json(found)
        else:
            answer(comparison_view(found))
        return
    if json:
        print_json(scores.model_dump(mode="json"))
    else:
        answer(scores_view(scores.model_dump(mode="json")))

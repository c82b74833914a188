"""WiSE-FT: go part of the way from the untouched model to the fine-tuned one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warmstart.backbones import Backbone
from warmstart.core import UsageError, progress
from warmstart.data import View
from warmstart.evaluation import METRICS, measure
from warmstart.models import EncoderModel, Head, WeightPath, interpolate_head

__all__ = ["SHARES", "interpolate"]

SHARES = tuple(step / 10 for step in range(11))
_SHOWN = ("log_loss", "accuracy", "macro_f1")


def interpolate(
    backbone: Backbone,
    start_head: Head,
    tuned: EncoderModel,
    view: View,
    *,
    shares: Sequence[float] = SHARES,
    metric: str = "log_loss",
    judges: Mapping[str, Callable[[EncoderModel], float]] | None = None,
) -> tuple[EncoderModel, list[dict[str, Any]]]:
    """Blend encoder and head between untouched and tuned; keep the share that validates best.

    At share 0 this is the untouched backbone under `start_head` (the probe's convex head), at 1
    the tuned model, so the kept one is never worse on validation than either. Of equal values the
    smaller share is kept: it forgets less. The line is most useful where tuning began with
    `start_head` (probe first, then fine-tuning); the curve shows whether a barrier lies between.

    Args:
        backbone: The recipe that the tuned model came from.
        start_head: Linear head for the untouched vectors, of the same depth and pooling.
        tuned: The fine-tuned model; stays as it is.
        view: Only its validation rows are read.
        shares: Shares of the tuned weights to try, in [0, 1].
        metric: What decides on validation.
        judges: Further values of each point by name, such as the accuracy on an old task; they
            are shown and decide nothing.

    Returns:
        The model at the best share, and the curve: one dict a share with `share`, `chosen`,
        `validation_loss`, other validation metrics and what the judges said. The model's frozen
        weights are shared with the tuned model.

    Raises:
        NotApplicable: When encoders or heads are not of one architecture.
        UsageError: For an unknown metric or shares outside [0, 1].

    Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models, section 4.
    """
    points = sorted({float(share) for share in shares})
    if not points or points[0] < 0.0 or points[-1] > 1.0:
        raise UsageError(f"shares must be numbers in [0, 1], got {list(shares)}.")
    names = tuple(dict.fromkeys((*_SHOWN, metric)))
    before, after = start_head, tuned.head
    interpolate_head(before, after, 0.0)  # refuses before anything is loaded
    path = WeightPath(backbone.load(device=tuned.encoder.device).eval(), tuned.encoder)
    curve: list[dict[str, Any]] = []
    with progress.task("interpolating weights", len(points), unit="points") as bar:
        for share in points:
            model = _at(path, backbone, before, tuned, share)
            found = measure(model.proba(view.validation), view.validation.labels_N, names)
            said = {name: judge(model) for name, judge in (judges or {}).items()}
            curve.append({"share": share, **_named(found), **said})
            bar.advance()
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    key = _key(metric)
    best = min(curve, key=lambda point: (sign * point[key], point["share"]))
    for point in curve:
        point["chosen"] = point is best
    share = float(best["share"])
    progress.note(
        f"Interpolation: {100 * share:.3g} % of the way to the tuned weights has the best "
        f"validation {METRICS[metric].words} of {len(curve)} points."
    )
    if share == 1.0:
        return tuned, curve
    if share == 0.0:
        return _untouched(backbone, before, tuned), curve
    return _at(path, backbone, before, tuned, share), curve


def _at(
    path: WeightPath, backbone: Backbone, before: Head, tuned: EncoderModel, share: float
) -> EncoderModel:
    encoder: Any = path.at(share)
    return EncoderModel(
        backbone, interpolate_head(before, tuned.head, share), tuned.label_names,
        encoder=encoder, depth=tuned.depth, pooling=tuned.pooling,
    )  # fmt: skip


def _untouched(backbone: Backbone, head: Head, tuned: EncoderModel) -> EncoderModel:
    return EncoderModel(
        backbone, interpolate_head(head, tuned.head, 0.0), tuned.label_names,
        depth=tuned.depth, pooling=tuned.pooling,
    )  # fmt: skip


def _key(metric: str) -> str:
    return "validation_loss" if metric == "log_loss" else f"validation_{metric}"


def _named(found: Mapping[str, float]) -> dict[str, float]:
    return {_key(name): value for name, value in found.items()}

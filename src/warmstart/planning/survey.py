"""Looking before training: cheap arms, a short fine-tuning and prices, within a stated time.

Only training and validation rows are looked at. What does not fit into the time, or cannot be had,
is told as missing; nothing is guessed in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import (
    BackboneError,
    DataError,
    Meter,
    NotApplicable,
    OutOfMemory,
    Streams,
    progress,
)
from warmstart.data import View
from warmstart.evaluation import compare_arms, measure, score_metric
from warmstart.models import Model
from warmstart.strategies import Fitted, make
from warmstart.training import Diverged

from .budget import embedding_estimate
from .evidence import Gain, Measured, Missing, Survey, gain_error, label_items
from .meter import latency_ms
from .noise import label_noise
from .pricing import duration, price_of_cost, price_of_features, price_of_steps
from .survey_curve import probe_curve
from .survey_desk import Desk
from .survey_distance import measured_distance, transferability

__all__ = ["CANDIDATES", "survey"]

CANDIDATES = ("zero-shot", "prototypes", "probe", "lora", "finetune", "unfreeze", "scratch")
"""Strategies among which an advisor chooses, cheapest first."""

_UNTRAINED = ("zero-shot", "prototypes")
_TRIED, _TRIED_NEXT = "finetune", "lora"
_STEPPED = ("lora", "unfreeze", "scratch")
_FAILS = (NotApplicable, DataError, BackboneError, Diverged, OutOfMemory)
_EMBED_SHARE, _SHORT_SHARE, _CURVE_SHARE = 0.35, 0.5, 0.8  # of the time that measuring may take
_LEAST_VALIDATION, _MOST_VALIDATION = 4, 1000
_SHORT_LENGTH = 1 / 3  # of the full length: a short arm is no second training
_SHORT_LEAST, _SHORT_MOST_FULL = 8, 40
_MARGIN = 1.15  # as for a budget: what the clock may add to measured steps


def survey(
    backbone: Backbone,
    view: View,
    *,
    metric: str,
    folder: Path,
    within: float = 120.0,
    device: str = "auto",
    seed: int = 0,
    distance: float | None = None,
    reference: Path | None = None,
) -> Survey:
    """Measure what a recommendation can stand on.

    Args:
        backbone: What would be adapted.
        view: Training and validation rows.
        metric: What decides; higher is better.
        folder: A place for the runs of short arms; nothing in it is needed afterwards.
        within: Seconds that all of it may take, as far as that can be kept.
        device: Where to compute.
        seed: Of the short arms and of every draw.
        distance: -1 for a domain that is known to be near, 1 for a far one; measured otherwise
            where there is something to measure it against.
        reference: Vectors of the pretraining domain, see `shift.read_reference`.

    Raises:
        NotApplicable: For training rows of one class, or validation rows too few to compare on.
    """
    if len(np.unique(view.train.labels_N)) < 2 or len(view.validation) < _LEAST_VALIDATION:
        raise NotApplicable(
            f"a plan needs training rows of two classes and {_LEAST_VALIDATION} validation rows, "
            f"got {len(view.train)} rows of {len(np.unique(view.train.labels_N))} and "
            f"{len(view.validation)}"
        )
    plain = View(view.train, view.validation)
    desk = Desk(
        backbone, plain, plain, metric, folder, device, seed, within, time.monotonic(),
        distance=distance, reference=reference,
    )  # fmt: skip
    stages: tuple[tuple[str, Callable[[Desk], None]], ...] = (
        ("rows", _cut), ("probe", _probe), ("untrained arms", _untrained),
        ("price of fine-tuning", _price_first), ("short fine-tuning", _short),
        ("learning curve", _curve), ("distance", _distance), ("other prices", _price_others),
        ("short LoRA", _short_second),
        ("label noise", _noise), ("transferability", _transferability),
    )  # fmt: skip
    with progress.task("Measuring for the plan", total=len(stages), unit="measurements") as bar:
        for title, stage in stages:
            bar.describe(f"Measuring for the plan: {title}")
            stage(desk)
            bar.advance()
    return _told(desk)


def _told(desk: Desk) -> Survey:
    exponent, exponent_error = desk.exponent or (None, 0.0)
    return Survey(
        labels=int((desk.view.train.labels_N >= 0).sum()), metric=desk.metric,
        probe_error=desk.probe_error[0], probe_error_error=desk.probe_error[1], guess=desk.guess,
        exponent=exponent, exponent_error=exponent_error, distance=desk.distance,
        gains=tuple(desk.gains), prices=desk.prices, latency_ms=desk.latency,
        items=tuple(desk.items), missing=tuple(desk.missing), left_out=desk.left_out,
        seconds=time.monotonic() - desk.started,
    )  # fmt: skip


def _cut(desk: Desk) -> None:
    """As many rows as can be embedded in a share of the time; the labels that there are."""
    train, validation = desk.view.train, desk.view.validation
    desk.items += label_items([n for n in train.class_counts.values() if n])
    desk.seconds_per_row = embedding_estimate(desk.backbone, train) / len(train)
    most = int(_EMBED_SHARE * desk.budget / max(desk.seconds_per_row, 1e-9))
    held = max(2, min(len(validation), _MOST_VALIDATION, most // 3))
    kept = max(2 * len(train.label_names), min(len(train), most - held))
    draw = Streams(desk.seed).child("plan", "rows")
    chosen = [
        np.sort(draw.numpy(name).permutation(len(rows))[:count])
        for name, rows, count in (("train", train, kept), ("validation", validation, held))
    ]
    desk.small = View(train.select(chosen[0]), validation.select(chosen[1]))
    if len(np.unique(desk.small.train.labels_N)) < 2:
        desk.small = View(train, desk.small.validation)
    if len(desk.small.train) < len(train):
        desk.missing.append(
            Missing(
                name="rows",
                text=f"The probe is measured on {len(desk.small.train):,} of {len(train):,} "
                f"training rows: embedding one takes {1000 * desk.seconds_per_row:.0f} ms here. "
                "Give --within more time for all of them.",
            )
        )


def _probe(desk: Desk) -> None:
    """The probe on the validation rows: the zero of every gain."""
    began = time.perf_counter()
    small = desk.small
    desk.backbone.features(small.validation.without_labels())
    with Meter(desk.device) as embedding:
        desk.backbone.features(small.train)
    with Meter(desk.device) as solving:
        fitted = make("probe").fit(desk.backbone, small, desk.run("probe"))
    desk.probe, desk.probe_MC = fitted, desk.proba(fitted.model)
    found = score_metric(desk.probe_MC, small.validation.labels_N, desk.metric, seed=desk.seed)
    rows = len(small.validation)
    error = min(max(1 - found.value, 1 / (rows + 2)), 1.0)
    low, high = (found.value if v is None else v for v in (found.low, found.high))
    desk.guess = _guess(small, desk.metric)
    desk.probe_error = error, max((high - low) / 3.92, np.sqrt(error * (1 - error) / rows))
    both = len(desk.view.train) + len(desk.view.validation)
    desk.prices["probe"] = price_of_features(
        make("probe"), desk.seconds_per_row, both, solving.seconds,
        max(embedding.peak_bytes, solving.peak_bytes),
    )  # fmt: skip
    for name in _UNTRAINED:
        desk.prices[name] = price_of_features(
            make(name), desk.seconds_per_row, both, 0.0, embedding.peak_bytes
        )
    desk.latency = latency_ms(fitted.model, small.validation.inputs(range(min(8, rows))))
    desk.items.append(
        Measured(
            name="probe", value=found.value, interval=(low, high),
            seconds=time.perf_counter() - began,
            text=f"The probe reaches {found.value:.1%} {desk.metric.replace('_', ' ')} on "
            f"{rows:,} validation rows ({low:.1%} to {high:.1%}).",
            details={"rows": rows, "train_rows": len(small.train), **_l2(fitted)},
        )
    )  # fmt: skip


def _guess(rows: View, metric: str) -> float:
    """What always naming the commonest training class reaches on the validation rows."""
    labels_N = rows.train.labels_N
    proba_MC = np.zeros((len(rows.validation), rows.n_classes))
    proba_MC[:, np.bincount(labels_N[labels_N >= 0]).argmax()] = 1.0
    return measure(proba_MC, rows.validation.labels_N, [metric])[metric]


def _l2(fitted: Fitted) -> dict[str, float]:
    return {"l2": float(fitted.values["l2"])}


def _curve(desk: Desk) -> None:
    assert desk.probe_MC is not None
    train, validation = desk.small.train, desk.small.validation
    try:
        item = probe_curve(
            desk.backbone.features(train).vectors_ND, train.labels_N, train.ids,
            desk.backbone.features(validation.without_labels()).vectors_ND, validation.labels_N,
            classes=desk.view.n_classes, at_full_M=desk.probe_MC.argmax(axis=1), seed=desk.seed,
            until=desk.started + _CURVE_SHARE * desk.budget,
        )  # fmt: skip
    except NotApplicable as error:
        desk.missing.append(Missing(name="probe_curve", text=f"{_sentence(error)}."))
        return
    desk.items.append(item)
    low, high = item.interval or (item.value, item.value)
    desk.exponent = item.value, (high - low) / 3.92


def _noise(desk: Desk) -> None:
    assert desk.probe is not None
    train = desk.small.train
    try:
        vectors_ND = desk.backbone.features(train).vectors_ND
        l2 = _l2(desk.probe)["l2"]
        desk.items.append(label_noise(vectors_ND, train.labels_N, desk.view.n_classes, l2))
    except NotApplicable as error:
        desk.missing.append(Missing(name="label_noise", text=f"{_sentence(error)}."))


def _untrained(desk: Desk) -> None:
    """Zero-shot and class means, which cost no training: their gains are measured outright."""
    for name in _UNTRAINED:
        began = time.perf_counter()
        try:
            fitted = make(name).fit(desk.backbone, desk.small, desk.run(name))
        except _FAILS as error:
            desk.left_out[name] = str(error)
            continue
        _add_gain(desk, name, fitted.model, 1.0, began, "")


def _add_gain(desk: Desk, name: str, model: Model, share: float, began: float, how: str) -> None:
    """Hold an arm against the probe on the same validation rows."""
    truth_M = desk.small.validation.labels_N
    paired = compare_arms(
        desk.proba(model), desk.probe_MC, truth_M, metric=desk.metric, seed=desk.seed
    )
    error = gain_error(paired)
    low, high = paired.difference - 1.96 * error, paired.difference + 1.96 * error
    desk.gains.append(Gain(strategy=name, value=paired.difference, error=error, share=share))
    kind = f"short_{name}" if share < 1 else name
    desk.items.append(
        Measured(
            name=kind.replace("-", "_"), value=paired.difference, interval=(low, high),
            seconds=time.perf_counter() - began,
            text=f"{make(name).title}{how} is {_points(paired.difference)} points from the probe "
            f"on the same validation rows ({_points(low)} to {_points(high)}).",
            details={"share": share, "error": error, "discordant": paired.discordant},
        )
    )  # fmt: skip


def _distance(desk: Desk) -> None:
    if desk.distance is not None:
        where = {-1.0: "near", 1.0: "far"}.get(desk.distance, "neither near nor far")
        desk.items.append(
            Measured(
                name="distance", value=desk.distance,
                text=f"The domain is {where}, as it was told ({desk.distance:g} on a scale from "
                "-1, near, to 1, far).",
            )
        )  # fmt: skip
        return
    try:
        item, desk.distance = measured_distance(
            desk.backbone, desk.small.train, desk.reference, seed=desk.seed
        )
        desk.items.append(item)
    except NotApplicable as error:
        desk.missing.append(Missing(name="distance", text=f"{_sentence(error)}."))


def _transferability(desk: Desk) -> None:
    train = desk.small.train
    desk.items += transferability(desk.backbone.features(train).vectors_ND, train.labels_N)


def _price_first(desk: Desk) -> None:
    """Real steps of the arm that is tried next."""
    _price(desk, _TRIED)


def _price_others(desk: Desk) -> None:
    """Real steps of the other arms that train, as long as they fit into the time left.

    Where an arm takes the steps that fine-tuning was timed by, they are not taken again.
    """
    for name in _STEPPED:
        if _TRIED in desk.costs and _price_alike(desk, name):
            continue
        if max(price.measuring for price in desk.prices.values()) > desk.left:
            desk.left_out[name] = (
                f"its steps were not timed within the {desk.budget:.0f} s of measuring: give "
                "--within more"
            )
        else:
            _price(desk, name)


def _price_alike(desk: Desk, name: str) -> bool:
    """Price an arm by fine-tuning's steps; False where its own are others."""
    strategy = make(name)
    try:
        strategy.check(desk.backbone, desk.view)
        cost = strategy.cost_by(desk.costs[_TRIED], desk.backbone, desk.view)
    except _FAILS as error:
        desk.left_out[name] = str(error)
        return True
    if cost is None:
        return False
    desk.costs[name] = cost
    if not strategy.cost_is_bound:  # else its own short run tells
        desk.prices[name] = price_of_cost(strategy, cost)
    return True


def _price(desk: Desk, name: str) -> None:
    try:
        price, cost = price_of_steps(make(name), desk.backbone, desk.view, desk.run(name))
    except _FAILS as error:
        desk.left_out[name] = str(error)
        return
    desk.prices[name], desk.costs[name] = price, cost


def _short(desk: Desk) -> None:
    """A fine-tuning of few steps: a probe alone misleads."""
    _try(desk, _TRIED)


def _short_second(desk: Desk) -> None:
    """The same with frozen weights and adapters, which may serve few labels better.

    Its own steps price it; where it did not run, fine-tuning's say what it costs at most.
    """
    name = _TRIED_NEXT
    made = _try(desk, name)
    if name in desk.prices or name in desk.left_out or name not in desk.costs:
        return
    cost = desk.costs[name]
    own = made is not None and bool(made[0].epochs)
    if made is not None and own:
        fitted, peak = made
        per_step = fitted.seconds / (fitted.epochs * cost.steps_per_epoch)  # validation included
        cost = replace(cost, seconds_per_step=per_step, overhead=0.0, peak_bytes=peak)
    price = price_of_cost(make(name), cost).model_copy(update={"bound": not own})
    desk.prices[name], desk.costs[name] = price, cost


def _try(desk: Desk, name: str) -> tuple[Fitted, int] | None:
    """A training of few steps, its schedule fitted to them, beside the probe; its peak memory."""
    cost, title = desk.costs.get(name), make(name).title
    if cost is None:
        return None
    full = cost.epochs * cost.steps_per_epoch
    available = min(_SHORT_SHARE * desk.budget, 0.9 * desk.left)
    affordable = cost.steps_within(max(available, 0.0) / _MARGIN)
    steps = min(affordable, max(round(_SHORT_LENGTH * full), min(full, _SHORT_MOST_FULL)))
    if steps < min(_SHORT_LEAST, full):
        desk.missing.append(
            Missing(
                name=f"short_{name}",
                text=f"No short run of {title}: a step takes {duration(cost.seconds_per_step)}, "
                f"and {steps} steps fit into what is left of {desk.budget:.0f} s. Give "
                "--within more.",
            )
        )
        return None
    began = time.perf_counter()
    deadline = time.monotonic() + max(min(1.5 * available, 0.85 * desk.left), 1.0)
    run = desk.run(f"short-{name}").again(max_steps=steps, deadline=deadline, resumable=False)
    view = View(desk.view.train, desk.small.validation)
    try:
        with progress.muted(), Meter(desk.device) as meter:
            fitted = make(name).fit(desk.backbone, view, run)
    except _FAILS as error:
        desk.missing.append(
            Missing(name=f"short_{name}", text=f"The short run of {title} failed: {error}")
        )
        if name not in desk.prices:  # nothing else has shown that it works here
            desk.left_out[name] = str(error)
        return None
    share = min(1.0, steps / full)
    _add_gain(desk, name, fitted.model, share, began, f" of {steps} steps ({share:.0%} of a run)")
    return fitted, meter.peak_bytes


def _points(value: float) -> str:
    """A difference in hundredths with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def _sentence(error: Exception) -> str:
    text = str(error).rstrip(".")
    return text[:1].upper() + text[1:]

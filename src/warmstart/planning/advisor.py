"""The advisor: the tree as a prior, moved by evidence, bounded by limits, told with its numbers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from warmstart.backbones import Card
from warmstart.strategies import make

from .evidence import Survey
from .limits import Limits
from .prior import Belief, Prior, default_prior, expect
from .quadrant import quadrant_of
from .survey import CANDIDATES
from .tree import Expected, Plan, Reason

__all__ = ["advise", "bound_by_limits", "fallback"]

_NO_BACKBONE = {"text": "tfidf", "image": "cnn"}
_RELATED = ("lora", "finetune", "unfreeze")


def advise(
    tree: Plan,
    survey: Survey,
    *,
    card: Card,
    modality: str,
    limits: Limits | None = None,
    prior: Prior | None = None,
    options: Sequence[str] = (),
) -> Plan:
    """Recommend the way that the evidence expects most of, cheaper ones first among equals.

    Args:
        tree: What the tree alone says, for the same rows.
        survey: What was measured.
        card: The backbone's.
        modality: `text` or `image`.
        limits: What must be kept to.
        prior: The table; the package's otherwise.
        options: Command line options that `fit` needs to read the same rows.
    """
    limits, prior = limits or Limits(), prior or default_prior()
    expected = _expected(survey, expect(prior, survey), limits, card)
    usable = [one for one in expected if one.out is None]
    if not usable:
        return _without_backbone(tree, survey, expected, limits, card, modality, options)
    best = usable[0]
    within = [one for one in usable if best.gain - one.gain <= prior.tolerance]
    chosen = min(within, key=lambda one: (_seconds(one), CANDIDATES.index(one.strategy)))
    runner_up = next((one for one in usable if one.strategy != chosen.strategy), None)
    alternatives = [one.strategy for one in usable if one is not chosen][:3]
    unjudged = limits.unjudged(chosen.price, survey.latency_ms)
    warnings = [*tree.warnings, *_warnings(survey), *_unjudged(chosen.strategy, unjudged)]
    if limits.against_weights(card) is not None:  # the architecture alone may be used
        alternatives.append(fallback(modality))
        warnings.append(_beside_scratch(modality))
    return tree.model_copy(
        update={
            "strategy": chosen.strategy,
            "settings": {},
            "tree": tree.strategy,
            "metric": survey.metric,
            "reasons": (*_reasons(chosen, best, runner_up, survey), *_by_labels(tree, survey)),
            "alternatives": tuple(alternatives),
            "warnings": tuple(warnings),
            "command": _command(tree, chosen.strategy, options),
            "sentence": _sentence(chosen, runner_up, tree),
            "expected": tuple(expected),
            "runner_up": runner_up.strategy if runner_up else None,
            "cost": chosen.price,
            "evidence": survey.items,
            "missing": survey.missing,
            "quadrant": quadrant_of(survey.labels, survey.distance),
            "seconds": survey.seconds,
            "prior": prior.origin,
        }
    )


def _expected(
    survey: Survey, beliefs: Mapping[str, Belief], limits: Limits, card: Card
) -> list[Expected]:
    """Gains of every candidate in the metric's unit, best first."""
    found = []
    for name in CANDIDATES:
        strategy = make(name)
        belief = beliefs.get(name)
        if belief is None and name != "probe":
            continue
        mean, sd, before = (0.0, 0.0, 0.0) if belief is None else (
            belief.mean, belief.sd, belief.prior,
        )  # fmt: skip
        error = survey.probe_error
        # (share · error) with both uncertain: the variance of a product of independent numbers
        spread = np.hypot(error * sd, mean * survey.probe_error_error)
        worst = error - 1.0  # a metric of 0
        price = survey.prices.get(name)
        out = survey.left_out.get(name) or limits.against_weights(
            card, from_scratch=strategy.from_scratch
        )
        out = out or limits.against_latency(card.name, survey.latency_ms)
        out = out or (limits.against_price(price) if price else None)
        found.append(
            Expected(
                strategy=name, title=strategy.title, gain=max(error * mean, worst),
                low=max(error * mean - 1.96 * spread, worst),
                high=max(min(error * mean + 1.96 * spread, error), worst),
                prior=max(error * before, worst), price=price, out=out,
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (one.out is not None, -one.gain, _seconds(one)))


def _seconds(one: Expected) -> float:
    return one.price.seconds if one.price else float("inf")


def _reasons(
    chosen: Expected, best: Expected, runner_up: Expected | None, survey: Survey
) -> list[Reason]:
    """Why, each with its number; what was measured outright comes first."""
    found = [
        Reason(
            text=f"{chosen.title} is expected {_points(chosen.gain)} points from the probe "
            f"({_points(chosen.low)} to {_points(chosen.high)}); the number of labels alone let "
            f"expect {_points(chosen.prior)}.",
            name="expected_gain", value=chosen.gain,
        )
    ]  # fmt: skip
    own = chosen.strategy.replace("-", "_")
    measured = [own]
    if chosen.strategy in _RELATED:
        measured += [f"short_{own}", "short_finetune", "finetune"]
    told = next((item for name in measured if (item := survey.item(name))), None)
    if chosen.strategy == "probe":
        told = survey.item("short_finetune") or survey.item("finetune")
    if told is not None:
        found.append(Reason(text=told.text, name=told.name, value=told.value))
    for name in ("probe_curve", "distance", "label_noise"):
        item = survey.item(name)
        if item is not None:
            found.append(Reason(text=item.text, name=name, value=item.value))
    if best.strategy != chosen.strategy:
        found.append(
            Reason(
                text=f"{best.title} is expected {_points(best.gain)} points from the probe, only "
                f"{_points(best.gain - chosen.gain)} ahead: too little for what it costs more.",
                name="best_expected_gain", value=best.gain,
            )
        )  # fmt: skip
    if chosen.price is not None:
        found.append(
            Reason(
                text=f"It takes {chosen.price.words()} on this device.", name="seconds",
                value=chosen.price.seconds,
            )
        )  # fmt: skip
    if runner_up is not None:
        found.append(
            Reason(
                text=f"Runner-up is {runner_up.title} with {_points(runner_up.gain)} points.",
                name="runner_up_gain", value=runner_up.gain,
            )
        )  # fmt: skip
    return found


def _by_labels(tree: Plan, survey: Survey) -> list[Reason]:
    """What the tree alone says, and its facts on the classes."""
    text = (
        f"By {survey.labels} labels alone the tree says {make(tree.strategy).title} ({tree.rule})."
    )
    told = Reason(text=text, name="labels", value=survey.labels)
    return [told, *(reason for reason in tree.reasons if reason.name != "labels")]


def _warnings(survey: Survey) -> list[str]:
    noise = survey.item("label_noise")
    if noise is None or noise.value < 0.05:
        return []
    return [
        f"{noise.value:.1%} of the labels look wrong: looking at those rows may be worth more than "
        "any way of adapting."
    ]


def _sentence(chosen: Expected, runner_up: Expected | None, tree: Plan) -> str:
    text = (
        f"Plan: {chosen.title}, expected {_points(chosen.gain)} points from the probe "
        f"({_points(chosen.low)} to {_points(chosen.high)})"
    )
    if runner_up is not None:
        text += f"; runner-up {runner_up.title} ({_points(runner_up.gain)})"
    if tree.strategy == chosen.strategy:
        return f"{text}. The number of labels alone says the same ({tree.rule})."
    return f"{text}. The number of labels alone says {make(tree.strategy).title} ({tree.rule})."


def fallback(modality: str) -> str:
    """What is left without any backbone."""
    return _NO_BACKBONE[modality]


def bound_by_limits(
    tree: Plan, limits: Limits, card: Card | None, modality: str, options: Sequence[str] = ()
) -> Plan:
    """The tree's plan as far as limits allow without measuring.

    Where the backbone's weights are ruled out: training from scratch if its architecture may be
    used, else what needs no backbone.

    Args:
        tree: What the tree says.
        limits: What must be kept to.
        card: The backbone's; None where none was opened.
        modality: `text` or `image`.
        options: Command line options that `fit` needs to read the same rows.
    """
    out = None if card is None else limits.against_weights(card)
    if card is None or out is None:
        told = _unjudged(tree.strategy, limits.unjudged())
        return tree.model_copy(update={"warnings": (*tree.warnings, *told)})
    if limits.against_weights(card, from_scratch=True) is not None:
        return _instead(tree, fallback(modality), out, card, limits, options)
    found = _instead(tree, "scratch", out, card, limits, options)
    warnings = (*found.warnings, _beside_scratch(modality))
    return found.model_copy(update={"alternatives": (fallback(modality),), "warnings": warnings})


def _unjudged(strategy: str, names: Sequence[str]) -> list[str]:
    """That limits were given of which nothing tells whether the strategy keeps them."""
    if not names:
        return []
    return [
        f"{make(strategy).title} is not measured against {', '.join(names)}: see what it takes "
        "once it is fitted."
    ]


def _beside_scratch(modality: str) -> str:
    return (
        f"{make(fallback(modality)).title} takes no weights either and is not measured here: hold "
        "it against training from scratch with `compare`."
    )


def _instead(
    tree: Plan, name: str, out: str, card: Card, limits: Limits, options: Sequence[str]
) -> Plan:
    """The tree's plan with another strategy, since the backbone is out."""
    size = (card.size_bytes or 4 * card.parameters) / 2**20
    reason = Reason(
        text=f"The backbone ({size:,.1f} MiB) is ruled out: {out}.", name="backbone_mib", value=size
    )
    unknown = limits.unjudged()
    if limits.size_bytes is not None and not make(name).uses_backbone:
        unknown = ("--max-size", *unknown)
    return tree.model_copy(
        update={
            "strategy": name, "settings": {}, "tree": tree.strategy,
            "reasons": (reason, *tree.reasons), "alternatives": (),
            "warnings": (*tree.warnings, *_unjudged(name, unknown)),
            "command": _command(tree, name, options),
            "sentence": f"Plan: {make(name).title}, since {out}.",
        }
    )  # fmt: skip


def _without_backbone(
    tree: Plan,
    survey: Survey,
    expected: Sequence[Expected],
    limits: Limits,
    card: Card,
    modality: str,
    options: Sequence[str],
) -> Plan:
    """Where every way of adapting is out."""
    reasons = [one.out for one in expected if one.out is not None]
    out = limits.against_weights(card) or max(set(reasons), key=reasons.count)
    found = _instead(tree, fallback(modality), out, card, limits, options)
    return found.model_copy(
        update={
            "metric": survey.metric, "expected": tuple(expected), "evidence": survey.items,
            "missing": survey.missing, "seconds": survey.seconds,
            "quadrant": quadrant_of(survey.labels, survey.distance),
        }
    )  # fmt: skip


def _command(tree: Plan, strategy: str, options: Sequence[str]) -> str:
    words = shlex.split(tree.command)
    return shlex.join(["warmstart", "fit", words[2], "--strategy", strategy, *options])


def _points(value: float) -> str:
    """A share in hundredths with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"

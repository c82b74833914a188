"""An adaptation's verdict in words: what was chosen without labels, and what labels then say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.planning import Pair, Verdict
from warmstart.shift import Decision

from .adapt_target import Target

__all__ = ["adaptation_verdict"]


def adaptation_verdict(
    decision: Decision,
    target: Target,
    metric: str,
    arms: Sequence[Mapping[str, Any]],
    pairs: Sequence[Pair],
) -> Verdict:
    """The decision's sentences, and below them what the target's labels say, where it has any.

    Args:
        decision: Made without target labels.
        target: Whose test rows, if any, the arms were scored on.
        metric: The primary one.
        arms: As they stand in results.json.
        pairs: Each method minus source-only on the target's test rows.
    """
    sentences = list(decision.sentences)
    following = []
    if target.test:
        sentences += _told_by_labels(decision.kept, metric, arms, pairs)
    else:
        sentences.append(
            "The target has no labels to report on, so how well the kept model does there, and "
            "whether adapting helped, cannot be known: the validators are evidence, not proof."
        )
        following.append(
            "Label 100 or more target rows drawn at random and score the run on them: warmstart "
            "evaluate RUN LABELLED."
        )
    if not decision.adapting:
        following.append(
            "Label a few hundred target rows and fit on them; where labels can be had, they beat "
            "adaptation."
        )
    below = [
        {"arm": pair.a, "control": pair.b}
        for pair in pairs
        if pair.significant and pair.difference < 0
    ]
    return Verdict(
        best=decision.kept, cheapest_within=None, negative_transfer=(), below_control=tuple(below),
        sentences=tuple(sentences), next=tuple(following),
    )  # fmt: skip


def _told_by_labels(
    name: str, metric: str, arms: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]
) -> list[str]:
    """What the target's labels say of a choice that was made without them."""
    scored = {arm["name"]: arm["scores"]["metrics"][metric] for arm in arms if "scores" in arm}
    labels = {arm["name"]: arm["label"] for arm in arms}
    main = scored[name]
    bounds = (
        f" (95 % interval {_points(main['low'])} to {_points(main['high'])})"
        if main["low"] is not None
        else ""
    )
    told = [
        f"On {main['n']} labelled target rows, looked at only now, {labels[name]} reaches "
        f"{_points(main['value'])} % {metric.replace('_', ' ')}{bounds}."
    ]
    pair = next((pair for pair in pairs if pair.a == name), None)
    if pair is not None:
        sure = "" if pair.significant else "; chance may explain it"
        told.append(
            f"Against source only that is {_points(pair.difference, sign=True)} points "
            f"({_points(pair.low, sign=True)} to {_points(pair.high, sign=True)}{sure})."
        )
    best = max(scored, key=lambda one: scored[one]["value"])
    if scored[best]["value"] > main["value"]:
        told.append(
            f"{labels[best]} would have been best there ({_points(scored[best]['value'])} %); it "
            "is not taken, since nobody can choose by target labels where adapting is needed."
        )
    return told


def _points(value: float, *, sign: bool = False) -> str:
    shown = round(100 * value, 1) + 0.0
    return f"{shown:+.1f}" if sign else f"{shown:.1f}"

"""Never worse: an adapted model against the controls that cost less, told in words.

What is kept is chosen on the validation rows; the test rows say what the choice is worth.
"""

from __future__ import annotations

from collections.abc import Mapping

from warmstart.core import Config
from warmstart.evaluation import Paired

from .verdict import ArmFacts, Verdict, points

__all__ = ["Gap", "against_controls"]

_FREEZES = ("finetune", "lp-ft")
_CHEAP = ("zero-shot", "prototypes", "knn", "probe", "tfidf")


class Gap(Config):
    """How far a control is ahead of the adapted model, paired on the same rows.

    Attributes:
        validation: On the validation rows, by which the model is chosen.
        test: On the test rows.
    """

    validation: Paired
    test: Paired


def against_controls(
    verdict: Verdict,
    asked: ArmFacts,
    others: Mapping[str, ArmFacts],
    gaps: Mapping[str, Gap],
    *,
    strategy: str,
) -> Verdict:
    """The verdict of a fit: whether the model that was asked for is the one that is kept, and why.

    Args:
        verdict: As `judge` gives it.
        asked: The arm that was asked for.
        others: The controls by name.
        gaps: Control minus the asked arm, by control.
        strategy: Name of the asked strategy, for the cures.
    """
    if verdict.best is None or not others:
        return verdict
    if verdict.best == asked.name:
        ahead = max(gaps, key=lambda name: gaps[name].validation.difference)
        told = _ahead(asked, others[ahead], gaps[ahead])
        return verdict.model_copy(
            update={"asked": asked.name, "sentences": (told, *_rest(verdict))}
        )
    kept, gap = others[verdict.best], gaps[verdict.best]
    return verdict.model_copy(
        update={
            "asked": asked.name,
            "sentences": (_lost(asked, kept, gap), *_rest(verdict)),
            "next": (*_cures(strategy, kept), *verdict.next),
        }
    )


def _lost(asked: ArmFacts, kept: ArmFacts, gap: Gap) -> str:
    noise = "" if gap.validation.significant else ", though within the noise"
    behind = gap.test.difference < 0
    on_test = f"behind by {_gap(gap.test.turned)}" if behind else f"ahead by {_gap(gap.test)}"
    return (
        f"{asked.title} was asked for, but {kept.title} is ahead by {_gap(gap.validation)} on the "
        f"validation rows, by which the model is chosen{noise}; on the test rows it is {on_test}. "
        f"The model that is kept is that of {kept.title}: {points(kept.test)} % on the test rows."
    )


def _ahead(asked: ArmFacts, control: ArmFacts, gap: Gap) -> str:
    won = gap.test.significant and gap.test.difference < 0
    lost = gap.test.significant and gap.test.difference > 0
    head = "is worth it" if won else "is kept"
    told = (
        f"{asked.title} {head}: {points(asked.test)} % on the test rows, "
        f"{_gap(gap.test.turned)} against {control.title}, the best of the controls."
    )
    if lost:
        told += " The choice was made on validation, where it was not behind."
    elif not won:
        told += f" That is within the noise: {control.title} may serve as well for less."
    return told


def _cures(strategy: str, kept: ArmFacts) -> list[str]:
    """What to do about an adapted model that lost."""
    if strategy in _CHEAP:
        return [f"Take {kept.title} as it is kept here, or add labels."]
    cures = []
    if strategy in _FREEZES:
        cures.append("Freeze more: --strategy partial, unfreeze or lora.")
    if strategy == "unfreeze":
        cures.append("Freeze more: stop unfreezing earlier, --set until=2.")
    if strategy == "partial":
        cures.append("Freeze more: --set last=1.")
    cures.append("Lower the rate: give --set rate= a third of what the last block had.")
    if kept.from_scratch:
        cures.append("Try another backbone: this one's pretraining hinders here.")
    else:
        cures.append(f"Try another backbone, or take {kept.title} as it is kept here.")
    return cures


def _rest(verdict: Verdict) -> tuple[str, ...]:
    """The other sentences: the headline named the best arm, which is told already."""
    return verdict.sentences[1:]


def _gap(pair: Paired) -> str:
    return (
        f"{points(pair.difference)} points (95 % interval {points(pair.low)} to "
        f"{points(pair.high)})"
    )

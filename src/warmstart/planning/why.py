"""Why one arm beat another, in words that each name a measured number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.core import Config

from .verdict import ArmFacts, Pair, points

__all__ = ["Evidence", "explain"]

_FROZEN = ("probe", "prototypes", "knn", "zero-shot")
_WHOLE = ("finetune", "unfreeze", "lp-ft", "partial", "setfit")
_SMALL = ("lora", "qlora", "ia3", "prefix", "prompt", "ptuning", "adapter")
_WORDS = ("tfidf",)
_OPEN = 0.02  # a difference above it that is not significant says neither more nor less
_FITS = 0.5  # a training loss under half of the validation loss


class Evidence(Config):
    """What was measured of an arm beside its score.

    Attributes:
        strategy: Name of its strategy.
        trained: Parameters that were learned.
        rows: Training rows N.
        train_loss: Mean loss of the last epoch on the training rows.
        best_loss: Lowest validation loss.
        last_loss: Validation loss of the last epoch.
        epochs: Epochs that were run.
        best_epoch: The one with the lowest validation loss.
        shortened: Whether the budget ended it early.
    """

    strategy: str
    trained: int
    rows: int
    train_loss: float | None = None
    best_loss: float | None = None
    last_loss: float | None = None
    epochs: int = 0
    best_epoch: int | None = None
    shortened: bool = False

    @classmethod
    def of(
        cls,
        strategy: str,
        trained: int,
        rows: int,
        history: Sequence[Mapping[str, Any]],
        *,
        shortened: bool = False,
    ) -> Evidence:
        """Read the losses off a history, one record an epoch."""
        losses = [float(r["validation_loss"]) for r in history if "validation_loss" in r]
        train = [float(r["train_loss"]) for r in history if "train_loss" in r]
        best = losses.index(min(losses)) + 1 if losses else None
        return cls(
            strategy=strategy, trained=trained, rows=rows,
            train_loss=train[-1] if train else None,
            best_loss=min(losses) if losses else None,
            last_loss=losses[-1] if losses else None,
            epochs=len(losses), best_epoch=best, shortened=shortened,
        )  # fmt: skip

    @property
    def overfits(self) -> bool:
        """Whether it learned the training rows by heart while the validation loss rose."""
        if self.train_loss is None or self.best_loss is None or self.last_loss is None:
            return False
        return self.train_loss < _FITS * self.best_loss and self.last_loss > self.best_loss

    @property
    def unfinished(self) -> bool:
        """Whether the validation loss was still falling when the budget ended it."""
        return self.shortened and self.best_epoch == self.epochs


def explain(
    arms: Sequence[ArmFacts], pairs: Sequence[Pair], evidence: Mapping[str, Evidence], best: str
) -> list[str]:
    """Sentences on the differences that tell most about the data.

    Args:
        arms: Arms that are judged.
        pairs: Paired differences on the test rows.
        evidence: By arm.
        best: The arm that is kept.
    """
    titles = {arm.name: arm for arm in arms}
    gaps = {(p.a, p.b): p for p in pairs}
    gaps |= {(p.b, p.a): p.turned for p in pairs}
    found: list[str] = []
    by_kind = {
        kind: [a.name for a in arms if a.name in evidence and evidence[a.name].strategy in names]
        for kind, names in (
            ("frozen", _FROZEN), ("whole", _WHOLE), ("small", _SMALL), ("words", _WORDS),
        )
    }  # fmt: skip
    scratch = [arm.name for arm in arms if arm.from_scratch]
    frozen = _top(by_kind["frozen"], titles)
    whole = _top(by_kind["whole"], titles)
    small = _top(by_kind["small"], titles)
    if frozen and whole:
        found += _whole_or_frozen(titles[whole], titles[frozen], gaps, evidence)
    if whole and small:
        found += _whole_or_small(titles[whole], titles[small], gaps, evidence)
    pretrained = _top([name for name in (frozen, whole, small) if name], titles)
    if scratch and pretrained:
        found += _worth_of_pretraining(titles[pretrained], titles[scratch[0]], gaps)
    if best in by_kind["words"] and pretrained:
        found.append(
            f"Single words and pairs of words tell the classes apart here: "
            f"{titles[best].title} learns which from {evidence[best].rows:,} rows, while the "
            "backbone's vectors were made for meaning as a whole."
        )
    return found


def _whole_or_frozen(
    whole: ArmFacts,
    frozen: ArmFacts,
    gaps: Mapping[tuple[str, str], Pair],
    evidence: Mapping[str, Evidence],
) -> list[str]:
    pair = gaps.get((whole.name, frozen.name))
    if pair is None:
        return []
    if _undecided(pair):
        return [_cannot_tell(whole, frozen, pair)]
    seen = evidence[whole.name]
    if pair.significant and pair.difference > 0:
        return [
            f"{whole.title} beat {frozen.title} by {points(pair.difference)} points: the "
            f"untouched features do not hold all that tells the classes apart, and "
            f"{seen.rows:,} rows were enough to change them."
        ]
    head = (
        f"{whole.title} fell behind {frozen.title} by {points(-pair.difference)} points"
        if pair.significant
        else f"{whole.title} gained nothing that can be told from noise over {frozen.title} "
        f"({points(pair.difference)} points)"
    )
    if seen.overfits:
        return [
            f"{head}: it learned the training rows by heart (loss {seen.train_loss:.2g} there, "
            f"{seen.best_loss:.2g} at best and {seen.last_loss:.2g} at last on validation) with "
            f"{seen.trained:,} parameters for {seen.rows:,} rows."
        ]
    if seen.unfinished:
        return [
            f"{head}: its validation loss was still falling ({seen.last_loss:.2g}) when the "
            f"budget ended it after {seen.epochs} epochs."
        ]
    return [f"{head}: the untouched features separate these classes as well as adapted ones."]


def _whole_or_small(
    whole: ArmFacts,
    small: ArmFacts,
    gaps: Mapping[tuple[str, str], Pair],
    evidence: Mapping[str, Evidence],
) -> list[str]:
    pair = gaps.get((whole.name, small.name))
    if pair is None:
        return []
    if _undecided(pair) and pair.difference > 0:
        return [_cannot_tell(whole, small, pair)]
    share = evidence[small.name].trained / max(1, evidence[whole.name].trained)
    if not pair.significant:
        return [
            f"{small.title} learns {share:.1%} of the parameters of {whole.title} and is within "
            f"its noise ({points(-pair.difference)} points): the task needs a small change."
        ]
    if pair.difference > 0:
        return [
            f"{whole.title} beat {small.title} by {points(pair.difference)} points: "
            f"{evidence[small.name].trained:,} parameters leave too little room here."
        ]
    return [
        f"{small.title} beat {whole.title} by {points(-pair.difference)} points with {share:.1%} "
        "of its parameters: less room to learn the training rows by heart."
    ]


def _undecided(pair: Pair) -> bool:
    return not pair.significant and abs(pair.difference) > _OPEN


def _cannot_tell(first: ArmFacts, second: ArmFacts, pair: Pair) -> str:
    """A difference that may be large or nothing has no cause yet."""
    side = "ahead of" if pair.difference > 0 else "behind"
    return (
        f"{first.title} is {points(abs(pair.difference))} points {side} {second.title}, which so "
        f"few test rows cannot tell from noise ({points(pair.low)} to {points(pair.high)})."
    )


def _worth_of_pretraining(
    best: ArmFacts, scratch: ArmFacts, gaps: Mapping[tuple[str, str], Pair]
) -> list[str]:
    pair = gaps.get((best.name, scratch.name))
    if pair is None or not pair.significant or pair.difference <= 0:
        return []
    if scratch.status == "shortened":  # more steps might have brought it nearer
        return []
    return [
        f"Pretraining is worth {points(pair.difference)} points here: that is how far "
        f"{best.title} is ahead of the same architecture from random weights."
    ]


def _top(names: Sequence[str], arms: Mapping[str, ArmFacts]) -> str | None:
    return max(names, key=lambda name: arms[name].validation, default=None)

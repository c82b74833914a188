"""To adapt or not: what the evidence without target labels says, in words with its numbers.

A method is taken only where the domains differ and overlap, the validators' mean rank puts it
first, and most of them prefer it to source-only. Whatever speaks against is said, and source-only
is kept, unless the user insists on a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.core import Config, UsageError

from .label_correct_priors import total_variation
from .reweight_ratio import DomainGap
from .select_ranks import concordance, mean_ranks, rank_table
from .validators import VALIDATORS, Judged

__all__ = ["Candidate", "Decision", "SharesConflict", "decide", "shares_conflict"]

_CONFLICT = 0.10
_VOTES = 2
_LABELS = {
    "weighted": "importance-weighted validation",
    "embedded": "deep embedded validation",
    "neighbours": "soft neighbourhood density",
}


@dataclass(frozen=True)
class Candidate:
    """A method with the snapshot that was chosen for it, ready to be judged against the others.

    Attributes:
        name: Of the method, as tables show it.
        title: How sentences call it.
        aligns: Whether it makes the domains look alike.
        judged: The validators' values, means over seeds.
    """

    name: str
    title: str
    aligns: bool
    judged: Judged


@dataclass(frozen=True)
class SharesConflict:
    """Whether the target's class shares seem to differ from the source's.

    Attributes:
        em: Total variation between the source's shares and those estimated by EM.
        bbse: The same by BBSE.
        apart: Total variation between the two estimates.
    """

    em: float
    bbse: float
    apart: float

    @property
    def found(self) -> bool:
        """Both estimators see a difference that is larger than their own disagreement.

        Where inputs themselves have shifted both are biased, each in its own way: an estimate that
        the other does not bear out says nothing.
        """
        least = min(self.em, self.bbse)
        return least >= _CONFLICT and self.apart <= least


def shares_conflict(shares: Mapping[str, np.ndarray]) -> SharesConflict:
    """Compare estimated class shares (`source`, `em`, `bbse`) with one another."""
    return SharesConflict(
        em=total_variation(shares["source"], shares["em"]),
        bbse=total_variation(shares["source"], shares["bbse"]),
        apart=total_variation(shares["em"], shares["bbse"]),
    )


class Decision(Config):
    """What is kept, and why.

    Attributes:
        kept: Name of the method whose model is kept.
        adapting: Whether that is another than source-only.
        proposed: Name of the method that the validators' mean rank puts first.
        against: What speaks against adapting, in sentences.
        sentences: The decision in words.
        excluded: Methods that were left out of the choice.
        mean_ranks: Mean rank of each method over the validators; 1 is best.
        preferred_by: For each method the validators that prefer it to source-only.
        concordance: Kendall's W of the validators over the methods; None where it is undefined.
    """

    kept: str
    adapting: bool
    proposed: str
    against: tuple[str, ...]
    sentences: tuple[str, ...]
    excluded: tuple[str, ...]
    mean_ranks: dict[str, float]
    preferred_by: dict[str, tuple[str, ...]]
    concordance: float | None


def decide(
    candidates: Sequence[Candidate],
    *,
    gap: DomainGap,
    conflict: SharesConflict,
    keep: str | None = None,
) -> Decision:
    """Choose a method without target labels, or keep source-only.

    Args:
        candidates: Source-only first, then the others.
        gap: How far apart the domains are.
        conflict: Whether class shares seem to differ.
        keep: Name of a candidate that is kept whatever the evidence says.

    Raises:
        UsageError: Without a candidate, or when `keep` names none.
    """
    if not candidates:
        raise UsageError("decide needs at least one candidate, source-only first; got none.")
    reference = candidates[0]
    excluded = [one for one in candidates[1:] if conflict.found and one.aligns]
    open_to = [one for one in candidates if one not in excluded]
    ranks_VK = rank_table([one.judged for one in open_to])
    means_K = mean_ranks(ranks_VK)
    agreement = concordance(ranks_VK)
    order = sorted(range(len(open_to)), key=lambda place: (means_K[place], place))
    first = open_to[order[0]]
    preferred = {one.name: _preferring(one, reference) for one in candidates[1:]}
    against = _against(first, reference, preferred, gap)
    if conflict.found and excluded:
        against.append(_conflict_words(conflict, excluded))
    unsound = gap.tiny or gap.apart or gap.thin
    stays = first is reference or unsound or len(preferred[first.name]) < _VOTES
    kept = reference if stays else first
    told = _sentences(kept, reference, preferred, agreement, against, stays=stays)
    if keep is not None:
        instead, kept = kept, _insisted(candidates, keep)
        told = (_insisted_words(kept, instead, reference, preferred), *told[1:])
    return Decision(
        kept=kept.name,
        adapting=kept is not reference,
        proposed=first.name,
        against=tuple(against),
        sentences=told,
        excluded=tuple(one.name for one in excluded),
        mean_ranks={one.name: float(means_K[k]) for k, one in enumerate(open_to)},
        preferred_by=preferred,
        concordance=agreement,
    )


def _insisted(candidates: Sequence[Candidate], keep: str) -> Candidate:
    for one in candidates:
        if one.name == keep:
            return one
    names = ", ".join(one.name for one in candidates)
    raise UsageError(f"keep must name a method that was fitted ({names}), got {keep!r}.")


def _insisted_words(
    kept: Candidate,
    instead: Candidate,
    reference: Candidate,
    preferred: Mapping[str, tuple[str, ...]],
) -> str:
    """That the user chose, and what the evidence would have chosen."""
    if kept is instead:
        return f"{kept.title} is kept because you asked for it; the evidence says the same."
    words = f"{kept.title} is kept because you asked for it; the evidence would keep "
    words += f"{instead.title}."
    if kept is not reference:
        votes = len(preferred[kept.name])
        words += f" {votes} of {len(VALIDATORS)} validators prefer it to {reference.title}."
    return words


def _preferring(one: Candidate, reference: Candidate) -> tuple[str, ...]:
    """Validators under which a candidate is strictly better than source-only."""
    mine, theirs = one.judged.goodness(), reference.judged.goodness()
    return tuple(name for name in VALIDATORS if mine[name] > theirs[name])


def _against(
    first: Candidate,
    reference: Candidate,
    preferred: Mapping[str, tuple[str, ...]],
    gap: DomainGap,
) -> list[str]:
    found = []
    if gap.tiny:
        low, high = gap.interval
        found.append(
            f"The domains cannot be told apart (A-distance {gap.a_distance:.2f}, 95 % interval "
            f"{low:.2f} to {high:.2f}): there is no shift of the inputs to adapt to."
        )
    if gap.apart and not gap.tiny:
        found.append(
            f"The domains hardly overlap (A-distance {gap.a_distance:.2f}): about "
            f"{100 * (gap.overlap or 0.0):.0f} % of the target lies where the source has rows. Two "
            "of the three validators weigh source rows by the target and can tell nothing here."
        )
    if gap.thin and not gap.tiny:
        found.append(
            f"{gap.effective or 0.0:.0f} of {gap.weighed} validation rows carry the importance "
            "weights: too few for the two validators that rest on them."
        )
    if first is reference:
        found.append(f"The validators' mean rank puts {reference.title} first.")
    elif len(preferred[first.name]) < _VOTES:
        voters = preferred[first.name]
        told = f"only {_LABELS[voters[0]]} prefers" if voters else "none of them prefers"
        found.append(
            f"The validators disagree: {first.title} has the best mean rank, but {told} it to "
            f"{reference.title}."
        )
    return found


def _conflict_words(conflict: SharesConflict, excluded: Sequence[Candidate]) -> str:
    names = ", ".join(one.title for one in excluded)
    return (
        f"The target's class shares seem to differ from the source's (by {100 * conflict.em:.0f} % "
        f"of the rows by EM, {100 * conflict.bbse:.0f} % by BBSE). Methods that make the domains "
        f"look alike would pull classes together wrongly and are left out of the choice: {names}."
    )


def _sentences(
    kept: Candidate,
    reference: Candidate,
    preferred: Mapping[str, tuple[str, ...]],
    agreement: float | None,
    against: Sequence[str],
    *,
    stays: bool,
) -> tuple[str, ...]:
    told = []
    if stays:
        told.append(f"The evidence does not speak for adapting: {reference.title} is kept.")
    else:
        voters = preferred[kept.name]
        names = " and ".join(_LABELS[name] for name in voters)
        told.append(
            f"{kept.title} is kept, chosen without target labels: it has the best mean rank, and "
            f"{len(voters)} of {len(VALIDATORS)} validators prefer it to {reference.title} "
            f"({names})."
        )
    told += against
    if agreement is not None:
        words = "agree" if agreement >= 0.7 else "agree in part" if agreement >= 0.4 else "disagree"
        told.append(
            f"Over all methods the validators {words} (Kendall's W {agreement:.2f}; 1 is full "
            "agreement)."
        )
    return tuple(told)

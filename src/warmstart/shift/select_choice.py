"""From fitted methods to a decision: the candidates, and the shares that source-only sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .adapt_seed import MethodResult, MethodSeed
from .adapt_view import DomainInputs, DomainVectors
from .label_correct import estimate_shares
from .reweight_ratio import DomainGap
from .select import Candidate, Decision, SharesConflict, decide, shares_conflict

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """What is kept and what it was chosen by.

    Attributes:
        decision: In names and words.
        shares: Class shares of the source, and of the target by EM and BBSE.
        conflict: Whether they differ.
        kept: The method and seed whose head is kept.
    """

    decision: Decision
    shares: dict[str, np.ndarray]
    conflict: SharesConflict
    kept: MethodSeed


def choose(
    results: Sequence[MethodResult],
    rows: DomainVectors,
    gap: DomainGap,
    keep: str | None = None,
) -> Choice:
    """Choose among fitted methods without a target label.

    Args:
        results: Source-only first; those without seeds are passed over.
        rows: Source and target vectors.
        gap: How far apart the domains are.
        keep: Name of a method that is kept whatever the evidence says.
    """
    fitted = [result for result in results if result.seeds]
    reference = fitted[0].seeds[fitted[0].kept]
    shares = estimate_shares(reference.head, _seen(reference, rows))
    conflict = shares_conflict(shares)
    candidates = [
        Candidate(result.named.name, result.named.title, result.named.method.aligns, result.judged)
        for result in fitted
    ]
    decision = decide(candidates, gap=gap, conflict=conflict, keep=keep)
    kept = next(result for result in fitted if result.named.name == decision.kept)
    return Choice(decision, shares, conflict, kept.seeds[kept.kept])


def _seen(seed: MethodSeed, rows: DomainVectors) -> DomainVectors:
    """The rows in the space that the chosen head of a fit reads."""
    if seed.weights is None or not isinstance(rows, DomainInputs):
        return rows
    encoder = rows.tuning.restore(rows.backbone, seed.weights)
    return rows.embedded(encoder, f"{rows.tuning} of {rows.space.backbone}")

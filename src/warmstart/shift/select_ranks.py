"""Ranks of candidates by several judges, and how far the judges agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from .validators import VALIDATORS, Judged

__all__ = ["choose_snapshot", "concordance", "mean_ranks", "rank_table"]


def rank_table(judged: Sequence[Judged]) -> np.ndarray:
    """Ranks (V, K) of K candidates by each validator, 1 for the best; equal ones share a rank."""
    goodness = [one.goodness() for one in judged]
    return np.stack([rankdata([-one[validator] for one in goodness]) for validator in VALIDATORS])


def mean_ranks(ranks_VK: np.ndarray) -> np.ndarray:
    """Mean rank of each candidate over the judges (Borda's count), less is better."""
    means_K: np.ndarray = ranks_VK.mean(axis=0)
    return means_K


def choose_snapshot(judged: Sequence[Judged]) -> int:
    """Position of the snapshot with the best mean rank; of equal ones the later.

    A later one has seen more of the schedule.
    """
    means_K = mean_ranks(rank_table(judged))
    best = means_K.min()
    return int(np.flatnonzero(means_K <= best + 1e-12)[-1])


def concordance(ranks_VK: np.ndarray) -> float | None:
    """Kendall's coefficient W: 1 where all judges rank alike, 0 where they cancel out.

    W = 12 S / (V² (K³ - K) - V T), S the squared deviations of the candidates' rank sums and T the
    correction for ties, Σ (t³ - t) over groups of t equal ranks.

    Args:
        ranks_VK: Ranks by V judges.

    Returns:
        A value in [0, 1]; None with fewer than two judges or candidates, or where every judge
        holds all for equal.

    Source: Kendall and Babington Smith 1939, The Problem of m Rankings.
    """
    judges, count = ranks_VK.shape
    if judges < 2 or count < 2:
        return None
    sums_K = ranks_VK.sum(axis=0)
    spread = float(np.square(sums_K - sums_K.mean()).sum())
    ties = 0.0
    for ranks_K in ranks_VK:
        _, sizes = np.unique(ranks_K, return_counts=True)
        ties += float((sizes**3 - sizes).sum())
    most = judges**2 * (count**3 - count) - judges * ties
    return 12 * spread / most if most > 0 else None

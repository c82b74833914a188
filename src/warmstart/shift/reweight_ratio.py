"""Density ratios p_T(x) / p_S(x) by a discriminator, and how far weights can be trusted.

Weights are brought to mean 1 over the source rows. Their effective sample size (Σ w)² / Σ w² says
how many equally weighted rows they are worth; where that falls too low a weighted loss is noise,
so weights are clipped, and flattened to w^γ as far as it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmstart.core import Streams, UsageError
from warmstart.strategies.logistic import fit_logistic

__all__ = [
    "DomainClassifier",
    "DomainGap",
    "Weights",
    "domain_ratio",
    "effective_size",
    "fit_domain_classifier",
    "flatten_weights",
    "settle_weights",
]

_FOLDS = 5
_MOST_ROWS = 4000
_GRID = (1e-1, 1e-2, 1e-3, 1e-4)
_Z = 1.96
LEAST_OVERLAP = 0.5
LEAST_EFFECTIVE = 30.0


@dataclass(frozen=True)
class DomainGap:
    """How well a linear classifier tells the two domains apart on rows that it did not learn from.

    Attributes:
        error: Its held-out error, each domain counting half; 0.5 is chance.
        low: Lower bound of the error's 95 % interval (normal approximation over rows).
        high: Upper bound.
        n: Rows behind it.
        overlap: Mean density ratio p_T / p_S over held-out source rows, at most 1: an estimate of
            the share of the target that lies where the source has rows; None where it was not
            looked at.
        effective: How many of those rows the clipped ratios leave in effect (`effective_size`).
        weighed: How many there are.
    """

    error: float
    low: float
    high: float
    n: int
    overlap: float | None = None
    effective: float | None = None
    weighed: int = 0

    @property
    def a_distance(self) -> float:
        """2 (1 - 2 error), cut at 0: 0 for domains that cannot be told apart, 2 for disjoint ones.

        Source: Ben-David et al. 2007; Glorot et al. 2011 for the linear classifier.
        """
        return max(0.0, 2.0 * (1.0 - 2.0 * self.error))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the A-distance."""
        return max(0.0, 2.0 * (1.0 - 2.0 * self.high)), min(2.0, 2.0 * (1.0 - 2.0 * self.low))

    @property
    def tiny(self) -> bool:
        """Whether chance explains what the classifier finds."""
        return self.high >= 0.5

    @property
    def apart(self) -> bool:
        """Whether the source lacks rows where most of the target lies.

        The mean of p_T / p_S under p_S is 1 where the source has rows wherever the target does, and
        falls by what it has not.
        """
        return self.overlap is not None and self.overlap < LEAST_OVERLAP

    @property
    def thin(self) -> bool:
        """Whether a weighted mean over the held-out rows rests on a few of them."""
        if self.effective is None:
            return False
        return self.effective < min(LEAST_EFFECTIVE, self.weighed / 2)


@dataclass(frozen=True)
class DomainClassifier:
    """A linear classifier of target (1) against source (0) rows.

    Attributes:
        weight_D: Of its logit.
        bias: Of its logit.
        prior: log of source rows over target rows among those that it learned from.
        l2: Its penalty, see `strategies.logistic`.
    """

    weight_D: np.ndarray
    bias: float
    prior: float
    l2: float

    def ratio(self, rows_ND: np.ndarray) -> np.ndarray:
        """p(target | x) / p(source | x) · N / M, which estimates p_T(x) / p_S(x), (N,)."""
        found_N: np.ndarray = np.exp(np.clip(self.even_odds(rows_ND), -30, 30))
        return found_N

    def even_odds(self, rows_ND: np.ndarray) -> np.ndarray:
        """The logit that it would have with as many rows of either domain; above 0 is target."""
        logit_N: np.ndarray = rows_ND.astype(np.float64) @ self.weight_D + self.bias + self.prior
        return logit_N


def fit_domain_classifier(
    source_ND: np.ndarray, target_MD: np.ndarray, *, l2: float | None = None
) -> DomainClassifier:
    """Learn to tell the domains apart by logistic regression.

    Args:
        source_ND: Source rows.
        target_MD: Target rows.
        l2: Strength of the penalty; by cross-validation when None.
    """
    x_BD = np.concatenate([source_ND, target_MD])
    y_B = np.concatenate([np.zeros(len(source_ND), np.int64), np.ones(len(target_MD), np.int64)])
    solved = fit_logistic(x_BD, y_B, 2, l2=l2, grid=_GRID)
    return DomainClassifier(
        weight_D=solved.weight_CD[1] - solved.weight_CD[0],
        bias=float(solved.bias_C[1] - solved.bias_C[0]),
        prior=float(np.log(len(source_ND) / len(target_MD))),
        l2=solved.l2,
    )


def domain_ratio(
    source_ND: np.ndarray, target_MD: np.ndarray, *, streams: Streams, most: int = _MOST_ROWS
) -> tuple[np.ndarray, DomainClassifier, DomainGap]:
    """Density ratios of the source rows by a discriminator, each row's by one that has not seen it.

    Rows are dealt into five parts at random; a part's ratios come from the classifier of the other
    parts. Rows beyond `most` in a domain are left out of the learning.

    Args:
        source_ND: Source rows.
        target_MD: Target rows.
        streams: Deals the rows.
        most: Rows of a domain that are learned from at most.

    Returns:
        Ratios (N,), the classifier of all rows (for rows that it has not seen), and how far apart
        the domains are.

    Source: Bickel, Brückner and Scheffer 2007, Discriminative Learning for Differing Training and
    Test Distributions; Sugiyama, Suzuki and Kanamori 2012, chapter 4.
    """
    source = streams.numpy("ratio", "source").permutation(len(source_ND))[:most]
    target = streams.numpy("ratio", "target").permutation(len(target_MD))[:most]
    whole = fit_domain_classifier(source_ND[source], target_MD[target])
    odds_N = whole.even_odds(source_ND)
    held_M = np.empty(len(target))
    folds = min(_FOLDS, len(source), len(target))
    for fold in range(folds):
        mine, theirs = np.arange(len(source)) % folds, np.arange(len(target)) % folds
        part = fit_domain_classifier(
            source_ND[source[mine != fold]], target_MD[target[theirs != fold]], l2=whole.l2
        )
        odds_N[source[mine == fold]] = part.even_odds(source_ND[source[mine == fold]])
        held_M[theirs == fold] = part.even_odds(target_MD[target[theirs == fold]])
    ratios_N = np.exp(np.clip(odds_N, -30, 30))
    return ratios_N, whole, _gap(odds_N[source] > 0, held_M <= 0)


def effective_size(weights_N: np.ndarray) -> float:
    """Kish's effective sample size (Σ w)² / Σ w²: N for equal weights, 1 where one row has all."""
    total = float(weights_N.sum())
    return total**2 / max(float(np.square(weights_N).sum()), 1e-300) if total > 0 else 0.0


@dataclass(frozen=True)
class Weights:
    """Weights of source rows that can be trained with.

    Attributes:
        values_N: At least 0, mean 1.
        effective: Effective sample size.
        raw: Effective sample size before clipping and flattening.
        clipped: Rows whose ratio was above the limit.
        exponent: γ of the flattening, 1 for none.
    """

    values_N: np.ndarray
    effective: float
    raw: float
    clipped: int
    exponent: float

    def sentence(self) -> str:
        """The weights' worth in a sentence."""
        n = len(self.values_N)
        text = (
            f"The importance weights leave {self.effective:.0f} of {n} source rows in effect "
            f"({self.raw:.0f} before clipping"
        )
        if self.exponent < 1:
            text += f" and flattening to the power {self.exponent:.2f}"
        return f"{text}; {self.clipped} rows clipped)."


def settle_weights(
    ratios_N: np.ndarray, *, highest: float = 20.0, least_share: float = 0.1
) -> Weights:
    """Clip ratios, flatten them until enough rows are in effect, and bring them to mean 1.

    Args:
        ratios_N: Density ratios, at least 0.
        highest: A ratio beyond so many times the mean is cut to it; above 1.
        least_share: Share of the rows that must be in effect, in (0, 1].

    Raises:
        UsageError: For a limit outside its range, or ratios below 0, not finite, or all 0.

    Source: clipping as in Ionides 2008, Truncated Importance Sampling; flattening as in Shimodaira
    2000, Improving predictive inference under covariate shift, section 3.
    """
    if highest <= 1 or not 0 < least_share <= 1:
        raise UsageError(
            f"weights: highest must be above 1 and least_share in (0, 1], got {highest} and "
            f"{least_share}. Usual: 20 and 0.1."
        )
    if not np.isfinite(ratios_N).all() or (ratios_N < 0).any() or not ratios_N.sum() > 0:
        raise UsageError(
            "weights: density ratios must be finite, at least 0 and not all 0. Are the features "
            "finite?"
        )
    scaled_N = ratios_N / ratios_N.mean()
    cut_N = np.minimum(scaled_N, highest)
    exponent = flatten_weights(cut_N, least_share * len(cut_N))
    values_N = cut_N**exponent if exponent < 1 else cut_N
    return Weights(
        values_N=values_N / values_N.mean(),
        effective=effective_size(values_N),
        raw=effective_size(ratios_N),
        clipped=int((scaled_N > highest).sum()),
        exponent=exponent,
    )


def flatten_weights(weights_N: np.ndarray, least: float) -> float:
    """The greatest γ in [0, 1] at which w^γ has an effective sample size of `least` or more.

    The effective size falls as γ grows, so a bisection finds it.

    Args:
        weights_N: At least 0.
        least: Effective rows wanted, at most their number.
    """
    if effective_size(weights_N) >= least:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if effective_size(weights_N**middle) >= least:
            low = middle
        else:
            high = middle
    return low


def _gap(wrong_N: np.ndarray, wrong_M: np.ndarray) -> DomainGap:
    """From which held-out rows of either domain were taken for the other's."""
    shares = [float(wrong.mean()) for wrong in (wrong_N, wrong_M)]
    counts = [len(wrong_N), len(wrong_M)]
    error = sum(shares) / 2
    smooth = [(share * n + 1) / (n + 2) for share, n in zip(shares, counts, strict=True)]
    variance = sum(p * (1 - p) / n for p, n in zip(smooth, counts, strict=True)) / 4
    margin = _Z * variance**0.5
    return DomainGap(error, max(0.0, error - margin), min(1.0, error + margin), sum(counts))

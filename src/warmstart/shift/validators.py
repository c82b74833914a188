"""Judging a model for the target without target labels: weighted risks and soft neighbourhoods.

Three views that fail in different ways. Importance-weighted validation trusts the source's labels
and a density ratio in the backbone's space; deep embedded validation takes the ratio in the model's
own features and damps its variance; soft neighbourhood density looks at the target alone, and
asks whether its predictions form clusters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from warmstart.core import Config, Streams, UsageError
from warmstart.models import Head

from .adapt_view import DomainVectors
from .label_correct import head_logits
from .reweight_ratio import domain_ratio, effective_size, fit_domain_classifier

__all__ = [
    "VALIDATORS",
    "Judged",
    "Validators",
    "bottleneck_features",
    "deep_embedded_risk",
    "soft_neighbourhood_density",
    "weighted_risk",
]

VALIDATORS = ("weighted", "embedded", "neighbours")
"""Names of the validators: importance-weighted, deep embedded, soft neighbourhood density."""

_MOST_RATIO = 20.0
_LEARNED_ROWS = 1500  # of a domain, for the ratio in a model's own features


def weighted_risk(losses_M: np.ndarray, weights_M: np.ndarray) -> float:
    """Importance-weighted validation: Σ w ℓ / Σ w over held-out source rows; less is better.

    Args:
        losses_M: Loss of each row.
        weights_M: Density ratios p_T / p_S, at least 0. Dividing by their sum rather than their
            number lowers the variance where the ratios are off by a factor.

    Source: Sugiyama, Krauledat and Müller 2007, Covariate Shift Adaptation by Importance Weighted
    Cross Validation, equation 6.
    """
    return float((weights_M * losses_M).sum() / max(float(weights_M.sum()), 1e-12))


def deep_embedded_risk(losses_M: np.ndarray, weights_M: np.ndarray) -> float:
    """Deep embedded validation: the weighted risk with a control variate; less is better.

    mean(w ℓ) + η mean(w) - η with η = -Cov(w ℓ, w) / Var(w): since the true mean of w is 1, adding
    η (mean(w) - 1) changes no expectation and takes out the part of the variance that w explains.

    Args:
        losses_M: Loss of each held-out source row.
        weights_M: Density ratios in the model's own features.

    Source: You et al. 2019, Towards Accurate Model Selection in Deep Unsupervised Domain
    Adaptation, equation 5.
    """
    product_M = weights_M * losses_M
    spread = float(weights_M.var(ddof=1)) if len(weights_M) > 1 else 0.0
    if spread <= 1e-12:
        return float(product_M.mean())
    covariance = float(np.cov(product_M, weights_M, ddof=1)[0, 1])
    eta = -covariance / spread
    return float(product_M.mean()) + eta * (float(weights_M.mean()) - 1.0)


def soft_neighbourhood_density(
    proba_UC: np.ndarray, *, temperature: float = 0.05, block: int = 1000
) -> float:
    """Mean entropy of each target row's soft neighbourhood; more is better.

    Probabilities are scaled to length 1; row i has P_ij ∝ exp(s_ij / temperature) over the other
    rows j, s_ij their cosine; the value is the mean over i of -Σ_j P_ij log P_ij. Rows that form
    dense clusters have many near neighbours alike, hence a high entropy. A model that answers with
    one class for everything has the highest of all: never use it alone.

    Args:
        proba_UC: Class probabilities of target rows, two or more.
        temperature: Above 0.
        block: Rows compared at once.

    Returns:
        A value in [0, log(U - 1)] nats.

    Source: Saito et al. 2021, Tune it the Right Way: Unsupervised Validation of Domain Adaptation
    via Soft Neighborhood Density, equations 1 to 3.
    """
    if temperature <= 0 or len(proba_UC) < 2:
        raise UsageError(
            "soft neighbourhood density needs two rows and a temperature above 0, got "
            f"{len(proba_UC)} rows and {temperature}. Usual: 0.05."
        )
    unit_UC = proba_UC / np.maximum(np.linalg.norm(proba_UC, axis=1, keepdims=True), 1e-12)
    total = 0.0
    for start in range(0, len(unit_UC), block):
        scores_BU = unit_UC[start : start + block] @ unit_UC.T / temperature
        rows = np.arange(len(scores_BU))
        scores_BU[rows, start + rows] = -np.inf
        scores_BU -= scores_BU.max(axis=1, keepdims=True)
        weights_BU = np.exp(scores_BU)
        sums_B = weights_BU.sum(axis=1)
        scores_BU[rows, start + rows] = 0.0  # its weight is 0: the product must not be 0 · inf
        total += float((np.log(sums_B) - (weights_BU * scores_BU).sum(axis=1) / sums_B).sum())
    return total / len(unit_UC)


@torch.inference_mode()
def bottleneck_features(head: Head, vectors_ND: np.ndarray) -> np.ndarray:
    """What the head's last layer reads (N, H): the hidden layer's output, or the vectors."""
    vectors = torch.as_tensor(np.array(vectors_ND, dtype=np.float32))
    if head.shape.normalize:
        vectors = functional.normalize(vectors, dim=-1)
    if head.hidden is not None:
        vectors = functional.gelu(head.hidden(vectors))
    features_NH: np.ndarray = vectors.numpy()
    return features_NH


class Judged(Config):
    """One head's values.

    Attributes:
        weighted: Importance-weighted risk (cross-entropy); less is better.
        embedded: Deep embedded risk; less is better.
        neighbours: Soft neighbourhood density; more is better.
        accuracy: On the source's validation rows, to see what adapting cost there.
    """

    weighted: float
    embedded: float
    neighbours: float
    accuracy: float

    def goodness(self) -> dict[str, float]:
        """Each validator's value, turned so that more is better."""
        return {
            "weighted": -self.weighted,
            "embedded": -self.embedded,
            "neighbours": self.neighbours,
        }


class Validators:
    """All validators on the rows of one adaptation; the ratio in the backbone's space is shared.

    Attributes:
        gap: How far apart the domains are in the backbone's space.
    """

    def __init__(self, rows: DomainVectors, streams: Streams) -> None:
        self._rows = rows
        _, classifier, gap = domain_ratio(
            rows.train_ND, rows.target_UD, streams=streams.child("space")
        )
        ratio_M = classifier.ratio(rows.validation_MD)
        self._weights_M = np.minimum(ratio_M, _MOST_RATIO)
        self.gap = replace(
            gap,
            overlap=min(1.0, float(ratio_M.mean())),
            effective=effective_size(self._weights_M),
            weighed=len(ratio_M),
        )
        self._l2 = classifier.l2
        drawn = streams.numpy("rows")
        self._source = drawn.permutation(len(rows.train_ND))[:_LEARNED_ROWS]
        self._target = drawn.permutation(len(rows.target_UD))[:_LEARNED_ROWS]

    def judge(self, head: Head, own: DomainVectors | None = None) -> Judged:
        """The values of one head.

        Importance weights stay those of the backbone's space, whatever the head reads: they tell
        how rows count, and that must not differ between the models that are compared.

        Args:
            head: Reads raw vectors.
            own: The same rows in the space that the head reads; None where it is the backbone's.
        """
        rows = own or self._rows
        losses_M, hits_M = _losses(head, rows)
        classifier = fit_domain_classifier(
            bottleneck_features(head, rows.train_ND[self._source]),
            bottleneck_features(head, rows.target_UD[self._target]),
            l2=self._l2,
        )
        own_M = classifier.ratio(bottleneck_features(head, rows.validation_MD))
        return Judged(
            weighted=weighted_risk(losses_M, self._weights_M),
            embedded=deep_embedded_risk(losses_M, np.minimum(own_M, _MOST_RATIO)),
            neighbours=soft_neighbourhood_density(head.proba(rows.target_UD)),
            accuracy=float(hits_M.mean()),
        )


def _losses(head: Head, rows: DomainVectors) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy and whether the answer is right, of each validation row of the source."""
    logits_MC = head_logits(head, rows.validation_MD)
    top_M1 = logits_MC.max(axis=1, keepdims=True)
    norm_M = np.log(np.exp(logits_MC - top_M1).sum(axis=1)) + top_M1[:, 0]
    truth_M = rows.labels_M
    losses_M = norm_M - logits_MC[np.arange(len(truth_M)), truth_M]
    return losses_M, logits_MC.argmax(axis=1) == truth_M

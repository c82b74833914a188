"""Class shares of an unlabelled target, and probabilities corrected for them.

Label shift: class shares differ, and within a class the inputs are alike, p_T(x | y) = p_S(x | y).
Then a source classifier's answers on the target tell the target's shares, in two ways: from its
confusions (BBSE), and from its probabilities by expectation maximisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax

from warmstart.core import UsageError

__all__ = [
    "Calibration",
    "black_box_priors",
    "calibrate",
    "correct_proba",
    "expectation_priors",
    "total_variation",
]

_TINY = 1e-12


def black_box_priors(
    predicted_M: np.ndarray, labels_M: np.ndarray, predicted_U: np.ndarray, classes: int
) -> np.ndarray:
    """Black-box shift estimation of the target's class shares.

    With C_ij = P(ŷ = i, y = j) on held-out source rows and μ_i = P(ŷ = i) on the target, the ratios
    w_j = p_T(j) / p_S(j) solve C w = μ; here by least squares over w ≥ 0 with Σ_j w_j p_S(j) = 1:
    the answer is a distribution also where C is nearly singular.

    Args:
        predicted_M: Predicted classes of held-out source rows.
        labels_M: Their true classes.
        predicted_U: Predicted classes of target rows.
        classes: C.

    Returns:
        Shares (C,), summing to 1; 0 for classes without a held-out source row.

    Source: Lipton, Wang and Smola 2018, Detecting and Correcting for Label Shift with Black Box
    Predictors, equation 3.
    """
    joint_CC = np.zeros((classes, classes))
    np.add.at(joint_CC, (predicted_M, labels_M), 1.0)
    joint_CC /= len(labels_M)
    shares_C = joint_CC.sum(axis=0)
    seen_C = np.bincount(predicted_U, minlength=classes) / len(predicted_U)
    heavy = 1e3  # makes the sum a constraint rather than a wish
    left = np.concatenate([joint_CC, heavy * shares_C[None]])
    right = np.concatenate([seen_C, [heavy]])
    ratios_C = nnls(left, right)[0]
    target_C: np.ndarray = ratios_C * shares_C
    return target_C / max(float(target_C.sum()), _TINY)


def expectation_priors(
    proba_UC: np.ndarray,
    source_C: np.ndarray,
    *,
    rounds: int = 1000,
    within: float = 1e-8,
) -> np.ndarray:
    """Maximum-likelihood class shares of the target by expectation maximisation.

    q_c ← mean over rows of (q_c / p_c) p(c | x) / Σ_k (q_k / p_k) p(k | x), from q = p. The
    likelihood is concave in q, so the start does not matter; the probabilities must be calibrated.

    Args:
        proba_UC: The source classifier's probabilities of target rows.
        source_C: The source's class shares p.
        rounds: At most.
        within: Ends when no share moves by more.

    Returns:
        Shares (C,), summing to 1; 0 for classes that the source lacks.

    Source: Saerens, Latinne and Decaestecker 2002, Adjusting the Outputs of a Classifier to New a
    Priori Probabilities, equation 2.9.
    """
    known_C = source_C > 0
    likelihood_UC = np.where(known_C, proba_UC / np.where(known_C, source_C, 1.0), 0.0)
    shares_C = np.where(known_C, source_C, 0.0)
    for _ in range(rounds):
        joint_UC = likelihood_UC * shares_C
        posterior_UC = joint_UC / np.maximum(joint_UC.sum(axis=1, keepdims=True), _TINY)
        moved_C = posterior_UC.mean(axis=0)
        change = float(np.abs(moved_C - shares_C).max())
        shares_C = moved_C
        if change <= within:
            break
    return shares_C / max(float(shares_C.sum()), _TINY)


def correct_proba(proba_NC: np.ndarray, source_C: np.ndarray, target_C: np.ndarray) -> np.ndarray:
    """p_T(c | x) ∝ p_S(c | x) · p_T(c) / p_S(c).

    Args:
        proba_NC: Probabilities under the source's class shares.
        source_C: The source's shares.
        target_C: The target's shares.

    Source: Saerens et al. 2002, equation 2.4.
    """
    ratio_C = np.where(source_C > 0, target_C / np.where(source_C > 0, source_C, 1.0), 0.0)
    joint_NC = proba_NC * ratio_C
    total_N1 = joint_NC.sum(axis=1, keepdims=True)
    corrected: np.ndarray = np.where(total_N1 > 0, joint_NC / np.maximum(total_N1, _TINY), proba_NC)
    return corrected


def total_variation(one_C: np.ndarray, other_C: np.ndarray) -> float:
    """½ Σ |p - q|: the share of rows whose class would have to change, in [0, 1]."""
    return 0.5 * float(np.abs(one_C - other_C).sum())


@dataclass(frozen=True)
class Calibration:
    """Logits divided by a temperature, plus a bias for each class.

    Attributes:
        temperature: Above 0; above 1 for a classifier that was too sure.
        bias_C: Added after the division; they sum to 0.
        before: Held-out cross-entropy of the logits as they came.
        after: Of the calibrated ones, on the same rows.
    """

    temperature: float
    bias_C: np.ndarray
    before: float
    after: float

    def apply(self, logits_NC: np.ndarray) -> np.ndarray:
        """Calibrated logits."""
        calibrated: np.ndarray = logits_NC / self.temperature + self.bias_C
        return calibrated


def calibrate(logits_MC: np.ndarray, labels_M: np.ndarray, *, pull: float = 1e-2) -> Calibration:
    """Bias-corrected temperature scaling on held-out rows; keeps the logits where it does not help.

    Args:
        logits_MC: Logits of held-out source rows.
        labels_M: Their classes.
        pull: Strength of a quadratic pull of log temperature and biases to 0; with few rows a bias
            would follow chance.

    Raises:
        UsageError: For a pull below 0.

    Source: Guo et al. 2017 (temperature); Alexandari, Kundaje and Shrikumar 2020, Maximum
    Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation.
    """
    if pull < 0:
        raise UsageError(f"calibrate: pull must be at least 0, got {pull}. Usual: 0.01.")
    rows, classes = logits_MC.shape
    hot_MC = np.eye(classes)[labels_M]

    def value(point: np.ndarray) -> tuple[float, np.ndarray]:
        warmth, bias_C = np.exp(-point[0]), point[1:]
        logp_MC = log_softmax(logits_MC * warmth + bias_C, axis=1)
        slope_MC = (np.exp(logp_MC) - hot_MC) / rows
        loss = -float((hot_MC * logp_MC).sum()) / rows + 0.5 * pull * float(point @ point)
        gradient = np.concatenate(
            [[-warmth * float((slope_MC * logits_MC).sum())], slope_MC.sum(axis=0)]
        )
        return loss, gradient + pull * point

    found = minimize(value, np.zeros(classes + 1), jac=True, method="L-BFGS-B",
                     bounds=[(-4.0, 4.0)] + [(None, None)] * classes)  # fmt: skip
    temperature = float(np.exp(found.x[0]))
    bias_C = found.x[1:] - found.x[1:].mean()
    before = _cross_entropy(logits_MC, labels_M)
    after = _cross_entropy(logits_MC / temperature + bias_C, labels_M)
    if not after < before:
        return Calibration(1.0, np.zeros(classes), before, before)
    return Calibration(temperature, bias_C, before, after)


def _cross_entropy(logits_MC: np.ndarray, labels_M: np.ndarray) -> float:
    logp_MC = log_softmax(logits_MC, axis=1)
    return -float(logp_MC[np.arange(len(labels_M)), labels_M].mean())

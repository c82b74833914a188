"""Black-box shift estimation: the class shares of unlabelled target rows.

Where source and target differ in nothing but how often each class occurs, p(x | y) is the same on
both, and so is p(ŷ | y) for any classifier. Then the shares of its answers on the target are

    P_t(ŷ = i) = Σ_j P_s(ŷ = i, y = j) w_j,     w_j = P_t(y = j) / P_s(y = j),

a linear system for w. It is solved as it stands; shares below 0 are set to 0 and all scaled to 1.
A classifier that confuses two classes wholly makes the system singular: the smallest singular value
of P(ŷ | y) tells how far from that it is.

The test asks whether the answers are spread alike on both sides, which label shift would change
(Wald's χ² on the shares of answers). Where target rows are labelled, their classes are counted too,
and a χ² test of the two counts stands beside it, which assumes nothing about the rows. Sources:
Lipton, Wang and Smola, Detecting and Correcting for Label Shift with Black Box Predictors, ICML
2018; Rabanser, Günnemann and Lipton, Failing Loudly, NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2, chi2_contingency

from warmstart.core import Config, DataError, Streams

from .distance_inputs import Floats, Ints, at_least

__all__ = ["ClassShare", "LabelShift", "black_box_shares"]

_SINGULAR = 0.05  # below it, the answers hardly tell some classes apart


class ClassShare(Config):
    """How often a class occurs.

    Attributes:
        name: The class.
        source: Its share of the labelled source rows.
        target: Its estimated share of the target rows.
        low: Lower bound of the 95 % interval of `target`.
        high: Upper bound.
        truth: Its share of the labelled target rows; None where there are none.
    """

    name: str
    source: float
    target: float
    low: float
    high: float
    truth: float | None = None


class LabelShift(Config):
    """Class shares of the target, and the test for a difference to the source.

    Attributes:
        shares: One entry a class.
        weights: Target share over source share of each class; 0 where the source has no row.
        statistic: Wald's χ² on the shares of answers.
        degrees: Its degrees of freedom.
        p_value: Of the test that answers are spread alike on both sides.
        counted: Labelled target rows.
        counted_p_value: Of the χ² test that classes are as frequent among these as in the source;
            None without any.
        singular: Smallest singular value of P(answer | class).
        reliable: Whether the system is far enough from singular to be believed.
    """

    shares: tuple[ClassShare, ...]
    weights: tuple[float, ...]
    statistic: float
    degrees: int
    p_value: float
    counted: int = 0
    counted_p_value: float | None = None
    singular: float
    reliable: bool


def black_box_shares(
    truth_N: Ints,
    answer_N: Ints,
    target_KM: Ints,
    label_names: Sequence[str],
    *,
    target_truth_M: Ints | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> LabelShift:
    """Estimate the class shares of the target from a classifier's answers.

    Intervals: rows of either side are drawn with replacement, the classifiers staying as they are.
    The shares are smooth functions of row frequencies, for which the bootstrap is valid but near 0.

    Args:
        truth_N: Classes of held-out source rows.
        answer_N: What a classifier that has not seen the row said of it.
        target_KM: What each of K classifiers said of the target rows: those of a cross-validation,
            or one.
        label_names: Names of the classes C.
        target_truth_M: Classes of the target rows where they are known, -1 elsewhere; to be shown.
        resamples: Bootstrap samples, at least 100.
        seed: Of the bootstrap.

    Raises:
        DataError: Where fewer than two classes have source rows, or a side has no rows.
    """
    at_least("black_box_shares", "resamples", resamples, 100, "1000")
    target_KM = np.atleast_2d(target_KM)
    classes = len(label_names)
    present_C = np.bincount(truth_N, minlength=classes) > 0
    if present_C.sum() < 2 or target_KM.shape[1] == 0:
        raise DataError(
            "black_box_shares: source rows of two classes or more and a target row are needed, got "
            f"{int(present_C.sum())} classes and {target_KM.shape[1]} target rows."
        )
    joint_CC = np.zeros((classes, classes))
    np.add.at(joint_CC, (answer_N, truth_N), 1.0)
    target_MC = _spread(target_KM, classes)
    joint_CC /= len(truth_N)
    mean_C = target_MC.mean(axis=0)
    share_C, weight_C = _solve(joint_CC, mean_C, present_C)
    drawn_RC = _resampled(joint_CC, len(truth_N), target_MC, present_C, resamples, seed)
    low_C, high_C = np.percentile(drawn_RC, [2.5, 97.5], axis=0)
    statistic, degrees = _wald(answer_N, target_MC, classes)
    singular = _smallest_singular(joint_CC, present_C)
    known_M = None if target_truth_M is None else target_truth_M[target_truth_M >= 0]
    true_C = (
        None
        if known_M is None or not len(known_M)
        else np.bincount(known_M, minlength=classes) / len(known_M)
    )
    source_C = joint_CC.sum(axis=0)
    shares = tuple(
        ClassShare(
            name=name, source=float(source_C[c]), target=float(share_C[c]),
            low=min(float(low_C[c]), float(share_C[c])),
            high=max(float(high_C[c]), float(share_C[c])),
            truth=None if true_C is None else float(true_C[c]),
        )
        for c, name in enumerate(label_names)
    )  # fmt: skip
    return LabelShift(
        shares=shares, weights=tuple(map(float, weight_C)), statistic=statistic, degrees=degrees,
        p_value=float(chi2.sf(statistic, degrees)) if degrees else 1.0,
        counted=0 if known_M is None else len(known_M),
        counted_p_value=_counted(truth_N, known_M, classes), singular=singular,
        reliable=singular >= _SINGULAR,
    )  # fmt: skip


def _spread(target_KM: Ints, classes: int) -> Floats:
    """Share of the classifiers that gave each answer, by row (M, C)."""
    found_MC = np.zeros((target_KM.shape[1], classes))
    for answers_M in target_KM:
        found_MC[np.arange(len(answers_M)), answers_M] += 1 / len(target_KM)
    return found_MC


def _solve(joint_CC: Floats, answer_C: Floats, present_C: np.ndarray) -> tuple[Floats, Floats]:
    """Target shares and weights from P_s(answer, class) and P_t(answer)."""
    source_C = joint_CC.sum(axis=0)
    weight_C = np.zeros(len(source_C))
    weight_C[present_C] = np.linalg.lstsq(joint_CC[:, present_C], answer_C, rcond=1e-8)[0]
    share_C = np.maximum(weight_C, 0) * source_C
    total = share_C.sum()
    share_C = share_C / total if total > 0 else source_C
    return share_C, np.divide(share_C, source_C, out=np.zeros_like(share_C), where=source_C > 0)


def _resampled(
    joint_CC: Floats,
    rows: int,
    target_MC: Floats,
    present_C: np.ndarray,
    resamples: int,
    seed: int,
) -> Floats:
    """Shares (R, C) on resampled rows; rows with equal answers are drawn as counts."""
    generator = Streams(seed).numpy("shift", "label-shift")
    patterns_PC, count_P = np.unique(target_MC, axis=0, return_counts=True)
    total = int(count_P.sum())
    found_RC = np.empty((resamples, len(joint_CC)))
    cells = joint_CC.ravel() / joint_CC.sum()
    for r in range(resamples):
        joint = generator.multinomial(rows, cells).reshape(joint_CC.shape) / rows
        answer_C = generator.multinomial(total, count_P / total) @ patterns_PC / total
        found_RC[r] = _solve(joint, answer_C, present_C & (joint.sum(axis=0) > 0))[0]
    return found_RC


def _wald(answer_N: Ints, target_MC: Floats, classes: int) -> tuple[float, int]:
    """χ² of the difference of mean answers, and its degrees of freedom."""
    source_NC = np.eye(classes)[answer_N]
    difference_C = target_MC.mean(axis=0) - source_NC.mean(axis=0)
    covariance_CC = sum(
        np.cov(rows, rowvar=False, bias=True) / len(rows) for rows in (source_NC, target_MC)
    )
    values_C, vectors_CC = np.linalg.eigh(np.atleast_2d(covariance_CC))
    kept_C = values_C > 1e-9 * max(values_C[-1], 1e-300)
    if values_C[-1] <= 0:  # each side gives one answer only: Pearson's χ² of their 2 × 2 table
        rows = len(answer_N) + len(target_MC)
        return (0.0, 0) if np.allclose(difference_C, 0) else (float(rows), 1)
    along_C = vectors_CC[:, kept_C].T @ difference_C
    return float((along_C**2 / values_C[kept_C]).sum()), int(kept_C.sum())


def _counted(truth_N: Ints, known_M: Ints | None, classes: int) -> float | None:
    """p-value of the χ² test for equal shares of classes, None without target classes."""
    if known_M is None or not len(known_M):
        return None
    table_2C = np.stack([np.bincount(part, minlength=classes) for part in (truth_N, known_M)])
    table_2C = table_2C[:, table_2C.sum(axis=0) > 0]
    if table_2C.shape[1] < 2:
        return 1.0
    return float(chi2_contingency(table_2C, correction=False).pvalue)


def _smallest_singular(joint_CC: Floats, present_C: np.ndarray) -> float:
    given_CC = joint_CC[:, present_C] / joint_CC[:, present_C].sum(axis=0)
    return float(np.linalg.svd(given_CC, compute_uv=False)[-1])

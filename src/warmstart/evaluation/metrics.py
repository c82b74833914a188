"""Classification metrics as functions of a row sample, so that a resample costs no second pass.

Each row is first reduced to what the metrics need (its truth, its prediction, whether the truth is
among the three best, its log loss, its confidence bin). A metric is then a function of an index
(R, N) into the rows: one line of indices gives the value itself, R lines give R resamples.

Conventions, the same everywhere:

- The prediction is the class with the highest score; among equal scores the first class wins. The
  same rule orders the classes for top-3 accuracy. A constant model therefore predicts class 0.
- A row with a score that is not finite has no prediction: it is wrong, outside the top three, its
  log loss is the highest there is (36.04, a probability of 2.2e-16), its confidence counts as 1.
- Balanced accuracy averages recall over the classes that occur in the truth. Macro F1 averages F1
  over the classes that occur in the truth or among the predictions. Both follow scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.core import DataError, UsageError, nearest

__all__ = [
    "ECE_BINS",
    "METRICS",
    "Metric",
    "Outcomes",
    "check_metrics",
    "check_proba",
    "check_truth",
    "measure",
    "metric_names",
    "outcomes",
    "values_at",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ECE_BINS = 15
_SMALLEST = float(np.finfo(np.float64).eps)
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Metric:
    """What a reader must know about a metric.

    Attributes:
        title: As it is written in a table.
        higher_is_better: Its direction.
        percent: Whether it is a share of 1 and is shown in per cent.
        meaning: One sentence for somebody who has not met it.
    """

    title: str
    higher_is_better: bool
    percent: bool
    meaning: str

    @property
    def words(self) -> str:
        """The title within a sentence: accuracy, macro F1."""
        return self.title[0].lower() + self.title[1:]


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": Metric(
            "Accuracy", True, True, "Share of held-out rows whose predicted class is right."
        ),
        "top3_accuracy": Metric(
            "Top-3 accuracy",
            True,
            True,
            "Share of held-out rows whose true class is among the three highest scores.",
        ),
        "balanced_accuracy": Metric(
            "Balanced accuracy",
            True,
            True,
            "Recall averaged over classes: each class weighs the same, however rare.",
        ),
        "macro_f1": Metric(
            "Macro F1",
            True,
            True,
            "F1 (the balance of precision and recall) averaged over classes, each weighing the "
            "same.",
        ),
        "weighted_f1": Metric(
            "Weighted F1", True, True, "F1 averaged over classes, weighted by their row counts."
        ),
        "log_loss": Metric(
            "Log loss",
            False,
            False,
            "Mean negative log of the probability given to the true class, in nats: 0 is certain "
            "and right; confident mistakes cost most.",
        ),
        "ece": Metric(
            "Calibration error",
            False,
            True,
            "Expected calibration error: the mean gap between stated confidence and measured "
            "accuracy, over 15 equal bins of confidence.",
        ),
    }
)


def metric_names(n_classes: int) -> tuple[str, ...]:
    """The metrics that mean something with so many classes: top-3 accuracy needs more than 3."""
    return tuple(name for name in METRICS if name != "top3_accuracy" or n_classes > 3)


def check_metrics(names: Iterable[str], n_classes: int, who: str) -> tuple[str, ...]:
    """Check that each name is a metric of this task.

    Raises:
        UsageError: For an unknown name, or top-3 accuracy with three classes or fewer.
    """
    known = metric_names(n_classes)
    for name in names:
        if name == "top3_accuracy" and n_classes <= 3:
            raise UsageError(
                f"{who}: top3_accuracy needs more than 3 classes, got {n_classes}. Use accuracy."
            )
        if name not in known:
            raise UsageError(f'{who}: no metric is called "{name}".{nearest(name, known)}')
    return tuple(names)


def check_truth(truth_N: Any, n_classes: int, who: str = "truth") -> Ints:
    """Check true class numbers.

    Raises:
        DataError: Unless they are one whole number a row, each in [0, n_classes).
    """
    array = np.asarray(truth_N)
    if array.ndim != 1 or array.size == 0:
        raise DataError(
            f"{who} must hold one class number for each of one or more rows, got shape "
            f"{array.shape}."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{who} must hold whole class numbers, got {array.dtype}.")
    outside = np.flatnonzero((array < 0) | (array >= n_classes))
    if outside.size:
        raise DataError(
            f"{who} must lie in 0..{n_classes - 1}, got {int(array[outside[0]])} at row "
            f"{int(outside[0])} ({outside.size} such rows; -1 marks an unknown label). "
            "Leave rows without a known label out of the evaluation."
        )
    return array.astype(np.int64)


def check_proba(proba: Any, n_rows: int | None = None, who: str = "proba") -> Floats:
    """Check class probabilities and give them a seed axis.

    Rows that hold a value that is not finite pass: they are counted against the model later.

    Args:
        proba: (N, C), or (S, N, C) for S training seeds; each row sums to 1 within 0.001.
        n_rows: N, when it is known.
        who: How the message calls the argument.

    Returns:
        (S, N, C) in double precision.

    Raises:
        DataError: For another shape, fewer than two classes, another number of rows, negative
            values, or rows that do not sum to 1.
    """
    array = np.asarray(proba)
    if array.ndim not in (2, 3) or not np.issubdtype(array.dtype, np.number):
        raise DataError(
            f"{who} must be numbers of shape (rows, classes) or (seeds, rows, classes), got "
            f"{array.dtype} of shape {array.shape}."
        )
    proba_SNC = np.asarray(array[None] if array.ndim == 2 else array, dtype=np.float64)
    n_seeds, rows, n_classes = proba_SNC.shape
    if n_seeds < 1 or rows < 1 or n_classes < 2:
        raise DataError(
            f"{who} must have at least one seed, one row and two classes, got shape {array.shape}."
        )
    if n_rows is not None and rows != n_rows:
        raise DataError(
            f"{who} has {rows} rows but there are {n_rows} true labels. Both must be of the same "
            "rows in the same order."
        )
    finite_SN = np.asarray(np.isfinite(proba_SNC).all(axis=2))
    sums_SN = np.where(finite_SN, proba_SNC.sum(axis=2, where=finite_SN[..., None]), 1.0)
    lowest_SN = np.where(finite_SN, proba_SNC.min(axis=2), 0.0)
    bad = np.argwhere((np.abs(sums_SN - 1.0) > _SUM_TOLERANCE) | (lowest_SN < 0))
    if len(bad):
        seed, row = (int(part) for part in bad[0])
        raise DataError(
            f"{who} must hold probabilities: each row at least 0 and summing to 1 within "
            f"{_SUM_TOLERANCE:g}. Row {row} of seed {seed} has sum {sums_SN[seed, row]:.6g} and "
            f"lowest value {lowest_SN[seed, row]:.6g} ({len(bad)} such rows). Apply a softmax to "
            "logits first."
        )
    return proba_SNC


@dataclass(frozen=True)
class Outcomes:
    """What one model did on each row, in the form that every metric needs.

    Attributes:
        n_classes: C.
        truth_N: True class.
        predicted_N: Predicted class; C where a score is not finite (no prediction).
        in_top3_N: 1 where the truth is among the three highest scores.
        loss_N: Log loss, nats.
        bin_N: Confidence bin in 0..14.
        gap_N: Rightness (0 or 1) minus confidence.
        confidence_N: The highest score.
    """

    n_classes: int
    truth_N: Ints
    predicted_N: Ints
    in_top3_N: Ints
    loss_N: Floats
    bin_N: Ints
    gap_N: Floats
    confidence_N: Floats

    @property
    def right_N(self) -> NDArray[np.bool_]:
        """Where the prediction is the truth."""
        return np.asarray(self.predicted_N == self.truth_N)

    def take(self, index: Ints) -> Outcomes:
        """The outcomes of the rows of these numbers."""
        return Outcomes(
            n_classes=self.n_classes,
            truth_N=self.truth_N[index],
            predicted_N=self.predicted_N[index],
            in_top3_N=self.in_top3_N[index],
            loss_N=self.loss_N[index],
            bin_N=self.bin_N[index],
            gap_N=self.gap_N[index],
            confidence_N=self.confidence_N[index],
        )

    @property
    def invalid(self) -> int:
        """Rows without a prediction."""
        return int(np.count_nonzero(self.predicted_N == self.n_classes))


def outcomes(proba_NC: Floats, truth_N: Ints) -> Outcomes:
    """Reduce checked probabilities (N, C) to per-row outcomes."""
    n_rows, n_classes = proba_NC.shape
    finite_N = np.asarray(np.isfinite(proba_NC).all(axis=1))
    safe_NC = np.where(finite_N[:, None], proba_NC, 0.0)
    predicted_N = np.where(finite_N, safe_NC.argmax(axis=1), n_classes)
    of_truth_N = safe_NC[np.arange(n_rows), truth_N]
    tied_before_NC = (safe_NC == of_truth_N[:, None]) & (np.arange(n_classes) < truth_N[:, None])
    ahead_N = (safe_NC > of_truth_N[:, None]).sum(axis=1) + tied_before_NC.sum(axis=1)
    confidence_N = np.where(finite_N, np.minimum(safe_NC.max(axis=1), 1.0), 1.0)
    return Outcomes(
        n_classes=n_classes,
        truth_N=truth_N,
        predicted_N=predicted_N.astype(np.int64),
        in_top3_N=((ahead_N < 3) & finite_N).astype(np.int64),
        loss_N=-np.log(np.clip(of_truth_N, _SMALLEST, 1.0)),
        bin_N=np.clip(np.ceil(confidence_N * ECE_BINS) - 1, 0, ECE_BINS - 1).astype(np.int64),
        gap_N=(predicted_N == truth_N) - confidence_N,
        confidence_N=confidence_N,
    )


def values_at(rows: Outcomes, index_RN: Ints, names: Iterable[str]) -> dict[str, Floats]:
    """The metrics on each of R samples of the rows.

    Args:
        rows: N rows.
        index_RN: R samples, each of row numbers in 0..N-1, with repetition.
        names: Metrics to compute.

    Returns:
        Metric to its R values.
    """
    wanted = set(names)
    n_sampled = index_RN.shape[1]
    found: dict[str, Floats] = {}
    if "accuracy" in wanted:
        found["accuracy"] = np.mean(rows.right_N[index_RN], axis=1, dtype=np.float64)
    if "top3_accuracy" in wanted:
        found["top3_accuracy"] = rows.in_top3_N[index_RN].mean(axis=1)
    if "log_loss" in wanted:
        found["log_loss"] = rows.loss_N[index_RN].mean(axis=1)
    if "ece" in wanted:
        gap_RB = _tally(rows.bin_N, index_RN, ECE_BINS, weights_N=rows.gap_N)
        found["ece"] = np.abs(gap_RB).sum(axis=1) / n_sampled
    if wanted & {"balanced_accuracy", "macro_f1", "weighted_f1"}:
        found.update(_per_class_values(rows, index_RN, wanted))
    return found


def measure(
    proba_NC: Any, truth_N: Any, names: Iterable[str] | None = None, *, who: str = "measure"
) -> dict[str, float]:
    """The metrics of one model on one set of rows, without intervals.

    Args:
        proba_NC: Class probabilities, rows summing to 1. Rows that are not finite count as wrong.
        truth_N: True class numbers.
        names: Metrics; None for all that the number of classes allows.
        who: How messages call the caller.

    Returns:
        Metric to value, in the order asked for.

    Raises:
        DataError: For probabilities or labels that are not usable.
        UsageError: For an unknown metric.
    """
    proba_SNC = check_proba(proba_NC)
    n_classes = proba_SNC.shape[2]
    truth = check_truth(truth_N, n_classes)
    proba_SNC = check_proba(proba_NC, len(truth))
    if len(proba_SNC) != 1:
        raise DataError(f"{who} takes the probabilities of one model, got {len(proba_SNC)} seeds.")
    wanted = metric_names(n_classes) if names is None else tuple(names)
    check_metrics(wanted, n_classes, who)
    found = values_at(outcomes(proba_SNC[0], truth), np.arange(len(truth))[None], wanted)
    return {name: float(found[name][0]) for name in wanted}


def _per_class_values(rows: Outcomes, index_RN: Ints, wanted: set[str]) -> dict[str, Floats]:
    n_classes = rows.n_classes
    truth_RC = _tally(rows.truth_N, index_RN, n_classes)
    right_N = np.where(rows.right_N, rows.truth_N, n_classes)
    right_RC = _tally(right_N, index_RN, n_classes + 1)[:, :n_classes]
    found: dict[str, Floats] = {}
    if "balanced_accuracy" in wanted:
        found["balanced_accuracy"] = _mean_present(_ratio(right_RC, truth_RC), truth_RC > 0)
    if wanted & {"macro_f1", "weighted_f1"}:
        predicted_RC = _tally(rows.predicted_N, index_RN, n_classes + 1)[:, :n_classes]
        f1_RC = _ratio(2 * right_RC, truth_RC + predicted_RC)
        found["macro_f1"] = _mean_present(f1_RC, truth_RC + predicted_RC > 0)
        found["weighted_f1"] = (f1_RC * truth_RC).sum(axis=1) / index_RN.shape[1]
    return found


def _tally(codes_N: Ints, index_RN: Ints, width: int, *, weights_N: Floats | None = None) -> Floats:
    """Count (or add the weights of) each code in each sample: (R, width)."""
    n_samples = len(index_RN)
    keys_RN = codes_N[index_RN]
    keys_RN += (np.arange(n_samples) * width)[:, None]
    weights = None if weights_N is None else weights_N[index_RN].ravel()
    flat = np.bincount(keys_RN.ravel(), weights=weights, minlength=n_samples * width)
    return flat.reshape(n_samples, width).astype(np.float64)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _mean_present(values_RC: Floats, present_RC: NDArray[np.bool_]) -> Floats:
    found: Floats = (values_RC * present_RC).sum(axis=1) / present_RC.sum(axis=1)
    return found

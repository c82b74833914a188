"""A classifier of the source, cross-fitted: each source row is judged by one that never saw it.

Logistic regression as the probe's, its penalty chosen once on all labelled source rows. The target
is judged by each fold's classifier, so that source and target errors are those of one and the same
set of classifiers, and what holds for each of them holds for their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmstart.core import NotApplicable, Streams, progress
from warmstart.strategies.logistic import fit_logistic

from .distance_inputs import Floats, Ints, equal_rows, grouped_folds

__all__ = ["SourceClassifier", "cross_fit", "cross_validated_answers"]

FOLDS = 5
_LEAST = 10


@dataclass(frozen=True)
class SourceClassifier:
    """Answers of the cross-fitted classifier.

    Attributes:
        at_N: Positions of the labelled source rows.
        truth_N: Their classes.
        answer_N: Out-of-fold answers on them.
        target_KM: Answers of each fold's classifier on every target row.
        l2: Its penalty.
    """

    at_N: Ints
    truth_N: Ints
    answer_N: Ints
    target_KM: Ints
    l2: float

    @property
    def wrong_N(self) -> Floats:
        """1 for a source row that was answered wrongly."""
        return np.asarray(self.answer_N != self.truth_N, dtype=np.float64)

    def target_wrong(self, truth_M: Ints) -> Floats:
        """Share of the classifiers that answer wrongly, for each target row of known class."""
        known = truth_M >= 0
        return np.asarray((self.target_KM[:, known] != truth_M[known]).mean(axis=0))


def cross_fit(
    source_ND: Floats, labels_N: Ints, target_MD: Floats, classes: int, *, seed: int = 0
) -> SourceClassifier:
    """Fit on the labelled source rows, fold by fold.

    Args:
        source_ND: Source vectors.
        labels_N: Their classes, -1 unknown.
        target_MD: Target vectors.
        classes: Number of classes.
        seed: Of the folds.

    Raises:
        NotApplicable: With fewer than 10 labelled source rows, or one class only.
    """
    at_N = np.flatnonzero(labels_N >= 0)
    x_ND, y_N = source_ND[at_N], labels_N[at_N]
    _check(y_N)
    with progress.muted():
        l2 = fit_logistic(x_ND, y_N, classes).l2
    answer_N, target_KM = cross_validated_answers(x_ND, y_N, classes, target_MD, l2, seed=seed)
    return SourceClassifier(at_N, y_N, answer_N, target_KM, l2)


def cross_validated_answers(
    x_ND: Floats, y_N: Ints, classes: int, further_MD: Floats, l2: float, *, seed: int = 0
) -> tuple[Ints, Ints]:
    """Out-of-fold answers (N,), and each fold's answers on further rows (K, M).

    Raises:
        NotApplicable: With fewer than 10 rows, or one class only.
    """
    _check(y_N)
    generator = Streams(seed).numpy("shift", "classifier")
    fold_N = grouped_folds(equal_rows(x_ND), y_N, FOLDS, generator)
    answer_N = np.empty(len(y_N), dtype=np.int64)
    further = []
    with progress.muted():
        for fold in range(FOLDS):
            held = fold_N == fold
            if not held.any():
                continue
            if len(np.unique(y_N[~held])) < 2:
                only = int(y_N[~held][0])
                answer_N[held] = only
                further.append(np.full(len(further_MD), only))
                continue
            fitted = fit_logistic(x_ND[~held], y_N[~held], classes, l2=l2)
            answer_N[held] = (x_ND[held] @ fitted.weight_CD.T + fitted.bias_C).argmax(axis=1)
            further.append((further_MD @ fitted.weight_CD.T + fitted.bias_C).argmax(axis=1))
    return answer_N, np.stack(further).astype(np.int64)


def _check(y_N: Ints) -> None:
    if len(y_N) < _LEAST or len(np.unique(y_N)) < 2:
        raise NotApplicable(
            f"{len(y_N)} labelled rows of {len(np.unique(y_N))} classes: a classifier needs at "
            f"least {_LEAST} rows of two classes"
        )

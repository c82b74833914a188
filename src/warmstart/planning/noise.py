"""How many labels are likely to be wrong: confident learning over cross-validated probabilities."""

from __future__ import annotations

import importlib
import time

import numpy as np

from warmstart.core import NotApplicable
from warmstart.strategies.logistic import fit_logistic, stratified_folds

from .evidence import Measured, wilson

__all__ = ["held_out_proba", "label_noise"]

_FOLDS = 5
_LEAST = 20


def held_out_proba(
    vectors_ND: np.ndarray, labels_N: np.ndarray, classes: int, l2: float, folds: int = _FOLDS
) -> np.ndarray:
    """Class probabilities (N, C) of each row from a probe that did not see it.

    Args:
        vectors_ND: Vectors of the training rows.
        labels_N: Their labels.
        classes: Number of classes C.
        l2: Strength of the probe's penalty.
        folds: Probes that are fitted.
    """
    fold_N = stratified_folds(labels_N, min(folds, len(labels_N)))
    proba_NC = np.full((len(labels_N), classes), 1.0 / classes)
    for fold in range(int(fold_N.max()) + 1):
        held_N = fold_N == fold
        if len(np.unique(labels_N[~held_N])) < 2:
            continue
        solved = fit_logistic(vectors_ND[~held_N], labels_N[~held_N], classes, l2=l2)
        logits = vectors_ND[held_N] @ solved.weight_CD.T + solved.bias_C
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        proba_NC[held_N] = powers / powers.sum(axis=1, keepdims=True)
    return proba_NC


def label_noise(vectors_ND: np.ndarray, labels_N: np.ndarray, classes: int, l2: float) -> Measured:
    """Share of training rows whose label is likely wrong, by cleanlab.

    Northcutt, Jiang and Chuang 2021, Confident learning: rows of one label that have another class
    above that class's own mean confidence are counted, and the counts, brought to the number of
    rows of each label, estimate how many are wrong for each pair of classes. So many are taken,
    those first whose probability of the other class exceeds that of their label most (cleanlab's
    `prune_by_noise_rate`). The rows that were counted alone would be too few: on digits with 10 %
    of the labels turned they are 7.7 % of the rows, these 9.7 %. Limits: the probabilities are the
    probe's, so what the probe cannot tell apart looks like noise; the interval holds for the share
    of rows that are found, not for those that are wrong.

    Args:
        vectors_ND: Vectors of the training rows.
        labels_N: Their labels.
        classes: Number of classes C.
        l2: Strength of the probe's penalty.

    Raises:
        NotApplicable: Where cleanlab is not installed, or there are too few rows.
    """
    began = time.perf_counter()
    try:
        find = importlib.import_module("cleanlab.filter").find_label_issues
    except ImportError:
        raise NotApplicable(
            "label noise is told by cleanlab, which is not installed: pip install "
            "'warmstart[noise]'"
        ) from None
    present = np.unique(labels_N)
    if len(labels_N) < _LEAST or len(present) < 2:
        raise NotApplicable(
            f"label noise needs {_LEAST} training rows of two classes or more, got "
            f"{len(labels_N)} of {len(present)}"
        )
    proba_NC = held_out_proba(vectors_ND, labels_N, classes, l2)[:, present]
    proba_NC /= np.maximum(proba_NC.sum(axis=1, keepdims=True), 1e-12)
    known_N = np.searchsorted(present, labels_N)
    found_N = np.asarray(
        find(known_N, proba_NC, filter_by="prune_by_noise_rate", n_jobs=1), dtype=bool
    )
    hits, rows = int(found_N.sum()), len(labels_N)
    low, high = wilson(hits, rows)
    return Measured(
        name="label_noise", value=hits / rows, interval=(low, high),
        seconds=time.perf_counter() - began,
        text=f"{hits / rows:.1%} of the training labels are likely wrong ({hits} of {rows:,} rows, "
        f"{low:.1%} to {high:.1%}), by confident learning.",
        details={"rows": np.flatnonzero(found_N)[:50].tolist()},
    )  # fmt: skip

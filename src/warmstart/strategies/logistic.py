"""Multinomial logistic regression on fixed vectors, solved to convergence, l2 by cross-validation.

The objective is  mean cross-entropy + (l2 / 2)·‖W‖²  over standardised features, convex, so the
answer is a function of the data: rows are put in the order of their ids first, and no random
number is drawn. scikit-learn's L-BFGS does the solving. With two classes there is one logit with
weights w = W_1 - W_0, and the penalty is (l2 / 2)·‖w‖². A feature whose spread is under a
thousandth of the root-mean-square spread is not blown up to unit variance: it is hardly evidence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from warmstart.core import progress

__all__ = [
    "L2_GRID",
    "LogisticFit",
    "cross_validated_loss",
    "few_threads",
    "fit_logistic",
    "per_class",
    "stratified_folds",
]

L2_GRID = tuple(float(10.0**e) for e in np.arange(0.0, -7.5, -0.5))
# When a solve ends: largest entry of the gradient, in units of what it is at zero weights. (In
# absolute terms it would be reached at once where there are many classes: each has few rows.)
_TRIAL, _FINAL, _EXACT = 1e-2, 5e-5, 1e-6  # a final solve need not go below _EXACT itself
_SMALL = 2e9  # multiplications of a gradient up to which one thread is quickest
_FLOOR = -20.0  # log-probability given to a class that a fold has not seen


@dataclass(frozen=True)
class LogisticFit:
    """A solved problem.

    Attributes:
        weight_CD: Weights on the raw features (the standardisation is folded in).
        bias_C: Biases.
        l2: The l2 strength that was used.
        losses: Cross-validated loss for each l2 that was tried; empty when l2 was given.
        converged: Whether the last solve reached its tolerance.
    """

    weight_CD: np.ndarray
    bias_C: np.ndarray
    l2: float
    losses: dict[float, float]
    converged: bool


def stratified_folds(labels_N: np.ndarray, folds: int) -> np.ndarray:
    """Fold number of each row: the rows of a class are dealt out in turn, without chance.

    Dealing continues from class to class, so folds differ in size by one at most.
    """
    fold_N = np.empty(len(labels_N), dtype=np.int64)
    order = np.argsort(labels_N, kind="stable")
    fold_N[order] = np.arange(len(labels_N)) % folds
    return fold_N


def _solve(
    x_ND: np.ndarray,
    y_N: np.ndarray,
    classes: int,
    l2: float,
    start: LogisticRegression | None,
    tol: float,
) -> tuple[np.ndarray, np.ndarray, LogisticRegression, bool]:
    """One solve, warm-started from the previous strength; absent classes get the floor as bias."""
    solver = start or LogisticRegression(solver="lbfgs", max_iter=2000, warm_start=True)
    solver.set_params(C=1.0 / (l2 * len(y_N)), tol=tol)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solver.fit(x_ND, y_N)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    weight_CD, bias_C = per_class(solver, classes)
    return weight_CD, bias_C, solver, converged


def _gradient_at_zero(x_ND: np.ndarray, y_N: np.ndarray) -> float:
    """Largest entry of the gradient of the mean cross-entropy at zero weights, bias aside."""
    present, row_N = np.unique(y_N, return_inverse=True)
    residual_NC = np.full((len(y_N), len(present)), 1.0 / len(present))
    residual_NC[np.arange(len(y_N)), row_N] -= 1.0
    return max(float(np.abs(residual_NC.T @ x_ND).max()) / len(y_N), 1e-12)


def per_class(solver: LogisticRegression, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (C, D) and biases (C,) of a fitted solver, with a row for every class.

    A class that the solver never saw gets zero weights and a bias that all but excludes it.
    """
    coefficients, intercepts = solver.coef_, solver.intercept_
    if len(solver.classes_) == 2:  # one logit: split it, the softmax is the same
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight_CD = np.zeros((classes, coefficients.shape[1]))
    bias_C = np.full(classes, _FLOOR)
    weight_CD[solver.classes_], bias_C[solver.classes_] = coefficients, intercepts
    return weight_CD, bias_C


def cross_validated_loss(
    x_ND: np.ndarray,
    y_N: np.ndarray,
    classes: int,
    grid: Sequence[float],
    folds: int,
    held: int | None = None,
) -> dict[float, float]:
    """Mean held-out cross-entropy for each l2, strongest first.

    The path stops two strengths after its best one: the loss is close to unimodal in l2.

    Args:
        x_ND: Standardised features.
        y_N: Class numbers.
        classes: Number of classes C.
        grid: Strengths to try.
        folds: Parts that the rows are dealt into.
        held: How many of the parts are held out in turn; all of them when None.
    """
    fold_N = stratified_folds(y_N, folds)
    turns = range(folds if held is None else held)
    splits = [(fold_N != f, fold_N == f) for f in turns if (fold_N == f).any()]
    x_ND = x_ND.astype(np.float32)  # a trial need not be more exact
    solvers: list[LogisticRegression | None] = [None] * len(splits)
    tolerance = _TRIAL * _gradient_at_zero(x_ND, y_N)
    losses: dict[float, float] = {}
    for l2 in sorted(grid, reverse=True):
        total = 0.0
        for position, (train_N, held_N) in enumerate(splits):
            if len(np.unique(y_N[train_N])) < 2:
                continue
            w, b, solvers[position], _ = _solve(
                x_ND[train_N], y_N[train_N], classes, l2, solvers[position], tolerance
            )
            logp = log_softmax(x_ND[held_N] @ w.T + b, axis=1)
            total -= logp[np.arange(len(logp)), y_N[held_N]].sum()
        losses[l2] = float(total / sum(held_N.sum() for _, held_N in splits))
        values = list(losses.values())
        if len(values) - 1 - int(np.argmin(values)) >= 2:
            break
    return losses


def fit_logistic(
    vectors_ND: np.ndarray,
    labels_N: np.ndarray,
    classes: int,
    *,
    ids: Sequence[str] | None = None,
    l2: float | None = None,
    grid: Sequence[float] = L2_GRID,
) -> LogisticFit:
    """Solve to convergence; choose l2 by cross-validation when it is not given.

    Args:
        vectors_ND: Features (N, D).
        labels_N: Class numbers in [0, classes), at least two different ones.
        classes: Number of classes C, also those without a row.
        ids: Row ids; rows are sorted by them so that the order of the data does not matter.
        l2: Strength per row, or None to choose it from `grid` by held-out loss: 5 folds below
            1,000 rows, 3 below 5,000, and one fifth held out from there on.
        grid: Strengths to try.
    """
    order = np.argsort(np.asarray(ids)) if ids is not None else np.arange(len(labels_N))
    y_N = np.asarray(labels_N)[order]
    x_ND = np.asarray(vectors_ND, dtype=np.float64)[order]
    mean_D, scale = x_ND.mean(axis=0), x_ND.std(axis=0)
    # A feature that hardly varies is no evidence: it is not blown up to unit variance.
    scale_D = np.maximum(scale, 1e-3 * max(float(np.sqrt((scale**2).mean())), 1e-12))
    x_ND = (x_ND - mean_D) / scale_D / np.sqrt(x_ND.shape[1])
    losses: dict[float, float] = {}
    with few_threads(4.0 * x_ND.size * classes):
        if l2 is None:
            folds = 3 if 1000 <= len(y_N) < 5000 else 5
            held = None if len(y_N) < 5000 else 1
            losses = cross_validated_loss(x_ND, y_N, classes, grid, min(folds, len(y_N)), held)
            l2 = min(losses, key=lambda k: (losses[k], -k))
        tolerance = max(_FINAL * _gradient_at_zero(x_ND, y_N), _EXACT)
        weight_CD, bias_C, _, converged = _solve(x_ND, y_N, classes, l2, None, tolerance)
    if not converged:
        progress.note(f"The logistic regression stopped before convergence at l2 = {l2:g}.")
    weight_CD = weight_CD / scale_D / np.sqrt(x_ND.shape[1])
    bias_C = bias_C - weight_CD @ mean_D
    return LogisticFit(weight_CD, bias_C, l2, losses, converged)


def few_threads(multiplications: float) -> AbstractContextManager[object]:
    """One thread for the products of a small problem.

    Hundreds of short products would each wake the threads of the linear algebra, which wait for
    those of the network that was run before: on two cores that takes up to 17 times as long.
    """
    if multiplications > _SMALL:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits

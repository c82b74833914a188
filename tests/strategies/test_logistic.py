"""The convex solver against scikit-learn, against its own conditions, and against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from warmstart.strategies import logistic
from warmstart.strategies.logistic import (
    L2_GRID,
    cross_validated_loss,
    fit_logistic,
    per_class,
    stratified_folds,
)


def problem(
    rows: int = 120, dimension: int = 6, classes: int = 3, noise: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    centres_CD = 2 * generator.normal(size=(classes, dimension))
    labels_N = np.arange(rows) % classes
    scales_D = 10.0 ** np.linspace(-1, 1, dimension)
    x_ND = centres_CD[labels_N] + noise * generator.normal(size=(rows, dimension)) * 2
    return (x_ND + 5) * scales_D, labels_N


def standardised(x_ND: np.ndarray) -> np.ndarray:
    """What the solver sees: unit variance, then unit mean square length."""
    out: np.ndarray = (x_ND - x_ND.mean(axis=0)) / x_ND.std(axis=0) / np.sqrt(x_ND.shape[1])
    return out


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    raised = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    out: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return out


def raw_proba(fit: Any, x_ND: np.ndarray) -> np.ndarray:
    return softmax(x_ND @ fit.weight_CD.T + fit.bias_C)


def slow_gradient(
    weight_CD: np.ndarray, bias_C: np.ndarray, x_ND: np.ndarray, y_N: np.ndarray, l2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of mean cross-entropy + l2/2·|W|², one row and one class at a time."""
    rows, classes = len(y_N), len(bias_C)
    grad_w, grad_b = l2 * weight_CD, np.zeros(classes)
    for x_D, y in zip(x_ND, y_N, strict=True):
        scores = [float(weight_CD[c] @ x_D + bias_C[c]) for c in range(classes)]
        total = sum(np.exp(s - max(scores)) for s in scores)
        for c in range(classes):
            error = np.exp(scores[c] - max(scores)) / total - (c == y)
            grad_w[c] = grad_w[c] + error * x_D / rows
            grad_b[c] += error / rows
    return grad_w, grad_b


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_gradient_vanishes_at_the_solution(classes: int, l2: float) -> None:
    x_ND, y_N = problem(60, classes=classes)
    fit = fit_logistic(x_ND, y_N, classes, l2=l2)
    assert fit.converged
    # Back from raw features to the space in which the penalty is stated.
    weight_CD = fit.weight_CD * x_ND.std(axis=0) * np.sqrt(x_ND.shape[1])
    bias_C = fit.bias_C + fit.weight_CD @ x_ND.mean(axis=0)
    # One logit of two classes is split into halves, which halves the penalty's gradient twice.
    penalty = l2 if classes > 2 else 2 * l2
    grad_w, grad_b = slow_gradient(weight_CD, bias_C, standardised(x_ND), y_N, penalty)
    np.testing.assert_allclose(grad_w, 0, atol=2e-5)
    np.testing.assert_allclose(grad_b, 0, atol=2e-5)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_agrees_with_scikit_learn(classes: int, l2: float) -> None:
    x_ND, y_N = problem(100, classes=classes, noise=2.0)
    fit = fit_logistic(x_ND, y_N, classes, l2=l2)
    theirs = LogisticRegression(C=1 / (l2 * len(y_N)), tol=1e-10, max_iter=20_000)
    theirs.fit(standardised(x_ND), y_N)
    np.testing.assert_allclose(
        raw_proba(fit, x_ND), theirs.predict_proba(standardised(x_ND)), atol=1e-4
    )


def test_same_data_same_bits_in_any_order() -> None:
    x_ND, y_N = problem()
    ids = [f"r{i:03}" for i in range(len(y_N))]
    first = fit_logistic(x_ND, y_N, 3, ids=ids)
    again = fit_logistic(x_ND, y_N, 3, ids=ids)
    order = np.random.default_rng(1).permutation(len(y_N))
    mixed = fit_logistic(x_ND[order], y_N[order], 3, ids=[ids[i] for i in order])
    for other in (again, mixed):
        np.testing.assert_array_equal(first.weight_CD, other.weight_CD)
        np.testing.assert_array_equal(first.bias_C, other.bias_C)
        assert (first.l2, first.losses) == (other.l2, other.losses)


def test_a_class_without_rows_is_all_but_excluded() -> None:
    x_ND, y_N = problem(classes=3)
    fit = fit_logistic(x_ND, np.where(y_N == 1, 3, y_N), 5, l2=1e-2)
    scores_NC = raw_proba(fit, x_ND)
    assert fit.weight_CD.shape == (5, x_ND.shape[1])
    assert scores_NC[:, [1, 4]].max() < 1e-4
    assert (scores_NC.argmax(axis=1) == np.where(y_N == 1, 3, y_N)).mean() > 0.8


def test_one_row_a_class() -> None:
    x_ND = np.eye(3)
    fit = fit_logistic(x_ND, np.arange(3), 3)
    assert raw_proba(fit, x_ND).argmax(axis=1).tolist() == [0, 1, 2]


def test_a_constant_feature_does_no_harm() -> None:
    x_ND, y_N = problem()
    wide_ND = np.concatenate([x_ND, np.full((len(x_ND), 1), 7.0)], axis=1)
    fit = fit_logistic(wide_ND, y_N, 3, l2=1e-2)
    assert np.isfinite(fit.weight_CD).all()
    assert (raw_proba(fit, wide_ND).argmax(axis=1) == y_N).mean() > 0.8


def test_l2_is_strong_for_noise_and_weak_for_clean_data() -> None:
    x_ND, y_N = problem(60, dimension=40, noise=0.0)
    clean = fit_logistic(x_ND + 1e-6 * np.random.default_rng(0).normal(size=x_ND.shape), y_N, 3)
    noise_ND = np.random.default_rng(0).normal(size=(60, 40))
    noisy = fit_logistic(noise_ND, np.random.default_rng(1).integers(0, 3, 60), 3)
    assert noisy.l2 == max(L2_GRID)
    assert clean.l2 < 1e-2
    assert clean.l2 == min(clean.losses, key=lambda k: clean.losses[k])


def test_cross_validation_against_a_slow_twin() -> None:
    x_ND, y_N = problem(50, noise=2.0)
    x_ND = standardised(x_ND)
    found = cross_validated_loss(x_ND, y_N, 3, [0.1, 0.01], folds=5)
    fold_N = stratified_folds(y_N, 5)
    for l2 in (0.1, 0.01):
        total = 0.0
        for fold in range(5):
            rows = [i for i in range(50) if fold_N[i] != fold]
            solver = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-8, max_iter=5000)
            solver.fit(x_ND[rows], y_N[rows])
            for i in set(range(50)) - set(rows):
                total -= float(np.log(solver.predict_proba(x_ND[i : i + 1])[0, y_N[i]]))
        assert found[l2] == pytest.approx(total / 50, abs=2e-3)


def test_the_path_stops_two_strengths_after_its_best() -> None:
    noise_ND = np.random.default_rng(0).normal(size=(60, 40)) / np.sqrt(40)
    labels_N = np.random.default_rng(1).integers(0, 3, 60)
    losses = cross_validated_loss(noise_ND, labels_N, 3, L2_GRID, folds=5)
    assert list(losses) == list(L2_GRID[: len(losses)])
    assert len(losses) < len(L2_GRID)
    assert int(np.argmin(list(losses.values()))) == len(losses) - 3


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(2, 5))
def test_folds_are_stratified_and_even(labels: list[int], folds: int) -> None:
    labels_N = np.array(labels)
    fold_N = stratified_folds(labels_N, folds)
    sizes = np.bincount(fold_N, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for label in set(labels):
        counts = np.bincount(fold_N[labels_N == label], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_two_classes_as_one_logit_become_two_rows() -> None:
    x_ND, y_N = problem(classes=2, noise=2.0)
    solver = LogisticRegression().fit(standardised(x_ND), y_N)
    weight_CD, bias_C = per_class(solver, 2)
    np.testing.assert_allclose(
        softmax(standardised(x_ND) @ weight_CD.T + bias_C),
        solver.predict_proba(standardised(x_ND)),
        atol=1e-12,
    )


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    x_ND, y_N = problem(60, dimension=4)
    leak_N1 = 1e-9 * y_N[:, None].astype(float)
    fit = fit_logistic(np.concatenate([x_ND, leak_N1], axis=1), y_N, 3, l2=1e-2)
    plain = fit_logistic(x_ND, y_N, 3, l2=1e-2 * 4 / 5)
    assert np.abs(raw_proba(fit, np.concatenate([x_ND, leak_N1], axis=1)).argmax(axis=1)
                  == raw_proba(plain, x_ND).argmax(axis=1)).mean() > 0.95  # fmt: skip


def test_many_classes_are_solved_too() -> None:
    """With 100 classes each entry of the gradient is small from the start; that is no end."""
    rng = np.random.default_rng(0)
    labels_N = np.repeat(np.arange(100), 8)
    x_ND = rng.normal(size=(100, 200))[labels_N] + 2.0 * rng.normal(size=(len(labels_N), 200))
    x_ND = standardised(x_ND)
    grid = [10.0**e for e in (-1, -2, -3, -4, -5)]
    found = cross_validated_loss(x_ND, labels_N, 100, grid, folds=4, held=1)
    fold_N = stratified_folds(labels_N, 4)
    learn_N, held_N = fold_N != 0, fold_N == 0
    for l2, loss in found.items():
        solver = LogisticRegression(C=1 / (l2 * learn_N.sum()), tol=1e-8, max_iter=5000)
        proba_NC = solver.fit(x_ND[learn_N], labels_N[learn_N]).predict_proba(x_ND[held_N])
        exact = -np.log(proba_NC[np.arange(held_N.sum()), labels_N[held_N]]).mean()
        assert loss == pytest.approx(exact, rel=0.02), l2


def test_a_small_problem_is_solved_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the caller's threads are as they were afterwards."""

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    seen: list[list[int]] = []
    solve = logistic.cross_validated_loss
    monkeypatch.setattr(
        logistic, "cross_validated_loss", lambda *a: (seen.append(threads()), solve(*a))[1]
    )
    generator = np.random.default_rng(0)
    x_ND, y_N = generator.normal(size=(40, 3)), np.arange(40) % 2
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        logistic.fit_logistic(x_ND, y_N, 2)
        assert threads() == before
    assert seen == [[1] * len(before)]
    monkeypatch.setattr(logistic, "_SMALL", 1.0)
    with threadpool_limits(2, user_api="blas"):
        logistic.fit_logistic(x_ND, y_N, 2)
    assert seen[1] == before

"""Scores of transferability: slow twins, known answers, what cannot be scored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, multivariate_normal
from sklearn.covariance import ledoit_wolf_shrinkage as sklearn_shrinkage

from warmstart.core import DataError
from warmstart.evaluation import (
    h_score,
    kendall_tau,
    ledoit_wolf_shrinkage,
    leep,
    log_me,
    nce,
)

SHAPES = [(40, 6, 3), (30, 30, 2), (24, 60, 4), (50, 3, 5)]


def problem(n: int, d: int, c: int, seed: int = 0, apart: float = 1.0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(c), generator.integers(0, c, n - c)])
    centres = generator.normal(size=(c, d)) * apart
    return centres[labels] + generator.normal(size=(n, d)) + 0.3, labels


def slow_log_me(vectors: Any, labels: Any) -> float:
    """Maximum over a grid of alpha and beta of the normal density of each class's target."""
    n = len(vectors)
    gram = vectors @ vectors.T
    found = []
    for kind in np.unique(labels):
        target = (labels == kind).astype(float)
        best = -math.inf
        for log_t in np.linspace(-6, 10, 401):
            cov = gram + math.exp(log_t) * np.eye(n)
            alpha = n / (target @ np.linalg.solve(cov, target))
            best = max(best, multivariate_normal(np.zeros(n), cov / alpha).logpdf(target))
        found.append(best / n)
    return float(np.mean(found))


@pytest.mark.parametrize(("n", "d", "c"), SHAPES[:1] + SHAPES[3:])
def test_log_me_is_the_best_evidence_of_a_grid(n: int, d: int, c: int) -> None:
    vectors, labels = problem(n, d, c)
    slow = slow_log_me(vectors, labels)
    assert slow <= log_me(vectors, labels) + 1e-9
    assert log_me(vectors, labels) == pytest.approx(slow, abs=2e-5)


def test_log_me_against_the_papers_loop() -> None:
    """Algorithm 1 as it is written: alpha, beta and the posterior mean, with matrices."""
    vectors, labels = problem(60, 5, 3)
    n, d = vectors.shape
    found = []
    for kind in range(3):
        target, alpha, beta = (labels == kind).astype(float), 1.0, 1.0
        for _ in range(200):
            precision = alpha * np.eye(d) + beta * vectors.T @ vectors
            mean = beta * np.linalg.solve(precision, vectors.T @ target)
            of_data = np.linalg.eigvalsh(beta * vectors.T @ vectors)
            gamma = float((of_data / (alpha + of_data)).sum())
            alpha = gamma / (mean @ mean)
            beta = (n - gamma) / ((vectors @ mean - target) ** 2).sum()
        found.append(
            n / 2 * math.log(beta) + d / 2 * math.log(alpha) - n / 2 * math.log(2 * math.pi)
            - beta / 2 * ((vectors @ mean - target) ** 2).sum() - alpha / 2 * mean @ mean
            - np.linalg.slogdet(alpha * np.eye(d) + beta * vectors.T @ vectors)[1] / 2
        )  # fmt: skip
    assert log_me(vectors, labels) == pytest.approx(np.mean(found) / n, abs=1e-9)


def test_log_me_with_more_dimensions_than_rows() -> None:
    vectors, labels = problem(24, 60, 4, apart=0.4)
    assert log_me(vectors, labels) == pytest.approx(slow_log_me(vectors, labels), abs=2e-5)


def test_log_me_known_answer() -> None:
    """A vector of ones: variance z² along it, the rest of y shared by N - 1 directions."""
    n, ones = 8, 4
    along, rest = ones**2 / n, ones - ones**2 / n
    expected = -0.5 * (
        n * math.log(2 * math.pi) + n + math.log(along) + (n - 1) * math.log(rest / (n - 1))
    )
    labels = np.repeat([0, 1], ones)
    assert log_me(np.ones((n, 1)), labels) == pytest.approx(expected / n, abs=1e-9)


def test_log_me_of_vectors_that_tell_nothing_is_that_of_noise_alone() -> None:
    labels = np.array([0, 1, 0, 1])
    expected = -0.5 * (math.log(2 * math.pi) + 1 + math.log(2 / 4))
    assert log_me(np.zeros((4, 3)), labels) == pytest.approx(expected, abs=1e-9)
    across = np.array([[1.0], [1.0], [-1.0], [-1.0]])  # at right angles to both targets
    assert log_me(across, labels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
def test_log_me_knows_no_scale_and_no_rotation(n: int, d: int, c: int) -> None:
    vectors, labels = problem(n, d, c)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    once = log_me(vectors, labels)
    assert log_me(vectors @ turn * 1e4, labels) == pytest.approx(once, abs=1e-6)
    order = np.random.default_rng(2).permutation(n)
    assert log_me(vectors[order], labels[order] * 7) == pytest.approx(once, abs=1e-9)


def test_labels_without_any_error_give_a_finite_number() -> None:
    labels = np.arange(30) % 3
    assert math.isfinite(log_me(np.eye(3)[labels], labels))
    assert log_me(np.eye(3)[labels], labels) > 5
    assert h_score(np.eye(3)[labels], labels, shrink=False) == pytest.approx(2.0)


def slow_h_score(vectors: Any, labels: Any, shrinkage: float) -> float:
    mean = vectors.mean(axis=0)
    within = np.cov(vectors.T, bias=True).reshape(len(mean), len(mean))
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / len(mean) * np.eye(len(mean))
    means = np.stack([vectors[labels == label].mean(axis=0) for label in labels])
    between = (means - mean).T @ (means - mean) / len(labels)
    return float(np.trace(np.linalg.pinv(within) @ between) * (1 - shrinkage))


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
def test_h_score_against_covariances_written_out(n: int, d: int, c: int) -> None:
    vectors, labels = problem(n, d, c)
    shrinkage = sklearn_shrinkage(vectors)
    assert ledoit_wolf_shrinkage(vectors - vectors.mean(axis=0)) == pytest.approx(shrinkage)
    assert h_score(vectors, labels) == pytest.approx(slow_h_score(vectors, labels, shrinkage))
    plain = slow_h_score(vectors, labels, 0.0)
    assert h_score(vectors, labels, shrink=False) == pytest.approx(plain)


def test_h_score_known_answers() -> None:
    """One dimension: variance between classes over all variance; 4 / (4 + 1)."""
    vectors = np.array([[-3.0], [-1.0], [1.0], [3.0]])
    assert h_score(vectors, np.array([0, 0, 1, 1]), shrink=False) == pytest.approx(4 / 5)
    assert h_score(np.ones((4, 2)), np.array([0, 0, 1, 1])) == 0
    few, labels = problem(20, 50, 4, apart=0.0)
    assert h_score(few, labels, shrink=False) == pytest.approx(3)  # the bound, though it is noise
    assert h_score(few, labels) < 1.5


def slow_leep(proba: Any, labels: Any) -> float:
    total = 0.0
    for i, y in enumerate(labels):
        likelihood = 0.0
        for z in range(proba.shape[1]):
            of_z = sum(proba[j, z] for j in range(len(labels)))
            with_y = sum(proba[j, z] for j in range(len(labels)) if labels[j] == y)
            likelihood += with_y / of_z * proba[i, z]
        total += math.log(likelihood)
    return total / len(labels)


def test_leep_against_sums_written_out() -> None:
    generator = np.random.default_rng(0)
    proba, labels = generator.dirichlet(np.ones(5), 30), generator.integers(0, 3, 30)
    assert leep(proba, labels) == pytest.approx(slow_leep(proba, labels))


def slow_nce(source: Any, labels: Any) -> float:
    total = 0.0
    for z, y in zip(source, labels, strict=True):
        same = [other for s, other in zip(source, labels, strict=True) if s == z]
        total += math.log(same.count(y) / len(same))
    return total / len(labels)


def test_nce_against_counts_written_out() -> None:
    generator = np.random.default_rng(0)
    source, labels = generator.integers(0, 6, 50), generator.integers(0, 3, 50)
    assert nce(source, labels) == pytest.approx(slow_nce(source.tolist(), labels.tolist()))


def test_leep_and_nce_known_answers() -> None:
    labels = np.array([0, 0, 1, 1])
    assert nce(np.array([5, 5, 9, 9]), labels) == 0
    assert leep(np.eye(2)[labels], labels) == pytest.approx(0)
    assert nce(np.zeros(4, int), labels) == pytest.approx(-math.log(2))
    assert leep(np.full((4, 3), 1 / 3), labels) == pytest.approx(-math.log(2))
    # A third of the rows stand under a source class of one label, the others under a mixed one.
    source = np.array([0, 1, 1])
    expected = -2 / 3 * math.log(2)
    assert nce(source, np.array([0, 0, 1])) == pytest.approx(expected)
    # Of hard probabilities LEEP is NCE.
    assert leep(np.eye(2)[source], np.array([0, 0, 1])) == pytest.approx(expected)


def test_scores_rise_where_classes_lie_farther_apart() -> None:
    near, labels = problem(200, 10, 4, apart=0.2)
    far, _ = problem(200, 10, 4, apart=2.0)
    assert log_me(far, labels) > log_me(near, labels)
    assert h_score(far, labels) > h_score(near, labels)


@pytest.mark.parametrize("seed", range(4))
def test_kendall_tau_against_scipy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 5, 9), generator.normal(size=9)
    assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic)


def test_kendall_tau_known_answers() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None
    assert kendall_tau([1], [1]) is None
    with pytest.raises(DataError, match="two lists of equal length"):
        kendall_tau([1, 2], [1, 2, 3])


GOOD = np.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_me(GOOD, [0, 1]), "log_me: labels must be class numbers from 0, one for each"),
        (lambda: log_me(GOOD, [0, 1, -1]), "Leave rows without a label out"),
        (lambda: log_me(GOOD, [1, 1, 1]), "needs rows of at least two classes"),
        (lambda: h_score([[1.0], [math.nan], [2.0]], [0, 1, 1]), "h_score: row 1 of the vectors"),
        (lambda: h_score([1.0, 2.0], [0, 1]), r"got shape \(2,\)"),
        (lambda: leep(GOOD, [0, 1, 1]), "each row must sum to 1, row 0 sums to 2"),
        (lambda: leep([[-1.0, 2.0]], [0]), "at least 0 and each row must sum to 1, got -1"),
        (lambda: nce([0, -1], [0, 1]), "source labels must be class numbers"),
        (lambda: nce([0.5, 1.0], [0, 1]), "of float64"),
    ],
)
def test_what_cannot_be_scored_is_refused(call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()

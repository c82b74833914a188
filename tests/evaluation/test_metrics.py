"""Metrics against plain loops, scikit-learn and values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from warmstart.core import DataError, UsageError
from warmstart.evaluation import METRICS, measure, metric_names
from warmstart.evaluation.metrics import ECE_BINS, outcomes, values_at


def make(n_rows: int, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n_rows)
    logits = rng.normal(size=(n_rows, n_classes))
    logits[np.arange(n_rows), truth] += 0.8
    proba = np.exp(logits)
    return proba / proba.sum(axis=1, keepdims=True), truth


def slow(proba: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Every metric in plain Python, straight from its definition."""
    n_classes = proba.shape[1]
    right = top3 = 0
    loss = 0.0
    bins: list[list[tuple[float, float]]] = [[] for _ in range(ECE_BINS)]
    true_positive, actual, predicted = ([0] * n_classes for _ in range(3))
    for row, true in zip(proba.tolist(), truth.tolist(), strict=True):
        order = sorted(range(n_classes), key=lambda c: (-row[c], c))
        guess = order[0]
        right += guess == true
        top3 += true in order[:3]
        loss -= math.log(row[true])
        for number in range(ECE_BINS):
            if number / ECE_BINS < row[guess] <= (number + 1) / ECE_BINS:
                bins[number].append((row[guess], float(guess == true)))
        actual[true] += 1
        predicted[guess] += 1
        true_positive[true] += guess == true
    n = len(truth)
    f1 = {
        c: 2 * true_positive[c] / (actual[c] + predicted[c])
        for c in range(n_classes)
        if actual[c] + predicted[c]
    }
    recalls = [true_positive[c] / actual[c] for c in range(n_classes) if actual[c]]
    gaps = [abs(sum(x for x, _ in b) - sum(y for _, y in b)) for b in bins]
    found = {
        "accuracy": right / n,
        "balanced_accuracy": sum(recalls) / len(recalls),
        "macro_f1": sum(f1.values()) / len(f1),
        "weighted_f1": sum(f1[c] * actual[c] for c in f1) / n,
        "log_loss": loss / n,
        "ece": sum(gaps) / n,
    }
    if n_classes > 3:
        found["top3_accuracy"] = top3 / n
    return found


@pytest.mark.parametrize(("n_classes", "seed"), [(2, 0), (3, 1), (5, 2), (12, 3)])
def test_metrics_equal_their_slow_twin(n_classes: int, seed: int) -> None:
    proba, truth = make(157, n_classes, seed)
    assert measure(proba, truth) == pytest.approx(slow(proba, truth), abs=1e-12)


def test_metrics_on_resamples_equal_the_metrics_of_the_resampled_rows() -> None:
    proba, truth = make(41, 6, 4)  # few rows: some resamples miss a class
    index = np.random.default_rng(0).integers(0, 41, size=(60, 41))
    fast = values_at(outcomes(proba, truth), index, METRICS)
    for number, rows in enumerate(index):
        expected = slow(proba[rows], truth[rows])
        assert {name: fast[name][number] for name in METRICS} == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
@pytest.mark.parametrize("n_classes", [2, 4, 9])
def test_metrics_equal_scikit_learn(n_classes: int) -> None:
    proba, truth = make(300, n_classes, n_classes)
    guess = proba.argmax(axis=1)
    found = measure(proba, truth)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["weighted_f1"] == pytest.approx(f1_score(truth, guess, average="weighted"))
    assert found["log_loss"] == pytest.approx(log_loss(truth, proba))
    if n_classes > 3:
        assert found["top3_accuracy"] == pytest.approx(top_k_accuracy_score(truth, proba, k=3))


def test_known_answers() -> None:
    proba = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    found = measure(proba, [0, 1, 1, 0])
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    expected = -(math.log(0.9) + math.log(0.4) + math.log(0.8) + math.log(0.7)) / 4
    assert found["log_loss"] == pytest.approx(expected)
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)  # four bins of one row


def test_perfect_calibration_and_certainty() -> None:
    certain = np.eye(3)[[0, 1, 2]]
    found = measure(certain, [0, 1, 2])
    assert found["ece"] == 0.0
    assert found["log_loss"] == 0.0
    assert measure(certain, [1, 1, 2])["log_loss"] == pytest.approx(36.0437 / 3, abs=1e-3)


def test_ties_go_to_the_first_class() -> None:
    constant = np.full((10, 5), 0.2)
    assert measure(constant, [0] * 10, ["accuracy"])["accuracy"] == 1.0
    assert measure(constant, [4] * 10, ["accuracy"])["accuracy"] == 0.0
    assert measure(constant, [2] * 10, ["top3_accuracy"])["top3_accuracy"] == 1.0
    assert measure(constant, [3] * 10, ["top3_accuracy"])["top3_accuracy"] == 0.0


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 1, 3])
def test_scores_that_are_not_finite_count_against_the_model(poison: float, column: int) -> None:
    proba, truth = make(50, 4, 9)
    truth[7] = 0
    clean = proba.copy()
    clean[7] = [1.0, 0.0, 0.0, 0.0]  # right, and certain
    poisoned = clean.copy()
    poisoned[7, column] = poison
    before, after = measure(clean, truth), measure(poisoned, truth)
    for name, metric in METRICS.items():
        if metric.higher_is_better:
            assert after[name] < before[name], name
    assert after["log_loss"] > before["log_loss"]
    assert after["accuracy"] == pytest.approx(before["accuracy"] - 1 / 50)


def test_a_model_of_nothing_but_nan_scores_nothing() -> None:
    found = measure(np.full((6, 5), np.nan), [0, 1, 2, 3, 4, 0])
    assert found["accuracy"] == found["top3_accuracy"] == found["macro_f1"] == 0.0
    assert found["ece"] == 1.0


def test_top3_only_above_three_classes() -> None:
    assert "top3_accuracy" not in metric_names(3)
    assert "top3_accuracy" in metric_names(4)
    with pytest.raises(UsageError, match="needs more than 3 classes, got 3"):
        measure(np.full((2, 3), 1 / 3), [0, 1], ["top3_accuracy"])


@pytest.mark.parametrize(
    ("proba", "truth", "message"),
    [
        (np.full(4, 0.5), [0], "shape"),
        (np.full((2, 1), 1.0), [0, 0], "two classes"),
        (np.full((0, 2), 0.5), [], "one row"),
        (np.full((3, 2), 0.5), [0, 1], "3 rows but there are 2 true labels"),
        (np.full((2, 2), 0.6), [0, 1], "summing to 1.*Apply a softmax"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), [0, 1], "lowest value -0.5"),
        (np.full((2, 2), 0.5), [0, 2], "got 2 at row 1"),
        (np.full((2, 2), 0.5), [-1, 0], "-1 marks an unknown label"),
        (np.full((2, 2), 0.5), [0.0, 1.0], "whole class numbers"),
        (np.full((2, 2), 0.5), [[0, 1]], "one class number"),
        (np.full((2, 2, 2), 0.5), [0, 1], "got 2 seeds"),
        (np.array([["a", "b"]]), [0], "must be numbers"),
    ],
)
def test_bad_input_is_named(proba: np.ndarray, truth: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure(proba, truth)


def test_unknown_metric_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match='Did you mean "macro_f1"'):
        measure(np.full((2, 2), 0.5), [0, 1], ["macro-f1"])


def test_single_precision_probabilities_pass() -> None:
    proba, truth = make(200, 50, 5)
    assert measure(proba.astype(np.float16), truth)["log_loss"] > 0

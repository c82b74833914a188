"""Scores with intervals: content, determinism, coverage, memory and speed."""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from warmstart.core import DataError, UsageError
from warmstart.evaluation import Scores, measure, primary_metric, score
from warmstart.evaluation.resampling import percentile_interval, resampled, row_draws

from .test_metrics import make

NAMES = ["a", "b", "c", "d"]


def binary(right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-class rows (class 0 is true) that are right where told."""
    proba = np.where(np.asarray(right)[:, None], [0.8, 0.2], [0.2, 0.8])
    return proba, np.zeros(len(proba), dtype=int)


def test_values_are_the_metrics_and_intervals_hold_them() -> None:
    proba, truth = make(200, 4, 0)
    found = score(proba, truth, NAMES)
    assert {name: one.value for name, one in found.metrics.items()} == measure(proba, truth)
    for one in found.metrics.values():
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high
        assert one.n == 200
    assert found.main == found.metrics["accuracy"]
    assert found.n == 200
    assert found.seeds == 1


def test_confusion_and_classes_equal_scikit_learn() -> None:
    proba, truth = make(300, 4, 1)
    guess = proba.argmax(axis=1)
    found = score(proba, truth, NAMES, resamples=100)
    assert found.confusion == confusion_matrix(truth, guess).tolist()
    precision, recall, f1, n = precision_recall_fscore_support(truth, guess)
    for number, name in enumerate(NAMES):
        one = found.per_class[name]
        assert (one.precision, one.recall, one.f1, one.n) == pytest.approx(
            (precision[number], recall[number], f1[number], n[number])
        )


def test_absent_classes_are_none_not_zero() -> None:
    found = score(np.eye(4)[[0, 0, 1]], [0, 1, 1], NAMES, resamples=100)
    assert found.per_class["c"].model_dump() == {
        "precision": None,
        "recall": None,
        "f1": None,
        "n": 0,
    }
    assert found.per_class["b"].recall == 0.5


def test_several_seeds_are_averaged_and_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    truth = np.zeros(400, dtype=int)
    seeds = np.stack([binary(rng.random(400) < share)[0] for share in (0.5, 0.7, 0.9)])
    together = score(seeds, truth, ["a", "b"])
    alone = [score(one, truth, ["a", "b"]) for one in seeds]
    assert together.main.value == pytest.approx(np.mean([one.main.value for one in alone]))
    assert together.seeds == 3
    assert np.sum(together.confusion) == 1200
    low, high = together.main.low, together.main.high
    assert low is not None
    assert high is not None
    assert high - low > 0.2  # one seed's rows alone give about 0.08
    same = score(np.stack([seeds[0]] * 3), truth, ["a", "b"])
    assert same.main == alone[0].main


def test_same_seed_same_interval_and_another_seed_another() -> None:
    proba, truth = make(100, 3, 5)
    first, again, other = (score(proba, truth, NAMES[:3], seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.main.value == other.main.value
    assert first != other


def test_interval_agrees_with_a_loop_over_resamples() -> None:
    proba, truth = make(60, 4, 6)
    index = np.concatenate(list(row_draws(60, 300, 0, "rows", width=5)))
    slow = [measure(proba[rows], truth[rows], ["macro_f1"])["macro_f1"] for rows in index]
    one = score(proba, truth, NAMES, resamples=300).metrics["macro_f1"]
    assert (one.low, one.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        proba, truth = binary(rng.random(120) < 0.7)
        one = score(proba, truth, ["a", "b"], seed=trial, resamples=200).main
        assert one.low is not None
        assert one.high is not None
        covered += one.low <= 0.7 <= one.high
    assert 0.90 <= covered / 400 <= 0.985


def test_all_right_is_not_certain() -> None:
    proba, truth = binary(np.ones(50, dtype=bool))
    one = score(proba, truth, ["a", "b"]).main
    assert one.value == one.high == 1.0
    assert one.low == pytest.approx(0.025 ** (1 / 50))  # Clopper-Pearson: 0.9289
    wrong = score(1 - proba, truth, ["a", "b"]).main
    assert wrong.value == wrong.low == 0.0
    assert wrong.high == pytest.approx(1 - 0.025 ** (1 / 50))


def test_one_row_has_no_interval() -> None:
    one = score(np.array([[0.9, 0.1]]), [0], ["a", "b"]).main
    assert (one.value, one.low, one.high) == (1.0, None, None)


def test_groups() -> None:
    proba, truth = binary(np.array([True] * 30 + [False] * 10 + [True] * 10 + [False]))
    groups = ["x"] * 40 + [None] * 10 + [7]
    found = score(proba, truth, ["a", "b"], groups=groups, resamples=200).by_group
    assert found is not None
    assert list(found) == ["(none)", "7", "x"]
    assert found["x"].value == 0.75
    assert found["x"].n == 40
    assert found["7"].low is None
    with pytest.raises(DataError, match="51 rows, got 3"):
        score(proba, truth, ["a", "b"], groups=[1, 2, 3])


def test_not_finite_rows_are_counted_and_stand_in_no_column() -> None:
    proba, truth = make(30, 4, 8)
    proba[3] = np.nan
    proba[9, 1] = np.inf
    found = score(proba, truth, NAMES, resamples=100)
    assert found.invalid == 2
    assert np.sum(found.confusion) == 28
    assert sum(one.n for one in found.per_class.values()) == 30
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    proba, truth = make(500, 4, 10)
    found = score(proba, truth, NAMES, resamples=100)
    gap = sum(one.n * abs(one.accuracy - one.confidence) for one in found.reliability) / 500
    assert gap == pytest.approx(found.metrics["ece"].value)
    assert all(one.low < one.confidence <= one.high for one in found.reliability)


def test_scores_survive_json() -> None:
    proba, truth = make(30, 4, 11)
    found = score(proba, truth, NAMES, groups=["g"] * 30, resamples=100)
    assert Scores.model_validate_json(found.model_dump_json()) == found


def test_bad_arguments() -> None:
    proba, truth = make(30, 4, 12)
    with pytest.raises(DataError, match="4 distinct names"):
        score(proba, truth, ["a", "a", "b", "c"])
    with pytest.raises(UsageError, match='Did you mean "accuracy"'):
        score(proba, truth, NAMES, primary="acuracy")
    with pytest.raises(UsageError, match="at least 100, got 10"):
        score(proba, truth, NAMES, resamples=10)


def test_primary_metric() -> None:
    assert primary_metric([0] * 95 + [1] * 5) == "accuracy"
    assert primary_metric([0] * 96 + [1] * 4) == "macro_f1"
    assert primary_metric([0, 1, -1, -1]) == "accuracy"
    with pytest.raises(DataError, match="at least one labelled row"):
        primary_metric([-1])


def test_percentiles_are_widened_to_hold_the_value() -> None:
    drawn = np.linspace(0.2, 0.4, 101)
    assert percentile_interval(drawn, 0.1)[0] == 0.1
    assert percentile_interval(drawn, 0.5)[1] == 0.5


def test_all_arms_see_the_same_rows() -> None:
    from warmstart.evaluation.metrics import outcomes

    proba, truth = make(50, 4, 13)
    rows = outcomes(proba, truth)
    a, b = resampled([[rows], [rows]], ["accuracy"], seed=0, resamples=100)
    assert (a["accuracy"] == b["accuracy"]).all()
    assert a["accuracy"].std() > 0


def test_ten_thousand_rows_stay_quick_and_small() -> None:
    proba, truth = make(10_000, 10, 14)
    start = time.perf_counter()
    score(proba, truth, [str(c) for c in range(10)])
    assert time.perf_counter() - start < 10  # about 0.3 s on one free core
    tracemalloc.start()
    score(proba, truth, [str(c) for c in range(10)], resamples=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6

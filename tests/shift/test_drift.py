"""Drift: exact tests by enumeration, the level where nothing changed, every kind of change seen."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from warmstart.core import DataError, UsageError
from warmstart.evaluation import fit_familiarity
from warmstart.shift import (
    AnswersBefore,
    Drift,
    accuracy_difference,
    confidence_difference,
    measure_drift,
)
from warmstart.shift.drift_tests import answers_p_value, holm

NAMES = ("calm", "storm")


def world(
    rows: int, seed: int, *, storms: float = 0.5, away: float = 0.0, noise: float = 1.0
) -> Any:
    """Vectors, classes and a fixed classifier's probabilities."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(rows) < storms).astype(np.int64)
    vectors = noise * generator.normal(size=(rows, 6))
    vectors[:, 0] += 3 * truth - 1.5
    vectors[:, 1] += away
    storm = 1 / (1 + np.exp(-2 * vectors[:, 0]))
    return vectors, truth, np.stack([1 - storm, storm], axis=1)


def run_drift(new: Any, *, labels: bool = False, seed: int = 0, **settings: Any) -> Drift:
    train, classes, _ = world(400, 1000 + seed)
    kept = fit_familiarity(train, classes, world(200, 2000 + seed)[0], label_names=NAMES)
    _, truth, proba = world(200, 3000 + seed)
    vectors, new_truth, new_proba = new
    return measure_drift(
        kept.reference_RD, vectors, scores_M=kept.scores(vectors), alarm=kept.alarm(0.05),
        before=AnswersBefore(proba, truth), proba_MC=new_proba, label_names=NAMES,
        labels_M=new_truth if labels else None, **({"permutations": 199} | settings),
    )  # fmt: skip


def changed(found: Drift) -> set[str]:
    return {one.name for one in found.tests if one.changed}


# ------------------------------------------------------------------------------------- the tests


def test_the_answers_test_is_that_of_all_orders() -> None:
    """p over every way of choosing which rows are new, by enumeration."""
    ours, theirs = np.array([0, 0, 0, 1, 2]), np.array([1, 1, 2, 1])
    pooled = np.concatenate([ours, theirs])

    def chi(at: tuple[int, ...]) -> float:
        table = np.stack([np.bincount(np.delete(pooled, at), minlength=3),
                          np.bincount(pooled[list(at)], minlength=3)])  # fmt: skip
        return float(stats.chi2_contingency(table, correction=False).statistic)

    observed = chi((5, 6, 7, 8))
    every = [chi(at) for at in itertools.combinations(range(9), 4)]
    exact = np.mean([value >= observed - 1e-9 for value in every])
    statistic, p = answers_p_value(
        ours, theirs, 4, permutations=20_000, generator=np.random.default_rng(0)
    )
    assert statistic == pytest.approx(observed)
    assert p == pytest.approx(exact, abs=0.01)
    same = answers_p_value(
        np.zeros(5, int), np.zeros(3, int), 2, permutations=99, generator=np.random.default_rng(0)
    )
    assert same == (0.0, 1.0), "one answer on both sides"


def test_the_confidence_test_is_that_of_all_orders() -> None:
    ours, theirs = np.array([0.9, 0.8, 0.95, 0.7]), np.array([0.6, 0.75, 0.55])
    pooled = np.concatenate([ours, theirs])
    observed = abs(theirs.mean() - ours.mean())
    every = []
    for at in itertools.combinations(range(7), 3):
        left = np.delete(pooled, at)
        every.append(abs(pooled[list(at)].mean() - left.mean()))
    exact = np.mean(np.array(every) >= observed - 1e-12)
    found = confidence_difference(
        ours, theirs, permutations=5000, generator=np.random.default_rng(0)
    )
    assert found.p_value == pytest.approx(exact, abs=0.02)
    assert found.difference == pytest.approx(theirs.mean() - ours.mean())
    # Welch's interval by hand
    error = np.sqrt(ours.var(ddof=1) / 4 + theirs.var(ddof=1) / 3)
    parts = (ours.var(ddof=1) / 4, theirs.var(ddof=1) / 3)
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2)
    reach = stats.t.ppf(0.975, degrees) * error
    assert (found.low, found.high) == pytest.approx(
        (found.difference - reach, found.difference + reach)
    )
    one_flat = confidence_difference(
        ours, np.ones(3), permutations=99, generator=np.random.default_rng(0)
    )
    assert one_flat.low < one_flat.difference < one_flat.high
    flat = confidence_difference(
        np.ones(4), np.ones(5), permutations=99, generator=np.random.default_rng(0)
    )
    assert (flat.difference, flat.low, flat.high, flat.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_the_difference_of_accuracies_is_newcombes() -> None:
    """56 of 70 against 48 of 80: 0.0524 to 0.3339 (Newcombe 1998, table II, method 10)."""
    right = [np.arange(n) < count for count, n in ((48, 80), (56, 70))]
    found = accuracy_difference(*right)
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.p_value == pytest.approx(stats.fisher_exact([[48, 32], [56, 14]]).pvalue)
    assert found.rows == (80, 70)
    every = accuracy_difference(np.ones(20, bool), np.zeros(20, bool))
    assert every.difference == -1.0
    assert -1.0 <= every.low <= -1.0 + 1e-9
    assert every.high < -0.6


def test_holm_by_hand() -> None:
    """Sorted: 0.005 × 4, 0.011 × 3, 0.02 × 2 (raised to no less than before), 0.04 × 1."""
    assert holm([0.02, 0.005, 0.04, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


# --------------------------------------------------------------------------------- what is found


def test_where_nothing_changed_alarms_keep_to_the_level() -> None:
    alarms = [run_drift(world(120, i), labels=True, seed=i, level=0.2).found for i in range(25)]
    assert sum(alarms) <= 10, "of 25 at a level of 0.2: more have a chance of 0.6 %"


def test_nothing_changed() -> None:
    found = run_drift(world(300, 7), labels=True)
    assert not found.found
    assert found.sentences[0].startswith("No drift seen: none of 5 tests")
    assert found.accuracy is not None
    assert found.accuracy.low < 0 < found.accuracy.high
    assert abs(found.unfamiliar.share - 0.05) < 0.05


def test_rows_from_elsewhere() -> None:
    found = run_drift(world(200, 5, away=4.0))
    assert changed(found) >= {"rows", "unfamiliar"}
    assert not changed(found) & {"answers", "confidence"}, "the classifier does not look there"
    assert found.unfamiliar.low > 0.3
    assert found.a_distance.value > 1.5
    assert "Drift: 2 of 4 tests see a change (rows, unfamiliar)." in found.sentences
    assert "tells the run's rows from new rows" in found.sentences[1]
    assert "label some hundred" in found.sentences[-1]


def test_other_class_shares() -> None:
    found = run_drift(world(400, 6, storms=0.8), labels=True)
    assert {"answers"} <= changed(found)
    assert "accuracy" not in changed(found)
    assert found.shares is not None
    storm = found.shares.shares[1]
    assert storm.low <= 0.8 <= storm.high
    assert storm.truth == pytest.approx(0.8, abs=0.06)
    assert any("share of" in one and "went from" in one for one in found.sentences)


def test_a_model_that_errs_more_and_says_less() -> None:
    found = run_drift(world(300, 8, noise=2.5), labels=True)
    assert changed(found) >= {"accuracy", "unfamiliar", "rows"}
    assert found.accuracy is not None
    assert found.accuracy.high < 0
    assert not any("label some hundred" in one for one in found.sentences)
    dull = world(200, 9)
    dull[2][:] = 0.5 + 0.2 * (dull[2] - 0.5)
    duller = run_drift(dull)
    assert changed(duller) == {"confidence"}
    assert duller.confidence.high < 0


def test_labels_are_counted_from_ten_on() -> None:
    vectors, truth, proba = world(100, 10)
    some = np.where(np.arange(100) < 9, truth, -1)
    assert run_drift((vectors, some, proba), labels=True).accuracy is None
    some = np.where(np.arange(100) < 10, truth, -1)
    found = run_drift((vectors, some, proba), labels=True)
    assert found.accuracy is not None
    assert found.accuracy.rows == (200, 10)


def test_one_class_of_test_rows_has_no_shares() -> None:
    vectors, _, proba = world(60, 11)
    kept = fit_familiarity(*world(90, 0)[:2], world(90, 1)[0], label_names=NAMES)
    found = measure_drift(
        kept.reference_RD, vectors, scores_M=kept.scores(vectors), alarm=kept.alarm(),
        before=AnswersBefore(proba, np.zeros(60, dtype=np.int64)), proba_MC=proba,
        label_names=NAMES, permutations=119,
    )  # fmt: skip
    assert found.shares is None


def test_equal_seeds_give_equal_bits() -> None:
    new = world(80, 12, away=0.5)
    assert run_drift(new, seed=1).model_dump() == run_drift(new, seed=1).model_dump()


def test_settings_that_cannot_work_are_refused() -> None:
    new = world(50, 0)
    for level in (0.0, 1.0, 5):
        with pytest.raises(UsageError, match=r"drift.level must be above 0 and below 1"):
            run_drift(new, level=level)
    with pytest.raises(UsageError, match=r"permutations must be at least 599 at a level of 0.01"):
        run_drift(new, level=0.01, permutations=499)
    with pytest.raises(DataError, match=r"200 test rows and 49 answers for 50 rows"):
        run_drift((new[0], new[1], new[2][:49]))

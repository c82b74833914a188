"""Each kind of shift is told where it is made, and not where another one is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, norm

from warmstart.core import DataError, NotApplicable, Streams, UsageError
from warmstart.shift import diagnose
from warmstart.shift.diagnosis_bound import bound_terms
from warmstart.shift.diagnosis_classifier import SourceClassifier, cross_fit
from warmstart.shift.diagnosis_concept import (
    ErrorRate,
    _above,
    _holm,
    _mean,
    _together,
    _weighted,
    concept_shift,
    windows_of,
)
from warmstart.strategies.logistic import fit_logistic

NAMES = ("no", "yes")


def rows(
    n: int, seed: int, *, by: float = 0.0, share: float | None = None, flip: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose first coordinate decides the class, with some noise.

    `by` moves the rows along another coordinate; `share` draws classes at another rate; `flip`
    turns labels round where the third coordinate is above 0.
    """
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((4 * n, 4))
    y = (x[:, 0] + 0.5 * generator.standard_normal(4 * n) > 0).astype(np.int64)
    if share is None:
        chosen = np.arange(n)
    else:
        yes = round(share * n)
        chosen = np.concatenate([np.flatnonzero(y == 1)[:yes], np.flatnonzero(y == 0)[: n - yes]])
    x, y = x[chosen], y[chosen]
    x[:, 1] += by
    turned = (generator.random(n) < flip) & (x[:, 2] > 0)
    return x, np.where(turned, 1 - y, y)


def verdicts(source: Any, target: Any, **settings: Any) -> tuple[str, ...]:
    found = diagnose(
        source[0], target[0], source_labels_N=source[1], target_labels_M=target[1],
        label_names=NAMES, **settings,
    )  # fmt: skip
    return tuple(one.verdict for one in found.findings)


def test_no_shift() -> None:
    assert verdicts(rows(500, 0), rows(500, 1)) == ("no", "no", "no")


def test_covariate_shift_alone() -> None:
    assert verdicts(rows(500, 0), rows(500, 1, by=0.8)) == ("yes", "no", "no")


def test_label_shift_alone() -> None:
    source, target = rows(800, 4), rows(800, 5, share=0.85)
    found = diagnose(source[0], target[0], source_labels_N=source[1], target_labels_M=target[1],
                     label_names=NAMES)  # fmt: skip
    assert tuple(one.verdict for one in found.findings) == ("yes", "yes", "no")
    assert found.label_shift is not None
    yes = found.label_shift.shares[1]
    assert yes.low <= 0.85 <= yes.high
    assert yes.truth == pytest.approx(0.85)
    # with the source at the target's shares the two are hardly told apart any more
    assert found.remaining is not None
    assert found.remaining < 0.3
    assert "is not explained by them" in found.findings[1].words


def test_a_count_of_labels_overrules_the_estimate() -> None:
    """Labels turned round for most: the answers are as before, the classes are not."""
    source, target = rows(500, 0), rows(500, 1)
    turned = np.where(np.arange(500) % 10 < 8, 1, target[1])
    found = diagnose(source[0], target[0], source_labels_N=source[1], target_labels_M=turned,
                     label_names=NAMES)  # fmt: skip
    label = found.findings[1]
    assert label.p_value is not None
    assert label.p_value > 0.05
    assert label.verdict == "yes"
    assert "The 500 labelled target rows have other class shares" in label.words
    assert "trust the count" in label.words


def test_concept_shift_alone() -> None:
    source, target = rows(600, 0), rows(600, 1, flip=0.7)
    found = diagnose(source[0], target[0], source_labels_N=source[1], target_labels_M=target[1],
                     label_names=NAMES)  # fmt: skip
    assert found.findings[0].verdict == "no"
    assert found.findings[2].verdict == "yes"
    assert found.concept is not None
    assert found.concept.excess is not None
    assert found.concept.excess == pytest.approx(0.25, abs=0.1)
    assert found.concept.interval is not None
    assert found.concept.interval[0] < 0.25 < found.concept.interval[1]
    assert "rows mean something else" in found.findings[2].words


def test_a_few_labelled_target_rows_are_enough() -> None:
    source, target = rows(500, 0), rows(500, 1, flip=1.0)
    few = np.where(np.arange(500) < 60, target[1], -1)
    assert verdicts(source, (target[0], few))[2] == "yes"
    fewer = np.where(np.arange(500) < 9, target[1], -1)
    found = diagnose(source[0], target[0], source_labels_N=source[1], target_labels_M=fewer,
                     label_names=NAMES)  # fmt: skip
    assert found.findings[2].verdict == "cannot tell"
    assert "9 labelled target rows: 10 at least are needed" in found.findings[2].words
    assert found.bound is None


def test_without_labels_the_rows_alone_are_judged() -> None:
    found = diagnose(rows(200, 0)[0], rows(200, 1, by=1.0)[0])
    assert [one.verdict for one in found.findings] == ["yes", "cannot tell", "cannot tell"]
    assert "0 labelled rows" in found.findings[1].words
    assert found.label_shift is None
    only = diagnose(rows(200, 0)[0], rows(200, 1)[0], source_labels_N=np.ones(200, dtype=int),
                    label_names=NAMES)  # fmt: skip
    assert "of 1 classes" in only.findings[1].words


def test_sides_that_hardly_overlap_give_no_expectation() -> None:
    found = diagnose(rows(200, 0)[0], rows(200, 1, by=30.0)[0], source_labels_N=rows(200, 0)[1],
                     target_labels_M=rows(200, 1)[1], label_names=NAMES)  # fmt: skip
    assert found.concept is not None
    assert found.concept.covered < 0.01
    assert found.concept.by_rows is None
    assert found.findings[2].verdict == "cannot tell"
    assert "rows like 0 % of the target's, too few" in found.findings[2].words


def test_every_finding_tells_its_test_and_its_limits() -> None:
    found = diagnose(rows(200, 0)[0], rows(200, 1)[0], source_labels_N=rows(200, 0)[1],
                     target_labels_M=rows(200, 1)[1], label_names=NAMES)  # fmt: skip
    for one, kind in zip(found.findings, ("covariate", "label", "concept"), strict=True):
        assert one.kind == kind
        assert one.test
        assert one.limits
        assert one.statistic
        assert one.value is not None
        assert one.p_value is not None
        assert 0 <= one.p_value <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_labels_N": np.zeros(3, dtype=int)}, "source_labels_N must be 50 whole numbers"),
        ({"source_labels_N": np.full(50, 2)}, "from -1 .unknown. to 1"),
        ({"target_labels_M": np.full(50, 0.5)}, "target_labels_M"),
        ({"times_M": [1, 2]}, "times_M must hold one time for each of the 50"),
    ],
)
def test_labels_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        diagnose(rows(50, 0)[0], rows(50, 1)[0], label_names=NAMES, **settings)


def test_the_classifier_judges_no_row_that_it_has_seen() -> None:
    """Random labels in more dimensions than rows: learnt by heart, but guessed out of fold."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((90, 200)), generator.integers(0, 2, 90)
    found = cross_fit(x, y, x, 2)
    assert 0.3 < found.wrong_N.mean() < 0.7
    assert found.target_wrong(y).mean() < 0.25  # the same rows as further rows were in training
    twice = cross_fit(np.repeat(x, 2, axis=0), np.repeat(y, 2), x, 2)
    assert 0.3 < twice.wrong_N.mean() < 0.7


def test_the_classifier_equals_the_probe_fold_by_fold() -> None:
    x, y = rows(100, 0)
    found = cross_fit(x, np.where(np.arange(100) % 10 == 0, -1, y), x[:5], 2, seed=3)
    assert len(found.at_N) == 90
    assert found.target_KM.shape == (5, 5)
    from warmstart.shift.distance_inputs import equal_rows, grouped_folds

    known = found.at_N
    folds = grouped_folds(
        equal_rows(x[known]), y[known], 5, Streams(3).numpy("shift", "classifier")
    )
    l2 = fit_logistic(x[known], y[known], 2).l2
    held = folds == 2
    fitted = fit_logistic(x[known][~held], y[known][~held], 2, l2=l2)
    by_hand = (x[known][held] @ fitted.weight_CD.T + fitted.bias_C).argmax(axis=1)
    np.testing.assert_array_equal(found.answer_N[held], by_hand)


def test_a_class_of_one_row_breaks_nothing() -> None:
    x, y = rows(40, 0)
    y = y.copy()
    y[0] = 2
    found = diagnose(x, rows(40, 1)[0], source_labels_N=y, label_names=("no", "yes", "rare"))
    assert found.label_shift is not None
    assert len(found.label_shift.shares) == 3
    with pytest.raises(NotApplicable, match="9 labelled rows of 2 classes"):
        cross_fit(x[:9], np.arange(9) % 2, x, 2)


def test_error_rates_have_plain_twins() -> None:
    wrong = np.array([1.0, 0.0, 0.0, 1.0, 0.0] * 20)
    plain = _mean(wrong)
    assert plain.value == pytest.approx(0.4)
    assert plain.error == pytest.approx(np.sqrt(0.4 * 0.6 / 100), rel=0.01)
    assert _mean(np.zeros(50)).error > 0
    weights = np.arange(100.0)
    found = _weighted(wrong, weights)
    assert found is not None
    value = sum(w * e for w, e in zip(weights, wrong, strict=True)) / sum(weights)
    assert found.value == pytest.approx(value)
    assert found.rows == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    even = _weighted(wrong, np.ones(100))
    assert even is not None
    assert even.model_dump() == pytest.approx(plain.model_dump(), rel=0.02)
    assert _weighted(wrong, np.eye(100)[0]) is None
    assert _weighted(wrong, np.zeros(100)) is None


def test_holm_known_answer() -> None:
    assert _holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert _holm([0.9, 0.8]) == [1.0, 1.0]
    assert _holm([]) == []
    gap, spread, p = _above(
        ErrorRate(value=0.5, error=0.03, rows=9), ErrorRate(value=0.4, error=0.04, rows=9)
    )
    assert (gap, spread) == (pytest.approx(0.1), pytest.approx(0.05))
    assert p == pytest.approx(norm.sf(2))


def test_expected_error_follows_the_rows() -> None:
    """Errors where x_1 > 1 alone: rows moved there must be expected to err more, and do."""
    generator = np.random.default_rng(0)

    def side(n: int, by: float) -> tuple[np.ndarray, np.ndarray]:
        x = generator.standard_normal((n, 2))
        x[:, 1] += by
        y = (x[:, 0] > 0).astype(np.int64)
        noisy = (x[:, 1] > 1) & (generator.random(n) < 0.5)
        return x, np.where(noisy, 1 - y, y)

    (xs, ys), (xt, yt) = side(3000, 0.0), side(1500, 1.0)
    classifier = cross_fit(xs, ys, xt, 2)
    found = concept_shift(classifier, xs, xt, yt)
    assert found.source.value == pytest.approx(0.08, abs=0.03)
    assert found.target.value == pytest.approx(0.25, abs=0.04)
    assert found.by_rows is not None
    assert found.by_rows.value == pytest.approx(found.target.value, abs=0.06)
    assert found.p_value is not None
    assert found.p_value > 0.05
    assert 0 <= found.clipped < 0.1


def test_windows_show_when_the_meaning_changed() -> None:
    source = rows(600, 0)
    early, late = rows(300, 1), rows(300, 2, flip=1.0)
    target = np.concatenate([early[0], late[0]])
    truth = np.concatenate([early[1], late[1]])
    order = np.random.default_rng(0).permutation(600)
    times = [None if i % 50 == 0 else f"2024-{1 + i // 60:02d}-01" for i in range(600)]
    shuffled = [times[i] for i in order]
    classifier = cross_fit(source[0], source[1], target[order], 2)
    found, together = windows_of(classifier, source[0], target[order], truth[order], shuffled,
                                 windows=4)  # fmt: skip
    assert [one.first for one in found] == sorted(one.first for one in found)
    assert all(one.first <= one.last for one in found)
    assert sum(one.error.rows for one in found) == 588
    p_values = [one.p_value for one in found]
    assert all(p is not None for p in p_values)
    assert [p is not None and p < 0.01 for p in p_values] == [False, False, True, True]
    assert together is not None
    assert together.p_value < 1e-6
    assert together.degrees == 4
    whole = diagnose(source[0], target[order], source_labels_N=source[1],
                     target_labels_M=truth[order], label_names=NAMES, times_M=shuffled,
                     windows=4)  # fmt: skip
    assert len(whole.windows) == 4
    assert whole.windows_test == together
    concept = whole.findings[2]
    assert concept.verdict == "yes"
    assert (
        "Errors by stretch of time are not what their class shares let expect: 56.7 %"
        in concept.words
    )
    assert concept.p_value is not None
    assert concept.p_value < 1e-6


def test_errors_that_all_come_late_are_told() -> None:
    """As many as expected on the whole, but none at first and all of them at the end."""
    source, (target, truth) = rows(500, 0), rows(400, 1)
    odd = (target[:, 0] > 0) != (truth == 1)
    times = np.argsort(np.argsort(odd, kind="stable")).tolist()
    settings: dict[str, Any] = {
        "source_labels_N": source[1], "target_labels_M": truth, "label_names": NAMES
    }  # fmt: skip
    assert diagnose(source[0], target, **settings).findings[2].verdict == "no"
    found = diagnose(source[0], target, times_M=times, windows=4, **settings)
    concept = found.findings[2]
    assert concept.verdict == "yes"
    assert concept.statistic == "Wald χ² over time"
    assert found.windows_test is not None
    assert concept.p_value == pytest.approx(2 * found.windows_test.p_value)
    assert "from 300 to 399" in concept.words


def test_stretches_without_a_change_are_told_so() -> None:
    source, target = rows(500, 0), rows(400, 1, by=0.5)
    found = diagnose(source[0], target[0], source_labels_N=source[1], target_labels_M=target[1],
                     label_names=NAMES, times_M=list(range(400)), windows=4)  # fmt: skip
    assert found.findings[2].verdict == "no"
    assert (
        "Errors by stretch of time are what their class shares let expect; farthest"
        in found.findings[2].words
    )


def test_other_class_shares_over_time_are_no_other_meaning() -> None:
    """Errors come from one class alone; as it gets frequent, so do errors."""
    generator = np.random.default_rng(0)

    def side(shares: list[float]) -> tuple[np.ndarray, np.ndarray]:
        y = (generator.random(len(shares)) < np.array(shares)).astype(np.int64)
        strays = (y == 1) & (generator.random(len(shares)) < 0.4)
        x = generator.standard_normal((len(shares), 3))
        x[:, 0] += np.where(strays, -2.0, 4.0 * y - 2.0)
        return x, y

    (xs, ys), (xt, yt) = side([0.4] * 1500), side([0.15] * 300 + [0.65] * 300)
    classifier = cross_fit(xs, ys, xt, 2)
    _, test = windows_of(classifier, xs, xt, yt, list(range(600)), windows=4)
    assert test is not None
    assert test.explanation == "classes"
    assert test.p_value > 0.05


def test_stretches_that_share_a_small_source_are_tested_at_their_level() -> None:
    """Expectations from 60 source rows err together: independent ones would alarm too often."""
    generator = np.random.default_rng(0)
    weight_WN = np.exp(0.3 * generator.standard_normal((5, 60)))
    together, apart = [], []
    for _ in range(1500):
        wrong_N = (generator.random(60) < 0.2).astype(np.float64)
        stretches = []
        for weight_N in weight_WN:
            expected = _weighted(wrong_N, weight_N)
            assert expected is not None
            error = _mean((generator.random(200) < 0.2).astype(np.float64))
            stretches.append((error, expected, weight_N))
        together.append(_together("rows", stretches, wrong_N).p_value)
        scores = [_above(error, expected) for error, expected, _ in stretches]
        apart.append(chi2.sf(sum((gap / spread) ** 2 for gap, spread, _ in scores), 5))
    assert np.mean(np.array(together) <= 0.05) < 0.075
    assert np.mean(np.array(apart) <= 0.05) > 0.1


def test_one_stretch_alone_is_its_own_score() -> None:
    wrong_N = np.array([1.0, 0.0, 0.0, 1.0, 0.0] * 20)
    expected = _weighted(wrong_N, np.arange(100.0))
    assert expected is not None
    error = ErrorRate(value=0.6, error=0.05, rows=90)
    found = _together("rows", [(error, expected, np.arange(100.0))], wrong_N)
    gap, spread, _ = _above(error, expected)
    assert found.statistic == pytest.approx((gap / spread) ** 2)
    assert found.p_value == pytest.approx(2 * norm.sf(gap / spread))
    # a source without an error shares nothing: the stretches add up
    none_N = np.zeros(100)
    calm = _weighted(none_N, np.ones(100))
    assert calm is not None
    twice = _together("rows", [(error, calm, np.ones(100))] * 2, none_N)
    gap, spread, _ = _above(error, ErrorRate(value=0.0, error=0.0, rows=100))
    assert twice.statistic == pytest.approx(2 * (gap / spread) ** 2)


def test_times_without_source_labels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"times_M \(--date\) needs .* 0 labelled rows .* classes"):
        diagnose(rows(50, 0)[0], rows(50, 1)[0], times_M=list(range(50)))


@pytest.mark.parametrize("windows", [1, 9])
def test_windows_need_rows(windows: int) -> None:
    source = rows(100, 0)
    classifier = cross_fit(source[0], source[1], source[0][:80], 2)
    with pytest.raises(UsageError, match="windows must be at least 2 with 10 labelled"):
        windows_of(classifier, source[0], source[0][:80], source[1][:80], list(range(80)),
                   windows=windows)  # fmt: skip


def test_terms_of_the_bound_add_up() -> None:
    source, target = rows(300, 0), rows(200, 1, by=0.5)
    found = diagnose(source[0], target[0], source_labels_N=source[1], target_labels_M=target[1],
                     label_names=NAMES).bound  # fmt: skip
    assert found is not None
    assert found.rows == 200
    assert found.bound == pytest.approx(
        found.source_error + found.half_divergence + found.joint_error
    )
    assert found.target_error < found.bound
    assert found.joint_error == pytest.approx(2 * found.source_error, abs=0.12)


def test_sides_that_contradict_one_another_have_a_large_joint_error() -> None:
    """The same rows with labels turned round: no classifier serves both, λ is near 1."""
    source, target = rows(400, 0), rows(400, 1)
    classifier = SourceClassifier(
        np.arange(400), source[1], source[1].copy(), np.tile(target[1], (2, 1)), 0.01
    )
    found = bound_terms(classifier, source[0], target[0], 1 - target[1], -0.1, 2)
    assert found.joint_error == pytest.approx(1.0, abs=0.15)
    assert found.half_divergence == 0.0
    assert found.source_error == 0.0
    assert found.target_error == 1.0

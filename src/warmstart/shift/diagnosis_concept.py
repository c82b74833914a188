"""Concept shift: does the target err more than a change of rows or of class shares explains?

A classifier of the source errs on labelled target rows at some rate. Two expectations stand beside
it, both from held-out source rows. If only p(x) changed, the expected rate is the source's with
each row weighted by the density ratio target / source at x, taken from the cross-validated domain
classifier and clipped. If only the class shares changed, it is the source's with each row weighted
by the ratio of shares of its class. p(y | x) is called changed where the error lies above both: the
p-value is the larger of the two one-sided ones (an intersection-union test).

Weights leave little to stand on where source and target hardly overlap. The mean ratio over source
rows is the share of the target that lies where the source has rows: under one half there is no
expectation and no verdict, nor where the effective number of rows (Σ r)² / Σ r² (Kish 1965) is
under 30.

Over stretches of time the expectations all stand on the same source rows, and err together. All
stretches are tested at once by a Wald statistic whose covariance has that shared part; taken for
independent, they would be called unexpected too often where the source is small.
Source: Shimodaira, Improving Predictive Inference under Covariate Shift, 2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.stats import chi2, norm

from warmstart.core import Config, UsageError

from .a_distance import domain_scores
from .diagnosis_classifier import SourceClassifier
from .distance_inputs import Floats, Ints

__all__ = [
    "LEAST_COVERED",
    "LEAST_EFFECTIVE",
    "LEAST_LABELLED",
    "ConceptShift",
    "ErrorRate",
    "Window",
    "WindowsTest",
    "concept_shift",
    "windows_of",
]

CLIP = 20.0
LEAST_COVERED = 0.5
LEAST_EFFECTIVE = 30
LEAST_LABELLED = 10


class ErrorRate(Config):
    """An error rate.

    Attributes:
        value: Share of wrong answers.
        error: Its standard error.
        rows: Rows behind it; of weighted rows, how many unweighted ones they are worth.
    """

    value: float
    error: float
    rows: float


class ConceptShift(Config):
    """Error on labelled target rows, and what it should be.

    Attributes:
        target: Error on the labelled target rows.
        source: Error on held-out source rows.
        by_rows: What the target's should be if only p(x) changed; None where too few rows count.
        by_classes: What it should be if only the class shares changed; None where they are unknown.
        excess: Target error minus the larger expectation; None without one.
        interval: 95 % interval of `excess`.
        p_value: That the error is no larger than both expectations allow.
        covered: Share of the target that lies where the source has rows, by the ratio.
        clipped: Share of source rows whose ratio was clipped at 20.
    """

    target: ErrorRate
    source: ErrorRate
    by_rows: ErrorRate | None
    by_classes: ErrorRate | None
    excess: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    covered: float
    clipped: float


class Window(Config):
    """Labelled target rows of a stretch of time.

    Attributes:
        first: Its first time, as the data gives it.
        last: Its last.
        error: Error of the source's classifier in it.
        expected: What it should be if only p(x) changed since; None where too few rows count.
        excess: Error minus expectation.
        p_value: That the error is as expected (two-sided), times the number of windows at most
            (Holm); None without an expectation.
    """

    first: str
    last: str
    error: ErrorRate
    expected: ErrorRate | None
    excess: float | None
    p_value: float | None


class WindowsTest(Config):
    """Whether the errors of all stretches of time are as expected.

    Attributes:
        explanation: Which expectation fits better: `rows`, if only p(x) changed, or `classes`, if
            only the class shares did.
        statistic: Wald statistic of the differences to it.
        degrees: Its degrees of freedom: stretches that have that expectation.
        p_value: That the errors are as this expectation has them (two-sided). The other one, where
            there is one, has a smaller one.
    """

    explanation: Literal["rows", "classes"]
    statistic: float
    degrees: int
    p_value: float


def concept_shift(
    classifier: SourceClassifier,
    source_ND: Floats,
    target_MD: Floats,
    truth_M: Ints,
    class_weights_C: Sequence[float] | None = None,
    *,
    seed: int = 0,
) -> ConceptShift:
    """Compare the error on labelled target rows with what it should be.

    Args:
        classifier: Of the source.
        source_ND: Source vectors.
        target_MD: Target vectors.
        truth_M: Classes of the target rows, -1 unknown; 10 known ones at least.
        class_weights_C: Target share over source share of each class, where these are estimated.
        seed: Of the domain classifier's folds.
    """
    target = _mean(classifier.target_wrong(truth_M))
    ratio_N = _ratios(source_ND, target_MD, seed)[classifier.at_N]
    by_rows = _by_rows(classifier.wrong_N, ratio_N)
    by_classes = None
    if class_weights_C is not None:
        by_classes = _weighted(classifier.wrong_N, np.asarray(class_weights_C)[classifier.truth_N])
    expected = [one for one in (by_rows, by_classes) if one is not None]
    excess = interval = p_value = None
    if by_rows is not None:
        tests = [_above(target, one) for one in expected]
        p_value = max(p for _, _, p in tests)
        difference, spread, _ = min(tests, key=lambda test: test[0])
        excess, reach = difference, float(norm.ppf(0.975)) * spread
        interval = (difference - reach, difference + reach)
    return ConceptShift(
        target=target, source=_mean(classifier.wrong_N), by_rows=by_rows, by_classes=by_classes,
        excess=excess, interval=interval, p_value=p_value,
        covered=_covered(ratio_N), clipped=float((ratio_N > CLIP).mean()),
    )  # fmt: skip


def windows_of(
    classifier: SourceClassifier,
    source_ND: Floats,
    target_MD: Floats,
    truth_M: Ints,
    times_M: Sequence[Any],
    *,
    windows: int = 5,
    seed: int = 0,
) -> tuple[tuple[Window, ...], WindowsTest | None]:
    """Error by stretch of time against expectation, and a test over all stretches.

    Labelled target rows are put in the order of their times and cut into stretches of equally many
    rows. What to expect if only the rows changed comes from a domain classifier between the source
    and the target rows of a stretch; what to expect if only the class shares did, from the labels
    of the stretch.

    Args:
        classifier: Of the source.
        source_ND: Source vectors.
        target_MD: Target vectors.
        truth_M: Classes of the target rows, -1 unknown.
        times_M: Time of each target row: anything that sorts; None where unknown.
        windows: Stretches, at least 2.
        seed: Of the domain classifiers' folds.

    Returns:
        The stretches, and the test of the explanation that fits better; None where no stretch has
        an expectation.

    Raises:
        UsageError: With fewer than 10 labelled rows a stretch.
    """
    usable = [i for i, time in enumerate(times_M) if time is not None and truth_M[i] >= 0]
    if windows < 2 or len(usable) < LEAST_LABELLED * windows:
        raise UsageError(
            f"windows must be at least 2 with {LEAST_LABELLED} labelled target rows of known time "
            f"each, got {windows} windows and {len(usable)} such rows. Take fewer windows or label "
            "more rows."
        )
    order = sorted(usable, key=lambda i: times_M[i])
    wrong_M = np.full(len(truth_M), np.nan)
    wrong_M[truth_M >= 0] = classifier.target_wrong(truth_M)
    raw = []
    by_classes: list[tuple[ErrorRate, ErrorRate, Floats]] = []
    for at in np.array_split(np.asarray(order), windows):
        error = _mean(wrong_M[at])
        ratio_N = _ratios(source_ND, target_MD[at], seed)[classifier.at_N]
        expected = _by_rows(classifier.wrong_N, ratio_N)
        raw.append((str(times_M[at[0]]), str(times_M[at[-1]]), error, expected, ratio_N))
        weight_N = _class_ratios(classifier.truth_N, truth_M[at])
        if expected is not None:
            other = _weighted(classifier.wrong_N, weight_N)
            by_classes += [] if other is None else [(error, other, weight_N)]
    by_rows = [
        (error, expected, np.minimum(ratio_N, CLIP))
        for *_, error, expected, ratio_N in raw
        if expected is not None
    ]
    adjusted = iter(_holm([float(2 * norm.sf(abs(_score(a, b)))) for a, b, _ in by_rows]))
    found = tuple(
        Window(
            first=first, last=last, error=error, expected=expected,
            excess=None if expected is None else error.value - expected.value,
            p_value=None if expected is None else next(adjusted),
        )
        for first, last, error, expected, _ in raw
    )  # fmt: skip
    tests = [_together("rows", by_rows, classifier.wrong_N)] if by_rows else []
    if by_classes and len(by_classes) == len(by_rows):  # of fewer stretches it would say less
        tests.append(_together("classes", by_classes, classifier.wrong_N))
    return found, max(tests, key=lambda test: test.p_value, default=None)


def _together(
    explanation: Literal["rows", "classes"],
    stretches: Sequence[tuple[ErrorRate, ErrorRate, Floats]],
    wrong_N: Floats,
) -> WindowsTest:
    """Wald test of the differences of all stretches to what their source weights let expect."""
    gap_W = np.array([error.value - expected.value for error, expected, _ in stretches])
    weight_WN = np.stack([weight_N for *_, weight_N in stretches])
    value_W1 = np.array([[expected.value] for _, expected, _ in stretches])
    # What a source row adds to the error of a weighted mean, brought to the standard error told.
    part_WN = weight_WN * (wrong_N - value_W1)
    part_WN /= np.maximum(np.linalg.norm(part_WN, axis=1, keepdims=True), 1e-300)
    part_WN *= np.array([[expected.error] for _, expected, _ in stretches])
    own_W = np.array([error.error**2 for error, *_ in stretches])
    covariance_WW = part_WN @ part_WN.T + np.diag(own_W)
    statistic = float(gap_W @ np.linalg.solve(covariance_WW, gap_W))
    return WindowsTest(
        explanation=explanation, statistic=statistic, degrees=len(gap_W),
        p_value=float(chi2.sf(statistic, len(gap_W))),
    )  # fmt: skip


def _class_ratios(source_N: Ints, target_W: Ints) -> Floats:
    """Target share over source share of each source row's class."""
    classes = int(max(source_N.max(), target_W.max())) + 1
    ours_C = np.bincount(source_N, minlength=classes) / len(source_N)
    theirs_C = np.bincount(target_W, minlength=classes) / len(target_W)
    found_N: Floats = theirs_C[source_N] / ours_C[source_N]
    return found_N


def _ratios(source_ND: Floats, target_MD: Floats, seed: int) -> Floats:
    """Density ratio target / source at each source row."""
    scores = domain_scores(source_ND, target_MD, seed=seed)
    return np.exp(np.minimum(scores.source_N, 50.0))


def _covered(ratio_N: Floats) -> float:
    """∫ p_t where p_s is above 0, which is the source's mean of p_t / p_s."""
    return min(1.0, float(np.minimum(ratio_N, CLIP).mean()))


def _by_rows(wrong_N: Floats, ratio_N: Floats) -> ErrorRate | None:
    """The error if only the rows changed, or None where the source covers too little of them."""
    if _covered(ratio_N) < LEAST_COVERED:
        return None
    return _weighted(wrong_N, np.minimum(ratio_N, CLIP))


def _mean(wrong_N: Floats) -> ErrorRate:
    """A plain error rate; its standard error from (k + 1) / (n + 2), never 0 (Laplace)."""
    rows, value = len(wrong_N), float(np.mean(wrong_N))
    smooth = (value * rows + 1) / (rows + 2)
    return ErrorRate(value=value, error=float(np.sqrt(smooth * (1 - smooth) / rows)), rows=rows)


def _weighted(wrong_N: Floats, weight_N: Floats) -> ErrorRate | None:
    """A weighted error rate, or None where it stands on too few rows."""
    total = float(weight_N.sum())
    effective = total**2 / max(float((weight_N**2).sum()), 1e-300)
    if total <= 0 or effective < LEAST_EFFECTIVE:
        return None
    value = float((weight_N * wrong_N).sum() / total)
    smooth = (value * effective + 1) / (effective + 2)
    spread = float(np.sqrt(((weight_N * (wrong_N - value)) ** 2).sum())) / total
    floor = float(np.sqrt(smooth * (1 - smooth) / effective))
    return ErrorRate(value=value, error=max(spread, floor), rows=effective)


def _score(error: ErrorRate, expected: ErrorRate) -> float:
    return (error.value - expected.value) / float(np.hypot(error.error, expected.error))


def _above(error: ErrorRate, expected: ErrorRate) -> tuple[float, float, float]:
    """Difference, its standard error, and the one-sided p-value that it is not above 0."""
    spread = float(np.hypot(error.error, expected.error))
    difference = error.value - expected.value
    return difference, spread, float(norm.sf(difference / spread))


def _holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in their order (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, at in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = running
    return adjusted.tolist()

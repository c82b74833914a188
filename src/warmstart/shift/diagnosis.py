"""Which shift is it: of the rows, of the class shares, or of what a row means?

Each question gets a test, its statistic, a verdict, and what the test cannot tell. No test settles
it alone: a shift of the class shares moves the rows too, and without target labels nothing can show
that p(y | x) changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from warmstart.core import Config, DataError, NotApplicable, UsageError

from .a_distance import ADistance, proxy_a_distance
from .diagnosis_bound import BoundTerms, bound_terms
from .diagnosis_classifier import SourceClassifier, cross_fit
from .diagnosis_concept import (
    LEAST_LABELLED,
    ConceptShift,
    Window,
    WindowsTest,
    concept_shift,
    windows_of,
)
from .distance_inputs import Floats, Ints, two_sets
from .label_shift import LabelShift, black_box_shares
from .mmd import MMD, mmd

__all__ = ["Diagnosis", "Finding", "Verdict", "diagnose"]

LEVEL = 0.05
_COUNTED = 100  # labelled target rows from which on their count decides about class shares
Verdict = Literal["yes", "no", "cannot tell"]

_LIMITS = {
    "covariate": (
        "With many rows a difference too small to matter is found too: look at its size.",
        "It says that rows differ, not that a model does worse on them.",
    ),
    "label": (
        "It takes the rows of a class to look alike on both sides. Where they do not, the shares "
        "are wrong and the test answers to that.",
        "Shares near 0 have intervals that are too short.",
    ),
    "concept": (
        "The labelled target rows must be a fair draw from the target.",
        "Expectations weight source rows by a ratio that a linear classifier estimates; kinds of "
        "target rows that the source lacks are not among them, and errors there count as concept.",
    ),
}
_LIMIT_OVER_TIME = (
    "Over time an error below the expected one counts too: target rows that the source has as well "
    "make for one."
)


class Finding(Config):
    """One question and what was found.

    Attributes:
        kind: covariate, label or concept.
        verdict: yes, no or cannot tell.
        test: What was tested, and how.
        statistic: Name of the statistic; None where the test could not be made.
        value: Its value.
        p_value: Of the test.
        words: What was found, in a sentence or two.
        limits: What the test cannot tell.
    """

    kind: Literal["covariate", "label", "concept"]
    verdict: Verdict
    test: str
    statistic: str | None = None
    value: float | None = None
    p_value: float | None = None
    words: str
    limits: tuple[str, ...]


class Diagnosis(Config):
    """Findings on each kind of shift, with what they stand on.

    Attributes:
        findings: covariate, label, concept.
        label_shift: Class shares; None without source labels.
        remaining: Proxy A-distance once source rows are weighted to the estimated class shares:
            what a change of the shares does not explain. None where there is no label shift.
        concept: Errors and expectations; None without target labels.
        windows: Error by stretch of time; empty without times.
        windows_test: Whether the errors of all stretches are as expected; None without times, or
            where no stretch has an expectation.
        bound: Terms of the Ben-David bound; None unless both sides have labels.
    """

    findings: tuple[Finding, ...]
    label_shift: LabelShift | None = None
    remaining: float | None = None
    concept: ConceptShift | None = None
    windows: tuple[Window, ...] = ()
    windows_test: WindowsTest | None = None
    bound: BoundTerms | None = None


def diagnose(
    source_ND: npt.ArrayLike,
    target_MD: npt.ArrayLike,
    *,
    source_labels_N: npt.ArrayLike | None = None,
    target_labels_M: npt.ArrayLike | None = None,
    label_names: Sequence[str] = (),
    times_M: Sequence[Any] | None = None,
    windows: int = 5,
    rows_test: MMD | None = None,
    a_distance: ADistance | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Tell which shift there is, as far as the labels at hand allow.

    Args:
        source_ND: Source vectors (N, D).
        target_MD: Target vectors (M, D).
        source_labels_N: Class numbers in [0, C), -1 unknown. Needed for label and concept shift.
        target_labels_M: The same for target rows; a few known ones are enough. Needed for concept
            shift.
        label_names: Names of the C classes.
        times_M: Time of each target row, None where unknown: error by stretch of time.
        windows: Stretches of time.
        rows_test: The MMD with its test, where it is there already.
        a_distance: The proxy A-distance, where it is there already.
        seed: Root seed.

    Raises:
        DataError: For vectors that cannot be compared, or labels that are none.
        UsageError: For windows that the labelled rows of known time do not fill, or times without
            source labels.
    """
    source, target = two_sets(source_ND, target_MD, "diagnose")
    ours_N = _labels(source_labels_N, len(source), len(label_names), "source_labels_N")
    theirs_M = _labels(target_labels_M, len(target), len(label_names), "target_labels_M")
    if times_M is not None and len(times_M) != len(target):
        raise DataError(
            f"diagnose: times_M must hold one time for each of the {len(target)} target rows, got "
            f"{len(times_M)}."
        )
    a_distance = a_distance or proxy_a_distance(source, target, resamples=0, seed=seed)
    if rows_test is None or rows_test.p_value is None:
        rows_test = mmd(source, target, seed=seed)
    rows = _covariate(rows_test)
    try:
        classifier = cross_fit(source, ours_N, target, len(label_names), seed=seed)
    except NotApplicable as reason:
        if times_M is not None:
            raise UsageError(
                "times_M (--date) needs a classifier of the source, whose errors it cuts by time; "
                f"the source has {reason}. Label source rows, or leave it out."
            ) from None
        return Diagnosis(
            findings=(rows, _cannot("label", f"The source has {reason}."),
                      _cannot("concept", f"The source has {reason}."))
        )  # fmt: skip
    known = int((theirs_M >= 0).sum())
    shares = black_box_shares(
        classifier.truth_N, classifier.answer_N, classifier.target_KM, label_names,
        target_truth_M=theirs_M if known else None, seed=seed,
    )  # fmt: skip
    remaining = None
    if shares.p_value <= LEVEL and shares.reliable:
        remaining = _remaining(source, target, classifier, shares, seed)
    found: dict[str, Any] = {"label_shift": shares, "remaining": remaining}
    third = _cannot(
        "concept",
        f"{known} labelled target rows: {LEAST_LABELLED} at least are needed. Without them nothing "
        "can show whether rows mean something else on the target.",
    )
    over_time: tuple[Window, ...] = ()
    test = None
    if times_M is not None:
        over_time, test = windows_of(
            classifier, source, target, theirs_M, times_M, windows=windows, seed=seed
        )
        found |= {"windows": over_time, "windows_test": test}
    if known >= LEAST_LABELLED:
        weights = shares.weights if shares.reliable else None
        concept = concept_shift(classifier, source, target, theirs_M, weights, seed=seed)
        found["concept"], third = concept, _concept(concept, over_time, test)
        found["bound"] = _bound(classifier, source, target, theirs_M, a_distance, len(label_names),
                                seed)  # fmt: skip
    return Diagnosis(findings=(rows, _label(shares, a_distance, remaining), third), **found)


def _labels(labels: npt.ArrayLike | None, rows: int, classes: int, who: str) -> Ints:
    if labels is None:
        return np.full(rows, -1, dtype=np.int64)
    found = np.asarray(labels)
    good = found.shape == (rows,) and found.dtype.kind in "iu"
    if not good or (rows and (found.min() < -1 or found.max() >= classes)):
        raise DataError(
            f"diagnose: {who} must be {rows} whole numbers from -1 (unknown) to {classes - 1}, the "
            f"number of label_names less one; got shape {found.shape} of {found.dtype}."
        )
    return found.astype(np.int64)


def _bound(
    classifier: SourceClassifier,
    source: Floats,
    target: Floats,
    truth_M: Ints,
    a_distance: ADistance,
    classes: int,
    seed: int,
) -> BoundTerms | None:
    try:
        return bound_terms(
            classifier, source, target, truth_M, a_distance.value, classes, seed=seed
        )
    except NotApplicable:
        return None


def _remaining(
    source: Floats, target: Floats, classifier: SourceClassifier, shares: LabelShift, seed: int
) -> float | None:
    """A-distance between labelled source rows at the target's class shares, and the target."""
    weights_N = np.asarray(shares.weights)[classifier.truth_N]
    if not (weights_N > 0).any():
        return None
    found = proxy_a_distance(
        source[classifier.at_N], target, resamples=0, source_weights_N=weights_N, seed=seed
    )
    return found.value


def _cannot(kind: Literal["label", "concept"], words: str) -> Finding:
    tests = {"label": "Black-box shift estimation", "concept": "Error against expectation"}
    return Finding(
        kind=kind, verdict="cannot tell", test=tests[kind], words=words, limits=_LIMITS[kind]
    )


def _covariate(found: MMD) -> Finding:
    assert found.p_value is not None
    differs = found.p_value <= LEVEL
    words = (
        f"The rows of source and target are {'not ' if differs else ''}compatible with one "
        "distribution."
    )
    return Finding(
        kind="covariate", verdict="yes" if differs else "no",
        test=f"Two-sample test of the vectors: MMD², {found.permutations} permutations, "
        f"{len(found.by_bandwidth)} bandwidth{'s' if len(found.by_bandwidth) != 1 else ''}",
        statistic="MMD²", value=found.value, p_value=found.p_value, words=words,
        limits=_LIMITS["covariate"],
    )  # fmt: skip


def _label(shares: LabelShift, a_distance: ADistance, remaining: float | None) -> Finding:
    moved = shares.p_value <= LEVEL
    verdict: Verdict = ("yes" if moved else "no") if shares.reliable else "cannot tell"
    counted = shares.counted_p_value
    if counted is not None and (counted <= LEVEL or shares.counted >= _COUNTED):
        verdict = "yes" if counted <= LEVEL else "no"
    most = max(shares.shares, key=lambda one: abs(one.target - one.source))
    if not shares.reliable:
        words = (
            "The source's classifier confuses some classes almost wholly (smallest singular value "
            f"{shares.singular:.3f}), so that class shares of the target cannot be told from its "
            "answers."
        )
    elif not moved:
        words = (
            "The source's classifier answers alike on both sides: no sign of other class shares."
        )
    else:
        words = (
            f"If classes look alike on both sides, their shares differ: {most.name} from "
            f"{most.source:.0%} to {most.target:.0%} ({most.low:.0%} to {most.high:.0%})."
        ).replace("%", " %")
        if remaining is not None:
            words += (
                f" With the source weighted to these shares the A-distance is {remaining:.2f} "
                f"({a_distance.value:.2f} without): what is left is not explained by them."
            )
    if counted is not None:
        words += " " + _counts(shares)
    return Finding(
        kind="label", verdict=verdict,
        test="Black-box shift estimation: shares of a source classifier's answers on either side",
        statistic=f"Wald χ² ({shares.degrees} degrees of freedom)", value=shares.statistic,
        p_value=shares.p_value, words=words, limits=_LIMITS["label"],
    )  # fmt: skip


def _counts(shares: LabelShift) -> str:
    """What the labelled target rows say of the class shares."""
    known = [one for one in shares.shares if one.truth is not None]
    most = max(known, key=lambda one: abs((one.truth or 0.0) - one.source))
    assert shares.counted_p_value is not None
    differs = shares.counted_p_value <= LEVEL
    words = (
        f"The {shares.counted} labelled target rows {'have' if differs else 'show no'} other class "
        f"shares than the source ({most.name} {most.truth:.1%} against {most.source:.1%}, χ² test: "
        f"p = {shares.counted_p_value:.2g})."
    ).replace("%", " %")
    outside = [one for one in known if not one.low <= (one.truth or 0.0) <= one.high]
    if shares.reliable and outside and shares.counted >= _COUNTED:
        words += (
            " Estimate and count disagree: rows of a class do not look alike on both sides, so "
            "trust the count."
        )
    return words


def _concept(
    found: ConceptShift, windows: Sequence[Window] = (), over_time: WindowsTest | None = None
) -> Finding:
    """The error on all labelled target rows, and that by stretch of time where there are times.

    Either test can show that rows mean something else. Where both are made, p-values are doubled
    (Bonferroni).
    """
    test = "Error of the source's classifier on labelled target rows against what other rows or " \
           "other class shares would explain"  # fmt: skip
    error = f"{found.target.value:.1%} of {found.target.rows:g} labelled target rows are answered "
    error += f"wrongly, {found.source.value:.1%} of held-out source rows"
    tests = (found.p_value is not None) + (over_time is not None)
    p_values = []
    if found.by_rows is None or found.excess is None or found.p_value is None:
        words = (
            f"{error}. The source has rows like {found.covered:.0%} of the target's, too few to "
            "say what other rows alone would give."
        )
    else:
        p_values.append(min(1.0, tests * found.p_value))
        expected = f"{found.by_rows.value:.1%} if only the rows changed"
        if found.by_classes is not None:
            expected += f", {found.by_classes.value:.1%} if only the class shares did"
        end = (
            "More than either explains: rows mean something else, or are of kinds the source lacks."
            if p_values[0] <= LEVEL
            else "No more than these explain."
        )
        words = f"{error}; expected {expected}. {end}"
    if over_time is not None:
        p_values.append(min(1.0, tests * over_time.p_value))
        words += " " + _over_time(windows, over_time, changed=p_values[-1] <= LEVEL)
        test += ", all rows together and by stretch of time"
    elif windows:
        words += " No stretch of time has enough source rows like its own."
    verdict: Verdict = "cannot tell"
    statistic, value = (None, None) if found.excess is None else ("Excess error", found.excess)
    if p_values:
        verdict = "yes" if min(p_values) <= LEVEL else "no"
        if over_time is not None and p_values[-1] == min(p_values):
            statistic, value = "Wald χ² over time", over_time.statistic
    return Finding(
        kind="concept", verdict=verdict, test=test, statistic=statistic, value=value,
        p_value=min(p_values, default=None), words=words.replace("%", " %"),
        limits=_LIMITS["concept"] + ((_LIMIT_OVER_TIME,) if over_time is not None else ()),
    )  # fmt: skip


def _over_time(windows: Sequence[Window], test: WindowsTest, *, changed: bool) -> str:
    """Whether the errors by stretch of time are as expected, and the stretch that is farthest."""
    known = [(one, one.expected) for one in windows if one.expected is not None]
    most, expected = max(known, key=lambda pair: abs(pair[0].excess or 0.0))
    span = f"{most.first[:10]} to {most.last[:10]}"
    away = f"{most.error.value:.1%} from {span} where {expected.value:.1%} is expected of its rows"
    basis = {"rows": "their rows", "classes": "their class shares"}[test.explanation]
    if changed:
        return f"Errors by stretch of time are not what {basis} let expect: {away}."
    return f"Errors by stretch of time are what {basis} let expect; farthest off: {away}."

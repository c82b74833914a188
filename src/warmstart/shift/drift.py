"""Drift: whether new rows are still of the kind that a model was trained and tested on.

Five questions, each with a test of its own: are the rows alike (MMD by permutations), are more of
them unfamiliar than the stated false-alarm rate allows (beta-binomial), are the answers spread
alike (χ² by permutations), is the model as sure as it was (mean confidence by permutations), and,
where new rows are labelled, is it right as often (Fisher). p-values are adjusted for their number
by Holm's method, so that where nothing changed an alarm comes at most as often as the level says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.core import Config, DataError, Streams, UsageError
from warmstart.evaluation import Alarm, alarm_p_value, share_interval

from .distance import MMD, ADistance, measure_distances
from .distance_inputs import Floats, Ints
from .distance_words import how_large
from .drift_tests import (
    Difference,
    accuracy_difference,
    answers_p_value,
    confidence_difference,
    holm,
)
from .label_shift import LabelShift, black_box_shares

__all__ = ["AnswersBefore", "Drift", "DriftTest", "UnfamiliarShare", "measure_drift"]

LEAST_LABELLED = 10
_SIDES = ("the run's rows", "new rows")


class DriftTest(Config):
    """One question and its test.

    Attributes:
        name: rows, unfamiliar, answers, confidence or accuracy.
        title: The same for tables.
        test: How it was tested.
        value: The statistic.
        p_value: That nothing changed.
        adjusted: The same, adjusted for the number of questions.
        changed: Whether that is at most the level.
        words: What was found, in a sentence.
    """

    name: str
    title: str
    test: str
    value: float
    p_value: float
    adjusted: float = 1.0
    changed: bool = False
    words: str


class UnfamiliarShare(Config):
    """How many new rows lie far from the training rows.

    Attributes:
        count: Rows beyond the threshold.
        rows: New rows.
        share: Their ratio.
        low: Lower bound of its exact 95 % interval.
        high: Upper bound.
        alarm: The threshold and the rate at which rows like the training rows are beyond it.
    """

    count: int
    rows: int
    share: float
    low: float
    high: float
    alarm: Alarm


@dataclass(frozen=True)
class AnswersBefore:
    """What the model said of rows that it was tested on.

    Attributes:
        proba_NC: Its probabilities.
        truth_N: Their classes, -1 unknown.
        held_out: Whether it did not learn from them. Where it did, it may be surer of them than of
            new rows of the same kind, so that answers and confidence are told and not tested.
    """

    proba_NC: Floats
    truth_N: Ints
    held_out: bool = True


class Drift(Config):
    """Everything measured between a run and new rows.

    Attributes:
        found: Whether any question was answered with yes.
        level: At which.
        tests: The questions.
        distances: Proxy A-distance and MMD between reference and new rows.
        a_distance: The first of them.
        mmd: The second.
        unfamiliar: Rows beyond the threshold.
        shares: Class shares of the new rows as the answers tell them; None where the rows that the
            model was tested on are of one class.
        confidence: Mean probability of the likeliest class.
        accuracy: Share of right answers; None with fewer than 10 labelled new rows.
        sentences: What it comes to.
    """

    found: bool
    level: float
    tests: tuple[DriftTest, ...]
    a_distance: ADistance
    mmd: MMD
    unfamiliar: UnfamiliarShare
    shares: LabelShift | None
    confidence: Difference
    accuracy: Difference | None
    sentences: tuple[str, ...]


def measure_drift(
    reference_RD: Floats,
    new_MD: Floats,
    *,
    scores_M: Floats,
    alarm: Alarm,
    before: AnswersBefore,
    proba_MC: Floats,
    label_names: Sequence[str],
    labels_M: Ints | None = None,
    level: float = 0.05,
    permutations: int = 999,
    seed: int = 0,
) -> Drift:
    """Hold new rows against those of training.

    Args:
        reference_RD: Vectors that stand for what the model saw: at least 2 rows, which training did
            not move.
        new_MD: Vectors of the new rows in the same space.
        scores_M: How far each new row lies from the training rows.
        alarm: The threshold for these scores.
        before: Answers on test rows.
        proba_MC: Answers on the new rows.
        label_names: Names of the C classes.
        labels_M: Classes of the new rows, -1 unknown.
        level: Chance of an alarm where nothing changed, in (0, 1).
        permutations: Of each test by permutations, at least 6 / level.
        seed: Root seed.

    Raises:
        DataError: For vectors that cannot be compared, or answers that do not fit.
        UsageError: For settings out of range.
    """
    _check(level, permutations)
    if len(before.proba_NC) < 2 or len(proba_MC) != len(new_MD):
        raise DataError(
            f"drift: at least 2 test rows and one answer a new row are needed, got "
            f"{len(before.proba_NC)} test rows and {len(proba_MC)} answers for {len(new_MD)} rows."
        )
    streams = Streams(seed).child("shift", "drift")
    classes = len(label_names)
    distances = measure_distances(
        reference_RD, new_MD, names=("proxy_a_distance", "mmd"), permutations=permutations,
        seed=seed,
    )  # fmt: skip
    a_distance, rows_test = distances
    assert isinstance(a_distance, ADistance)
    assert isinstance(rows_test, MMD)
    unfamiliar = _unfamiliar(scores_M, alarm)
    answers_N, answers_M = before.proba_NC.argmax(axis=1), proba_MC.argmax(axis=1)
    confidence = confidence_difference(
        before.proba_NC.max(axis=1), proba_MC.max(axis=1), permutations=permutations,
        generator=streams.numpy("confidence"),
    )  # fmt: skip
    spread = answers_p_value(
        answers_N, answers_M, classes, permutations=permutations,
        generator=streams.numpy("answers"),
    )  # fmt: skip
    truth_M = np.full(len(new_MD), -1) if labels_M is None else labels_M
    known = truth_M >= 0
    accuracy = None
    judged = before.truth_N >= 0
    if known.sum() >= LEAST_LABELLED and judged.any():
        accuracy = accuracy_difference(
            answers_N[judged] == before.truth_N[judged], answers_M[known] == truth_M[known]
        )
    shares = _shares(
        before.truth_N[judged], answers_N[judged], answers_M, truth_M, label_names, seed
    )
    told = [
        _answers_test(spread, answers_N, answers_M, label_names, permutations),
        _confidence_test(confidence, permutations),
    ]
    tests = _adjusted(
        [
            _rows_test(rows_test),
            _unfamiliar_test(unfamiliar),
            *(told if before.held_out else []),
            *([_accuracy_test(accuracy)] if accuracy else []),
        ],
        level,
    )
    found = any(one.changed for one in tests)
    return Drift(
        found=found, level=level, tests=tests, a_distance=a_distance, mmd=rows_test,
        unfamiliar=unfamiliar, shares=shares, confidence=confidence, accuracy=accuracy,
        sentences=_sentences(tests, a_distance, shares, level),
    )  # fmt: skip


def _check(level: float, permutations: int) -> None:
    if not 0 < level < 1:
        raise UsageError(
            f"drift.level must be above 0 and below 1, got {level!r}. Typical values: 0.01 to 0.1."
        )
    least = max(99, int(np.ceil(6 / level)) - 1)  # the smallest p-value, five times, under it
    if permutations < least:
        raise UsageError(
            f"drift.permutations must be at least {least} at a level of {level:g}, got "
            f"{permutations}: fewer cannot give a p-value that small for five questions."
        )


def _unfamiliar(scores_M: Floats, alarm: Alarm) -> UnfamiliarShare:
    rows = len(scores_M)
    count = int((scores_M > alarm.threshold).sum())
    low, high = share_interval(count, rows)
    return UnfamiliarShare(
        count=count, rows=rows, share=count / rows, low=low, high=high, alarm=alarm
    )


def _shares(
    truth_N: Ints,
    answers_N: Ints,
    answers_M: Ints,
    truth_M: Ints,
    label_names: Sequence[str],
    seed: int,
) -> LabelShift | None:
    if len(np.unique(truth_N)) < 2:
        return None
    return black_box_shares(
        truth_N, answers_N, answers_M[None], label_names,
        target_truth_M=truth_M if (truth_M >= 0).any() else None, seed=seed,
    )  # fmt: skip


def _adjusted(tests: Sequence[DriftTest], level: float) -> tuple[DriftTest, ...]:
    adjusted = holm([one.p_value for one in tests])
    return tuple(
        one.model_copy(update={"adjusted": p, "changed": p <= level})
        for one, p in zip(tests, adjusted, strict=True)
    )


def _rows_test(found: MMD) -> DriftTest:
    assert found.p_value is not None
    return DriftTest(
        name="rows", title="Rows",
        test=f"MMD² of the vectors, {found.permutations} permutations",
        value=found.value, p_value=found.p_value,
        words=f"MMD² between the run's rows and the new rows is {found.value:.3g}.",
    )  # fmt: skip


def _unfamiliar_test(found: UnfamiliarShare) -> DriftTest:
    alarm = found.alarm
    return DriftTest(
        name="unfamiliar", title="Unfamiliar rows",
        test=f"Beta-binomial: rows beyond a threshold that was set on {alarm.rows:,} validation "
        "rows",
        value=found.share, p_value=alarm_p_value(found.count, found.rows, alarm),
        words=(
            f"{found.count:,} of {found.rows:,} rows are unfamiliar: {found.share:.1%} "
            f"({found.low:.1%} to {found.high:.1%}), against {100 * alarm.rate:.3g}% false alarms "
            f"as stated ({alarm.low:.1%} to {alarm.high:.1%})."
        ).replace("%", " %"),
    )  # fmt: skip


def _answers_test(
    spread: tuple[float, float],
    answers_N: Ints,
    answers_M: Ints,
    label_names: Sequence[str],
    permutations: int,
) -> DriftTest:
    classes = len(label_names)
    before_C, after_C = (
        np.bincount(part, minlength=classes) / len(part) for part in (answers_N, answers_M)
    )
    most = int(np.abs(after_C - before_C).argmax())
    return DriftTest(
        name="answers", title="Answers",
        test=f"χ² of the counts of answers, {permutations} permutations",
        value=spread[0], p_value=spread[1],
        words=(
            f"{label_names[most]} is the answer to {after_C[most]:.1%} of the new rows, and was to "
            f"{before_C[most]:.1%} of the test rows."
        ).replace("%", " %"),
    )  # fmt: skip


def _confidence_test(found: Difference, permutations: int) -> DriftTest:
    return DriftTest(
        name="confidence", title="Confidence",
        test=f"Mean probability of the likeliest class, {permutations} permutations",
        value=found.difference, p_value=found.p_value,
        words=(
            f"Mean confidence is {found.after:.3f}, and was {found.before:.3f} on the test rows "
            f"(difference {found.difference:+.3f}, {found.low:+.3f} to {found.high:+.3f})."
        ),
    )  # fmt: skip


def _accuracy_test(found: Difference) -> DriftTest:
    return DriftTest(
        name="accuracy", title="Accuracy", test="Fisher's exact test",
        value=found.difference, p_value=found.p_value,
        words=(
            f"{found.after:.1%} of {found.rows[1]:,} labelled new rows are answered rightly, and "
            f"{found.before:.1%} of {found.rows[0]:,} test rows were (difference in points "
            f"{100 * found.difference:+.1f}, {100 * found.low:+.1f} to {100 * found.high:+.1f})."
        ).replace("%", " %"),
    )  # fmt: skip


def _sentences(
    tests: Sequence[DriftTest], a_distance: ADistance, shares: LabelShift | None, level: float
) -> tuple[str, ...]:
    changed = [one for one in tests if one.changed]
    if changed:
        named = ", ".join(one.name for one in changed)
        first = f"Drift: {len(changed)} of {len(tests)} tests see a change ({named})."
    else:
        first = f"No drift seen: none of {len(tests)} tests sees a change at the level {level:g}."
    found = [first, *how_large([a_distance], _SIDES)[:1]]
    order = sorted(tests, key=lambda one: (not one.changed, one.name == "rows"))
    found += [one.words for one in order if one.name != "rows"]
    if shares is not None and shares.reliable and any(t.name == "answers" for t in changed):
        most = max(shares.shares, key=lambda one: abs(one.target - one.source))
        found.append(
            f"If classes look as they did, the share of {most.name} went from {most.source:.1%} to "
            f"{most.target:.1%} ({most.low:.1%} to {most.high:.1%}).".replace("%", " %")
        )
    accuracy = next((one for one in tests if one.name == "accuracy"), None)
    if changed and accuracy is None:
        found.append(
            "Whether the model does worse cannot be told without labels: label some hundred of the "
            "new rows and give them."
        )
    return tuple(found)

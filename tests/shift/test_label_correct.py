"""Class shares of an unlabelled target: known ones found again, and the corrected head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from warmstart.core import Run, UsageError
from warmstart.models import Head
from warmstart.shift import (
    LabelShiftCorrection,
    SourceOnly,
    black_box_priors,
    calibrate,
    correct_head,
    correct_proba,
    estimate_shares,
    expectation_priors,
    parse_methods,
    total_variation,
)
from warmstart.shift.label_correct import head_logits

from .domains import domains


def two_normals(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Class 1 at +1 and class 0 at -1, unit spread; the exact posterior is a logistic of 2x."""
    drawn = np.random.default_rng(seed)
    labels = (drawn.uniform(size=count) < share).astype(int)
    return drawn.normal(2.0 * labels - 1, 1.0), labels


def posterior(x: np.ndarray, share: float) -> np.ndarray:
    """p(class | x) under that share, exactly."""
    one = share * np.exp(2 * x) / (share * np.exp(2 * x) + 1 - share)
    return np.stack([1 - one, one], axis=1)


def test_em_finds_the_share_again() -> None:
    x, labels = two_normals(20_000, 0.2, 0)
    found = expectation_priors(posterior(x, 0.5), np.array([0.5, 0.5]))
    assert found.sum() == pytest.approx(1.0)
    assert found[1] == pytest.approx(labels.mean(), abs=0.015)
    same = expectation_priors(posterior(x, 0.2), np.array([0.8, 0.2]))
    assert same[1] == pytest.approx(labels.mean(), abs=0.015), "whatever shares it learned under"


def test_em_against_a_slow_twin() -> None:
    proba = np.random.default_rng(1).dirichlet([1, 2, 1], 15)
    source = np.array([0.3, 0.5, 0.2])
    shares = source.tolist()
    for _ in range(300):
        totals = [0.0, 0.0, 0.0]
        for row in proba.tolist():
            joint = [p * q / s for p, q, s in zip(row, shares, source, strict=True)]
            for c in range(3):
                totals[c] += joint[c] / sum(joint)
        shares = [total / len(proba) for total in totals]
    found = expectation_priors(proba, source, rounds=300, within=0.0)
    np.testing.assert_allclose(found, shares, atol=1e-10)


def test_em_known_answer_for_certain_rows() -> None:
    """Rows that are certain are counted."""
    proba = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    found = expectation_priors(proba, np.array([0.5, 0.5]))
    np.testing.assert_allclose(found, [0.75, 0.25])
    absent = expectation_priors(np.array([[0.5, 0.5, 0.0]]), np.array([0.5, 0.5, 0.0]))
    assert absent[2] == 0.0


def test_bbse_known_answer() -> None:
    """Confusion 80/20 and 10/90 at equal shares; the target answers 1 on 69 % of its rows.

    0.2 · (1 - q) + 0.9 · q = 0.69 gives q = 0.7.
    """
    labels = np.repeat([0, 1], 100)
    predicted = np.concatenate([np.repeat([0, 1], [80, 20]), np.repeat([0, 1], [10, 90])])
    there = np.repeat([0, 1], [31, 69])
    found = black_box_priors(predicted, labels, there, 2)
    np.testing.assert_allclose(found, [0.3, 0.7], atol=1e-6)


def test_bbse_solves_the_linear_system() -> None:
    """Where the plain solution is a distribution, it is found."""
    drawn = np.random.default_rng(2)
    labels = drawn.integers(0, 3, 3000)
    confusion = np.array([[0.8, 0.1, 0.2], [0.1, 0.7, 0.2], [0.1, 0.2, 0.6]])  # column: truth
    predicted = np.array([drawn.choice(3, p=confusion[:, y]) for y in labels])
    truth = drawn.choice(3, 4000, p=[0.6, 0.3, 0.1])
    there = np.array([drawn.choice(3, p=confusion[:, y]) for y in truth])
    joint = np.zeros((3, 3))
    for answer, y in zip(predicted, labels, strict=True):
        joint[answer, y] += 1 / 3000
    seen = np.bincount(there, minlength=3) / 4000
    plain = np.linalg.solve(joint, seen) * joint.sum(axis=0)
    np.testing.assert_allclose(black_box_priors(predicted, labels, there, 3), plain, atol=1e-4)
    np.testing.assert_allclose(plain, [0.6, 0.3, 0.1], atol=0.04)


def test_bbse_stays_a_distribution_for_a_classifier_that_knows_nothing() -> None:
    labels = np.repeat([0, 1, 2], 20)
    found = black_box_priors(np.zeros(60, int), labels, np.array([0, 0, 1, 2]), 3)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()


def test_correction_is_bayes_rule() -> None:
    x, _ = two_normals(200, 0.2, 3)
    corrected = correct_proba(posterior(x, 0.5), np.array([0.5, 0.5]), np.array([0.8, 0.2]))
    np.testing.assert_allclose(corrected, posterior(x, 0.2), atol=1e-12)
    np.testing.assert_allclose(
        correct_proba(posterior(x, 0.5), np.array([0.5, 0.5]), np.array([0.5, 0.5])),
        posterior(x, 0.5),
    )


def test_total_variation_known_answers() -> None:
    assert total_variation(np.array([0.5, 0.5]), np.array([0.8, 0.2])) == pytest.approx(0.3)
    assert total_variation(np.array([1.0, 0]), np.array([0, 1.0])) == 1.0


def test_calibration_finds_a_known_temperature_and_bias() -> None:
    x, labels = two_normals(20_000, 0.5, 4)
    true = np.stack([-x, x], axis=1)  # softmax is the posterior
    bent = (true - np.array([0.6, -0.6])) * 3.0
    found = calibrate(bent, labels, pull=0.0)
    assert found.temperature == pytest.approx(3.0, rel=0.05)
    np.testing.assert_allclose(found.bias_C, [0.6, -0.6], atol=0.05)
    assert found.after < found.before
    np.testing.assert_allclose(found.apply(bent), true, atol=0.5)
    kept = calibrate(true, labels, pull=1e6)
    assert kept.temperature == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(UsageError, match="pull must be at least 0"):
        calibrate(true, labels, pull=-1.0)


def test_calibration_never_makes_the_held_out_loss_worse() -> None:
    drawn = np.random.default_rng(5)
    logits, labels = drawn.normal(size=(12, 4)), drawn.integers(0, 4, 12)
    found = calibrate(logits, labels)
    assert found.after <= found.before


def test_the_corrected_head_is_the_corrected_probability() -> None:
    """log(p_T / p_S) on the biases and Bayes' rule on the probabilities are one."""
    rows, _ = domains(seed=6)
    drawn = np.random.default_rng(6)
    head = Head.linear(drawn.normal(size=(2, 6)), drawn.normal(size=2))
    source, target = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    made = correct_head(head, rows, source, target)
    calibration = calibrate(head_logits(head, rows.validation_MD), rows.labels_M)
    logits = calibration.apply(head_logits(head, rows.target_UD))
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    proba /= proba.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        made.proba(rows.target_UD), correct_proba(proba, source, target), atol=1e-5
    )
    again = head_logits(head, rows.target_UD)
    np.testing.assert_array_equal(again, head_logits(head, rows.target_UD), "left as it was")


def test_the_method_finds_shifted_shares_and_gains(tmp_path: Path) -> None:
    rows, truth = domains(600, 600, seed=7, target_shares=(0.9, 0.1))
    rows_wide = rows
    settings = {"width": 16, "epochs": 20, "rate": 1e-2}
    plain = SourceOnly(**settings).fit(rows_wide, Run(tmp_path / "a", device="cpu"))
    fixed = LabelShiftCorrection(**settings).fit(rows_wide, Run(tmp_path / "b", device="cpu"))
    shares = fixed.values["class_shares"]
    assert shares["em"]["a"] == pytest.approx(float((truth == 0).mean()), abs=0.05)
    assert shares["bbse"]["a"] == pytest.approx(float((truth == 0).mean()), abs=0.08)
    before = (plain.snapshots[0].head.proba(rows.target_UD).argmax(1) == truth).mean()
    after = (fixed.snapshots[0].head.proba(rows.target_UD).argmax(1) == truth).mean()
    assert after >= before
    assert fixed.snapshots[0].epoch == plain.snapshots[0].epoch, "one network, one epoch"
    again = estimate_shares(plain.snapshots[0].head, rows)
    assert again["em"][0] == pytest.approx(shares["em"]["a"]), "the network is source-only's"
    assert "differ from the source's by" in fixed.notes[0]


def test_the_method_takes_the_estimator_that_it_is_told(tmp_path: Path) -> None:
    """`label-shift:shares=bbse` puts in the shares from confusions, where they differ from EM's."""
    rows, truth = domains(400, 400, seed=8, target_shares=(0.85, 0.15))
    settings = "width=16:epochs=20:rate=1e-2"
    source_only, by_em, by_bbse = parse_methods([
        f"source-only:{settings}", f"label-shift:{settings}", f"label-shift:shares=bbse:{settings}"
    ])  # fmt: skip
    plain, em, bbse = (
        one.method.fit(rows, Run(tmp_path / str(place), device="cpu"))
        for place, one in enumerate((source_only, by_em, by_bbse))
    )
    shares = estimate_shares(plain.snapshots[0].head, rows)
    assert total_variation(shares["em"], shares["bbse"]) > 1e-3
    expected = correct_head(plain.snapshots[0].head, rows, shares["source"], shares["bbse"])
    proba = bbse.snapshots[0].head.proba(rows.target_UD)
    np.testing.assert_allclose(proba, expected.proba(rows.target_UD), atol=1e-6)
    assert np.abs(proba - em.snapshots[0].head.proba(rows.target_UD)).max() > 1e-3
    assert bbse.values["class_shares"]["bbse"]["a"] == pytest.approx(0.85, abs=0.08)
    assert "(bbse) differ from the source's by" in bbse.notes[0]
    before = (plain.snapshots[0].head.proba(rows.target_UD).argmax(1) == truth).mean()
    assert (proba.argmax(1) == truth).mean() >= before

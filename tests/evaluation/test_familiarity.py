"""Distances by plain loops, thresholds by the order statistic, files to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from warmstart.core import DataError, NotApplicable, RunError, UsageError
from warmstart.evaluation import (
    FAMILIARITY_METHODS,
    Familiarity,
    Gaussian,
    alarm_p_value,
    fit_familiarity,
    fit_gaussian,
    lowest_rate,
    neighbour_distance,
    read_familiarity,
    set_alarm,
    share_interval,
    write_familiarity,
)
from warmstart.evaluation.familiarity import kept_rows

NAMES = ("a", "b", "c")


def clouds(rows: int, seed: int, dimension: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of one stretched covariance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    means = 4 * np.eye(3, dimension)
    spread = np.linspace(0.2, 2.0, dimension)
    return (means[labels] + spread * generator.normal(size=(rows, dimension)) + 7), labels


@pytest.fixture(scope="module")
def fitted() -> Familiarity:
    train, labels = clouds(600, 0)
    return fit_familiarity(train, labels, clouds(400, 1)[0], label_names=NAMES)


# ---------------------------------------------------------------------------------- Mahalanobis


def plain_distance(x: np.ndarray, train: np.ndarray, labels: np.ndarray) -> float:
    """Lee et al. 2018 in loops, with the shrunk covariance of Ledoit and Wolf written out."""
    n, d = train.shape
    means = {c: train[labels == c].mean(axis=0) for c in np.unique(labels)}
    covariance = np.zeros((d, d))
    rows = [train[i] - means[labels[i]] for i in range(n)]
    for row in rows:
        covariance += np.outer(row, row) / n
    middle = np.trace(covariance) / d
    away = ((covariance - middle * np.eye(d)) ** 2).sum()
    noise = sum(((np.outer(row, row) - covariance) ** 2).sum() for row in rows) / n**2
    shrinkage = min(noise, away) / away
    shrunk = (1 - shrinkage) * covariance + shrinkage * middle * np.eye(d)
    inverse = np.linalg.inv(shrunk)
    best = np.inf
    for mean in means.values():
        best = min(best, float((x - mean) @ inverse @ (x - mean)))
    return best**0.5


def test_the_mahalanobis_distance_is_the_slow_one() -> None:
    train, labels = clouds(90, 3)
    made = fit_familiarity(train, labels, clouds(30, 4)[0], label_names=NAMES)
    new = clouds(20, 5)[0] + np.linspace(0, 3, 20)[:, None]
    slow = [plain_distance(x, train, labels) for x in new]
    np.testing.assert_allclose(made.scores(new), slow, rtol=1e-5)


def test_a_known_mahalanobis_distance() -> None:
    """Axes with variances 4 and 1 around (0, 0): (4, 3) lies √(16/4 + 9/1) away."""
    gaussian = Gaussian(
        np.zeros((1, 2), np.float32), np.eye(2, dtype=np.float32), np.array([4.0, 1.0]), 0.0
    )
    found = gaussian.squared_distances(np.array([[4.0, 3.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[13.0], [0.0]], atol=1e-12)
    part = Gaussian(
        np.zeros((1, 3), np.float32), np.eye(1, 3, dtype=np.float32), np.array([4.0]), 2
    )
    np.testing.assert_allclose(part.squared_distances(np.array([[4.0, 3.0, 1.0]])), [[4 + 10 / 2]])


def test_directions_left_out_share_their_mean_variance() -> None:
    train, labels = clouds(500, 6)
    whole = fit_gaussian(train, labels)
    part = fit_gaussian(train, labels, most_numbers=5 * 12)
    assert part.directions_KD.shape == (5, 12)
    assert part.rest == pytest.approx(whole.variances_K[5:].mean())
    covariance = (part.directions_KD.T * part.variances_K) @ part.directions_KD
    left = np.eye(12) - part.directions_KD.T @ part.directions_KD
    inverse = np.linalg.inv(covariance + part.rest * left)
    new = clouds(15, 7)[0] + 2
    slow = [[(x - m) @ inverse @ (x - m) for m in part.means_CD] for x in new]
    np.testing.assert_allclose(part.squared_distances(new), slow, rtol=1e-4)


def test_a_class_without_rows_and_fewer_rows_than_dimensions() -> None:
    train, labels = clouds(10, 8, dimension=40)
    made = fit_gaussian(train, np.where(labels == 1, 0, labels))
    assert len(made.means_CD) == 2
    found = made.squared_distances(clouds(5, 9, dimension=40)[0])
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_rows_that_do_not_vary_are_refused() -> None:
    with pytest.raises(NotApplicable, match="do not vary within their classes"):
        fit_gaussian(np.ones((9, 4)), np.arange(9) % 2)
    with pytest.raises(NotApplicable, match="1 training and 5 validation rows are too few"):
        fit_familiarity(np.ones((1, 4)), np.zeros(1), np.ones((5, 4)), label_names=NAMES)


# ----------------------------------------------------------------------------------- neighbours


def test_neighbour_distances_are_the_slow_ones() -> None:
    generator = np.random.default_rng(0)
    rows, new = generator.normal(size=(50, 6)), generator.normal(size=(7, 6))
    for k in (1, 10, 50):
        slow = [
            sorted(
                float(np.linalg.norm(x / np.linalg.norm(x) - y / np.linalg.norm(y))) for y in rows
            )[k - 1]
            for x in new
        ]
        np.testing.assert_allclose(neighbour_distance(new, rows, k), slow, rtol=1e-9)


def test_known_neighbour_distances() -> None:
    rows = np.array([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    new = np.array([[3.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(neighbour_distance(new, rows, 1), [0.0, 2**0.5])
    np.testing.assert_allclose(neighbour_distance(new, rows, 2), [2**0.5, 2**0.5])
    np.testing.assert_allclose(neighbour_distance(new, rows, 3), [2.0, 2**0.5])


# ---------------------------------------------------------------------------------------- alarms


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_threshold_is_the_order_statistic(rate: float) -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1.0, 200.0))
    alarm = set_alarm(scores, rate)
    place = next(k for k in range(1, 201) if (200 - k) / 200 <= rate)  # of n = 199
    assert alarm.threshold == place
    assert alarm.beyond == int((scores > alarm.threshold).sum()) == 199 - place
    assert (alarm.low, alarm.high) == pytest.approx(stats.beta.interval(0.95, 200 - place, place))


def test_rates_that_the_rows_cannot_state() -> None:
    assert lowest_rate(99) == pytest.approx(0.01)
    assert set_alarm(np.arange(99.0), 0.01).beyond == 0
    assert set_alarm(np.arange(30.0)).rate == pytest.approx(1 / 31)
    assert set_alarm(np.arange(300.0)).rate == 0.01
    with pytest.raises(UsageError, match=r"at least 0.033 here, got 0.01: .* 30 .* needs 99"):
        set_alarm(np.arange(30.0), 0.01)
    assert set_alarm(np.arange(30.0), 0.033).beyond == 0
    for wrong in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="above 0 and below 1"):
            set_alarm(np.arange(300.0), wrong)


def test_the_rate_is_kept_and_its_interval_holds() -> None:
    """Over many calibrations: the mean rate is at most the stated one, 95 % intervals hold it."""
    generator = np.random.default_rng(2)
    rates, held = [], 0
    for _ in range(400):
        alarm = set_alarm(generator.normal(size=150), 0.05)
        true = float(stats.norm.sf(alarm.threshold))
        rates.append(true)
        held += alarm.low <= true <= alarm.high
    expected = (alarm.beyond + 1) / 151
    assert np.mean(rates) == pytest.approx(expected, abs=0.003)
    assert expected <= 0.05
    assert 0.92 <= held / 400 <= 0.98


def test_the_test_of_too_many_alarms() -> None:
    """Two held-out rows of one kind, one new: it lies above both in one of three orders."""
    alarm = set_alarm(np.array([1.0, 2.0]), 0.4)
    assert alarm.threshold == 2.0
    assert alarm_p_value(1, 1, alarm) == pytest.approx(1 / 3)
    assert alarm_p_value(0, 1, alarm) == 1.0
    assert alarm_p_value(2, 2, alarm) == pytest.approx(1 / 6), "both on top: 2! 2! of 4!"
    generator = np.random.default_rng(3)
    p_values = []
    for _ in range(400):
        alarm = set_alarm(generator.normal(size=120), 0.05)
        count = int((generator.normal(size=300) > alarm.threshold).sum())
        p_values.append(alarm_p_value(count, 300, alarm))
    assert np.mean(np.array(p_values) <= 0.05) <= 0.08


def test_the_interval_of_a_share() -> None:
    """Bounds at which the count has a chance of 2.5 % to be reached or undercut."""
    low, high = share_interval(7, 40)
    assert stats.binom.sf(6, 40, low) == pytest.approx(0.025)
    assert stats.binom.cdf(7, 40, high) == pytest.approx(0.025)
    assert share_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert share_interval(10, 10) == (pytest.approx(0.025**0.1), 1.0)


# ----------------------------------------------------------------------------------- all together


@pytest.mark.parametrize("method", FAMILIARITY_METHODS)
def test_rows_from_elsewhere_are_flagged_and_others_at_the_stated_rate(
    fitted: Familiarity, method: str
) -> None:
    alarm = fitted.alarm(0.05, method)
    same = fitted.scores(clouds(4000, 11)[0], method)
    share = float((same > alarm.threshold).mean())
    assert alarm.low - 0.01 <= share <= alarm.high + 0.01
    elsewhere = clouds(500, 12)[0]
    elsewhere[:, 0] -= 12
    assert (fitted.scores(elsewhere, method) > alarm.threshold).mean() > 0.9


def test_what_cannot_be_scored_is_refused(fitted: Familiarity) -> None:
    with pytest.raises(DataError, match=r"must have 12 dimensions.*\(3, 5\)"):
        fitted.scores(np.ones((3, 5)))
    rows = np.ones((3, 12))
    rows[1, 2] = np.nan
    with pytest.raises(DataError, match="row 1 holds a number that is not finite"):
        fitted.scores(rows)
    with pytest.raises(UsageError, match=r'Did you mean "mahalanobis"'):
        fitted.scores(rows, "mahalanobi")
    with pytest.raises(UsageError, match="method 'nn' is unknown"):
        fitted.alarm(None, "nn")


def test_kept_rows_are_bounded_and_drawn_alike() -> None:
    assert kept_rows(30, 384, np.random.default_rng(0)).tolist() == list(range(30))
    some = kept_rows(9000, 384, np.random.default_rng(0))
    assert len(some) == len(set(some.tolist())) == 2000
    assert (np.diff(some) > 0).all()
    assert (some == kept_rows(9000, 384, np.random.default_rng(0))).all()
    wide = kept_rows(9000, 4096, np.random.default_rng(0))
    assert len(wide) * 4096 * 4 <= 6 << 20


def test_files_give_the_same_bits(fitted: Familiarity, tmp_path: Path) -> None:
    write_familiarity(fitted, tmp_path, vectors="model")
    read = read_familiarity(tmp_path)
    new = clouds(50, 13)[0]
    for method in FAMILIARITY_METHODS:
        assert (read.scores(new, method) == fitted.scores(new, method)).all()
        assert read.alarm(0.02, method) == fitted.alarm(0.02, method)
    assert (read.reference_RD == fitted.reference_RD).all()
    assert dict(read.counts) == dict(fitted.counts)
    assert sum(fitted.counts.values()) == 600
    assert json.loads((tmp_path / "familiarity.json").read_text())["vectors"] == "model"
    again = fit_familiarity(*clouds(600, 0), clouds(400, 1)[0], label_names=NAMES)
    (tmp_path / "b").mkdir()
    write_familiarity(again, tmp_path / "b", vectors="model")
    for name in ("familiarity.json", "familiarity.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_reference_of_its_own(tmp_path: Path) -> None:
    train, labels = clouds(60, 0)
    held = clouds(40, 1)[0]
    made = fit_familiarity(train, labels, held, label_names=NAMES, reference_RD=held)
    np.testing.assert_array_equal(made.reference_RD, held.astype(np.float32))
    write_familiarity(made, tmp_path)
    assert (read_familiarity(tmp_path).reference_RD == made.reference_RD).all()


def test_damaged_files_are_refused(fitted: Familiarity, tmp_path: Path) -> None:
    write_familiarity(fitted, tmp_path)
    tensors, facts = tmp_path / "familiarity.safetensors", tmp_path / "familiarity.json"
    whole, told = tensors.read_bytes(), facts.read_text()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError, match=r"familiarity.safetensors is damaged: its hash"):
        read_familiarity(tmp_path)
    tensors.unlink()
    with pytest.raises(RunError, match=r"familiarity.safetensors is missing"):
        read_familiarity(tmp_path)
    tensors.write_bytes(whole)
    facts.write_text(told.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(RunError, match="has format version 9"):
        read_familiarity(tmp_path)
    facts.write_text(told.replace('"neighbours": 10', '"neighbours": 1000'))
    with pytest.raises(RunError, match="do not fit one another"):
        read_familiarity(tmp_path)
    facts.write_text(told.replace('"counts"', '"count"'))
    with pytest.raises(RunError, match="is damaged: KeyError"):
        read_familiarity(tmp_path)
    facts.write_text("{")
    with pytest.raises(RunError, match=r"familiarity.json is damaged"):
        read_familiarity(tmp_path)

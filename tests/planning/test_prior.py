"""Expectations before and after looking: conditioning against a slow twin and known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, UsageError, write_json
from warmstart.planning import Gain, Prior, Survey, default_prior, expect, read_prior
from warmstart.planning.prior import condition


def one_arm(**changes: Any) -> Prior:
    values: dict[str, Any] = {
        "origin": "a test", "labels": (100, 1000), "correlation": ((1.0,),),
        "arms": {"finetune": {"mean": (0.1, 0.3), "sd": (0.2, 0.2), "exponent": 0.5,
                              "distance": 0.1}},
        "short_pace": 0.2, "short_sd": 0.0, "short_sd_cut": 1e-9,
    }  # fmt: skip
    return Prior.parse(values | changes, "prior")


def seen(**changes: Any) -> Survey:
    return Survey(**{"labels": 100, "probe_error": 0.4, "guess": 0.6, **changes})


def test_one_number_known_answer() -> None:
    mean, cov = condition(
        np.zeros(1), np.ones((1, 1)), np.ones((1, 1)), np.array([2.0]), np.ones(1)
    )
    assert mean[0] == pytest.approx(1.0)
    assert cov[0, 0] == pytest.approx(0.5)


def slow_condition(
    mean: Any, cov: Any, design: Any, value: Any, noise: Any
) -> tuple[np.ndarray, np.ndarray]:
    """By precisions, one observation after the other, with plain loops."""
    precision = np.linalg.inv(cov)
    weighted = precision @ mean
    for row in range(len(value)):
        for i in range(len(mean)):
            weighted[i] += design[row][i] * value[row] / noise[row]
            for j in range(len(mean)):
                precision[i, j] += design[row][i] * design[row][j] / noise[row]
    after = np.linalg.inv(precision)
    return after @ weighted, after


def test_conditioning_against_the_slow_twin() -> None:
    generator = np.random.default_rng(0)
    root = generator.normal(size=(4, 4))
    cov, mean = root @ root.T + np.eye(4), generator.normal(size=4)
    design, value = generator.normal(size=(3, 4)), generator.normal(size=3)
    noise = generator.uniform(0.1, 2.0, 3)
    given = mean, cov, design, value, noise
    for fast, slow in zip(condition(*given), slow_condition(*given), strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-10)
    same, still = condition(mean, cov, np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    assert same is mean
    assert still is cov


@pytest.mark.parametrize(
    ("labels", "mean"), [(10, 0.1), (100, 0.1), (316, 0.2), (1000, 0.3), (50_000, 0.3)]
)
def test_the_table_is_read_by_the_logarithm_of_labels(labels: int, mean: float) -> None:
    found = expect(one_arm(), seen(labels=labels))["finetune"]
    assert found.mean == found.prior == pytest.approx(mean, abs=1e-3)
    assert found.sd == pytest.approx(0.2)


def test_evidence_moves_the_mean_by_how_certain_it_is() -> None:
    # a full training: 8 points of 40 are a fifth of the error, with a noise as large as the spread
    gain = Gain(strategy="finetune", value=0.12, error=0.08)
    found = expect(one_arm(), seen(gains=(gain,)))["finetune"]
    assert found.mean == pytest.approx((0.1 + 0.3) / 2)
    assert found.sd == pytest.approx(0.2 / np.sqrt(2))
    other = Gain(strategy="knn", value=0.5, error=1e-6)
    assert expect(one_arm(), seen(gains=(other,)))["finetune"].mean == pytest.approx(0.1)


def test_a_short_training_began_by_guessing() -> None:
    # after a share τ log 2 of the run half of the way is gone, up to what the whole run lacks of 1
    share, whole = 0.2 * np.log(2), 1 - np.exp(-5)
    gone = 0.5 / whole
    # the probe makes 40 mistakes of 100 and guessing 70: its head start is three quarters of its
    # error, and the rest of it is still to be made up; a full run would gain a fifth of the error
    shown = gone * 0.2 - (1 - gone) * 0.75
    gain = Gain(strategy="finetune", value=0.4 * shown, error=1e-6, share=share)
    found = expect(one_arm(), seen(guess=0.3, gains=(gain,)))["finetune"]
    assert shown < 0
    assert found.mean == pytest.approx(0.2, abs=1e-4)
    blind = expect(one_arm(), seen(gains=(gain,)))["finetune"]
    assert blind.mean < -0.5, "with no head start to make up, the same value is a loss"


def test_the_shorter_a_training_the_less_it_tells() -> None:
    left = [
        expect(
            one_arm(short_sd_cut=0.4),
            seen(guess=0.3, gains=(Gain(strategy="finetune", value=0.0, error=0.01, share=t),)),
        )["finetune"].sd
        for t in (0.02, 0.1, 0.3, 1.0)
    ]  # fmt: skip
    assert left == sorted(left, reverse=True)
    assert left[0] > 0.19, "of a spread of 0.2 beforehand"
    assert left[-1] == pytest.approx(0.2 * 0.025 / np.hypot(0.2, 0.025))


def test_fifteen_steps_of_three_hundred_do_not_condemn_fine_tuning() -> None:
    """420 questions, probe .689, guessing .22: 15 steps of 312 were 29 points behind the probe."""
    short = Gain(strategy="finetune", value=-0.289, error=0.068, share=0.05)
    looked = Survey(labels=420, probe_error=0.311, guess=0.22, gains=(short,))
    found = expect(default_prior(), looked)["finetune"]
    assert found.mean > 0.1


def test_the_curve_and_the_distance_move_it_too() -> None:
    steep = expect(one_arm(), seen(exponent=0.45))["finetune"]
    assert steep.mean == pytest.approx(0.1 + 0.5 * 0.2)
    unsure = expect(one_arm(), seen(exponent=0.45, exponent_error=0.15))["finetune"]
    assert unsure.mean == pytest.approx(0.1 + 0.5 * 0.1), "as uncertain as data sets differ: half"
    assert expect(one_arm(), seen(distance=1.0))["finetune"].mean == pytest.approx(0.2)
    assert expect(one_arm(), seen(distance=-1.0))["finetune"].mean == pytest.approx(0.0)


def test_what_one_arm_shows_counts_for_its_relatives() -> None:
    prior = default_prior()
    before = expect(prior, seen(labels=256))
    after = expect(
        prior, seen(labels=256, gains=(Gain(strategy="finetune", value=0.2, error=0.02),))
    )
    for name in ("finetune", "lora", "unfreeze"):
        assert after[name].mean > before[name].mean + 0.05
        assert after[name].sd < before[name].sd
    assert after["prototypes"].mean == pytest.approx(before["prototypes"].mean)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    write_json(path, default_prior().model_dump(mode="json"))
    assert read_prior(path) == default_prior()
    with pytest.raises(DataError, match=r"none.json does not exist.*--prior"):
        read_prior(tmp_path / "none.json")
    for changes, words in (
        ({"labels": (1000, 100)}, "labels must rise"),
        ({"correlation": ((0.5,),)}, "ones in its diagonal"),
        ({"correlation": ((1.0, 0.0), (0.0, 1.0))}, "a row for each arm"),
        ({"labels": (100,)}, "a mean and an sd for each"),
    ):
        with pytest.raises(UsageError, match=words):
            one_arm(**changes)

"""Learning the table from outcomes: known answers, and the base where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from warmstart.planning import Gain, Outcome, Prior, Survey, learn_prior


def base(**changes: Any) -> Prior:
    values: dict[str, Any] = {
        "origin": "a test", "labels": (100, 1000),
        "arms": {"finetune": {"mean": (0.0, 0.2), "sd": (0.2, 0.2)},
                 "lora": {"mean": (0.0, 0.1), "sd": (0.2, 0.2)}},
        "correlation": ((1.0, 0.0), (0.0, 1.0)),
    }  # fmt: skip
    return Prior.parse(values | changes, "prior")


def outcome(name: str, gain: float, labels: int = 100, error: float = 0.4, **seen: Any) -> Outcome:
    looked = Survey(**{"labels": labels, "probe_error": error, "guess": 0.5, **seen})
    return Outcome(name, labels, looked, error, {"finetune": gain * error, "lora": gain * error})


def test_nothing_seen_nothing_learned() -> None:
    learned = learn_prior([], base())
    assert learned.model_copy(update={"origin": ""}) == base().model_copy(update={"origin": ""})


def test_means_are_drawn_towards_the_base() -> None:
    # two data sets at 0.4 and 0.6, and a base of 0 that counts for two: a quarter
    learned = learn_prior([outcome("a", 0.4), outcome("b", 0.6)], base(), strength=2.0)
    arm = learned.arms["finetune"]
    assert arm.mean == pytest.approx((0.25, 0.2))
    square = (0.15**2 + 0.35**2 + 2 * 0.2**2) / 4
    assert arm.sd == pytest.approx((np.sqrt(square), 0.2))
    assert "2 comparisons on 2 data sets" in learned.origin


def test_seeds_of_one_set_are_one_set() -> None:
    once = learn_prior([outcome("a", 0.5)], base())
    often = learn_prior([outcome("a", 0.4), outcome("a", 0.6), outcome("a", 0.5)], base())
    assert often.arms["finetune"].mean == pytest.approx(once.arms["finetune"].mean)


def test_arms_that_move_together_are_correlated() -> None:
    together = learn_prior([outcome(str(i), (-1) ** i * 0.5) for i in range(20)], base())
    assert together.correlation[0][1] > 0.8
    assert together.correlation == tuple(zip(*together.correlation, strict=True))


def test_what_the_curve_tells_is_a_slope() -> None:
    grid = [
        outcome(str(i), 0.8 * (e - 0.25), exponent=e)
        for i, e in enumerate(np.linspace(0.0, 0.5, 41))
    ]
    learned = learn_prior(grid, base(), strength=0.01)
    assert learned.usual_exponent == pytest.approx(0.25, abs=0.01)
    assert learned.arms["finetune"].exponent == pytest.approx(0.8, abs=0.02)
    far = [outcome(str(i), 0.3 * (-1) ** i, distance=float((-1) ** i)) for i in range(40)]
    assert learn_prior(far, base(), strength=0.01).arms["lora"].distance == pytest.approx(
        0.3, abs=0.01
    )


def test_how_much_a_short_training_shows() -> None:
    generator = np.random.default_rng(0)

    def tried(i: int, pace: float, scatter: float) -> Outcome:
        gain = share = 0.1 + 0.02 * (i % 20)
        left = 1 - (1 - np.exp(-share / pace)) / (1 - np.exp(-1 / pace))
        left *= 1 + scatter * generator.normal()
        # of 40 mistakes in 100, guessing makes 70: the way is 0.75 + gain long
        shown = gain - left * (0.75 + gain)
        short = Gain(strategy="finetune", value=shown * 0.4, error=1e-4, share=share)
        return outcome(str(i), gain, gains=(short,), guess=0.3)

    learned = learn_prior([tried(i, 0.3, 0.0) for i in range(20)], base(), strength=1e-6)
    assert learned.short_pace == pytest.approx(0.3, abs=0.01)
    assert learned.short_sd_cut < 0.05
    grid = [tried(i, 0.3, 0.5) for i in range(200)]
    rough = learn_prior(grid, base(short_sd=0.0), strength=1e-6)
    # half of a way of 0.75 + 0.29, told as a share of 0.75 + 1
    assert rough.short_sd_cut == pytest.approx(0.5 * 1.04 / 1.75, rel=0.2)
    drawn = learn_prior([tried(0, 0.3, 0.0)], base(), strength=1e6)
    assert drawn.short_pace == pytest.approx(base().short_pace)
    assert drawn.short_sd_cut == pytest.approx(base().short_sd_cut)


def test_gains_beyond_any_use_are_cut() -> None:
    assert outcome("a", -9.0).shares()["lora"] == -3.0
    perfect = Outcome(
        "a", 100, Survey(labels=100, probe_error=0.1, guess=0.5), 0.0, {"lora": -0.02}
    )
    assert perfect.shares()["lora"] == pytest.approx(-2.0)

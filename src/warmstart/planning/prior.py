"""What to expect of each way of adapting before and after looking: a Gaussian over gains.

A gain is told as the share of the probe's error that a way takes away (0.25: a quarter of the
mistakes are gone; negative: more mistakes), so that one table serves easy and hard tasks. The table
says what the number of labels alone promises. Evidence moves it by Gaussian conditioning: the more
certain a measurement is beside the spread of the table, the more it counts, and it counts for
related ways as well (a short fine-tuning tells of LoRA too).

A short training has a new head that began by guessing, so it is behind the probe long before it is
ahead. How much of the way from guessing to its full result it has gone is taken to be
c(t) = (1 - exp(-t/τ)) / (1 - exp(-1/τ)) after a share t of a full run: it shows c(t) of the gain,
less 1 - c(t) of what the probe is ahead of guessing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from warmstart.core import Config, DataError, read_json

from .evidence import Gain, Survey

__all__ = ["ArmPrior", "Belief", "Prior", "condition", "default_prior", "expect", "read_prior"]

Floats = npt.NDArray[np.float64]


class ArmPrior(Config):
    """What is expected of one way before anything is measured.

    Attributes:
        mean: Share of the probe's error that it takes away, at each number of labels.
        sd: How far data sets scatter around that.
        exponent: How much more it takes away for each unit of the probe curve's exponent above the
            usual one.
        distance: How much more it takes away in a far domain (and less in a near one).
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    exponent: float = 0.0
    distance: float = 0.0


class Prior(Config):
    """The table, and how evidence is read.

    Attributes:
        origin: Where its numbers come from, in a sentence.
        labels: Numbers of labels at which means and spreads are told; between them they change
            linearly with the logarithm, beyond them not at all.
        arms: By strategy; the probe is the zero of the scale and not among them.
        correlation: Of the arms' deviations from their means, in the order of `arms`.
        usual_exponent: Of the probe's learning curve.
        exponent_sd: How far data sets scatter around that; a measured exponent is drawn to the
            usual one as far as it is less certain than this.
        short_pace: τ: the share of a full run after which a training has gone about two thirds of
            the way from guessing to its full result.
        short_sd: How far a training of full length scatters around what is found later, beside the
            noise of the validation rows.
        short_sd_cut: How uncertain the rest of that way is, as a share of it.
        tolerance: Points by which a cheaper way may be behind and is taken all the same.
    """

    origin: str
    labels: tuple[int, ...] = Field(min_length=1)
    arms: dict[str, ArmPrior]
    correlation: tuple[tuple[float, ...], ...]
    usual_exponent: float = 0.25
    exponent_sd: float = Field(0.15, gt=0)
    short_pace: float = Field(0.2, gt=0)
    short_sd: float = Field(0.05, ge=0)
    short_sd_cut: float = Field(0.4, gt=0)
    tolerance: float = Field(0.005, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.labels) != sorted(set(self.labels)) or self.labels[0] < 1:
            raise ValueError("labels must rise from 1 or more.")
        for name, arm in self.arms.items():
            if not len(arm.mean) == len(arm.sd) == len(self.labels):
                raise ValueError(f"{name} needs a mean and an sd for each number of labels.")
            if min(arm.sd) <= 0:
                raise ValueError(f"{name}: an sd must be above 0.")
        matrix = np.asarray(self.correlation, dtype=np.float64)
        if matrix.shape != (len(self.arms),) * 2 or not np.allclose(matrix, matrix.T):
            raise ValueError("correlation must be symmetric, with a row for each arm.")
        if not np.allclose(np.diag(matrix), 1) or np.linalg.eigvalsh(matrix).min() < -1e-9:
            raise ValueError("correlation must have ones in its diagonal and no negative variance.")
        return self

    def at(self, labels: int) -> tuple[Floats, Floats]:
        """Means (A,) and covariance (A, A) at a number of labels."""
        place, knots = np.log(max(labels, 1)), np.log(np.asarray(self.labels, dtype=np.float64))
        mean_A = np.array([np.interp(place, knots, arm.mean) for arm in self.arms.values()])
        sd_A = np.array([np.interp(place, knots, arm.sd) for arm in self.arms.values()])
        return mean_A, np.asarray(self.correlation) * np.outer(sd_A, sd_A)

    def shown(self, gain: Gain, survey: Survey) -> Shown:
        """What a measured difference to the probe tells of a full run's gain."""
        gone = float(np.expm1(-gain.share / self.short_pace) / np.expm1(-1 / self.short_pace))
        way = survey.head_start
        extra = self.short_sd + self.short_sd_cut * (1 - gone) * (1 + way)
        return Shown(
            gone, gain.value / survey.probe_error + (1 - gone) * way,
            (gain.error / survey.probe_error) ** 2 + extra**2,
        )  # fmt: skip


class Shown(NamedTuple):
    """An observation of `gone · gain`, in shares of the probe's error.

    Attributes:
        gone: How much of the full gain is in it, in (0, 1].
        value: What was seen, with what the head's beginning had cost added.
        variance: Of the noise.
    """

    gone: float
    value: float
    variance: float


class Belief(Config):
    """What is expected of one way, as a share of the probe's error.

    Attributes:
        strategy: Which.
        prior: By the number of labels alone.
        mean: With all evidence.
        sd: How far the truth may be from that.
    """

    strategy: str
    prior: float
    mean: float
    sd: float


def condition(
    mean_A: Floats, cov_AA: Floats, design_OA: Floats, value_O: Floats, noise_O: Floats
) -> tuple[Floats, Floats]:
    """Gaussian conditioning: what is believed after measuring `value = design · gain + noise`.

    mean' = mean + K (value - H mean) and cov' = cov - K H cov with the gain
    K = cov Hᵀ (H cov Hᵀ + R)⁻¹ (Rasmussen and Williams 2006, Gaussian Processes, A.6).

    Args:
        mean_A: Means before.
        cov_AA: Covariance before.
        design_OA: H, what each observation is made of.
        value_O: What was measured.
        noise_O: Variances of the noise, R's diagonal.
    """
    if not len(value_O):
        return mean_A, cov_AA
    inner_OO = design_OA @ cov_AA @ design_OA.T + np.diag(noise_O)
    gain_AO = np.linalg.solve(inner_OO, design_OA @ cov_AA).T
    after_A = mean_A + gain_AO @ (value_O - design_OA @ mean_A)
    left_AA = cov_AA - gain_AO @ design_OA @ cov_AA
    return after_A, (left_AA + left_AA.T) / 2


def expect(prior: Prior, survey: Survey) -> dict[str, Belief]:
    """What each way is expected to take away of the probe's error, by the table and the evidence.

    Args:
        prior: The table.
        survey: What was measured.
    """
    names = list(prior.arms)
    before_A, cov_AA = prior.at(survey.labels)
    moved_A = before_A.copy()
    if survey.exponent is not None:
        trust = 1 / (1 + (survey.exponent_error / prior.exponent_sd) ** 2)
        beyond = trust * (survey.exponent - prior.usual_exponent)
        moved_A += beyond * _slopes(prior, "exponent")
    if survey.distance is not None:
        moved_A += survey.distance * _slopes(prior, "distance")
    seen = [gain for gain in survey.gains if gain.strategy in prior.arms]
    told = [prior.shown(gain, survey) for gain in seen]
    design_OA = np.zeros((len(seen), len(names)))
    for row, (gain, one) in enumerate(zip(seen, told, strict=True)):
        design_OA[row, names.index(gain.strategy)] = one.gone
    value_O = np.array([one.value for one in told])
    noise_O = np.array([one.variance for one in told])
    mean_A, left_AA = condition(moved_A, cov_AA, design_OA, value_O, noise_O)
    return {
        name: Belief(
            strategy=name, prior=float(before_A[i]), mean=float(min(mean_A[i], 1.0)),
            sd=float(np.sqrt(max(left_AA[i, i], 0.0))),
        )
        for i, name in enumerate(names)
    }  # fmt: skip


def _slopes(prior: Prior, name: str) -> Floats:
    return np.array([getattr(arm, name) for arm in prior.arms.values()], dtype=np.float64)


@cache
def default_prior() -> Prior:
    """The table that comes with the package."""
    text = (files(__package__) / "prior.json").read_text(encoding="utf-8")
    values: Mapping[str, object] = json.loads(text)
    return Prior.parse(values, "planning/prior.json")


def read_prior(path: Path) -> Prior:
    """A table from a file of one's own; `benchmarks/decision.py --prior` writes one.

    Raises:
        DataError: For a file that is not there.
        UsageError: For numbers that do not make a table.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. `benchmarks/decision.py --prior FILE` writes one.")
    return Prior.parse(read_json(path), str(path))

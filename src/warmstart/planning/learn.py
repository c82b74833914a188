"""Learning the table of expectations from a grid of finished comparisons.

Every number is a mean that is drawn towards the table it begins with, as if that had been seen on
`strength` data sets: a few data sets move it little, many replace it. Training seeds of one data
set are averaged before, since they are not new data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from .evidence import Survey
from .prior import ArmPrior, Prior, default_prior

__all__ = ["Outcome", "learn_prior"]

_FLOOR, _CEILING = -3.0, 1.0
_LEAST_SD = 0.05
_REACH = 2.5  # of the logarithms around the base


@dataclass(frozen=True)
class Outcome:
    """What was measured before on one data set and number of labels, and how it came out.

    Attributes:
        name: The data set.
        labels: Labelled training rows.
        survey: What was measured before.
        error: The probe's error on the test rows.
        gains: Metric of each other way minus the probe's, on the test rows.
    """

    name: str
    labels: int
    survey: Survey
    error: float
    gains: Mapping[str, float]

    def shares(self) -> dict[str, float]:
        """Gains as shares of the probe's error, those beyond any use cut."""
        unit = max(self.error, 0.01)
        return {k: float(np.clip(v / unit, _FLOOR, _CEILING)) for k, v in self.gains.items()}


def learn_prior(
    outcomes: Sequence[Outcome], base: Prior | None = None, *, strength: float = 2.0
) -> Prior:
    """A table from outcomes, drawn towards another.

    Args:
        outcomes: Any number, also none.
        base: Where it begins; the package's table otherwise.
        strength: Data sets that the base counts for, above 0.
    """
    base = base or default_prior()
    steep = [o.survey.exponent for o in outcomes if o.survey.exponent is not None]
    usual = (sum(steep) + strength * base.usual_exponent) / (len(steep) + strength)
    arms = {
        name: _arm(name, arm, base, outcomes, usual, strength) for name, arm in base.arms.items()
    }
    moved = base.model_copy(update={"arms": arms, "usual_exponent": float(usual)})
    pace, cut = _short(moved, outcomes, strength)
    names = sorted({outcome.name for outcome in outcomes})
    origin = (
        f"{len(outcomes)} comparisons on {len(names)} data sets, drawn towards: {base.origin}"
        if names
        else base.origin
    )
    return Prior.parse(
        moved.model_dump(mode="json")
        | {
            "origin": origin, "correlation": _correlation(moved, outcomes, strength),
            "short_pace": pace, "short_sd_cut": cut,
        },
        "learned prior",
    )  # fmt: skip


def _arm(
    name: str,
    arm: ArmPrior,
    base: Prior,
    outcomes: Sequence[Outcome],
    usual: float,
    strength: float,
) -> ArmPrior:
    """Means and spreads at the table's numbers of labels, then what evidence adds."""
    known = [(o, o.shares()[name]) for o in outcomes if name in o.gains]
    means, sds = [], []
    for place, (mean, sd) in enumerate(zip(arm.mean, arm.sd, strict=True)):
        by_set: dict[str, list[float]] = defaultdict(list)
        for outcome, share in known:
            if _nearest(base, outcome.labels) == place:
                by_set[outcome.name].append(share)
        seen = [float(np.mean(values)) for values in by_set.values()]
        middle = (sum(seen) + strength * mean) / (len(seen) + strength)
        square = sum((value - middle) ** 2 for value in seen) + strength * sd**2
        means.append(middle)
        sds.append(max(_LEAST_SD, float(np.sqrt(square / (len(seen) + strength)))))
    left = [
        (outcome, share - means[_nearest(base, outcome.labels)]) for outcome, share in known
    ]  # fmt: skip
    steep = [(o.survey.exponent - usual, r) for o, r in left if o.survey.exponent is not None]
    far = [(o.survey.distance, r) for o, r in left if o.survey.distance is not None]
    return ArmPrior(
        mean=tuple(means), sd=tuple(sds),
        exponent=_ridge(steep, arm.exponent, strength * base.exponent_sd**2),
        distance=_ridge(far, arm.distance, strength),
    )  # fmt: skip


def _ridge(pairs: Sequence[tuple[float, float]], base: float, penalty: float) -> float:
    """Slope through the origin, drawn to `base`: (Σ x y + penalty · base) / (Σ x² + penalty)."""
    above = sum(x * y for x, y in pairs) + penalty * base
    return float(above / (sum(x * x for x, _ in pairs) + penalty))


def _nearest(prior: Prior, labels: int) -> int:
    gaps = np.abs(np.log(np.asarray(prior.labels)) - np.log(max(labels, 1)))
    return int(gaps.argmin())


def _correlation(prior: Prior, outcomes: Sequence[Outcome], strength: float) -> list[list[float]]:
    """Of standardised deviations; an arm that was not run deviates by nothing."""
    names = list(prior.arms)
    total = strength * np.asarray(prior.correlation)
    by_cell: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for outcome in outcomes:
        shares, place = outcome.shares(), _nearest(prior, outcome.labels)
        z_A = np.zeros(len(names))
        for i, name in enumerate(names):
            arm = prior.arms[name]
            if name in shares:
                z_A[i] = (shares[name] - arm.mean[place]) / arm.sd[place]
        by_cell[outcome.name, place].append(z_A)
    cells_by_set: dict[str, list[np.ndarray]] = defaultdict(list)
    for (name, _), values in by_cell.items():
        mean_A = np.mean(values, axis=0)
        cells_by_set[name].append(np.outer(mean_A, mean_A))
    for products in cells_by_set.values():
        total = total + np.mean(products, axis=0)
    unit_A = np.sqrt(np.diag(total))
    scaled = total / np.outer(unit_A, unit_A)
    np.fill_diagonal(scaled, 1.0)
    symmetric: list[list[float]] = ((scaled + scaled.T) / 2).tolist()
    return symmetric


def _short(prior: Prior, outcomes: Sequence[Outcome], strength: float) -> tuple[float, float]:
    """Pace and scatter of short trainings: the likeliest, drawn to the base's.

    -2 log p is, up to a constant, Σ w (r²/v + log v) + strength · Σ log²(parameter / base), with r
    what was shown less what the full run then gained, v its variance, and w one over the seeds of
    the cell.
    """
    seeds = Counter((outcome.name, outcome.labels) for outcome in outcomes)
    seen = [
        (outcome, gain, outcome.shares()[gain.strategy])
        for outcome in outcomes
        for gain in outcome.survey.gains
        if gain.share < 1 and gain.strategy in outcome.gains
    ]
    weight_O = np.array([1 / seeds[outcome.name, outcome.labels] for outcome, _, _ in seen])

    if not seen:
        return prior.short_pace, prior.short_sd_cut

    def parameters(logs: np.ndarray) -> tuple[float, float]:
        pace, cut = np.exp(logs)
        return float(prior.short_pace * pace), float(prior.short_sd_cut * cut)

    def unlikely(logs: np.ndarray) -> float:
        pace, cut = parameters(logs)
        tried = prior.model_copy(update={"short_pace": pace, "short_sd_cut": cut})
        told = [(tried.shown(gain, outcome.survey), full) for outcome, gain, full in seen]
        cost_O = np.array(
            [(one.value - one.gone * full) ** 2 / one.variance + np.log(one.variance)
             for one, full in told]
        )  # fmt: skip
        return float(weight_O @ cost_O + strength * logs @ logs)

    bounds = [(-_REACH, _REACH)] * 2
    found = minimize(unlikely, np.zeros(2), method="Nelder-Mead", bounds=bounds)
    return parameters(found.x)

"""How the probe's error falls with the number of labels: a power law and where it leads.

error(n) = floor + scale · n^(-exponent), with floor and scale at least 0: the form in which errors
of many learners fall (Hestness et al. 2017, Deep learning scaling is predictable, empirically;
Viering and Loog 2022, The shape of learning curves). With few points the floor cannot be told from
a small exponent, so it is left at 0 unless there are five points or more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.core import Config, DataError

__all__ = ["PowerLaw", "fit_power_law"]

_LEAST_EXPONENT, _MOST_EXPONENT = 0.0, 2.0
_POINTS_FOR_FLOOR = 5
_GRID = 401


class PowerLaw(Config):
    """A fitted curve.

    Attributes:
        scale: Error above the floor at one label.
        exponent: By which power of n it falls.
        floor: Error that more labels do not take away.
    """

    scale: float
    exponent: float
    floor: float

    def error(self, labels: float) -> float:
        """The error that the curve expects at so many labels."""
        return float(self.floor + self.scale * labels**-self.exponent)


def fit_power_law(
    labels: Sequence[float], errors: Sequence[float], weights: Sequence[float] | None = None
) -> PowerLaw:
    """Fit the curve by weighted least squares.

    For each exponent on a grid, refined twice, scale and floor are a linear problem in two
    unknowns, solved exactly with both at least 0; the exponent with the smallest loss is taken.

    Args:
        labels: Numbers of labels, at least two different ones.
        errors: Error at each, in [0, 1].
        weights: How much each counts; equal otherwise.

    Raises:
        DataError: For fewer than two different numbers of labels.
    """
    n_K = np.asarray(labels, dtype=np.float64)
    error_K = np.asarray(errors, dtype=np.float64)
    weight_K = np.ones_like(n_K) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(np.unique(n_K)) < 2:
        raise DataError(
            f"fit_power_law needs two different numbers of labels, got {sorted(set(labels))}."
        )
    has_floor = len(np.unique(n_K)) >= _POINTS_FOR_FLOOR
    low, high = _LEAST_EXPONENT, _MOST_EXPONENT
    best = (np.inf, 0.0, 0.0, 0.0)
    for _ in range(3):
        grid = np.linspace(low, high, _GRID)
        tried = [(*_linear(n_K, error_K, weight_K, b, has_floor), b) for b in grid]
        best = min([best, *tried], key=lambda one: one[0])
        step = grid[1] - grid[0]
        low = max(_LEAST_EXPONENT, best[3] - step)
        high = min(_MOST_EXPONENT, best[3] + step)
    return PowerLaw(scale=best[1], exponent=best[3], floor=best[2])


def _linear(
    n_K: np.ndarray, error_K: np.ndarray, weight_K: np.ndarray, exponent: float, has_floor: bool
) -> tuple[float, float, float]:
    """Loss, scale and floor of the best curve of one exponent."""
    x_K = n_K**-exponent

    def loss(scale: float, floor: float) -> tuple[float, float, float]:
        return float((weight_K * (error_K - floor - scale * x_K) ** 2).sum()), scale, floor

    alone = float((weight_K * x_K * error_K).sum() / (weight_K * x_K**2).sum())
    found = [loss(max(alone, 0.0), 0.0)]
    mean_x, mean_e = (float(np.average(v, weights=weight_K)) for v in (x_K, error_K))
    spread = float((weight_K * (x_K - mean_x) ** 2).sum())
    if has_floor and spread > 1e-15:
        scale = float((weight_K * (x_K - mean_x) * (error_K - mean_e)).sum() / spread)
        floor = mean_e - scale * mean_x
        found += [loss(scale, floor)] if scale >= 0 and floor >= 0 else [loss(0.0, mean_e)]
    return min(found, key=lambda one: one[0])

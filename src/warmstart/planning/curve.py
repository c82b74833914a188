"""How the probe's error falls with the number of labels: a power law and where it leads.

error(n) = floor + scale · n^(-exponent), with floor and scale at least 0: the form in which errors
of many learners fall (Hestness et al. 2017, Deep learning scaling is predictable, empirically;
Viering and Loog 2022, The shape of learning curves). With few points the floor cannot be told from
a small exponent, so it is left at 0 unless there are five points or more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from warmstart.core import Config, DataError

__all__ = ["PowerLaw", "fit_power_law"]

_LEAST_EXPONENT, _MOST_EXPONENT = 0.0, 2.0
_POINTS_FOR_FLOOR = 5
_GRID, _REFINEMENTS = 81, 5

Floats = npt.NDArray[np.float64]


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

    For each exponent on a grid, refined around the best, scale and floor are a linear problem in
    two unknowns, solved exactly with both at least 0; the exponent of smallest loss is taken.

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
    for _ in range(_REFINEMENTS):
        grid_G = np.linspace(low, high, _GRID)
        loss_G, scale_G, floor_G = _linear(n_K, error_K, weight_K, grid_G, has_floor)
        at = int(loss_G.argmin())
        if loss_G[at] < best[0]:
            best = (float(loss_G[at]), float(scale_G[at]), float(floor_G[at]), float(grid_G[at]))
        step = grid_G[1] - grid_G[0]
        low = max(_LEAST_EXPONENT, best[3] - step)
        high = min(_MOST_EXPONENT, best[3] + step)
    return PowerLaw(scale=best[1], exponent=best[3], floor=best[2])


def _linear(
    n_K: Floats, error_K: Floats, weight_K: Floats, exponent_G: Floats, has_floor: bool
) -> tuple[Floats, Floats, Floats]:
    """Loss, scale and floor of the best curve of each exponent (G,)."""
    x_GK = n_K[None, :] ** -exponent_G[:, None]

    def loss(scale_G: Floats, floor_G: Floats) -> Floats:
        left_GK = error_K - floor_G[:, None] - scale_G[:, None] * x_GK
        found: Floats = (weight_K * left_GK**2).sum(axis=1)
        return found

    scale_G = np.maximum((weight_K * x_GK * error_K).sum(axis=1), 0.0)
    scale_G = scale_G / (weight_K * x_GK**2).sum(axis=1)
    floor_G = np.zeros_like(scale_G)
    loss_G = loss(scale_G, floor_G)
    if not has_floor:
        return loss_G, scale_G, floor_G
    mean_e = float(np.average(error_K, weights=weight_K))
    mean_G = np.average(x_GK, axis=1, weights=weight_K)
    around_GK = x_GK - mean_G[:, None]
    spread_G = np.maximum((weight_K * around_GK**2).sum(axis=1), 1e-300)
    slope_G = (weight_K * around_GK * (error_K - mean_e)).sum(axis=1) / spread_G
    rest_G = mean_e - slope_G * mean_G
    fits_G = (slope_G >= 0) & (rest_G >= 0)
    slope_G, rest_G = np.where(fits_G, slope_G, 0.0), np.where(fits_G, rest_G, mean_e)
    other_G = loss(slope_G, rest_G)
    better_G = other_G < loss_G
    return (
        np.where(better_G, other_G, loss_G), np.where(better_G, slope_G, scale_G),
        np.where(better_G, rest_G, floor_G),
    )  # fmt: skip

"""Many two-class logistic regressions on the same rows, solved side by side.

Folds and resamples differ in the weights of the rows and, for random halves, in their labels, but
all of them multiply the same vectors: K problems cost two products of (N, D) with (D, K) a step.
Each minimises

    Σ_i c_ik [log(1 + exp(z_ik)) - y_ik z_ik] + (l2 / 2) |w_k|²,   z = X w + b,

with the bias b free of the penalty (scikit-learn's objective at C = 1 / l2). Steps are those of
limited-memory BFGS with one factorised Hessian as the start of every step: for problems that leave
some rows out of a solved one, the solved one's Hessian is nearly theirs, and a handful of steps do.
A step's length is found by the slope along it, which needs no further product.

Source: Nocedal and Wright, Numerical Optimization, 2006, algorithms 7.4 and 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from .distance_inputs import Floats

__all__ = ["Preconditioner", "hessian", "logistic", "solve_many"]

_MEMORY = 6
_TRIES = 5
_BLOCK = 8192
_NOTHING = 1e-12
_CLIP = 30.0  # exp(30) and 1 are apart by less than what single precision shows


@dataclass(frozen=True)
class Preconditioner:
    """A factorised Hessian."""

    factor: tuple[Floats, bool]

    @classmethod
    def of(cls, hessian_DD: Floats) -> Preconditioner:
        """Factorise; a little is added to a diagonal that has no penalty."""
        size = np.abs(np.diag(hessian_DD)).max()
        return cls(cho_factor(hessian_DD + np.eye(len(hessian_DD)) * max(size, 1.0) * 1e-9))

    def __call__(self, gradient_DK: Floats) -> Floats:
        """Its inverse applied to each column."""
        solved: Floats = cho_solve(self.factor, gradient_DK)
        return solved


def logistic(z: Floats) -> Floats:
    """1 / (1 + exp(-z)) without overflow, in the precision of z."""
    found = np.clip(z, -_CLIP, _CLIP)
    np.negative(found, out=found)
    np.exp(found, out=found)
    found += 1
    np.reciprocal(found, out=found)
    return found


def hessian(x_ND: Floats, weight_N: Floats, l2: float) -> Floats:
    """Σ_i weight_i x_i x_iᵀ + l2, the last column being the bias, which has no penalty."""
    total_DD = np.zeros((x_ND.shape[1], x_ND.shape[1]))
    for start in range(0, len(x_ND), _BLOCK):
        at = slice(start, start + _BLOCK)
        scaled_BD = x_ND[at] * np.sqrt(weight_N[at])[:, None].astype(x_ND.dtype)
        total_DD += scaled_BD.T @ scaled_BD
    total_DD[np.arange(len(total_DD) - 1), np.arange(len(total_DD) - 1)] += l2
    return total_DD


def solve_many(
    x_ND: Floats,
    y_NK: Floats,
    weight_NK: Floats,
    l2: float,
    start_D: Floats,
    inverse: Preconditioner,
    *,
    tolerance: float,
    max_steps: int = 100,
) -> Floats:
    """Weights (D, K) of K problems.

    Args:
        x_ND: Rows; the last column is all ones, for the bias.
        y_NK: 1 for target, 0 for source.
        weight_NK: Weight of each row in each problem, 0 where it is left out.
        l2: Penalty on all weights but the bias.
        start_D: Where all of them begin.
        inverse: An approximate inverse Hessian, for all problems.
        tolerance: What is left of gᵀ H⁻¹ g (the squared Newton decrement) of each problem in the
            end, as a share of what it is at the start. It is a share because a start may have seen
            rows that a problem leaves out: that has to go, however small it is.
        max_steps: Steps at most.
    """
    problem = _Problems(x_ND, y_NK, weight_NK, l2)
    problems = weight_NK.shape[1]
    w_DK = np.repeat(np.asarray(start_D, dtype=np.float64)[:, None], problems, axis=1)
    z_NK = np.repeat(problem.forward(w_DK[:, :1]), problems, axis=1)
    gradient_DK = problem.gradient(problem.residual(z_NK), w_DK)
    history: list[tuple[Floats, Floats, Floats]] = []
    enough_K = None
    for step in range(max_steps):
        left_K = (gradient_DK * inverse(gradient_DK)).sum(axis=0)
        enough_K = np.maximum(tolerance * left_K, _NOTHING) if enough_K is None else enough_K
        if (left_K <= enough_K).all():
            break
        step_DK = _direction(gradient_DK, history, inverse)
        length_K, z_NK, residual_NK = problem.search(w_DK, step_DK, z_NK, gradient_DK)
        moved_DK = step_DK * length_K
        w_DK += moved_DK
        if step == max_steps - 1:
            break
        new_DK = problem.gradient(residual_NK, w_DK)
        change_DK = new_DK - gradient_DK
        curve_K = (moved_DK * change_DK).sum(axis=0)
        scale_K = np.sqrt((moved_DK**2).sum(axis=0) * (change_DK**2).sum(axis=0))
        good_K = curve_K > 1e-10 * scale_K
        rho_K = np.where(good_K, 1 / np.where(good_K, curve_K, 1.0), 0.0)
        history = [*history[-(_MEMORY - 1) :], (moved_DK, change_DK, rho_K)]
        gradient_DK = new_DK
    return w_DK


@dataclass(frozen=True)
class _Problems:
    x_ND: Floats
    y_NK: Floats
    weight_NK: Floats
    l2: float

    def forward(self, w_DK: Floats) -> Floats:
        found: Floats = self.x_ND @ w_DK.astype(self.x_ND.dtype)
        return found

    def residual(self, z_NK: Floats) -> Floats:
        """What each row pulls with: weight × (probability - label)."""
        found = logistic(z_NK)
        found -= self.y_NK
        found *= self.weight_NK
        return found

    def gradient(self, residual_NK: Floats, w_DK: Floats) -> Floats:
        found: Floats = (self.x_ND.T @ residual_NK).astype(np.float64)
        found[:-1] += self.l2 * w_DK[:-1]
        return found

    def search(
        self, w_DK: Floats, step_DK: Floats, z_NK: Floats, gradient_DK: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """How far to go in each problem, and where its rows are then.

        The slope along a step rises (the objective is convex); its zero is found by regula falsi
        until it is under half of what it was.
        """
        along_NK = self.forward(step_DK)
        slope_K = (gradient_DK * step_DK).sum(axis=0)
        own_K = self.l2 * (w_DK[:-1] * step_DK[:-1]).sum(axis=0)
        square_K = self.l2 * (step_DK[:-1] ** 2).sum(axis=0)
        length_K = np.ones(len(slope_K))
        low_K, low_slope_K = np.zeros_like(length_K), slope_K.copy()
        for attempt in range(_TRIES):
            there_NK = z_NK + along_NK * length_K.astype(z_NK.dtype)
            residual_NK = self.residual(there_NK)
            there_K = np.einsum("nk,nk->k", residual_NK, along_NK, dtype=np.float64)
            there_K += own_K + length_K * square_K
            far_K = np.abs(there_K) > 0.5 * np.abs(slope_K)
            if not far_K.any() or attempt == _TRIES - 1:
                break
            beyond_K = there_K > 0
            rise_K = np.maximum(there_K - low_slope_K, 1e-300)
            zero_K = low_K - low_slope_K * (length_K - low_K) / rise_K
            next_K = np.where(beyond_K, zero_K, np.minimum(zero_K, 4 * length_K))
            short_K = far_K & ~beyond_K
            low_K = np.where(short_K, length_K, low_K)
            low_slope_K = np.where(short_K, there_K, low_slope_K)
            length_K = np.where(far_K, next_K, length_K)
        return length_K, there_NK, residual_NK


def _direction(
    gradient_DK: Floats,
    history: list[tuple[Floats, Floats, Floats]],
    inverse: Preconditioner,
) -> Floats:
    """The two-loop recursion, each column with its own history."""
    found_DK = gradient_DK.copy()
    shares = []
    for moved_DK, change_DK, rho_K in reversed(history):
        share_K = rho_K * (moved_DK * found_DK).sum(axis=0)
        found_DK -= change_DK * share_K
        shares.append(share_K)
    found_DK = inverse(found_DK)
    for (moved_DK, change_DK, rho_K), share_K in zip(history, reversed(shares), strict=True):
        back_K = rho_K * (change_DK * found_DK).sum(axis=0)
        found_DK += moved_DK * (share_K - back_K)
    return -found_DK

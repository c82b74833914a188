"""Losses that make two domains look alike: kernel means, covariances, reversed gradients.

Source rows and target rows stand in a batch of their own each; no formula here reads a target
label. N and M count rows of the two domains, H the width of the features, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import UsageError

__all__ = [
    "MMD_SCALES",
    "conditional_features",
    "coral_loss",
    "domain_loss",
    "mmd_loss",
    "prediction_entropy",
    "reversal_strength",
    "reverse_gradient",
]

MMD_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def mmd_loss(
    source_NH: Tensor,
    target_MH: Tensor,
    *,
    scales: Sequence[float] = MMD_SCALES,
    bandwidth: float | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy under a mean of Gaussian kernels.

    k(x, y) = mean over s of exp(-‖x - y‖² / (s · b)); the value is mean k(x, x') + mean k(y, y')
    - 2 mean k(x, y), each mean over all pairs, a row with itself included (the V-statistic, which
    is never below 0; such pairs have no gradient).

    Args:
        source_NH: Features of source rows.
        target_MH: Features of target rows.
        scales: Multiples of the bandwidth, each above 0.
        bandwidth: b, above 0; when None the mean squared distance of two different rows of both
            batches together, through which no gradient flows.

    Returns:
        A scalar in [0, 2].

    Raises:
        UsageError: For a scale or bandwidth that is not above 0, or no scales.

    Source: Gretton et al. 2012, A Kernel Two-Sample Test, equation 5; several kernels and the
    bandwidth as in Long et al. 2015, Learning Transferable Features with Deep Adaptation Networks.
    """
    if not scales or min(scales) <= 0 or (bandwidth is not None and bandwidth <= 0):
        raise UsageError(
            f"mmd: scales and bandwidth must be above 0, got scales={tuple(scales)} and "
            f"bandwidth={bandwidth}. Usual: scales {MMD_SCALES} of the mean squared distance."
        )
    rows = len(source_NH)
    both_BH = torch.cat([source_NH, target_MH]).float()
    norms_B = both_BH.square().sum(dim=1)
    squared_BB = (norms_B[:, None] + norms_B[None, :] - 2 * both_BH @ both_BH.T).clamp(min=0)
    if bandwidth is None:
        pairs = max(1, len(both_BH) * (len(both_BH) - 1))
        width = (squared_BB.detach().sum() / pairs).clamp(min=1e-12)
    else:
        width = torch.tensor(bandwidth, device=both_BH.device)
    kernel_BB = torch.stack([torch.exp(-squared_BB / (scale * width)) for scale in scales]).mean(0)
    same = kernel_BB[:rows, :rows].mean() + kernel_BB[rows:, rows:].mean()
    return same - 2 * kernel_BB[:rows, rows:].mean()


def coral_loss(source_NH: Tensor, target_MH: Tensor) -> Tensor:
    """`‖C_S - C_T‖²_F / (4 H²)`: how far the two covariance matrices are from one another.

    Args:
        source_NH: Features of source rows, two or more.
        target_MH: Features of target rows, two or more.

    Returns:
        A scalar, at least 0.

    Source: Sun and Saenko 2016, Deep CORAL, equations 1 to 3.
    """
    gap_HH = _covariance(source_NH.float()) - _covariance(target_MH.float())
    return gap_HH.square().sum() / (4 * source_NH.shape[1] ** 2)


def reversal_strength(progress: float, *, steepness: float = 10.0, highest: float = 1.0) -> float:
    """`highest · (2 / (1 + exp(-steepness · p)) - 1)`: from 0 at the start towards `highest`.

    Args:
        progress: Share p of the training that is done, in [0, 1].
        steepness: Gamma, above 0.
        highest: What it grows to.

    Source: Ganin et al. 2016, Domain-Adversarial Training of Neural Networks, section 5.2.2.
    """
    return highest * (2.0 / (1.0 + math.exp(-steepness * progress)) - 1.0)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None


def reverse_gradient(value: Tensor, strength: float) -> Tensor:
    """The value as it is; its gradient comes back times `-strength`.

    What follows learns to lower its loss, what stands before learns to raise it.

    Source: Ganin et al. 2016, section 4.2 (the gradient reversal layer).
    """
    reversed_value: Tensor = _Reverse.apply(value, strength)  # type: ignore[no-untyped-call]
    return reversed_value


def conditional_features(
    features_BH: Tensor, proba_BC: Tensor, maps: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Features joined with the predicted classes, for a discriminator that sees both.

    Without `maps` the outer product f ⊗ g, flattened to (B, H · C). With them its random
    approximation (f R_f) ⊙ (g R_g) / √W, of width W, whose inner products are those of the outer
    product in expectation.

    Args:
        features_BH: Features f.
        proba_BC: Class probabilities g; pass them detached, so that the discriminator does not
            move the classes.
        maps: R_f (H, W) and R_g (C, W) with entries from N(0, 1), fixed over the training.

    Source: Long et al. 2018, Conditional Adversarial Domain Adaptation, equations 4 and 5.
    """
    if maps is None:
        outer_BCH = proba_BC[:, :, None] * features_BH[:, None, :]
        return outer_BCH.reshape(len(features_BH), -1)
    left_HW, right_CW = maps
    product_BW = (features_BH @ left_HW) * (proba_BC @ right_CW)
    return product_BW / math.sqrt(left_HW.shape[1])


def prediction_entropy(proba_BC: Tensor) -> Tensor:
    """Entropy of each row's class probabilities in nats, (B,), in [0, log C]."""
    return -(proba_BC * proba_BC.clamp(min=1e-12).log()).sum(dim=1)


def domain_loss(
    logits_source_N: Tensor,
    logits_target_M: Tensor,
    weights_N: Tensor | None = None,
    weights_M: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of a discriminator: source rows are 1, target rows 0.

    Each domain counts half, whatever the number of its rows; weights count within a domain.

    Args:
        logits_source_N: The discriminator's logits of source rows.
        logits_target_M: Of target rows.
        weights_N: Weight of each source row, at least 0, or None for equal ones.
        weights_M: Of each target row.

    Returns:
        A scalar; log 2 for a discriminator that knows nothing.

    Source: Ganin et al. 2016, equation 3; the weights of Long et al. 2018, equation 8.
    """
    source_N = functional.softplus(-logits_source_N.float())
    target_M = functional.softplus(logits_target_M.float())
    return 0.5 * (_weighed(source_N, weights_N) + _weighed(target_M, weights_M))


def _weighed(losses_B: Tensor, weights_B: Tensor | None) -> Tensor:
    if weights_B is None:
        return losses_B.mean()
    return (losses_B * weights_B).sum() / weights_B.sum().clamp(min=1e-12)


def _covariance(rows_BH: Tensor) -> Tensor:
    centred_BH = rows_BH - rows_BH.mean(dim=0)
    return centred_BH.T @ centred_BH / max(1, len(rows_BH) - 1)

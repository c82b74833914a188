"""Losses that pull rows of one class together and push rows of different classes apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import UsageError

__all__ = ["cosine_pair_loss", "supervised_contrastive"]


def cosine_pair_loss(left_PD: Tensor, right_PD: Tensor, same_P: Tensor) -> Tensor:
    """Mean squared gap between a pair's cosine and 1 (same class) or 0 (different classes).

    Args:
        left_PD: One vector of each of P pairs; any length, they are scaled to 1.
        right_PD: The other one.
        same_P: True where both are of one class.

    Returns:
        A scalar in [0, 4].

    Source: the loss of Reimers and Gurevych 2019 (Sentence-BERT, section 3) as SetFit trains with
    it (Tunstall et al. 2022, section 3.1).
    """
    cosine_P = functional.cosine_similarity(left_PD.float(), right_PD.float(), dim=-1, eps=1e-8)
    return functional.mse_loss(cosine_P, same_P.to(cosine_P.dtype))


def supervised_contrastive(
    vectors_BD: Tensor, labels_B: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """For each row, the mean over its class mates of -log softmax(cosine / temperature).

    The softmax runs over all other rows of the batch. Rows without a class mate in the batch teach
    nothing on their own and are left out of the mean; where no row has one, the loss is 0.

    Args:
        vectors_BD: Vectors of any length; they are scaled to 1.
        labels_B: Class of each row.
        temperature: Above 0; smaller values look at near rows alone.

    Returns:
        A scalar, at least 0.

    Raises:
        UsageError: For a temperature that is not above 0.

    Source: Khosla et al. 2020, Supervised Contrastive Learning, equation 2 (L_out).
    """
    if temperature <= 0:
        raise UsageError(
            f"temperature must be above 0, got {temperature}. Typical values: 0.05 to 0.5."
        )
    unit_BD = functional.normalize(vectors_BD.float(), dim=-1)
    itself_BB = torch.eye(len(unit_BD), dtype=torch.bool, device=unit_BD.device)
    scores_BB = (unit_BD @ unit_BD.T / temperature).masked_fill(itself_BB, float("-inf"))
    logp_BB = torch.log_softmax(scores_BB, dim=1).masked_fill(itself_BB, 0.0)
    mates_BB = (labels_B[:, None] == labels_B[None, :]) & ~itself_BB
    counts_B = mates_BB.sum(dim=1)
    losses_B = -(logp_BB * mates_BB).sum(dim=1) / counts_B.clamp(min=1)
    return losses_B.sum() / (counts_B > 0).sum().clamp(min=1)

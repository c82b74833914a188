"""The exact softmax over a whole catalogue, in blocks of rows so that memory stays bounded.

The scores of a block are made, turned into their gradient and dropped before the next block:
nothing of size rows × items is ever held, neither forwards nor backwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from warmstart.core import UsageError

__all__ = ["full_softmax"]


def full_softmax(
    users_ND: Tensor,
    items_ID: Tensor,
    targets_N: Tensor,
    *,
    known: tuple[Tensor, Tensor] | None = None,
    smoothing: float = 0.0,
    block: int = 1024,
) -> Tensor:
    """Mean over the rows of `-log softmax(users · itemsᵀ)` at their targets.

    Args:
        users_ND: One vector a row, already divided by the temperature.
        items_ID: Every item that a row is compared with.
        targets_N: Which of them each row took.
        known: Items that do not count for a row though they are no targets, as (offsets N + 1,
            items): those of row n are `items[offsets[n]:offsets[n + 1]]`. A row's target counts
            even when it is among them.
        smoothing: Share of the target spread over the items that count, in [0, 1).
        block: Rows whose scores are held at once: `block × I` numbers.

    Returns:
        A scalar in float32, differentiable once in `users_ND` and `items_ID`.

    Raises:
        UsageError: For settings outside their range.
    """
    if not 0.0 <= smoothing < 1.0:
        raise UsageError(f"smoothing must be in [0, 1), got {smoothing}. Typical: 0 to 0.1.")
    if block < 1:
        raise UsageError(f"block must be at least 1, got {block}. Typical: 256 to 4096.")
    if not len(targets_N):
        raise UsageError("the softmax needs at least one row, got none.")
    offsets, hidden = known if known is not None else (None, None)
    loss: Tensor = _FullSoftmax.apply(
        users_ND, items_ID, targets_N, offsets, hidden, smoothing, block
    )  # type: ignore[no-untyped-call]
    return loss


class _FullSoftmax(torch.autograd.Function):
    """Loss and gradient in one pass over blocks of rows; the gradient is kept, the scores not."""

    @staticmethod
    def forward(
        ctx: Any,
        users_ND: Tensor,
        items_ID: Tensor,
        targets_N: Tensor,
        offsets: Tensor | None,
        hidden: Tensor | None,
        smoothing: float,
        block: int,
    ) -> Tensor:
        """Sum the blocks."""
        rows = len(targets_N)
        wants_users, wants_items = ctx.needs_input_grad[:2]
        with torch.autocast(users_ND.device.type, enabled=False):
            users, items = users_ND.float(), items_ID.float()
            gradient_ND = torch.empty_like(users) if wants_users else None
            gradient_ID = torch.zeros_like(items) if wants_items else None
            total = torch.zeros((), dtype=torch.float64, device=users.device)
            for start in range(0, rows, block):
                part = slice(start, min(start + block, rows))
                scores_BI = users[part] @ items.T
                if offsets is not None and hidden is not None:
                    _hide(scores_BI, targets_N[part], offsets[start : part.stop + 1], hidden)
                total += _loss_and_gradient(scores_BI, targets_N[part], smoothing)
                if gradient_ND is not None:
                    gradient_ND[part] = scores_BI @ items / rows
                if gradient_ID is not None:
                    gradient_ID.addmm_(scores_BI.T, users[part], alpha=1.0 / rows)
        ctx.save_for_backward(gradient_ND, gradient_ID)
        ctx.types = users_ND.dtype, items_ID.dtype
        return (total / rows).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass kept."""
        gradients = [
            None if kept is None else (kept * upstream).to(kind)
            for kept, kind in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*gradients, None, None, None, None, None)


def _hide(scores_BI: Tensor, targets_B: Tensor, offsets_B1: Tensor, hidden: Tensor) -> None:
    """Set the scores of known items to -inf in place, the targets' aside."""
    counts_B = offsets_B1[1:] - offsets_B1[:-1]
    row_K = torch.repeat_interleave(torch.arange(len(targets_B), device=hidden.device), counts_B)
    item_K = hidden[int(offsets_B1[0]) : int(offsets_B1[-1])]
    kept_B = scores_BI.gather(1, targets_B[:, None])
    scores_BI[row_K, item_K] = float("-inf")
    scores_BI.scatter_(1, targets_B[:, None], kept_B)


def _loss_and_gradient(scores_BI: Tensor, targets_B: Tensor, smoothing: float) -> Tensor:
    """The block's summed loss; `scores_BI` becomes its gradient in the scores."""
    counts_BI = None
    log_sum_B = torch.logsumexp(scores_BI, dim=1)
    at_target_B = scores_BI.gather(1, targets_B[:, None])[:, 0]
    losses_B = log_sum_B - at_target_B
    if smoothing:
        counts_BI = torch.isfinite(scores_BI)
        items_B = counts_BI.sum(dim=1)
        mean_B = scores_BI.masked_fill(~counts_BI, 0.0).sum(dim=1) / items_B
        losses_B = log_sum_B - (1.0 - smoothing) * at_target_B - smoothing * mean_B
    scores_BI.sub_(log_sum_B[:, None]).exp_()
    if counts_BI is not None:
        scores_BI.sub_(counts_BI * (smoothing / items_B[:, None]))
    ones_B = torch.full_like(targets_B, -(1.0 - smoothing), dtype=scores_BI.dtype)
    scores_BI.scatter_add_(1, targets_B[:, None], ones_B[:, None])
    return losses_B.double().sum()

"""Gradient caching: the gradient of a big contrastive batch in the memory of a small one.

A contrastive loss couples all rows of a batch only through their vectors. So the vectors are made
piece by piece without keeping what backpropagation needs, the loss gives a gradient for each
vector, and each piece is made once more, now with what it needs, and takes its vectors' gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from warmstart.core import cuda_in_use

__all__ = ["Part", "cached_gradients"]


@dataclass(frozen=True)
class Part:
    """One side of the loss.

    Attributes:
        encode: From a chunk to its vectors (rows, D).
        chunks: The batch in pieces.
    """

    encode: Callable[[Any], Tensor]
    chunks: Sequence[Any]


def cached_gradients(
    parts: Sequence[Part],
    loss: Callable[[Sequence[Tensor]], Tensor],
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Tensor:
    """Add to every parameter's gradient what the loss of the whole batch gives.

    Random draws of `encode` (dropout) are the same in both passes: the generators of the CPU and of
    the CUDA devices in use are set back before the second, and end where they were after the first.

    Args:
        parts: What is encoded, in chunks.
        loss: From the vectors of each part, all chunks side by side, to a scalar.
        backward: Back-propagates the loss, for a loop that scales it.

    Returns:
        The loss, without gradient.

    Source: Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited
    setup, section 3.
    """
    states: list[list[_RandomState]] = []
    vectors: list[Tensor] = []
    for part in parts:
        states.append([])
        found = []
        for chunk in part.chunks:
            states[-1].append(_RandomState())
            with torch.no_grad():
                found.append(part.encode(chunk))
        vectors.append(torch.cat(found).requires_grad_())
    total = loss(vectors)
    backward(total)
    after = _RandomState()
    torch.clear_autocast_cache()  # casts of weights made without gradient would be used again
    for part, kept, whole in zip(parts, states, vectors, strict=True):
        start = 0
        for chunk, state in zip(part.chunks, kept, strict=True):
            state.restore()
            again = part.encode(chunk)
            stop = start + len(again)
            if whole.grad is not None and again.requires_grad:
                torch.autograd.backward(again, whole.grad[start:stop].to(again.dtype))
            start = stop
    after.restore()
    return total.detach()


class _RandomState:
    """Where torch's global generators stand."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if cuda_in_use() else []

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)

"""Penalties on the distance from pretrained weights, and a compact form of Fisher information."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from warmstart.core import UsageError

__all__ = [
    "FISHER_FORMS",
    "FisherForm",
    "PackedFisher",
    "elastic_penalty",
    "l2_sp_penalty",
    "pack_fisher",
]

FisherForm = Literal["float32", "bfloat16", "factored"]
FISHER_FORMS: tuple[FisherForm, ...] = ("float32", "bfloat16", "factored")


def l2_sp_penalty(
    weights: Sequence[Tensor],
    starts: Sequence[Tensor],
    head: Sequence[Tensor] = (),
    *,
    alpha: float,
    beta: float,
) -> Tensor:
    """`alpha/2 · Σ ‖w - w0‖² + beta/2 · Σ ‖w_head‖²`: decay towards the start, not towards 0.

    Args:
        weights: Weights shared with the pretrained network.
        starts: Their pretrained values w0, in the same order and shapes.
        head: Weights that the pretrained network does not have.
        alpha: Pull of the shared weights to their start, at least 0.
        beta: Pull of the new weights to 0, at least 0.

    Returns:
        A scalar in float32.

    Source: Li, Grandvalet and Davoine 2018, Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks, section 3.
    """
    parts = [0.5 * alpha * _squared(w, w0) for w, w0 in zip(weights, starts, strict=True)]
    parts += [0.5 * beta * _squared(w, None) for w in head]
    return _total(parts)


def elastic_penalty(
    weights: Sequence[Tensor],
    starts: Sequence[Tensor],
    fisher: Sequence[Tensor | PackedFisher],
    *,
    strength: float,
) -> Tensor:
    """`strength/2 · Σ_i F_i (w_i - w0_i)²`: what mattered to the old task moves less (EWC).

    Args:
        weights: Weights w.
        starts: Their values w0 after the old task.
        fisher: Diagonal Fisher information of the old task at w0, of the same shapes.
        strength: Lambda, at least 0.

    Returns:
        A scalar in float32.

    Source: Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks,
    equation 3.
    """
    parts = []
    for w, w0, f in zip(weights, starts, fisher, strict=True):
        squared = (w.float() - w0.float()).square()
        weighed = f.weigh(squared) if isinstance(f, PackedFisher) else _dot(f.float(), squared)
        parts.append(0.5 * strength * weighed)
    return _total(parts)


@dataclass(frozen=True)
class PackedFisher:
    """Diagonal Fisher information of one parameter in a small form.

    Attributes:
        form: `float32` (4 bytes a weight), `bfloat16` (2 bytes; every value within 0.4 %, and
            unlike float16 nothing small is lost), or `factored` (rank one: a value for each
            output and one for each input, 4·(O + I) bytes for a matrix O × I; parameters of one
            axis stay float32).
        shape: Of the parameter.
        tensors: The values; for `factored` the sums over inputs (O) and over outputs (I).
        error: `Σ|F - F̂| / Σ F` against the unpacked values, in [0, 2].
    """

    form: FisherForm
    shape: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    error: float

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    def unpack(self) -> Tensor:
        """The values (float32, the parameter's shape)."""
        if len(self.tensors) == 1:
            return self.tensors[0].float().reshape(self.shape)
        rows_O, columns_I = self.tensors
        total = rows_O.sum()
        scaled_O = rows_O / total if float(total) > 0 else rows_O
        return torch.outer(scaled_O, columns_I).reshape(self.shape)

    def weigh(self, squared: Tensor) -> Tensor:
        """`Σ_i F_i · squared_i` without unpacking a factored form.

        Args:
            squared: Of the parameter's shape.
        """
        if len(self.tensors) == 1:
            return _dot(self.tensors[0].float(), squared)
        rows_O, columns_I = self.tensors
        flat_OI = squared.reshape(len(rows_O), len(columns_I))
        return (rows_O @ (flat_OI @ columns_I)) / rows_O.sum().clamp_min(_TINY)

    def to(self, device: torch.device | str) -> PackedFisher:
        """The same values on a device."""
        moved = tuple(tensor.to(device) for tensor in self.tensors)
        return PackedFisher(self.form, self.shape, moved, self.error)


_TINY = 1e-38


def pack_fisher(values: Tensor, form: FisherForm = "bfloat16") -> PackedFisher:
    """Put the diagonal Fisher information of one parameter into a small form.

    The factored form is the rank-one matrix with the same row and column sums, which is the best
    one in generalised Kullback-Leibler divergence.

    Args:
        values: F, at least 0; the first axis counts outputs.
        form: See `PackedFisher`.

    Source of the factored form: Shazeer and Stern 2018, Adafactor, section 3.
    """
    if form not in FISHER_FORMS:
        raise UsageError(f"fisher form must be one of {', '.join(FISHER_FORMS)}, got {form!r}.")
    full = values.detach().float()
    shape = tuple(full.shape)
    tensors: tuple[Tensor, ...] = (full,)
    if form == "bfloat16":
        tensors = (full.to(torch.bfloat16),)
    elif form == "factored" and full.ndim >= 2:
        flat_OI = full.reshape(full.shape[0], -1)
        tensors = (flat_OI.sum(dim=1), flat_OI.sum(dim=0))
    packed = PackedFisher(form, shape, tensors, 0.0)
    total = float(full.sum())
    error = float((packed.unpack() - full).abs().sum()) / total if total > 0 else 0.0
    if not math.isfinite(total):
        raise UsageError("fisher values must be finite; a loss or a weight overflowed.")
    return PackedFisher(form, shape, tensors, error)


def _squared(weight: Tensor, start: Tensor | None) -> Tensor:
    moved = weight.float() if start is None else weight.float() - start.float()
    return _dot(moved, moved)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """`Σ_i one_i · other_i`, without keeping the products."""
    return torch.dot(one.reshape(-1), other.reshape(-1))


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum() if parts else torch.zeros(())

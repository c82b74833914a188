"""Placeholders: what a skipped part of a network returns, in its structure, at no cost.

A value that was seen once (a tensor, or tuples, dicts and data classes of them) becomes a maker of
the same structure for any batch, in which each tensor is one zero seen in the right shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Blank", "Maker", "holds", "maker_of"]

Maker = Callable[["Blank"], Any]


class Blank:
    """Placeholders for one batch: one zero seen in any shape. And what was kept."""

    def __init__(self, kept: Tensor, zeros: dict[tuple[torch.dtype, torch.device], Tensor]) -> None:
        self.kept = kept
        self._sizes = {-1: len(kept), -2: int(kept.shape[1])}
        self._device = kept.device
        self._zeros = zeros

    def __call__(self, dims: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A zero seen as `dims`; -1 there stands for the rows, -2 for the tokens of the batch."""
        zero = self._zeros.get((dtype, self._device))
        if zero is None:
            with torch.inference_mode(False):  # it also serves passes that are differentiated
                zero = torch.zeros((), dtype=dtype, device=self._device)
            self._zeros[dtype, self._device] = zero
        return zero.expand([self._sizes.get(size, size) for size in dims])


def maker_of(
    value: Any, rows: int, tokens: int | None, hidden: Tensor | None = None
) -> Maker | None:
    """How to build a value of the same structure for another batch; None where it is unknown.

    In the place of `hidden` stands what was kept.
    """
    if value is hidden and hidden is not None:
        return lambda blank: blank.kept
    if isinstance(value, Tensor):
        first = [-1 if i == 0 and size == rows else size for i, size in enumerate(value.shape)]
        dims = tuple(-2 if i == 1 and size == tokens else size for i, size in enumerate(first))
        dtype = value.dtype
        return lambda blank: blank(dims, dtype)
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return lambda _: value
    parts = _parts(value)
    if parts is None:
        return None
    makers = {key: maker_of(part, rows, tokens, hidden) for key, part in parts.items()}
    known = {key: maker for key, maker in makers.items() if maker is not None}
    if len(known) < len(makers):
        return None
    kind: Any = type(value)
    return lambda blank: _rebuilt(kind, {key: maker(blank) for key, maker in known.items()})


def holds(value: Any, hidden: Tensor) -> bool:
    """Whether a value is this tensor or a structure that has it in it."""
    return value is hidden or any(holds(part, hidden) for part in (_parts(value) or {}).values())


def _parts(value: Any) -> dict[Any, Any] | None:
    """What a tuple, list, dict or data class holds; None for anything else."""
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, dict):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, tuple | list) else None


def _rebuilt(kind: Any, parts: dict[Any, Any]) -> Any:
    if hasattr(kind, "__dataclass_fields__"):
        return kind(**parts)
    if issubclass(kind, dict):
        return kind(parts)
    if hasattr(kind, "_fields"):
        return kind(*parts.values())
    return kind(list(parts.values()))

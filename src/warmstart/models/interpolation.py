"""The straight line between two sets of weights of one architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from warmstart.core import NotApplicable, UsageError

from .heads import Head

__all__ = ["WeightPath", "interpolate_head"]

N = TypeVar("N", bound=nn.Module)


class WeightPath:
    """`(1 - share) · start + share · tuned` for every weight and buffer, in the start's module.

    Batch-norm statistics are blended as weights are; what is no floating-point number (a count of
    batches) is the tuned one's but at share 0. Tensors that are equal in both, as those of frozen
    groups are, are held once: the module shares them with the tuned one.

    Attributes:
        module: The start's module; `at` writes into it.
        bytes: Memory of the start's values that are kept besides both modules.

    Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT), section 4.
    """

    def __init__(self, start: nn.Module, tuned: nn.Module) -> None:
        """Find what differs.

        Args:
            start: Untouched weights; changed from now on. Must be on the device of the other.
            tuned: Weights of the same names and shapes; never changed.

        Raises:
            NotApplicable: When the names or shapes differ.
        """
        self.module = start
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []  # written to, start, tuned
        theirs = dict(_tensors(tuned))
        mine = dict(_tensors(start))
        if mine.keys() != theirs.keys():
            odd = sorted(mine.keys() ^ theirs.keys())[0]
            raise NotApplicable(
                f'interpolation needs two sets of weights of one architecture, but "{odd}" is in '
                "one of them only. Merge adapters into the weights first."
            )
        with torch.no_grad():
            for name, tensor in mine.items():
                other = theirs[name]
                if tensor.shape != other.shape or tensor.dtype != other.dtype:
                    raise NotApplicable(
                        f"interpolation needs weights of the same shapes and types: {name} is "
                        f"{tuple(tensor.shape)} {tensor.dtype} and {tuple(other.shape)} "
                        f"{other.dtype}."
                    )
                if torch.equal(tensor, other):
                    tensor.data = other.data
                else:
                    self._parts.append((tensor, tensor.detach().clone(), other.detach()))

    @property
    def bytes(self) -> int:
        """Memory of the start's values that are kept besides both modules."""
        return sum(start.numel() * start.element_size() for _, start, _ in self._parts)

    @torch.no_grad()
    def at(self, share: float) -> nn.Module:
        """Put the module at a point of the line; 0 and 1 give the ends' very bits.

        Args:
            share: Of the tuned weights, in [0, 1].
        """
        _check(share)
        for here, start, tuned in self._parts:
            here.copy_(_blend(start, tuned, share))
        return self.module


def interpolate_head(start: Head, tuned: Head, share: float) -> Head:
    """A head whose weights lie between those of two linear heads.

    Args:
        start: The head of the untouched backbone.
        tuned: The fine-tuned one.
        share: Of the tuned weights, in [0, 1].

    Raises:
        NotApplicable: For heads of different forms.
    """
    _check(share)
    one, other = start.shape, tuned.shape
    if one.model_copy(update={"dropout": other.dropout}) != other:
        raise NotApplicable(
            "interpolation needs two heads of one form, got "
            f"{one.kind} with {one.model_dump()} and {other.kind} with {other.model_dump()}. "
            "Fine-tune with head=linear."
        )
    made = Head(other)
    device = tuned.output.weight.device
    theirs = tuned.state_dict()
    made.load_state_dict(
        {
            key: _blend(value.to(device), theirs[key], share)
            for key, value in start.state_dict().items()
        }
    )
    return made.to(device).eval()


def _blend(start: Tensor, tuned: Tensor, share: float) -> Tensor:
    if share in (0.0, 1.0) or not start.is_floating_point():
        return start if share == 0.0 else tuned
    blended: Tensor = torch.lerp(start, tuned, share)
    return blended


def _check(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"the share of the tuned weights must be in [0, 1], got {share}.")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()

"""Counting before training: what would be learned, and what memory that takes, by part.

Everything is read off the architecture without weights, so config.json is enough.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from warmstart.backbones import Blueprint
from warmstart.core import Config, NotApplicable, UsageError
from warmstart.models import four_bit_size
from warmstart.strategies import Strategy

__all__ = [
    "ActivationRow",
    "Counting",
    "MatrixRow",
    "Memory",
    "activation_bytes",
    "count_training",
    "lora_parameters",
    "memory",
]

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


class MatrixRow(Config):
    """Parameters of one kind that would be learned, over all layers that have them.

    Attributes:
        name: Their path, with `*` for the number of the layer.
        shape: Of each, (rows, columns).
        count: How many there are.
        each: Parameters that are learned in each.
        trained: Parameters that are learned in all.
        base: Parameters of the matrix that each of them adapts, where it is an adapter.
        base_shape: Its shape.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    each: int
    trained: int
    base: int | None = None
    base_shape: tuple[int, ...] | None = None

    @property
    def times_fewer(self) -> float | None:
        """How many times fewer parameters are learned than the matrix has."""
        return None if self.base is None else self.base / self.each


class Memory(Config):
    """Training memory before activations, in bytes.

    Attributes:
        weights: All parameters.
        gradients: One number for each parameter that is learned.
        optimizer: Adam's two moments, in float32, for each parameter that is learned; where
            weights are of 16 bits, their float32 master copies too.
        total: Their sum.
    """

    weights: int
    gradients: int
    optimizer: int
    total: int


class ActivationRow(Config):
    """What the backward pass needs of the forward pass.

    Attributes:
        batch_size: Rows B.
        bytes: Of all tensors that autograd keeps, float32.
        total: With the memory before activations.
    """

    batch_size: int
    bytes: int
    total: int


class Counting(Config):
    """What a strategy would train on a backbone.

    Attributes:
        backbone: Its name.
        family: Its model type.
        strategy: Name of the strategy.
        settings: Those that differ from the defaults.
        total: Parameters of backbone, adapter and head.
        trained: Parameters that are learned, the head's included.
        share: Their share.
        head: Parameters of the head.
        adapter: Parameters beside the backbone's own, the head's left out.
        matrices: What is learned in the backbone, by kind.
        memory: Before activations.
        activations: By batch size; empty where the architecture cannot be traced.
        size: Bytes on disk of all weights, and of what was learned alone.
        length: Tokens, or pixels on a side, that activations are counted for.
        dtype: Of the weights.
        notes: Sentences about rank and cost.
    """

    backbone: str
    family: str
    strategy: str
    settings: dict[str, Any]
    total: int
    trained: int
    share: float
    head: int
    adapter: int
    matrices: tuple[MatrixRow, ...]
    memory: Memory
    activations: tuple[ActivationRow, ...]
    size: dict[str, int]
    length: int
    dtype: str
    notes: tuple[str, ...]


def lora_parameters(inputs: int, outputs: int, rank: int) -> int:
    """Parameters of a LoRA pair on a matrix: r·(d + k) (Hu et al. 2021, §4.1)."""
    return rank * (inputs + outputs)


def memory(total: int, trained: int, dtype: Literal["fp32", "bf16", "fp16"] = "fp32") -> Memory:
    """Bytes of weights, gradients and Adam's states.

    Args:
        total: Parameters in all.
        trained: Parameters that are learned.
        dtype: Of weights and gradients.
    """
    if not 0 <= trained <= total:
        raise UsageError(f"trained must be between 0 and {total}, got {trained}.")
    width = BYTES[dtype]
    states = 8 if dtype == "fp32" else 12
    parts = width * total, width * trained, states * trained
    return Memory(weights=parts[0], gradients=parts[1], optimizer=parts[2], total=sum(parts))


def count_training(
    plan: Blueprint,
    strategy: Strategy,
    *,
    classes: int = 2,
    batch_sizes: Sequence[int] = (1, 8, 32),
    length: int | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> Counting:
    """Count what a strategy would train.

    Args:
        plan: The backbone; adapters are put into it, so it serves once.
        strategy: The strategy with its settings.
        classes: Classes C of the head.
        batch_sizes: For which activations are counted.
        length: Tokens or pixels on a side; 128 tokens or the network's own size otherwise.
        dtype: Of the weights.

    Raises:
        UsageError: For settings that fit nothing in this backbone.
        NotApplicable: For a strategy that cannot work on it.
    """
    if not strategy.uses_backbone:
        raise NotApplicable(f"{strategy.name} uses no backbone, so there is nothing to count")
    base = {id(p): p for p in plan.module.parameters()}
    shapes = {name: tuple(p.shape) for name, p in plan.module.named_parameters()}
    packed = four_bit_size(plan.encoder) if getattr(strategy, "_quantized", False) else None
    learned = strategy.trains(plan.encoder)
    chosen = {id(p) for _, p in learned}
    for parameter in plan.module.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    inside = {id(p): p for p in plan.module.parameters()} | {id(p): p for _, p in learned}
    extra = sum(p.numel() for key, p in inside.items() if key not in base)
    head = (plan.dimension + 1) * classes if strategy.has_head else 0
    total = sum(p.numel() for p in base.values()) + extra + head
    trained = sum(p.numel() for _, p in learned) + head
    before = memory(total, trained, dtype)
    notes = _notes(strategy, rows := _matrices(learned, set(base), shapes))
    if packed is not None:
        spared = BYTES[dtype] * packed[0] - packed[1]
        less = {"weights": before.weights - spared, "total": before.total - spared}
        before = before.model_copy(update=less)
        notes.append(
            f"{packed[0]:,} of the base's weights take {packed[1]:,} bytes in 4 bits with their "
            f"scales, in place of {BYTES[dtype] * packed[0]:,} in {dtype}."
        )
    size = length or _own_length(plan)
    activations = []
    for batch_size in batch_sizes if learned else ():
        found = activation_bytes(plan, batch_size, length=size)
        if found is not None:
            found = found * BYTES[dtype] // 4
            activations.append(
                ActivationRow(batch_size=batch_size, bytes=found, total=found + before.total)
            )
    width = BYTES[dtype]
    return Counting(
        backbone=plan.name,
        family=str(plan.config.model_type),
        strategy=strategy.name,
        settings=strategy.model_dump(mode="json", exclude_defaults=True),
        total=total,
        trained=trained,
        share=trained / total,
        head=head,
        adapter=extra,
        matrices=rows,
        memory=before,
        activations=tuple(activations),
        size={"all": width * total, "learned": width * trained},
        length=size,
        dtype=dtype,
        notes=tuple(notes),
    )


def activation_bytes(plan: Blueprint, batch_size: int, *, length: int) -> int | None:
    """Bytes of the tensors that autograd would keep for the backward pass of one batch, float32.

    Each storage counts once, parameters do not. None where the network cannot be traced without
    values (its forward looks into its inputs).
    """
    module = plan.module
    weights = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    batch = plan.inputs(batch_size, length=length, image_size=length)
    module.train()
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            module(**batch)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None
    return sum(storage.nbytes() for storage in kept.values())


def _own_length(plan: Blueprint) -> int:
    if plan.encoder.modality == "text":
        most = getattr(plan.config, "max_position_embeddings", 128)
        return min(128, int(most))
    size = getattr(getattr(plan.config, "vision_config", plan.config), "image_size", None)
    size = size[0] if isinstance(size, list | tuple) else size
    return int(size or 224)


def _matrices(
    learned: Sequence[tuple[str, nn.Parameter]],
    base: set[int],
    shapes: dict[str, tuple[int, ...]],
) -> tuple[MatrixRow, ...]:
    """What is learned, by kind; a LoRA pair is one row, beside the matrix that it adapts."""
    found: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    bases: dict[str, tuple[int, ...]] = {}
    beside: dict[str, set[str]] = {}
    for name, parameter in learned:
        adapted = _adapted(name, shapes) if id(parameter) not in base else None
        key, shape = _LAYER.sub("*", name), tuple(parameter.shape)
        if adapted is not None:
            key = _LAYER.sub("*", adapted)
            bases[key] = shapes[adapted]
            beside.setdefault(key, set()).add(adapted)
            shape = ()
        found.setdefault((key, shape), []).append(parameter.numel())
    rows = []
    for (key, shape), sizes in found.items():
        matrix = bases.get(key)
        count = len(sizes) if matrix is None else len(beside[key])
        total = sum(sizes)
        base_size = None if matrix is None else math.prod(matrix)
        rows.append(
            MatrixRow(name=key, shape=shape or (matrix or ()), count=count, each=total // count,
                      trained=total, base=base_size, base_shape=matrix)
        )  # fmt: skip
    return tuple(rows)


def _adapted(name: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """The matrix that an adapter's parameter stands beside, by its name."""
    for mark in (".lora_", ".ia3_"):
        if mark in name:
            stem = name.split(mark, maxsplit=1)[0].replace(".base_layer", "") + ".weight"
            plain = stem.removeprefix("base_model.model.")
            return next((n for n in (stem, plain) if n in shapes), None)
    return None


def _notes(strategy: Strategy, rows: Sequence[MatrixRow]) -> list[str]:
    """What the rank means: extra work, and the scale of the update."""
    notes = []
    rank, alpha = getattr(strategy, "counted_rank", None), getattr(strategy, "alpha", None)
    if getattr(strategy, "rank", None) == "auto" and getattr(strategy, "start", None) is None:
        notes.append(f"The rank is searched for, from 1 by doubling; what is counted is {rank}.")
    pairs = [row for row in rows if row.base]
    if pairs:
        own = sum(row.base * row.count for row in pairs if row.base)
        extra = sum(row.trained for row in pairs)
        notes.append(
            f"Unmerged, the adapter adds {extra / own:.2%} to the forward FLOPs of the matrices "
            f"that it adapts ({2 * extra:,} beside {2 * own:,} for each token); merged, nothing."
        )
    if isinstance(rank, int) and pairs:
        scale = float(alpha) if alpha is not None else 2.0 * rank
        root = bool(getattr(strategy, "rslora", False))
        now, then = (scale / _div(rank, root)), (scale / _div(2 * rank, root))
        notes.append(
            f"The update is scaled by alpha/{'sqrt(r)' if root else 'r'} = {scale:g}/"
            f"{_div(rank, root):g} = {now:g}; at rank {2 * rank} and the same alpha by {then:g}"
            + (
                "."
                if alpha is not None
                else f" (alpha follows the rank unless it is set: {4 * rank} there, so {now:g})."
            )
        )
    return notes


def _div(rank: int, root: bool) -> float:
    return float(rank**0.5 if root else rank)

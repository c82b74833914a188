"""What a step function and a callback see of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.core import Run, Streams

from .history import Stopped

__all__ = [
    "Callback",
    "EvaluateFunction",
    "LoopState",
    "StepFunction",
    "StepOutput",
    "as_output",
    "batch_size",
]


@dataclass(frozen=True)
class StepOutput:
    """What a step function returns.

    Attributes:
        loss: A scalar, or named scalars whose sum is minimised. Each is a mean over the batch.
        values: Further scalars to record (no gradient).
        manual: True when the step has called `state.backward` itself (gradient caching): the loss
            is then only recorded.
    """

    loss: Tensor | Mapping[str, Tensor]
    values: Mapping[str, Tensor | float] = field(default_factory=dict)
    manual: bool = False

    def total(self) -> Tensor:
        """The scalar that is minimised."""
        if isinstance(self.loss, Tensor):
            return self.loss
        return torch.stack([loss.float() for loss in self.loss.values()]).sum()

    def recorded(self) -> dict[str, Tensor | float]:
        """Everything to record, without gradient."""
        named: dict[str, Tensor | float] = {"loss": self.total()}
        if isinstance(self.loss, Mapping) and len(self.loss) > 1:
            named.update({f"loss_{name}": loss for name, loss in self.loss.items()})
        named.update(self.values)
        return {
            name: value.detach() if isinstance(value, Tensor) else float(value)
            for name, value in named.items()
        }


StepFunction = Callable[[Any, "LoopState"], StepOutput | Tensor | Mapping[str, Tensor]]
EvaluateFunction = Callable[["LoopState"], Mapping[str, float]]


def as_output(result: StepOutput | Tensor | Mapping[str, Tensor]) -> StepOutput:
    """The result of a step function in one form."""
    return result if isinstance(result, StepOutput) else StepOutput(result)


@dataclass
class LoopState:
    """The loop as its step function and callbacks see it.

    Attributes:
        modules: By name, as prepared for the device (a step calls these, never its own reference:
            several processes wrap them, and `measure_steps` copies them).
        plain: The same modules without the wrapping for several processes; evaluations call these,
            since processes may have different numbers of batches.
        optimizers: By name; `param_groups` may be read and changed by callbacks.
        run: The run.
        device: Where the batches are.
        streams: Random streams of this fit.
        name: Of this fit.
        title: What messages call it.
        epochs: Epochs planned.
        epoch: The epoch in work, from 0.
        step: Optimiser steps finished.
        turn: Name of the turn in work, `""` where there are none.
        metrics: What the last evaluation returned.
        records: One record an epoch so far.
        stopped: Why the loop ends, None while it goes on.
        resumed: Whether the fit continued from a checkpoint.
        best_epoch: Set by a callback that keeps the best weights; counted from 1.
        best_step: The step of those weights.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    run: Run
    device: torch.device
    streams: Streams
    plain: dict[str, nn.Module] = field(default_factory=dict)
    name: str = "fit"
    title: str = "fit"
    epochs: int = 1
    epoch: int = 0
    step: int = 0
    turn: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)
    stopped: Stopped | None = None
    resumed: bool = False
    best_epoch: int | None = None
    best_step: int | None = None
    judged: int = -1
    share: float = 1.0
    rank: int = 0
    world: int = 1
    callbacks: Sequence[Callback] = ()
    tensors: Callable[[bool], dict[str, Tensor]] = lambda _: {}
    backward_call: Callable[[Tensor], None] = Tensor.backward
    reduce_call: Callable[[Tensor], Tensor] = lambda tensor: tensor
    pause_call: Callable[[], None] = lambda: None
    mode_call: Callable[[], None] = lambda: None

    def stop(self, reason: Stopped = "early") -> None:
        """End the loop after this step or evaluation."""
        self.stopped = reason

    def begin_stage(self, name: str) -> None:
        """Tell every callback that a stage begins, after changing what is trained."""
        for callback in self.callbacks:
            callback.on_stage(self, name)
        self.mode_call()

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a mean over the batch with this batch's share of the optimiser step.

        For step functions that return `StepOutput(..., manual=True)`.
        """
        self.backward_call(loss * self.share)

    def sum_over_processes(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes that train together."""
        return self.reduce_call(tensor)

    def pause_point(self) -> None:
        """Let a waiting signal stop an evaluation here; long evaluations call it every batch."""
        self.pause_call()


class Callback:
    """Something that happens at fixed points of the loop; every method does nothing by default.

    A callback that remembers something returns it from `state_dict` (tensors, numbers, strings,
    lists and dicts) so that a resumed fit continues with it.
    """

    def on_start(self, state: LoopState) -> None:
        """Before the first step of this session, after a checkpoint was restored."""

    def on_stage(self, state: LoopState, name: str) -> None:
        """When a stage begins; what is trained may be changed by `requires_grad` here.

        Not called again when a fit resumes inside a stage: what was trained is restored.
        """

    def on_step(self, state: LoopState, output: StepOutput) -> None:
        """After each optimiser step; `output` is the last batch's."""

    def on_evaluate(self, state: LoopState, metrics: Mapping[str, float]) -> None:
        """After each evaluation."""

    def on_epoch_end(self, state: LoopState, record: Mapping[str, float]) -> None:
        """After an epoch and its evaluation."""

    def on_end(self, state: LoopState) -> None:
        """After the last step and evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """What to keep in a checkpoint."""
        return {}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


def batch_size(batch: Any) -> int:
    """Rows in a batch: a tensor's first axis, else that of the first tensor found inside."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    parts: Sequence[Any] = ()
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif isinstance(batch, list | tuple):
        parts = batch
    elif hasattr(batch, "__len__"):
        return len(batch)
    return batch_size(parts[0]) if parts else 1

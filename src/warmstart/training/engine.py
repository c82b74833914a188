"""One optimiser step: device, precision, turns, accumulation, clipping, through Accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    send_to_device,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from warmstart.core import Run, Streams, UsageError, nearest, pick_device

from .feed import Window
from .schedules import Schedule
from .state import LoopState, StepFunction, StepOutput, as_output

__all__ = ["PRECISIONS", "Engine", "pick_precision", "set_training"]

PRECISIONS = ("auto", "bf16", "fp16", "no")


def pick_precision(name: str, device: torch.device) -> str:
    """The precision to train in: `no`, `bf16` or `fp16`.

    `auto` is bf16 on a CUDA device that computes in it, else `no`.

    Raises:
        UsageError: For an unknown name, or one that this device does not serve well.
    """
    if name not in PRECISIONS:
        raise UsageError(f'mixed_precision "{name}" is unknown.{nearest(name, PRECISIONS)}')
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return "bf16" if has_bf16 else "no"
    if name == "no" or (name == "bf16" and has_bf16) or (name == "fp16" and device.type == "cuda"):
        return name
    raise UsageError(
        f'mixed_precision "{name}" is not available on {device.type}. Use auto, which picks what '
        "the device has, or no."
    )


def set_training(module: nn.Module) -> None:
    """Training mode, except for every part whose parameters are all frozen: that is in eval mode.

    A frozen block then has no dropout and its batch-norm statistics do not move.
    """
    module.train()
    _rest_frozen(module)


def _rest_frozen(module: nn.Module) -> None:
    trainable = [parameter.requires_grad for parameter in module.parameters()]
    if trainable and not any(trainable):
        module.eval()
    elif not all(trainable):
        for child in module.children():
            _rest_frozen(child)


class Engine:
    """Takes optimiser steps.

    Attributes:
        device: Where the modules are.
        modules: By name, prepared (wrapped when several processes train).
        raw: By name, as they were given; the same weights.
        optimizers: By name, as they were given.
        rank: Of this process.
        world: Processes that train together.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        *,
        device: str = "auto",
        mixed_precision: str = "auto",
        schedules: Schedule | Mapping[str, Schedule] | None = None,
        turns: Mapping[str, Sequence[str]] | None = None,
        clip: float | None = None,
        trackers: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        if clip is not None and clip <= 0:
            raise UsageError(f"clip must be above 0, got {clip}. Typical: 1.0; None for none.")
        chosen = pick_device(device)
        precision = pick_precision(mixed_precision, chosen)
        self.accelerator = _accelerator(chosen, precision, trackers, folder)
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self.raw = dict(modules)
        self.optimizers = dict(optimizers)
        self.turns = _check_turns(turns, self.optimizers, self.world)
        self.schedules = _check_schedules(schedules, self.optimizers)
        self._clip = clip
        self._check_owned()
        self.modules, self._prepared = self._prepare()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    def state(self, run: Run, streams: Streams, **more: Any) -> LoopState:
        """What a step function sees while this engine works.

        Args:
            run: The run.
            streams: Random streams of this work.
            **more: Further fields of `LoopState`.
        """
        return LoopState(
            modules=self.modules, plain=self.raw, optimizers=self.optimizers, run=run,
            device=self.device, streams=streams, tensors=self.tensors, rank=self.rank,
            world=self.world, backward_call=self.backward, reduce_call=self.reduce, **more,
        )  # fmt: skip

    def set_training(self) -> None:
        """Put the modules in training mode, frozen parts in evaluation mode."""
        for module in self.raw.values():
            set_training(module)

    def set_rates(self, step: int) -> float:
        """Set each group's rate for this step; returns the highest."""
        highest = 0.0
        for name, optimizer in self.optimizers.items():
            schedule = self.schedules.get(name)
            factor = 1.0 if schedule is None else schedule(step)
            for group in optimizer.param_groups:
                if schedule is not None:
                    group["lr"] = group["initial_lr"] * factor
                highest = max(highest, float(group["lr"]))
        return highest

    def optimise(
        self, step: StepFunction, window: Window, state: LoopState
    ) -> tuple[StepOutput, list[dict[str, Tensor | float]]]:
        """Take one optimiser step (one a turn).

        Every batch's mean loss counts by its share of the rows, so that the step equals that of
        one large batch.

        Returns:
            The last output, and what each call recorded times its share.
        """
        shares = self._shares(window.weights)
        recorded: list[dict[str, Tensor | float]] = []
        output = StepOutput(torch.zeros(()))
        for turn, active in self.turns.items():
            state.turn = turn
            with self._only(active):
                for place, batch in enumerate(window.batches):
                    state.share = shares[place]
                    with self._sync(place == len(window.batches) - 1):
                        output = self._call(step, send_to_device(batch, self.device), state)
                    part = shares[place] / self.world
                    prefix = f"{turn}_" if turn else ""
                    recorded.append(
                        {prefix + key: value * part for key, value in output.recorded().items()}
                    )
                norm = self._clip_and_step(active)
                if norm is not None:
                    recorded.append({"grad_norm": norm})
        return output, recorded

    def backward(self, loss: Tensor) -> None:
        """Back-propagate through Accelerate (loss scaling, gradient reduction)."""
        self.accelerator.backward(loss)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum over processes."""
        if self.world == 1:
            return tensor
        result: Tensor = self.accelerator.reduce(tensor.to(self.device), reduction="sum")
        return result

    def tensors(self, skip_frozen: bool = False) -> dict[str, Tensor]:
        """Every parameter and buffer by `module/name`, each once.

        Args:
            skip_frozen: Leave out parameters that no optimiser holds.
        """
        held = {id(parameter) for parameter in self._held()}
        found: dict[str, Tensor] = {}
        for name, module in self.raw.items():
            for key, parameter in module.named_parameters():
                if not skip_frozen or id(parameter) in held:
                    found[f"{name}/{key}"] = parameter
            found.update({f"{name}/{key}": buffer for key, buffer in module.named_buffers()})
        return found

    def close(self) -> None:
        """Leave the modules ready to predict and finish the trackers."""
        for module in self.raw.values():
            module.zero_grad(set_to_none=True)
            module.eval()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _call(self, step: StepFunction, batch: Any, state: LoopState) -> StepOutput:
        with self.accelerator.autocast():
            output = as_output(step(batch, state))
        if not output.manual:
            loss = output.total()
            if loss.ndim:
                raise UsageError(
                    f"a step function returns scalar losses, got shape {tuple(loss.shape)}. "
                    "Take the mean over the batch."
                )
            self.backward(loss if state.share == 1.0 else loss * state.share)
        return output

    def _clip_and_step(self, active: Sequence[str]) -> Tensor | None:
        norm: Tensor | None = None
        if self._clip is not None:
            if self.accelerator.scaler is not None:
                for name in active:
                    self.accelerator.unscale_gradients(self._prepared[name])
            held = [
                parameter
                for name in active
                for group in self.optimizers[name].param_groups
                for parameter in group["params"]
            ]
            norm = torch.nn.utils.clip_grad_norm_(held, self._clip)
        for name in active:
            self._prepared[name].step()
        for module in self.raw.values():
            module.zero_grad(set_to_none=True)
        return norm

    def _shares(self, weights: Sequence[float]) -> list[float]:
        total = sum(weights)
        if self.world > 1:
            everyone = self.reduce(torch.tensor([total], dtype=torch.float32, device=self.device))
            total = float(everyone.item())
        if total <= 0:
            return [self.world / len(weights)] * len(weights)
        return [weight * self.world / total for weight in weights]

    @contextmanager
    def _only(self, active: Sequence[str]) -> Iterator[None]:
        """Ask for gradients of the active optimisers' parameters alone."""
        others = set(self.optimizers) - set(active)
        mine = {id(parameter) for parameter in self._held(active)}
        resting = [p for p in self._held(others) if id(p) not in mine and p.requires_grad]
        for parameter in resting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in resting:
                parameter.requires_grad_(True)

    @contextmanager
    def _sync(self, last: bool) -> Iterator[None]:
        if last or self.world == 1:
            yield
            return
        with ExitStack() as stack:
            for module in self.modules.values():
                context: AbstractContextManager[Any] = self.accelerator.no_sync(module)
                stack.enter_context(context)
            yield

    def _held(self, names: Iterator[str] | Sequence[str] | set[str] | None = None) -> list[Tensor]:
        return [
            parameter
            for name in (self.optimizers if names is None else names)
            for group in self.optimizers[name].param_groups
            for parameter in group["params"]
        ]

    def _check_owned(self) -> None:
        owned = {id(p) for module in self.raw.values() for p in module.parameters()}
        for name, optimizer in self.optimizers.items():
            if any(id(p) not in owned for group in optimizer.param_groups for p in group["params"]):
                raise UsageError(
                    f'optimizer "{name}" holds a parameter of no module in modules, so no '
                    "checkpoint would keep it. Add its module to modules."
                )

    def _prepare(self) -> tuple[dict[str, nn.Module], dict[str, Any]]:
        names = list(self.optimizers)
        if self.world == 1:
            for module in self.raw.values():
                module.to(self.device)
            if self.accelerator.scaler is None:  # nothing to wrap; the wrapper costs time each step
                return dict(self.raw), dict(self.optimizers)
            made = [self.accelerator.prepare_optimizer(self.optimizers[name]) for name in names]
            return dict(self.raw), dict(zip(names, made, strict=True))
        everything = self.accelerator.prepare(*self.raw.values(), *self.optimizers.values())
        modules = dict(zip(self.raw, everything[: len(self.raw)], strict=True))
        made = everything[len(self.raw) :]
        self.optimizers = {name: made[place].optimizer for place, name in enumerate(names)}
        return modules, dict(zip(names, made, strict=True))


def _accelerator(
    device: torch.device, precision: str, trackers: Sequence[str], folder: Path | None
) -> Accelerator:
    """A fresh Accelerator: its state is global and would keep an earlier fit's precision."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not distributed)
    GradientState._reset_state()
    with warnings.catch_warnings(), _placed_on(device, distributed):
        warnings.simplefilter("ignore")
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with=list(trackers) or None,
            project_dir=None if folder is None else str(folder),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise UsageError("DeepSpeed is not supported. Use DDP or FSDP through accelerate launch.")
    return accelerator


@contextmanager
def _placed_on(device: torch.device, distributed: bool) -> Iterator[None]:
    """Let Accelerate take the CUDA device of that number, where it would take the first one.

    Processes that were launched together each have theirs from the launcher.
    """
    if distributed or device.type != "cuda" or device.index is None:
        yield
        return
    torch.cuda.set_device(device)  # what Accelerate does with a device that it picked itself
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    os.environ[name] = str(device)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _check_turns(
    turns: Mapping[str, Sequence[str]] | None, optimizers: Mapping[str, Optimizer], world: int
) -> dict[str, tuple[str, ...]]:
    if not optimizers:
        raise UsageError("optimizers is empty. Give at least one.")
    if turns is None:
        return {"": tuple(optimizers)}
    if world > 1:
        raise UsageError("turns need a single process; several were launched. Launch one.")
    for turn, names in turns.items():
        for name in names:
            if name not in optimizers:
                raise UsageError(
                    f'turn "{turn}" names optimizer "{name}".{nearest(name, optimizers)}'
                )
    return {turn: tuple(names) for turn, names in turns.items()}


def _check_schedules(
    schedules: Schedule | Mapping[str, Schedule] | None, optimizers: Mapping[str, Optimizer]
) -> dict[str, Schedule]:
    if schedules is None:
        return {}
    if callable(schedules):
        return dict.fromkeys(optimizers, schedules)
    found: dict[str, Schedule] = {}
    named: Mapping[str, Callable[[int], float]] = schedules
    for name, schedule in named.items():
        if name not in optimizers:
            raise UsageError(f'schedule for optimizer "{name}".{nearest(name, optimizers)}')
        found[name] = schedule
    return found

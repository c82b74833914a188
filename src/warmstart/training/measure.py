"""What a step costs: a few real steps on a copy, timed, with the memory they took."""

from __future__ import annotations

import copy
import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psutil
import torch
from torch import nn
from torch.optim import Optimizer

from warmstart.core import Run, synchronize

from .engine import Engine
from .feed import Feed
from .interruption import private_random_state, seed_all
from .loaders import Loader
from .state import LoopState, StepFunction

__all__ = ["PeakMemory", "StepCost", "measure_steps"]


@dataclass(frozen=True)
class StepCost:
    """What one optimiser step takes.

    Attributes:
        seconds: Median over the measured steps, the first left out.
        peak_bytes: Most memory in use: on CUDA what torch had allocated, else the resident set of
            the process.
        steps: Steps taken.
        steps_per_epoch: Optimiser steps an epoch has.
    """

    seconds: float
    peak_bytes: int
    steps: int
    steps_per_epoch: int


class PeakMemory:
    """Most memory in use inside the context, in bytes.

    On CUDA the most that torch had allocated; elsewhere the process's resident set, looked at
    every few milliseconds.
    """

    def __init__(self, device: torch.device, interval: float = 0.005) -> None:
        self.bytes = 0
        self._device = device
        self._interval = interval
        self._ended = threading.Event()
        self._process = psutil.Process()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return self
        self._look()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watcher is None:
            self.bytes = int(torch.cuda.max_memory_allocated(self._device))
            return
        self._ended.set()
        self._watcher.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, int(self._process.memory_info().rss))


def measure_steps(
    *,
    step: StepFunction,
    modules: Mapping[str, nn.Module],
    optimizers: Optimizer | Mapping[str, Optimizer],
    loaders: Loader | Sequence[Any] | Mapping[str, Loader | Sequence[Any]],
    run: Run,
    steps: int = 4,
    turns: Mapping[str, Sequence[str]] | None = None,
    accumulate: int = 1,
    weigh: Callable[[Any], float] | None = None,
    clip: float | None = None,
    mixed_precision: str = "auto",
    device: str | None = None,
) -> StepCost:
    """Take a few real steps on a deep copy; the given modules and optimisers stay as they are.

    The arguments are those of `fit_loop`. The step function must call `state.modules`.
    """
    named = {"main": optimizers} if isinstance(optimizers, Optimizer) else dict(optimizers)
    # One deepcopy call, so that the copied optimisers hold the copied parameters.
    copied, moved = copy.deepcopy((dict(modules), named))
    with private_random_state():
        engine = Engine(
            copied, moved, device=device or run.device, mixed_precision=mixed_precision,
            turns=turns, clip=clip,
        )  # fmt: skip
        feed = Feed(
            loaders, accumulate=accumulate, weigh=weigh, rank=engine.rank, world=engine.world
        )
        state = LoopState(
            modules=engine.modules, plain=engine.raw, optimizers=engine.optimizers, run=run,
            device=engine.device, streams=run.streams.child("measure"), tensors=engine.tensors,
            rank=engine.rank, world=engine.world, backward_call=engine.backward,
            reduce_call=engine.reduce,
        )  # fmt: skip
        engine.set_training()
        with PeakMemory(engine.device) as peak:
            times = _timed(engine, feed, step, state, steps)
        engine.close()
    cost = StepCost(statistics.median(times[1:] or times), peak.bytes, len(times), feed.steps)
    del copied, moved, engine, state
    gc.collect()
    return cost


def _timed(
    engine: Engine, feed: Feed, step: StepFunction, state: LoopState, steps: int
) -> list[float]:
    times: list[float] = []
    epoch = 0
    while len(times) < max(2, steps):
        windows = feed.windows(epoch)
        while len(times) < max(2, steps):
            synchronize(engine.device)
            begin = time.perf_counter()
            window = next(windows, None)  # reading the batch is part of the step
            if window is None:
                break
            seed_all(state.streams, "step", state.step)
            engine.optimise(step, window, state)
            synchronize(engine.device)
            times.append(time.perf_counter() - begin)
            feed.commit(window)
            state.step += 1
        epoch += 1
    return times

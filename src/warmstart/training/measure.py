"""What a step costs: a few real steps on a copy, timed, with the memory they took."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from warmstart.core import Meter, Run, synchronize, tells_out_of_memory

from .engine import Engine
from .feed import Feed
from .interruption import private_random_state, seed_all
from .loaders import Loader
from .state import LoopState, StepFunction

__all__ = ["StepCost", "measure_steps"]


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


@tells_out_of_memory("Measuring a step")
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

    Raises:
        OutOfMemory: When a step does not fit into memory.
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
        state = engine.state(run, run.streams.child("measure"))
        engine.set_training()
        with Meter(engine.device) as meter:
            times = _timed(engine, feed, step, state, steps)
        engine.close()
    cost = StepCost(statistics.median(times[1:] or times), meter.peak_bytes, len(times), feed.steps)
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

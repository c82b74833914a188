"""Which learning rate: a short training whose rate rises from step to step, on a copy.

For the whole optimiser the ratios between its groups stay as they are and one number rises; group
by group, one group moves while all others keep still.
"""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from warmstart.core import Run, UsageError, nearest, progress, tells_out_of_memory

from .engine import Engine
from .feed import Feed
from .interruption import private_random_state, seed_all
from .loaders import Loader
from .state import LoopState, StepFunction

__all__ = ["RateSweep", "find_rates", "read_sweep"]

_MOST_STEPS = 10_000


@dataclass(frozen=True)
class RateSweep:
    """Losses while the rate rose.

    Attributes:
        group: Name of the one layer group that moved; None where all did.
        rates: The rate of each step, rising by a constant ratio.
        losses: The loss before each step.
        smoothed: Their running means, exponentially weighted and freed of the bias to 0.
        steepest: The rate where the smoothed loss falls fastest on the logarithmic axis; None
            where it never falls.
        tenth: A tenth of the rate where the smoothed loss is lowest; None where it never falls.
        diverged: Whether the loss ran away, which ended the sweep.
    """

    group: str | None
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    tenth: float | None
    diverged: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for reports and plots."""
        return {
            "group": self.group, "rates": list(self.rates), "losses": list(self.losses),
            "smoothed": list(self.smoothed), "steepest": self.steepest, "tenth": self.tenth,
            "diverged": self.diverged,
        }  # fmt: skip


@tells_out_of_memory("The learning-rate finder")
def find_rates(
    *,
    step: StepFunction,
    modules: Mapping[str, nn.Module],
    optimizers: Optimizer,
    loaders: Loader | Sequence[Any] | Mapping[str, Loader | Sequence[Any]],
    run: Run,
    base: float | None = None,
    lowest: float = 1e-7,
    highest: float = 1.0,
    steps: int = 100,
    smoothing: float = 0.9,
    diverges: float = 4.0,
    groups: bool | Sequence[str] = False,
    accumulate: int = 1,
    weigh: Callable[[Any], float] | None = None,
    clip: float | None = None,
    mixed_precision: str = "auto",
    device: str | None = None,
) -> tuple[RateSweep, ...]:
    """Raise the learning rate step by step on copies and see what the loss does.

    Modules, optimiser and random state stay as they were; the arguments are those of `fit_loop`.
    Every sweep starts from the same weights and sees the same batches.

    Args:
        step: As for `fit_loop`; must call `state.modules`.
        modules: As for `fit_loop`.
        optimizers: One optimiser; its groups' rates give the ratios.
        loaders: As for `fit_loop`.
        run: Gives seed and device; nothing is logged.
        base: The rate to which the optimiser's rates belong (a strategy's `rate`); the highest of
            them when None. Sweeps of the whole are given in its units, and those of a group in the
            group's own rate.
        lowest: First rate.
        highest: Last rate.
        steps: Steps of a sweep that does not diverge, 10 to 10,000.
        smoothing: Weight of the past in the running mean, in [0, 1).
        diverges: A sweep ends when the smoothed loss is this many times its lowest value, or is
            not finite.
        groups: Also sweep each group on its own (True), or these.
        accumulate: As for `fit_loop`.
        weigh: As for `fit_loop`.
        clip: As for `fit_loop`.
        mixed_precision: As for `fit_loop`.
        device: As for `fit_loop`.

    Returns:
        The sweep of the whole, then one a group.

    Raises:
        UsageError: For settings outside their ranges, or a group that the optimiser lacks.
        OutOfMemory: When a step does not fit into memory.

    Source: Smith 2017, Cyclical learning rates for training neural networks, section 3.3, with an
    exponential sweep and stop as in fastai.
    """
    _check(lowest, highest, steps, smoothing, diverges)
    names = _wanted(optimizers, groups)
    rates = np.geomspace(lowest, highest, steps)
    sweeps = []
    with progress.task("learning-rate finder", steps * (1 + len(names)), unit="steps") as bar:
        for name in (None, *names):
            # One deepcopy call, so that the copied optimiser holds the copied parameters.
            copied, moved = copy.deepcopy((dict(modules), optimizers))
            with private_random_state():
                engine = Engine(
                    copied, {"main": moved}, device=device or run.device,
                    mixed_precision=mixed_precision, clip=clip,
                )  # fmt: skip
                feed = Feed(
                    loaders, accumulate=accumulate, weigh=weigh, rank=engine.rank,
                    world=engine.world,
                )  # fmt: skip
                losses = _losses(
                    engine, feed, step, run,
                    rates=rates, set_rate=_setter(moved, name, base), smoothing=smoothing,
                    diverges=diverges, advance=bar.advance,
                )  # fmt: skip
                engine.close()
            sweeps.append(read_sweep(rates, losses, smoothing, group=name, diverges=diverges))
            del copied, moved, engine
            gc.collect()
    return tuple(sweeps)


def read_sweep(
    rates: Sequence[float] | np.ndarray,
    losses: Sequence[float],
    smoothing: float = 0.9,
    *,
    group: str | None = None,
    diverges: float = 4.0,
) -> RateSweep:
    """Smooth a sweep's losses and read the two suggestions off them.

    Both look only at what came up to the lowest point: `steepest` is where the slope against
    log(rate), by central differences, is most negative.

    Args:
        rates: At least as many as losses, rising.
        losses: One a step; the last may be infinite or not a number.
        smoothing: Weight of the past in the running mean.
        group: The group that moved.
        diverges: As in `find_rates`.
    """
    smoothed = _smooth(losses, smoothing)
    ran = bool(smoothed) and _runs_away(smoothed, diverges)
    finite = [value for value in smoothed if math.isfinite(value)]
    steepest = tenth = None
    lowest = int(np.argmin(finite)) if finite else 0
    if lowest >= 1 and finite[lowest] < finite[0]:
        logs = np.log([float(rate) for rate in rates[: len(finite)]])
        slopes = np.gradient(np.asarray(finite), logs)[: lowest + 1]
        steepest = float(rates[int(np.argmin(slopes))])
        tenth = float(rates[lowest]) / 10.0
    return RateSweep(
        group, tuple(float(rate) for rate in rates[: len(losses)]),
        tuple(float(loss) for loss in losses), tuple(smoothed), steepest, tenth, ran,
    )  # fmt: skip


def _losses(
    engine: Engine,
    feed: Feed,
    step: StepFunction,
    run: Run,
    *,
    rates: np.ndarray,
    set_rate: Callable[[float], None],
    smoothing: float,
    diverges: float,
    advance: Callable[[int], None],
) -> list[float]:
    state = engine.state(run, run.streams.child("finder"))
    engine.set_training()
    losses: list[float] = []
    epoch = 0
    while len(losses) < len(rates):
        for window in feed.windows(epoch):
            set_rate(float(rates[len(losses)]))
            seed_all(state.streams, "step", state.step, engine.rank)
            _, recorded = engine.optimise(step, window, state)
            feed.commit(window)
            state.step += 1
            losses.append(_loss(recorded, state))
            advance(1)
            if _runs_away(_smooth(losses, smoothing), diverges):
                advance(len(rates) - len(losses))
                return losses
            if len(losses) == len(rates):
                break
        epoch += 1
    return losses


def _loss(recorded: Sequence[Mapping[str, Any]], state: LoopState) -> float:
    """The step's loss over all processes (each part is weighted by its share already)."""
    import torch

    value = sum(float(values["loss"]) for values in recorded if "loss" in values)
    if state.world == 1:
        return value
    return float(state.sum_over_processes(torch.tensor([value], device=state.device)).item())


def _setter(optimizer: Optimizer, name: str | None, base: float | None) -> Callable[[float], None]:
    """A function that sets the groups' rates for one number."""
    own = [float(group["lr"]) for group in optimizer.param_groups]
    unit = base if base is not None else max(own)
    if not unit > 0:
        raise UsageError(f"base must be above 0, got {unit}: the optimiser's rates refer to it.")

    def set_rate(rate: float) -> None:
        for group, before in zip(optimizer.param_groups, own, strict=True):
            if name is None:
                group["lr"] = before / unit * rate
            else:
                group["lr"] = rate if group.get("name") == name else 0.0

    return set_rate


def _smooth(losses: Sequence[float], smoothing: float) -> list[float]:
    """`m_t = s·m_{t-1} + (1 - s)·x_t`, divided by `1 - s^t` (Kingma and Ba 2015, section 3)."""
    mean, found = 0.0, []
    for place, loss in enumerate(losses):
        mean = smoothing * mean + (1.0 - smoothing) * loss
        found.append(mean / (1.0 - smoothing ** (place + 1)))
    return found


def _runs_away(smoothed: Sequence[float], diverges: float) -> bool:
    last = smoothed[-1]
    return not math.isfinite(last) or last > diverges * min(smoothed)


def _wanted(optimizer: Optimizer, groups: bool | Sequence[str]) -> list[str]:
    there = list(
        dict.fromkeys(str(group["name"]) for group in optimizer.param_groups if "name" in group)
    )
    if isinstance(groups, bool):
        if groups and not there:
            raise UsageError("the optimiser's groups have no names. Make it with make_optimizer.")
        return there if groups else []
    for name in groups:
        if name not in there:
            raise UsageError(f'the optimiser has no group "{name}".{nearest(name, there)}')
    return list(groups)


def _check(lowest: float, highest: float, steps: int, smoothing: float, diverges: float) -> None:
    if not 0.0 < lowest < highest:
        raise UsageError(
            f"the finder takes 0 < lowest < highest, got {lowest} and {highest}. "
            "Typical: 1e-7 and 1."
        )
    if not 10 <= steps <= _MOST_STEPS:
        raise UsageError(
            f"the finder takes 10 to {_MOST_STEPS:,} steps, got {steps}. Typical: 100."
        )
    if not 0.0 <= smoothing < 1.0:
        raise UsageError(f"smoothing must be in [0, 1), got {smoothing}. Typical: 0.9.")
    if diverges <= 1.0:
        raise UsageError(f"diverges must be above 1, got {diverges}. Typical: 4.")

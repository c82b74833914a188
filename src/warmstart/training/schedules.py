"""Learning-rate schedules: functions from the step to a multiplier of the base rate.

A schedule is stateless, so resuming needs nothing but the step. `step` counts optimiser steps from
0; the value is the multiplier used in that step. Each function also fits
`torch.optim.lr_scheduler.LambdaLR`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from warmstart.core import UsageError, nearest

__all__ = [
    "SCHEDULES",
    "Schedule",
    "constant",
    "make_schedule",
    "one_cycle",
    "slanted_triangular",
    "warmup_cosine",
    "warmup_linear",
]

Schedule = Callable[[int], float]


def constant(total: int, warmup: int = 0) -> Schedule:
    """A linear rise over `warmup` steps, then 1."""
    _check(total, warmup)
    return lambda step: _rise(step, warmup) if step < warmup else 1.0


def warmup_linear(total: int, warmup: int) -> Schedule:
    """A linear rise to 1, then a linear fall that would reach 0 at step `total`.

    Source: Devlin et al. 2019, BERT, appendix A.2 (warm-up over 10,000 steps, linear decay).
    """
    _check(total, warmup)

    def multiplier(step: int) -> float:
        if step < warmup:
            return _rise(step, warmup)
        return max(0.0, (total - step) / max(1, total - warmup))

    return multiplier


def warmup_cosine(total: int, warmup: int, floor: float = 0.0) -> Schedule:
    """A linear rise to 1, then half a cosine that would reach `floor` at step `total`.

    Source: Loshchilov and Hutter 2017, SGDR, equation 5, without restarts; warm-up as in
    Goyal et al. 2017.
    """
    _check(total, warmup)

    def multiplier(step: int) -> float:
        if step < warmup:
            return _rise(step, warmup)
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))

    return multiplier


def slanted_triangular(total: int, cut: float = 0.1, ratio: float = 32.0) -> Schedule:
    """A short linear rise from 1/`ratio` to 1, then a long linear fall back to 1/`ratio`.

    Source: Howard and Ruder 2018, ULMFiT, equation 3 (T = `total`, cut_frac = `cut`).
    """
    _check(total, 0)
    if not 0.0 < cut < 1.0 or ratio < 1.0:
        raise UsageError(
            "slanted_triangular takes cut between 0 and 1 and ratio of at least 1, "
            f"got cut={cut} and ratio={ratio}. The paper uses 0.1 and 32."
        )
    peak = max(1, math.floor(total * cut))

    def multiplier(step: int) -> float:
        share = step / peak if step < peak else 1.0 - (step - peak) / (peak * (1.0 / cut - 1.0))
        return (1.0 + max(0.0, share) * (ratio - 1.0)) / ratio

    return multiplier


def one_cycle(total: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4) -> Schedule:
    """Half a cosine up from 1/`start` to 1, then half a cosine down to 1/(`start`·`end`).

    Source: Smith and Topin 2018, super-convergence; the cosine form is fastai's. The momentum
    stays as it is.
    """
    _check(total, 0)
    peak = max(1.0, rise * total)

    def multiplier(step: int) -> float:
        if step < peak:
            low, done = 1.0 / start, 1.0 - step / peak
        else:
            low, done = 1.0 / (start * end), min(1.0, (step - peak) / max(1.0, total - peak))
        return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * done))

    return multiplier


SCHEDULES = ("constant", "cosine", "linear", "one-cycle", "slanted-triangular")


def make_schedule(name: str, total: int, warmup: float = 0.1) -> Schedule:
    """The schedule of that name over `total` optimiser steps.

    Args:
        name: One of `SCHEDULES`.
        total: Optimiser steps in all, at least 1.
        warmup: Share of the steps that the rate rises, in [0, 1).

    Raises:
        UsageError: For an unknown name or a share outside the range.
    """
    if not 0.0 <= warmup < 1.0:
        raise UsageError(f"warmup is a share of the steps in [0, 1), got {warmup}. Typical: 0.1.")
    rise = math.ceil(warmup * total) if total > 1 else 0
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: constant(total, rise),
        "cosine": lambda: warmup_cosine(total, rise),
        "linear": lambda: warmup_linear(total, rise),
        "one-cycle": lambda: one_cycle(total, rise=warmup or 0.3),
        "slanted-triangular": lambda: slanted_triangular(total, cut=warmup or 0.1),
    }
    if name not in makers:
        raise UsageError(f'schedule "{name}" is unknown.{nearest(name, SCHEDULES)}')
    return makers[name]()


def _rise(step: int, warmup: int) -> float:
    # (step + 1): the first step already moves the weights.
    return (step + 1) / (warmup + 1)


def _check(total: int, warmup: int) -> None:
    if total < 1 or not 0 <= warmup <= total:
        raise UsageError(
            "a schedule takes total of at least 1 step and warmup between 0 and total, "
            f"got total={total} and warmup={warmup}."
        )

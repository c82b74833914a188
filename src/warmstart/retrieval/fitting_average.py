"""The mean of the weights over the last steps, which often ranks better than the last weights."""

from __future__ import annotations

import copy

import torch

from warmstart.training import Callback, LoopState, StepOutput

from .towers import Towers

__all__ = ["Averaging", "averaged", "judged_towers"]

AVERAGE = "average"


def averaged(towers: Towers) -> Towers:
    """A copy that takes no gradient; among the loop's modules, checkpoints keep it."""
    return copy.deepcopy(towers).requires_grad_(False)


class Averaging(Callback):
    """After each step moves the module `average` towards `towers`: `a = d a + (1 - d) w`.

    Early steps weigh more, `d = min(decay, (1 + t) / (10 + t))` after t steps, so that the start
    weights are soon forgotten.

    Source: Polyak and Juditsky 1992; in this form as in Tarvainen and Valpola 2017, Mean teachers.
    """

    def __init__(self, decay: float) -> None:
        """Take the decay, in (0, 1): the mean is over about 1 / (1 - decay) steps."""
        self._decay = decay

    @torch.no_grad()
    def on_step(self, state: LoopState, output: StepOutput) -> None:
        """Move the mean."""
        decay = min(self._decay, (1.0 + state.step) / (10.0 + state.step))
        mean, now = state.plain[AVERAGE].state_dict(), state.plain["towers"].state_dict()
        for key, value in mean.items():
            value.lerp_(now[key], 1.0 - decay)


def judged_towers(state: LoopState) -> Towers:
    """The towers that are judged and kept: their mean where there is one."""
    towers = state.plain.get(AVERAGE, state.plain["towers"])
    assert isinstance(towers, Towers)
    return towers

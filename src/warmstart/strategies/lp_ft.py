"""Probe, then fine-tune: training begins where the convex head already stands."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat

from warmstart.backbones import Backbone
from warmstart.core import Run
from warmstart.data import View
from warmstart.models import Head, HeadShape

from .probe import convex_head
from .registry import register
from .trained import Trained

__all__ = ["ProbeThenFinetune"]


@register
class ProbeThenFinetune(Trained):
    """The probe's head first, then all groups (LP-FT; Kumar et al. 2022).

    A random head sends large gradients into good features and distorts them; the probe's head does
    not. The start is a candidate for the best weights, so on the validation loss the result is
    never behind the probe. Settings that are not named here are those of fine-tuning.

    Needs: some hundred labels. Pick when: test data may differ from the training data, or
    fine-tuning falls below the probe.

    Attributes:
        rate: Rate of the last backbone group.
        head: `linear`, as the probe's is.
    """

    name: ClassVar[str] = "lp-ft"
    title: ClassVar[str] = "Probe, then fine-tuning"
    rate: PositiveFloat = 5e-4
    head: Literal["linear"] = "linear"
    _keep_start: ClassVar[bool] = True

    def _start_head(self, backbone: Backbone, view: View, run: Run, shape: HeadShape) -> Head:
        head = Head(shape, run.streams)
        solved = convex_head(backbone, view)
        with torch.no_grad():
            head.output.weight.copy_(solved.output.weight)
            head.output.bias.copy_(solved.output.bias)
        return head

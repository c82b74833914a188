"""Fine-tuning every layer, each at its own rate, and its control: the same from random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from warmstart.backbones import Backbone
from warmstart.core import Run, UsageError, typical
from warmstart.data import View

from .base import Cost
from .registry import register
from .retain import OldTask
from .trained import Trained

__all__ = ["Finetune", "Scratch"]


@register
class Finetune(Trained):
    """All groups learn, earlier ones more slowly: rate_l = rate / factor^(L - l).

    Discriminative rates after Howard and Ruder (ULMFiT, 2018, §3.2); AdamW; the head learns at
    `head_multiplier` times the last group's rate.

    Needs: some hundred labels or more. Pick when: the probe levels off, or the domain is new.

    Attributes:
        rate: Rate of the last backbone group.
        factor: By how much each earlier group learns more slowly; 1 for one rate.
        head_multiplier: The head's rate in units of `rate`, 1 to 10.
        epochs: Passes at most, or `auto`: about 300 steps, 3 to 15 passes.
        batch_size: Rows a step; halved for very small data until an epoch has eight steps, to 4 or,
            where batch normalisation takes its statistics from them, 16 rows.
        head: `linear` or `mlp`.
        hidden: Width of an `mlp` head.
        dropout: Before the head's layers, while training.
        schedule: After the warm-up.
        warmup: Share of the steps that the rate rises.
        weight_decay: Decoupled, on matrices only.
        clip: Largest gradient norm.
        label_smoothing: Share of the target spread over all classes.
        patience: Epochs without a better validation loss before training stops.
    """

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "Fine-tuning"
    rate: PositiveFloat = Field(5e-4, json_schema_extra=typical("2e-5 to 1e-3"))


@register
class Scratch(Trained):
    """The same architecture with random weights: what the pretraining is worth.

    One rate for all layers, more epochs than fine-tuning and the same early stop, so that the
    control is given a fair chance. Weights are a function of the seed. Settings that are not named
    here are those of fine-tuning.

    Needs: as many labels as can be had. Pick when: data is plentiful and unlike the pretraining.

    Attributes:
        rate: Rate of all groups.
        factor: 1: random layers all have as much to learn.
        head_multiplier: 1: the head is as new as every other layer.
        epochs: Passes at most, or `auto`: about 600 steps, 5 to 30 passes.
        patience: Epochs without a better validation loss before training stops.
    """

    name: ClassVar[str] = "scratch"
    title: ClassVar[str] = "From scratch"
    role: ClassVar[Literal["arm", "control"]] = "control"
    from_scratch: ClassVar[bool] = True
    rate: PositiveFloat = Field(3e-4, json_schema_extra=typical("1e-4 to 1e-3"))
    factor: float = Field(1.0, ge=1, le=100, json_schema_extra=typical("1 to 3"))
    head_multiplier: float = Field(1.0, ge=1, le=10, json_schema_extra=typical("1 to 10"))
    patience: PositiveInt = 4
    _steps: ClassVar[int] = 600
    _least: ClassVar[int] = 5
    _most: ClassVar[int] = 30

    def check(self, backbone: Backbone, view: View) -> None:
        """Random weights are no start worth going back to.

        Raises:
            UsageError: For settings that hold the weights to their start.
        """
        super().check(backbone, view)
        for setting in ("l2_sp", "ewc", "wise"):
            if getattr(self, setting):
                raise UsageError(
                    f"scratch.{setting} would hold random weights to where they began. Leave it "
                    "out, or use finetune."
                )
        if self.batch_norm == "eval":
            raise UsageError(
                "scratch.batch_norm=eval would keep statistics of an untrained network. Leave it "
                "out, or give train."
            )

    def cost_by(self, full: Cost, backbone: Backbone, view: View) -> Cost | None:
        """The same steps from another start; whether a user's own network has one is tried."""
        if backbone.code or not self._steps_as(full, backbone, view):
            return None
        return replace(full, epochs=self._epochs(backbone, view))

    def _old_task(self, backbone: Backbone, view: View) -> OldTask | None:
        return None  # random weights have nothing to forget

    def _random_seed(self, run: Run) -> int | None:
        return run.streams.seed("scratch")

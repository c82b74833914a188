"""The contract of every way of adapting: a frozen value whose `fit` returns a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from torch import nn

from warmstart.backbones import Backbone, Encoder
from warmstart.core import Config, Run
from warmstart.data import View
from warmstart.models import Model

__all__ = ["Cost", "Fitted", "Role", "Strategy"]

Role = Literal["arm", "control"]


@dataclass(frozen=True)
class Cost:
    """What a training arm costs on this machine, from a few real steps.

    Attributes:
        seconds_per_step: Median time of an optimiser step.
        steps_per_epoch: Steps that pass every training row once.
        epochs: Epochs that the strategy would run if time allowed.
        overhead: Seconds beside the steps, for every epoch (validation).
        fixed: Seconds before the first step (Fisher information).
        peak_bytes: Most memory in use during those steps: on CUDA what torch had allocated, else
            the resident set of the process; 0 where it was not watched.
    """

    seconds_per_step: float
    steps_per_epoch: int
    epochs: int
    overhead: float
    peak_bytes: int = 0
    fixed: float = 0.0

    @property
    def seconds(self) -> float:
        """The whole run at its full length, without early stopping."""
        return self.fixed + self.epochs * self._epoch

    def steps_within(self, seconds: float) -> int:
        """Optimiser steps that fit, at most the full length."""
        left = max(0.0, seconds - self.fixed)
        steps = int(left / max(self._epoch, 1e-9) * self.steps_per_epoch)
        return min(steps, self.epochs * self.steps_per_epoch)

    @property
    def _epoch(self) -> float:
        return self.steps_per_epoch * self.seconds_per_step + self.overhead


@dataclass(frozen=True)
class Fitted:
    """What a fit returns: the model, and values for others to write and draw.

    Attributes:
        model: The fitted model.
        trainable_parameters: Weights that were learned.
        history: One dictionary an epoch; empty for strategies without epochs.
        rates: Rows of the table (group, parameters, rate, frozen) that was shown before training.
        notes: Sentences that the user should read.
        values: What was chosen on the way: l2, depth, best epoch.
        stopped: Why training ended: finished, early, deadline, max_steps.
        epochs: Passes over the training rows that were made.
        seconds: Wall time of the training, over all sessions of a resumed fit; 0 without epochs.
    """

    model: Model
    trainable_parameters: int
    history: Sequence[dict[str, Any]] = ()
    rates: Sequence[dict[str, Any]] = ()
    notes: Sequence[str] = ()
    values: dict[str, Any] = field(default_factory=dict)
    stopped: str = "finished"
    epochs: float = 0.0
    seconds: float = 0.0


class Strategy(Config, ABC):
    """A way of adapting: hyperparameters and nothing else.

    A subclass names itself by class variables, says in `check` where it cannot work, and learns in
    `fit`, which sees training and validation rows only and changes neither itself nor the caller's
    backbone.
    """

    model_config = ConfigDict(allow_inf_nan=False)  # inf passes every "above 0" otherwise

    name: ClassVar[str]
    title: ClassVar[str]
    role: ClassVar[Role] = "arm"
    modalities: ClassVar[tuple[str, ...]] = ("text", "image")
    seeded: ClassVar[bool] = True
    """Whether the seed changes the result."""
    uses_features: ClassVar[bool] = False
    """Whether it stands on the untouched backbone's vectors, which arms share.

    Asked of a strategy, not of its class: where settings decide, a property overrides it.
    """
    uses_backbone: ClassVar[bool] = True
    """Whether it starts from the backbone at all."""
    has_head: ClassVar[bool] = True
    """Whether a head is learned on the backbone's vectors."""
    learns: ClassVar[bool] = True
    """Whether training rows change the result: not of what goes by the class names alone."""
    from_scratch: ClassVar[bool] = False
    """Whether losing to it is negative transfer."""
    cost_is_bound: ClassVar[bool] = False
    """Whether `cost_by` tells what it costs at most, its own steps being lighter."""

    @property
    def runs_once(self) -> bool:
        """Whether further seeds would only repeat the first."""
        return not self.seeded

    def check(self, backbone: Backbone, view: View) -> None:
        """Refuse a task on which this strategy cannot work.

        Raises:
            NotApplicable: With the reason.
        """

    def trains(self, encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
        """The parameters of a backbone that would be learned, the head aside.

        Args:
            encoder: An architecture without weights, which may be changed: adapters are put in.
        """
        return []

    @abstractmethod
    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Learn from the view's rows.

        Args:
            backbone: The recipe to start from; each fit loads its own copy.
            view: Training and validation rows.
            run: Where to log, the seed, and how long it may take.
        """

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost | None:
        """Time a few real steps; None for strategies that have no steps to speak of."""
        return None

    def cost_by(self, full: Cost, backbone: Backbone, view: View) -> Cost | None:
        """The cost by steps that were timed on fine-tuning, where its own are the same or lighter.

        Args:
            full: Of fine-tuning with its usual settings, on the same rows.
            backbone: The recipe to start from.
            view: Training and validation rows.

        Returns:
            None where steps of its own must be timed.
        """
        return None

"""Training an encoder and a head on labelled rows: the common part of several strategies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from warmstart.backbones import Backbone, Encoder, FrozenLedger, freeze, unfreeze
from warmstart.core import Run, pick_device
from warmstart.data import View
from warmstart.models import Head
from warmstart.training import (
    Checkpoints,
    Classifier,
    EarlyStopping,
    History,
    RateTable,
    announce,
    classification_loaders,
    classification_step,
    default_workers,
    evaluation,
    fit_loop,
    make_optimizer,
    make_schedule,
    measure_steps,
    rate_table,
    replay_prefix,
)

from .base import Cost

__all__ = ["Job", "Recipe", "epochs_for", "groups_of", "passes", "smaller_batches"]


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained, whatever it is made of.

    Attributes:
        batch_size: Rows a step.
        schedule: Name of the schedule.
        warmup: Share of the steps that the rate rises.
        weight_decay: Decoupled.
        clip: Largest gradient norm.
        label_smoothing: Share of the target spread over all classes.
        patience: Epochs without a better validation loss before it stops; None to go on.
    """

    batch_size: int = 16
    schedule: Literal["linear", "cosine", "constant", "slanted-triangular", "one-cycle"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    label_smoothing: float = 0.0
    patience: int | None = 3


def epochs_for(rows: int, batch_size: int, *, steps: int, least: int, most: int) -> int:
    """Epochs that make about `steps` optimiser steps, within bounds."""
    per_epoch = math.ceil(rows / batch_size)
    return min(most, max(least, math.ceil(steps / per_epoch)))


def groups_of(encoder: Encoder, head: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The backbone's layer groups in order, and the head as the last one."""
    groups = {name: list(encoder.groups.parameters(name)) for name in encoder.groups.names}
    return groups | {"head": [(f"head.{n}", p) for n, p in head.named_parameters()]}


@dataclass
class Job:
    """One training: what moves, how fast, on which rows.

    Attributes:
        encoder: Anything with `preprocess` and `forward(batch) -> vectors (B, D)`.
        head: Vectors to logits.
        rates: Rate of each group, as `rate_table` takes them.
        groups: Ordered parameter groups, head last.
        view: Training and validation rows.
        run: Folder, seed and limits.
        recipe: Everything else.
        name: Shown on the progress bar.
        full_epochs: Passes over the training rows at most.
        frozen: Layer groups of the encoder that do not move; whether they did is checked by hash.
        stage: Name of its checkpoints where a fit has several stages.
        keep_start: Whether the start counts as a candidate for the best weights.
        backbone: Where the encoder came from, when its frozen groups may be computed once and
            replayed; None runs them in every step.
        lean: Whether checkpoints and the best weights leave out what no optimiser holds, as they
            do where groups are frozen.
    """

    encoder: Any
    head: Head
    rates: dict[str, float]
    groups: dict[str, list[tuple[str, nn.Parameter]]]
    view: View
    run: Run
    recipe: Recipe
    name: str
    full_epochs: int
    frozen: tuple[str, ...] = ()
    stage: str | None = None
    keep_start: bool = False
    backbone: Backbone | None = None
    lean: bool = False

    def __post_init__(self) -> None:
        self.table: RateTable = rate_table(
            self.groups,
            1.0,
            rates=self.rates | dict.fromkeys(self.frozen, 0.0),
            module=nn.ModuleList([self.encoder, self.head]),
        )
        if isinstance(self.encoder, Encoder):
            unfreeze(self.encoder, set(self.encoder.frozen) - set(self.frozen))
            freeze(self.encoder, self.frozen)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps that pass every training row once."""
        return math.ceil(len(self.view.train) / self.recipe.batch_size)

    def _parts(self, *, replay: bool) -> dict[str, Any]:
        """What the loop and the measurement both take."""
        device = pick_device(self.run.device)
        settings: dict[str, Any] = {
            "batch_size": self.recipe.batch_size,
            "streams": self.run.streams,
            "num_workers": default_workers(device, self.view.train.modality),
        }
        made = None
        if replay and self.frozen and self.backbone is not None:
            self.encoder.to(device)  # what is kept is made where it will train
            made = replay_prefix(
                self.backbone, self.encoder, self.view.train, self.view.validation, **settings
            )
        if made is not None:
            encoder, train, validation = made.module, made.train, made.validation
        else:
            encoder = self.encoder
            train, validation = classification_loaders(
                self.view.train, self.view.validation, encoder.preprocess, **settings
            )
        optimizer = make_optimizer(self.table, weight_decay=self.recipe.weight_decay)
        return {
            "step": classification_step(label_smoothing=self.recipe.label_smoothing),
            "modules": {"model": Classifier(encoder, self.head)},
            "optimizers": optimizer,
            "loaders": train,
            "run": self.run,
            "clip": self.recipe.clip,
            "validation": validation,
        }

    def train(self) -> History:
        """Run the loop; encoder and head hold the best weights afterwards.

        Raises:
            RunError: When a frozen group moved.
        """
        announce(self.table)
        ledger = FrozenLedger(self.encoder, self.frozen) if self.frozen else None
        parts = self._parts(replay=True)
        validation = parts.pop("validation")
        lean = self.lean or bool(self.frozen)
        steps = self.full_epochs * self.steps_per_epoch
        if self.run.max_steps is not None:
            steps = min(steps, self.run.max_steps)
        history = fit_loop(
            **parts,
            epochs=self.full_epochs,
            schedules=make_schedule(self.recipe.schedule, steps, self.recipe.warmup),
            evaluate=evaluation(validation, classes=len(self.view.label_names)),
            evaluate_first=self.keep_start,
            callbacks=[
                EarlyStopping("validation_loss", patience=self.recipe.patience, skip_frozen=lean)
            ],
            checkpoints=Checkpoints(skip_frozen=lean),
            name=self.stage or self.name,
        )
        if ledger is not None:
            ledger.check()
        return history

    def measure(self) -> Cost:
        """Time a few real steps on a copy, with nothing replayed: an upper bound where it is."""
        parts = self._parts(replay=False)
        del parts["validation"]
        cost = measure_steps(**parts)
        # Validation is forward only: a third of a step's work for each row.
        rows = len(self.view.validation)
        overhead = cost.seconds * rows / self.recipe.batch_size / 3
        return Cost(cost.seconds, self.steps_per_epoch, self.full_epochs, overhead)


def passes(history: History, job: Job) -> float:
    """Passes over the training rows that were made."""
    return history.steps / job.steps_per_epoch


def smaller_batches(recipe: Recipe, rows: int) -> Recipe:
    """Half or a quarter of the batch for very small data, so that an epoch has some steps."""
    size = recipe.batch_size
    while size > 4 and rows / size < 8:
        size //= 2
    return replace(recipe, batch_size=size)

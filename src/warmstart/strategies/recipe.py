"""How a classifier is trained, whatever it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

__all__ = ["Epochs", "Recipe", "ScheduleName", "epochs_for", "smaller_batches"]

# Ten thousand are far beyond use; more is a slip of the keyboard that would run for days.
Epochs = Annotated[int, Field(ge=1, le=10_000)]
ScheduleName = Literal["linear", "cosine", "constant", "slanted-triangular", "one-cycle", "plateau"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a training beside its rates.

    Attributes:
        batch_size: Rows a step.
        schedule: Name of the schedule; `plateau` reduces the rates when validation stands still.
        warmup: Share of the steps that the rate rises.
        weight_decay: Decoupled.
        clip: Largest gradient norm.
        label_smoothing: Share of the target spread over all classes.
        patience: Epochs without a better validation loss before it stops; None to go on.
        balance: Whether each class counts the same in the loss, however many rows it has.
        oversample: How far rare classes are brought to the largest one, in [0, 1].
        mixup: Alpha of mixup; 0 is off.
        augment: Changes of training images as text; empty for none.
        views: Augmented views that are drawn up front where frozen groups are replayed.
        l2_sp: Pull of the backbone's weights to where they started; 0 is off.
        ewc: Pull by what each weight meant to the old task; 0 is off.
        batch_norm: Its mode in groups that learn; `eval` keeps its statistics.
    """

    batch_size: int = 16
    schedule: ScheduleName = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    label_smoothing: float = 0.0
    patience: int | None = 3
    balance: bool = False
    oversample: float = 0.0
    mixup: float = 0.0
    augment: str = ""
    views: int = 4
    l2_sp: float = 0.0
    ewc: float = 0.0
    batch_norm: Literal["train", "eval"] = "train"


def epochs_for(rows: int, batch_size: int, *, steps: int, least: int, most: int) -> int:
    """Epochs that make about `steps` optimiser steps, within bounds."""
    per_epoch = math.ceil(rows / batch_size)
    return min(most, max(least, math.ceil(steps / per_epoch)))


def smaller_batches(recipe: Recipe, rows: int, *, batch_norm: bool = False) -> Recipe:
    """Half or a quarter of the batch for very small data, so that an epoch has some steps.

    Args:
        recipe: Its `batch_size` is the largest.
        rows: Of the training part.
        batch_norm: Whether the network learns with the mean and variance of each batch: 16 rows
            are the fewest then, since the error grows fast below (Wu and He 2018, figure 1).
    """
    size, least = recipe.batch_size, 16 if batch_norm else 4
    while size // 2 >= least and rows / size < 8:
        size //= 2
    return replace(recipe, batch_size=size)

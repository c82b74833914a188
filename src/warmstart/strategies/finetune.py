"""Fine-tuning every layer, each at its own rate."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from warmstart.backbones import Backbone, Encoder
from warmstart.core import Run
from warmstart.data import View
from warmstart.models import EncoderModel, Head, HeadShape
from warmstart.training import discriminative_rates

from .base import Cost, Fitted, Strategy
from .registry import register
from .supervised import Job, Recipe, epochs_for, groups_of, passes, smaller_batches

__all__ = ["Finetune", "Scratch"]


class _Trained(Strategy):
    """What fine-tuning and training from scratch share.

    Attributes:
        rate: Rate of the last backbone group.
        factor: By how much each earlier group learns more slowly.
        head_multiplier: The head's rate in units of `rate`.
        epochs: Passes over the training rows at most, or `auto` by their number.
        batch_size: Rows a step; halved for very small data until an epoch has eight steps.
        head: `linear` or `mlp`.
        hidden: Width of an `mlp` head.
        dropout: Before the head's layers, while training.
        schedule: Learning-rate schedule after the warm-up.
        warmup: Share of the steps that the rate rises.
        weight_decay: Decoupled weight decay, on matrices only.
        clip: Largest gradient norm.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        patience: Epochs without a better validation loss before training stops.
    """

    rate: PositiveFloat = 1e-4
    factor: float = Field(2.6, ge=1)
    head_multiplier: float = Field(3.0, ge=1, le=10)
    epochs: PositiveInt | Literal["auto"] = "auto"
    batch_size: PositiveInt = 16
    head: Literal["linear", "mlp"] = "linear"
    hidden: PositiveInt = 256
    dropout: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["linear", "cosine", "constant", "slanted-triangular", "one-cycle"] = "linear"
    warmup: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    clip: PositiveFloat = 1.0
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    patience: PositiveInt = 3

    _steps: ClassVar[int] = 300
    _least: ClassVar[int] = 3
    _most: ClassVar[int] = 15

    def _random_seed(self, run: Run) -> int | None:
        return None

    def _job(self, backbone: Backbone, view: View, run: Run) -> tuple[Job, Encoder, Head]:
        encoder = backbone.load(random_seed=self._random_seed(run))
        recipe = Recipe(
            batch_size=self.batch_size, schedule=self.schedule, warmup=self.warmup,
            weight_decay=self.weight_decay, clip=self.clip,
            label_smoothing=self.label_smoothing, patience=self.patience,
        )  # fmt: skip
        recipe = smaller_batches(recipe, len(view.train))
        shape = HeadShape(
            dimension=encoder.dimension,
            classes=len(view.label_names),
            hidden=self.hidden if self.head == "mlp" else None,
            dropout=self.dropout,
        )
        head = Head(shape, run.streams)
        groups = groups_of(encoder, head)
        rates = discriminative_rates(groups, self.rate, self.factor, self.head_multiplier)
        epochs = self.epochs
        if epochs == "auto":
            epochs = epochs_for(
                len(view.train), recipe.batch_size,
                steps=self._steps, least=self._least, most=self._most,
            )  # fmt: skip
        job = Job(encoder, head, rates, groups, view, run, recipe, self.title, epochs)
        return job, encoder, head

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps."""
        return self._job(backbone, view, run)[0].measure()

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train, with the weights of the best validation loss kept."""
        job, encoder, head = self._job(backbone, view, run)
        history = job.train()
        model = EncoderModel(backbone, head, view.label_names, encoder=encoder.eval())
        return Fitted(
            model,
            job.table.trainable,
            history=history.epochs,
            rates=[dict(row) for row in job.table.to_rows()],
            values={"best_epoch": history.best_epoch, "batch_size": job.recipe.batch_size},
            stopped=history.stopped,
            epochs=passes(history, job),
            seconds=history.seconds,
        )


@register
class Finetune(_Trained):
    """All groups learn, earlier ones more slowly: rate_l = rate / factor^(L - l).

    Discriminative rates after Howard and Ruder (ULMFiT, 2018, §3.2); AdamW; the head learns at
    `head_multiplier` times the last group's rate.

    Needs: some hundred labels or more. Pick when: the probe levels off, or the domain is new.

    Attributes:
        rate: Rate of the last backbone group.
        factor: By how much each earlier group learns more slowly; 1 for one rate.
        head_multiplier: The head's rate in units of `rate`, 1 to 10.
        epochs: Passes at most, or `auto`: about 300 steps, 3 to 15 passes.
        batch_size: Rows a step; halved for very small data until an epoch has eight steps.
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
    rate: PositiveFloat = 5e-4


@register
class Scratch(_Trained):
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
    rate: PositiveFloat = 3e-4
    factor: float = Field(1.0, ge=1)
    head_multiplier: float = Field(1.0, ge=1, le=10)
    patience: PositiveInt = 4
    _steps: ClassVar[int] = 600
    _least: ClassVar[int] = 5
    _most: ClassVar[int] = 30

    def _random_seed(self, run: Run) -> int | None:
        return run.streams.seed("scratch")

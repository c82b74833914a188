"""What every way of training an encoder and a head shares: settings, the job, and the result."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from warmstart.backbones import Backbone, Encoder
from warmstart.core import Run
from warmstart.data import View
from warmstart.models import EncoderModel, Head, HeadShape
from warmstart.training import History, discriminative_rates

from .base import Cost, Fitted, Strategy
from .supervised import Job, Recipe, epochs_for, groups_of, passes, smaller_batches

__all__ = ["Trained", "fitted"]


class Trained(Strategy):
    """Settings and course of a training; subclasses say what starts where and what is frozen.

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

    _keep_start: ClassVar[bool] = False
    _steps: ClassVar[int] = 300
    _least: ClassVar[int] = 3
    _most: ClassVar[int] = 15

    def _random_seed(self, run: Run) -> int | None:
        return None

    @property
    def _replays(self) -> bool:
        """Whether what frozen groups put out may be computed once and replayed."""
        return getattr(self, "prefix", "off") == "auto"

    def _frozen(self, encoder: Encoder) -> tuple[str, ...]:
        """Layer groups that do not move."""
        return ()

    def trains(self, encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
        """Everything in the groups that are not frozen."""
        frozen = set(self._frozen(encoder))
        names = [name for name in encoder.groups.names if name not in frozen]
        return [item for name in names for item in encoder.groups.parameters(name)]

    def _start_head(self, backbone: Backbone, view: View, run: Run, shape: HeadShape) -> Head:
        """The head that training begins with."""
        return Head(shape, run.streams)

    def _recipe(self, view: View) -> Recipe:
        recipe = Recipe(
            batch_size=self.batch_size, schedule=self.schedule, warmup=self.warmup,
            weight_decay=self.weight_decay, clip=self.clip,
            label_smoothing=self.label_smoothing, patience=self.patience,
        )  # fmt: skip
        return smaller_batches(recipe, len(view.train))

    def _epochs(self, view: View) -> int:
        if self.epochs != "auto":
            return self.epochs
        return epochs_for(
            len(view.train), self._recipe(view).batch_size,
            steps=self._steps, least=self._least, most=self._most,
        )  # fmt: skip

    def _parts(self, backbone: Backbone, view: View, run: Run) -> tuple[Encoder, Head]:
        """A fresh copy of the encoder, and the head."""
        encoder = backbone.load(random_seed=self._random_seed(run))
        shape = HeadShape(
            dimension=encoder.dimension,
            classes=len(view.label_names),
            hidden=self.hidden if self.head == "mlp" else None,
            dropout=self.dropout,
        )
        return encoder, self._start_head(backbone, view, run, shape)

    def _job(self, backbone: Backbone, view: View, run: Run) -> Job:
        encoder, head = self._parts(backbone, view, run)
        groups = groups_of(encoder, head)
        return Job(
            encoder, head,
            rates=discriminative_rates(groups, self.rate, self.factor, self.head_multiplier),
            groups=groups, view=view, run=run, recipe=self._recipe(view), name=self.title,
            full_epochs=self._epochs(view), frozen=self._frozen(encoder),
            keep_start=self._keep_start,
            backbone=backbone if self._replays else None,
        )  # fmt: skip

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps."""
        return self._job(backbone, view, run).measure()

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train, with the weights of the best validation loss kept."""
        self.check(backbone, view)
        job = self._job(backbone, view, run)
        return fitted(backbone, job, job.train())


def fitted(backbone: Backbone, job: Job, history: History) -> Fitted:
    """What came of a job, as a strategy returns it."""
    model = EncoderModel(backbone, job.head, job.view.label_names, encoder=job.encoder.eval())
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

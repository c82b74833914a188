"""A small convolutional network from nothing: the control for images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run
from warmstart.data import View
from warmstart.models import CnnModel, Head, HeadShape, SmallCnn

from .base import Cost, Fitted, Role, Strategy
from .recipe import Epochs, Recipe, smaller_batches
from .registry import register
from .supervised import Job, passes

__all__ = ["Cnn"]


@register
class Cnn(Strategy):
    """Four convolution blocks trained by AdamW with one-cycle rates and an early stop.

    Attributes:
        rate: Highest rate.
        epochs: Passes at most.
        batch_size: Rows a step.
        image_size: Pixels on a side.
        patience: Epochs without a better validation loss before training stops.
    """

    name: ClassVar[str] = "cnn"
    title: ClassVar[str] = "Small CNN"
    role: ClassVar[Role] = "control"
    uses_backbone: ClassVar[bool] = False
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    rate: PositiveFloat = 2e-3
    epochs: Epochs = 20
    batch_size: PositiveInt = 32
    image_size: int = Field(64, ge=16, le=4096)
    patience: PositiveInt = 6

    def check(self, backbone: Backbone, view: View) -> None:
        """Only images have pixels."""
        if view.train.modality != "image":
            raise NotApplicable("the rows are texts, which have no pixels")

    def _job(self, view: View, run: Run) -> tuple[Job, SmallCnn, Head]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.streams.seed("cnn"))
            network = SmallCnn(self.image_size)
        head = Head(
            HeadShape(dimension=network.dimension, classes=len(view.label_names)), run.streams
        )
        recipe = Recipe(
            batch_size=self.batch_size, schedule="one-cycle", weight_decay=0.05,
            patience=self.patience,
        )  # fmt: skip
        recipe = smaller_batches(recipe, len(view.train), batch_norm=True)
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {
            "network": list(network.named_parameters()),
            "head": [(f"head.{n}", p) for n, p in head.named_parameters()],
        }
        rates = {"network": float(self.rate), "head": float(self.rate)}
        job = Job(network, head, rates, groups, view, run, recipe, self.title, self.epochs)
        return job, network, head

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps."""
        return self._job(view, run)[0].measure()

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train, with the weights of the best validation loss kept."""
        self.check(backbone, view)
        job, network, head = self._job(view, run)
        history = job.train()
        model = CnnModel(network, head.output, view.label_names)
        return Fitted(
            model,
            job.table.trainable,
            history=history.epochs,
            rates=[dict(row) for row in job.table.to_rows()],
            values={"best_epoch": history.best_epoch},
            stopped=history.stopped,
            epochs=passes(history, job),
            seconds=history.seconds,
        )

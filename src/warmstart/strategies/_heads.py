"""A hidden-layer head on fixed vectors, trained in the one loop."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from warmstart.backbones import Backbone
from warmstart.core import Run
from warmstart.data import View
from warmstart.models import EncoderModel, Head, HeadShape, StandardizedHead
from warmstart.training import (
    EarlyStopping,
    RowLoader,
    VectorRows,
    classification_step,
    evaluation,
    fit_loop,
    make_optimizer,
    make_schedule,
    rate_table,
)

from .base import Fitted

__all__ = ["train_mlp_head"]

_BATCH, _STEPS, _RATE = 64, 1000, 1e-3


class _OnVectors(StandardizedHead):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, C) of standardised vectors."""
        logits_BC: Tensor = self.head(self.standardized(inputs["vectors"]))
        return logits_BC


def train_mlp_head(
    backbone: Backbone, view: View, run: Run, *, depth: int | None, hidden: int
) -> Fitted:
    """Train a GELU head on cached vectors with AdamW; the best validation loss is kept.

    Vectors are standardised while training, and the standardisation is folded into the first
    layer afterwards, so that the saved head reads raw vectors.
    """
    train = backbone.features(view.train, depth=depth)
    held = backbone.features(view.validation, depth=depth)
    classes, dimension = len(view.label_names), train.vectors_ND.shape[1]
    shape = HeadShape(dimension=dimension, classes=classes, hidden=hidden, dropout=0.1)
    head = Head(shape, run.streams)
    mean_D = torch.from_numpy(train.vectors_ND.mean(axis=0))
    scale_D = torch.from_numpy(np.maximum(train.vectors_ND.std(axis=0), 1e-6))
    network = _OnVectors(head, mean_D, scale_D)
    table = rate_table({"head": list(head.named_parameters())}, _RATE, rates={"head": _RATE})
    rows = VectorRows(train.vectors_ND, view.train.labels_N, train.ids)
    validation = VectorRows(held.vectors_ND, view.validation.labels_N, held.ids)
    per_epoch = math.ceil(len(rows) / _BATCH)
    epochs = max(10, min(100, math.ceil(_STEPS / per_epoch)))
    history = fit_loop(
        step=classification_step(),
        modules={"model": network},
        optimizers=make_optimizer(table, weight_decay=0.05),
        loaders=RowLoader(rows, _BATCH, streams=run.streams),
        run=run,
        epochs=epochs,
        schedules=make_schedule("cosine", epochs * per_epoch, 0.1),
        evaluate=evaluation(
            RowLoader(validation, 4 * _BATCH, streams=run.streams, shuffle=False), classes=classes
        ),
        callbacks=[EarlyStopping("validation_loss", patience=10)],
        name="MLP head",
    )
    model = EncoderModel(backbone, network.folded(), view.label_names, depth=depth)
    return Fitted(
        model,
        table.trainable,
        history=history.epochs,
        values={"depth": "last" if depth is None else depth, "best_epoch": history.best_epoch},
        stopped=history.stopped,
        epochs=history.steps / per_epoch,
        seconds=history.seconds,
    )

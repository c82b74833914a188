"""A hidden-layer head on fixed vectors, trained in the one loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.backbones import Backbone
from warmstart.core import Run
from warmstart.data import View
from warmstart.models import EncoderModel, Head, HeadShape
from warmstart.training import (
    Batch,
    EarlyStopping,
    RowLoader,
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


class _VectorRows:
    """Vectors and labels as a row source of the loop."""

    parallel = False  # vectors lie in memory: there is nothing to prepare ahead

    def __init__(self, vectors_ND: np.ndarray, labels_N: np.ndarray, ids: Sequence[str]) -> None:
        self._vectors = torch.from_numpy(np.array(vectors_ND, dtype=np.float32))
        self._labels = torch.from_numpy(np.array(labels_N))
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> Sequence[int] | None:
        """All rows cost the same."""
        return None

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """The rows at these positions."""
        index = torch.as_tensor(list(rows))
        return Batch({"vectors": self._vectors[index]}, self._labels[index], index)


class _OnVectors(nn.Module):
    def __init__(self, head: Head, mean_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        self.head = head
        self.mean_D: Tensor
        self.scale_D: Tensor
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, C) of standardised vectors."""
        logits_BC: Tensor = self.head((inputs["vectors"] - self.mean_D) / self.scale_D)
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
    table = rate_table({"head": list(head.named_parameters())}, _RATE, rates={"head": _RATE})
    rows = _VectorRows(train.vectors_ND, view.train.labels_N, train.ids)
    validation = _VectorRows(held.vectors_ND, view.validation.labels_N, held.ids)
    per_epoch = math.ceil(len(rows) / _BATCH)
    epochs = max(10, min(100, math.ceil(_STEPS / per_epoch)))
    history = fit_loop(
        step=classification_step(),
        modules={"model": _OnVectors(head, mean_D, scale_D)},
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
    _fold(head, mean_D, scale_D)
    model = EncoderModel(backbone, head, view.label_names, depth=depth)
    return Fitted(
        model,
        table.trainable,
        history=history.epochs,
        values={"depth": "last" if depth is None else depth, "best_epoch": history.best_epoch},
        stopped=history.stopped,
        epochs=history.steps / per_epoch,
        seconds=history.seconds,
    )


@torch.no_grad()
def _fold(head: Head, mean_D: Tensor, scale_D: Tensor) -> None:
    """Let the first layer read raw vectors: W' = W / scale, b' = b - W' · mean."""
    first = head.hidden
    assert first is not None
    device = first.weight.device
    first.weight.div_(scale_D.to(device))
    first.bias.sub_(first.weight @ mean_D.to(device))

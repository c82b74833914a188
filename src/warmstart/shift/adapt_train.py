"""Training a bottleneck and a head on both domains, with whatever a method adds, in the one loop.

All methods share network, recipe and order of rows, so that two of them differ by their objective
and by nothing else. The bottleneck is the hidden layer of `models.Head`; vectors are standardised
by the source's mean and spread while training, and that is folded into the layer afterwards. It
stands on kept vectors, or on the encoder that they came from where a part of that learns too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from warmstart.core import Run
from warmstart.models import Head, HeadShape
from warmstart.strategies.recipe import epochs_for
from warmstart.training import (
    Batch,
    Callback,
    Checkpoints,
    EarlyStopping,
    History,
    LoopState,
    RateTable,
    StepOutput,
    announce,
    fit_loop,
    make_optimizer,
    make_schedule,
)

from .adapt_base import SOURCE_ONLY, AdaptationMethod, Adapted, Snapshot
from .adapt_course import Bottleneck, Course, VectorCourse
from .adapt_objective import Objective, Seen
from .adapt_view import DomainInputs, DomainVectors
from .tuning_course import TunedCourse

__all__ = ["TrainedMethod"]

_FIT = "adapting"
_KEPT = (800, 10, 100)  # steps about, fewest and most passes
_TUNED = (300, 3, 15)  # the same where the encoder learns, as in fine-tuning
_BATCH, _TUNED_BATCH = 64, 32


class TrainedMethod(AdaptationMethod):
    """Settings that all trained methods share, and their course.

    Attributes:
        width: Units of the bottleneck.
        epochs: Passes over the source rows, or `auto`: about 800 steps, 10 to 100 passes; where the
            encoder learns too, about 300 steps, 3 to 15 passes.
        batch_size: Source rows a step, and as many target rows, or `auto`: 64; 32 where the
            encoder learns too.
        rate: Learning rate (AdamW, cosine schedule) of bottleneck and head; see `Tuning` for what
            follows for the encoder.
        weight_decay: Decoupled weight decay.
        dropout: Before the bottleneck and before the output, while training.
        snapshots: Epochs, evenly spaced, whose heads are kept to choose among.
    """

    width: int = Field(256, ge=2, le=65_536)
    epochs: PositiveInt | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    rate: PositiveFloat = 1e-3
    weight_decay: float = Field(0.01, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    snapshots: int = Field(5, ge=1, le=100)

    def _objective(self, rows: DomainVectors, run: Run) -> Objective:
        """What is minimised."""
        return Objective()

    def _finish(self, rows: DomainVectors, run: Run, adapted: Adapted) -> Adapted:
        """What comes after training."""
        return adapted

    @property
    def _early(self) -> bool:
        """Whether the source's validation loss chooses the epoch, so that one snapshot is left."""
        return False

    def fit(self, rows: DomainVectors, run: Run) -> Adapted:
        """Train, keep the heads of some epochs."""
        objective = self._objective(rows, run)
        course = self._course(rows, run)
        objective.attend(course)
        loaders = course.loaders(target=objective.reads_target)
        per_epoch, epochs = len(loaders["source"]), self._epochs(rows)
        modules: dict[str, nn.Module] = {"model": course.network, **objective.modules}
        table = course.table(modules, self.rate)
        if self.name == SOURCE_ONLY and isinstance(rows, DomainInputs):
            announce(table)
        keeper = course.keeper([max(1, round(epochs * (k + 1) / self.snapshots))
                                for k in range(self.snapshots)])  # fmt: skip
        chooser: Callback = keeper
        if self._early:
            chooser = EarlyStopping(
                "validation_loss", patience=course.patience, skip_frozen=course.lean
            )
        history = fit_loop(
            step=_step(objective, course, epochs * per_epoch),
            modules=modules,
            optimizers=make_optimizer(table, weight_decay=self.weight_decay),
            loaders=loaders,
            run=run,
            epochs=epochs,
            schedules=make_schedule("cosine", epochs * per_epoch, 0.05),
            evaluate=course.validate,
            callbacks=[*objective.callbacks, chooser],
            clip=5.0,
            mixed_precision=course.precision,
            checkpoints=Checkpoints(skip_frozen=course.lean),
            name=_FIT,  # one for all: the name is part of the random streams
            log_every=50,
        )
        if self._early:
            taken = [course.last(history.best_epoch or int(history.epochs[-1]["epoch"]))]
        else:
            taken = course.kept(keeper)
        objective.values |= self._chosen(rows, table)
        return self._finish(rows, run, _adapted(taken, table, objective, history))

    def _course(self, rows: DomainVectors, run: Run) -> Course:
        network, size = self._network(rows, run), self._batch(rows)
        if isinstance(rows, DomainInputs):
            return TunedCourse(rows, network, batch_size=size, run=run)
        return VectorCourse(rows, network, batch_size=size, run=run)

    def _batch(self, rows: DomainVectors) -> int:
        """Source rows a step."""
        if self.batch_size != "auto":
            return self.batch_size
        return _TUNED_BATCH if isinstance(rows, DomainInputs) else _BATCH

    def _epochs(self, rows: DomainVectors) -> int:
        if self.epochs != "auto":
            return self.epochs
        size = self._batch(rows)
        whole = max(1, len(rows.ids_N) // size) * size  # the last, smaller batch is left out
        steps, least, most = _TUNED if isinstance(rows, DomainInputs) else _KEPT
        return epochs_for(whole, size, steps=steps, least=least, most=most)

    def _chosen(self, rows: DomainVectors, table: RateTable) -> dict[str, Any]:
        """What was decided on the way where the encoder learns."""
        if not isinstance(rows, DomainInputs):
            return {}
        rates = [row for row in table.to_rows() if not row["frozen"]]
        return {
            "trainable": str(rows.tuning),
            "batch_size": self._batch(rows),
            "rates": {str(row["group"]): row["rate"] for row in rates},
        }

    def _network(self, rows: DomainVectors, run: Run) -> Bottleneck:
        train_ND = rows.train_ND.astype(np.float64)
        mean_D, spread_D = train_ND.mean(axis=0), train_ND.std(axis=0)
        # A feature that hardly varies in the source is not blown up: the target may well vary.
        floor = 0.1 * max(float(np.sqrt((spread_D**2).mean())), 1e-12)
        shape = HeadShape(dimension=train_ND.shape[1], classes=rows.classes, hidden=self.width,
                          dropout=self.dropout)  # fmt: skip
        return Bottleneck(
            Head(shape, run.streams.child("adapt")),
            torch.from_numpy(mean_D.astype(np.float32)),
            torch.from_numpy(np.maximum(spread_D, floor).astype(np.float32)),
        )


def _step(objective: Objective, course: Course, total: int) -> Any:
    """The step of every method: the network once over both domains' rows, then the objective."""

    def step(batch: dict[str, Batch], state: LoopState) -> StepOutput:
        source = batch["source"]
        target = batch.get("target")
        features_BH, logits_BC = course.answers(state.modules["model"], source, target)
        n = len(source)
        with torch.autocast(state.device.type, enabled=False):  # distances want their digits
            features_BH, logits_BC = features_BH.float(), logits_BC.float()
            seen = Seen(
                labels_N=source.labels_B, rows_N=source.rows_B, source_NH=features_BH[:n],
                logits_NC=logits_BC[:n], rows_M=None if target is None else target.rows_B,
                target_MH=None if target is None else features_BH[n:],
                logits_MC=None if target is None else logits_BC[n:], progress=state.step / total,
            )  # fmt: skip
            return StepOutput(objective.losses(seen, state))

    return step


def _adapted(
    taken: list[Snapshot], table: RateTable, objective: Objective, history: History
) -> Adapted:
    further = set(objective.modules)
    return Adapted(
        snapshots=tuple(taken),
        trainable_parameters=sum(
            row.parameters for row in table.rows if not row.frozen and row.group not in further
        ),
        history=history.epochs,
        values=objective.values,
        notes=tuple(objective.notes),
        stopped=history.stopped,
        seconds=history.seconds,
    )

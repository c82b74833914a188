"""Training a bottleneck and a head on source vectors, with whatever a method adds, in the one loop.

All methods share network, recipe and order of rows, so that two of them differ by their objective
and by nothing else. The bottleneck is the hidden layer of `models.Head`; vectors are standardised
by the source's mean and spread while training, and that is folded into the layer afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run
from warmstart.models import Head, HeadShape
from warmstart.training import (
    Batch,
    Callback,
    Checkpoints,
    EarlyStopping,
    EvaluateFunction,
    History,
    LoopState,
    RowLoader,
    StepOutput,
    fit_loop,
    make_optimizer,
    make_schedule,
    rate_table,
)

from .adapt_base import AdaptationMethod, Adapted, Snapshot
from .adapt_rows import VectorRows
from .adapt_view import DomainVectors

__all__ = ["Bottleneck", "Objective", "Seen", "Snapshots", "TrainedMethod", "target_proba"]

_STEPS, _LEAST, _MOST = 800, 10, 100
_PATIENCE = 10
_FIT = "adapting"


class Bottleneck(nn.Module):
    """Standardised vectors through the head's hidden layer and its output.

    Args:
        head: With a hidden layer.
        mean_D: Mean of the source vectors.
        scale_D: Their spread, above 0.
    """

    def __init__(self, head: Head, mean_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        self.head = head
        self.mean_D: Tensor
        self.scale_D: Tensor
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)

    def forward(self, vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, H) of the bottleneck and logits (B, C)."""
        head = self.head
        assert head.hidden is not None
        standard_BD = (vectors_BD - self.mean_D) / self.scale_D
        features_BH = functional.gelu(head.hidden(head.dropout(standard_BD)))
        return features_BH, head.output(head.dropout(features_BH))

    @torch.no_grad()
    def folded(self, state: Mapping[str, Tensor] | None = None) -> Head:
        """A head that reads raw vectors: W' = W / scale, b' = b - W' · mean.

        Args:
            state: Weights of the head to take instead of the present ones.
        """
        head = Head(self.head.shape.model_copy(update={"dropout": 0.0}))
        head.load_state_dict(dict(state or self.head.state_dict()))
        assert head.hidden is not None
        head.hidden.weight.div_(self.scale_D.cpu())
        head.hidden.bias.sub_(head.hidden.weight @ self.mean_D.cpu())
        return head.eval()


@dataclass(frozen=True)
class Seen:
    """One step's rows after the network; target parts are None where the method reads no target.

    Attributes:
        labels_N: Classes of the source rows.
        rows_N: Their positions in the source.
        source_NH: Their features.
        logits_NC: Their logits.
        rows_M: Positions of the target rows.
        target_MH: Their features.
        logits_MC: Their logits.
        progress: Share of the training that is done, in [0, 1).
    """

    labels_N: Tensor
    rows_N: Tensor
    source_NH: Tensor
    logits_NC: Tensor
    rows_M: Tensor | None
    target_MH: Tensor | None
    logits_MC: Tensor | None
    progress: float

    @property
    def target(self) -> tuple[Tensor, Tensor]:
        """Features and logits of the target rows, where the method asked for them."""
        assert self.target_MH is not None
        assert self.logits_MC is not None
        return self.target_MH, self.logits_MC


@dataclass
class Objective:
    """What a method minimises; by default the source's cross-entropy alone.

    Attributes:
        reads_target: Whether each step takes target rows too.
        modules: Further networks that learn, by name.
        callbacks: Further callbacks.
        values: For `Adapted.values`; callbacks may add to it.
        notes: For `Adapted.notes`.
    """

    reads_target: bool = False
    modules: dict[str, nn.Module] = field(default_factory=dict)
    callbacks: list[Callback] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def losses(self, seen: Seen, state: LoopState) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised."""
        return {"source": functional.cross_entropy(seen.logits_NC, seen.labels_N)}


class Snapshots(Callback):
    """Keeps the head's weights after chosen epochs, and after the last one that was run."""

    def __init__(self, epochs: Sequence[int]) -> None:
        self.kept: dict[int, dict[str, Tensor]] = {}
        self._wanted = set(epochs)
        self._last = 0

    def on_epoch_end(self, state: LoopState, record: Mapping[str, float]) -> None:
        """Keep a chosen epoch."""
        self._last = int(record["epoch"])
        if self._last in self._wanted:
            self._keep(state)

    def on_end(self, state: LoopState) -> None:
        """Keep the last epoch, wherever the fit ended."""
        if self._last not in self.kept:
            self._keep(state)

    def _keep(self, state: LoopState) -> None:
        network = state.plain["model"]
        assert isinstance(network, Bottleneck)
        self.kept[self._last] = {
            key: value.detach().to("cpu", copy=True)
            for key, value in network.head.state_dict().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What was kept so far."""
        return {"last": self._last, "epochs": list(self.kept), "heads": list(self.kept.values())}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._last = values["last"]
        self.kept = {
            int(epoch): dict(head)
            for epoch, head in zip(values["epochs"], values["heads"], strict=True)
        }


class TrainedMethod(AdaptationMethod):
    """Settings that all trained methods share, and their course.

    Attributes:
        width: Units of the bottleneck.
        epochs: Passes over the source rows, or `auto`: about 800 steps.
        batch_size: Source rows a step, and as many target rows.
        rate: Learning rate (AdamW, cosine schedule).
        weight_decay: Decoupled weight decay.
        dropout: Before the bottleneck and before the output, while training.
        snapshots: Epochs, evenly spaced, whose heads are kept to choose among.
    """

    width: int = Field(256, ge=2, le=65_536)
    epochs: PositiveInt | Literal["auto"] = "auto"
    batch_size: int = Field(64, ge=2)
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
        network = self._network(rows, run)
        loaders = self._loaders(rows, run, objective.reads_target)
        per_epoch = len(loaders["source"])
        epochs = self._epochs(per_epoch)
        modules: dict[str, nn.Module] = {"model": network, **objective.modules}
        parts = {name: list(module.named_parameters()) for name, module in modules.items()}
        table = rate_table(parts, self.rate, rates=dict.fromkeys(parts, self.rate))
        keeper = Snapshots([max(1, round(epochs * (k + 1) / self.snapshots))
                            for k in range(self.snapshots)])  # fmt: skip
        chooser: Callback = (
            EarlyStopping("validation_loss", patience=_PATIENCE) if self._early else keeper
        )
        history = fit_loop(
            step=_step(objective, epochs * per_epoch),
            modules=modules,
            optimizers=make_optimizer(table, weight_decay=self.weight_decay),
            loaders=loaders,
            run=run,
            epochs=epochs,
            schedules=make_schedule("cosine", epochs * per_epoch, 0.05),
            evaluate=_source_validation(rows),
            callbacks=[*objective.callbacks, chooser],
            clip=5.0,
            mixed_precision="no",  # the network is tiny, and distances want their digits
            checkpoints=Checkpoints(),
            name=_FIT,  # one for all: the name is part of the random streams
            log_every=50,
        )
        network.cpu()
        if self._early:
            taken = [Snapshot(history.best_epoch or int(history.epochs[-1]["epoch"]),
                              network.folded())]  # fmt: skip
        else:
            taken = [Snapshot(epoch, network.folded(state)) for epoch, state in keeper.kept.items()]
        return self._finish(rows, run, _adapted(taken, network, objective, history))

    def _epochs(self, per_epoch: int) -> int:
        if self.epochs != "auto":
            return self.epochs
        return max(_LEAST, min(_MOST, math.ceil(_STEPS / per_epoch)))

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

    def _loaders(self, rows: DomainVectors, run: Run, target: bool) -> dict[str, RowLoader]:
        sources = {"source": VectorRows(rows.train_ND, rows.labels_N, rows.ids_N)}
        if target:
            sources["target"] = VectorRows(rows.target_UD, None, rows.target_ids_U)
        return {
            name: RowLoader(
                source, self.batch_size, streams=run.streams.child("adapt", name), drop_last=True
            )
            for name, source in sources.items()
        }


def _step(objective: Objective, total: int) -> Any:
    """The step of every method: the network once over both domains' rows, then the objective."""

    def step(batch: dict[str, Batch], state: LoopState) -> StepOutput:
        source = batch["source"]
        target = batch.get("target")
        vectors_BD = source.inputs["vectors"]
        if target is not None:
            vectors_BD = torch.cat([vectors_BD, target.inputs["vectors"]])
        features_BH, logits_BC = state.modules["model"](vectors_BD)
        n = len(source)
        seen = Seen(
            labels_N=source.labels_B, rows_N=source.rows_B, source_NH=features_BH[:n],
            logits_NC=logits_BC[:n], rows_M=None if target is None else target.rows_B,
            target_MH=None if target is None else features_BH[n:],
            logits_MC=None if target is None else logits_BC[n:], progress=state.step / total,
        )  # fmt: skip
        return StepOutput(objective.losses(seen, state))

    return step


def _source_validation(rows: DomainVectors) -> EvaluateFunction:
    """Loss and accuracy on the source's validation rows."""
    vectors_MD = torch.from_numpy(np.array(rows.validation_MD, dtype=np.float32))
    labels_M = torch.from_numpy(np.array(rows.labels_M, dtype=np.int64))

    def evaluate(state: LoopState) -> Mapping[str, float]:
        state.pause_point()
        with torch.inference_mode():
            _, logits_MC = state.plain["model"](vectors_MD.to(state.device))
            truth_M = labels_M.to(state.device)
            loss = functional.cross_entropy(logits_MC.float(), truth_M)
            hits = (logits_MC.argmax(dim=1) == truth_M).float().mean()
        return {"validation_loss": float(loss), "validation_accuracy": float(hits)}

    return evaluate


@torch.inference_mode()
def target_proba(state: LoopState, target_UD: Tensor) -> Tensor:
    """Class probabilities (U, C) of target vectors under the network as it is now.

    Args:
        state: Of the loop; called between steps.
        target_UD: Vectors; brought to the device here.
    """
    network = state.plain["model"]
    was_training = network.training
    network.eval()
    _, logits_UC = network(target_UD.to(state.device))
    network.train(was_training)
    return torch.softmax(logits_UC.float(), dim=1)


def _adapted(
    taken: Sequence[Snapshot], network: Bottleneck, objective: Objective, history: History
) -> Adapted:
    return Adapted(
        snapshots=tuple(taken),
        trainable_parameters=sum(p.numel() for p in network.parameters()),
        history=history.epochs,
        values=objective.values,
        notes=tuple(objective.notes),
        stopped=history.stopped,
        seconds=history.seconds,
    )

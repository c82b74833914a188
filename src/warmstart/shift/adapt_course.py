"""Where a method's network reads its rows from, and what is kept of its epochs.

A `Course` hides whether the bottleneck stands on kept vectors or on an encoder that learns too: the
methods' objectives are the same on both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run
from warmstart.models import StandardizedHead
from warmstart.training import (
    Batch,
    Callback,
    LoopState,
    RateTable,
    RowLoader,
    VectorRows,
    rate_table,
)

from .adapt_base import Snapshot
from .adapt_view import DomainVectors

__all__ = ["Bottleneck", "Course", "KeptEpochs", "VectorCourse"]


class Bottleneck(StandardizedHead):
    """Standardised vectors through the head's hidden layer, which is given too, and its output."""

    def forward(self, vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, H) of the bottleneck and logits (B, C)."""
        head = self.head
        assert head.hidden is not None
        features_BH = functional.gelu(head.hidden(head.dropout(self.standardized(vectors_BD))))
        return features_BH, head.output(head.dropout(features_BH))


class KeptEpochs(Callback):
    """Keeps something of chosen epochs, and of the last one that was run.

    Attributes:
        epochs: Those that were kept, in their order.
    """

    def __init__(self, epochs: Collection[int]) -> None:
        self.epochs: list[int] = []
        self._wanted = set(epochs)
        self._last = 0

    def keep(self, state: LoopState, epoch: int) -> None:
        """Keep the network as it is now."""
        raise NotImplementedError

    def on_epoch_end(self, state: LoopState, record: Mapping[str, float]) -> None:
        """Keep a chosen epoch."""
        self._last = int(record["epoch"])
        if self._last in self._wanted:
            self._keep(state)

    def on_end(self, state: LoopState) -> None:
        """Keep the last epoch, wherever the fit ended."""
        if self._last not in self.epochs:
            self._keep(state)

    def _keep(self, state: LoopState) -> None:
        self.keep(state, self._last)
        self.epochs.append(self._last)

    def state_dict(self) -> dict[str, Any]:
        """Which epochs were kept."""
        return {"last": self._last, "epochs": list(self.epochs)}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._last = int(values["last"])
        self.epochs = [int(epoch) for epoch in values["epochs"]]


class KeptHeads(KeptEpochs):
    """Keeps the head's weights in memory."""

    def __init__(self, epochs: Collection[int]) -> None:
        super().__init__(epochs)
        self.heads: dict[int, dict[str, Tensor]] = {}

    def keep(self, state: LoopState, epoch: int) -> None:
        """Copy the head's weights."""
        network = state.plain["model"]
        assert isinstance(network, Bottleneck)
        self.heads[epoch] = {
            key: value.detach().to("cpu", copy=True)
            for key, value in network.head.state_dict().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What was kept so far."""
        return super().state_dict() | {"heads": [self.heads[epoch] for epoch in self.epochs]}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(values)
        self.heads = {
            epoch: dict(head) for epoch, head in zip(self.epochs, values["heads"], strict=True)
        }


class Course(ABC):
    """The network of one fit and its rows.

    Attributes:
        network: What learns beside the networks of the objective.
        precision: As `fit_loop` takes it.
        lean: Whether checkpoints leave out what no optimiser holds.
        patience: Epochs without a lower validation loss before source-only stops.
    """

    network: nn.Module
    precision: ClassVar[str] = "no"
    lean: ClassVar[bool] = False
    patience: ClassVar[int] = 10

    @abstractmethod
    def table(self, modules: Mapping[str, nn.Module], rate: float) -> RateTable:
        """How fast each parameter of the network (`model`) and of the further ones learns."""

    @abstractmethod
    def loaders(self, *, target: bool) -> dict[str, RowLoader]:
        """Loader of the labelled source rows and, if asked for, of the target rows."""

    @abstractmethod
    def answers(self, model: nn.Module, source: Batch, target: Batch | None) -> Any:
        """Features (B, H) and logits (B, C) of the source rows and then the target rows."""

    @abstractmethod
    def validate(self, state: LoopState) -> Mapping[str, float]:
        """Loss and accuracy on the source's validation rows."""

    @abstractmethod
    def target_proba(self, state: LoopState) -> Tensor:
        """Class probabilities (U, C) of the target rows under the network as it is now.

        Called between steps; the network is left in the mode that it was in.
        """

    @abstractmethod
    def keeper(self, epochs: Collection[int]) -> KeptEpochs:
        """A callback that keeps what `kept` makes snapshots of."""

    @abstractmethod
    def kept(self, keeper: KeptEpochs) -> list[Snapshot]:
        """After the fit: a snapshot of each epoch that was kept."""

    @abstractmethod
    def last(self, epoch: int) -> Snapshot:
        """After the fit: a snapshot of the network as it is, under the number of an epoch."""


class VectorCourse(Course):
    """The bottleneck on kept vectors of the untouched backbone.

    Args:
        rows: Source and target vectors.
        network: Bottleneck and head.
        batch_size: Source rows a step, and as many target rows.
        run: For its random streams.
    """

    network: Bottleneck

    def __init__(
        self, rows: DomainVectors, network: Bottleneck, *, batch_size: int, run: Run
    ) -> None:
        self.network = network
        self._rows, self._batch_size, self._run = rows, batch_size, run
        self._validation_MD = _tensor(rows.validation_MD)
        self._labels_M = torch.from_numpy(np.array(rows.labels_M, dtype=np.int64))
        self._target_UD = _tensor(rows.target_UD)

    def table(self, modules: Mapping[str, nn.Module], rate: float) -> RateTable:
        """One rate for all: every layer is new."""
        parts = {name: list(module.named_parameters()) for name, module in modules.items()}
        return rate_table(parts, rate, rates=dict.fromkeys(parts, rate))

    def loaders(self, *, target: bool) -> dict[str, RowLoader]:
        """Loaders of vectors."""
        rows = self._rows
        sources = {"source": VectorRows(rows.train_ND, rows.labels_N, rows.ids_N)}
        if target:
            sources["target"] = VectorRows(rows.target_UD, None, rows.target_ids_U)
        streams = self._run.streams
        return {
            name: RowLoader(
                source, self._batch_size, streams=streams.child("adapt", name), drop_last=True
            )
            for name, source in sources.items()
        }

    def answers(self, model: nn.Module, source: Batch, target: Batch | None) -> Any:
        """Both domains in one pass."""
        vectors_BD = source.inputs["vectors"]
        if target is not None:
            vectors_BD = torch.cat([vectors_BD, target.inputs["vectors"]])
        return model(vectors_BD)

    def validate(self, state: LoopState) -> Mapping[str, float]:
        """All validation rows in one pass."""
        state.pause_point()
        with torch.inference_mode():
            _, logits_MC = state.plain["model"](self._validation_MD.to(state.device))
            truth_M = self._labels_M.to(state.device)
            loss = functional.cross_entropy(logits_MC.float(), truth_M)
            hits = (logits_MC.argmax(dim=1) == truth_M).float().mean()
        return {"validation_loss": float(loss), "validation_accuracy": float(hits)}

    @torch.inference_mode()
    def target_proba(self, state: LoopState) -> Tensor:
        """All target rows in one pass."""
        network = state.plain["model"]
        was_training = network.training
        network.eval()
        _, logits_UC = network(self._target_UD.to(state.device))
        network.train(was_training)
        return torch.softmax(logits_UC.float(), dim=1)

    def keeper(self, epochs: Collection[int]) -> KeptEpochs:
        """Heads are small: they stay in memory."""
        return KeptHeads(epochs)

    def kept(self, keeper: KeptEpochs) -> list[Snapshot]:
        """Heads that read raw vectors."""
        assert isinstance(keeper, KeptHeads)
        network = self.network.cpu()
        return [Snapshot(epoch, network.folded(keeper.heads[epoch])) for epoch in keeper.epochs]

    def last(self, epoch: int) -> Snapshot:
        """The head as it is."""
        return Snapshot(epoch, self.network.cpu().folded())


def _tensor(vectors_ND: np.ndarray | Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.array(vectors_ND, dtype=np.float32))

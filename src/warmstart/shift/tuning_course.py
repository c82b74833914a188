"""An adaptation whose encoder learns too: labelled source rows and bare target rows through it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from warmstart.backbones import Encoder, FrozenLedger
from warmstart.core import Run, RunError, fingerprint, pick_device
from warmstart.models import AdaptedEncoder
from warmstart.training import (
    Batch,
    ExampleRows,
    LoopState,
    RateTable,
    RowLoader,
    RowSource,
    default_workers,
    rate_table,
    replay_prefix,
)

from .adapt_base import Snapshot
from .adapt_course import Bottleneck, Course, KeptEpochs
from .adapt_view import DomainInputs
from .tuning import SNAPSHOTS, put_learned, save_learned

__all__ = ["TunedCourse", "TunedNetwork"]


class TunedNetwork(nn.Module):
    """An encoder and a bottleneck.

    Args:
        encoder: `forward(inputs) -> vectors_BD`.
        bottleneck: On its vectors.
    """

    def __init__(self, encoder: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.encoder: nn.Module = encoder
        self.bottleneck = bottleneck

    def forward(
        self, inputs: Mapping[str, Tensor], beside: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (B, H) and logits (B, C) of some rows, and after them of the rows beside.

        Rows of one shape go through the encoder together, so that batch normalisation sees both
        domains at once, as its statistics then do. Texts padded to two lengths go one domain after
        the other.
        """
        if beside is None:
            vectors_BD = self.encoder(dict(inputs))
        elif _shapes(inputs) == _shapes(beside):
            both = {key: torch.cat([value, beside[key]]) for key, value in inputs.items()}
            vectors_BD = self.encoder(both)
        else:
            vectors_BD = torch.cat([self.encoder(dict(inputs)), self.encoder(dict(beside))])
        features_BH, logits_BC = self.bottleneck(vectors_BD)
        return features_BH, logits_BC


def _shapes(inputs: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape[1:] for key, value in inputs.items()}


class _KeptWeights(KeptEpochs):
    """Writes what encoder and head have learned: a whole encoder is too large for the memory."""

    def __init__(self, epochs: Collection[int], course: TunedCourse) -> None:
        super().__init__(epochs)
        self._course = course

    def keep(self, state: LoopState, epoch: int) -> None:
        """Write one file."""
        if state.rank == 0:
            self._course.write(epoch)


class TunedCourse(Course):
    """Inputs through an encoder of which a part learns, and the bottleneck behind it.

    What frozen layer groups put out is computed once for the rows of both domains and replayed.

    Args:
        rows: Inputs and the untouched backbone's vectors of both domains.
        network: Bottleneck and head, with the mean and spread of the untouched vectors.
        batch_size: Source rows a step, and as many target rows.
        run: Folder of the snapshots, device, random streams.
    """

    network: TunedNetwork
    precision: ClassVar[str] = "auto"
    lean: ClassVar[bool] = True
    patience: ClassVar[int] = 3

    def __init__(
        self, rows: DomainInputs, network: Bottleneck, *, batch_size: int, run: Run
    ) -> None:
        self._rows, self._batch_size, self._run = rows, batch_size, run
        self._device = pick_device(run.device)
        self._bottleneck = network
        encoder = rows.tuning.open(rows.backbone, run.streams.child("adapt"))
        self._encoder = encoder.to(self._device)  # what is kept is made where it will train
        self._base = _base_of(self._encoder)
        self._ledger = FrozenLedger(self._encoder)
        module, self._sources = self._reading()
        self.network = TunedNetwork(module, network)

    def table(self, modules: Mapping[str, nn.Module], rate: float) -> RateTable:
        """Rates that fall with depth; further networks learn as fast as the head."""
        groups, rates = self._rows.tuning.learning(self._encoder, self._bottleneck.head, rate)
        for name, module in modules.items():
            if name != "model":
                groups[name], rates[name] = list(module.named_parameters()), rate
        return rate_table(groups, rate, rates=rates, module=self._encoder)

    def loaders(self, *, target: bool) -> dict[str, RowLoader]:
        """Loaders of inputs, or of what the frozen groups made of them."""
        workers = default_workers(self._device, self._rows.source.train.modality)
        streams = self._run.streams
        return {
            name: RowLoader(
                self._sources[name], self._batch_size, streams=streams.child("adapt", name),
                drop_last=True, num_workers=workers,
            )
            for name in (("source", "target") if target else ("source",))
        }  # fmt: skip

    def answers(self, model: nn.Module, source: Batch, target: Batch | None) -> Any:
        """One pass, or one a domain."""
        return model(source.inputs, None if target is None else target.inputs)

    def validate(self, state: LoopState) -> Mapping[str, float]:
        """Batch by batch; every process sees all rows."""
        loss, hits, rows = 0.0, 0, 0
        for batch in self._in_order("validation"):
            state.pause_point()
            here = batch.to(state.device)
            with torch.inference_mode():
                _, logits_BC = state.plain["model"](here.inputs)
                loss += float(
                    functional.cross_entropy(logits_BC.float(), here.labels_B, reduction="sum")
                )
                hits += int((logits_BC.argmax(dim=1) == here.labels_B).sum())
            rows += len(here)
        return {"validation_loss": loss / rows, "validation_accuracy": hits / rows}

    @torch.inference_mode()
    def target_proba(self, state: LoopState) -> Tensor:
        """Batch by batch."""
        network = state.plain["model"]
        was_training = network.training
        network.eval()
        proba_UC = torch.zeros(len(self._rows.target), self._rows.classes)
        for batch in self._in_order("target"):
            state.pause_point()
            _, logits_BC = network(batch.to(state.device).inputs)
            proba_UC[batch.rows_B] = torch.softmax(logits_BC.float(), dim=1).cpu()
        network.train(was_training)
        return proba_UC

    def keeper(self, epochs: Collection[int]) -> KeptEpochs:
        """Weights are large: they go to the run's folder."""
        return _KeptWeights(epochs, self)

    def write(self, epoch: int) -> Path:
        """Write what encoder and head have learned by now under the number of an epoch."""
        path = self._path(epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_learned(self._encoder, path)
        head = self._bottleneck.head.state_dict()
        save_file({k: v.detach().to("cpu", copy=True) for k, v in head.items()}, _beside(path))
        return path

    def kept(self, keeper: KeptEpochs) -> list[Snapshot]:
        """Go back to each epoch in turn and see the rows as it saw them.

        Raises:
            RunError: When a snapshot that a checkpoint tells of is not there any more.
        """
        self._prove()
        paths = [self._path(epoch) for epoch in keeper.epochs]
        gone = [one for path in paths for one in (path, _beside(path)) if not one.is_file()]
        if gone:
            raise RunError(
                f"{gone[0]} is missing, and a checkpoint in {self._run.folder} tells of it. Delete "
                "that folder and give the same command again: this one fit is then repeated."
            )
        found = []
        for epoch in keeper.epochs:
            path = self._path(epoch)
            put_learned(self._encoder, load_file(path), path)
            found.append(self._snapshot(epoch, load_file(_beside(path))))
        return found

    def last(self, epoch: int) -> Snapshot:
        """Keep the encoder as it is."""
        self._prove()
        self.write(epoch)
        return self._snapshot(epoch, self._bottleneck.head.state_dict())

    def _snapshot(self, epoch: int, head: Mapping[str, Tensor]) -> Snapshot:
        self.network.eval()
        rows, path = self._rows, self._path(epoch)
        name = fingerprint(
            rows.space.backbone, str(rows.tuning), self._run.seed, epoch, str(path.parent)
        )
        vectors = [self._vectors(part) for part in ("source", "validation", "target")]
        own = rows.seen_by(vectors, name)
        state = {key: value.detach().cpu() for key, value in head.items()}
        return Snapshot(epoch, self._bottleneck.folded(state), own=own, weights=path)

    def _reading(self) -> tuple[nn.Module, dict[str, RowSource]]:
        """The encoder or what replays its frozen part, and the rows that it takes."""
        rows, streams = self._rows, self._run.streams.child("adapt")
        if self._encoder.frozen:
            made = replay_prefix(
                rows.backbone, self._encoder, rows.source.train, rows.source.validation,
                batch_size=self._batch_size, streams=streams, beside=[rows.target],
            )  # fmt: skip
            if made is not None:
                (target,) = made.beside
                return made.module, {
                    "source": made.train.source, "validation": made.validation.source,
                    "target": target,
                }  # fmt: skip
        parts = {
            "source": rows.source.train, "validation": rows.source.validation,
            "target": rows.target,
        }  # fmt: skip
        return self._encoder, {
            name: ExampleRows(part, self._encoder.preprocess, streams=streams)
            for name, part in parts.items()
        }

    def _in_order(self, name: str) -> Any:
        loader = RowLoader(
            self._sources[name], 2 * self._batch_size, streams=self._run.streams, shuffle=False
        )
        return loader.batches(0)

    @torch.inference_mode()
    def _vectors(self, name: str) -> np.ndarray:
        """Vectors (N, D) of one part by the encoder as it is."""
        encoder = self.network.encoder.to(self._device)
        made: np.ndarray | None = None
        for batch in self._in_order(name):
            vectors_BD = encoder(batch.to(self._device).inputs).float().cpu().numpy()
            if made is None:
                made = np.empty((len(self._sources[name]), vectors_BD.shape[1]), dtype=np.float32)
            made[batch.rows_B.numpy()] = vectors_BD
        assert made is not None
        return made

    def _path(self, epoch: int) -> Path:
        return self._run.folder / SNAPSHOTS / f"epoch-{epoch:04d}.safetensors"

    def _prove(self) -> None:
        """What was not to learn has not moved.

        Raises:
            RunError: When it has.
        """
        self._ledger.check()
        if _base_of(self._encoder) != self._base:
            raise RunError(
                "weights or buffers of the base under LoRA changed while adapting; the result is "
                "not kept."
            )


def _base_of(encoder: Encoder) -> str | None:
    return encoder.base_fingerprint() if isinstance(encoder, AdaptedEncoder) else None


def _beside(path: Path) -> Path:
    """Where the head of a snapshot lies."""
    return path.with_suffix(".head.safetensors")

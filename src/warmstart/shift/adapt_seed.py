"""One method under one seed: fitted, its snapshots judged, and all of it kept on disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from warmstart.core import (
    Config,
    Run,
    RunError,
    read_json,
    verify_manifest,
    write_json,
    write_manifest,
)
from warmstart.models import Head, HeadShape

from .adapt_base import NamedMethod
from .adapt_view import DomainVectors
from .select_ranks import choose_snapshot, mean_ranks, rank_table
from .tuning import SNAPSHOTS
from .validators import Judged, Validators

__all__ = [
    "MethodResult",
    "MethodSeed",
    "SeedRecord",
    "fit_method",
    "forget_weights",
    "read_method",
]

_RESULT, _HEADS, _WEIGHTS = "result.json", "heads.safetensors", "encoder.safetensors"


class SeedRecord(Config):
    """What one seed of a method gave, but for its heads, which lie beside it.

    Attributes:
        method: Name of the method, with its settings where they are not the defaults.
        seed: Training seed.
        epochs: Epochs of the snapshots.
        judged: The validators' values of each snapshot.
        chosen: Position of the snapshot that the validators put first.
        shape: Of the heads.
        trainable_parameters: Weights that were learned.
        seconds: Wall time of the fit.
        stopped: Why training ended.
        history: One dictionary an epoch.
        values: What was found on the way.
        notes: Sentences for the reader.
        tuned: Whether the encoder learned too. Its weights lie beside the heads until the run has
            written its model.
    """

    method: str
    seed: int
    epochs: tuple[int, ...]
    judged: tuple[Judged, ...]
    chosen: int
    shape: HeadShape
    trainable_parameters: int
    seconds: float
    stopped: str
    history: tuple[dict[str, Any], ...]
    values: dict[str, Any]
    notes: tuple[str, ...]
    tuned: bool = False


@dataclass(frozen=True)
class MethodSeed:
    """A record with its heads.

    Attributes:
        record: What is known of the fit.
        heads: One for each snapshot; they read the backbone's raw vectors, or those of the encoder
            as it was then.
        weights: File of what the encoder had learned by the chosen snapshot; None where it is as
            the backbone came.
    """

    record: SeedRecord
    heads: tuple[Head, ...]
    weights: Path | None = None

    @property
    def head(self) -> Head:
        """The chosen snapshot's head."""
        return self.heads[self.record.chosen]

    @property
    def judged(self) -> Judged:
        """The chosen snapshot's values."""
        return self.record.judged[self.record.chosen]

    @property
    def epoch(self) -> int:
        """The chosen snapshot's epoch."""
        return self.record.epochs[self.record.chosen]


def fit_method(
    named: NamedMethod, rows: DomainVectors, run: Run, validators: Validators
) -> MethodSeed:
    """Fit, judge every snapshot without target labels, keep heads and record in the run's folder.

    Args:
        named: The method.
        rows: Source and target vectors.
        run: Folder and seed of this fit alone.
        validators: On the same rows.
    """
    adapted = named.method.fit(rows, run)
    heads = tuple(snapshot.head for snapshot in adapted.snapshots)
    judged = tuple(validators.judge(one.head, one.own) for one in adapted.snapshots)
    chosen = choose_snapshot(judged)
    weights = adapted.snapshots[chosen].weights
    record = SeedRecord(
        method=named.name,
        seed=run.seed,
        epochs=tuple(snapshot.epoch for snapshot in adapted.snapshots),
        judged=judged,
        chosen=chosen,
        shape=heads[0].shape,
        trainable_parameters=adapted.trainable_parameters,
        seconds=adapted.seconds,
        stopped=adapted.stopped,
        history=tuple(_finite(epoch) for epoch in adapted.history),
        values=adapted.values,
        notes=tuple(adapted.notes),
        tuned=weights is not None,
    )
    tensors = {
        f"{place}/{key}": value.detach().cpu().contiguous()
        for place, head in enumerate(heads)
        for key, value in head.state_dict().items()
    }
    save_file(tensors, run.folder / _HEADS)
    write_json(run.folder / _RESULT, record.model_dump(mode="json"))
    _drop_checkpoints(run.folder)  # first: a finished fit's checkpoint needs all of its snapshots
    if weights is not None:
        weights = weights.replace(run.folder / _WEIGHTS)
        shutil.rmtree(run.folder / SNAPSHOTS, ignore_errors=True)
    write_manifest(run.folder, task_type="classify")
    return MethodSeed(record, heads, weights)


def forget_weights(folder: Path) -> None:
    """Remove what the encoder had learned from a finished fit: it is kept as a model elsewhere.

    Args:
        folder: Of one method and seed.
    """
    if (folder / _RESULT).is_file():
        (folder / _WEIGHTS).unlink(missing_ok=True)
        write_manifest(folder, task_type="classify")  # again, where it was stopped before this


def read_method(folder: Path) -> MethodSeed | None:
    """A finished fit, or None where it has to be done (again).

    That is where it has not ended, is damaged, or its encoder learned and `forget_weights` came by.
    """
    if not (folder / _RESULT).is_file():
        return None
    try:
        verify_manifest(folder)
        record = SeedRecord.parse(read_json(folder / _RESULT), str(folder / _RESULT))
    except RunError:
        return None
    weights = folder / _WEIGHTS if record.tuned else None
    if weights is not None and not weights.is_file():
        return None
    tensors = load_file(folder / _HEADS)
    heads = tuple(_head(record, tensors, k) for k in range(len(record.epochs)))
    return MethodSeed(record, heads, weights)


@dataclass
class MethodResult:
    """A method with all its seeds, or the reason why it has none."""

    named: NamedMethod
    seeds: list[MethodSeed]
    reason: str | None = None

    @property
    def judged(self) -> Judged:
        """The validators' values, means over the seeds' chosen snapshots."""
        return _mean([seed.judged for seed in self.seeds])

    @property
    def kept(self) -> int:
        """Position of the seed that the validators put first, the first among equals."""
        means_K = mean_ranks(rank_table([seed.judged for seed in self.seeds]))
        return int(np.argmin(means_K))


def _drop_checkpoints(folder: Path) -> None:
    """Remove a fit's checkpoints in one step: half of them would be taken for damaged ones."""
    path, aside = folder / "checkpoints", folder / "checkpoints.old"
    shutil.rmtree(aside, ignore_errors=True)
    if path.is_dir():
        path.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _mean(judged: Sequence[Judged]) -> Judged:
    fields = Judged.model_fields
    return Judged(**{name: float(np.mean([getattr(one, name) for one in judged]))
                     for name in fields})  # fmt: skip


def _head(record: SeedRecord, tensors: Mapping[str, torch.Tensor], place: int) -> Head:
    head = Head(record.shape)
    prefix = f"{place}/"
    head.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items()
                          if k.startswith(prefix)})  # fmt: skip
    return head.eval()


def _finite(epoch: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in epoch.items()
    }

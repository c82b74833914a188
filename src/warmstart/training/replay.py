"""Training on a frozen prefix: rows are read from where they were kept, in the order as always."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from warmstart.backbones import Backbone, Encoder, state_hash
from warmstart.backbones.prefix import (
    ALL,
    PREFIX,
    PrefixCut,
    Replay,
    ReplayError,
    frozen_depth,
    prefix_groups,
    verify_replay,
)
from warmstart.backbones.prefix_record import Part, record
from warmstart.backbones.prefix_store import PrefixSpace
from warmstart.core import Streams, UsageError, fingerprint, progress
from warmstart.data import Dataset

from .engine import pick_precision
from .examples import MASK, Augment, ExampleRows
from .loaders import Batch, RowLoader

__all__ = ["ReplayRows", "Replayed", "Views", "replay_loaders", "replay_prefix"]

_PROBED = 4


class Kept(Protocol):
    """Kept rows of one data set."""

    def batch(self, rows: Sequence[int], mask_BT: Tensor | None = None) -> Tensor:
        """Some rows (B, ...), padded as the mask shows."""


@dataclass(frozen=True)
class Views:
    """Augmented views that are drawn up front; epoch e trains on view e mod `count`.

    Attributes:
        augment: Applied to each image with a generator of (seed, view, row id).
        name: Names the augmentation and its settings: what is kept under one name is reused.
        count: Views a row.
    """

    augment: Augment
    name: str
    count: int = 1

    def __post_init__(self) -> None:
        """Check the count.

        Raises:
            UsageError: For less than one view.
        """
        if self.count < 1:
            raise UsageError(f"views must be at least 1, got {self.count}. Typical: 4 to 16.")


@dataclass(frozen=True)
class Replayed:
    """What trains in the place of the encoder, and the rows that it takes.

    Attributes:
        module: For `Classifier`, in place of the encoder; takes whole rows as well.
        train: Loader of the training rows.
        validation: Loader of the validation rows.
        depth: Block that the kept rows enter, or `ALL` where they are final vectors.
        beside: Further rows that were kept, as they were given.
    """

    module: Replay
    train: RowLoader
    validation: RowLoader
    depth: int | Literal["all"]
    beside: tuple[ReplayRows, ...] = ()


class ReplayRows:
    """A row source over kept rows: the batches of `ExampleRows` with the prefix computed.

    Attributes:
        ids: Of the rows.
        parallel: Whether threads that prepare batches ahead help (images).
    """

    def __init__(
        self, data: Dataset, examples: ExampleRows, views: Sequence[Kept], *, tokens: bool
    ) -> None:
        """Join what is kept with labels and tokens.

        Args:
            data: The rows.
            examples: The same rows as they train without replay.
            views: The kept rows; epoch e reads view e mod their number.
            tokens: Whether batches have the tokens too, which the rest of the pass makes its
                masks from.
        """
        self.ids: Sequence[str] = examples.ids
        self.parallel = examples.parallel
        self._labels = torch.from_numpy(np.array(data.labels_N, dtype=np.int64))
        self._examples = examples
        self._views = tuple(views)
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> Sequence[int] | None:
        """As without replay, so that the batches are the same."""
        return self._examples.lengths()

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """The batch of these rows in this epoch."""
        kept = self._views[epoch % len(self._views)]
        if self._tokens:
            whole = self._examples.batch(rows, epoch)
            inputs = {**whole.inputs, PREFIX: kept.batch(rows, whole.inputs[MASK])}
            return Batch(inputs, whole.labels_B, whole.rows_B)
        places = torch.as_tensor(list(rows), dtype=torch.int64)
        return Batch({PREFIX: kept.batch(rows)}, self._labels[places], places)


def replay_prefix(
    backbone: Backbone,
    encoder: Encoder,
    train: Dataset,
    validation: Dataset,
    *,
    batch_size: int,
    streams: Streams,
    frozen: Iterable[str] | None = None,
    views: Views | None = None,
    mixed_precision: str = "auto",
    num_workers: int = 0,
    bucket: bool = True,
    even: bool = False,
    evaluation_batch_size: int | None = None,
    beside: Sequence[Dataset] = (),
) -> Replayed | None:
    """Record the frozen prefix of the rows, prove that replaying it changes nothing, and set it up.

    The prefix is kept under the hash of the frozen weights, so an encoder that is not as its
    backbone came is served as well. Loaders have the batches that `classification_loaders` with
    the same arguments has.

    Args:
        backbone: Its cache is where rows are kept; without one they stay in memory.
        encoder: Of that backbone, where it will train.
        train: Training rows, every one labelled.
        validation: Held-out rows.
        batch_size: Training rows a batch.
        streams: Source of order and augmentation.
        frozen: Names of the frozen groups; None for those that `freeze` froze.
        views: For training images that are augmented; without, images are not augmented.
        mixed_precision: As `fit_loop` is told.
        num_workers: Threads that read images' rows ahead.
        bucket: Whether rows of similar length share a batch.
        even: Whether training images come in batches of equal size. See `BatchOrder`.
        evaluation_batch_size: Validation rows a batch; twice `batch_size` when None.
        beside: Further rows to keep, labelled or not, such as another domain's.

    Returns:
        None where nothing is frozen from the start on, or where the prefix cannot be kept or
        replayed, after a note that says why: then train without.

    Raises:
        UsageError: For a training row without a label, or views of texts.
        BackboneError: When the prefix of a row is not finite.
    """
    if int(np.min(train.labels_N)) < 0:
        raise UsageError("a training row has no label. Leave unlabelled rows out.")
    work = _Setting(backbone, encoder, pick_precision(mixed_precision, encoder.device), views)
    try:
        depth = frozen_depth(encoder, encoder.frozen if frozen is None else frozen)
        if depth is None:
            return None
        held = (validation, *beside)
        found = work.keep(depth, train, held, streams)
        if found is None:
            return None
        module, kept = found
        seen, unseen = kept[: -len(held)], kept[-len(held) :]
        tokens = depth != ALL and encoder.modality == "text"
        learned = ExampleRows(train, encoder.preprocess, streams=streams)
        sources = [ReplayRows(train, learned, seen, tokens=tokens)]
        for data, rows in zip(held, unseen, strict=True):
            examples = ExampleRows(data, encoder.preprocess, streams=streams)
            sources.append(ReplayRows(data, examples, [rows], tokens=tokens))
        work.verify(module, train, learned, sources[0], streams)
    except ReplayError as error:
        progress.note(f"The frozen prefix is recomputed at every step: {error.reason}")
        return None
    loaders = replay_loaders(
        *sources[:2], batch_size=batch_size, streams=streams, num_workers=num_workers,
        bucket=bucket, even=even, evaluation_batch_size=evaluation_batch_size,
    )  # fmt: skip
    return Replayed(module, *loaders, depth, tuple(sources[2:]))


def replay_loaders(
    train: ReplayRows,
    validation: ReplayRows,
    *,
    batch_size: int,
    streams: Streams,
    num_workers: int = 0,
    bucket: bool = True,
    even: bool = False,
    evaluation_batch_size: int | None = None,
) -> tuple[RowLoader, RowLoader]:
    """Loaders of kept rows, with the batches of `classification_loaders`."""
    return (
        RowLoader(
            train, batch_size, streams=streams, bucket=bucket, num_workers=num_workers, even=even
        ),
        RowLoader(
            validation, evaluation_batch_size or 2 * batch_size, streams=streams, shuffle=False,
            num_workers=num_workers,
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class _Setting:
    """One encoder whose prefix is to be kept."""

    backbone: Backbone
    encoder: Encoder
    precision: str
    views: Views | None

    def keep(
        self,
        depth: int | Literal["all"],
        train: Dataset,
        held: Sequence[Dataset],
        streams: Streams,
    ) -> tuple[Replay, list[Kept]] | None:
        """Record; the module, and what was kept: each view of the training rows, the held out."""
        encoder = self.encoder
        if depth == ALL and self.views is None:
            return Replay(encoder, None), [self._vectors(data) for data in (train, *held)]
        cut = None
        if depth != ALL:
            places = [0, min(1, len(train) - 1)]
            batch = encoder.preprocess(train.inputs(places))
            here = {key: value.to(encoder.device) for key, value in batch.items()}
            cut = PrefixCut(encoder, depth, here, precision=self.precision)
        space = self._space(cut)
        parts = [Part(train, space)]
        if self.views is not None:
            parts = [
                self._view(train, space, number, streams) for number in range(self.views.count)
            ]
        parts += [Part(data, space) for data in held]
        kept = record(encoder, cut, parts, cache=self.backbone.cache)
        return None if kept is None else (Replay(encoder, cut), list(kept))

    def verify(
        self,
        module: Replay,
        train: Dataset,
        examples: ExampleRows,
        source: ReplayRows,
        streams: Streams,
    ) -> None:
        """Compare a whole pass with a replayed one on a few rows as unlike in length as can be."""
        lengths = examples.lengths()
        rows = list(range(min(_PROBED, len(train))))
        if lengths is not None:
            order = np.argsort(lengths, kind="stable").tolist()
            rows = sorted({*order[: _PROBED - 1], order[-1]})
        if self.views is None:
            fresh = examples.batch(rows, 0).inputs
        else:
            part = self._view(train, self._space(module.cut), 0, streams)
            fresh = self.encoder.preprocess(part.inputs(rows))
        verify_replay(module, fresh, source.batch(rows, 0).inputs, precision=self.precision)

    def _space(self, cut: PrefixCut | None) -> PrefixSpace:
        encoder, depth = self.encoder, cut.depth if cut else None
        text = encoder.modality == "text"
        return PrefixSpace(
            backbone=self.backbone.fingerprint,
            weights=state_hash(encoder, prefix_groups(encoder, depth)),
            modality=encoder.modality,
            depth=depth,
            pooling=None if cut else encoder.pooling,
            precision=self.precision if cut else "no",
            max_length=self.backbone.max_length if text else None,
            image_size=None if text else self.backbone.image_size,
        )

    def _view(self, train: Dataset, space: PrefixSpace, number: int, streams: Streams) -> Part:
        assert self.views is not None
        if train.modality != "image":
            raise UsageError("augmentation changes images; this data set is text. Remove views.")
        augment = self.views.augment

        def vary(image: Any, row_id: str) -> Any:
            return augment(image, streams.numpy("view", number, row_id))

        name = fingerprint(self.views.name, streams.seed("view"))
        return Part(train, space.model_copy(update={"augmentation": name, "view": number}), vary)

    def _vectors(self, data: Dataset) -> Kept:
        features = self.backbone.features(data, device=self.encoder.device)
        return _Vectors(torch.from_numpy(features.vectors_ND))


class _Vectors:
    """Vectors (N, D) as kept rows."""

    def __init__(self, vectors_ND: Tensor) -> None:
        self._vectors_ND = vectors_ND

    def batch(self, rows: Sequence[int], mask_BT: Tensor | None = None) -> Tensor:
        """The vectors (B, D) of some rows."""
        return self._vectors_ND[torch.as_tensor(list(rows))]

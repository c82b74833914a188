"""Batches by position: any epoch, from any batch on, in any number of workers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from warmstart.core import Streams, UsageError

from .order import BatchOrder

__all__ = [
    "Batch",
    "FixedLoader",
    "Loader",
    "RowLoader",
    "RowSource",
    "as_loader",
    "as_loaders",
    "default_workers",
]


@dataclass(frozen=True)
class Batch:
    """Preprocessed rows.

    Attributes:
        inputs: What the encoder takes, each tensor with B rows.
        labels_B: int64 labels, -1 for unknown.
        rows_B: int64 positions of the rows in their source.
    """

    inputs: dict[str, Tensor]
    labels_B: Tensor
    rows_B: Tensor

    def __len__(self) -> int:
        return len(self.rows_B)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        inputs = {key: moved(value) for key, value in self.inputs.items()}
        return Batch(inputs, moved(self.labels_B), moved(self.rows_B))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from where copies to the GPU are fast."""
        inputs = {key: value.pin_memory() for key, value in self.inputs.items()}
        return Batch(inputs, self.labels_B.pin_memory(), self.rows_B.pin_memory())


@runtime_checkable
class Loader(Protocol):
    """What the loop reads from."""

    def __len__(self) -> int:
        """Batches an epoch, over all processes."""

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """The batches of an epoch from `start` on that fall to process `rank` of `world`.

        Batch i falls to process i mod world. The same arguments give the same batches.
        """


class RowSource(Protocol):
    """Rows that can be made into a batch."""

    parallel: bool
    """Whether threads may call `batch` at once, and it helps."""

    def __len__(self) -> int:
        """Rows."""

    @property
    def ids(self) -> Sequence[str]:
        """One stable id a row."""

    def lengths(self) -> Sequence[int] | None:
        """One length a row for bucketing, None where all are alike."""

    def batch(self, rows: Sequence[int], epoch: int) -> Any:
        """The batch of these rows; random augmentation is a function of (seed, epoch, id)."""


class FixedLoader:
    """A list of ready batches, the same in every epoch."""

    def __init__(self, batches: Sequence[Any]) -> None:
        if not len(batches):
            raise UsageError("a loader needs at least one batch, got an empty list.")
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """The batches from `start` on."""
        del epoch
        for place in range(start + (rank - start) % world, len(self._batches), world):
            yield self._batches[place]


class RowLoader:
    """Batches of a row source in the order that (seed, epoch, row id) gives.

    Attributes:
        source: Where the rows come from.
        order: Which rows form which batch.
        fingerprint: Of the order; checked on resume.
    """

    def __init__(
        self,
        source: RowSource,
        batch_size: int,
        *,
        streams: Streams,
        shuffle: bool = True,
        bucket: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        labels: Sequence[int] | np.ndarray | None = None,
        oversample: float = 0.0,
        even: bool = False,
    ) -> None:
        """Lay out the batches.

        Args:
            source: The rows.
            batch_size: Rows a batch.
            streams: Source of the order's seed.
            shuffle: False keeps the order of the source.
            bucket: Whether rows of similar length share a batch.
            drop_last: Whether an incomplete batch is left out.
            num_workers: Threads that prepare batches ahead; 0 prepares each when it is asked for,
                as sources whose rows are cached ready (text) always do.
            labels: Class of each row; needed to oversample.
            oversample: See `BatchOrder`.
            even: See `BatchOrder`.
        """
        if num_workers < 0:
            raise UsageError(f"num_workers must be at least 0, got {num_workers}. Usual: 0 to 8.")
        self.source = source
        lengths = source.lengths() if bucket else None
        self.order = BatchOrder(
            source.ids, batch_size, streams=streams, lengths=lengths, shuffle=shuffle,
            drop_last=drop_last, labels=labels, oversample=oversample, even=even,
        )  # fmt: skip
        self.fingerprint = self.order.fingerprint
        self._workers = num_workers if source.parallel else 0

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """The batches of an epoch from `start` on that fall to process `rank` of `world`."""
        planned = self.order.batches(epoch)[start + (rank - start) % world :: world]
        if not self._workers or len(planned) < 2:
            for rows in planned:
                yield self.source.batch(rows.tolist(), epoch)
            return
        yield from self._ahead(planned, epoch)

    def _ahead(self, planned: Sequence[np.ndarray], epoch: int) -> Iterator[Any]:
        """The planned batches in order, prepared by threads while the device works.

        Threads and not processes: decoding and resizing let go of Python's lock, rows that were
        prepared once stay for the next epoch, and nothing is forked beside threads that run.
        """
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="warmstart-rows") as pool:
            try:
                for rows in planned:
                    waiting.append(pool.submit(self.source.batch, rows.tolist(), epoch))
                    if len(waiting) > self._workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


def as_loader(value: Loader | Sequence[Any]) -> Loader:
    """A loader as it is, or a list of batches as a loader."""
    if isinstance(value, Loader):
        return value
    if isinstance(value, Sequence):
        return FixedLoader(value)
    raise UsageError(
        f"loaders takes a Loader or a list of batches, got {type(value).__name__}. "
        "Wrap the rows in RowLoader."
    )


def as_loaders(
    value: Loader | Sequence[Any] | Mapping[str, Loader | Sequence[Any]],
) -> dict[str, Loader]:
    """Loaders by name; a single one is called `""`."""
    if isinstance(value, Mapping):
        if not value:
            raise UsageError("loaders is empty. Give at least one loader.")
        return {name: as_loader(loader) for name, loader in value.items()}
    return {"": as_loader(value)}


def default_workers(device: torch.device, modality: str) -> int:
    """Workers worth starting: several for images beside a GPU, none otherwise."""
    if modality != "image" or device.type == "cpu":
        return 0
    return max(0, min(8, (os.cpu_count() or 1) - 1))

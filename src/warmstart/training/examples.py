"""Labelled rows as batches: preprocessed when needed, kept where that is cheap, augmented by id."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from warmstart.core import Streams, UsageError

from .loaders import Batch

__all__ = ["Augment", "ExampleRows", "Preprocess", "Rows"]

Preprocess = Callable[[Sequence[Any]], Mapping[str, Tensor]]
Augment = Callable[[Any, np.random.Generator], Any]
MASK = "attention_mask"
CHUNK = 256
DEFAULT_CACHE = 512 * 2**20


class Rows(Protocol):
    """The part of a `Dataset` that training reads."""

    @property
    def ids(self) -> Sequence[str]:
        """Stable ids."""

    @property
    def labels_N(self) -> np.ndarray:
        """Labels, -1 for unknown."""

    @property
    def modality(self) -> str:
        """`text` or `image`."""

    def __len__(self) -> int: ...

    def inputs(self, indices: Sequence[int] | None = None) -> Sequence[Any]:
        """Strings, or decoded images."""


class ExampleRows:
    """A row source over labelled text or images.

    Text is tokenised once, its rows kept without padding and padded to the longest of each batch.
    Images are decoded and preprocessed batch by batch; without augmentation the results are kept
    until `cache_bytes` is used up. What is kept changes no result.

    Attributes:
        parallel: Whether threads that prepare batches ahead help (images).
    """

    def __init__(
        self,
        data: Rows,
        preprocess: Preprocess,
        *,
        streams: Streams,
        augment: Augment | None = None,
        cache_bytes: int = DEFAULT_CACHE,
    ) -> None:
        """Wrap the rows.

        Args:
            data: The rows.
            preprocess: `Encoder.preprocess`: a list of inputs to tensors with one row each.
            streams: Source of augmentation's seeds.
            augment: Applied to each input with a generator of (seed, epoch, row id). Images only.
            cache_bytes: Memory for preprocessed rows at most.
        """
        if augment is not None and data.modality != "image":
            raise UsageError("augmentation changes images; this data set is text. Remove augment.")
        self.ids: Sequence[str] = list(data.ids)
        self.parallel = data.modality == "image"
        self._data = data
        self._labels = torch.from_numpy(np.array(data.labels_N, dtype=np.int64))
        self._preprocess = preprocess
        self._streams = streams
        self._augment = augment
        self._room = cache_bytes
        self._lock = threading.Lock()  # batches are prepared by several threads
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._lengths: list[int] | None = None
        self._padding: _Padding | None = None
        if not self.parallel:
            self._padding = _Padding.learn(preprocess)

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> Sequence[int] | None:
        """Tokens of each row; None for images and for text whose rows are all alike."""
        if self._padding is None:
            return None
        if self._lengths is None:
            found: list[int] = []
            for start in range(0, len(self), CHUNK):
                rows = range(start, min(start + CHUNK, len(self)))
                found += [self._padding.length(row) for row in self._rows(rows, 0)]
            self._lengths = found
        return self._lengths

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """The batch of these rows in this epoch."""
        made = self._rows(rows, epoch)
        if self._padding is not None:
            inputs = self._padding.stack(made)
        else:
            inputs = {key: torch.stack([row[key] for row in made]) for key in made[0]}
        places = torch.as_tensor(list(rows), dtype=torch.int64)
        return Batch(inputs, self._labels[places], places)

    def _rows(self, rows: Sequence[int], epoch: int) -> list[dict[str, Tensor]]:
        missing = [row for row in rows if row not in self._kept]
        fresh: dict[int, dict[str, Tensor]] = {}
        if missing:
            inputs = list(self._data.inputs(missing))
            if self._augment is not None:
                inputs = [
                    self._augment(value, self._streams.numpy("augment", epoch, self.ids[row]))
                    for row, value in zip(missing, inputs, strict=True)
                ]
            tensors = self._preprocess(inputs)
            split = self._padding.split(tensors) if self._padding else _split(tensors)
            fresh = dict(zip(missing, split, strict=True))
            if self._augment is None:
                self._keep(fresh)
        return [self._kept[row] if row in self._kept else fresh[row] for row in rows]

    def _keep(self, fresh: Mapping[int, dict[str, Tensor]]) -> None:
        for row, tensors in fresh.items():
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            copied = {key: tensor.clone() for key, tensor in tensors.items()}
            with self._lock:
                if size <= self._room and row not in self._kept:
                    self._room -= size
                    self._kept[row] = copied


class _Padding:
    """Takes the padding off tokenised rows and puts it back, as the tokenizer itself pads."""

    def __init__(self, values: Mapping[str, float], left: bool) -> None:
        self._values = dict(values)
        self._left = left

    @classmethod
    def learn(cls, preprocess: Preprocess) -> _Padding | None:
        """See how a short text beside a long one is padded; None where there is no mask."""
        tensors = preprocess(["a", "a b c d e f g h i j k l m n o p"])
        mask = tensors.get(MASK)
        if mask is None or mask.ndim != 2:
            return None
        holes = ~mask[0].bool()
        if not bool(holes.any()):  # padded to one length whatever comes
            return cls(dict.fromkeys(_token_keys(tensors), 0), left=False)
        place = int(holes.nonzero()[0, 0])
        values = {key: float(tensors[key][0, place].item()) for key in _token_keys(tensors)}
        return cls(values, left=place == 0)

    @staticmethod
    def length(row: Mapping[str, Tensor]) -> int:
        return int(row[MASK].shape[0])

    def split(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Rows without padding; token ids in 32 bits."""
        mask = tensors[MASK].bool()
        return [
            {
                key: _narrow(value[place][mask[place]]) if key in self._values else value[place]
                for key, value in tensors.items()
            }
            for place in range(len(mask))
        ]

    def stack(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Rows padded to the longest of them."""
        width = max(self.length(row) for row in rows)
        stacked: dict[str, Tensor] = {}
        for key, first in rows[0].items():
            if key not in self._values:
                stacked[key] = torch.stack([row[key] for row in rows])
                continue
            wide = torch.int64 if not first.is_floating_point() else first.dtype
            shape = (len(rows), width, *first.shape[1:])
            padded = torch.full(shape, self._values[key], dtype=wide)
            for place, row in enumerate(rows):
                count = row[key].shape[0]
                where = slice(width - count, width) if self._left else slice(0, count)
                padded[place, where] = row[key].to(wide)
            stacked[key] = padded
        return stacked


def _token_keys(tensors: Mapping[str, Tensor]) -> list[str]:
    shape = tensors[MASK].shape
    return [key for key, value in tensors.items() if value.shape[:2] == shape]


def _narrow(values: Tensor) -> Tensor:
    return values.to(torch.int32) if values.dtype == torch.int64 else values


def _split(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    count = len(next(iter(tensors.values())))
    return [{key: value[place] for key, value in tensors.items()} for place in range(count)]

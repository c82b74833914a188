"""What enters a block, kept for every row: on disk by content, or in memory when it is small.

Rows differ in shape where texts differ in length, so a row is a run of cells: T cells of D numbers
for tokens, C cells of H by W for maps. Padding is not kept; it comes back batch by batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from warmstart.core import BackboneError, Config, fingerprint
from warmstart.data import Modality

from .rowstore import RowStore

__all__ = ["KeptRows", "MemoryStore", "PrefixSpace", "PrefixStore", "RowKeeper"]

_STORED = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": "<u2"}


class PrefixSpace(Config):
    """What a kept row depends on beside its content.

    Attributes:
        backbone: Fingerprint of the backbone, for its preprocessing.
        weights: Hash of the frozen weights and buffers that made the rows.
        modality: Which tower made them.
        depth: Block whose input is kept; None for the pooled vector after the last.
        pooling: How that vector was pooled; None at a block.
        precision: `no`, `bf16` or `fp16`, as training computes.
        max_length: Tokens at most; None for images.
        image_size: Pixels on a side where it was set.
        augmentation: Names the augmentation and its seed; None for rows as they are.
        view: Which of the augmented views; None for rows as they are.
    """

    backbone: str
    weights: str
    modality: Modality
    depth: int | None
    pooling: str | None = None
    precision: str = "no"
    max_length: int | None = None
    image_size: int | None = None
    augmentation: str | None = None
    view: int | None = None

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal characters, equal for equal spaces."""
        return fingerprint("prefix", self.model_dump())


class RowKeeper(Protocol):
    """Where rows are kept."""

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the rows."""

    def runs(self, keys: Sequence[bytes]) -> np.ndarray:
        """First cell and number of cells (N, 2) of each key; -1 and 0 for those not there."""

    def append(self, keys: Sequence[bytes], rows: Sequence[Tensor]) -> None:
        """Add rows, each (cells, *rest) on the CPU; all have one number format and one rest."""

    def cells(self) -> np.ndarray:
        """All cells, in the stored number format."""


class PrefixStore(RowStore):
    """Rows on disk, one folder a space: memory-mapped, checked, found by content."""

    _magic = b"WSPB0001"
    _data = "prefix.bin"
    _facts = "prefix.json"
    _noun = "prefix rows"
    _ragged = True

    def __init__(self, folder: Path, space: PrefixSpace) -> None:
        self.space = space
        super().__init__(folder, space.model_dump())

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the rows."""
        assert self.layout is not None
        return _torch_dtype(str(self.layout["dtype"]))

    def append(self, keys: Sequence[bytes], rows: Sequence[Tensor]) -> None:
        """Add rows; those that are there already stay as they are.

        Raises:
            OSError: When the disk is full; what was there stays sound.
        """
        if len(keys):
            name = str(rows[0].dtype).removeprefix("torch.")
            layout = {"dtype": name, "cell": list(rows[0].shape[1:])}
            self._append(keys, [_as_array(row) for row in rows], layout)

    def cells(self) -> np.ndarray:
        """All cells of the file, memory-mapped, read-only."""
        assert self.layout is not None
        cell = tuple(int(size) for size in self.layout["cell"])
        return np.asarray(self._mapped(np.dtype(_STORED[str(self.layout["dtype"])]), cell))

    def _cell_bytes(self, layout: dict[str, Any]) -> int:
        numbers = int(np.prod([int(size) for size in layout["cell"]]))
        return np.dtype(_STORED[str(layout["dtype"])]).itemsize * numbers


class MemoryStore:
    """Rows in memory, for backbones without a cache."""

    def __init__(self) -> None:
        self.dtype = torch.float32
        self._where: dict[bytes, tuple[int, int]] = {}
        self._parts: list[np.ndarray] = []
        self._count = 0

    def runs(self, keys: Sequence[bytes]) -> np.ndarray:
        """First cell and number of cells (N, 2) of each key; -1 and 0 for those not there."""
        found = [self._where.get(key, (-1, 0)) for key in keys]
        return np.array(found, dtype=np.int64).reshape(len(keys), 2)

    def append(self, keys: Sequence[bytes], rows: Sequence[Tensor]) -> None:
        """Add rows."""
        for key, row in zip(keys, rows, strict=True):
            self.dtype = row.dtype
            self._where[key] = (self._count, len(row))
            self._count += len(row)
        if len(rows):
            self._parts.append(np.concatenate([_as_array(row) for row in rows]))

    def cells(self) -> np.ndarray:
        """All cells."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]


class KeptRows:
    """The kept rows of a data set, in its order, as batches."""

    def __init__(self, keeper: RowKeeper, keys: Sequence[bytes]) -> None:
        """Find every row.

        Raises:
            BackboneError: When a row is not there.
        """
        self._runs_N2 = keeper.runs(keys)
        if (self._runs_N2[:, 0] < 0).any():
            raise BackboneError("a row of the frozen prefix is not there; record it first.")
        self._cells = keeper.cells()
        self._dtype = keeper.dtype

    def __len__(self) -> int:
        return len(self._runs_N2)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, equal ones counted once."""
        runs_M2 = np.unique(self._runs_N2, axis=0)
        return int(runs_M2[:, 1].sum()) * (self._cells.nbytes // max(1, len(self._cells)))

    def batch(self, rows: Sequence[int], mask_BT: Tensor | None = None) -> Tensor:
        """The rows (B, cells, *rest).

        Args:
            rows: Positions in the data set.
            mask_BT: 1 for real tokens in one run a row, 0 for padding, which becomes zeros. None
                where all rows have one number of cells.

        Raises:
            BackboneError: When the mask shows another number of tokens than was kept.
        """
        runs_B2 = self._runs_N2[list(rows)]
        counts_B = runs_B2[:, 1]
        width, starts = int(counts_B.max()), np.zeros(len(counts_B), dtype=np.int64)
        if mask_BT is not None:
            mask = mask_BT.numpy()
            width, starts = mask.shape[1], mask.argmax(axis=1)
            if not np.array_equal(mask.sum(axis=1), counts_B):
                raise BackboneError(
                    "the kept rows have other numbers of tokens than the batch. The tokenizer "
                    "changed while it trained; train with prefix='off'."
                )
        elif (counts_B != width).any():
            raise BackboneError("kept rows of different shapes need an attention mask.")
        whole = bool((counts_B == width).all())
        make = torch.empty if whole else torch.zeros
        made = make((len(counts_B), width, *self._cells.shape[1:]), dtype=self._dtype)
        target = _as_array(made)
        for place, ((first, count), start) in enumerate(
            zip(runs_B2.tolist(), starts.tolist(), strict=True)
        ):
            target[place, start : start + count] = self._cells[first : first + count]
        return made


def _as_array(tensor: Tensor) -> np.ndarray:
    """A view of a CPU tensor in the stored number format."""
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type; its bits are kept
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def _torch_dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found

"""The feature cache: vectors on disk, one folder a space, found by the content of the row.

A space's folder holds `space.json`, `vectors.f32` (rows of float32) and `index.bin`, appended in
the checked blocks of `rowstore`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.core import UsageError

from .rowstore import RowStore
from .space import Space

__all__ = ["DEFAULT_LIMIT_BYTES", "FeatureCache", "SpaceStore"]

DEFAULT_LIMIT_BYTES = 20 * 2**30


class FeatureCache:
    """A folder of spaces.

    Attributes:
        root: Where; `$WARMSTART_CACHE` or ~/.cache/warmstart/features by default.
        limit_bytes: Size that the whole cache must stay under; `$WARMSTART_CACHE_LIMIT` (bytes, or
            a number with K, M, G, T) or 20 GiB by default.
    """

    def __init__(self, root: Path | str | None = None, limit_bytes: int | None = None) -> None:
        self.root = Path(root).expanduser() if root is not None else _default_root()
        self.limit_bytes = limit_bytes if limit_bytes is not None else _default_limit()

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.root)!r})"

    def size_bytes(self) -> int:
        """Bytes on disk now."""
        if not self.root.is_dir():
            return 0
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())

    def open(self, space: Space) -> SpaceStore:
        """The store of a space; nothing is written yet.

        Raises:
            RunError: When the folder is of another format.
        """
        return SpaceStore(self.root / space.fingerprint, space)

    def room_for(self, more_bytes: int) -> bool:
        """Whether so much more fits under the limit."""
        return self.size_bytes() + more_bytes <= self.limit_bytes


class SpaceStore(RowStore):
    """The vectors of one space; one cell a row.

    Attributes:
        space: What they are.
    """

    _magic = b"WSFB0001"
    _data = "vectors.f32"
    _facts = "space.json"
    _noun = "vectors"
    _ragged = False

    def __init__(self, folder: Path, space: Space) -> None:
        self.space = space
        super().__init__(folder, space.model_dump())

    @property
    def dimension(self) -> int | None:
        """D, None while the store is empty."""
        return None if self.layout is None else int(self.layout["dimension"])

    def positions(self, keys: Sequence[bytes]) -> np.ndarray:
        """Rows of the keys in the vector file, -1 for those not (soundly) there."""
        return self.runs(keys)[:, 0]

    def vectors(self) -> np.ndarray:
        """All rows of the vector file (M, D), memory-mapped, read-only."""
        assert self.dimension is not None
        return self._mapped(np.dtype("<f4"), (self.dimension,))

    def append(self, keys: Sequence[bytes], vectors_ND: np.ndarray) -> None:
        """Add rows; those that are there already stay as they are.

        Raises:
            OSError: When the disk is full; what was there stays sound.
        """
        if len(keys):
            rows = np.ascontiguousarray(vectors_ND, dtype="<f4")
            self._append(keys, rows, {"dimension": int(rows.shape[1])})

    def _cell_bytes(self, layout: dict[str, Any]) -> int:
        return 4 * int(layout["dimension"])


def _default_root() -> Path:
    named = os.environ.get("WARMSTART_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "warmstart" / "features"


def _default_limit() -> int:
    text = os.environ.get("WARMSTART_CACHE_LIMIT", "").strip()
    if not text:
        return DEFAULT_LIMIT_BYTES
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1].upper() in units else (text, 1)
    try:
        return int(float(number) * unit)
    except ValueError:
        raise UsageError(
            "WARMSTART_CACHE_LIMIT must be a number of bytes, optionally with K, M, G or T, got "
            f"{text!r}."
        ) from None

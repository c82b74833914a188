"""Rows on disk that are found by key: appended in checked blocks, sound after any crash.

A folder holds facts in JSON, rows of numbers (appended) and `index.bin` (blocks of keys,
appended). A row is one cell or a run of cells, all cells of a folder being of one size. A block's
record goes to the index only after its cells are on disk, so a crash leaves at worst cells without
a record, or a record cut short, and both are passed over. A record carries its own checksum and
its cells' SHA-256, which is checked when the block is first read: damaged blocks are forgotten,
said aloud, and computed again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock

from warmstart.core import FORMAT_VERSION, RunError, progress, read_json, write_json

__all__ = ["RowStore", "content_key", "human_size"]

_HEAD = struct.Struct("<8sQI32s")  # magic, first cell, rows, SHA-256 of the cells
_KEY = 16
_CHECK = 16


@dataclass
class _Block:
    first: int
    cells: int
    digest: bytes
    checked: bool = False


class RowStore:
    """Rows of cells by key; what the cells are is the subclass's to say.

    Attributes:
        folder: Where they lie.
        layout: Facts that the first row written settles (the size of a cell among them); None
            while the store is empty.
    """

    _magic: ClassVar[bytes]
    _data: ClassVar[str]
    _facts: ClassVar[str]
    _noun: ClassVar[str]
    _ragged: ClassVar[bool]  # whether a row is a run of cells, whose length the record tells

    def __init__(self, folder: Path, space: dict[str, Any]) -> None:
        self.folder = folder
        self.layout: dict[str, Any] | None = None
        self._space_facts = space
        self._blocks: list[_Block] = []
        self._where: dict[bytes, tuple[int, int, int]] = {}  # key -> block, first cell, cells
        self._read_to = 0
        self.refresh()

    @property
    def data_path(self) -> Path:
        """The cells."""
        return self.folder / self._data

    @property
    def index_path(self) -> Path:
        """Blocks of keys."""
        return self.folder / "index.bin"

    def __len__(self) -> int:
        return len(self._where)

    def refresh(self) -> None:
        """Read what the index has gained since last time, by this process or another.

        Raises:
            RunError: When the folder is of another format or another space.
        """
        if self.layout is None and not self._read_facts():
            return
        try:
            with self.index_path.open("rb") as handle:
                handle.seek(self._read_to)
                raw = handle.read()
        except FileNotFoundError:
            return
        self._read_to += self._take(raw)

    def runs(self, keys: Sequence[bytes]) -> np.ndarray:
        """First cell and number of cells (N, 2) of each key; -1 and 0 for those not soundly there.

        The blocks that hold them are checked against their SHA-256 on first use.
        """
        self._forget_damaged({self._where[key][0] for key in keys if key in self._where})
        missing = (0, -1, 0)
        found = [self._where.get(key, missing)[1:] for key in keys]
        return np.array(found, dtype=np.int64).reshape(len(keys), 2)

    def _cell_bytes(self, layout: dict[str, Any]) -> int:
        """Bytes of one cell."""
        raise NotImplementedError

    def _mapped(self, dtype: np.dtype[Any], tail: tuple[int, ...]) -> np.ndarray:
        """All cells of the file, memory-mapped, read-only."""
        stride = dtype.itemsize * int(np.prod(tail))
        cells = self.data_path.stat().st_size // stride
        return np.memmap(self.data_path, dtype=dtype, mode="r", shape=(cells, *tail))

    def _append(
        self, keys: Sequence[bytes], rows: Sequence[np.ndarray] | np.ndarray, layout: dict[str, Any]
    ) -> None:
        """Add rows: cells first, flushed to disk, then their record.

        Raises:
            OSError: When the disk is full; what was there stays sound.
        """
        if not len(keys):
            return
        with self._locked():
            self._write_facts(layout)
            self.refresh()
            new = [row for row, key in enumerate(keys) if key not in self._where]
            if not new:
                return
            body = b"".join(np.ascontiguousarray(rows[row]).tobytes() for row in new)
            counts = [len(rows[row]) for row in new] if self._ragged else None
            first = self._append_cells(body, self._cell_bytes(layout))
            digest = hashlib.sha256(body).digest()
            _write(self.index_path, self._record(first, [keys[row] for row in new], counts, digest))
            self.refresh()

    def _append_cells(self, body: bytes, stride: int) -> int:
        """Write at the next whole cell of the file, and flush; returns the first cell."""
        with self.data_path.open("ab") as handle:
            size = handle.seek(0, os.SEEK_END)
            first = -(-size // stride)
            handle.write(b"\0" * (first * stride - size))
            handle.write(body)
            handle.flush()
            os.fsync(handle.fileno())
        return first

    def _record(
        self, first: int, keys: Sequence[bytes], counts: Sequence[int] | None, digest: bytes
    ) -> bytes:
        body = _HEAD.pack(self._magic, first, len(keys), digest) + b"".join(keys)
        if counts is not None:
            body += np.asarray(counts, dtype="<u4").tobytes()
        return body + hashlib.blake2b(body, digest_size=_CHECK).digest()

    def _take(self, raw: bytes) -> int:
        """Read whole records; pass over damaged bytes; returns how many bytes are done with."""
        at = done = 0
        while (at := raw.find(self._magic, at)) >= 0:
            record = self._parse(raw, at)
            if record is None:
                at += 1
                continue
            block, keys, counts, at = record
            number = len(self._blocks)
            self._blocks.append(block)
            starts = block.first + np.cumsum([0, *counts[:-1]])
            self._where.update(
                (key, (number, start, count))
                for key, start, count in zip(keys, starts.tolist(), counts, strict=True)
            )
            done = at
        return done

    def _parse(self, raw: bytes, at: int) -> tuple[_Block, list[bytes], list[int], int] | None:
        """A record at a position, with where it ends; None when it is cut short or damaged."""
        if len(raw) < at + _HEAD.size:
            return None
        _, first, rows, digest = _HEAD.unpack_from(raw, at)
        start = at + _HEAD.size
        keys_end = start + rows * _KEY
        end = keys_end + (4 * rows if self._ragged else 0)
        if len(raw) < end + _CHECK:
            return None
        if hashlib.blake2b(raw[at:end], digest_size=_CHECK).digest() != raw[end : end + _CHECK]:
            return None
        keys = [raw[i : i + _KEY] for i in range(start, keys_end, _KEY)]
        counts = [1] * rows
        if self._ragged:
            counts = np.frombuffer(raw[keys_end:end], dtype="<u4").tolist()
        return _Block(first, sum(counts), digest), keys, counts, end + _CHECK

    def _forget_damaged(self, numbers: set[int]) -> None:
        unchecked = [number for number in numbers if not self._blocks[number].checked]
        if not unchecked or self.layout is None:
            return
        stride = self._cell_bytes(self.layout)
        bad: set[int] = set()
        self.data_path.touch()
        with self.data_path.open("rb") as handle:
            for number in sorted(unchecked):
                block = self._blocks[number]
                handle.seek(block.first * stride)
                body = handle.read(block.cells * stride)
                block.checked = hashlib.sha256(body).digest() == block.digest
                if not block.checked:
                    bad.add(number)
        if bad:
            lost = [key for key, (number, _, _) in self._where.items() if number in bad]
            for key in lost:
                del self._where[key]
            progress.note(
                f"{len(lost)} cached {self._noun} in {self.data_path} are damaged (their SHA-256 "
                "does not match) and will be computed again."
            )

    def _read_facts(self) -> bool:
        path = self.folder / self._facts
        if not path.is_file():
            return False
        try:
            facts = read_json(path)
        except RunError:
            raise RunError(
                f"{path} is damaged. Delete {self.folder}: it is a cache, and is filled anew."
            ) from None
        if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
            raise RunError(
                f"{self.folder} is a feature cache of another format; this warmstart reads "
                f"version {FORMAT_VERSION}. Delete that folder."
            )
        layout = {k: v for k, v in facts.items() if k not in {"format_version", "space"}}
        if facts.get("space") != self._space_facts or not self._is_layout(layout):
            raise RunError(f"{path} does not describe this space. Delete {self.folder}.")
        self.layout = layout
        return True

    def _is_layout(self, layout: dict[str, Any]) -> bool:
        try:
            return self._cell_bytes(layout) > 0
        except (KeyError, TypeError, ValueError):
            return False

    def _write_facts(self, layout: dict[str, Any]) -> None:
        if self.layout is None and not self._read_facts():
            facts = {"format_version": FORMAT_VERSION, "space": self._space_facts, **layout}
            write_json(self.folder / self._facts, facts)
            self.layout = layout
        if self.layout != layout:
            raise RunError(
                f"{self.folder} holds {self._noun} of {_shown(self.layout or {})}, got "
                f"{_shown(layout)}. Delete that folder."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock", timeout=600):
            yield


def content_key(content: str) -> bytes:
    """The 16-byte key of a row's content hash (32 hexadecimal characters)."""
    try:
        raw = bytes.fromhex(content)
    except ValueError:
        raw = b""
    return raw if len(raw) == _KEY else hashlib.blake2b(content.encode(), digest_size=_KEY).digest()


def human_size(size: float) -> str:
    """Bytes for people: `12 MB`, `3.4 GB`."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _shown(layout: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in layout.items())


def _write(path: Path, data: bytes) -> None:
    with path.open("ab") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())

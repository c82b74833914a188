"""The feature cache: vectors on disk, one folder a space, found by the content of the row.

A space's folder holds `space.json`, `vectors.f32` (rows of float32, appended) and `index.bin`
(blocks of keys, appended). A block's record goes to the index only after its vectors are on disk,
so a crash leaves at worst vectors without a record, or a record cut short, and both are passed
over. A record carries its own checksum and its vectors' SHA-256, which is checked when the block
is first read: damaged blocks are forgotten, said aloud, and computed again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from warmstart.core import FORMAT_VERSION, RunError, UsageError, progress, read_json, write_json

from .space import Space

__all__ = ["DEFAULT_LIMIT_BYTES", "FeatureCache", "SpaceStore", "content_key"]

DEFAULT_LIMIT_BYTES = 20 * 2**30
_MAGIC = b"WSFB0001"
_HEAD = struct.Struct("<8sQI32s")  # magic, first row, rows, SHA-256 of the vectors
_KEY = 16
_CHECK = 16


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


@dataclass
class _Block:
    first: int
    rows: int
    digest: bytes
    checked: bool = False


class SpaceStore:
    """The vectors of one space.

    Attributes:
        folder: Where they lie.
        space: What they are.
        dimension: D, None while the store is empty.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder = folder
        self.space = space
        self.dimension: int | None = None
        self._blocks: list[_Block] = []
        self._where: dict[bytes, tuple[int, int]] = {}  # key -> (block, row in the file)
        self._read_to = 0
        self.refresh()

    @property
    def vectors_path(self) -> Path:
        """Rows of float32."""
        return self.folder / "vectors.f32"

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
        if self.dimension is None and not self._read_facts():
            return
        try:
            with self.index_path.open("rb") as handle:
                handle.seek(self._read_to)
                raw = handle.read()
        except FileNotFoundError:
            return
        self._read_to += self._take(raw)

    def positions(self, keys: Sequence[bytes]) -> np.ndarray:
        """Rows of the keys in the vector file, -1 for those not (soundly) there.

        The blocks that hold them are checked against their SHA-256 on first use.
        """
        self._forget_damaged({self._where[key][0] for key in keys if key in self._where})
        missing = (0, -1)
        return np.array([self._where.get(key, missing)[1] for key in keys], dtype=np.int64)

    def vectors(self) -> np.ndarray:
        """All rows of the vector file (M, D), memory-mapped, read-only."""
        assert self.dimension is not None
        rows = self.vectors_path.stat().st_size // (4 * self.dimension)
        return np.memmap(
            self.vectors_path, dtype=np.float32, mode="r", shape=(rows, self.dimension)
        )

    def append(self, keys: Sequence[bytes], vectors_ND: np.ndarray) -> None:
        """Add rows: vectors first, flushed to disk, then their record.

        Raises:
            OSError: When the disk is full; what was there stays sound.
        """
        if not len(keys):
            return
        vectors_ND = np.ascontiguousarray(vectors_ND, dtype="<f4")
        with self._locked():
            self._write_facts(int(vectors_ND.shape[1]))
            self.refresh()
            new = [row for row, key in enumerate(keys) if key not in self._where]
            if not new:
                return
            kept = [keys[row] for row in new]
            body = vectors_ND[new].tobytes()
            first = self._append_vectors(body, vectors_ND.shape[1] * 4)
            _append(self.index_path, _record(first, kept, hashlib.sha256(body).digest()))
            self.refresh()

    def _append_vectors(self, body: bytes, stride: int) -> int:
        """Write rows at the next whole row of the file, and flush; returns their first row."""
        with self.vectors_path.open("ab") as handle:
            size = handle.seek(0, os.SEEK_END)
            first = -(-size // stride)
            handle.write(b"\0" * (first * stride - size) + body)
            handle.flush()
            os.fsync(handle.fileno())
        return first

    def _take(self, raw: bytes) -> int:
        """Read whole records; pass over damaged bytes; returns how many bytes are done with."""
        at = done = 0
        while (at := raw.find(_MAGIC, at)) >= 0:
            record = _parse(raw, at)
            if record is None:
                at += 1
                continue
            block, keys, at = record
            number = len(self._blocks)
            self._blocks.append(block)
            self._where.update((key, (number, block.first + i)) for i, key in enumerate(keys))
            done = at
        return done

    def _forget_damaged(self, numbers: set[int]) -> None:
        unchecked = [number for number in numbers if not self._blocks[number].checked]
        if not unchecked:
            return
        stride = 4 * (self.dimension or 1)
        bad: set[int] = set()
        self.vectors_path.touch()
        with self.vectors_path.open("rb") as handle:
            for number in sorted(unchecked):
                block = self._blocks[number]
                handle.seek(block.first * stride)
                body = handle.read(block.rows * stride)
                block.checked = hashlib.sha256(body).digest() == block.digest
                if not block.checked:
                    bad.add(number)
        if bad:
            lost = [key for key, (number, _) in self._where.items() if number in bad]
            for key in lost:
                del self._where[key]
            progress.note(
                f"{len(lost)} cached vectors in {self.vectors_path} are damaged (their SHA-256 "
                "does not match) and will be computed again."
            )

    def _read_facts(self) -> bool:
        path = self.folder / "space.json"
        if not path.is_file():
            return False
        facts = read_json(path)
        if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
            raise RunError(
                f"{self.folder} is a feature cache of another format; this warmstart reads "
                f"version {FORMAT_VERSION}. Delete that folder."
            )
        if facts.get("space") != self.space.model_dump() or not facts.get("dimension"):
            raise RunError(f"{path} does not describe this space. Delete {self.folder}.")
        self.dimension = int(facts["dimension"])
        return True

    def _write_facts(self, dimension: int) -> None:
        if self.dimension is None and not self._read_facts():
            write_json(
                self.folder / "space.json",
                {
                    "format_version": FORMAT_VERSION,
                    "space": self.space.model_dump(),
                    "dimension": dimension,
                },
            )
            self.dimension = dimension
        if self.dimension != dimension:
            raise RunError(
                f"{self.folder} holds vectors of {self.dimension} numbers, got {dimension}. "
                "Delete that folder."
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


def _record(first: int, keys: Sequence[bytes], digest: bytes) -> bytes:
    body = _HEAD.pack(_MAGIC, first, len(keys), digest) + b"".join(keys)
    return body + hashlib.blake2b(body, digest_size=_CHECK).digest()


def _parse(raw: bytes, at: int) -> tuple[_Block, list[bytes], int] | None:
    """A record at a position, with where it ends; None when it is cut short or damaged."""
    if len(raw) < at + _HEAD.size:
        return None
    _, first, rows, digest = _HEAD.unpack_from(raw, at)
    start = at + _HEAD.size
    end = start + rows * _KEY
    if len(raw) < end + _CHECK:
        return None
    if hashlib.blake2b(raw[at:end], digest_size=_CHECK).digest() != raw[end : end + _CHECK]:
        return None
    keys = [raw[i : i + _KEY] for i in range(start, end, _KEY)]
    return _Block(first, rows, digest), keys, end + _CHECK


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


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

"""An index over a catalogue that comes in blocks: kept as they come, resumed where it stopped.

Embedding the catalogue is the expensive part, so vectors go to disk in checked shards while they
are made. A build that was stopped asks for blocks from its first missing row on.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.core import (
    DataError,
    RunError,
    UsageError,
    hash_file,
    read_json,
    write_atomic,
    write_json,
)
from warmstart.core.progress import note, task

from .choosing import Target
from .engine import Engine
from .faiss_index import FaissIndex
from .ids import ItemId, first_repeated, plain_ids
from .vectors import Vectors, checked_vectors

__all__ = ["Blocks", "build_index"]

Blocks = Callable[[int], Iterable[tuple[Sequence[Any], Any]]]
"""Blocks of (ids, vectors) from the given row on, always in the same order."""
SHARD_ROWS = 65_536


def build_index(
    folder: Path | str,
    blocks: Blocks,
    *,
    tower: str,
    engine: Engine | str = "auto",
    target: Target | None = None,
    queries_QD: np.ndarray | None = None,
    total: int | None = None,
    shard_rows: int = SHARD_ROWS,
    seed: int = 0,
    threads: int = 1,
    thorough: bool = False,
    replace: bool = False,
    partial: Path | None = None,
    contents: str = "",
) -> FaissIndex:
    """Build and publish an index over blocks of item vectors.

    Shards lie in `partial` until the index is published. The same call after a stop takes up what
    is soundly there, when tower and contents are the same.

    Args:
        folder: Where the index is published.
        blocks: `blocks(start)` gives (ids, vectors) from item row `start` on. It is called with 0,
            or with the number of rows that an interrupted build has on disk.
        tower: Fingerprint of the item tower.
        engine: Settings of an engine, its name, or `auto`: what `choose` finds by measurement.
        target: What `auto` has to reach.
        queries_QD: Queries of real users; see `FaissIndex.build`.
        total: Rows in all, for the progress bar.
        shard_rows: Rows a shard; what a stop can lose.
        seed: Root of what the engine draws.
        threads: OpenMP threads of a search.
        thorough: Whether `auto` tries every engine at every effort, for a plot of the trade-off.
        replace: Whether an existing index may be replaced.
        partial: Where shards lie meanwhile; by default `NAME.partial` beside the folder.
        contents: Fingerprint of what the blocks hold, where one tower can give others.

    Returns:
        The index, published.

    Raises:
        RunError: When the folder exists and `replace` is false.
        DataError: For an id that comes twice, or a vector with NaN.
        UsageError: For ids, vectors or settings that cannot be used.
    """
    folder = Path(folder)
    if shard_rows < 1:
        raise UsageError(f"shard_rows must be at least 1, got {shard_rows}. Usual: {SHARD_ROWS}.")
    if folder.exists() and not replace:
        raise RunError(f"{folder} exists already. Name another folder or ask for its replacement.")
    partial = partial or folder.with_name(f"{folder.name}.partial")
    shards = _Shards(partial, {"tower": tower, "contents": contents})
    _fill(shards, blocks, total, shard_rows)
    index = FaissIndex.over(
        shards.ids,
        shards.vectors(),
        tower=tower,
        engine=engine,
        target=target,
        queries_QD=queries_QD,
        seed=seed,
        threads=threads,
        thorough=thorough,
    )
    index.save(folder, replace=replace)
    shutil.rmtree(shards.folder, ignore_errors=True)
    return index


def _fill(shards: _Shards, blocks: Blocks, total: int | None, shard_rows: int) -> None:
    """Write what is missing."""
    if shards.rows:
        note(f"{shards.rows:,} rows of an earlier build are in {shards.folder}; it goes on there.")
    with task("indexing", total=total, unit="items") as bar:
        bar.advance(shards.rows)
        for ids, block_ND in _gathered(blocks(shards.rows), shards, shard_rows):
            shards.append(ids, block_ND)
            bar.advance(len(ids))
    if not shards.rows:
        raise DataError("The index has no items: blocks() gave none.")


class _Shards:
    """Checked shards in a folder: `00000.npy`, and then `00000.json` with its ids and SHA-256."""

    def __init__(self, folder: Path, begun: dict[str, str]) -> None:
        self.folder = folder
        self.ids: list[ItemId] = []
        self.dimension: int | None = None
        self._count = 0
        if not (folder / "build.json").is_file() or read_json(folder / "build.json") != begun:
            if folder.exists():
                note(f"{folder} is of another build and is begun anew.")
                shutil.rmtree(folder)
            write_json(folder / "build.json", begun)
        while self._take():
            pass
        for path in folder.glob("[0-9]*.*"):
            if int(path.name.partition(".")[0]) >= self._count:
                path.unlink()

    @property
    def rows(self) -> int:
        """Rows that are soundly there."""
        return len(self.ids)

    def append(self, ids: Sequence[ItemId], block_ND: np.ndarray) -> None:
        """Write one shard; it counts once its record is on disk."""
        if (twice := first_repeated([*self.ids, *ids])) is not None:
            raise DataError(f"The item id {twice!r} comes twice. Ids must differ.")
        raw = io.BytesIO()
        np.save(raw, block_ND)
        write_atomic(self._path("npy"), raw.getvalue())
        record = {"ids": list(ids), "sha256": hash_file(self._path("npy"))}
        write_json(self._path("json"), record)
        self._counted(ids, block_ND.shape[1])

    def vectors(self) -> Vectors:
        """All shards, mapped from disk."""
        arrays = [
            np.load(self.folder / f"{number:05d}.npy", mmap_mode="r", allow_pickle=False)
            for number in range(self._count)
        ]
        assert self.dimension is not None  # there is a shard
        return Vectors(tuple(arrays), self.dimension)

    def _take(self) -> bool:
        """Read the next shard of an earlier build, when it is whole and sound."""
        if not self._path("json").is_file() or not self._path("npy").is_file():
            return False
        try:
            record = read_json(self._path("json"))
            ids = plain_ids(record["ids"])
            if hash_file(self._path("npy")) != record["sha256"]:
                raise RunError(f"{self._path('npy')} is damaged.")
            block_ND = np.load(self._path("npy"), mmap_mode="r", allow_pickle=False)
        except (RunError, UsageError, KeyError, TypeError, ValueError, OSError) as reason:
            note(f"{reason} The rows from there on are made again.")
            return False
        self._counted(ids, int(block_ND.shape[1]))
        return True

    def _counted(self, ids: Sequence[ItemId], dimension: int) -> None:
        self.ids += ids
        self.dimension = dimension
        self._count += 1

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self._count:05d}.{ending}"


def _gathered(
    blocks: Iterable[tuple[Sequence[Any], Any]], shards: _Shards, rows: int
) -> Iterable[tuple[list[ItemId], np.ndarray]]:
    """The blocks checked, and put together until they have `rows` rows."""
    ids: list[ItemId] = []
    parts: list[np.ndarray] = []
    dimension = shards.dimension
    for more, values in blocks:
        plain = plain_ids(more)
        part_ND = checked_vectors(values, dimension, "The item vectors", plain)
        dimension = part_ND.shape[1]
        ids += plain
        parts.append(part_ND)
        if len(ids) >= rows:
            yield ids, np.concatenate(parts)
            ids, parts = [], []
    if ids:
        yield ids, np.concatenate(parts)

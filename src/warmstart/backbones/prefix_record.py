"""Recording a frozen prefix: each distinct row once, resumed where it stopped."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warmstart.core import BackboneError, progress
from warmstart.data import Dataset

from .cache import FeatureCache
from .embedding import prepared_batches
from .encoder import Encoder
from .prefix import PrefixCut, ReplayError
from .prefix_store import KeptRows, MemoryStore, PrefixSpace, PrefixStore, RowKeeper
from .rowstore import content_key, human_size

__all__ = ["MEMORY_LIMIT_BYTES", "Part", "record"]

MEMORY_LIMIT_BYTES = 10**9
_FLUSH_SECONDS = 3.0
_FLUSH_BYTES = 64 * 10**6
_CHUNK = 256
_OVERHEAD = 64  # bytes of the index a row
Vary = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Part:
    """Rows to record.

    Attributes:
        dataset: The rows.
        space: What they are recorded in.
        vary: `(input, row id) -> input`: one augmented view; None for rows as they are.
    """

    dataset: Dataset
    space: PrefixSpace
    vary: Vary | None = None

    def keys(self) -> list[bytes]:
        """A key a row: its content, and where it is varied its id too."""
        if self.vary is None:
            return [content_key(content) for content in self.dataset.contents]
        named = zip(self.dataset.contents, self.dataset.ids, strict=True)
        return [hashlib.blake2b(f"{c}|{i}".encode(), digest_size=16).digest() for c, i in named]

    def inputs(self, rows: Sequence[int]) -> list[Any]:
        """Inputs of some rows, varied."""
        found = list(self.dataset.inputs(rows))
        if self.vary is None:
            return found
        ids = self.dataset.ids
        return [self.vary(value, ids[row]) for row, value in zip(rows, found, strict=True)]


def record(
    encoder: Encoder,
    cut: PrefixCut | None,
    parts: Sequence[Part],
    *,
    cache: FeatureCache | None,
    batch_size: int = 32,
) -> list[KeptRows] | None:
    """Keep what enters the cut for every row of some data sets, computing what is not there.

    Equal contents share a row. What is done is on disk every few seconds, so that a recording that
    was cut short goes on where it stopped.

    Args:
        encoder: Put into evaluation mode while it works, and back afterwards.
        cut: Where the passes end; None keeps the final vectors.
        parts: The data sets; those of one space share its rows.
        cache: Root and size limit; None keeps rows in memory, up to `MEMORY_LIMIT_BYTES`.
        batch_size: Rows of about 64 tokens in a batch; shorter ones go in larger batches.

    Returns:
        The rows of each part, or None where they do not fit, after a note that says so.

    Raises:
        BackboneError: When a number is not finite, naming the row.
        ReplayError: When rows differ in more than their number of tokens.
    """
    keepers: dict[str, RowKeeper] = {}
    planned: dict[str, set[bytes]] = {}
    works: list[_Work] = []
    for part in parts:
        name = part.space.fingerprint
        if name not in keepers:
            keepers[name] = PrefixStore(cache.root / name, part.space) if cache else MemoryStore()
        works.append(_Work(part, keepers[name], planned.setdefault(name, set())))
        planned[name].update(works[-1].missing)
    more = sum(work.missing_bytes(encoder, cut) for work in works)
    reason = _no_room(cache, more)
    if reason is not None:
        progress.note(f"The frozen prefix is recomputed at every step: {reason}")
        return None
    if more:
        count = sum(len(work.missing) for work in works)
        where = cache.root if cache else "memory"
        progress.note(f"The frozen prefix of {count:,} rows takes {human_size(more)} in {where}.")
    training = encoder.training
    encoder.eval()
    try:
        for work in works:
            work.compute(encoder, cut, batch_size)
    except OSError as error:
        progress.note(
            f"The frozen prefix is recomputed at every step: it cannot be written ({error}). Free "
            "some space or name another folder with WARMSTART_CACHE."
        )
        return None
    finally:
        encoder.train(training)
    return [KeptRows(work.keeper, work.keys) for work in works]


class _Work:
    """One part on its way to kept rows."""

    def __init__(self, part: Part, keeper: RowKeeper, planned: set[bytes]) -> None:
        self.part = part
        self.keeper = keeper
        self.keys = part.keys()
        first = {key: row for row, key in reversed(list(enumerate(self.keys)))}
        unique = list(dict.fromkeys(self.keys))
        here_U = keeper.runs(unique)[:, 0] >= 0
        self.missing = {
            key: first[key]
            for key, here in zip(unique, here_U.tolist(), strict=True)
            if not here and key not in planned
        }

    def missing_bytes(self, encoder: Encoder, cut: PrefixCut | None) -> int:
        """What the rows that are not there will take."""
        if not self.missing:
            return 0
        rows = list(self.missing.values())
        if cut is None:
            return len(rows) * (4 * encoder.dimension + _OVERHEAD)
        if encoder.modality == "image":
            return len(rows) * (cut.width * cut.row_bytes + _OVERHEAD)
        cells = 0
        for start in range(0, len(rows), _CHUNK):
            tensors = encoder.preprocess(self.part.inputs(rows[start : start + _CHUNK]))
            cells += int(tensors["attention_mask"].sum())
        return cells * cut.row_bytes + len(rows) * _OVERHEAD

    def compute(self, encoder: Encoder, cut: PrefixCut | None, batch_size: int) -> None:
        """Record the rows that are not there."""
        keys, rows = list(self.missing), list(self.missing.values())
        if not rows:
            return
        pending: list[tuple[bytes, Tensor]] = []
        size, flushed = 0, time.monotonic()
        batches = prepared_batches(
            encoder, range(len(rows)), lambda some: self.part.inputs([rows[i] for i in some]),
            batch_size,
        )  # fmt: skip
        with progress.task("Recording the frozen prefix", total=len(rows)) as bar:
            try:
                for chosen, items in batches:
                    made = list(self._rows(encoder, cut, items, [rows[i] for i in chosen]))
                    pending += zip([keys[i] for i in chosen], made, strict=True)
                    size += sum(row.nbytes for row in made)
                    if size > _FLUSH_BYTES or time.monotonic() - flushed > _FLUSH_SECONDS:
                        full, pending, size = pending, [], 0
                        self._flush(full)
                        flushed = time.monotonic()
                    bar.advance(len(chosen))
            finally:
                self._flush(pending)

    def _flush(self, pending: Sequence[tuple[bytes, Tensor]]) -> None:
        self.keeper.append([key for key, _ in pending], [row for _, row in pending])

    def _rows(
        self, encoder: Encoder, cut: PrefixCut | None, items: Sequence[Any], rows: Sequence[int]
    ) -> Iterator[Tensor]:
        """What is kept of each row of a batch, without its padding."""
        tensors = encoder.collate(items)
        batch = {key: value.to(encoder.device) for key, value in tensors.items()}
        if cut is None:
            with torch.no_grad():
                made = encoder(batch).float()
        else:
            made = cut.run(encoder, batch)
            if tuple(made.shape[2:]) != cut.cell or made.dtype != cut.dtype:
                raise ReplayError(
                    f"the input of block {cut.depth} has the shape {tuple(made.shape[2:])} and "
                    f"type {made.dtype}, where {cut.cell} and {cut.dtype} were seen before.",
                    "Train with prefix='off'.",
                )
        mask = tensors["attention_mask"].bool() if cut and encoder.modality == "text" else None
        for place, row in enumerate(made.cpu()):
            kept = row.contiguous() if mask is None else row[mask[place]]
            if not bool(torch.isfinite(kept).all()):
                name = self.part.dataset.ids[rows[place]]
                raise BackboneError(
                    f"the frozen prefix of row {name!r} is not finite. The input or the weights "
                    "are out of range: look at that row, or use another backbone."
                )
            yield kept


def _no_room(cache: FeatureCache | None, more: int) -> str | None:
    """Why so many bytes cannot be kept; None when they can."""
    if cache is None:
        if more <= MEMORY_LIMIT_BYTES:
            return None
        return (
            f"{human_size(more)} is more than the {human_size(MEMORY_LIMIT_BYTES)} that are kept "
            "in memory. Give the backbone a cache on disk."
        )
    if more and not cache.room_for(more):
        return (
            f"it would take {human_size(more)}, and {cache.root} may hold "
            f"{human_size(cache.limit_bytes)} in all. Delete old folders there, or set "
            "WARMSTART_CACHE_LIMIT (for example 40G)."
        )
    free = _free_bytes(cache.root) if more else more
    if more > free:
        return (
            f"it would take {human_size(more)}, and the disk of {cache.root} has "
            f"{human_size(free)} left. Free some space or name another folder with WARMSTART_CACHE."
        )
    return None


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free

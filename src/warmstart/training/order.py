"""Which rows form which batch: a function of (seed, epoch, row id) and nothing else.

No random state is carried from epoch to epoch, so training that resumes in the middle of an epoch
sees the batches it would have seen, with any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from warmstart.core import Streams, UsageError, fingerprint

__all__ = ["MEGA_BATCHES", "BatchOrder"]

MEGA_BATCHES = 50


class BatchOrder:
    """Batches of row positions for any epoch.

    Shuffling sorts the rows by a hash of (seed, epoch, row id). With `lengths`, rows of similar
    length share a batch so that little is padding: the shuffled order is cut into mega-batches of
    `MEGA_BATCHES` batches (fewer when the data is small, so that batches still differ from epoch
    to epoch), each is sorted by length and cut into batches, and the batches are shuffled.

    Attributes:
        fingerprint: Of the ids, sizes and seed; a resumed run must meet the same one.
    """

    def __init__(
        self,
        ids: Sequence[str],
        batch_size: int,
        *,
        streams: Streams,
        lengths: Sequence[int] | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        """Lay out the order.

        Args:
            ids: One id a row.
            batch_size: Rows a batch, at least 1.
            streams: Source of the seed.
            lengths: One length a row (tokens); None for batches without regard to length.
            shuffle: False keeps the rows as they come (sorted by length where lengths are given).
            drop_last: Whether an incomplete batch is left out.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}. Typical: 8 to 64.")
        if not len(ids):
            raise UsageError("there are no rows to train on. Give at least one.")
        if lengths is not None and len(lengths) != len(ids):
            raise UsageError(f"lengths has {len(lengths)} values for {len(ids)} rows.")
        self._size = batch_size
        self._shuffle = shuffle
        self._drop_last = drop_last and len(ids) >= batch_size
        self._streams = streams
        self._lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        self._hashes = np.array([_hash(row_id) for row_id in ids], dtype=np.uint64)
        self.fingerprint = fingerprint(
            self._hashes.astype(np.int64), batch_size, shuffle, streams.seed("order"),
            self._drop_last, lengths is not None,
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches an epoch."""
        rows = len(self._hashes)
        return rows // self._size if self._drop_last else -(-rows // self._size)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch (counted from 0): arrays of row positions."""
        rows = np.arange(len(self._hashes))
        if self._shuffle:
            key = np.uint64(self._streams.seed("order", epoch))
            rows = np.argsort(_mix(self._hashes ^ key), kind="stable")
        if self._lengths is None:
            return self._cut(rows)
        return self._bucketed(rows, epoch)

    def _bucketed(self, rows: np.ndarray, epoch: int) -> list[np.ndarray]:
        assert self._lengths is not None
        if not self._shuffle:
            return self._cut(rows[np.argsort(self._lengths[rows], kind="stable")])
        mega = self._size * min(MEGA_BATCHES, max(1, len(rows) // (self._size * 4)))
        batches: list[np.ndarray] = []
        for start in range(0, len(rows), mega):
            part = rows[start : start + mega]
            batches += self._cut(part[np.argsort(self._lengths[part], kind="stable")], keep=True)
        if self._drop_last:
            batches = [batch for batch in batches if len(batch) == self._size]
        order = self._streams.numpy("batches", epoch).permutation(len(batches))
        return [batches[place] for place in order]

    def _cut(self, rows: np.ndarray, keep: bool = False) -> list[np.ndarray]:
        batches = [rows[at : at + self._size] for at in range(0, len(rows), self._size)]
        if self._drop_last and not keep and len(batches[-1]) < self._size:
            batches.pop()
        return batches


def _hash(row_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(row_id.encode("utf-8"), digest_size=8).digest(), "little")


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers, one to one (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        result: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return result

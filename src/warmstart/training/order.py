"""Which rows form which batch: a function of (seed, epoch, row id) and nothing else.

No random state is carried from epoch to epoch, so training that resumes in the middle of an epoch
sees the batches it would have seen, with any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from warmstart.core import Streams, UsageError, fingerprint

__all__ = ["MEGA_BATCHES", "BatchOrder", "oversampled_counts"]

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
        labels: Sequence[int] | np.ndarray | None = None,
        oversample: float = 0.0,
        even: bool = False,
    ) -> None:
        """Lay out the order.

        Args:
            ids: One id a row.
            batch_size: Rows a batch, at least 1.
            streams: Source of the seed.
            lengths: One length a row (tokens); None for batches without regard to length.
            shuffle: False keeps the rows as they come (sorted by length where lengths are given).
            drop_last: Whether an incomplete batch is left out.
            labels: Class of each row; needed to oversample.
            oversample: How far rare classes are brought to the largest by repeating their rows in
                an epoch, in [0, 1]; see `oversampled_counts`. Which rows are repeated once more
                than others changes from epoch to epoch.
            even: Whether the incomplete batch of rows without lengths is made up for by all: 33
                rows are 11, 11 and 11 in place of 16, 16 and 1. Nothing is left out then.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}. Typical: 8 to 64.")
        if not len(ids):
            raise UsageError("there are no rows to train on. Give at least one.")
        if lengths is not None and len(lengths) != len(ids):
            raise UsageError(f"lengths has {len(lengths)} values for {len(ids)} rows.")
        self._classes = _classes(labels, len(ids), oversample, shuffle)
        self._rows = sum(wanted for _, wanted in self._classes) if self._classes else len(ids)
        self._size = batch_size
        self._shuffle = shuffle
        self._drop_last = drop_last and self._rows >= batch_size
        self._even = even and lengths is None and not self._drop_last
        self._streams = streams
        self._lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        self._hashes = np.array([_hash(row_id) for row_id in ids], dtype=np.uint64)
        self.fingerprint = fingerprint(
            self._hashes.astype(np.int64), batch_size, shuffle, streams.seed("order"),
            self._drop_last, lengths is not None,
            *([[rows, wanted] for rows, wanted in self._classes]),
            *(["even"] if self._even else []),
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches an epoch."""
        rows = self._rows
        return rows // self._size if self._drop_last else -(-rows // self._size)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch (counted from 0): arrays of row positions."""
        rows = np.arange(len(self._hashes))
        if self._shuffle:
            key = np.uint64(self._streams.seed("order", epoch))
            rows = self._repeated(key) if self._classes else _sorted(rows, self._hashes ^ key)
        if self._even:
            return np.array_split(rows, len(self))
        if self._lengths is None:
            return self._cut(rows)
        return self._bucketed(rows, epoch)

    def _repeated(self, key: np.uint64) -> np.ndarray:
        """Shuffled rows with those of rare classes several times; copies lie apart."""
        hashes = self._hashes ^ key
        parts, copies = [], []
        for rows, wanted in self._classes:
            ranked = _sorted(rows, hashes[rows])
            parts.append(np.resize(ranked, wanted))
            copies.append(np.arange(wanted) // len(ranked))
        chosen, copy = np.concatenate(parts), np.concatenate(copies).astype(np.uint64)
        salt = np.where(copy > 0, _mix(copy), np.uint64(0))
        return _sorted(chosen, hashes[chosen] ^ salt)

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


def oversampled_counts(labels_N: Sequence[int] | np.ndarray, strength: float) -> dict[int, int]:
    """Rows that each class has in an epoch: `n_c · (n_max / n_c)^strength`, rounded.

    Args:
        labels_N: Class of each row.
        strength: 0 leaves the data as it is, 1 brings every class to the largest one's size, 0.5
            goes half the way on a logarithmic scale.
    """
    if not 0.0 <= strength <= 1.0:
        raise UsageError(
            f"oversample must be between 0 and 1, got {strength}. 0 is off; 1 makes all classes "
            "equal."
        )
    names, counts = np.unique(np.asarray(labels_N), return_counts=True)
    largest = counts.max()
    return {
        int(name): round(float(count * (largest / count) ** strength))
        for name, count in zip(names, counts, strict=True)
    }


def _classes(
    labels: Sequence[int] | np.ndarray | None, rows: int, strength: float, shuffle: bool
) -> list[tuple[np.ndarray, int]]:
    """The rows of each class and how many of them an epoch has; empty without oversampling."""
    if not strength:
        return []
    if labels is None or len(labels) != rows:
        given = "none" if labels is None else str(len(labels))
        raise UsageError(f"oversampling needs a label for each of the {rows} rows, got {given}.")
    if not shuffle:
        raise UsageError("oversampling is for training: it needs shuffle=True.")
    known = np.asarray(labels)
    return [
        (np.flatnonzero(known == name), wanted)
        for name, wanted in oversampled_counts(known, strength).items()
    ]


def _sorted(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    ordered: np.ndarray = rows[np.argsort(_mix(hashes), kind="stable")]
    return ordered


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

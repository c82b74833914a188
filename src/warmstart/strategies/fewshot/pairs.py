"""Same-class and different-class pairs, one by one from (seed, epoch, number): no list of them.

All pairs of N rows are N² / 2. Here a pair is computed when its batch is due, from a permutation
of the rows and two draws; memory is that of the rows, and training that resumes in the middle of
an epoch sees the pairs it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from warmstart.core import Streams, UsageError, fingerprint
from warmstart.training import Batch, ExampleRows

__all__ = ["PairLoader"]


class PairLoader:
    """Batches of P pairs: 2P rows, the left ones first, then their partners in the same order.

    In an epoch each row is the left one of two pairs: number 2j is the j-th row of the epoch's
    permutation with a row of its class, number 2j + 1 the same row with a row of another class; so
    batches of an even size hold as many of each. The partner is any row but the left one itself,
    each with equal chance; a row that is the only one of its class is paired with itself, and
    dropout makes the two views differ.

    Attributes:
        fingerprint: Of rows, labels, batch size and seed; checked on resume.
    """

    def __init__(
        self, rows: ExampleRows, labels_N: np.ndarray, pairs: int, *, streams: Streams
    ) -> None:
        """Lay out the classes.

        Args:
            rows: The labelled rows.
            labels_N: Their classes, two different ones at least.
            pairs: P, pairs a batch.
            streams: Source of the seed.
        """
        labels = np.asarray(labels_N, dtype=np.int64)
        if pairs < 2:
            raise UsageError(f"pairs a batch must be at least 2, got {pairs}. Typical: 8 to 32.")
        if len(np.unique(labels)) < 2:
            raise UsageError("pairs of different classes need rows of two classes or more.")
        self._rows = rows
        self._pairs = pairs
        self._streams = streams
        self._labels = labels
        self._by_class = np.argsort(labels, kind="stable")  # row numbers, class after class
        self._place = np.empty_like(self._by_class)  # where each row stands in it
        self._place[self._by_class] = np.arange(len(labels))
        ordered = labels[self._by_class]
        self._start = np.searchsorted(ordered, labels, side="left")
        self._end = np.searchsorted(ordered, labels, side="right")
        self.fingerprint = fingerprint(
            "pairs", list(rows.ids), labels, pairs, streams.seed("pairs")
        )

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(2 * len(self._labels) / self._pairs)

    def batches(self, epoch: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches of an epoch from `start` on that fall to process `rank` of `world`."""
        order_N = self._streams.numpy("anchors", epoch).permutation(len(self._labels))
        last = 2 * len(self._labels)
        for number in range(start + (rank - start) % world, len(self), world):
            numbers = range(number * self._pairs, min((number + 1) * self._pairs, last))
            pairs = [self._pair(order_N, epoch, one) for one in numbers]
            yield self._rows.batch([a for a, _ in pairs] + [b for _, b in pairs], epoch)

    def _pair(self, order_N: np.ndarray, epoch: int, number: int) -> tuple[int, int]:
        """Row numbers of the pair of this number."""
        left = int(order_N[number // 2])
        start, end = int(self._start[left]), int(self._end[left])
        generator = self._streams.numpy("pair", epoch, number)
        if number % 2 == 0:
            if end - start == 1:
                return left, left
            place = start + int(generator.integers(end - start - 1))
            place += place >= int(self._place[left])  # step over the row itself
        else:
            place = int(generator.integers(len(self._labels) - (end - start)))
            if place >= start:  # step over the row's whole class
                place += end - start
        return left, int(self._by_class[place])

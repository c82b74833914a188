"""How often an item is sampled: counted from the events, or estimated while they stream by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.core import Streams, UsageError

__all__ = ["StreamingFrequency", "item_counts"]

_PRIME = 2**31 - 1


def item_counts(items_N: np.ndarray, n_items: int) -> np.ndarray:
    """Events of each item (I), int64.

    Args:
        items_N: Item code of each event, 0 to `n_items` - 1.
        n_items: I.
    """
    counts_I: np.ndarray = np.bincount(items_N, minlength=n_items).astype(np.int64)
    return counts_I


class StreamingFrequency(nn.Module):
    """The chance that a batch shows an item, from the gaps between the batches that showed it.

    For each item the running mean of the number of batches between two occurrences is kept, in
    arrays of a fixed size that items share by hashing; the chance is one over it. Where two items
    meet in a slot its gaps are too short, so of several hashes the one with the longest gap counts.
    Nothing has to be known of the catalogue or of its frequencies, which may drift.

    The first `1 / rate` occurrences of a slot are averaged evenly; the paper weighs each by `rate`
    from the first on, which leaves its starting value in the estimate for as long.

    The arrays are buffers, so a checkpoint of the loop keeps them and a resumed fit goes on.

    Source: Yi et al. 2019, Sampling-bias-corrected neural modeling for large corpus item
    recommendations, algorithm 2; several hashes as in section 4.
    """

    shown: Tensor
    gaps: Tensor
    occurrences: Tensor
    batches: Tensor

    def __init__(
        self,
        slots: int = 2**16,
        *,
        hashes: int = 2,
        rate: float = 0.01,
        streams: Streams | None = None,
    ) -> None:
        """Make empty arrays.

        Args:
            slots: Length of each array. Several times the items in use keeps collisions rare.
            hashes: Arrays with a hash function of their own, at least 1.
            rate: Weight of the newest gap, in (0, 1]; high follows a drift, low is steadier.
            streams: Source of the hash functions.
        """
        super().__init__()
        if slots < 1 or hashes < 1:
            raise UsageError(
                f"streaming frequency takes at least 1 slot and 1 hash, got {slots} and {hashes}. "
                "Typical: 65536 slots and 2 hashes."
            )
        if not 0.0 < rate <= 1.0:
            raise UsageError(
                f"streaming frequency: rate must be above 0 and at most 1, got {rate}. "
                "Typical: 0.01."
            )
        generator = (streams or Streams(0)).numpy("frequency")
        self._factors = generator.integers(1, _PRIME, hashes).tolist()
        self._shifts = generator.integers(0, _PRIME, hashes).tolist()
        self._slots = slots
        self._rate = rate
        self.register_buffer("shown", torch.zeros(hashes, slots, dtype=torch.int64))
        self.register_buffer("gaps", torch.zeros(hashes, slots))
        self.register_buffer("occurrences", torch.zeros(hashes, slots, dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, items: Tensor) -> None:
        """Take in one batch.

        Args:
            items: Codes of its items, in [0, 2^31 - 1); repeats count once.
        """
        self.batches += 1
        for row in range(len(self._factors)):
            slots = torch.unique(self._hash(items, row))
            gap = (self.batches - self.shown[row, slots]).float()
            seen = self.occurrences[row, slots] + 1
            weight = (1.0 / seen).clamp(min=self._rate)
            self.gaps[row, slots] += weight * (gap - self.gaps[row, slots])
            self.occurrences[row, slots] = seen
            self.shown[row, slots] = self.batches

    @torch.no_grad()
    def log_probability(self, items: Tensor) -> Tensor:
        """Logarithm of the chance that a batch shows each item, at most 0.

        An item that was never shown is taken to come once in one batch more than there were.
        """
        never = self.batches + 1
        gap = torch.ones(items.shape, device=items.device)
        for row in range(len(self._factors)):
            slots = self._hash(items, row)
            known = self.occurrences[row, slots] > 0
            gap = torch.maximum(gap, torch.where(known, self.gaps[row, slots], never))
        return -torch.log(gap)

    def _hash(self, items: Tensor, row: int) -> Tensor:
        """Slots of items: `((a x + b) mod p) mod slots` (Carter and Wegman 1979)."""
        mixed = items.long() * self._factors[row] + self._shifts[row]
        slots: Tensor = mixed % _PRIME % self._slots
        return slots

"""Named random streams from one root seed, so that a new consumer shifts no old stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .fingerprint import fingerprint

if TYPE_CHECKING:
    import torch

__all__ = ["Streams"]


class Streams:
    """Independent generators, each a function of the seed and its name alone.

    Example:
        >>> Streams(0).seed("order", 3) == Streams(0).seed("order", 3)
        True
    """

    def __init__(self, seed: int) -> None:
        self._root = int(seed)

    def seed(self, *names: str | int) -> int:
        """A seed in [0, 2^63) for the stream of that name."""
        return int(fingerprint("stream", self._root, *names)[:16], 16) >> 1

    def numpy(self, *names: str | int) -> np.random.Generator:
        """A NumPy generator at the start of the named stream."""
        return np.random.default_rng(self.seed(*names))

    def torch(self, *names: str | int, device: str = "cpu") -> torch.Generator:
        """A torch generator at the start of the named stream."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed(*names))

    def child(self, *names: str | int) -> Streams:
        """Streams of their own for a part of the work."""
        return Streams(self.seed(*names))

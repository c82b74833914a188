"""Vectors as rows of the training loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .loaders import Batch

__all__ = ["VectorRows"]


class VectorRows:
    """Vectors, and labels where there are any, as a row source of the loop."""

    parallel = False  # vectors lie in memory: there is nothing to prepare ahead

    def __init__(
        self, vectors_ND: np.ndarray, labels_N: np.ndarray | None, ids: Sequence[str]
    ) -> None:
        self._vectors = torch.from_numpy(np.array(vectors_ND, dtype=np.float32))
        known_N = np.full(len(ids), -1) if labels_N is None else labels_N
        self._labels = torch.from_numpy(np.array(known_N, dtype=np.int64))
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> Sequence[int] | None:
        """All rows cost the same."""
        return None

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """The rows at these positions."""
        index = torch.as_tensor(list(rows))
        return Batch({"vectors": self._vectors[index]}, self._labels[index], index)

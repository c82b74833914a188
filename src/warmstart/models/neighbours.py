"""A model that keeps its training vectors and lets the nearest of them vote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from warmstart.backbones import embed_inputs
from warmstart.core import RunError

from .base import model_kind, read_tensors
from .encoder import HEAD_FILE, EncoderModel
from .heads import Head, HeadShape

__all__ = ["KnnModel", "NeighbourHead", "neighbours", "vote"]

PRIOR = 0.1
_QUERIES, _ROWS = 256, 8192


def neighbours(
    queries_QD: Tensor,
    rows_MD: Tensor,
    k: int,
    *,
    skip_Q: Tensor | None = None,
    block: tuple[int, int] = (_QUERIES, _ROWS),
) -> tuple[Tensor, Tensor]:
    """The k rows of highest inner product for each query, the highest first.

    Worked through in blocks, so that memory grows with a block and with Q × k, never with Q × M.
    Of equal products the row with the lower number comes first.

    Args:
        queries_QD: Unit vectors.
        rows_MD: Unit vectors, M of them.
        k: At most M; M - 1 where rows are skipped.
        skip_Q: Number of the row that each query must not meet: itself, when rows are queries.
        block: Queries and rows that are multiplied at once.

    Returns:
        Products (Q, k) and row numbers (Q, k).
    """
    found = [
        _of_block(
            queries_QD[start : start + block[0]],
            rows_MD,
            k,
            None if skip_Q is None else skip_Q[start : start + block[0]],
            block[1],
        )
        for start in range(0, len(queries_QD), block[0])
    ]
    if not found:
        empty = queries_QD.new_zeros((0, k))
        return empty, empty.long()
    return torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])


def _of_block(
    queries_BD: Tensor, rows_MD: Tensor, k: int, skip_B: Tensor | None, width: int
) -> tuple[Tensor, Tensor]:
    best_BK = queries_BD.new_zeros((len(queries_BD), 0))
    rows_BK = torch.zeros((len(queries_BD), 0), dtype=torch.int64, device=queries_BD.device)
    for start in range(0, len(rows_MD), width):
        part_BR = queries_BD @ rows_MD[start : start + width].T
        numbers_R = torch.arange(start, start + part_BR.shape[1], device=part_BR.device)
        if skip_B is not None:
            part_BR = part_BR.masked_fill(numbers_R[None, :] == skip_B[:, None], float("-inf"))
        near_BK = _highest(part_BR, min(k, part_BR.shape[1]))
        # What was found before stands first, so a stable sort keeps the lower numbers ahead.
        both_BX = torch.cat([best_BK, part_BR.gather(1, near_BK)], dim=1)
        rows_BX = torch.cat([rows_BK, numbers_R[near_BK]], dim=1)
        order_BK = both_BX.sort(dim=1, descending=True, stable=True).indices[:, :k]
        best_BK, rows_BK = both_BX.gather(1, order_BK), rows_BX.gather(1, order_BK)
    return best_BK, rows_BK


def _highest(values_BR: Tensor, k: int) -> Tensor:
    """Columns (B, k) of the k highest values, in rising order; of equal ones the first."""
    values_BK, columns_BK = values_BR.topk(k, dim=1)
    tied = torch.nonzero((values_BR >= values_BK[:, -1:]).sum(dim=1) > k).flatten()
    if len(tied):  # torch says not which of the equal values it takes
        whole = values_BR[tied].sort(dim=1, descending=True, stable=True).indices
        columns_BK[tied] = whole[:, :k]
    return columns_BK.sort(dim=1).values


def vote(cosine_QK: Tensor, labels_QK: Tensor, classes: int, temperature: float) -> Tensor:
    """Class probabilities (Q, C), float64, from the neighbours' labels.

    A neighbour weighs exp((its cosine - the highest cosine) / temperature), so the nearest weighs
    1. A tenth of a vote is spread over all classes, which keeps a single neighbour's answer from
    claiming certainty and changes no answer.

    Source: weights after Wu et al. 2018, Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, section 3.4.
    """
    cosine_QK = cosine_QK.double()
    weight_QK = torch.exp((cosine_QK - cosine_QK[:, :1]) / temperature)
    votes_QC = torch.full(
        (len(cosine_QK), classes), PRIOR / classes, dtype=torch.float64, device=cosine_QK.device
    )
    votes_QC.scatter_add_(1, labels_QK, weight_QK)
    return votes_QC / votes_QC.sum(dim=1, keepdim=True)


class NeighbourHead(Head):
    """Training vectors and their labels in the place of weights; nothing in it is learned.

    Attributes:
        k: Neighbours that vote.
        temperature: Of the votes' weights.
    """

    def __init__(self, shape: HeadShape, rows: int, *, k: int, temperature: float) -> None:
        nn.Module.__init__(self)
        self.shape = shape
        self.k = k
        self.temperature = temperature
        self.rows_MD: Tensor
        self.labels_M: Tensor
        self.register_buffer("rows_MD", torch.zeros(rows, shape.dimension))
        self.register_buffer("labels_M", torch.zeros(rows, dtype=torch.int64))

    @classmethod
    def of(
        cls,
        vectors_MD: np.ndarray,
        labels_M: np.ndarray,
        classes: int,
        *,
        k: int,
        temperature: float,
    ) -> NeighbourHead:
        """A head of these training rows."""
        rows, dimension = vectors_MD.shape
        shape = HeadShape(dimension=dimension, classes=classes, normalize=True)
        head = cls(shape, rows, k=k, temperature=temperature)
        unit_MD = nn.functional.normalize(torch.as_tensor(np.array(vectors_MD)).float(), dim=-1)
        head.rows_MD.copy_(unit_MD)
        head.labels_M.copy_(torch.as_tensor(np.array(labels_M)))
        return head.eval()

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Logarithms (B, C) of the vote shares."""
        return self._shares(vectors_BD).log().to(vectors_BD.dtype)

    @torch.inference_mode()
    def proba(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Class probabilities (N, C) in float64 for vectors (N, D)."""
        device = self.rows_MD.device
        vectors = torch.as_tensor(np.array(vectors_ND, dtype=np.float32), device=device)
        proba_NC: np.ndarray = self._shares(vectors).cpu().numpy()
        return proba_NC

    def _shares(self, vectors_BD: Tensor) -> Tensor:
        unit_BD = nn.functional.normalize(vectors_BD.float(), dim=-1)
        cosine_BK, rows_BK = neighbours(unit_BD, self.rows_MD, self.k)
        return vote(cosine_BK, self.labels_M[rows_BK], self.shape.classes, self.temperature)


@model_kind
class KnnModel(EncoderModel):
    """Untouched backbone, its vectors of the training rows, and a vote of the k nearest."""

    kind = "knn"
    head: NeighbourHead

    def facts(self) -> dict[str, Any]:
        """As any model on an encoder, with what the vote needs."""
        head = self.head
        own = {"k": head.k, "temperature": head.temperature, "rows": len(head.labels_M)}
        return super().facts() | {"neighbours": own}

    def _save_head(self, path: Path) -> None:
        tensors = {
            "vectors": self.head.rows_MD.cpu().contiguous(),
            "labels": self.head.labels_M.cpu().contiguous(),
        }
        save_file(tensors, path)

    @classmethod
    def _read_head(cls, folder: Path, facts: dict[str, Any], shape: HeadShape) -> Head:
        """The training vectors.

        Raises:
            RunError: When they do not fit what `warmstart.json` says of them.
        """
        own, path = facts["neighbours"], folder / HEAD_FILE
        tensors = read_tensors(path)
        expected = {"vectors": (own["rows"], shape.dimension), "labels": (own["rows"],)}
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        if found != expected:
            raise RunError(f"{path} does not fit its model: {found} instead of {expected}.")
        labels_M = tensors["labels"]
        fits = not len(labels_M) or 0 <= int(labels_M.min()) <= int(labels_M.max()) < shape.classes
        if not fits or not 1 <= own["k"] <= own["rows"] or own["temperature"] <= 0:
            raise RunError(
                f"{path} does not fit its model: labels, k or temperature are out of it."
            )
        head = NeighbourHead(shape, own["rows"], k=own["k"], temperature=own["temperature"])
        head.rows_MD.copy_(tensors["vectors"])
        head.labels_M.copy_(labels_M)
        return head

    def nearest(self, inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (N, k) and training-row numbers (N, k) behind the answers to texts or images."""
        vectors_ND = embed_inputs(self.encoder, inputs, depth=self.depth, pooling=self.pooling)
        head = self.head.to(self.encoder.device)
        vectors = torch.as_tensor(vectors_ND, device=head.rows_MD.device)
        unit_ND = nn.functional.normalize(vectors, dim=-1)
        cosine_NK, rows_NK = neighbours(unit_ND, head.rows_MD, head.k)
        return cosine_NK.cpu().numpy(), rows_NK.cpu().numpy()

"""What pretrained vectors say by themselves, beside what the towers learn from events.

An item that nobody has met yet gives the towers its text alone, and they have learned to trust
ids; its similarity to what a user met lately is as good as that of any other item. It is kept as
further components of both vectors, so that one inner product holds both:

    item = [learned, w * content, 0],              user = [learned, w * mean content of the last, r]
    new item = [trust * learned, w * content, flag]

with w² the weight of a cosine of contents, so that items can be compared with one another too. What
is learned says less of a new item, so it may count less. What new items are raised by instead,
flag * r, depends on the user: `bonus` for everybody, and `by_history` times (n + 1) / 6 where n of
the user's last five items are new: on MovieLens latest-small n and whether the next item is new
correlate by .53.

The content of an item is its pretrained vector, centred, scaled in the directions of the principal
components by variance ** -0.25 (half of a whitening) and brought to unit length. Pretrained text
vectors share a direction that says nothing of the item; see Mu and Viswanath 2018 (centring) and
Su et al. 2021, arXiv 2103.15316 (whitening).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.evaluation import spread

from .sequences import QueryRows

__all__ = ["COMPONENTS", "ContentCode", "ContentPart"]

COMPONENTS = 127
"""Directions that are kept; with the component for new items 128."""
MULTIPLE = 8
"""What is added to a vector is a multiple of it, filled with zeros: engines cut vectors up."""
LEARNED_FROM = 100_000
"""Vectors that the code is learned from at most, from all over the catalogue."""
POWER = 0.25
LAST = 10
RECENT = 5
"""Items of a history by whose share of new ones new items are raised."""
FLAG = 0.1
"""Least component of new items that are raised by history: small, since it adds its square where
new items are compared, and as large as others, so that codes of vectors keep it."""


@dataclass(frozen=True)
class ContentCode:
    """How a pretrained vector becomes content: learned from a catalogue, used for new items too.

    Attributes:
        sizes: Lengths of the kinds of vectors (text, images) that stand side by side.
        mean_E: Of the vectors that it was learned from, each kind brought to unit length.
        basis_EP: Scaled principal directions.
    """

    sizes: tuple[int, ...]
    mean_E: Tensor
    basis_EP: Tensor

    @classmethod
    def learn(
        cls, features_IE: Tensor, sizes: tuple[int, ...], components: int = COMPONENTS
    ) -> ContentCode | None:
        """The code of these vectors; None where there are too few to tell directions apart.

        Args:
            features_IE: Vectors of items; rows of zeros, without anything to read, do not count.
            sizes: Lengths of the kinds side by side; their sum is E.
            components: P at most.
        """
        step = -(-len(features_IE) // LEARNED_FROM) or 1
        unit_IE = _unit_kinds(features_IE[::step].cpu().double(), sizes)
        told_IE = unit_IE[unit_IE.abs().sum(dim=1) > 0]
        if len(told_IE) < 3:
            return None
        mean_E = told_IE.mean(dim=0)
        centred_IE = told_IE - mean_E
        variance_E, axes_EE = torch.linalg.eigh(centred_IE.T @ centred_IE / (len(told_IE) - 1))
        order_P = torch.argsort(variance_E, descending=True)[: min(components, len(told_IE) - 1)]
        order_P = order_P[variance_E[order_P] > 1e-9]  # of unit vectors: less is rounding
        if not len(order_P):
            return None
        axes_EP = axes_EE[:, order_P]
        largest_P = axes_EP.abs().argmax(dim=0)  # the sign of an axis is a matter of taste
        axes_EP = axes_EP * torch.sign(axes_EP[largest_P, torch.arange(len(order_P))])
        basis_EP = axes_EP * variance_E[order_P] ** -POWER
        basis_EP = functional.pad(basis_EP, (0, -(len(order_P) + 1) % MULTIPLE))
        return cls(sizes, mean_E.float(), basis_EP.float().contiguous())

    def __call__(self, features_NE: Tensor) -> Tensor:
        """Content (N, P) of unit length; zeros where there is nothing to read."""
        unit_NE = _unit_kinds(features_NE.float().cpu(), self.sizes)
        told_N1 = (unit_NE.abs().sum(dim=1, keepdim=True) > 0).float()
        return functional.normalize((unit_NE - self.mean_E) @ self.basis_EP, dim=-1) * told_N1


@dataclass(frozen=True)
class ContentPart:
    """Content of a catalogue and how much it counts.

    Attributes:
        code: How it is made.
        rows_IP: Content of all items.
        weight: Of a cosine of contents beside a learned cosine, above 0 where it is used.
        bonus: What a new item's score is raised by, in cosines.
        by_history: What it is raised by beside it for users whose last items were all new.
        trust: What the learned part counts for new items, above 0; 1 as for all others.
    """

    code: ContentCode
    rows_IP: Tensor
    weight: float
    bonus: float = 0.0
    by_history: float = 0.0
    trust: float = 1.0

    @property
    def dimension(self) -> int:
        """Components beside the learned ones."""
        return int(self.rows_IP.shape[1]) + 1

    def items(self, learned_ND: Tensor, rows_NP: Tensor, known_N: Tensor) -> Tensor:
        """Item vectors (N, D + P + 1); new items without content are not raised."""
        trust_N1 = torch.where(known_N, 1.0, self.trust)[:, None]
        raised_N1 = (~known_N & (rows_NP != 0).any(dim=1)).to(learned_ND.dtype)[:, None]
        content_NP = self.weight**0.5 * rows_NP
        return torch.cat([trust_N1 * learned_ND, content_NP, self._flag * raised_N1], dim=1)

    def users(self, learned_QD: Tensor, queries: QueryRows, known_I: Tensor) -> Tensor:
        """User vectors (Q, D + P + 1); without a history the content is zero."""
        sums_QP, counts_Q1 = _sums_of_last(queries, LAST, self.rows_IP)
        content_QP = self.weight**0.5 * sums_QP / counts_Q1.clamp(min=1)
        raised_Q1 = torch.ones_like(counts_Q1)
        if self.by_history:
            known_Q1, recent_Q1 = _sums_of_last(queries, RECENT, known_I[:, None])
            share_Q1 = (recent_Q1 - known_Q1 + 1) / (RECENT + 1)
            raised_Q1 = (self.bonus + self.by_history * share_Q1) / self._flag
        return torch.cat([learned_QD, content_QP, raised_Q1], dim=1)

    @property
    def _flag(self) -> float:
        return max(self.bonus, FLAG) if self.by_history else self.bonus

    def extended(self, rows_NP: Tensor) -> ContentPart:
        """With the content of items after those it has."""
        return replace(self, rows_IP=torch.cat([self.rows_IP, rows_NP.to(self.rows_IP.device)]))

    def parts_of(self, vectors_ND: Tensor) -> tuple[Tensor, Tensor]:
        """The learned part and the content of vectors that `items` made of new items."""
        width = vectors_ND.shape[1] - self.dimension
        return vectors_ND[:, :width] / self.trust, vectors_ND[:, width:-1] / self.weight**0.5

    def tensors(self) -> dict[str, Tensor]:
        """What a folder keeps; `of_tensors` reads it."""
        return {
            "content": self.rows_IP, "content_mean": self.code.mean_E,
            "content_basis": self.code.basis_EP,
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Numbers that a folder keeps, and by which the item tower is told from others."""
        found = {"sizes": list(self.code.sizes), "weight": self.weight, "bonus": self.bonus}
        # Left out where they change nothing: indexes of before stay valid.
        found |= {"by_history": self.by_history} if self.by_history else {}
        return found | ({"trust": self.trust} if self.trust != 1 else {})

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> ContentPart:
        """What `tensors` and `facts` told."""
        code = ContentCode(
            tuple(facts["sizes"]), tensors["content_mean"].cpu(), tensors["content_basis"].cpu()
        )
        return cls(
            code, tensors["content"], facts["weight"], facts["bonus"],
            facts.get("by_history", 0.0), facts.get("trust", 1.0),
        )  # fmt: skip


def _unit_kinds(features_NE: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Each kind of vectors brought to unit length by itself, so that none outweighs another."""
    bounds = pairwise(np.cumsum([0, *sizes]).tolist())
    kinds = [functional.normalize(features_NE[:, at:stop], dim=-1) for at, stop in bounds]
    return torch.cat(kinds, dim=1)


def _sums_of_last(queries: QueryRows, last: int, rows_IK: Tensor) -> tuple[Tensor, Tensor]:
    """Sum (Q, K) of the rows of each history's last items, and how many they are (Q, 1)."""
    stops_Q = queries.offsets_Q1[1:]
    counts_Q = np.minimum(np.diff(queries.offsets_Q1), last)
    rows_H = np.repeat(np.arange(len(counts_Q)), counts_Q)
    _, places_H = spread(stops_Q - counts_Q, stops_Q)
    device = rows_IK.device
    items_H = torch.from_numpy(queries.items_H[places_H].astype(np.int64)).to(device)
    sums_QK = torch.zeros(len(counts_Q), rows_IK.shape[1], device=device)
    sums_QK.index_add_(0, torch.from_numpy(rows_H).to(device), rows_IK[items_H].float())
    return sums_QK, torch.from_numpy(counts_Q.astype(np.float32)).to(device)[:, None]

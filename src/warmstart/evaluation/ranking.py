"""Ranks of what came next among every item of the catalogue, block by block, on any device.

A rank is 1 plus the number of other items that could have been recommended and did not score lower.
So ties count against the model, and so does a score that is not a number: an item whose score is
NaN counts as above the target, and a target whose score is NaN has the last rank there is, I. A
recommender that scores all items alike is last everywhere, not first.

Memory grows with the block (scores and masks of block × I), never with users × items, and nothing
is sorted: the rank is a count. On the CPU masks lie in memory that every block uses again, and rows
are compared as many at a time as a core's cache holds. Only catalogue coverage needs the lists
themselves, of which the first K are selected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart.core import DataError, UsageError

from .metrics import Ints
from .ranking_queries import ItemLists, Queries
from .ranking_tasks import Kind, RankingTask

__all__ = ["KS", "Ranks", "Recommender", "rank_targets"]

KS = (1, 5, 10, 50, 100)
_CACHED = 131_072  # bytes of a mask that stay in a core's cache


class Recommender(Protocol):
    """Whatever gives every item a score for a query: baselines and trained towers alike."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def scores(self, queries: Queries) -> np.ndarray | Tensor:
        """Scores (Q, I) of all items, higher is better, on any device."""


@dataclass(frozen=True)
class Ranks:
    """Where each target stood. Every metric but coverage can be computed again from it alone.

    Attributes:
        recommender: Whose ranks they are.
        kind: Of the task.
        n_items: I.
        pool: Items that could be recommended at all: I, or those of the candidate mask.
        user_Q: Number of each query's user.
        targets: The items that were looked for.
        rank_P: Rank of each target, 1 to I, among the items that are neither seen nor another
            target of the same query.
        unscored: Targets whose score was NaN.
        shown: K to the number of top-K lists (I) in which each item stands; seen items and those
            with a score of NaN or minus infinity stand in none.
    """

    recommender: str
    kind: Kind
    n_items: int
    pool: int
    user_Q: NDArray[np.int32]
    targets: ItemLists
    rank_P: Ints
    unscored: int
    shown: Mapping[int, Ints]

    @cached_property
    def position_P(self) -> Ints:
        """Place of each target in its query's whole list, the other targets included.

        With one target a query it is the rank. Else the target of j-th best rank has j - 1 targets
        before it.
        """
        rows_P = self.targets.rows
        order_P = np.lexsort((self.rank_P, rows_P))
        place_P = np.empty_like(self.rank_P)
        place_P[order_P] = np.arange(len(order_P)) - self.targets.offsets_Q1[rows_P[order_P]]
        position_P: Ints = np.minimum(self.rank_P + place_P, self.n_items)
        return position_P

    def columns(self) -> dict[str, np.ndarray]:
        """One row a target, for a table: query, user, item, rank, position."""
        rows_P = self.targets.rows
        return {
            "query": rows_P,
            "user": self.user_Q[rows_P],
            "item": self.targets.items,
            "rank": self.rank_P,
            "position": self.position_P,
        }


def rank_targets(
    recommender: Recommender,
    task: RankingTask,
    n_items: int,
    *,
    block: int = 512,
    candidates: Any = None,
    ks: Sequence[int] = KS,
) -> Ranks:
    """Rank every target among all items that its user has not seen.

    Args:
        recommender: Gets the queries, `block` at a time.
        task: Queries and targets.
        n_items: I, the size of the catalogue.
        block: Queries scored at once; memory is about block × I × 12 bytes.
        candidates: Mask (I) of the items that may be recommended; None for all. A target outside
            has rank I.
        ks: Lengths of the lists whose items are counted for coverage; empty saves the selection.

    Raises:
        DataError: When the scores are not one real number for each query and item, or the mask
            does not fit.
        UsageError: For a block or a K below 1, or another catalogue than the task's.
    """
    if block < 1:
        raise UsageError(f"block must be at least 1, got {block}. Typical values: 128 to 4096.")
    lengths = _check_ks(ks)
    if n_items != task.n_items:
        raise UsageError(
            f"rank_targets: n_items must be the {task.n_items} items of the task, got {n_items}."
        )
    pool_I = _check_pool(candidates, n_items)
    rank_P = np.empty(len(task.targets.items), dtype=np.int64)
    shown = {k: np.zeros(n_items, dtype=np.int64) for k in lengths}
    unscored = 0
    room = _Room(min(block, len(task)), n_items)
    for start in range(0, len(task), block):
        stop = min(start + block, len(task))
        queries = task.block(start, stop)
        scores_QI = _checked(recommender.scores(queries), len(queries), n_items, recommender.name)
        open_QI = _open_items(queries, scores_QI, pool_I, room)
        if lengths:
            _count_shown(scores_QI, open_QI, shown)
        targets = task.targets.block(start, stop)
        ranks, lost = _count_above(scores_QI, open_QI, targets, pool_I, room)
        first = int(task.targets.offsets_Q1[start])
        rank_P[first : first + len(ranks)] = ranks
        unscored += lost
    return Ranks(
        recommender=recommender.name,
        kind=task.kind,
        n_items=n_items,
        pool=n_items if pool_I is None else int(pool_I.sum()),
        user_Q=task.user_Q,
        targets=task.targets,
        rank_P=rank_P,
        unscored=unscored,
        shown=MappingProxyType(shown),
    )


def _check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    lengths = tuple(sorted(set(ks)))
    if lengths and lengths[0] < 1:
        raise UsageError(f"ks must be list lengths of at least 1, got {lengths[0]}.")
    return lengths


def _check_pool(candidates: Any, n_items: int) -> NDArray[np.bool_] | None:
    if candidates is None:
        return None
    pool_I = np.array(candidates)
    if pool_I.shape != (n_items,) or pool_I.dtype != np.bool_:
        raise DataError(
            f"candidates must be true or false for each of the {n_items} items, got an array of "
            f"{pool_I.dtype} with shape {pool_I.shape}."
        )
    return pool_I


def _checked(given: Any, n_queries: int, n_items: int, name: str) -> Tensor:
    """The scores as a real tensor (Q, I) where they lie; not copied when that can be helped."""
    if isinstance(given, Tensor):
        scores_QI = given.detach()
    else:
        array = np.asarray(given)
        if array.dtype.kind not in "fiu":
            raise DataError(f"{name}: scores must be real numbers, got {array.dtype}.")
        if array.dtype.kind != "f":
            array = array.astype(np.float64)
        usable = array.flags.writeable and all(stride > 0 for stride in array.strides)
        scores_QI = torch.from_numpy(array if usable else array.copy())
    if tuple(scores_QI.shape) != (n_queries, n_items):
        raise DataError(
            f"{name}: scores must have the shape {(n_queries, n_items)} (queries, items), got "
            f"{tuple(scores_QI.shape)}."
        )
    if scores_QI.is_complex() or scores_QI.dtype == torch.bool:
        raise DataError(f"{name}: scores must be real numbers, got {scores_QI.dtype}.")
    if scores_QI.is_floating_point():
        return scores_QI
    return scores_QI.to(torch.float32 if scores_QI.device.type == "mps" else torch.float64)


class _Room:
    """Masks on the CPU that every block uses again: fresh memory costs more than the comparison.

    Attributes:
        block: Queries of a block.
        rows: Rows that are compared at once.
    """

    def __init__(self, block: int, n_items: int) -> None:
        self.block = block
        self.rows = max(1, _CACHED // max(1, n_items))
        self._open_QI = np.empty((block, n_items), dtype=bool)
        self._above_RI = np.empty((self.rows, n_items), dtype=bool)

    def open(self, rows: int) -> NDArray[np.bool_]:
        """Room for what may be recommended."""
        return self._open_QI[:rows]

    def above(self, rows: int) -> NDArray[np.bool_]:
        """Room for a comparison of at most `rows` rows."""
        return self._above_RI[:rows]


def _open_items(
    queries: Queries, scores_QI: Tensor, pool_I: NDArray[np.bool_] | None, room: _Room
) -> Tensor:
    """Mask (Q, I) of what may be recommended: in the pool and not in the history."""
    device, n_items = scores_QI.device, scores_QI.shape[1]
    flat_H = queries.rows_H * n_items + queries.items_H
    if device.type == "cpu":
        open_QI = room.open(len(queries))
        open_QI[:] = True if pool_I is None else pool_I
        open_QI.reshape(-1)[flat_H] = False
        return torch.from_numpy(open_QI)
    if pool_I is None:
        there_QI = torch.ones(scores_QI.shape, dtype=torch.bool, device=device)
    else:
        there_QI = torch.from_numpy(pool_I).to(device).repeat(len(queries), 1)
    there_QI.view(-1)[torch.from_numpy(flat_H).to(device)] = False
    return there_QI


def _count_shown(scores_QI: Tensor, open_QI: Tensor, shown: Mapping[int, Ints]) -> None:
    """Add the items of each query's first K to the counts."""
    n_items = scores_QI.shape[1]
    length = min(max(shown), n_items)
    usable_QI = torch.where(open_QI, scores_QI, -torch.inf)
    values_QK, items_QK = usable_QI.topk(length, dim=1)
    if torch.isnan(values_QK).any():  # topk puts NaN first, so one look at its values is enough
        usable_QI.masked_fill_(torch.isnan(usable_QI), -torch.inf)
        values_QK, items_QK = usable_QI.topk(length, dim=1)
    listed_QK = (values_QK > -torch.inf).cpu().numpy()
    items = items_QK.cpu().numpy()
    for k in shown:
        shown[k][:] += np.bincount(items[:, :k][listed_QK[:, :k]], minlength=n_items)


def _count_above(
    scores_QI: Tensor,
    open_QI: Tensor,
    targets: ItemLists,
    pool_I: NDArray[np.bool_] | None,
    room: _Room,
) -> tuple[Ints, int]:
    """Ranks of the block's targets, and how many had no score; `open_QI` loses the targets."""
    device, n_items = scores_QI.device, scores_QI.shape[1]
    rows_P = torch.from_numpy(targets.rows).to(device)
    items_P = torch.from_numpy(targets.items.astype(np.int64)).to(device)
    open_QI[rows_P, items_P] = False
    target_P = scores_QI[rows_P, items_P]
    alone = len(items_P) == len(scores_QI)  # one target a query: the rows are those of the block
    if device.type == "cpu" and scores_QI.dtype in (torch.float32, torch.float64):
        above_P = torch.from_numpy(
            _above_in_cache(
                scores_QI.numpy(), open_QI.numpy(), target_P.numpy(),
                None if alone else targets.rows, room,
            )
        )  # fmt: skip
    else:
        above_P = _above_on_device(scores_QI, open_QI, target_P, None if alone else rows_P, room)
    lost_P = torch.isnan(target_P)
    unscored = int(lost_P.sum())
    if pool_I is not None:
        lost_P |= ~torch.from_numpy(pool_I).to(device)[items_P]
    ranks_P = (above_P + 1).masked_fill(lost_P, n_items)
    return ranks_P.cpu().numpy(), unscored


def _above_in_cache(
    scores_QI: NDArray[Any],
    open_QI: NDArray[np.bool_],
    target_P: NDArray[Any],
    rows_P: Ints | None,
    room: _Room,
) -> Ints:
    """How many open items are not below each target; `rows_P` is its row where rows repeat."""
    above_P = np.empty(len(target_P), dtype=np.int64)
    for start in range(0, len(target_P), room.rows):
        part = slice(start, start + room.rows)
        chosen = part if rows_P is None else rows_P[part]
        target_R1 = target_P[part, None]
        not_below_RI = room.above(len(target_R1))
        np.less(scores_QI[chosen], target_R1, out=not_below_RI)  # false where either is NaN
        np.greater(open_QI[chosen], not_below_RI, out=not_below_RI)  # open and not below
        above_P[part] = not_below_RI.view(np.uint8).sum(axis=1, dtype=np.uint32)
    return above_P


def _above_on_device(
    scores_QI: Tensor, open_QI: Tensor, target_P: Tensor, rows_P: Tensor | None, room: _Room
) -> Tensor:
    """As `_above_in_cache`, as many rows at once as a block has."""
    above_P = torch.empty(len(target_P), dtype=torch.int64, device=scores_QI.device)
    for start in range(0, len(target_P), room.block):
        part = slice(start, start + room.block)
        chosen = part if rows_P is None else rows_P[part]
        below = scores_QI[chosen] < target_P[part, None]
        above_P[part] = torch.gt(open_QI[chosen], below).sum(dim=1)
    return above_P

"""Hard negatives: passed over by the user, alike by tag, or ranked high by the current model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.core import NotApplicable, UsageError

from .negatives import Known, Rows

__all__ = ["Mined", "SameTags", "Viewed", "mine"]


class Viewed:
    """Items that the user saw but did not complete; users without any draw among all items."""

    shared = False

    def __init__(
        self,
        users_N: np.ndarray,
        items_N: np.ndarray,
        positive_N: np.ndarray,
        *,
        n_users: int,
        n_items: int,
        allowed_I: np.ndarray,
    ) -> None:
        """Collect what each user passed over.

        Args:
            users_N: User of each event.
            items_N: Its item.
            positive_N: Which events are positives; the others are views.
            n_users: U.
            n_items: I.
            allowed_I: Which items may be drawn.

        Raises:
            NotApplicable: Where every event is a positive, or every view led to one.
        """
        taken = Known(_ints(users_N[positive_N]), _ints(items_N[positive_N]), n_items)
        users, items = _ints(users_N[~positive_N]), _ints(items_N[~positive_N])
        keys = torch.unique(users * n_items + items)
        users, items = keys // n_items, keys % n_items
        passed = torch.from_numpy(allowed_I)[items]
        if len(keys):
            passed &= ~taken.has(users, items[:, None])[:, 0]
        if not bool(passed.any()):
            raise NotApplicable(
                "there are no items that were viewed but not completed: every event is a positive "
                "(or every viewed item was completed later). Name the positive events with "
                "positive, or use negatives by tags, mined, in-batch or uniform."
            )
        self._pool = _Pool(users[passed], items[passed], n_users, n_items, allowed_I)

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Tensor:
        """Draws with return among what the row's user passed over."""
        return self._pool.draw(rows.users_N, count, generator)

    def expected(self, rows: Rows, count: int) -> float:
        """All of them."""
        return float(count)

    def log_q(self, rows: Rows, items: Tensor) -> Tensor:
        """One over the size of the user's pool."""
        return self._pool.log_q(rows.users_N, items)


class SameTags:
    """Items that share a tag with the row's own: first one of its tags, then an item that has it.

    An item is the likelier the more tags it shares, and the rarer they are. Rows whose item has no
    tag draw among all items.
    """

    shared = False

    def __init__(self, tags_I: Sequence[Sequence[str]], *, allowed_I: np.ndarray) -> None:
        """Turn the tags around.

        Args:
            tags_I: Tags of each item.
            allowed_I: Which items may be drawn.

        Raises:
            NotApplicable: Where no two items share a tag.
        """
        names = sorted({tag for tags in tags_I for tag in tags})
        number = {name: place for place, name in enumerate(names)}
        pairs = sorted({(place, number[tag]) for place, tags in enumerate(tags_I) for tag in tags})
        item_P = torch.tensor([item for item, _ in pairs], dtype=torch.int64)
        tag_P = torch.tensor([tag for _, tag in pairs], dtype=torch.int64)
        drawn_P = torch.from_numpy(allowed_I)[item_P] if pairs else item_P.bool()
        members_T = torch.bincount(tag_P[drawn_P], minlength=len(names))
        if not bool((members_T > 1).any()):
            raise NotApplicable(
                "negatives by tags need items that share tags, and no two do. Give the items a "
                "column of tags, or use negatives in-batch, uniform or mined."
            )
        held_P = members_T[tag_P] > 0
        self._item_tags = _Groups(item_P[held_P], tag_P[held_P], len(tags_I))
        tag_order = torch.argsort(tag_P[drawn_P], stable=True)
        self._tag_items = _Groups(tag_P[drawn_P][tag_order], item_P[drawn_P][tag_order], len(names))
        self._allowed_I = torch.from_numpy(allowed_I)
        self._everything = torch.from_numpy(np.flatnonzero(allowed_I))
        self._members_T = members_T.float()

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Tensor:
        """Draws with return."""
        device = rows.targets_N.device
        shape = (len(rows), count)
        first, second = torch.rand(2, *shape, generator=generator, dtype=torch.float64).to(device)
        tag_NK, has_tag_N = self._item_tags.pick(rows.targets_N, first)
        found_NK, _ = self._tag_items.pick(tag_NK.clamp(min=0), second)
        everything = self._everything.to(device)
        other_NK = everything[(second * len(everything)).long()]
        return torch.where(has_tag_N[:, None], found_NK, other_NK)

    def expected(self, rows: Rows, count: int) -> float:
        """All of them."""
        return float(count)

    def log_q(self, rows: Rows, items: Tensor) -> Tensor:
        """`log Σ_t 1 / (tags of the row's item) · 1 / (items of tag t)` over the shared tags t."""
        device, tags = items.device, len(self._members_T)
        targets, place_N = torch.unique(rows.targets_N, return_inverse=True)
        codes, inverse = torch.unique(items, return_inverse=True)
        has_RT = self._item_tags.dense(targets, tags)
        count_R = has_RT.sum(dim=1, keepdim=True)
        each_RT = has_RT / count_R.clamp(min=1) / self._members_T.to(device).clamp(min=1)
        allowed_C = self._allowed_I.to(device)[codes]
        q_RC = (each_RT @ self._item_tags.dense(codes, tags).T) * allowed_C
        q_RC = torch.where(count_R > 0, q_RC, allowed_C.float() / len(self._everything))
        shown_NK = inverse[None, :] if items.ndim == 1 else inverse
        return torch.log(q_RC[place_N[:, None], shown_NK])


class Mined(nn.Module):
    """Items that the current model ranks highest for a user who is not known to have taken them.

    Until `mine` has filled the pools, and for users whose pool is empty, draws go to all items. The
    pools are a buffer, so a checkpoint keeps them and a resumed fit draws what it would have drawn.
    """

    shared = False
    pool_UM: Tensor
    sizes_U: Tensor

    def __init__(self, n_users: int, size: int, *, allowed_I: np.ndarray) -> None:
        """Make empty pools.

        Args:
            n_users: U.
            size: Items kept for each user, at least 1.
            allowed_I: Which items may be drawn.
        """
        super().__init__()
        if size < 1:
            raise UsageError(f"mined pools must hold at least 1 item, got {size}. Typical: 50.")
        self._n_items = len(allowed_I)
        self._everything = torch.from_numpy(np.flatnonzero(allowed_I))
        self.register_buffer("pool_UM", torch.zeros(n_users, size, dtype=torch.int32))
        self.register_buffer("sizes_U", torch.zeros(n_users, dtype=torch.int32))

    @property
    def size(self) -> int:
        """Items that a pool holds at most."""
        return self.pool_UM.shape[1]

    def fill(self, pool_UM: Tensor, sizes_U: Tensor) -> None:
        """Replace all pools.

        Args:
            pool_UM: Items of each user, those that count first.
            sizes_U: How many count.
        """
        self.pool_UM.copy_(pool_UM)
        self.sizes_U.copy_(sizes_U)

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Tensor:
        """Draws with return from the pool of the row's user."""
        share_NK = torch.rand(len(rows), count, generator=generator, dtype=torch.float64)
        share_NK = share_NK.to(rows.targets_N.device)
        sizes_N = self.sizes_U[rows.users_N].long()
        place_NK = (share_NK * sizes_N[:, None]).long()
        mined_NK = self.pool_UM[rows.users_N[:, None], place_NK].long()
        everything = self._everything.to(share_NK.device)
        other_NK = everything[(share_NK * len(everything)).long()]
        return torch.where(sizes_N[:, None] > 0, mined_NK, other_NK)

    def expected(self, rows: Rows, count: int) -> float:
        """All of them."""
        return float(count)

    def log_q(self, rows: Rows, items: Tensor) -> Tensor:
        """One over the size of the user's pool, for what is in it."""
        users, place_N = torch.unique(rows.users_N, return_inverse=True)
        held_RM = torch.arange(self.size, device=items.device) < self.sizes_U[users][:, None]
        row_P = torch.arange(len(users), device=items.device)[:, None].expand_as(held_RM)[held_RM]
        pairs = Known(row_P, self.pool_UM[users][held_RM], self._n_items)
        inside_NK = pairs.has(place_N, items)
        return _log_of_pool(inside_NK, self.sizes_U[rows.users_N], self._everything, items)


@torch.no_grad()
def mine(
    user_vectors: Callable[[int, int], Tensor],
    items_ID: Tensor,
    positive_U: Tensor,
    known: Known,
    *,
    size: int,
    allowed_I: Tensor,
    margin: float = 0.05,
    block: int = 512,
) -> tuple[Tensor, Tensor]:
    """The pools of all users: the highest-ranked items that are neither known nor suspicious.

    An item that scores nearly as high as what the user did take next, or higher, may well be a
    positive that was never recorded; it is passed over.

    Args:
        user_vectors: Unit vectors (B, D) of the users from the first code up to the second.
        items_ID: Unit vectors of all items.
        positive_U: The item that each user took after what the vector stands for, -1 for none.
        known: What users took.
        size: Items to keep for each user.
        allowed_I: Which items may be kept.
        margin: Least distance in cosine below the positive's, at least 0.
        block: Users ranked at once: `block × I` scores are held.

    Returns:
        Items (U, size), the hardest first, and how many of each row count (U).

    Source: the margin against false negatives is that of Moreira et al. 2024, NV-Retriever,
    section 3 (TopK-MarginPos).
    """
    if margin < 0:
        raise UsageError(f"mining: margin must be at least 0, got {margin}. Typical: 0.05.")
    n_users, n_items = len(positive_U), len(items_ID)
    kept = min(size, n_items)
    pool_UM = torch.zeros(n_users, size, dtype=torch.int32, device=items_ID.device)
    sizes_U = torch.zeros(n_users, dtype=torch.int32, device=items_ID.device)
    for start in range(0, n_users, block):
        stop = min(start + block, n_users)
        users_B = torch.arange(start, stop, device=items_ID.device)
        taken_B = positive_U[users_B]
        scores_BI = user_vectors(start, stop) @ items_ID.T
        limit_B = scores_BI.gather(1, taken_B.clamp(min=0)[:, None]) - margin
        offsets_B1, hidden = known.items_of(users_B)
        row_K = torch.repeat_interleave(users_B - start, offsets_B1[1:] - offsets_B1[:-1])
        out_BI = (scores_BI > limit_B) | ~allowed_I[None, :]
        out_BI[row_K, hidden] = True
        out_BI |= (taken_B < 0)[:, None]
        top = scores_BI.masked_fill(out_BI, float("-inf")).topk(kept, dim=1)
        pool_UM[users_B, :kept] = top.indices.int()
        sizes_U[users_B] = torch.isfinite(top.values).sum(dim=1).int()
    return pool_UM, sizes_U


class _Groups:
    """Values by group, side by side."""

    def __init__(self, group_P: Tensor, value_P: Tensor, groups: int) -> None:
        """Take pairs that are sorted by group."""
        counts_G = torch.bincount(group_P, minlength=groups)
        self.offsets_G1 = torch.cat([counts_G.new_zeros(1), torch.cumsum(counts_G, dim=0)])
        self.values_P = value_P

    def pick(self, groups: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """A value of each group at that share of its length, and which groups have any.

        Args:
            groups: Of each row (N), or of each draw (N, K).
            share: In [0, 1), (N, K).
        """
        self._move(share.device)
        start, stop = self.offsets_G1[groups], self.offsets_G1[groups + 1]
        has = stop > start
        if groups.ndim == 1:
            start, stop = start[:, None], stop[:, None]
        place = start + (share * (stop - start)).long()
        values = self.values_P[place.clamp(max=len(self.values_P) - 1)]
        return torch.where(stop > start, values, -1), has

    def dense(self, groups_R: Tensor, values: int) -> Tensor:
        """1 where a group has a value, else 0 (R, values)."""
        self._move(groups_R.device)
        start_R, stop_R = self.offsets_G1[groups_R], self.offsets_G1[groups_R + 1]
        counts_R = stop_R - start_R
        row_P = torch.repeat_interleave(
            torch.arange(len(groups_R), device=groups_R.device), counts_R
        )
        before_R = torch.cumsum(counts_R, dim=0) - counts_R
        place_P = torch.arange(len(row_P), device=groups_R.device) + (start_R - before_R)[row_P]
        table_RV = torch.zeros(len(groups_R), values, device=groups_R.device)
        table_RV[row_P, self.values_P[place_P]] = 1.0
        return table_RV

    def _move(self, device: torch.device) -> None:
        self.offsets_G1, self.values_P = self.offsets_G1.to(device), self.values_P.to(device)


class _Pool:
    """Items by user, drawn evenly; users without any draw among all allowed items."""

    def __init__(
        self, users_P: Tensor, items_P: Tensor, n_users: int, n_items: int, allowed_I: np.ndarray
    ) -> None:
        """Take pairs that are sorted by user."""
        self._groups = _Groups(users_P, items_P, n_users)
        self._members = Known(users_P, items_P, n_items)
        self._sizes_U = torch.bincount(users_P, minlength=n_users)
        self._everything = torch.from_numpy(np.flatnonzero(allowed_I))

    def draw(self, users_N: Tensor, count: int, generator: torch.Generator) -> Tensor:
        share_NK = torch.rand(len(users_N), count, generator=generator, dtype=torch.float64)
        share_NK = share_NK.to(users_N.device)
        found_NK, has_N = self._groups.pick(users_N, share_NK)
        everything = self._everything.to(users_N.device)
        return torch.where(
            has_N[:, None], found_NK, everything[(share_NK * len(everything)).long()]
        )

    def log_q(self, users_N: Tensor, items: Tensor) -> Tensor:
        self._sizes_U = self._sizes_U.to(items.device)
        inside_NK = self._members.has(users_N, items)
        return _log_of_pool(inside_NK, self._sizes_U[users_N], self._everything, items)


def _log_of_pool(inside_NK: Tensor, sizes_N: Tensor, everything: Tensor, items: Tensor) -> Tensor:
    """Log of one over the pool's size inside it; rows without a pool draw among everything."""
    shown_NK = items.expand_as(inside_NK)
    allowed_NK = torch.isin(shown_NK, everything.to(items.device))
    whole = torch.full_like(sizes_N, len(everything))
    size_N = torch.where(sizes_N > 0, sizes_N, whole).float()
    drawn_NK = torch.where((sizes_N > 0)[:, None], inside_NK, allowed_NK)
    return torch.log(drawn_NK / size_N[:, None])


def _ints(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))

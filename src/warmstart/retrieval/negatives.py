"""Samplers of negatives, each with the probability by which it draws.

A sampler draws items and tells for any item the logarithm of the probability that one draw gives
it. Mixed by share, every draw is weighed by the whole mixture's expected draws of its item, so the
loss estimates the softmax over all items, whatever the mixture; without that correction items that
are drawn often are pushed down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from warmstart.core import UsageError, nearest
from warmstart.objectives import accidental_hits, log_expected_draws

from .frequency import StreamingFrequency

__all__ = [
    "Candidates",
    "InBatch",
    "Known",
    "Mixture",
    "Rows",
    "Sampler",
    "StreamedBatch",
    "Uniform",
    "split_draws",
]


@dataclass(frozen=True)
class Rows:
    """The positions that a loss is taken at.

    Attributes:
        users_N: User of each.
        targets_N: The item that the user took there.
    """

    users_N: Tensor
    targets_N: Tensor

    def __len__(self) -> int:
        return len(self.targets_N)


class Sampler(Protocol):
    """Where negatives come from."""

    shared: bool
    """Whether all rows are compared with the same draws."""

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Tensor:
        """Item codes: (count,) where shared, else (N, count).

        Args:
            rows: What they are negatives for.
            count: Draws, for all rows together where shared, else for each.
            generator: On the CPU; the same one gives the same draws on any device.
        """

    def expected(self, rows: Rows, count: int) -> float:
        """How many of `count` draws are no row's own item by construction."""

    def log_q(self, rows: Rows, items: Tensor) -> Tensor:
        """Log probability of items in one draw, -inf for those never drawn.

        Args:
            rows: As in `draw`.
            items: Codes (K,) or each row's own (N, K).

        Returns:
            (N, K), or (1, K) where it is the same for all rows.
        """


class InBatch:
    """The items that the rows of the batch took: drawn as often as items occur."""

    shared = True

    def __init__(self, log_frequency_I: Tensor) -> None:
        """Take the frequencies.

        Args:
            log_frequency_I: Logarithm of each item's share of the training events, -inf for 0.
        """
        self._log_frequency_I = log_frequency_I

    @classmethod
    def counted(cls, counts_I: Tensor) -> InBatch:
        """From the number of training events of each item."""
        counts_I = counts_I.double()
        return cls(torch.log(counts_I / counts_I.sum()).float())

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Tensor:
        """Targets of rows drawn without return; all of them, in order, where `count` is N."""
        targets_N = rows.targets_N
        if count >= len(rows):
            return targets_N
        chosen = torch.randperm(len(rows), generator=generator)[:count]
        return targets_N[chosen.to(targets_N.device)]

    def expected(self, rows: Rows, count: int) -> float:
        """One draw in N is the row itself."""
        return count * max(0.5, len(rows) - 1.0) / max(1, len(rows))

    def log_q(self, rows: Rows, items: Tensor) -> Tensor:
        """The items' shares of the training events."""
        self._log_frequency_I = self._log_frequency_I.to(items.device)
        return _by_row(self._log_frequency_I[items])


class StreamedBatch:
    """The different items of the batch, with frequencies that are estimated as batches go by.

    Each item of the batch counts once, and the chance of that is what the stream estimates.
    """

    shared = True

    def __init__(self, frequency: StreamingFrequency) -> None:
        """Take the estimate.

        Args:
            frequency: Who trains calls its `update` with each batch's targets, before drawing.
        """
        self._frequency = frequency

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Tensor:
        """Different targets drawn without return; all of them where `count` is at least as many."""
        items_L: Tensor = torch.unique(rows.targets_N)
        if count >= len(items_L):
            return items_L
        chosen = torch.randperm(len(items_L), generator=generator)[:count]
        return items_L[chosen.to(items_L.device)]

    def expected(self, rows: Rows, count: int) -> float:
        """All of them."""
        return float(count)

    def log_q(self, rows: Rows, items: Tensor) -> Tensor:
        """The chance that a batch shows the item, over the different items of this one."""
        different = len(torch.unique(rows.targets_N))
        return _by_row(self._frequency.log_probability(items) - math.log(different))


class Uniform:
    """Every item that may be drawn, with the same probability."""

    shared = True

    def __init__(self, items_L: Tensor, n_items: int) -> None:
        """Take the items.

        Args:
            items_L: Codes of the items that may be drawn: those that training has seen.
            n_items: I.
        """
        if not len(items_L):
            raise UsageError("uniform negatives need at least one item to draw from, got none.")
        self._items_L = items_L
        self._log_q_I = torch.full((n_items,), float("-inf"))
        self._log_q_I[items_L.cpu()] = -torch.log(torch.tensor(float(len(items_L))))

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Tensor:
        """Draws with return."""
        chosen = torch.randint(len(self._items_L), (count,), generator=generator)
        return self._items_L[chosen.to(self._items_L.device)].to(rows.targets_N.device)

    def expected(self, rows: Rows, count: int) -> float:
        """All of them."""
        return float(count)

    def log_q(self, rows: Rows, items: Tensor) -> Tensor:
        """`-log L` for the L items that may be drawn."""
        self._log_q_I = self._log_q_I.to(items.device)
        return _by_row(self._log_q_I[items])


class Known:
    """Which items each user is known to have taken, asked for many pairs at once."""

    def __init__(self, users_N: Tensor, items_N: Tensor, n_items: int) -> None:
        """Take the pairs.

        Args:
            users_N: User of each pair.
            items_N: Its item.
            n_items: I.
        """
        self._n_items = n_items
        self._keys_P = torch.unique(users_N.long() * n_items + items_N.long())

    def has(self, users_N: Tensor, items: Tensor) -> Tensor:
        """True (N, K) where user n took the item.

        Args:
            users_N: Users.
            items: Codes (K,) or each user's own (N, K).
        """
        self._keys_P = self._keys_P.to(items.device)
        keys_NK = users_N[:, None] * self._n_items + _by_row(items)
        if not len(self._keys_P):
            return torch.zeros_like(keys_NK, dtype=torch.bool)
        place_NK = torch.searchsorted(self._keys_P, keys_NK).clamp(max=len(self._keys_P) - 1)
        found_NK: Tensor = self._keys_P[place_NK] == keys_NK
        return found_NK

    def items_of(self, users_N: Tensor) -> tuple[Tensor, Tensor]:
        """The known items of each user as (offsets N + 1, items), sorted within a user."""
        self._keys_P = self._keys_P.to(users_N.device)
        low_N = torch.searchsorted(self._keys_P, users_N * self._n_items)
        high_N = torch.searchsorted(self._keys_P, (users_N + 1) * self._n_items)
        counts_N = high_N - low_N
        offsets_N1 = torch.cat([counts_N.new_zeros(1), torch.cumsum(counts_N, dim=0)])
        row_K = torch.repeat_interleave(torch.arange(len(users_N), device=low_N.device), counts_N)
        within_K = torch.arange(len(row_K), device=low_N.device) - offsets_N1[row_K]
        return offsets_N1, self._keys_P[low_N[row_K] + within_K] % self._n_items


@dataclass(frozen=True)
class Candidates:
    """The negatives of N rows.

    Attributes:
        shared_K: Items that all rows are compared with.
        own_NM: Each row's own; M may be 0.
        masked_NC: True where a candidate does not count (C = K + M, shared ones first).
        log_weight_NC: Logarithm of the weight of each, or None for equal weights.
        draws: Candidates that a row is compared with, masked ones included.
    """

    shared_K: Tensor
    own_NM: Tensor
    masked_NC: Tensor
    log_weight_NC: Tensor | None
    draws: int


class Mixture:
    """Negatives from several samplers by share."""

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        shares: Mapping[str, float],
        *,
        known: Known | None = None,
        corrected: bool = True,
    ) -> None:
        """Mix them.

        Args:
            samplers: By name.
            shares: How large a part of the draws each gives, above 0; they are scaled to sum to 1.
            known: What users are known to have taken, which never counts as a negative.
            corrected: Whether draws are weighed by logQ.

        Raises:
            UsageError: For shares that name no sampler or are not above 0.
        """
        for name, share in shares.items():
            if name not in samplers:
                raise UsageError(f'negatives: "{name}" is unknown.{nearest(name, samplers)}')
            if not share > 0:
                raise UsageError(
                    f"negatives: the share of {name} must be above 0, got {share}. Leave it out, "
                    "or give shares such as in-batch=0.5, tags=0.5."
                )
        if not shares:
            raise UsageError(f"negatives: no sampler was named.{nearest('', samplers)}")
        self._samplers = {name: samplers[name] for name in shares}
        self._shares = dict(shares)
        self._known = known
        self._corrected = corrected

    def draw(self, rows: Rows, count: int, generator: torch.Generator) -> Candidates:
        """Draw `count` negatives for each row.

        A batch that has fewer rows than its sampler's part gives what it has.
        """
        counts = split_draws(self._shares, count)
        shared: list[Tensor] = [rows.targets_N.new_zeros(0)]
        own: list[Tensor] = [rows.targets_N.new_zeros((len(rows), 0))]
        for name, sampler in self._samplers.items():
            if counts[name]:
                drawn = sampler.draw(rows, counts[name], generator)
                counts[name] = drawn.shape[-1]
                (shared if sampler.shared else own).append(drawn)
        shared_K, own_NM = torch.cat(shared), torch.cat(own, dim=1)
        masked = [self._mask(rows, items) for items in (shared_K, own_NM)]
        weight = None
        if self._corrected:
            parts = [self._log_weight(rows, items, counts) for items in (shared_K, own_NM)]
            weight = torch.cat([part.expand(len(rows), -1) for part in parts], dim=1)
        return Candidates(
            shared_K, own_NM, torch.cat(masked, dim=1), weight, len(shared_K) + own_NM.shape[1]
        )

    def _mask(self, rows: Rows, items: Tensor) -> Tensor:
        known = None if self._known is None else self._known.has(rows.users_N, items)
        return accidental_hits(rows.targets_N, items, known)

    def _log_weight(self, rows: Rows, items: Tensor, counts: Mapping[str, int]) -> Tensor:
        """Minus the log of how often the whole mixture is expected to draw each item."""
        if not items.shape[-1]:
            return torch.zeros((1, 0), device=items.device)
        used = [(sampler, counts[name]) for name, sampler in self._samplers.items() if counts[name]]
        log_q = [sampler.log_q(rows, items) for sampler, _ in used]
        draws = [sampler.expected(rows, count) for sampler, count in used]
        return -log_expected_draws(log_q, draws)


def split_draws(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """`count` draws in parts by share: whole numbers that sum to it (largest remainders first).

    Raises:
        UsageError: When there are fewer draws than parts.
    """
    if count < len(shares):
        raise UsageError(
            f"negatives must be at least {len(shares)}, one for each sampler in the mixture, "
            f"got {count}."
        )
    total = sum(shares.values())
    exact = {name: count * share / total for name, share in shares.items()}
    parts = {name: int(value) for name, value in exact.items()}
    rest: Sequence[str] = sorted(exact, key=lambda name: (parts[name] - exact[name], name))
    for name in rest[: count - sum(parts.values())]:
        parts[name] += 1
    return parts


def _by_row(values: Tensor) -> Tensor:
    return values[None, :] if values.ndim == 1 else values

"""What a training step of the towers does: which items are looked at, and the loss over them.

A step plans which item vectors it needs, makes user and item vectors in one pass (or piece by
piece with gradient caching), and takes the loss at every position that foretells something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from warmstart.core import UsageError
from warmstart.objectives import (
    frequency_temperature,
    full_softmax,
    sampled_softmax,
)
from warmstart.training import LoopState, StepFunction, StepOutput

from .frequency import StreamingFrequency
from .grad_cache import Part, cached_gradients
from .negatives import Candidates, Known, Mixture, Rows
from .sequences import WindowBatch
from .towers import Towers

__all__ = [
    "Catalogue",
    "FullSoftmax",
    "Objective",
    "Plan",
    "RowTemperature",
    "SampledSoftmax",
    "item_table",
    "learned_values",
    "training_step",
    "zero_loss",
]


@dataclass
class Catalogue:
    """What training knows of the items.

    Attributes:
        features_IF: Given vectors, text and image side by side; None without.
        known_I: True for items with an event in training.
        counts_I: Positive training events of each item.
        profile_UP: Attributes of the users; None without.
    """

    features_IF: Tensor | None
    known_I: Tensor
    counts_I: Tensor
    profile_UP: Tensor | None = None

    def to(self, device: torch.device | str) -> Catalogue:
        """The same on a device."""
        return Catalogue(
            None if self.features_IF is None else self.features_IF.to(device),
            self.known_I.to(device),
            self.counts_I.to(device),
            None if self.profile_UP is None else self.profile_UP.to(device),
        )

    @property
    def codes_L(self) -> Tensor:
        """Codes of the items that training has seen, rising."""
        return torch.nonzero(self.known_I)[:, 0]

    def features(self, codes_K: Tensor) -> Tensor | None:
        """Given vectors of some items."""
        return None if self.features_IF is None else self.features_IF[codes_K]


@dataclass(frozen=True)
class Plan:
    """Which item vectors a step needs, and where they are used.

    Attributes:
        windows: With items and targets given by their row among the K.
        rows: Users and target codes of the positions.
        codes_K: Codes of the items.
        candidates: The negatives, given by their codes; None where all K items are compared.
        shared_K: Rows among the K of the shared negatives.
        own_NM: Rows among the K of each position's own negatives.
    """

    windows: WindowBatch
    rows: Rows
    codes_K: Tensor
    candidates: Candidates | None = None
    shared_K: Tensor | None = None
    own_NM: Tensor | None = None


class Objective(Protocol):
    """A loss over positions that says which items it compares them with."""

    def plan(self, windows: WindowBatch, generator: torch.Generator) -> Plan:
        """What to encode for a batch.

        Args:
            windows: With item codes.
            generator: For draws, on the CPU.
        """

    def loss(
        self, plan: Plan, users_ND: Tensor, items_KD: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The mean loss over the positions, and further values to record."""


@dataclass(frozen=True)
class RowTemperature:
    """The temperature of each position, by how frequent its item is (see `frequency_temperature`).

    Attributes:
        counts_I: Training events of each item.
        power: 0 gives every position the same.
    """

    counts_I: Tensor
    power: float = 0.0

    def scaled(self, users_ND: Tensor, temperature: Tensor, targets_N: Tensor) -> Tensor:
        """User vectors divided by their temperatures."""
        if not self.power:
            return users_ND / temperature
        counts_I = self.counts_I.to(users_ND.device).float()
        typical = float((counts_I * torch.log1p(counts_I)).sum() / counts_I.sum())
        scale_N = frequency_temperature(counts_I[targets_N], typical, temperature, self.power)
        return users_ND / scale_N[:, None]


class FullSoftmax:
    """The exact softmax over every item that training has seen."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        known: Known | None = None,
        smoothing: float = 0.0,
        block: int = 1024,
        power: float = 0.0,
    ) -> None:
        """Take what stays the same from step to step.

        Args:
            catalogue: Its seen items are the classes; an item of the future is none.
            known: Users' positives, which do not count against one another; None to let them.
            smoothing: Of the target.
            block: Positions whose scores are held at once.
            power: See `RowTemperature`.
        """
        self._codes_L = catalogue.codes_L
        self._place_I = torch.full((len(catalogue.known_I),), -1, device=self._codes_L.device)
        self._place_I[self._codes_L] = torch.arange(len(self._codes_L), device=self._place_I.device)
        self._known = known
        self._smoothing = smoothing
        self._block = block
        self._temperature = RowTemperature(catalogue.counts_I, power)

    def plan(self, windows: WindowBatch, generator: torch.Generator) -> Plan:
        """All seen items."""
        self._place_I = self._place_I.to(windows.items_BT.device)
        placed = replace(
            windows,
            items_BT=torch.where(windows.items_BT < 0, -1, self._place_I[windows.items_BT]),
            targets_N=self._place_I[windows.targets_N],
        )
        return Plan(placed, _rows(windows), self._codes_L.to(windows.items_BT.device))

    def loss(
        self, plan: Plan, users_ND: Tensor, items_KD: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """`full_softmax` at the positions."""
        known = None
        if self._known is not None:
            offsets, items = self._known.items_of(plan.rows.users_N)
            known = offsets, self._place_I[items]
        scaled_ND = self._temperature.scaled(users_ND, temperature, plan.rows.targets_N)
        value = full_softmax(
            scaled_ND, items_KD, plan.windows.targets_N, known=known,
            smoothing=self._smoothing, block=self._block,
        )  # fmt: skip
        return value, {}


class SampledSoftmax:
    """The softmax over sampled negatives."""

    def __init__(
        self,
        catalogue: Catalogue,
        mixture: Mixture,
        draws: int,
        *,
        symmetric: bool = False,
        known: Known | None = None,
        power: float = 0.0,
        stream: StreamingFrequency | None = None,
    ) -> None:
        """Take what stays the same from step to step.

        Args:
            catalogue: The items.
            mixture: Where negatives come from.
            draws: Negatives of each position.
            symmetric: Whether the batch's users are told apart for each item as well.
            known: Users' positives, for that direction.
            power: See `RowTemperature`.
            stream: Takes in the items of every batch before negatives are drawn.
        """
        self._mixture = mixture
        self._draws = draws
        self._symmetric = symmetric
        self._known = known
        self._temperature = RowTemperature(catalogue.counts_I, power)
        self._stream = stream

    def plan(self, windows: WindowBatch, generator: torch.Generator) -> Plan:
        """The items of the windows, the targets and the draws."""
        rows = _rows(windows)
        if self._stream is not None:
            self._stream.update(rows.targets_N)
        drawn = self._mixture.draw(rows, self._draws, generator)
        needed = [
            windows.items_BT.flatten(),
            rows.targets_N,
            drawn.shared_K,
            drawn.own_NM.flatten(),
        ]
        codes_K, place = torch.unique(torch.cat(needed).clamp(min=0), return_inverse=True)
        items_BT, targets_N, shared_K, own_NM = torch.split(place, [len(part) for part in needed])
        placed = replace(
            windows,
            items_BT=torch.where(
                windows.items_BT < 0, -1, items_BT.view_as(windows.items_BT)
            ),
            targets_N=targets_N,
        )  # fmt: skip
        return Plan(placed, rows, codes_K, drawn, shared_K, own_NM.view_as(drawn.own_NM))

    def loss(
        self, plan: Plan, users_ND: Tensor, items_KD: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """`sampled_softmax` at the positions, in both directions where asked for."""
        drawn = plan.candidates
        assert drawn is not None
        assert plan.shared_K is not None
        assert plan.own_NM is not None
        scaled_ND = self._temperature.scaled(users_ND, temperature, plan.rows.targets_N)
        target_ND = items_KD[plan.windows.targets_N]
        positive_N = (scaled_ND * target_ND).sum(dim=1)
        scores = [scaled_ND @ items_KD[plan.shared_K].T]
        if plan.own_NM.shape[1]:
            scores.append(_own_scores(scaled_ND, items_KD, plan.own_NM))
        losses_N = sampled_softmax(
            positive_N, torch.cat(scores, dim=1),
            masked_BK=drawn.masked_NC, log_weight_BK=drawn.log_weight_NC,
        )  # fmt: skip
        if self._symmetric:
            losses_N = (losses_N + self._to_users(plan, scaled_ND, target_ND, positive_N)) / 2
        return losses_N.mean(), {"negatives": float(drawn.draws)}

    def _to_users(
        self, plan: Plan, scaled_ND: Tensor, target_ND: Tensor, positive_N: Tensor
    ) -> Tensor:
        """Each item's user against the users of the other positions (N)."""
        rows = plan.rows
        hidden_NN = rows.targets_N[:, None] == rows.targets_N[None, :]
        hidden_NN |= rows.users_N[:, None] == rows.users_N[None, :]
        if self._known is not None:
            hidden_NN |= self._known.has(rows.users_N, rows.targets_N).T
        return sampled_softmax(positive_N, target_ND @ scaled_ND.T, masked_BK=hidden_NN)


_DENSE = 16


def _own_scores(users_ND: Tensor, items_KD: Tensor, own_NM: Tensor) -> Tensor:
    """Scores (N, M) of each row's own items.

    Where there are not many more items than draws, all are scored in one product: that is faster
    than a copy of `N × M` vectors, whose gradient has to be added up item by item.
    """
    if len(items_KD) <= _DENSE * own_NM.shape[1]:
        return (users_ND @ items_KD.T).gather(1, own_NM)
    return torch.einsum("nd,nmd->nm", users_ND, items_KD[own_NM])


def training_step(
    objective: Objective,
    catalogue: Catalogue,
    *,
    chunk: int | None = None,
) -> StepFunction:
    """The step function of the loop.

    Draws are a function of (seed, epoch, first window of the batch), so a resumed fit repeats them.

    Args:
        objective: The loss.
        catalogue: The items.
        chunk: Windows encoded at once with gradient caching; None for the whole batch at once.
    """
    moved: dict[torch.device, Catalogue] = {}

    def step(batch: WindowBatch, state: LoopState) -> StepOutput:
        if not len(batch.targets_N):  # windows that this epoch's cuts left empty
            return StepOutput(zero_loss(state), learned_values(state))
        generator = state.streams.torch("negatives", state.epoch, int(batch.rows_B[0]))
        plan = objective.plan(batch, generator)
        here = moved.setdefault(state.device, catalogue.to(state.device))
        towers = state.modules["towers"]
        if chunk is not None:
            if state.world > 1:
                raise UsageError(
                    "gradient caching needs a single process; several were launched. Launch one, "
                    "or leave cache_chunk out."
                )
            return _cached_step(plan, objective, here, state, chunk)
        users_ND, items_KD, temperature = towers(
            plan.windows, plan.codes_K, here.features(plan.codes_K), here.known_I[plan.codes_K],
            here.profile_UP,
        )  # fmt: skip
        loss, values = objective.loss(plan, users_ND, items_KD, temperature)
        return StepOutput(loss, {**values, **learned_values(state)})

    return step


def _cached_step(
    plan: Plan, objective: Objective, catalogue: Catalogue, state: LoopState, chunk: int
) -> StepOutput:
    towers = state.plain["towers"]
    assert isinstance(towers, Towers)
    values: dict[str, Tensor | float] = {}

    def items(codes_K: Tensor) -> Tensor:
        found: Tensor = towers.items(
            codes_K, catalogue.features(codes_K), catalogue.known_I[codes_K]
        )
        return found

    def users(windows: WindowBatch) -> Tensor:
        places, inverse = torch.unique(windows.items_BT.clamp(min=0), return_inverse=True)
        mine = replace(windows, items_BT=torch.where(windows.items_BT < 0, -1, inverse))
        return towers.user_vectors(mine, items(plan.codes_K[places]), catalogue.profile_UP)

    def loss(vectors: Sequence[Tensor]) -> Tensor:
        found, more = objective.loss(plan, vectors[0], vectors[1], towers.temperature())
        values.update(more)
        return found

    codes = torch.split(plan.codes_K, 4096)
    parts = [Part(users, plan.windows.chunks(chunk)), Part(items, codes)]
    total = cached_gradients(parts, loss, state.backward)
    return StepOutput(total, {**values, **learned_values(state)}, manual=True)


def zero_loss(state: LoopState) -> Tensor:
    """A loss of 0 whose gradient is 0 for every weight."""
    parts = [parameter.sum() for parameter in state.plain["towers"].parameters()]
    return 0.0 * torch.stack(parts).sum()


def learned_values(state: LoopState) -> dict[str, Tensor | float]:
    """The temperature where it is learned, to be recorded."""
    towers = state.plain["towers"]
    assert isinstance(towers, Towers)
    if towers.temperature.raw is None:
        return {}
    return {"temperature": towers.temperature().detach()}


@torch.no_grad()
def item_table(towers: Towers, catalogue: Catalogue, block: int = 8192) -> Tensor:
    """Vectors of all items (I, D), in evaluation mode."""
    was_training = towers.training
    towers.eval()
    codes = torch.arange(len(catalogue.known_I), device=catalogue.known_I.device)
    parts = [
        towers.items(part, catalogue.features(part), catalogue.known_I[part])
        for part in torch.split(codes, block)
    ]
    towers.train(was_training)
    return torch.cat(parts)


def _rows(windows: WindowBatch) -> Rows:
    return Rows(windows.users_B[windows.row_N], windows.targets_N)

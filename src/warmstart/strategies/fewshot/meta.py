"""Meta-learning's formulas: the inner steps, and a head whose start is learned through them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from warmstart.core import Streams, fingerprint
from warmstart.models import Head

from .episodes import Episode, draw_episode

__all__ = [
    "EpisodeBatch",
    "EpisodeLoader",
    "Episodes",
    "MetaHead",
    "Start",
    "adapt",
    "output_start",
]

Start = Literal["prototypes", "zero"]
_ABSENT = -20.0  # start of the bias of a class without a row


def adapt(
    loss: Callable[[dict[str, Tensor]], Tensor],
    start: Mapping[str, Tensor],
    rates: Mapping[str, Tensor],
    steps: int,
    *,
    second: bool,
) -> dict[str, Tensor]:
    """Inner steps of gradient descent that can be differentiated through.

    θ_{i+1} = θ_i - rate · ∇loss(θ_i), for each named tensor.

    Args:
        loss: Of the parameters, a scalar.
        start: Parameters that require gradients.
        rates: Step size of each; may require gradients.
        steps: How many, 0 or more.
        second: Whether derivatives of the result see the inner gradients' own derivatives (MAML);
            otherwise these count as constants (first-order MAML).

    Source: Finn et al. 2017, Model-Agnostic Meta-Learning, equation 1 and section 5.2.
    """
    now = dict(start)
    for _ in range(steps):
        gradients = torch.autograd.grad(
            loss(now), list(now.values()), create_graph=second, materialize_grads=True
        )
        now = {
            name: value - rates[name] * gradient
            for (name, value), gradient in zip(now.items(), gradients, strict=True)
        }
    return now


def output_start(
    kind: Start, values_SH: Tensor, labels_S: Tensor, classes: int, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight (C, H) and bias (C,) of an output layer without memory: zero, or the class means.

    Args:
        kind: Which of the two.
        values_SH: What the support's rows bring to the layer.
        labels_S: Their classes.
        classes: C.
        scale: s, see `MetaHead`.
    """
    if kind == "zero":
        weight_CH = values_SH.new_zeros((classes, values_SH.shape[1])).requires_grad_(True)
        return weight_CH, values_SH.new_zeros(classes).requires_grad_(True)
    one_hot_SC = functional.one_hot(labels_S, classes).to(values_SH.dtype)
    counts_C = one_hot_SC.sum(dim=0)
    means_CH = one_hot_SC.T @ values_SH / counts_C.clamp(min=1.0)[:, None]
    bias_C = -scale * means_CH.square().sum(dim=1)
    bias_C = torch.where(counts_C > 0, bias_C, bias_C.new_full((), _ABSENT))
    return 2.0 * scale * means_CH, bias_C


@dataclass(frozen=True)
class EpisodeBatch:
    """The episodes of one outer step.

    Attributes:
        tasks: For each: support vectors (S, D) and labels (S,), query vectors (Q, D) and labels;
            in place of vectors, inputs as an encoder takes them.
        numbers_T: Numbers of the episodes.
    """

    tasks: list[tuple[Any, Tensor, Any, Tensor]]
    numbers_T: Tensor

    def __len__(self) -> int:
        return len(self.tasks)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EpisodeBatch:
        """The same batch on a device."""
        tasks = [
            (_moved(a, device), b.to(device), _moved(c, device), d.to(device))
            for a, b, c, d in self.tasks
        ]
        return EpisodeBatch(tasks, self.numbers_T.to(device))


def _moved(inputs: Any, device: torch.device | str) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {key: value.to(device) for key, value in inputs.items()}


class Episodes(ABC):
    """Batches of episodes, each a function of (seed, number); how a row is read is a subclass's.

    Attributes:
        fingerprint: Of the rows and the shape of the episodes; checked on resume.
    """

    def __init__(
        self,
        rows_by_class: dict[int, np.ndarray],
        about: Sequence[object],
        *,
        way: int,
        shots: int,
        queries: int,
        tasks: int,
        steps: int,
        streams: Streams,
    ) -> None:
        """Take the rows.

        Args:
            rows_by_class: Classes that episodes draw from; more than `shots` rows each.
            about: What tells the rows from others.
            way: Classes an episode.
            shots: Support rows a class.
            queries: Query rows a class at most.
            tasks: Episodes a batch.
            steps: Batches an epoch.
            streams: Source of the seed.
        """
        self._rows = rows_by_class
        self._shape = {"way": way, "shots": shots, "queries": queries}
        self._tasks, self._steps, self._streams = tasks, steps, streams
        self.fingerprint = fingerprint(*about, self._shape, tasks, streams.seed("episodes"))

    @abstractmethod
    def read(self, rows_K: np.ndarray) -> Any:
        """Rows as what learns takes them."""

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._steps

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[EpisodeBatch]:
        """The batches of an epoch from `start` on that fall to process `rank` of `world`."""
        for place in range(start + (rank - start) % world, self._steps, world):
            first = (epoch * self._steps + place) * self._tasks
            numbers = range(first, first + self._tasks)
            tasks = [
                self._tensors(draw_episode(self._rows, self._streams, number, **self._shape))
                for number in numbers
            ]
            yield EpisodeBatch(tasks, torch.as_tensor(list(numbers)))

    def _tensors(self, one: Episode) -> tuple[Any, Tensor, Any, Tensor]:
        return (
            self.read(one.support_S), torch.as_tensor(one.support_labels_S),
            self.read(one.query_Q), torch.as_tensor(one.query_labels_Q),
        )  # fmt: skip


class EpisodeLoader(Episodes):
    """Episodes over fixed vectors."""

    def __init__(
        self,
        vectors_ND: Tensor,
        labels_N: np.ndarray,
        rows_by_class: dict[int, np.ndarray],
        **shape: Any,
    ) -> None:
        """Take the rows: a vector and a class each; `shape` as `Episodes` has it."""
        self._vectors = vectors_ND
        super().__init__(rows_by_class, ("episodes", vectors_ND.numpy(), labels_N), **shape)

    def read(self, rows_K: np.ndarray) -> Tensor:
        """Vectors (K, D)."""
        return self._vectors[torch.as_tensor(rows_K)]


class MetaHead(nn.Module):
    """A head with a hidden layer whose start, and whose inner rates, are meta-learned.

    The hidden layer starts each task where the outer loop has brought it. The output layer cannot
    know which class an episode calls number 0, so it starts without memory: at zero, or at the
    class means of the support's hidden values (Triantafillou et al. 2020, Meta-Dataset, section 3,
    Proto-MAML): w_c = 2·s·mean_c, b_c = -s·‖mean_c‖², which scores a row by -s·‖h - mean_c‖² with
    a learned s.

    Attributes:
        head: The network; its output layer only lends its shape.
        log_rates: Logarithm of the inner rate of each of the four tensors.
        log_scale: Logarithm of s.
    """

    NAMES = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")

    def __init__(
        self,
        head: Head,
        *,
        start: Start,
        steps: int,
        rate: float,
        second: bool,
        learn_rates: bool,
    ) -> None:
        """Take a head with a hidden layer and no dropout.

        Args:
            head: Its hidden layer is the meta-learned start.
            start: Where the output layer starts.
            steps: Inner steps.
            rate: Inner rate at first.
            second: See `adapt`.
            learn_rates: Whether inner rates are learned (Li et al. 2017, Meta-SGD).
        """
        super().__init__()
        assert head.hidden is not None
        self.head = head
        self.head.output.requires_grad_(False)
        self.log_rates = nn.Parameter(torch.full((4,), math.log(rate)), requires_grad=learn_rates)
        scale = math.log(4.0 / head.hidden.out_features)
        self.log_scale = nn.Parameter(torch.tensor(scale), requires_grad=start == "prototypes")
        self._start, self._steps, self._second = start, steps, second

    def learned(self) -> list[tuple[str, nn.Parameter]]:
        """What the outer loop moves."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]

    def rates(self) -> dict[str, Tensor]:
        """Inner rate of each tensor."""
        return dict(zip(self.NAMES, self.log_rates.exp().unbind(), strict=True))

    def shown_rates(self) -> dict[str, float]:
        """Inner rates for people."""
        return {name: float(value.detach()) for name, value in self.rates().items()}

    def start(self, vectors_SD: Tensor, labels_S: Tensor, classes: int) -> dict[str, Tensor]:
        """Where a task's parameters start, as a function of what is meta-learned."""
        hidden = self.head.hidden
        assert hidden is not None
        values_SH = functional.gelu(hidden(vectors_SD))
        weight_CH, bias_C = output_start(
            self._start, values_SH, labels_S, classes, self.log_scale.exp()
        )
        # Copies: an inner gradient is partial, it does not see that the means depend on them too.
        begin = (hidden.weight.clone(), hidden.bias.clone(), weight_CH, bias_C)
        return dict(zip(self.NAMES, begin, strict=True))

    def loss(self, now: dict[str, Tensor], vectors_BD: Tensor, labels_B: Tensor) -> Tensor:
        """Mean cross-entropy under given parameters."""
        return functional.cross_entropy(self.logits(now, vectors_BD), labels_B)

    def logits(self, now: dict[str, Tensor], vectors_BD: Tensor) -> Tensor:
        """Logits (B, C) under given parameters."""
        logits_BC: Tensor = functional_call(self.head, now, (vectors_BD,))
        return logits_BC

    def forward(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Mean query loss, and accuracy, after the inner steps on each task's support."""
        losses, hits = [], []
        for support_SD, labels_S, query_QD, labels_Q in batch.tasks:
            begin = self.start(support_SD, labels_S, int(labels_S.max()) + 1)

            def inner(
                now: dict[str, Tensor], x: Tensor = support_SD, y: Tensor = labels_S
            ) -> Tensor:
                return self.loss(now, x, y)

            after = adapt(inner, begin, self.rates(), self._steps, second=self._second)
            logits_QC = self.logits(after, query_QD)
            losses.append(functional.cross_entropy(logits_QC, labels_Q))
            hits.append((logits_QC.detach().argmax(dim=1) == labels_Q).float().mean())
        return torch.stack(losses).mean(), torch.stack(hits).mean()

    def path(
        self, vectors_ND: Tensor, labels_N: Tensor, classes: int, grid: tuple[int, ...]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The parameters after each number of steps of `grid` (rising) on one task, detached."""
        with torch.enable_grad():
            begin = self.start(vectors_ND, labels_N, classes)
            now = {name: value.detach().requires_grad_(True) for name, value in begin.items()}
            rates = {name: value.detach() for name, value in self.rates().items()}
            done = 0
            for steps in grid:
                moved = adapt(
                    lambda params: self.loss(params, vectors_ND, labels_N),
                    now, rates, steps - done, second=False,
                )  # fmt: skip
                now = {name: value.detach().requires_grad_(True) for name, value in moved.items()}
                done = steps
                yield steps, {name: value.detach() for name, value in now.items()}

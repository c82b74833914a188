"""Meta-learning over adapters of a frozen backbone: their start is learned through inner steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from warmstart.data import Dataset
from warmstart.models import AdaptedEncoder

from .meta import EpisodeBatch, Episodes, Start, adapt, output_start

__all__ = ["MetaAdapter", "RowEpisodes"]

_CHUNK = 32  # rows that pass at once where all training rows are adapted to
OUTPUT = ("output.weight", "output.bias")


class RowEpisodes(Episodes):
    """Episodes over rows as an encoder takes them."""

    def __init__(
        self,
        rows: Dataset,
        rows_by_class: dict[int, np.ndarray],
        preprocess: Callable[[Sequence[Any]], dict[str, Tensor]],
        **shape: Any,
    ) -> None:
        """Take the rows and how the encoder reads them; `shape` as `Episodes` has it."""
        self._data, self._preprocess = rows, preprocess
        super().__init__(rows_by_class, ("row episodes", rows.fingerprint), **shape)

    def read(self, rows_K: np.ndarray) -> dict[str, Tensor]:
        """Inputs of the encoder."""
        return self._preprocess(self._data.inputs([int(row) for row in rows_K]))


class MetaAdapter(nn.Module):
    """Adapters whose start, and whose inner rates, are meta-learned; the base stays as it is.

    Each task takes the adapters from where the outer loop has brought them, and an output layer
    without memory (see `MetaHead`), and moves both by gradient descent on its support.

    Attributes:
        encoder: The base with its adapters.
        log_rates: Logarithm of the inner rate of each adapter tensor, then of the output layer's
            two.
        log_scale: Logarithm of s in the class means' start.
        mean_D: Subtracted from vectors, so that the output layer works on numbers near one.
        scale: What they are then divided by.
    """

    def __init__(
        self,
        encoder: AdaptedEncoder,
        *,
        mean_D: Tensor,
        scale: Tensor,
        start: Start,
        steps: int,
        rate: float,
        second: bool,
        learn_rates: bool,
    ) -> None:
        """Take an encoder with fresh adapters; the arguments are those of `MetaHead`."""
        super().__init__()
        self.encoder = encoder
        self._names = [name for name, _ in encoder.adapter_parameters()]
        count = len(self._names) + len(OUTPUT)
        self.log_rates = nn.Parameter(
            torch.full((count,), math.log(rate)), requires_grad=learn_rates
        )
        begin = torch.tensor(math.log(4.0 / encoder.dimension))
        self.log_scale = nn.Parameter(begin, requires_grad=start == "prototypes")
        self.register_buffer("mean_D", mean_D, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self._start: Start = start
        self._steps, self._second = steps, second

    def rates(self) -> dict[str, Tensor]:
        """Inner rate of each tensor."""
        return dict(zip([*self._names, *OUTPUT], self.log_rates.exp().unbind(), strict=True))

    def shown_rates(self) -> dict[str, float]:
        """Inner rates for people: the adapters' in the middle, and the output layer's."""
        rates = {name: float(value.detach()) for name, value in self.rates().items()}
        middle = float(np.median([rates[name] for name in self._names]))
        return {"adapters (median)": middle, **{name: rates[name] for name in OUTPUT}}

    def vectors(self, now: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Vectors (B, D) of inputs under given adapters."""
        own = {f"module.{name}": now[name] for name in self._names}
        with _differentiable() if self._second else nullcontext():
            vectors_BD: Tensor = functional_call(self.encoder, own, (batch,))
        mean_D, scale = self.mean_D, self.scale
        assert isinstance(mean_D, Tensor)
        assert isinstance(scale, Tensor)
        return (vectors_BD.to(mean_D.dtype) - mean_D) / scale

    def logits(self, now: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, C) under given parameters."""
        return functional.linear(self.vectors(now, batch), now[OUTPUT[0]], now[OUTPUT[1]])

    def own(self) -> dict[str, Tensor]:
        """The adapters as they are before any task."""
        return dict(self.encoder.adapter_parameters())

    def start(self, batch: dict[str, Tensor], labels_S: Tensor, classes: int) -> dict[str, Tensor]:
        """Where a task's parameters start, as a function of what is meta-learned."""
        own = self.own()
        vectors_SD = self.vectors(own, batch)
        output = output_start(self._start, vectors_SD, labels_S, classes, self.log_scale.exp())
        # Copies: an inner gradient is partial, it does not see that the means depend on them too.
        begin = {name: value.clone() for name, value in own.items()}
        return begin | dict(zip(OUTPUT, output, strict=True))

    def judge(self, task: tuple[Any, Tensor, Any, Tensor]) -> tuple[Tensor, Tensor]:
        """Query loss, and accuracy, after the inner steps on a task's support."""
        support, labels_S, query, labels_Q = task
        begin = self.start(support, labels_S, int(labels_S.max()) + 1)

        def inner(now: dict[str, Tensor]) -> Tensor:
            return functional.cross_entropy(self.logits(now, support), labels_S)

        after = adapt(inner, begin, self.rates(), self._steps, second=self._second)
        logits_QC = self.logits(after, query)
        hits = (logits_QC.detach().argmax(dim=1) == labels_Q).float().mean()
        return functional.cross_entropy(logits_QC, labels_Q), hits

    def forward(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Mean query loss, and accuracy, over the tasks of a batch."""
        found = [self.judge(task) for task in batch.tasks]
        return torch.stack([f[0] for f in found]).mean(), torch.stack([f[1] for f in found]).mean()

    def path(
        self, rows: Dataset, classes: int, grid: tuple[int, ...], pause: Callable[[], None]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The parameters after each number of steps of `grid` (rising) on all rows, detached.

        Rows pass in chunks whose gradients add up to that of one pass.
        """
        labels_N = torch.as_tensor(np.array(rows.labels_N)).to(self.log_scale.device)
        own = {name: value.detach() for name, value in self.own().items()}
        with torch.no_grad():
            vectors_ND = torch.cat([self.vectors(own, b) for b, _ in self.chunks(rows, pause)])
        output = output_start(
            self._start, vectors_ND, labels_N, classes, self.log_scale.detach().exp()
        )
        now = own | {n: v.detach() for n, v in zip(OUTPUT, output, strict=True)}
        rates = {name: value.detach() for name, value in self.rates().items()}
        done = 0
        for steps in grid:
            for _ in range(steps - done):
                sums = {name: torch.zeros_like(value) for name, value in now.items()}
                for batch, places in self.chunks(rows, pause):
                    with torch.enable_grad():
                        held = {n: v.detach().requires_grad_(True) for n, v in now.items()}
                        loss = functional.cross_entropy(
                            self.logits(held, batch), labels_N[places], reduction="sum"
                        ) / len(rows)
                    found = torch.autograd.grad(loss, list(held.values()), materialize_grads=True)
                    for name, gradient in zip(held, found, strict=True):
                        sums[name] += gradient
                now = {name: value - rates[name] * sums[name] for name, value in now.items()}
            done = steps
            yield steps, now

    def chunks(
        self, rows: Dataset, pause: Callable[[], None]
    ) -> Iterator[tuple[dict[str, Tensor], list[int]]]:
        """All rows in order as batches on the device, with their places."""
        for first in range(0, len(rows), _CHUNK):
            pause()
            places = list(range(first, min(first + _CHUNK, len(rows))))
            batch = self.encoder.preprocess(rows.inputs(places))
            yield {k: v.to(self.log_scale.device) for k, v in batch.items()}, places


def _differentiable() -> AbstractContextManager[Any]:
    """Attention in plain operations: the fused ones have no second derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    context: AbstractContextManager[Any] = sdpa_kernel([SDPBackend.MATH])
    return context

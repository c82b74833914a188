"""Diagonal Fisher information of an old task: which weights it leans on.

Rows go through one by one, forward and back, since the square of a batch's gradient is not the sum
of its rows' squares. Memory while estimating is one gradient and one float32 sum (no optimiser is
there yet, so this stays below what training takes); what is kept afterwards is packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from warmstart.core import Streams, UsageError, progress
from warmstart.objectives import FisherForm, PackedFisher, pack_fisher

from .loaders import Batch, Loader

__all__ = ["Fisher", "estimate_fisher"]


@dataclass(frozen=True)
class Fisher:
    """Packed Fisher information by parameter name.

    Attributes:
        values: One entry a parameter.
        rows: Rows it was estimated from.
        error: `Σ|F - F̂| / Σ F` of the packing over all parameters, in [0, 2].
    """

    values: Mapping[str, PackedFisher]
    rows: int
    error: float

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(packed.bytes for packed in self.values.values())


def estimate_fisher(
    module: nn.Module,
    loader: Loader,
    *,
    streams: Streams,
    labels: Literal["sampled", "empirical"] = "sampled",
    form: FisherForm = "bfloat16",
    prefix: str = "encoder.",
    rows: int | None = None,
) -> Fisher:
    """`F_i = mean over rows of (∂ log p(y|x) / ∂w_i)²` at the module's weights.

    With sampled labels y is drawn from the module's own p(y|x), which gives the Fisher
    information; with empirical ones y is the row's label, which gives the empirical Fisher: near
    it where the module fits well, and not the same (Kunstner et al. 2019). Nothing is trained, and
    the module is left as it was.

    Args:
        module: A classifier of the old task: `forward(inputs) -> logits_BC`, in any mode; it runs
            in evaluation mode.
        loader: Rows of the old task.
        streams: Source of sampled labels, one stream a row.
        labels: `sampled` or `empirical`.
        form: How it is kept; see `PackedFisher`.
        prefix: Only trained parameters whose names start so.
        rows: Rows at most; None for all.

    Raises:
        UsageError: When nothing is trained under the prefix, or a row lacks the label.

    Source: Kirkpatrick et al. 2017, section 2.
    """
    if labels not in ("sampled", "empirical"):
        raise UsageError(f'labels must be "sampled" or "empirical", got {labels!r}.')
    chosen = {
        name: parameter
        for name, parameter in module.named_parameters()
        if name.startswith(prefix) and parameter.requires_grad
    }
    if not chosen:
        raise UsageError(f'no trained parameter\'s name starts with "{prefix}".')
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in chosen.items()}
    device = next(iter(chosen.values())).device
    modes = {part: part.training for part in module.modules()}
    module.eval()
    done = 0
    most = rows if rows is not None else 1 << 62
    try:
        with progress.task("Fisher information", rows, unit="rows") as bar:
            for batch in loader.batches(0):
                for place in range(min(len(batch), most - done)):
                    row = _row(batch, place).to(device)
                    _add_row(module, row, chosen, sums, labels, streams)
                    done += 1
                    bar.advance()
                if done >= most:
                    break
    finally:
        for part, training in modes.items():
            part.training = training
    if not done:
        raise UsageError("there are no rows to estimate the fisher information from.")
    return _pack(sums, done, form)


def _add_row(
    module: nn.Module,
    row: Batch,
    chosen: Mapping[str, Tensor],
    sums: Mapping[str, Tensor],
    labels: str,
    streams: Streams,
) -> None:
    logp_C = torch.log_softmax(module(row.inputs).float(), dim=-1)[0]
    if labels == "sampled":
        draw = streams.numpy("fisher", int(row.rows_B[0])).random()
        cumulated_C = logp_C.detach().double().exp().cumsum(0)
        label = min(int((cumulated_C < draw * float(cumulated_C[-1])).sum()), len(logp_C) - 1)
    else:
        label = int(row.labels_B[0])
        if label < 0:
            raise UsageError('a row has no label: use labels="sampled", or leave it out.')
    gradients = torch.autograd.grad(logp_C[label], list(chosen.values()), allow_unused=True)
    for name, gradient in zip(chosen, gradients, strict=True):
        if gradient is not None:
            sums[name].addcmul_(gradient.float(), gradient.float())


def _row(batch: Batch, place: int) -> Batch:
    one = slice(place, place + 1)
    inputs = {key: value[one] for key, value in batch.inputs.items()}
    return Batch(inputs, batch.labels_B[one], batch.rows_B[one])


def _pack(sums: dict[str, Tensor], rows: int, form: FisherForm) -> Fisher:
    packed: dict[str, PackedFisher] = {}
    lost = total = 0.0
    for name in list(sums):
        mean = sums.pop(name) / rows  # each sum is let go of as its packed form is made
        packed[name] = pack_fisher(mean, form)
        mass = float(mean.sum())
        total += mass
        lost += packed[name].error * mass
    return Fisher(packed, rows, lost / total if total > 0 else 0.0)

"""Gradient caching: the big batch's gradient, in the small batch's memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from warmstart.objectives import info_nce
from warmstart.retrieval.grad_cache import Part, cached_gradients


class Net(nn.Module):
    def __init__(self, dropout: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(6, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, 64), nn.GELU(),
                nn.Linear(64, 8),
            )  # fmt: skip

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.net(rows)
        return found


class Pair(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.users, self.items = Net(dropout, 0), Net(dropout, 1)
        self.raw = nn.Parameter(torch.tensor(-2.0))

    def loss(self, vectors: Sequence[Tensor]) -> Tensor:
        return info_nce(*vectors, temperature=self.raw.exp())

    def gradients(self) -> list[Tensor]:
        found = [p.grad.clone() for p in self.parameters() if p.grad is not None]
        self.zero_grad(set_to_none=True)
        return found


def rows(count: int) -> tuple[Tensor, Tensor]:
    users, items = torch.randn(2, count, 6, generator=torch.Generator().manual_seed(2))
    return users, items


@pytest.mark.parametrize("chunk", [1, 5, 16, 40])
def test_equals_the_big_batch(chunk: int) -> None:
    users, items = rows(40)
    pair = Pair()
    whole = pair.loss([pair.users(users), pair.items(items)])
    whole.backward()
    expected = pair.gradients()
    parts = [Part(pair.users, users.split(chunk)), Part(pair.items, items.split(7))]
    found = cached_gradients(parts, pair.loss)
    assert found.item() == pytest.approx(whole.item(), abs=1e-6)
    assert not found.requires_grad
    got = pair.gradients()
    assert len(got) == len(expected) == len(list(pair.parameters()))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_dropout_is_the_same_in_both_passes() -> None:
    users, items = rows(24)
    pair = Pair(dropout=0.5)
    torch.manual_seed(5)
    vectors = [
        torch.cat([encode(chunk) for chunk in side.split(6)])
        for encode, side in ((pair.users, users), (pair.items, items))
    ]
    whole = pair.loss(vectors)
    whole.backward()
    drawn_after = torch.rand(1)
    expected = pair.gradients()
    torch.manual_seed(5)
    parts = [Part(pair.users, users.split(6)), Part(pair.items, items.split(6))]
    found = cached_gradients(parts, pair.loss)
    assert torch.equal(torch.rand(1), drawn_after)  # the stream goes on as if encoded once
    assert found.item() == pytest.approx(whole.item(), abs=1e-6)
    for mine, theirs in zip(pair.gradients(), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_weights_learn_under_autocast() -> None:
    """Casts of weights made without gradient must not be used again where one is needed."""
    users, items = rows(8)
    pair = Pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [Part(pair.users, users.split(4)), Part(pair.items, items.split(4))]
        cached_gradients(parts, pair.loss)
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in pair.parameters())


def test_a_scaled_backward_scales_every_gradient() -> None:
    users, items = rows(8)
    pair = Pair()
    parts = [Part(pair.users, users.split(4)), Part(pair.items, items.split(4))]
    cached_gradients(parts, pair.loss)
    plain = pair.gradients()
    cached_gradients(parts, pair.loss, lambda loss: (loss * 0.5).backward())
    for half, whole in zip(pair.gradients(), plain, strict=True):
        torch.testing.assert_close(2 * half, whole)


def test_a_frozen_side_is_passed_over() -> None:
    users, items = rows(8)
    pair = Pair()
    pair.items.requires_grad_(False)
    parts = [Part(pair.users, users.split(4)), Part(pair.items, items.split(4))]
    cached_gradients(parts, pair.loss)
    assert all(p.grad is None for p in pair.items.parameters())
    assert all(p.grad is not None for p in pair.users.parameters())


class Meter:
    now = 0
    most = 0


class Held:
    """A tensor kept for the backward pass; it counts itself out when it is let go."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Meter.now += tensor.numel()
        Meter.most = max(Meter.most, Meter.now)

    def __del__(self) -> None:
        Meter.now -= self.tensor.numel()


@contextmanager
def measured() -> Iterator[type[Meter]]:
    gc.collect()
    Meter.now = Meter.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        yield Meter


def test_memory_is_that_of_a_chunk() -> None:
    """What is kept for backpropagation grows with the chunk, not with the batch."""
    pair = Pair()
    with measured() as meter:
        users, items = rows(16)
        pair.loss([pair.users(users), pair.items(items)]).backward()
        small = meter.most
    with measured() as meter:
        users, items = rows(160)
        pair.loss([pair.users(users), pair.items(items)]).backward()
        big = meter.most
    with measured() as meter:
        parts = [Part(pair.users, users.split(16)), Part(pair.items, items.split(16))]
        cached_gradients(parts, lambda vectors: (vectors[0] * vectors[1]).sum(dim=1).mean())
        cached = meter.most
    assert big > 8 * small
    assert cached < small

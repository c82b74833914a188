"""The blocked softmax against torch's own, in value, gradient and memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import UsageError
from warmstart.objectives import full_softmax


def problem(rows: int = 7, items: int = 11, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(rows, width, generator=generator).requires_grad_()
    vectors = torch.randn(items, width, generator=generator).requires_grad_()
    return users, vectors, torch.randint(0, items, (rows,), generator=generator)


def hidden_items(rows: int, items: int, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Known items of each row, among them the first row's own target; and the mask they make."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(rows, items, generator=generator) < 0.3
    mask[0, targets[0]] = True
    mask[1] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(dim=1).cumsum(0)])
    known = torch.nonzero(mask)[:, 1]
    mask[torch.arange(rows), targets] = False
    return offsets, known, mask


@pytest.mark.parametrize("block", [1, 3, 7, 100])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_equals_torch(block: int, masked: bool, smoothing: float) -> None:
    users, vectors, targets = problem()
    offsets, known, mask = hidden_items(7, 11, targets)
    scores = users @ vectors.T
    if masked:
        scores = scores.masked_fill(mask, float("-inf"))
    counted = ~mask if masked else torch.ones_like(mask)
    logp = functional.log_softmax(scores, dim=1)
    spread = logp.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)
    at_target = logp.gather(1, targets[:, None])[:, 0]
    expected = -((1 - smoothing) * at_target + smoothing * spread).mean()
    gradient = torch.autograd.grad(expected, (users, vectors))
    found = full_softmax(
        users, vectors, targets, known=(offsets, known) if masked else None,
        smoothing=smoothing, block=block,
    )  # fmt: skip
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(3 * found, (users, vectors)), gradient, strict=True
    ):
        torch.testing.assert_close(mine, 3 * theirs, rtol=1e-4, atol=1e-6)


def test_known_answers() -> None:
    zeros, targets = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    items = torch.ones(5, 2)
    assert full_softmax(zeros, items, targets).item() == pytest.approx(math.log(5))
    offsets, known = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 1, 0, 1, 0, 1])
    found = full_softmax(zeros, items, targets, known=(offsets, known))
    assert found.item() == pytest.approx((2 * math.log(4) + math.log(3)) / 3)


def test_only_what_needs_a_gradient_gets_one() -> None:
    users, vectors, targets = problem()
    loss = full_softmax(users, vectors.detach(), targets)
    loss.backward()
    assert users.grad is not None
    with torch.no_grad():
        assert full_softmax(users, vectors, targets).item() == pytest.approx(loss.item())


def test_low_precision_is_summed_in_float32() -> None:
    users, vectors, targets = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = full_softmax(users.bfloat16(), vectors.bfloat16(), targets)
    expected = full_softmax(users.bfloat16().float(), vectors.bfloat16().float(), targets)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert users.grad is not None
    assert users.grad.dtype == torch.float32


def test_memory_is_bounded_by_the_block() -> None:
    """No tensor of rows × items is ever kept for the backward pass, nor made at once."""
    users, vectors, targets = problem(rows=64, items=50, width=4)
    kept: list[int] = []
    largest: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: object, types: object, args: object = (), kwargs: object = None
        ) -> object:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest.append(out.numel())
            return out

    with (
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor
        ),
        Watch(),
    ):
        loss = full_softmax(users, vectors, targets, block=4)
        loss.backward()
    assert max(kept) <= 64 * 4
    assert max(largest) <= max(4 * 50, 64 * 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
        ({"smoothing": -0.1}, "smoothing"),
        ({"block": 0}, "block must be at least 1, got 0"),
    ],
)
def test_refuses(settings: dict[str, float], message: str) -> None:
    users, vectors, targets = problem()
    with pytest.raises(UsageError, match=message):
        full_softmax(users, vectors, targets, **settings)
    with pytest.raises(UsageError, match="at least one row"):
        full_softmax(users[:0], vectors, targets[:0])

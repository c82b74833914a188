"""Penalties against answers worked out by hand and against loops over single weights."""

from __future__ import annotations

import pytest
import torch

from warmstart.core import UsageError
from warmstart.objectives import elastic_penalty, l2_sp_penalty, pack_fisher


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_l2_sp_by_hand() -> None:
    w, w0, v = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), torch.tensor([[3.0]])
    value = l2_sp_penalty([w], [w0], [v], alpha=0.2, beta=0.1)
    assert float(value) == pytest.approx(0.1 * (1 + 4) + 0.05 * 9)
    assert float(l2_sp_penalty([], [], alpha=1.0, beta=1.0)) == 0.0


def test_l2_sp_pulls_towards_the_start() -> None:
    """The gradient is alpha (w - w0) on shared weights and beta w on the head's."""
    w, w0, v = random(3, 4).requires_grad_(), random(3, 4, seed=1), random(5).requires_grad_()
    l2_sp_penalty([w], [w0], [v], alpha=0.3, beta=0.7).backward()
    assert w.grad is not None
    assert v.grad is not None
    torch.testing.assert_close(w.grad, 0.3 * (w.detach() - w0))
    torch.testing.assert_close(v.grad, 0.7 * v.detach())


@pytest.mark.parametrize("form", [None, "float32", "bfloat16", "factored"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 2, 2)])
def test_ewc_is_a_loop_over_weights(form: str | None, shape: tuple[int, ...]) -> None:
    w, w0 = random(*shape), random(*shape, seed=1)
    fisher = random(*shape, seed=2).square()
    kept = fisher if form is None else pack_fisher(fisher, form)
    used = fisher if form is None else kept.unpack()
    slow = 0.0
    for f, a, b in zip(used.flatten(), w.flatten(), w0.flatten(), strict=True):
        slow += 50.0 / 2 * float(f) * (float(a) - float(b)) ** 2
    assert float(elastic_penalty([w], [w0], [kept], strength=50.0)) == pytest.approx(slow, rel=1e-5)


def test_ewc_by_hand() -> None:
    value = elastic_penalty(
        [torch.tensor([1.0, 2.0])], [torch.tensor([0.0, 0.0])], [torch.tensor([4.0, 0.5])],
        strength=3.0,
    )  # fmt: skip
    assert float(value) == pytest.approx(1.5 * (4 + 2))


def test_packing() -> None:
    values = random(6, 10).square() * torch.logspace(-12, 2, 10)
    exact, half = pack_fisher(values, "float32"), pack_fisher(values, "bfloat16")
    factored = pack_fisher(values, "factored")
    assert (exact.bytes, half.bytes, factored.bytes) == (240, 120, 64)
    assert exact.error == 0.0
    assert torch.equal(exact.unpack(), values)
    assert ((half.unpack() - values).abs() / values).max() < 2**-8  # small values are not lost
    assert 0.0 < half.error < 2**-8
    found = factored.unpack()
    torch.testing.assert_close(found.sum(0), values.sum(0))
    torch.testing.assert_close(found.sum(1), values.sum(1))
    error = float((found - values).abs().sum() / values.sum())
    assert factored.error == pytest.approx(error)
    assert 0.0 < factored.error < 2.0


def test_a_matrix_of_rank_one_is_factored_exactly() -> None:
    values = torch.outer(random(5).square(), random(7, seed=1).square())
    packed = pack_fisher(values, "factored")
    torch.testing.assert_close(packed.unpack(), values)
    assert packed.error < 1e-6
    zeros = pack_fisher(torch.zeros(2, 3), "factored")
    assert zeros.error == 0.0
    assert torch.equal(zeros.unpack(), torch.zeros(2, 3))
    assert float(zeros.weigh(torch.ones(2, 3))) == 0.0


def test_refusals() -> None:
    with pytest.raises(UsageError, match="fisher form must be one of"):
        pack_fisher(torch.ones(2), "int4")
    with pytest.raises(UsageError, match="finite"):
        pack_fisher(torch.tensor([float("inf")]))

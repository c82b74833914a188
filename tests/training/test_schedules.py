"""Schedules against answers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from warmstart.core import UsageError
from warmstart.training import (
    SCHEDULES,
    constant,
    make_schedule,
    one_cycle,
    slanted_triangular,
    warmup_cosine,
    warmup_linear,
)


def test_slanted_triangular_is_the_papers() -> None:
    """Howard and Ruder 2018, equation 3, with T = 100, cut_frac = 0.1, ratio = 32."""
    f = slanted_triangular(100)
    assert f(0) == pytest.approx(1 / 32)
    assert f(5) == pytest.approx((1 + 0.5 * 31) / 32)
    assert f(10) == pytest.approx(1.0)
    assert f(55) == pytest.approx((1 + 0.5 * 31) / 32)
    assert f(100) == pytest.approx(1 / 32)


def test_warmup_linear() -> None:
    f = warmup_linear(12, 2)
    assert [f(0), f(1), f(2), f(7), f(12)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5, 0.0])


def test_warmup_cosine() -> None:
    f = warmup_cosine(12, 2, floor=0.1)
    assert [f(0), f(2), f(7), f(12), f(99)] == pytest.approx([1 / 3, 1.0, 0.55, 0.1, 0.1])
    assert warmup_cosine(4, 0)(1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_constant_and_one_cycle() -> None:
    assert [constant(5)(0), constant(5)(4)] == [1.0, 1.0]
    f = one_cycle(100)
    assert [f(0), f(30), f(100)] == pytest.approx([1 / 25, 1.0, 1 / 25e4])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000])
def test_every_schedule_moves_and_stays_in_range(name: str, total: int) -> None:
    f = make_schedule(name, total)
    values = [f(step) for step in range(total)]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert values[0] > 0.0
    assert max(values) > 0.9 or total < 3


def test_schedules_serve_torch_too() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, make_schedule("linear", 10))
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0)


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match='Did you mean "cosine"'):
        make_schedule("cosin", 10)
    with pytest.raises(UsageError, match="share of the steps"):
        make_schedule("cosine", 10, warmup=5)
    with pytest.raises(UsageError, match="total of at least 1"):
        warmup_linear(0, 0)
    with pytest.raises(UsageError, match="cut between"):
        slanted_triangular(10, cut=1.0)

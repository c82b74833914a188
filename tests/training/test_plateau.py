"""Reduce on plateau against torch's own, and through a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import UsageError
from warmstart.training import EarlyStopping, ReduceOnPlateau

Toy = Callable[..., SimpleNamespace]


def optimizers() -> dict[str, torch.optim.Optimizer]:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [weight], "lr": rate} for weight, rate in zip(weights, (0.5, 2.0), strict=True)
    ]
    return {"main": torch.optim.SGD(groups)}


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown"), [(1, 0), (2, 0), (3, 2)])
def test_the_rates_are_torchs(mode: Any, patience: int, cooldown: int) -> None:
    values = np.random.default_rng(patience).normal(1.0, 0.3, size=60).cumsum() ** 0.2
    values = values if mode == "max" else values[::-1]
    values = np.where(np.arange(60) % 7 == 3, np.nan, values + 0.2 * np.sin(np.arange(60)))
    mine, theirs = optimizers(), optimizers()["main"]
    watch = ReduceOnPlateau(
        "x", mode=mode, factor=0.5, patience=patience, cooldown=cooldown, floor=0.0
    )
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode, factor=0.5, patience=patience - 1, cooldown=cooldown, eps=0.0
    )
    state: Any = SimpleNamespace(optimizers=mine, name="fit")
    fell = set()
    for value in values:
        watch.on_evaluate(state, {"x": float(value)})
        other.step(float(value))
        rates = [group["lr"] for group in mine["main"].param_groups]
        assert rates == pytest.approx([group["lr"] for group in theirs.param_groups])
        assert rates[1] == pytest.approx(2.0 * watch.multiplier)
        fell.add(watch.multiplier)
    assert len(fell) > 3


def test_known_answer_and_floor() -> None:
    held = optimizers()
    for group in held["main"].param_groups:
        group["initial_lr"] = group["lr"]
    watch = ReduceOnPlateau("x", factor=0.1, patience=2, floor=0.05)
    state: Any = SimpleNamespace(optimizers=held, name="fit")
    seen = []
    for value in [1.0, 0.9, 0.9, 0.91, 0.9, 0.95, 0.9, 0.9]:
        watch.on_evaluate(state, {"x": value})
        seen.append(watch.multiplier)
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.05, 0.05, 0.05])
    assert held["main"].param_groups[1]["initial_lr"] == pytest.approx(0.1)


def test_a_resumed_fit_takes_the_same_steps(toy: Toy, tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [EarlyStopping(patience=9), ReduceOnPlateau(factor=0.5, threshold=0.5)]

    class Killed(Exception):
        pass

    calls = 0

    def hook(state: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in (9, 23):
            raise Killed

    whole = toy(tmp_path / "whole", callbacks=callbacks(), checkpoints=None)
    cut: SimpleNamespace | None = None
    while cut is None:
        try:
            cut = toy(tmp_path / "cut", callbacks=callbacks(), steps_hook=hook)
        except Killed:
            continue
    assert calls > 23
    for key, value in whole.tensors.items():
        assert torch.equal(value, cut.tensors[key]), key
    rates = [record["rate"] for record in whole.history.epochs]
    assert rates == [record["rate"] for record in cut.history.epochs]
    assert whole.optimizer.param_groups[0]["initial_lr"] < 0.5 * 3e-2  # it did fall


@pytest.mark.parametrize(
    "bad",
    [{"factor": 1.0}, {"patience": 0}, {"threshold": -1.0}, {"cooldown": -1}, {"floor": 1.0},
     {"mode": "up"}],
)  # fmt: skip
def test_bad_settings_name_what_is_allowed(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="reduce on plateau"):
        ReduceOnPlateau(**bad)


def test_an_unknown_metric_names_the_nearest() -> None:
    state: Any = SimpleNamespace(optimizers={}, name="fit")
    with pytest.raises(UsageError, match='Did you mean "validation_loss"'):
        ReduceOnPlateau("validation_los").on_evaluate(state, {"validation_loss": 1.0})

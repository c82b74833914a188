"""The learning-rate finder on losses whose best rate is known."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from warmstart.core import Run, Streams, UsageError
from warmstart.training import ExampleRows, RowLoader, find_rates, read_sweep


class Bowl(nn.Module):
    """`½ Σ c_i w_i²`: plain gradient descent diverges above a rate of 2 / c."""

    def __init__(self) -> None:
        super().__init__()
        self.steep = nn.Parameter(torch.tensor([1.0]))
        self.shallow = nn.Parameter(torch.tensor([1.0]))

    def forward(self, batch: Tensor) -> Tensor:
        return 0.5 * (100.0 * self.steep**2 + 1.0 * self.shallow**2).sum() + 0.1


def bowl_step(batch: Tensor, state: Any) -> Tensor:
    loss: Tensor = state.modules["model"](batch)
    return loss


def sgd(model: Bowl, ratio: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([
        {"params": [model.steep], "lr": 0.5 * ratio, "name": "steep"},
        {"params": [model.shallow], "lr": 0.5, "name": "shallow"},
    ])  # fmt: skip


def sweep(tmp_path: Path, ratio: float = 1.0, **settings: Any) -> Any:
    model = Bowl()
    return find_rates(
        step=bowl_step, modules={"model": model}, optimizers=sgd(model, ratio),
        loaders=[torch.zeros(1)], run=Run(tmp_path, device="cpu"),
        **({"lowest": 1e-4, "highest": 1e2, "steps": 120, "smoothing": 0.0} | settings),
    )  # fmt: skip


def by_hand(c: float, other: float, rates: np.ndarray) -> list[float]:
    """The losses of gradient descent on one coordinate while the rate rises."""
    w, losses = 1.0, []
    for rate in rates:
        losses.append(0.5 * c * w * w + other + 0.1)
        w -= rate * c * w
    return losses


def test_each_group_alone_is_the_hand_made_descent(tmp_path: Path) -> None:
    found = sweep(tmp_path, groups=True)
    assert [one.group for one in found] == [None, "steep", "shallow"]
    for one, c, other in ((found[1], 100.0, 0.5), (found[2], 1.0, 50.0)):
        slow = by_hand(c, other, np.asarray(one.rates))
        assert one.losses == pytest.approx(slow, rel=1e-4)
        assert one.smoothed == pytest.approx(one.losses)
    steep, shallow = found[1:]
    assert steep.diverged
    assert len(steep.rates) < 120
    assert 1e-4 < steep.steepest < 2e-2  # it diverges from 2 / 100 on
    assert 1e-2 < shallow.steepest < 2.0
    assert 30 < shallow.steepest / steep.steepest < 300  # curvatures differ by 100
    assert steep.tenth == pytest.approx(steep.rates[int(np.argmin(steep.losses))] / 10)


def test_the_whole_keeps_the_ratios_and_speaks_in_base_units(tmp_path: Path) -> None:
    """With the steep group a hundred times slower both coordinates fall alike."""
    (whole,) = sweep(tmp_path, ratio=0.01)
    w, slow = 1.0, []
    for rate in whole.rates:
        slow.append(0.5 * 101.0 * w * w + 0.1)
        w -= rate * w
    assert whole.losses == pytest.approx(slow, rel=1e-4)
    (half,) = sweep(tmp_path, ratio=0.01, base=0.25)
    assert half.losses[50] == pytest.approx(by_units(half.rates, 2.0)[50], rel=1e-4)


def by_units(rates: tuple[float, ...], unit: float) -> list[float]:
    w, losses = 1.0, []
    for rate in rates:
        losses.append(0.5 * 101.0 * w * w + 0.1)
        w -= unit * rate * w
    return losses


def test_everything_stays_as_it_was(kit: SimpleNamespace, tmp_path: Path) -> None:
    model = kit.ToyNet().eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    source = ExampleRows(kit.ToyRows(), kit.preprocess_vectors, streams=Streams(0))
    run = Run(tmp_path, device="cpu")
    arguments: dict[str, Any] = {
        "step": kit.step, "modules": {"model": model}, "optimizers": optimizer, "run": run,
        "loaders": RowLoader(source, 4, streams=Streams(0)), "steps": 30, "accumulate": 2,
        "clip": 1.0,
    }  # fmt: skip
    (first,) = find_rates(**arguments)
    assert len(first.losses) == 30
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert "initial_lr" not in optimizer.param_groups[0]
    assert not model.training
    assert torch.equal(random_state, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])
    assert run.read_log() == []
    assert find_rates(**arguments) == (first,)  # the same again


def test_reading_a_sweep_by_hand() -> None:
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    read = read_sweep(rates, [1.0, 0.9, 0.3, 0.1, 3.0], 0.0)
    assert read.steepest == 1e-2  # slopes a decade: -0.1, -0.35, -0.4, 1.35, ...
    assert read.tenth == pytest.approx(1e-2)
    assert read.diverged
    flat = read_sweep(rates, [1.0, 1.1, 1.2], 0.0)
    assert flat.steepest is None
    assert flat.tenth is None
    assert not flat.diverged
    broken = read_sweep(rates, [1.0, 0.5, math.nan], 0.0)
    assert broken.diverged
    assert broken.tenth == pytest.approx(1e-4)
    assert read_sweep(rates, [math.inf], 0.0).steepest is None


def test_smoothing_is_a_running_mean_without_bias() -> None:
    losses = np.random.default_rng(0).normal(1.0, 0.2, 40)
    read = read_sweep(np.geomspace(1e-5, 1, 40), losses.tolist(), 0.8, diverges=1e9)
    for place in range(40):
        weights = 0.8 ** np.arange(place, -1, -1)
        assert read.smoothed[place] == pytest.approx(
            float((weights * losses[: place + 1]).sum() / weights.sum())
        )


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"lowest": 0.0}, "0 < lowest < highest"),
        ({"lowest": 1.0, "highest": 0.5}, "0 < lowest < highest"),
        ({"steps": 5}, "10 to 10,000 steps, got 5"),
        ({"steps": 1_000_000}, "10 to 10,000 steps, got 1000000"),
        ({"smoothing": 1.0}, "smoothing must be in"),
        ({"diverges": 1.0}, "diverges must be above 1"),
        ({"groups": ["step"]}, 'no group "step". Did you mean "steep"'),
        ({"base": 0.0}, "base must be above 0"),
    ],
)
def test_refusals(tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        sweep(tmp_path, **bad)


def test_groups_without_names_are_refused(kit: SimpleNamespace, tmp_path: Path) -> None:
    model = Bowl()
    with pytest.raises(UsageError, match="no names"):
        find_rates(
            step=bowl_step, modules={"model": model}, loaders=[torch.zeros(1)], groups=True,
            optimizers=torch.optim.SGD(model.parameters(), lr=1.0), run=Run(tmp_path, device="cpu"),
        )  # fmt: skip

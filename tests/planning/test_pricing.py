"""Prices from real steps, and what a fit took against them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from warmstart.backbones import backbone
from warmstart.core import NotApplicable, Run
from warmstart.data import read, split
from warmstart.planning import Price, check_cost, price_of_features, price_of_steps
from warmstart.planning.arms import Allowance, allow
from warmstart.strategies import Cost, make


def test_real_steps_are_extrapolated(tiny_text: Path, topics: Any, tmp_path: Path) -> None:
    texts, labels = topics(48)
    data = read(datasets.Dataset.from_dict({"text": texts, "label": labels}))
    view, run = split(data).view(data), Run(tmp_path / "run", device="cpu")
    price, cost = price_of_steps(make("finetune", {"epochs": 4}), backbone(tiny_text), view, run)
    assert price.epochs == 4
    assert price.steps == 4 * cost.steps_per_epoch
    assert price.seconds == pytest.approx(cost.seconds)
    assert price.seconds_per_epoch == pytest.approx(cost.seconds / 4)
    assert price.peak_bytes is not None
    assert price.peak_bytes > 2**20
    assert 0 < price.measuring < 60
    assert "4 epochs" in price.words()
    with pytest.raises(NotApplicable, match="learns without steps"):
        price_of_steps(make("probe"), backbone(tiny_text), view, run)


def test_fine_tunings_steps_price_the_arms_that_take_them(tiny_text: Path, topics: Any) -> None:
    """84 rows are 11 batches of 8; three layer groups make four stages of 2, 2, 2 and 10 epochs."""
    texts, labels = topics(120)
    data = read(datasets.Dataset.from_dict({"text": texts, "label": labels}))
    rows, opened = split(data).view(data), backbone(tiny_text)
    full = Cost(seconds_per_step=0.5, steps_per_epoch=11, epochs=15, overhead=1.0, peak_bytes=7)
    assert len(rows.train) == 84
    scratch = make("scratch").cost_by(full, opened, rows)
    assert scratch == replace(full, epochs=30)
    work = 2 * 0.05 + 2 * (0.05 + 0.95 / 3) + 2 * (0.05 + 0.95 * 2 / 3) + 10
    unfreeze = make("unfreeze").cost_by(full, opened, rows)
    assert unfreeze is not None
    assert unfreeze.epochs == 16
    assert unfreeze.seconds_per_step == pytest.approx(0.5 * work / 16)
    lora = make("lora")
    assert lora.cost_is_bound
    assert lora.cost_by(full, opened, rows) == replace(full, epochs=15)
    for name, settings in (
        ("scratch", {"batch_size": 4}), ("unfreeze", {"mixup": 0.2}), ("lora", {"dora": True}),
        ("scratch", {"head": "mlp"}), ("probe", {}), ("ia3", {}),
    ):  # fmt: skip
        assert make(name, settings).cost_by(full, opened, rows) is None, "steps of another kind"


def test_a_trial_leaves_no_checkpoint(tiny_text: Path, topics: Any, tmp_path: Path) -> None:
    texts, labels = topics(60)
    data = read(datasets.Dataset.from_dict({"text": texts, "label": labels}))
    view, arm = split(data).view(data), make("finetune", {"epochs": 1})
    for resumable in (True, False):
        run = Run(tmp_path / str(resumable), device="cpu", max_steps=2, resumable=resumable)
        arm.fit(backbone(tiny_text), view, run.again())
        assert (run.folder / "checkpoints").exists() == resumable


def test_features_are_priced_by_the_row() -> None:
    price = price_of_features(make("probe"), 0.01, 500, 2.0, 2**20)
    assert price.seconds == pytest.approx(7.0)
    assert price.basis == "rows"
    assert price.words() == "7 s, 1 MB"


def ran(
    allowance: Allowance, epochs: float, seconds: float, peak: int, *, features: bool = False
) -> Any:
    seed = SimpleNamespace(
        allowance=allowance, epochs=epochs, seconds=seconds, peak_memory_bytes=peak
    )
    strategy = SimpleNamespace(name="finetune", uses_features=features)
    return SimpleNamespace(
        seeds=[seed], arm=SimpleNamespace(strategy=strategy), peak_bytes=lambda task: peak
    )


TASK: Any = SimpleNamespace(embedding=SimpleNamespace(seconds=5.0))


def test_expected_against_actual() -> None:
    cost = Cost(seconds_per_step=0.5, steps_per_epoch=10, epochs=8, overhead=1.0, peak_bytes=2**30)
    granted = allow(cost, None)
    assert granted.seconds_full == pytest.approx(48.0)
    assert (granted.full_epochs, granted.peak_bytes) == (8, 2**30)
    found = check_cost(ran(granted, 4.0, 30.0, 2**29), TASK)
    assert found is not None
    assert found.expected_seconds == pytest.approx(24.0), "half of the epochs were run"
    assert found.ratio == pytest.approx(1.25)
    on_vectors = check_cost(ran(granted, 4.0, 30.0, 2**29, features=True), TASK)
    assert on_vectors == found, "steps on vectors were timed without the embedding"
    assert found.sentence == (
        "Cost: 24 s and 1,074 MB were expected for 4 of at most 8 epochs, 30 s and 537 MB were "
        "taken (1.2 times the time)."
    )


def test_the_plans_price_stands_in() -> None:
    plain = ran(Allowance(), 0.0, 2.0, 0, features=True)
    assert check_cost(plain, TASK) is None
    price = Price(strategy="probe", seconds=14.0, basis="rows")
    found = check_cost(plain, TASK, price)
    assert found is not None
    assert found.actual_seconds == pytest.approx(7.0), "the embedding counts"
    assert found.ratio == pytest.approx(0.5)
    assert found.sentence == "Cost: 14 s were expected, 7 s were taken (0.5 times the time)."
    empty = SimpleNamespace(seeds=[])
    assert check_cost(empty, TASK, price) is None

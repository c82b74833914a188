"""Mixup against loops over rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run, UsageError
from warmstart.training import (
    Batch,
    Checkpoints,
    Classifier,
    Mixture,
    classification_step,
    draw_mixture,
    fit_loop,
)


class Flat(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.tanh(batch["pixel_values"].flatten(1))


def classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(Flat(), nn.Linear(12, 3))


def batch(rows: int = 5, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(rows, 3, 2, 2, generator=generator)
    return Batch({"pixel_values": pixels, "mask": torch.arange(rows)},
                 torch.randint(0, 3, (rows,), generator=generator), torch.arange(rows))  # fmt: skip


def test_blending_by_hand() -> None:
    mixture = Mixture(0.75, torch.tensor([1, 0]))
    assert mixture.tensor(torch.tensor([[0.0], [8.0]])).tolist() == [[2.0], [6.0]]
    inputs = mixture.inputs({"x": torch.tensor([4.0, 0.0]), "mask": torch.tensor([1, 0])})
    assert inputs["x"].tolist() == [3.0, 1.0]
    assert inputs["mask"].tolist() == [1, 0]
    with pytest.raises(UsageError, match='mix_at="vectors"'):
        mixture.inputs({"input_ids": torch.tensor([1, 2])})


@pytest.mark.parametrize("place", ["auto", "inputs", "vectors"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_blended_rows_and_labels(place: Any, smoothing: float) -> None:
    model, rows = classifier(), batch()
    weights = torch.tensor([0.5, 1.0, 2.0])
    state: Any = SimpleNamespace(modules={"model": model})
    torch.manual_seed(7)
    step = classification_step(
        mixup=0.4, mix_at=place, label_smoothing=smoothing, class_weights=weights
    )
    found = step(rows, state)
    torch.manual_seed(7)
    mixture = draw_mixture(0.4, 5)
    assert 0 < mixture.share < 1
    slow = torch.zeros(())
    for i in range(5):
        j = int(mixture.partner_B[i])
        pair = rows.inputs["pixel_values"][[i, j]]
        own = mixture.share
        if place == "vectors":
            vectors = model.encoder({"pixel_values": pair})
            logits = model.head(own * vectors[0] + (1 - own) * vectors[1])[None]
        else:
            logits = model({"pixel_values": (own * pair[0] + (1 - own) * pair[1])[None]})
        for share, label in ((own, rows.labels_B[i]), (1 - own, rows.labels_B[j])):
            slow = slow + share / 5 * functional.cross_entropy(
                logits, label[None], weight=weights, label_smoothing=smoothing, reduction="sum"
            )
    torch.testing.assert_close(found.loss, slow)


def test_equal_to_soft_labels() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1])
    mixture = Mixture(0.3, torch.tensor([2, 3, 0, 1]))
    soft = mixture.tensor(functional.one_hot(labels, 3).float())
    blended = mixture.loss(lambda y: functional.cross_entropy(logits, y), labels)
    torch.testing.assert_close(blended, functional.cross_entropy(logits, soft))


def test_the_draw_is_of_the_loops_generator_and_beta() -> None:
    torch.manual_seed(1)
    one, two = draw_mixture(0.2, 8), draw_mixture(0.2, 8)
    torch.manual_seed(1)
    again = draw_mixture(0.2, 8)
    assert one.share == again.share != two.share
    assert torch.equal(one.partner_B, again.partner_B)
    assert sorted(one.partner_B.tolist()) == list(range(8))
    shares = np.array([draw_mixture(0.4, 1).share for _ in range(3000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.06)  # of Beta(0.4, 0.4)


def test_a_resumed_fit_blends_alike(tmp_path: Path) -> None:
    def fit(folder: Path, kill_at: int | None) -> Classifier:
        model = classifier()
        calls = 0
        inner = classification_step(mixup=0.4)

        def step(rows: Any, state: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise KeyboardInterrupt
            return inner(rows, state)

        fit_loop(
            step=step, modules={"model": model}, epochs=3, accumulate=2,
            optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
            loaders=[batch(seed=s) for s in range(4)], run=Run(folder, device="cpu"),
            checkpoints=Checkpoints(every_steps=1),
        )  # fmt: skip
        return model

    whole = fit(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", 7)
    rest = fit(tmp_path / "cut", None)
    assert torch.equal(rest.head.weight, whole.head.weight)


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"mixup": -0.1}, "mixup must be at least 0"), ({"mix_at": "tokens"}, "mix_at must be")],
)
def test_refusals(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        classification_step(**bad)

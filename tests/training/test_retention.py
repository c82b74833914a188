"""A budget of forgetting inside the loop."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run, Streams, UsageError
from warmstart.training import (
    Checkpoints,
    Classifier,
    ExampleRows,
    Retained,
    RowLoader,
    WithinBudget,
    classification_step,
    evaluation,
    fit_loop,
)


class Line(nn.Module):
    """A dropout besides the weights, so that modes matter."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 6)
        self.drop = nn.Dropout(0.2)
        with torch.no_grad():
            self.map.weight.copy_(torch.eye(6))
            self.map.bias.zero_()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        vectors: Tensor = self.drop(self.map(batch["x"]))
        return vectors


def parts(kit: SimpleNamespace, seed: int = 0) -> tuple[Any, Any, Any]:
    """New and old rows and the old head: the old task reads the first value, so does its head."""
    old = kit.ToyRows(rows=60, seed=9)
    new = kit.ToyRows(rows=60, seed=seed)
    new.labels_N = 1 - new.labels_N  # the new task wants the opposite
    head = nn.Linear(6, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, 0] = torch.tensor([-3.0, 3.0])
        head.bias.zero_()
    return new, old, head


def fit(kit: SimpleNamespace, folder: Path, kill_at: int | None = None, **settings: Any) -> Any:
    new, old, old_head = parts(kit)
    streams = Streams(0)

    def loader(data: Any, shuffle: bool) -> RowLoader:
        rows = ExampleRows(data, kit.preprocess_vectors, streams=streams)
        return RowLoader(rows, 8, streams=streams, shuffle=shuffle)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(Line(), nn.Linear(6, 2))
    with torch.no_grad():  # the head answers the old way, so learning moves the encoder
        model.head.weight.copy_(old_head.weight)
    model.head.requires_grad_(False)
    watch = Retained(loader(old, False), old_head, classes=2)
    callback = WithinBudget(watch, **({"budget": 10.0, "patience": None} | settings))
    calls = 0
    inner = classification_step()

    def step(batch: Any, state: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            raise KeyboardInterrupt
        return inner(batch, state)

    run = Run(folder, device="cpu")
    history = fit_loop(
        step=step, modules={"model": model}, run=run, epochs=12, loaders=loader(new, True),
        optimizers=torch.optim.SGD(model.encoder.parameters(), lr=0.004),
        evaluate=watch.beside(evaluation(loader(new, False), classes=2)), callbacks=[callback],
        checkpoints=Checkpoints(every_steps=1), log_every=3,
    )  # fmt: skip
    inputs = kit.preprocess_vectors(old.inputs())
    with torch.no_grad():
        logits = old_head(model.eval().vectors(inputs))
    truth = torch.from_numpy(old.labels_N)
    return SimpleNamespace(
        history=history, model=model, callback=callback, run=run,
        accuracy=float((logits.argmax(1) == truth).float().mean()),
        loss=float(functional.cross_entropy(logits, truth)),
    )  # fmt: skip


def test_the_old_task_is_in_the_history_and_its_budget_is_kept(
    kit: SimpleNamespace, tmp_path: Path
) -> None:
    done = fit(kit, tmp_path)
    drops = [100 * (1.0 - epoch["retained_accuracy"]) for epoch in done.history.epochs]
    assert done.callback.before == 1.0
    assert drops[0] <= 10  # the first epoch is inside the budget, the last ones are not
    assert drops[-1] > 10
    assert drops[-2] > 10
    assert done.history.stopped == "early"
    assert len(drops) < 12
    inside = [epoch for epoch, drop in zip(done.history.epochs, drops, strict=True) if drop <= 10]
    best = min(inside, key=lambda epoch: epoch["validation_loss"])
    assert done.history.best_epoch == best["epoch"]
    assert done.accuracy == pytest.approx(best["retained_accuracy"])
    assert done.loss == pytest.approx(best["retained_loss"], rel=1e-5)
    assert done.callback.drop == pytest.approx(100 * (1 - done.accuracy))
    assert all("retained_macro_f1" in epoch for epoch in done.history.epochs)


def test_a_wide_budget_is_early_stopping(kit: SimpleNamespace, tmp_path: Path) -> None:
    done = fit(kit, tmp_path, budget=100.0)
    losses = [epoch["validation_loss"] for epoch in done.history.epochs]
    assert len(losses) == 12
    assert done.history.best_epoch == 1 + losses.index(min(losses))


def test_where_nothing_is_inside_the_least_loss_is_kept(
    kit: SimpleNamespace, tmp_path: Path
) -> None:
    done = fit(kit, tmp_path, budget=0.0, budget_patience=3)
    kept = [epoch["retained_accuracy"] for epoch in done.history.epochs]
    assert len(kept) <= 12
    assert done.accuracy == pytest.approx(max(kept))


@pytest.mark.parametrize("kill_at", [5, 17, 30])
def test_a_resumed_fit_knows_what_there_was_to_lose(
    kit: SimpleNamespace, tmp_path: Path, kill_at: int
) -> None:
    whole = fit(kit, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(kit, tmp_path / "cut", kill_at)
    rest = fit(kit, tmp_path / "cut")
    assert rest.callback.before == whole.callback.before == 1.0
    for mine, theirs in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    strip = [
        [{k: v for k, v in record.items() if k != "seconds"} for record in each.history.epochs]
        for each in (rest, whole)
    ]
    assert strip[0] == strip[1]


def test_refusals(kit: SimpleNamespace) -> None:
    _, old, head = parts(kit)
    rows = ExampleRows(old, kit.preprocess_vectors, streams=Streams(0))
    watch = Retained(RowLoader(rows, 8, streams=Streams(0)), head, classes=2)
    with pytest.raises(UsageError, match="from 0 to 100, got -2"):
        WithinBudget(watch, -2)
    with pytest.raises(UsageError, match="budget_patience"):
        WithinBudget(watch, 2, budget_patience=0)
    state: Any = SimpleNamespace(name="fit")
    with pytest.raises(UsageError, match=r"retained\.beside"):
        WithinBudget(watch, 2, before=1.0).on_evaluate(state, {"validation_loss": 1.0})
    with pytest.raises(UsageError, match='budget watches "validation_loss"'):
        WithinBudget(watch, 2, before=1.0).on_evaluate(state, {"loss": 1.0})

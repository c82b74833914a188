"""The old task through real strategies' parts."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import Run, Streams
from warmstart.data import split
from warmstart.models import EncoderModel, Head, HeadShape
from warmstart.strategies import OldTask, Probe, make, old_task
from warmstart.strategies.supervised import groups_of
from warmstart.training import (
    Anchor,
    Classifier,
    WithinBudget,
    classification_loaders,
    classification_step,
    evaluation,
    fit_loop,
    make_optimizer,
    rate_table,
)


@pytest.fixture
def old_view(as_text: Any, topics: Any) -> Any:
    """Fruit, vehicles and weather: the old task."""
    data = as_text(*topics(60, 3, 7))
    return split(data).view(data)


def test_the_old_head_is_the_probe(
    opened: Any, tiny_text: Path, old_view: Any, make_run: Any
) -> None:
    backbone = opened(tiny_text)
    old = old_task(backbone, old_view, l2=0.01)
    probe = Probe(l2=0.01).fit(backbone, old_view, make_run()).model
    rows = old_view.validation
    np.testing.assert_allclose(old.model().proba(rows), probe.proba(rows), atol=1e-12)


def test_watch_penalise_and_judge(
    opened: Any, tiny_text: Path, old_view: Any, text_view: Any, make_run: Any
) -> None:
    """The whole wiring as a strategy does it: track, protect, measure."""
    backbone = opened(tiny_text)
    view, _ = text_view
    old = old_task(backbone, old_view)
    moved, drops = {}, {}
    for strength in (0.0, 1e6):
        run: Run = make_run()
        encoder = backbone.load(device="cpu")
        head = Head(HeadShape(dimension=encoder.dimension, classes=2), run.streams)
        groups = groups_of(encoder, head)
        table = rate_table(groups, 1e-3, rates=dict.fromkeys(groups, 3e-3))
        table.apply()
        classifier = Classifier(encoder, head)
        anchor = Anchor(classifier)
        before = [p.detach().clone() for p in encoder.parameters()]
        penalty = old.elastic(classifier, anchor, run.streams, strength=strength, rows=12)
        assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))
        train, held = classification_loaders(
            view.train, view.validation, encoder.preprocess, batch_size=8, streams=run.streams
        )
        watch = old.watch(encoder, run.streams)
        budget = WithinBudget(watch, 100.0, patience=None)
        history = fit_loop(
            step=classification_step(penalty=penalty), modules={"model": classifier},
            optimizers=make_optimizer(table, weight_decay=0.0), loaders=train, run=run, epochs=3,
            evaluate=watch.beside(evaluation(held, classes=2)), callbacks=[budget],
        )  # fmt: skip
        adapted = EncoderModel(backbone, head, view.label_names, encoder=encoder)
        found = old.forgetting(adapted)
        assert found.n == len(old_view.validation)
        assert found.before == pytest.approx(budget.before)
        kept = history.epochs[int(history.best_epoch or 0) - 1]
        assert found.after == pytest.approx(kept["retained_accuracy"])
        moved[strength] = sum(
            float((a - b.detach()).square().sum())
            for a, b in zip(before, encoder.parameters(), strict=True)
        )
        drops[strength] = found.drop
    assert moved[1e6] < 0.5 * moved[0.0]


def test_an_untouched_model_forgets_nothing(
    opened: Any, tiny_text: Path, old_view: Any, text_view: Any, make_run: Any
) -> None:
    backbone = opened(tiny_text)
    old = old_task(backbone, old_view)
    probe = Probe(l2=0.1).fit(backbone, text_view[0], make_run()).model
    found = old.forgetting(probe)
    assert (found.drop, found.low, found.high) == (0, 0, 0)
    assert old.watch(backbone.load(device="cpu"), Streams(0)) is not None


@pytest.mark.parametrize("name", ["finetune", "unfreeze"])
def test_fisher_information_is_priced_once(
    name: str,
    opened: Any,
    tiny_text: Path,
    old_view: Any,
    text_view: Any,
    make_run: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """20 ms a row of the old task, whatever the number of epochs and stages."""

    def elastic(self: OldTask, *_: Any, rows: int, **__: Any) -> Any:
        time.sleep(0.02 * rows)
        return lambda state: torch.zeros(())

    monkeypatch.setattr(OldTask, "elastic", elastic)
    view = replace(text_view[0], retain=old_view)
    free = make(name, {"epochs": 3}).measure(opened(tiny_text), view, make_run())
    cost = make(name, {"epochs": 3, "ewc": 1.0}).measure(opened(tiny_text), view, make_run())
    assert free.fixed == 0.0
    assert cost.fixed == pytest.approx(0.02 * len(old_view.train), rel=0.3)
    passes = cost.steps_per_epoch * cost.seconds_per_step + cost.overhead
    assert cost.seconds == pytest.approx(cost.fixed + cost.epochs * passes)
    assert cost.steps_within(cost.fixed) == 0
    assert cost.steps_within(cost.seconds + 1e-6) == cost.epochs * cost.steps_per_epoch

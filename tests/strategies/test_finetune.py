"""Fine-tuning, its control from random weights, and the cheap controls."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from warmstart.backbones import Backbone, backbone, state_hash
from warmstart.core import NotApplicable, Run
from warmstart.data import View
from warmstart.strategies import Cnn, Cost, Finetune, Probe, Scratch, Tfidf
from warmstart.strategies.recipe import Recipe, epochs_for, smaller_batches
from warmstart.training import discriminative_rates


class Five(nn.Module):
    """Five groups of one weight each."""

    def __init__(self) -> None:
        super().__init__()
        for name in "abcde":
            setattr(self, name, nn.Linear(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in "abcde":
            x = torch.tanh(getattr(self, name)(x))
        return x


def letters(inputs: Any) -> dict[str, torch.Tensor]:
    rows = [[float(text.count(c)) for c in "aeo"] for text in inputs]
    return {"x": torch.tensor(rows)}


@pytest.fixture
def five() -> Backbone:
    groups = {name: [name] for name in "abcde"}
    return backbone(module=Five(), processor=letters, modality="text", groups=groups, name="five")


def test_the_designs_rates(five: Backbone, text_view: Any, make_run: Callable[..., Run]) -> None:
    """base 3e-3 and five groups: 6.56e-5, 1.71e-4, 4.44e-4, 1.15e-3, 3.00e-3, head 9.00e-3."""
    view, _ = text_view
    fitted = Finetune(rate=3e-3, epochs=1).fit(five, view, make_run())
    shown = [f"{row['rate']:.2e}" for row in fitted.rates]
    assert shown == ["6.56e-05", "1.71e-04", "4.44e-04", "1.15e-03", "3.00e-03", "9.00e-03"]
    assert [row["group"] for row in fitted.rates] == [*"abcde", "head"]
    assert fitted.trainable_parameters == 5 * 12 + 2 * 3 + 2


def test_rates_by_the_formula() -> None:
    groups: dict[str, Any] = {name: [] for name in ("stem", "0", "1", "norm", "head")}
    rates = discriminative_rates(groups, 1e-4, 2.6, 3.0)
    assert rates["norm"] == pytest.approx(1e-4)
    assert rates["head"] == pytest.approx(3e-4)
    assert rates["stem"] == pytest.approx(1e-4 / 2.6**3)


def test_steps_are_limited_and_it_is_told(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    fitted = Finetune(epochs=4, batch_size=8).fit(opened(tiny_text), view, make_run(max_steps=5))
    assert fitted.stopped == "max_steps"
    per_epoch = -(-len(view.train) // fitted.values["batch_size"])
    assert fitted.epochs == pytest.approx(5 / per_epoch)
    assert fitted.history[-1]["step"] == 5


def test_a_deadline_in_the_past_stops_at_once(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    run = make_run(deadline=time.monotonic() - 1)
    fitted = Finetune(epochs=4).fit(opened(tiny_text), view, run)
    assert fitted.stopped == "deadline"
    assert fitted.epochs == 0
    assert np.isfinite(fitted.model.proba(test)).all()


def test_early_stop_keeps_the_best_epoch(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    """A rate far too high makes validation worse; the weights of the best epoch are kept."""
    view, _ = text_view
    strategy = Finetune(rate=0.3, epochs=30, patience=2, schedule="constant", warmup=0.0)
    fitted = strategy.fit(opened(tiny_text), view, make_run())
    losses = [row["validation_loss"] for row in fitted.history]
    assert fitted.stopped == "early"
    assert len(losses) < 30
    best = int(np.argmin(losses))
    assert fitted.values["best_epoch"] == best + 1
    assert len(losses) == best + 1 + 2
    scores_MC = fitted.model.proba(view.validation.without_labels())
    truth_M = view.validation.labels_N
    kept = -float(np.log(np.maximum(scores_MC[np.arange(len(truth_M)), truth_M], 1e-300)).mean())
    assert kept == pytest.approx(losses[best], rel=1e-4)


def test_finetuning_learns_and_moves_every_group(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    source: Backbone = opened(tiny_text)
    fitted = Finetune(rate=5e-3, epochs=12, patience=12).fit(source, view, make_run())
    right = fitted.model.proba(test.without_labels()).argmax(axis=1) == test.labels_N
    assert right.mean() >= 0.8
    untouched = source.load(device="cpu")
    tuned = fitted.model.encoder
    for name in untouched.groups.names:
        assert state_hash(tuned, [name]) != state_hash(untouched, [name]), name


def test_scratch_starts_from_other_weights_by_the_seed(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    source: Backbone = opened(tiny_text)
    late = time.monotonic() - 1  # no step at all: what is left are the starting weights

    def start(seed: int) -> str:
        fitted = Scratch().fit(source, view, make_run(seed, deadline=late))
        return state_hash(fitted.model.encoder)

    assert start(0) == start(0)
    assert start(0) != start(1)
    assert state_hash(source.load(device="cpu")) not in {start(0), start(1)}
    kept = Finetune().fit(source, view, make_run(deadline=late)).model
    assert state_hash(kept.encoder) == state_hash(source.load())


def test_scratch_says_where_a_network_of_ones_own_cannot_start_anew(
    text_view: Any, make_run: Callable[..., Run]
) -> None:
    class Bare(Five):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.scale

    groups = {"stem": ["a", "scale"]} | {name: [name] for name in "bcde"}
    own = backbone(module=Bare(), processor=letters, modality="text", groups=groups, name="bare")
    with pytest.raises(NotApplicable, match="scale"):
        Scratch().fit(own, text_view[0], make_run())


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"), [(70, 16, 15), (480, 16, 10), (1600, 16, 3), (100_000, 16, 3)]
)
def test_epochs_for_about_300_steps(rows: int, batch: int, epochs: int) -> None:
    assert epochs_for(rows, batch, steps=300, least=3, most=15) == epochs


@pytest.mark.parametrize(("rows", "size"), [(1000, 16), (128, 16), (127, 8), (63, 4), (5, 4)])
def test_small_data_gets_small_batches(rows: int, size: int) -> None:
    assert smaller_batches(Recipe(batch_size=16), rows).batch_size == size


def test_cost_divides_time_into_steps() -> None:
    cost = Cost(seconds_per_step=0.5, steps_per_epoch=10, epochs=4, overhead=1.0)
    assert cost.seconds == 24.0
    assert cost.steps_within(12.0) == 20
    assert cost.steps_within(1e9) == 40
    assert cost.steps_within(0.0) == 0


@pytest.mark.parametrize(
    ("strategy", "model"),
    [(Finetune(epochs=4), "tiny_text"), (Probe(head="mlp", hidden=4), "tiny_text"),
     (Cnn(epochs=4, image_size=16), "tiny_resnet")],
)  # fmt: skip
def test_training_time_is_told(
    strategy: Any, model: str, opened: Any, make_run: Any, request: pytest.FixtureRequest
) -> None:
    view, _ = request.getfixturevalue("image_view" if model == "tiny_resnet" else "text_view")
    began = time.perf_counter()
    fitted = strategy.fit(opened(request.getfixturevalue(model)), view, make_run())
    assert 0 < fitted.seconds <= time.perf_counter() - began
    assert fitted.seconds >= max(row["seconds"] for row in fitted.history)


def test_a_resumed_fit_counts_all_its_sessions(
    text_view: Any, tiny_text: Path, opened: Any, tmp_path: Path
) -> None:
    view, _ = text_view
    source = opened(tiny_text)
    first = Finetune(epochs=2).fit(source, view, Run(tmp_path, device="cpu", max_steps=2))
    assert first.stopped == "max_steps"
    again = Finetune(epochs=2).fit(source, view, Run(tmp_path, device="cpu"))
    assert again.seconds > first.seconds > 0


def test_tfidf_finds_the_words(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    fitted = Tfidf().fit(opened(tiny_text), view, make_run())
    right = fitted.model.proba(test.without_labels()).argmax(axis=1) == test.labels_N
    assert right.mean() >= 0.8
    assert fitted.values["C"] in Tfidf().strengths


def test_tfidf_does_not_depend_on_the_order_of_rows(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    turned = View(view.train.select(list(range(len(view.train)))[::-1]), view.validation)
    first, second = (Tfidf().fit(opened(tiny_text), v, make_run()) for v in (view, turned))
    np.testing.assert_array_equal(first.model.proba(test), second.model.proba(test))


def test_tfidf_without_words_is_not_applicable(
    as_text: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    data = as_text(["!!", "??", "..", ",,"], ["good", "bad", "good", "bad"])
    with pytest.raises(NotApplicable, match="no words"):
        Tfidf().fit(opened(tiny_text), View(data, data), make_run())

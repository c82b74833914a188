"""MAML over adapters: its gradients by finite differences, its course against a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run, Streams
from warmstart.data import Dataset, View
from warmstart.models.adapters import network_fingerprint
from warmstart.strategies import Maml, make
from warmstart.strategies.fewshot.meta import EpisodeBatch
from warmstart.strategies.fewshot.meta_adapter import MetaAdapter, RowEpisodes
from warmstart.strategies.peft.adapter import Adapter

QUICK: dict[str, Any] = {
    "over": "adapter", "epochs": 1, "tasks": 1, "queries": 2, "width": 2, "inner_steps": 1,
}  # fmt: skip


@pytest.fixture
def learner(opened: Callable[..., Backbone], tiny_text: Path) -> Callable[..., MetaAdapter]:
    """A learner in double precision whose adapters do something."""

    def make_one(start: Any = "prototypes", *, second: bool = True, steps: int = 2) -> MetaAdapter:
        encoder = Adapter(width=2, dropout=0.0)._attach(
            opened(tiny_text).load(device="cpu"), Streams(0)
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, parameter in encoder.adapter_parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        made = MetaAdapter(
            encoder, mean_D=torch.zeros(encoder.dimension), scale=torch.tensor(0.5), start=start,
            steps=steps, rate=0.1, second=second, learn_rates=True,
        )  # fmt: skip
        return made.double()

    return make_one


@pytest.fixture
def batch(learner: Callable[..., MetaAdapter], text_view: tuple[View, Dataset]) -> EpisodeBatch:
    view, _ = text_view
    labels_N = view.train.labels_N
    rows = {c: torch.where(torch.as_tensor(labels_N.copy()) == c)[0].numpy() for c in (0, 1)}
    episodes = RowEpisodes(
        view.train, rows, learner().encoder.preprocess, way=2, shots=2, queries=2, tasks=1,
        steps=2, streams=Streams(0),
    )  # fmt: skip
    first, again = (next(iter(episodes.batches(0))) for _ in range(2))
    assert torch.equal(first.tasks[0][0]["input_ids"], again.tasks[0][0]["input_ids"])
    return first


@pytest.mark.parametrize("start", ["prototypes", "zero"])
def test_second_order_against_finite_differences(
    start: Any, learner: Callable[..., MetaAdapter], batch: EpisodeBatch
) -> None:
    """Through the inner steps, the whole network, and the class means that the output starts at."""
    made = learner(start)
    made(batch)[0].backward()
    named = [(n, p) for n, p in made.named_parameters() if p.requires_grad]
    assert len(named) > 8
    for name, parameter in named[:: max(1, len(named) // 8)]:
        assert parameter.grad is not None, name
        flat, grads = parameter.data.view(-1), parameter.grad.reshape(-1)
        place = int(grads.abs().argmax())
        kept, values = flat[place].item(), []
        for shift in (1e-5, -1e-5):
            flat[place] = kept + shift
            values.append(made(batch)[0].item())
        flat[place] = kept
        slope = (values[0] - values[1]) / 2e-5
        assert grads[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-8), name


def test_first_order_takes_the_gradient_at_the_end_of_the_path(
    learner: Callable[..., MetaAdapter], batch: EpisodeBatch
) -> None:
    """At zero start: the query gradient at the adapted parameters; the loss is that of MAML."""
    first, exact = learner("zero", second=False), learner("zero")
    losses = [made(batch)[0] for made in (first, exact)]
    assert losses[0].item() == pytest.approx(losses[1].item())
    for loss in losses:
        loss.backward()
    support, labels_S, query, labels_Q = batch.tasks[0]
    now = {n: v.detach().requires_grad_(True) for n, v in first.start(support, labels_S, 2).items()}
    for _ in range(2):
        loss = functional.cross_entropy(first.logits(now, support), labels_S)
        gradients = torch.autograd.grad(loss, list(now.values()))
        now = {
            name: (value - 0.1 * gradient).detach().requires_grad_(True)
            for (name, value), gradient in zip(now.items(), gradients, strict=True)
        }
    functional.cross_entropy(first.logits(now, query), labels_Q).backward()
    differs = False
    for (name, mine), (_, other) in zip(
        first.encoder.adapter_parameters(), exact.encoder.adapter_parameters(), strict=True
    ):
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad, now[name].grad)
        differs = differs or not torch.allclose(mine.grad, other.grad, rtol=1e-3)
    assert differs, "the second order does see the inner gradients"


def test_the_path_over_all_rows_against_a_plain_loop(
    learner: Callable[..., MetaAdapter],
    text_view: tuple[View, Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks of five rows add up to gradient descent on all of them, parameters set in place."""
    monkeypatch.setattr("warmstart.strategies.fewshot.meta_adapter._CHUNK", 5)
    view, _ = text_view
    made, twin = learner("zero"), learner("zero")
    found = dict(made.path(view.train, 2, (0, 2), lambda: None))
    encoder = twin.encoder
    inputs = encoder.preprocess(view.train.inputs())
    labels_N = torch.as_tensor(view.train.labels_N.copy())
    weight = torch.zeros((2, encoder.dimension), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    own = [parameter for _, parameter in encoder.adapter_parameters()]
    for _ in range(2):
        logits_NC = (encoder(inputs) / 0.5) @ weight.T + bias
        loss = functional.cross_entropy(logits_NC, labels_N)
        moving: list[Tensor] = [*own, weight, bias]
        gradients = torch.autograd.grad(loss, moving)
        with torch.no_grad():
            for value, gradient in zip(moving, gradients, strict=True):
                value.sub_(0.1 * gradient)
    for name, parameter in encoder.adapter_parameters():
        torch.testing.assert_close(found[2][name], parameter.detach())
    torch.testing.assert_close(found[2]["output.weight"], weight.detach())
    torch.testing.assert_close(found[2]["output.bias"], bias.detach())
    assert not found[0]["output.weight"].any()


@pytest.mark.parametrize("order", ["first", "second"])
def test_it_learns_and_leaves_the_base(
    order: str,
    text_view: tuple[View, Dataset],
    opened: Callable[..., Backbone],
    tiny_text: Path,
    make_run: Callable[..., Run],
) -> None:
    view, test = text_view
    source = opened(tiny_text)
    fitted = make("maml", {**QUICK, "order": order}).fit(source, view, make_run())
    model: Any = fitted.model
    assert model.adapted.base_fingerprint() == network_fingerprint(source.load(device="cpu").module)
    moved = [
        bool(p.any()) for n, p in model.adapted.adapter_parameters() if n.endswith("up.weight")
    ]
    assert all(moved), "`up` starts at zero"
    assert fitted.values["inner_rates"].keys() == {
        "adapters (median)", "output.weight", "output.bias"
    }  # fmt: skip
    groups = [row["group"] for row in fitted.rates]
    assert "block.0 adapter" in groups
    assert {row["group"] for row in fitted.rates if row["frozen"]} == set(source.group_names)
    hits = model.proba(test.without_labels()).argmax(axis=1) == test.labels_N
    assert hits.mean() >= 0.5


def test_a_family_without_adapters_is_refused(
    text_view: tuple[View, Dataset], opened: Callable[..., Backbone], tiny_text: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("warmstart.strategies.fewshot.maml.family_of", lambda _: None)
    with pytest.raises(NotApplicable, match="adapter"):
        Maml(over="adapter").check(opened(tiny_text), text_view[0])

"""L2-SP and EWC inside the loop: the step equals one worked out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run, Streams, UsageError
from warmstart.training import (
    Anchor,
    Batch,
    Checkpoints,
    Classifier,
    ExampleRows,
    FixedLoader,
    RowLoader,
    classification_step,
    elastic_weights,
    estimate_fisher,
    fit_loop,
    l2_sp,
    measure_steps,
)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        vectors: Tensor = self.last(torch.tanh(self.first(batch["x"])))
        return vectors


def classifier(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(Linear(), nn.Linear(4, 3))


def batches(count: int = 3, rows: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        Batch(
            {"x": torch.randn(rows, 6, generator=generator)},
            torch.randint(0, 3, (rows,), generator=generator),
            torch.arange(rows) + place * rows,
        )
        for place in range(count)
    ]


def moved(model: Classifier) -> Classifier:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.ones_like(parameter))
    return model


def test_anchor_copies_only_what_is_trained() -> None:
    model = classifier()
    model.encoder.first.requires_grad_(False)
    anchor = Anchor(model)
    assert anchor.bytes == 4 * (5 * 4 + 4)
    held, starts, others = anchor.split(moved(model))
    assert list(held) == list(starts) == ["encoder.last.weight", "encoder.last.bias"]
    assert list(others) == ["head.weight", "head.bias"]
    torch.testing.assert_close(held["encoder.last.bias"] - starts["encoder.last.bias"],
                               torch.full((4,), 0.1))  # fmt: skip
    model.encoder.first.requires_grad_(True)
    with pytest.raises(UsageError, match="copy_frozen=True"):
        anchor.split(model)
    assert Anchor(model, copy_frozen=True).bytes == 4 * (5 * 4 + 4 + 6 * 5 + 5)
    with pytest.raises(UsageError, match='starts with "base'):
        Anchor(model, prefix="base.")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_step_is_that_of_loss_plus_penalty(tmp_path: Path, accumulate: int) -> None:
    """One optimiser step counts the penalty once, however its rows are cut."""
    rows = batches(3)
    whole = Batch(
        {"x": torch.cat([b.inputs["x"] for b in rows])}, torch.cat([b.labels_B for b in rows]),
        torch.arange(12),
    )  # fmt: skip
    model, twin = moved(classifier()), moved(classifier())
    start = classifier()
    penalty = l2_sp(Anchor(start), alpha=0.5, beta=0.2)
    fit_loop(
        step=classification_step(penalty=penalty), modules={"model": model}, epochs=1,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1), run=Run(tmp_path, device="cpu"),
        loaders=rows if accumulate == 3 else [whole], accumulate=accumulate,
    )  # fmt: skip
    loss = functional.cross_entropy(twin(whole.inputs), whole.labels_B)
    for name, parameter in twin.named_parameters():
        origin = dict(start.named_parameters())[name].detach()
        if name.startswith("encoder."):
            loss = loss + 0.5 / 2 * ((parameter - origin) ** 2).sum()
        else:
            loss = loss + 0.2 / 2 * (parameter**2).sum()
    loss.backward()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, msg=name)


def test_a_strong_penalty_keeps_the_encoder_and_both_losses_are_logged(tmp_path: Path) -> None:
    model = classifier()
    anchor = Anchor(model)
    run = Run(tmp_path, device="cpu")
    fit_loop(
        step=classification_step(penalty=l2_sp(anchor, alpha=1e3)), modules={"model": model},
        optimizers=torch.optim.SGD(model.parameters(), lr=5e-4), run=run, epochs=50,
        loaders=batches(), log_every=1,
    )  # fmt: skip
    held, starts, _ = anchor.split(model)
    assert all((held[name] - starts[name]).abs().max() < 1e-3 for name in held)
    assert {"loss", "loss_task", "loss_penalty"} <= set(run.read_log()[0])


def test_penalties_work_in_bfloat16_autocast() -> None:
    model = moved(classifier())
    state: Any = SimpleNamespace(
        modules={"model": model}, plain={"model": model}, device=torch.device("cpu")
    )
    penalty = l2_sp(Anchor(classifier()), alpha=1.0, beta=1.0)
    plain = penalty(state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = penalty(state)
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_measuring_and_resuming_with_a_penalty(kit: SimpleNamespace, tmp_path: Path) -> None:
    """The start is the pretrained one also after a kill, since it is taken before the resume."""

    def fit(folder: Path, kill_at: int | None) -> Classifier:
        model = classifier()
        penalty = l2_sp(Anchor(model), alpha=0.3)
        source = ExampleRows(kit.ToyRows(), kit.preprocess_vectors, streams=Streams(0))
        calls = 0
        inner = classification_step(penalty=penalty)

        def step(batch: Any, state: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise KeyboardInterrupt
            return inner(batch, state)

        arguments: dict[str, Any] = {
            "modules": {"model": model}, "run": Run(folder, device="cpu"),
            "optimizers": torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0),
            "loaders": RowLoader(source, 8, streams=Streams(0)),
        }  # fmt: skip
        before = [p.clone() for p in model.parameters()]
        measure_steps(step=inner, **arguments)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        fit_loop(step=step, epochs=3, checkpoints=Checkpoints(every_steps=1), **arguments)
        return model

    whole = fit(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", 8)
    rest = fit(tmp_path / "cut", None)
    for mine, theirs in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_fisher_is_the_mean_of_squared_row_gradients(labels: Any) -> None:
    model = classifier().train()
    found = estimate_fisher(
        model, FixedLoader(batches()), streams=Streams(3), labels=labels, form="float32"
    )
    assert found.rows == 12
    assert found.error == 0.0
    assert model.training
    sums = {n: torch.zeros_like(p) for n, p in model.named_parameters() if n in found.values}
    assert set(sums) == {f"encoder.{n}" for n, _ in model.encoder.named_parameters()}
    for batch in batches():
        for place in range(4):
            logp = model({"x": batch.inputs["x"][place : place + 1]}).log_softmax(-1)[0]
            label = int(batch.labels_B[place])
            if labels == "sampled":
                draw = Streams(3).numpy("fisher", int(batch.rows_B[place])).random()
                label = int(np.searchsorted(logp.detach().exp().numpy().cumsum(), draw))
            model.zero_grad()
            logp[label].backward()
            for name, parameter in model.named_parameters():
                if name in sums:
                    assert parameter.grad is not None
                    sums[name] += parameter.grad**2 / 12
    for name, value in sums.items():
        torch.testing.assert_close(found.values[name].unpack(), value)


def test_sampled_fisher_of_a_logistic_model_is_known() -> None:
    """For logits = x·W the Fisher information of W_cd is the mean of p_c (1 - p_c) x_d²."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(1, 2, bias=False)
            nn.init.constant_(self.encoder.weight, 0.0)
            with torch.no_grad():
                self.encoder.weight[1, 0] = 1.0

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            logits: Tensor = self.encoder(inputs["x"])
            return logits

    rows = 4000
    x = torch.ones(rows, 1) * 2.0
    loader = FixedLoader([Batch({"x": x}, torch.full((rows,), -1), torch.arange(rows))])
    found = estimate_fisher(Plain(), loader, streams=Streams(0), form="float32")
    p = float(torch.sigmoid(torch.tensor(2.0)))
    values = found.values["encoder.weight"].unpack()
    assert values.flatten().tolist() == pytest.approx([p * (1 - p) * 4] * 2, rel=0.1)


def test_fisher_forms_take_less_and_tell_their_error() -> None:
    kept = {
        form: estimate_fisher(classifier(), FixedLoader(batches()), streams=Streams(0), form=form)
        for form in ("float32", "bfloat16", "factored")
    }
    assert kept["bfloat16"].bytes * 2 == kept["float32"].bytes == 4 * (30 + 5 + 20 + 4)
    assert kept["factored"].bytes == 4 * (11 + 5 + 9 + 4)
    assert 0 < kept["bfloat16"].error < 2**-8
    assert 0 < kept["factored"].error < 1
    some = estimate_fisher(classifier(), FixedLoader(batches()), streams=Streams(0), rows=5)
    assert some.rows == 5


def test_ewc_in_a_step(tmp_path: Path) -> None:
    start, model = classifier(), moved(classifier())
    fisher = estimate_fisher(start, FixedLoader(batches()), streams=Streams(0), form="float32")
    penalty = elastic_weights(Anchor(start), fisher, strength=7.0)
    state: Any = SimpleNamespace(
        modules={"model": model}, plain={"model": model}, device=torch.device("cpu")
    )
    slow = sum(float((f.unpack() * 0.1**2).sum()) for f in fisher.values.values()) * 7.0 / 2
    assert float(penalty(state).detach()) == pytest.approx(slow, rel=1e-4)
    model.encoder.last.requires_grad_(False)
    rest = sum(
        float((f.unpack() * 0.1**2).sum()) for n, f in fisher.values.items() if ".first." in n
    )
    assert float(penalty(state).detach()) == pytest.approx(rest * 3.5, rel=1e-4)


def test_ewc_protects_what_the_old_task_leans_on(tmp_path: Path) -> None:
    """Weights of large information move less than with no penalty, by a lot."""
    start = classifier()
    fisher = estimate_fisher(start, FixedLoader(batches()), streams=Streams(0))
    distance = {}
    for strength in (0.0, 1e5):
        model = classifier()
        anchor = Anchor(model)
        fit_loop(
            step=classification_step(penalty=elastic_weights(anchor, fisher, strength=strength)),
            modules={"model": model}, optimizers=torch.optim.Adam(model.parameters(), lr=1e-3),
            run=Run(tmp_path / str(strength), device="cpu"), epochs=30, loaders=batches(),
        )  # fmt: skip
        held, starts, _ = anchor.split(model)
        distance[strength] = sum(
            float((fisher.values[n].unpack() * (held[n].detach() - starts[n]) ** 2).sum())
            for n in held
        )
    assert distance[1e5] < 0.1 * distance[0.0]


def test_refusals() -> None:
    anchor = Anchor(classifier())
    with pytest.raises(UsageError, match="alpha must be at least 0, got -1"):
        l2_sp(anchor, alpha=-1)
    fisher = estimate_fisher(
        classifier(), FixedLoader(batches()), streams=Streams(0), prefix="head"
    )
    with pytest.raises(UsageError, match=r'speaks of "head\.bias"'):
        elastic_weights(anchor, fisher)
    with pytest.raises(UsageError, match="no trained parameter"):
        estimate_fisher(classifier(), FixedLoader(batches()), streams=Streams(0), prefix="x")
    with pytest.raises(UsageError, match='"sampled" or "empirical"'):
        estimate_fisher(
            classifier(), FixedLoader(batches()), streams=Streams(0), labels="none"
        )  # fmt: skip
    bare = batches(1)[0]
    unknown = Batch(bare.inputs, torch.full((4,), -1), bare.rows_B)
    with pytest.raises(UsageError, match="no label"):
        estimate_fisher(
            classifier(), FixedLoader([unknown]), streams=Streams(0), labels="empirical"
        )

"""Pairs one by one, the tuned encoder, its head; and that a killed fit ends the same."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from warmstart.backbones import embed_inputs
from warmstart.core import NotApplicable, Run, Streams, UsageError
from warmstart.data import View
from warmstart.models import EncoderModel
from warmstart.objectives import cosine_pair_loss, supervised_contrastive
from warmstart.strategies import SetFit, make
from warmstart.strategies.fewshot.pairs import PairLoader
from warmstart.strategies.fewshot.setfit import pair_step
from warmstart.strategies.logistic import L2_GRID, fit_logistic
from warmstart.training import Batch


class Rows:
    """A row source that gives row numbers and counts what was asked of it."""

    def __init__(self, labels: np.ndarray) -> None:
        self.ids = [f"r{i}" for i in range(len(labels))]
        self.labels = labels

    def batch(self, rows: list[int], epoch: int) -> Batch:
        index = torch.as_tensor(rows)
        return Batch({"x": index}, torch.as_tensor(self.labels[rows]), index)


def loader(labels: Any, pairs: int = 6, seed: int = 0) -> PairLoader:
    made = np.asarray(labels)
    return PairLoader(Rows(made), made, pairs, streams=Streams(seed))


def pairs_of(found: PairLoader, epoch: int, start: int = 0, **processes: int) -> list[Any]:
    pairs = []
    for batch in found.batches(epoch, start, **processes):
        left, right = batch.rows_B.chunk(2)
        pairs += list(zip(left.tolist(), right.tolist(), strict=True))
    return pairs


LABELS = [0, 1, 2, 0, 1, 0, 0, 1, 3]


def test_each_row_meets_a_friend_and_a_stranger() -> None:
    found = loader(LABELS)
    assert len(found) == 3
    pairs = pairs_of(found, 0)
    assert len(pairs) == 2 * len(LABELS)
    friends, strangers = pairs[0::2], pairs[1::2]
    assert sorted(a for a, _ in friends) == sorted(a for a, _ in strangers) == list(range(9))
    assert all(LABELS[a] == LABELS[b] for a, b in friends)
    assert all(LABELS[a] != LABELS[b] for a, b in strangers)
    lonely = [pair for pair in friends if pair[0] == pair[1]]
    assert sorted(lonely) == [(2, 2), (8, 8)], "only rows without a class mate meet themselves"


def test_every_partner_is_as_likely() -> None:
    found = loader(LABELS)
    friends: Counter[tuple[int, int]] = Counter()
    strangers: Counter[tuple[int, int]] = Counter()
    epochs = 600
    for epoch in range(epochs):
        pairs = pairs_of(found, epoch)
        friends.update(pairs[0::2])
        strangers.update(pairs[1::2])
    for a in range(9):
        mates = [b for b in range(9) if b != a and LABELS[b] == LABELS[a]]
        others = [b for b in range(9) if LABELS[b] != LABELS[a]]
        for b in mates:
            assert friends[a, b] == pytest.approx(epochs / len(mates), rel=0.3)
        for b in others:
            assert strangers[a, b] == pytest.approx(epochs / len(others), rel=0.5)


def test_pairs_are_a_function_of_seed_epoch_and_number() -> None:
    whole = pairs_of(loader(LABELS), 3)
    assert pairs_of(loader(LABELS), 3) == whole
    assert pairs_of(loader(LABELS), 3, 2) == whole[12:], "from any batch on"
    assert pairs_of(loader(LABELS), 4) != whole
    assert pairs_of(loader(LABELS, seed=1), 3) != whole
    parts = [pairs_of(loader(LABELS), 3, rank=r, world=2) for r in range(2)]
    assert parts[0] == whole[:6] + whole[12:]
    assert parts[1] == whole[6:12]
    assert loader(LABELS).fingerprint != loader([*LABELS[:-1], 0]).fingerprint
    assert loader(LABELS).fingerprint == loader(LABELS).fingerprint


def test_pairs_are_never_listed() -> None:
    """Half a million rows have 10^11 pairs; the first batch is there at once."""
    labels = np.arange(500_000) % 7
    found = loader(labels, pairs=32)
    start = time.perf_counter()
    batch = next(found.batches(0, 20_000))
    assert len(batch) == 64
    assert time.perf_counter() - start < 2.0
    assert len(found) == 31_250


def test_one_class_has_no_strangers(
    as_text: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    with pytest.raises(UsageError, match="two classes"):
        loader([1, 1, 1])
    with pytest.raises(UsageError, match="at least 2, got 1"):
        loader(LABELS, pairs=1)
    data = as_text(["apple", "pear", "car", "plum"], ["x y", "x y", "z w", "x y"])
    with pytest.raises(NotApplicable, match="rows are of one class; zero-shot"):
        SetFit().check(opened(tiny_text), View(data.select([0, 1]), data.select([2, 3])))


class State:
    def __init__(self, vectors: torch.Tensor) -> None:
        self.modules = {"model": lambda inputs: vectors}


def test_the_step_is_the_formula() -> None:
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 2, 2])
    batch = Batch({}, labels, torch.arange(6))
    state: Any = State(vectors)
    found: Any = pair_step("cosine", 0.1)(batch, state)
    same = torch.tensor([True, False, True])
    assert found.loss == cosine_pair_loss(vectors[:3], vectors[3:], same)
    found = pair_step("supcon", 0.2)(batch, state)
    assert found.loss == supervised_contrastive(vectors, labels, temperature=0.2)


@pytest.mark.parametrize("loss", ["cosine", "supcon"])
def test_classes_move_apart(
    loss: Any, text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    bone = opened(tiny_text)
    fitted = SetFit(loss=loss, rate=2e-3, epochs=6).fit(bone, view, make_run(seed=1))
    assert isinstance(fitted.model, EncoderModel)
    assert fitted.model.tuned

    def gap(vectors: np.ndarray) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine, labels = unit @ unit.T, view.train.labels_N
        same = labels[:, None] == labels[None, :]
        np.fill_diagonal(same, False)
        others = labels[:, None] != labels[None, :]
        return float(cosine[same].mean() - cosine[others].mean())

    before = gap(bone.features(view.train).vectors_ND)
    after = gap(embed_inputs(fitted.model.encoder, view.train.inputs()))
    assert after > before + 0.3
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]
    right = fitted.model.proba(test.without_labels()).argmax(axis=1) == test.labels_N
    assert right.mean() > 0.8
    assert fitted.values["pairs"] == fitted.history[-1]["step"] * 16


def test_the_heads_penalty(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    """By validation where there are rows enough, else 1 / N; or as it was set."""
    view, _ = text_view
    bone = opened(tiny_text)
    short = {"epochs": 1, "batch_size": 32}
    by_rows = SetFit(**short).fit(bone, View(view.train, view.validation.select([0])), make_run())
    assert by_rows.values["l2_chosen_on"] == "the number of rows"
    assert by_rows.values["l2"] == pytest.approx(1 / len(view.train))
    given = SetFit(l2=0.5, **short).fit(bone, view, make_run())
    assert (given.values["l2"], given.values["l2_chosen_on"]) == (0.5, "the settings")
    chosen = SetFit(**short).fit(bone, view, make_run())
    assert chosen.values["l2_chosen_on"] == "validation"
    encoder = chosen.model.encoder
    train, held = (embed_inputs(encoder, p.inputs()) for p in (view.train, view.validation))
    losses = {}
    for l2 in L2_GRID:
        fit = fit_logistic(train, view.train.labels_N, 2, ids=view.train.ids, l2=l2)
        logp = log_softmax(held @ fit.weight_CD.T + fit.bias_C, axis=1)
        losses[l2] = -logp[np.arange(len(held)), view.validation.labels_N].mean()
    assert chosen.values["l2"] == min(losses, key=lambda l2: losses[l2])


def test_limits_are_kept(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    bone = opened(tiny_text)
    fitted = SetFit(epochs=3, batch_size=8).fit(bone, view, make_run(max_steps=4))
    assert fitted.stopped == "max_steps"
    assert fitted.epochs == pytest.approx(4 / -(-2 * len(view.train) // 8))
    late = SetFit(epochs=3).fit(bone, view, make_run(deadline=time.monotonic() - 1))
    assert late.stopped == "deadline"
    assert late.epochs == 0
    assert np.isfinite(late.model.proba(test)).all(), "an untouched encoder still gets its head"


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_killed_fit_ends_as_the_whole_one(
    stop: int, text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from warmstart.strategies.fewshot import setfit as module
    from warmstart.training import Checkpoints

    view, test = text_view
    bone = opened(tiny_text)
    strategy = SetFit(epochs=2, batch_size=12, rate=1e-3)
    monkeypatch.setattr(module, "Checkpoints", lambda: Checkpoints(every_steps=2))
    whole = strategy.fit(bone, view, make_run(seed=3))
    real, calls = module.pair_step, 0

    def cut(*args: Any) -> Any:
        step = real(*args)

        def counted(batch: Any, state: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise RuntimeError("killed")
            return step(batch, state)

        return counted

    run = make_run(seed=3)
    monkeypatch.setattr(module, "pair_step", cut)
    with pytest.raises(RuntimeError, match="killed"):
        strategy.fit(bone, view, run)
    again = strategy.fit(bone, view, Run(run.folder, seed=3, device="cpu"))
    np.testing.assert_array_equal(again.model.proba(test), whole.model.proba(test))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": "1"}, "setfit.batch_size must be at least 2, got 1"),
        ({"temperature": "0"}, "setfit.temperature must be at least 0.01"),
        ({"loss": "triplet"}, "setfit.loss must be 'cosine' or 'supcon'"),
        ({"factor": "0.5"}, "setfit.factor must be at least 1"),
        ({"epochs": "0"}, "setfit.epochs must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make("setfit", settings)

"""The rank search: a rule that can be recomputed, and no look at test rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from warmstart.backbones import Backbone
from warmstart.core import Run
from warmstart.strategies import Fitted, Lora, make
from warmstart.strategies.peft.search import gain_and_noise, search_rank

LABELS = np.array([0, 1] * 40)


class Scripted:
    """Stands in for a model of a given confidence in the truth."""

    def __init__(self, sure: np.ndarray) -> None:
        self.sure = sure

    def proba(self, _: Any) -> np.ndarray:
        truth = np.eye(2)[LABELS]
        return truth * self.sure[:, None] + (1 - truth) * (1 - self.sure[:, None])


class View:
    class validation:
        labels_N = LABELS

        @staticmethod
        def without_labels() -> None:
            return None


class Family:
    """A strategy whose validation loss by rank is written down."""

    def __init__(self, confidence: dict[int, np.ndarray], rank: int = 0) -> None:
        self.confidence, self.rank = confidence, rank
        self.asked: list[int] = []

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        return _One(self, update["rank"])


class _One:
    def __init__(self, family: Family, rank: int) -> None:
        self.family, self.rank = family, rank

    def fit(self, _: Any, __: Any, run: Run) -> Fitted:
        self.family.asked.append(self.rank)
        model: Any = Scripted(self.family.confidence[self.rank])
        return Fitted(
            model, 1, history=[{"step": 10}], values={"rank": self.rank}, epochs=2.5, seconds=1.0
        )


def noisy(mean: float, spread: float, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).uniform(-spread, spread, len(LABELS))
    return np.clip(mean + draws, 0.01, 0.99)


def test_it_doubles_while_the_gain_beats_its_noise(make_run: Callable[..., Run]) -> None:
    family = Family(
        {1: noisy(0.6, 0.05, 1), 2: noisy(0.7, 0.05, 2), 4: noisy(0.8, 0.05, 3),
         8: noisy(0.795, 0.05, 4), 16: noisy(0.99, 0.0, 5)}
    )  # fmt: skip
    view: Any = View()
    fitted = search_rank(family, None, view, make_run())
    assert family.asked == [1, 2, 4, 8]  # 16 would be better, and is not looked for
    assert fitted.values["rank"] == 4
    assert [entry["rank"] for entry in fitted.values["rank_trail"]] == [1, 2, 4, 8]
    last = fitted.values["rank_trail"][-1]
    assert last["gain"] <= last["noise"]
    assert fitted.seconds == 4.0  # of all four fits, as the passes are
    assert fitted.epochs == 10.0
    assert re.search(r"Rank 4 was chosen on validation log loss: 1: 0\.5", fitted.notes[-1])


def test_it_ends_at_the_largest_rank_and_with_the_budget(make_run: Callable[..., Run]) -> None:
    better = {2**k: np.full(len(LABELS), 0.5 + 0.06 * k) for k in range(7)}
    view: Any = View()
    family = Family(better)
    assert search_rank(family, None, view, make_run()).values["rank"] == 64
    family = Family(better)
    short = search_rank(family, None, view, make_run(max_steps=25))
    assert family.asked == [1, 2]
    assert short.values["rank"] == 2
    assert "used up" in short.notes[-1]
    family = Family(better)
    search_rank(family, None, view, make_run(deadline=0.0))
    assert family.asked == [1]


def test_gain_and_noise_against_the_textbook() -> None:
    """The standard error of a mean of paired differences is s / √M."""
    before, after = (Scripted(noisy(m, 0.2, s)).proba(None) for m, s in ((0.6, 1), (0.65, 2)))
    gain, noise = gain_and_noise(before, after, LABELS)
    at = np.arange(len(LABELS))
    falls = -np.log(before[at, LABELS]) + np.log(after[at, LABELS])
    assert gain == pytest.approx(falls.mean())
    assert noise == pytest.approx(falls.std(ddof=1) / np.sqrt(len(LABELS)), rel=0.1)
    same_gain, same_noise = gain_and_noise(before, before, LABELS)
    assert same_gain == 0
    assert not same_gain > same_noise


def test_a_search_is_priced_as_two_trainings(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = views["text"]
    one, two = (
        make("lora", {"rank": rank, "epochs": 3}).measure(family_backbone("bert"), view, make_run())
        for rank in (8, "auto")
    )
    assert (one.epochs, two.epochs) == (3, 6)


def test_a_real_search(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    view, test = views["text"]
    backbone = family_backbone("bert")
    strategy = make("lora", {"rank": "auto", "epochs": 2, "merge": True})
    run = make_run()
    fitted = strategy.fit(backbone, view, run)
    trail = fitted.values["rank_trail"]
    chosen = fitted.values["rank"]
    assert chosen in [entry["rank"] for entry in trail]
    assert fitted.values["merged"]
    at = np.arange(len(view.validation))
    alone = Lora(rank=chosen, epochs=2).fit(backbone, view, make_run())
    scores = alone.model.proba(view.validation.without_labels())
    loss = -np.log(scores[at, view.validation.labels_N]).mean()
    entry = next(entry for entry in trail if entry["rank"] == chosen)
    assert entry["log_loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(fitted.model.proba(test), alone.model.proba(test), atol=1e-4)
    again = strategy.fit(backbone, view, Run(run.folder, device="cpu"))  # all read from the disk
    assert again.values["rank_trail"] == trail

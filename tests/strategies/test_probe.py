"""The probe: words that mean something, a depth that is chosen, a head that folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from warmstart.backbones import Backbone, Features, backbone
from warmstart.core import Run, UsageError
from warmstart.data import Dataset, split
from warmstart.models import Head, HeadShape, StandardizedHead
from warmstart.strategies import Probe, Prototypes, Tfidf, make

GOOD = ["excellent", "wonderful", "great", "superb", "lovely", "delightful", "perfect", "amazing"]
BAD = ["terrible", "awful", "horrible", "dreadful", "useless", "disgusting", "broken", "worst"]
THINGS = [
    "The phone is {}.",
    "What a {} film!",
    "My stay was {}.",
    "This soup tastes {}.",
    "{} day",
]


def test_beats_chance_on_the_feeling_of_words_it_never_saw(
    minilm: str, opened: Callable[..., Backbone], as_text: Any, make_run: Callable[..., Run]
) -> None:
    """Each word stands in one part only, so what carries over is the encoder's meaning of it."""
    from warmstart.data import View

    def rows(of: slice) -> Dataset:
        pairs = [(w, "good") for w in GOOD[of]] + [(w, "bad") for w in BAD[of]]
        texts = [(thing.format(word), label) for word, label in pairs for thing in THINGS]
        return as_text([t for t, _ in texts], [n for _, n in texts])

    train, validation, test = rows(slice(0, 5)), rows(slice(5, 6)), rows(slice(6, 8))
    fitted = Probe().fit(opened(minilm), View(train, validation), make_run())
    scores_NC = fitted.model.proba(test.without_labels())
    assert (scores_NC.argmax(axis=1) == test.labels_N).mean() >= 0.8
    assert fitted.trainable_parameters == 2 * 384 + 2
    assert fitted.values["depth"] == "last"
    losses = fitted.values["l2_losses"]
    assert f"{fitted.values['l2']:g}" == min(losses, key=lambda k: losses[k])


class Layered(nn.Module):
    """Two blocks over a one-hot word; the second throws away what the first still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8, bias=False)
        self.one = nn.Linear(8, 8, bias=False)
        self.two = nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            self.stem.weight.copy_(torch.eye(8))
            self.one.weight.copy_(torch.eye(8) * 2)
            self.two.weight.copy_(torch.diag(torch.tensor([0.0] * 2 + [1.0] * 6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.two(self.one(self.stem(x)))
        return out


def numbers(inputs: Any) -> dict[str, torch.Tensor]:
    """`3 1`: word 3 of class 1; the class lies in the first two numbers, the rest is noise."""
    rows = []
    for text in inputs:
        word, label = map(int, text.split()) if text[0].isdigit() else (0, 0)
        generator = torch.Generator().manual_seed(word)
        row = torch.randn(8, generator=generator)
        row[0], row[1] = 3.0 * label, 3.0 - 3.0 * label
        rows.append(row)
    return {"x": torch.stack(rows)}


@pytest.fixture
def layered() -> Backbone:
    return backbone(
        module=Layered(), processor=numbers, modality="text", name="layered",
        groups={"stem": ["stem"], "one": ["one"], "two": ["two"]},
    )  # fmt: skip


@pytest.mark.parametrize("l2", ["auto", 0.01])
def test_auto_depth_picks_the_layer_that_still_knows(
    layered: Backbone, as_text: Any, make_run: Callable[..., Run], l2: Any
) -> None:
    data = as_text([f"{i} {i % 2}" for i in range(80)], [f"class {i % 2}" for i in range(80)])
    parts = split(data)
    view, test = parts.view(data), parts.test_rows(data)

    def accuracy(strategy: Probe) -> tuple[float, Any]:
        fitted = strategy.fit(layered, view, make_run())
        scores_NC = fitted.model.proba(test.without_labels())
        return float((scores_NC.argmax(axis=1) == test.labels_N).mean()), fitted.values

    chosen, values = accuracy(Probe(depth="auto", l2=l2))
    assert values["depth"] == 1
    assert set(values["depth_losses"]) == {"last", "1"}
    assert values["depth_losses"]["1"] < 0.3 < values["depth_losses"]["last"]
    assert chosen == 1.0
    assert accuracy(Probe(depth=1, l2=l2))[0] == 1.0
    assert accuracy(Probe(l2=l2))[0] < 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, r"probe\.hidden must be at least 1 and at most 65,536, got 0"),
        ({"depth": -1}, r"probe\.depth must be 'last' or 'auto' or at least 0, got -1"),
        ({"depth": "x"}, r"probe\.depth must be 'last' or 'auto' or a whole number, got 'x'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make("probe", settings)


@pytest.mark.parametrize("text", ["0|1", "-1", "1|x", ""])
def test_strengths_are_positive_numbers(text: str) -> None:
    with pytest.raises(UsageError, match=r"tfidf\.strengths"):
        make("tfidf", {"strengths": text})
    with pytest.raises(UsageError, match=r"tfidf\.strengths"):
        make("tfidf", {"strengths": ()})
    assert make("tfidf", {"strengths": "1|10"}) == Tfidf(strengths=(1.0, 10.0))


def test_a_depth_beyond_the_backbone_is_refused(
    text_view: Any, tiny_text: Any, opened: Callable[..., Backbone], make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    source = opened(tiny_text)
    Probe(depth=2).check(source, view)
    for depth_of in (Probe(depth=3).check, lambda b, v: Probe(depth=3).fit(b, v, make_run())):
        with pytest.raises(UsageError, match=r"probe\.depth must be between 0 and 2 .*got 3"):
            depth_of(source, view)


def test_the_mlp_head_folds_its_standardisation_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors_ND = torch.randn(20, 5, generator=generator) * 30 + 100
    mean_D, scale_D = vectors_ND.mean(dim=0), vectors_ND.std(dim=0)
    head = Head(HeadShape(dimension=5, classes=3, hidden=7)).double().eval()
    wide = vectors_ND.double()
    before_NC = head((wide - mean_D) / scale_D)
    folded = StandardizedHead(head, mean_D.double(), scale_D.double()).folded()
    torch.testing.assert_close(folded(wide), before_NC, rtol=1e-12, atol=1e-12)


def test_the_mlp_head_is_what_was_validated(
    text_view: Any, tiny_text: Any, opened: Callable[..., Backbone], make_run: Callable[..., Run]
) -> None:
    """The saved head on raw vectors gives the best epoch's validation loss again."""
    view, _ = text_view
    fitted = Probe(head="mlp", hidden=8).fit(opened(tiny_text), view, make_run())
    scores_MC = fitted.model.proba(view.validation.without_labels())
    truth_M = view.validation.labels_N
    loss = -float(np.log(scores_MC[np.arange(len(truth_M)), truth_M]).mean())
    best = min(row["validation_loss"] for row in fitted.history)
    assert loss == pytest.approx(best, abs=1e-5)
    assert fitted.values["best_epoch"] is not None


def test_prototypes_are_the_mean_directions(
    text_view: Any, tiny_text: Any, opened: Callable[..., Backbone], make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    source = opened(tiny_text)
    fitted = Prototypes().fit(source, view, make_run())
    train = source.features(view.train)
    anchors = []
    for c in range(view.n_classes):
        total = np.zeros(train.vectors_ND.shape[1])
        for row in np.flatnonzero(view.train.labels_N == c):
            total += train.vectors_ND[row] / np.linalg.norm(train.vectors_ND[row])
        anchors.append(total / np.linalg.norm(total))
    held = source.features(test).vectors_ND
    cosine_NC = held / np.linalg.norm(held, axis=1, keepdims=True) @ np.array(anchors).T
    logits_NC = fitted.values["scale"] * cosine_NC
    expected_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.model.proba(test), expected_NC, atol=1e-5)


def test_prototypes_leave_a_class_without_rows_alone(
    as_text: Any, topics: Any, tiny_text: Any, opened: Any, make_run: Any
) -> None:
    from warmstart.data import View

    data = as_text(*topics(30, 3))
    seen = [i for i, label in enumerate(data.labels_N) if label != 2]
    view = View(data.select(seen[:14]), data.select(seen[14:]))
    fitted = Prototypes().fit(opened(tiny_text), view, make_run())
    scores_NC = fitted.model.proba(data)
    assert np.isfinite(scores_NC).all()


def test_a_feature_space_is_shared_with_the_model(
    text_view: Any, tiny_text: Any, opened: Any, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predicting with a probe on rows that are embedded already runs no network."""
    view, test = text_view
    source = opened(tiny_text)
    source.features(test)
    fitted = Probe().fit(source, view, make_run())

    def no_load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(Backbone, "_load", no_load)
    assert len(fitted.model.proba(test)) == len(test)
    assert isinstance(source.features(view.train), Features)

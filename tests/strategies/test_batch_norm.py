"""Batch normalisation: its own statistics where a step has rows enough, else the pretraining's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from warmstart.backbones import Backbone, Encoder, freeze
from warmstart.core import Run, RunError, UsageError
from warmstart.data import View, read, split
from warmstart.strategies import make

Statistics = dict[str, torch.Tensor]


@pytest.fixture
def image(image_view: Any, tiny_resnet: Path, opened: Any) -> tuple[Backbone, View]:
    return opened(tiny_resnet), image_view[0]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> View:
    """132 training rows of noise."""
    generator = np.random.default_rng(1)
    root = tmp_path_factory.mktemp("noise")
    for label in ("a", "b"):
        (root / label).mkdir()
        for place in range(110):
            pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{place}.png")
    data = read(root)
    return split(data).view(data)


def statistics(encoder: Encoder) -> Statistics:
    """Every mean, variance, scale and weight."""
    return {key: value.clone() for key, value in encoder.module.state_dict().items()}


def moved(source: Backbone, encoder: Encoder, ending: str) -> list[bool]:
    before, after = statistics(source.load(device="cpu")), statistics(encoder)
    return [not torch.equal(before[key], after[key]) for key in before if key.endswith(ending)]


def test_with_statistics_held_no_row_depends_on_its_neighbours(image: Any) -> None:
    encoder = image[0].load(device="cpu")
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pairs = [{"pixel_values": pixels[[0, place]]} for place in (1, 2)]
    for mode, same in (("train", False), ("eval", True)):
        encoder.batch_norm = mode
        encoder.train()
        with torch.no_grad():
            first, second = (encoder(pair)[0] for pair in pairs)
        assert torch.equal(first, second) is same


@pytest.mark.parametrize("name", ["finetune", "partial", "unfreeze", "lp-ft"])
def test_steps_of_few_rows_keep_the_statistics(
    name: str, image: Any, make_run: Callable[..., Run], notes: list[str]
) -> None:
    """24 training rows are taken 4 at a time: scale and shift learn, mean and variance rest."""
    source, view = image
    fitted = make(name, {"epochs": 2}).fit(source, view, make_run())
    assert fitted.values["batch_size"] == 4
    assert not any(moved(source, fitted.model.encoder, "running_mean"))
    assert not any(moved(source, fitted.model.encoder, "running_var"))
    assert not any(moved(source, fitted.model.encoder, "num_batches_tracked"))
    assert any(moved(source, fitted.model.encoder, "normalization.weight"))
    learned = [row for row in fitted.rates if not row["frozen"] and row["batch_norm"] != "-"]
    assert learned
    assert {row["batch_norm"] for row in learned} == {"eval"}
    assert sum("keeps the statistics that it came with" in note for note in notes) == 1


@pytest.mark.parametrize("name", ["finetune", "partial", "unfreeze", "lp-ft"])
def test_they_may_be_asked_to_move(name: str, image: Any, make_run: Callable[..., Run]) -> None:
    source, view = image
    fitted = make(name, {"epochs": 2, "batch_norm": "train"}).fit(source, view, make_run())
    assert any(moved(source, fitted.model.encoder, "running_mean"))
    assert "train" in {row["batch_norm"] for row in fitted.rates if not row["frozen"]}


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ({"batch_size": 16}, True),
        ({"batch_size": 15}, False),
        ({"batch_size": 16, "batch_norm": "eval"}, False),
    ],
)
def test_sixteen_rows_are_enough(
    settings: dict[str, Any], moves: bool, tiny_resnet: Path, opened: Any, many: View,
    make_run: Callable[..., Run],
) -> None:  # fmt: skip
    source = opened(tiny_resnet)
    fitted = make("finetune", settings).fit(source, many, make_run(max_steps=2))
    assert fitted.values["batch_size"] == settings["batch_size"]
    assert any(moved(source, fitted.model.encoder, "running_mean")) is moves


def test_random_weights_have_no_statistics_to_keep(
    image: Any, make_run: Callable[..., Run]
) -> None:
    source, view = image
    fitted = make("scratch", {"epochs": 1}).fit(source, view, make_run())
    state = statistics(fitted.model.encoder)
    means = [value for key, value in state.items() if key.endswith("running_mean")]
    assert all(bool(mean.any()) for mean in means)
    with pytest.raises(UsageError, match=r"scratch\.batch_norm=eval would keep statistics"):
        make("scratch", {"batch_norm": "eval"}).fit(source, view, make_run())


def test_an_adapters_base_never_moves(image: Any, make_run: Callable[..., Run]) -> None:
    source, view = image
    with pytest.raises(UsageError, match=r"lora\.batch_norm=train would move"):
        make("lora", {"batch_norm": "train"}).fit(source, view, make_run())


def test_statistics_that_move_against_the_setting_are_an_error(
    image: Any, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, view = image
    monkeypatch.setattr(nn.BatchNorm2d, "eval", lambda self: self)
    with pytest.raises(RunError, match=r"frozen parts changed while training: .*running_mean"):
        make("finetune", {"epochs": 1}).fit(source, view, make_run())


def test_freezing_and_holding_go_together(image: Any) -> None:
    encoder = image[0].load(device="cpu")
    encoder.batch_norm = "eval"
    freeze(encoder, encoder.groups.names[:1])
    encoder.train()
    assert not any(part.training for _, part in encoder.batch_norms())
    last = encoder.groups.modules(encoder.groups.names[1])[0]
    assert last.training

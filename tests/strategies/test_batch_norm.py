"""Batch normalisation: steps with rows enough for its statistics, or none of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

from warmstart.backbones import Backbone, Encoder, backbone, batch_norms, freeze
from warmstart.core import Run, RunError, UsageError
from warmstart.data import View
from warmstart.strategies import make
from warmstart.strategies.recipe import Recipe, smaller_batches

Statistics = dict[str, torch.Tensor]


@pytest.fixture
def image(image_view: Any, tiny_resnet: Path, opened: Any) -> tuple[Backbone, View]:
    return opened(tiny_resnet), image_view[0]


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


@pytest.mark.parametrize(
    ("batch", "rows", "size"),
    [(16, 1000, 16), (16, 24, 16), (64, 24, 16), (64, 300, 32), (8, 24, 8)],
)
def test_sixteen_rows_are_the_fewest_for_batch_statistics(batch: int, rows: int, size: int) -> None:
    recipe = Recipe(batch_size=batch)
    assert smaller_batches(recipe, rows, batch_norm=True).batch_size == size


@pytest.mark.parametrize("name", ["finetune", "partial", "unfreeze", "lp-ft", "scratch", "lora"])
def test_small_data_is_cut_no_further(
    name: str, image: Any, tiny_vit: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    """24 training rows: 16 a step for the network with batch norm, 4 for that without."""
    for source, size in ((image[0], 4 if name == "lora" else 16), (opened(tiny_vit), 4)):
        fitted = make(name, {"epochs": 1}).fit(source, image[1], make_run())
        assert fitted.values["batch_size"] == size


@pytest.mark.parametrize("name", ["finetune", "partial", "unfreeze", "lp-ft"])
def test_statistics_may_be_kept(
    name: str, image: Any, make_run: Callable[..., Run], notes: list[str]
) -> None:
    """Scale and shift learn, mean and variance rest, and the table says so."""
    source, view = image
    fitted = make(name, {"epochs": 2, "batch_norm": "eval"}).fit(source, view, make_run())
    assert fitted.values["batch_size"] == 4
    for ending in ("running_mean", "running_var", "num_batches_tracked"):
        assert not any(moved(source, fitted.model.encoder, ending))
    assert any(moved(source, fitted.model.encoder, "normalization.weight"))
    learned = [row for row in fitted.rates if not row["frozen"] and row["batch_norm"] != "-"]
    assert {row["batch_norm"] for row in learned} == {"eval"}
    assert sum("keeps the statistics that it came with" in note for note in notes) == 1


@pytest.mark.parametrize("name", ["finetune", "partial", "unfreeze", "lp-ft"])
def test_they_move_by_default(
    name: str, image: Any, make_run: Callable[..., Run], notes: list[str]
) -> None:
    source, view = image
    fitted = make(name, {"epochs": 2}).fit(source, view, make_run())
    assert any(moved(source, fitted.model.encoder, "running_mean"))
    assert "train" in {row["batch_norm"] for row in fitted.rates if not row["frozen"]}
    assert not any("keeps the statistics" in note for note in notes)


def test_a_backbone_tells_whether_it_has_batch_norm(
    image: Any, tiny_text: Path, tiny_vit: Path, opened: Any
) -> None:
    assert image[0].has_batch_norm
    assert not opened(tiny_text).has_batch_norm
    assert not opened(tiny_vit).has_batch_norm
    for norm, has in ((nn.BatchNorm1d(3), True), (nn.LayerNorm(3), False)):
        own = backbone(
            module=nn.Sequential(nn.Linear(3, 3), norm), processor=letters, modality="text",
            groups={"a": ["0"], "b": ["1"]}, name="own",
        )  # fmt: skip
        assert own.has_batch_norm is has


def letters(inputs: Any) -> dict[str, torch.Tensor]:
    return {"input": torch.tensor([[float(text.count(c)) for c in "aeo"] for text in inputs])}


@pytest.mark.parametrize("name", ["finetune", "unfreeze", "scratch", "cnn"])
def test_a_lone_last_row_is_no_step_of_its_own(
    name: str, image: Any, tiny_resnet: Path, tmp_path: Path, opened: Any,
    make_run: Callable[..., Run],
) -> None:  # fmt: skip
    """17 rows, and a last stage of one pixel: one row has no variance there."""
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 4, 4, 8], depths=[1, 1, 1, 1], layer_type="basic"
    )
    ResNetModel(config).save_pretrained(tmp_path / "deep")
    shutil.copy(tiny_resnet / "preprocessor_config.json", tmp_path / "deep")
    view = image[1]
    view = View(view.train.select(np.arange(17)), view.validation)
    fitted = make(name, {"epochs": 1}).fit(opened(tmp_path / "deep"), view, make_run())
    assert fitted.epochs >= 1


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
    with pytest.raises(UsageError, match=r"lora\.batch_norm must be"):
        make("lora", {"batch_norm": "train"}).fit(source, view, make_run())


def test_statistics_that_move_against_the_setting_are_an_error(
    image: Any, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, view = image
    monkeypatch.setattr(nn.BatchNorm2d, "eval", lambda self: self)
    strategy = make("finetune", {"epochs": 1, "batch_norm": "eval"})
    with pytest.raises(RunError, match=r"frozen parts changed while training: .*running_mean"):
        strategy.fit(source, view, make_run())


def test_freezing_and_holding_go_together(image: Any) -> None:
    encoder = image[0].load(device="cpu")
    encoder.batch_norm = "eval"
    freeze(encoder, encoder.groups.names[:1])
    encoder.train()
    assert not any(part.training for _, part in batch_norms(encoder.module))
    last = encoder.groups.modules(encoder.groups.names[1])[0]
    assert last.training

"""Tiny models of every family of the table, and a few rows for each modality."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers as t

from warmstart.backbones import Backbone, backbone
from warmstart.core import Run
from warmstart.data import Dataset, View, read, split


def _load(place: str) -> Any:
    path = Path(__file__).parent.parent.parent / place
    spec = importlib.util.spec_from_file_location(path.stem + "_of_peft", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = _load("backbones/tiny.py")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _further() -> dict[str, Callable[[], Any]]:
    """Families of the table that tests/backbones has no configuration of."""
    text, lm, stages = TINY._TEXT, TINY._LM, TINY._STAGES
    return {
        "camembert": lambda: t.CamembertModel(t.CamembertConfig(**text)),
        "clip_text_model": lambda: t.CLIPTextModel(t.CLIPTextConfig(projection_dim=16, **lm)),
        "clip_vision_model": lambda: t.CLIPVisionModel(
            t.CLIPVisionConfig(projection_dim=16, **TINY._PATCH)
        ),
        "convnextv2": lambda: t.ConvNextV2Model(t.ConvNextV2Config(**stages)),
        "mistral": lambda: t.MistralModel(t.MistralConfig(num_key_value_heads=1, **lm)),
        "qwen3": lambda: t.Qwen3Model(t.Qwen3Config(num_key_value_heads=2, head_dim=16, **lm)),
    }


@pytest.fixture(scope="session")
def family_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    """`family_backbone("bert")`: a tiny random model of that family."""
    root = tmp_path_factory.mktemp("peft-families")
    made: dict[str, Path] = {}

    def get(family: str, **settings: Any) -> Backbone:
        if family not in made:
            made[family] = TINY.make_folder(root, family, _lively(family))
        return backbone(str(made[family]), **settings)

    return get


def _lively(family: str) -> Any:
    """A seeded random model through which differences are seen at its end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        further = _further().get(family)
        config = TINY.configs().get(family)
        if family == "efficientnet":
            config.batch_norm_eps = 1e-5  # its tiny maps are so small that the usual one hides them
        model = further() if further else t.AutoModel.from_config(config)
        TINY._spread(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "layer_scale" in name:
                    parameter.fill_(1.0)
            norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
            for part in norms:
                part.momentum = 1.0
            if norms:
                model.train()(pixel_values=torch.randn(8, 3, 32, 32))
    return model.eval()


def letters(count: int) -> Dataset:
    """Texts of letters; the class is whether they begin early in the alphabet."""
    texts, labels = [], []
    for i in range(count):
        early = i % 2 == 0
        start = (i * 3) % 10 + (0 if early else 13)
        texts.append(" ".join(LETTERS[(start + j) % 26] for j in range(2 + i % 7)))
        labels.append("early" if early else "late")
    texts = [f"{text} {LETTERS[i % 26]}" for i, text in enumerate(texts)]
    return read(datasets.Dataset.from_dict({"text": texts, "label": labels}))


@pytest.fixture(scope="session")
def views(pictures: Path) -> dict[str, tuple[View, Dataset]]:
    """A small view and test rows by modality."""
    found = {}
    for modality, data in (("text", letters(40)), ("image", read(pictures))):
        parts = split(data)
        found[modality] = (parts.view(data), parts.test_rows(data).without_labels())
    return found


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """A run in a folder of its own, on the CPU."""
    count = iter(range(1000))

    def make(seed: int = 0, **settings: Any) -> Run:
        return Run(tmp_path / f"run-{next(count)}", seed=seed, device="cpu", **settings)

    return make

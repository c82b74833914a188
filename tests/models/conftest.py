"""Tiny models of every family, from the builders of tests/backbones, and rows to classify."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from warmstart.backbones import Backbone, Encoder, backbone, embed_inputs
from warmstart.data import Dataset, from_inputs
from warmstart.models import EncoderModel, Head


def _builders() -> Any:
    path = Path(__file__).parent.parent / "backbones" / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny_of_backbones", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = _builders()
NAMES = ("apple", "ünï", "third class")


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The module tests/backbones/tiny.py."""
    return TINY


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`family_folder("bert")`: a saved tiny model."""
    root = tmp_path_factory.mktemp("families")
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = TINY.make_folder(root, family, calibrated(family))
        return made[family]

    return get


@pytest.fixture(scope="session")
def rows() -> Callable[[Any], Dataset]:
    """`rows(backbone)`: a few unlabelled rows that it reads."""

    def get(bone: Backbone) -> Dataset:
        text = bone.modality == "text"
        return from_inputs(TINY.TEXTS if text else TINY.pictures(4), "text" if text else "image")

    return get


@pytest.fixture(scope="session")
def make_model() -> Callable[..., EncoderModel]:
    """`make_model(source, tuned=True, pooling=None, ...)`: a model with a random linear head."""

    def get(
        source: Any,
        *,
        tuned: bool = False,
        depth: int | None = None,
        pooling: str | None = None,
        normalize: bool = False,
        **settings: Any,
    ) -> EncoderModel:
        bone = source if isinstance(source, Backbone) else backbone(str(source), **settings)
        encoder = bone.load(device="cpu")
        if tuned:
            tune(encoder)
        examples = TINY.TEXTS if encoder.modality == "text" else TINY.pictures(4)
        vectors_ND = embed_inputs(encoder, examples, depth=depth, pooling=pooling)
        mean_D, scale = vectors_ND.mean(axis=0), vectors_ND.std(axis=0).max()
        generator = np.random.default_rng(0)
        weight_CD = generator.normal(scale=0.1 / scale, size=(len(NAMES), len(mean_D)))
        bias_C = generator.normal(scale=0.1, size=len(NAMES)) - weight_CD @ mean_D
        head = Head.linear(weight_CD, bias_C, normalize=normalize)
        given = encoder if tuned else None
        return EncoderModel(bone, head, NAMES, encoder=given, depth=depth, pooling=pooling)

    return get


def tune(encoder: Encoder) -> None:
    """Move every weight and batch-norm statistic, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in encoder.module.state_dict().values():
            if value.is_floating_point():
                scale = 1 + 0.1 * torch.rand(value.shape, generator=generator)
                value.mul_(scale)


def calibrated(family: str) -> Any:
    """A random model whose batch norms know their inputs, so that images differ at its end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(TINY.configs()[family])
        TINY._spread(model)
        norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for part in norms:
            part.momentum = 1.0
        if norms:
            with torch.no_grad():
                model.train()(pixel_values=torch.randn(8, 3, 32, 32))
        return model.eval()

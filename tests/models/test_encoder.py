"""The encoder model: cached or not, untouched or tuned, it answers the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import FeatureCache, backbone, state_hash
from warmstart.models import MODEL_FILE, EncoderModel, Head, HeadShape, load_model, native_pooling

Folders = Callable[[str], Path]
Models = Callable[..., EncoderModel]


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("family", ["bert", "vit", "clip", "resnet"])
def test_saving_what_was_loaded_changes_nothing(
    family: str, tuned: bool, tmp_path: Path, family_folder: Folders, make_model: Models
) -> None:
    model = make_model(family_folder(family), tuned=tuned)
    first = model.save(tmp_path / "first")
    second = load_model(first, device="cpu").save(tmp_path / "second")
    names = sorted(p.relative_to(first).as_posix() for p in first.rglob("*") if p.is_file())
    assert names == sorted(
        p.relative_to(second).as_posix() for p in second.rglob("*") if p.is_file()
    )
    for name in names:
        raw, again = (first / name).read_bytes(), (second / name).read_bytes()
        if name == "tokenizer_config.json":  # transformers writes its keys in any order
            assert json.loads(raw) == json.loads(again)
        else:
            assert raw == again, name
    facts = json.loads((first / MODEL_FILE).read_text())
    assert facts["backbone"]["source"] == str(family_folder(family))
    assert facts["tuned"] is tuned


def test_an_untouched_model_uses_the_cache_and_a_tuned_one_does_not(
    tmp_path: Path, family_folder: Folders, make_model: Models, rows: Any
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    bone = backbone(family_folder("bert"), cache=cache)
    dataset = rows(bone)
    tuned = make_model(bone, tuned=True)
    tuned.proba(dataset)
    assert cache.size_bytes() == 0
    model = make_model(bone)
    proba_NC = model.proba(dataset)
    size = cache.size_bytes()
    assert size > 0
    np.testing.assert_array_equal(model.proba(dataset), proba_NC)
    np.testing.assert_allclose(model.proba_of(dataset.inputs()), proba_NC, rtol=0, atol=1e-6)
    assert cache.size_bytes() == size
    assert np.abs(tuned.proba(dataset) - proba_NC).max() > 1e-3


def test_an_untouched_encoder_goes_where_the_backbone_is_and_the_head_follows(
    family_folder: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands in for an accelerator, whose numbers are not looked at."""
    best = torch.device("meta")
    monkeypatch.setattr(
        sys.modules["warmstart.backbones.backbone"],
        "pick_device",
        lambda name: best if name == "auto" else torch.device(name),
    )
    asked: list[str] = []

    def vectors(encoder: Any, inputs: Any, **_: Any) -> np.ndarray:
        asked.append(encoder.device.type)
        return np.zeros((len(inputs), 4))

    monkeypatch.setattr("warmstart.models.encoder.embed_inputs", vectors)
    where: list[str] = []

    def proba(head: Any, vectors_ND: np.ndarray) -> np.ndarray:
        where.append(head.output.weight.device.type)
        return np.full((len(vectors_ND), 3), 1 / 3)

    monkeypatch.setattr("warmstart.models.heads.Head.proba", proba)
    source = family_folder("bert")
    for bone in (backbone(source), backbone(source).with_settings(device="cpu")):
        head = Head(HeadShape(dimension=4, classes=3))
        EncoderModel(bone, head, ("a", "b", "c")).proba_of(["one", "two"])
    assert asked == where == ["meta", "cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_untouched_model_predicts_on_the_gpu(
    family_folder: Folders, make_model: Models, rows: Any
) -> None:
    model = make_model(family_folder("bert"))
    proba_NC = model.proba_of(rows(model.backbone).inputs())
    assert model.encoder.device.type == model.head.output.weight.device.type == "cuda"
    bone = model.backbone.with_settings(device="cpu")
    forced = EncoderModel(bone, make_model(family_folder("bert")).head, model.label_names)
    np.testing.assert_allclose(forced.proba_of(rows(model.backbone).inputs()), proba_NC, atol=1e-3)
    assert forced.encoder.device.type == "cpu"


def test_saving_and_predicting_move_no_weight(
    tmp_path: Path, family_folder: Folders, make_model: Models, rows: Any
) -> None:
    model = make_model(family_folder("resnet"), tuned=True)
    model.encoder.train()
    before = state_hash(model.encoder.module)
    dataset = rows(model.backbone)
    proba_NC = model.proba(dataset)  # in evaluation mode
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(model.proba(dataset), proba_NC)
    assert state_hash(model.encoder.module) == before


@pytest.mark.parametrize("family", ["clip", "resnet", "gpt2", "dinov2"])
def test_a_depth_takes_the_pooling_of_inner_layers(
    family: str, family_folder: Folders, make_model: Models, rows: Any
) -> None:
    model = make_model(family_folder(family), depth=1)
    assert model.pooling == model.backbone.space(depth=1).pooling
    features = model.backbone.features(rows(model.backbone), depth=1)
    np.testing.assert_allclose(
        model.proba(rows(model.backbone)), model.head.proba(features.vectors_ND), atol=1e-6
    )


def test_parameters_are_counted_whether_loaded_or_not(
    family_folder: Folders, make_model: Models
) -> None:
    source = family_folder("bert")
    model = make_model(source)
    head = sum(p.numel() for p in model.head.parameters())
    assert model.parameters == backbone(source).card.parameters + head
    encoder = sum(p.numel() for p in model.encoder.parameters())
    assert model.parameters == make_model(source, tuned=True).parameters == encoder + head


def test_native_pooling_is_stated(family_folder: Folders, make_model: Models) -> None:
    wanted = {"vit": "cls", "resnet": "model", "bert": "model", "dinov2": None, "roberta": None}
    for family, pooling in wanted.items():
        model = make_model(family_folder(family))
        assert native_pooling(model.encoder) == pooling
        assert model.facts()["native_pooling"] == pooling


@pytest.mark.weights
def test_the_packaged_minilm(minilm: str, tmp_path: Path, make_model: Models) -> None:
    texts = ["A lovely film.", "I hated every minute.", "", "word " * 400]
    model = make_model(minilm, tuned=True)
    assert model.opens_with[0] == "sentence_transformers.SentenceTransformer"
    proba_NC = model.proba_of(texts)
    folder = model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    np.testing.assert_allclose(loaded.proba_of(texts), proba_NC, rtol=0, atol=1e-6)
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer

    opened = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors_ND = opened.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, rtol=1e-5)
    head = load_file(folder / "head.safetensors")
    logits = torch.from_numpy(vectors_ND @ head["output.weight"].T + head["output.bias"])
    np.testing.assert_allclose(logits.softmax(1).numpy(), proba_NC, rtol=0, atol=1e-5)

"""Zero-shot by entailment: the right logit, the right pairs, and models that cannot do it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from warmstart.core import BackboneError
from warmstart.data import from_inputs
from warmstart.models import NliModel, load_model

LABELS = ("fruit", "vehicle")
HYPOTHESES = ("this text is about apple .", "this text is about car .")
TEXTS = ["the red apple", "a truck near the old train", "my", ""]


def changed(source: Path, target: Path, **values: Any) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **values}))
    return target


def test_slow_twin(tiny_nli: Path) -> None:
    model = NliModel.open(str(tiny_nli), LABELS, HYPOTHESES, "cpu")
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_nli).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_nli)
    logits = np.zeros((len(TEXTS), 2))
    with torch.inference_mode():
        for n, text in enumerate(TEXTS):
            for c, hypothesis in enumerate(HYPOTHESES):
                batch = tokenizer(text, hypothesis, return_tensors="pt")
                logits[n, c] = float(network(**batch).logits[0, 2])  # "ENTAILMENT"
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    proba_NC = model.proba_of(TEXTS)
    np.testing.assert_allclose(proba_NC, expected, rtol=0, atol=1e-5)
    assert proba_NC.std(axis=0).max() > 1e-3
    np.testing.assert_array_equal(model.proba(from_inputs(TEXTS, "text")), proba_NC)
    assert model.proba_of([]).shape == (0, 2)
    assert model.parameters == sum(p.numel() for p in network.parameters())


def test_round_trip(tiny_nli: Path, tmp_path: Path) -> None:
    model = NliModel.open(str(tiny_nli), LABELS, HYPOTHESES, "cpu")
    folder = model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    assert isinstance(loaded, NliModel)
    assert (loaded.label_names, loaded.hypotheses) == (LABELS, HYPOTHESES)
    np.testing.assert_allclose(loaded.proba_of(TEXTS), model.proba_of(TEXTS), rtol=0, atol=1e-6)
    assert loaded.opens_with == ("transformers.AutoModelForSequenceClassification",)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    for key, value in opened.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[key]), key


def test_a_long_text_is_cut_and_its_hypothesis_is_not(tiny_nli: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nli"
    shutil.copytree(tiny_nli, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length")  # many folders do not say; the network's positions do
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = NliModel.open(str(folder), LABELS, HYPOTHESES, "cpu")
    long = "apple " * 300
    proba_NC = model.proba_of([long, long + "car"])
    assert np.isfinite(proba_NC).all()
    np.testing.assert_allclose(proba_NC[0], proba_NC[1], rtol=0, atol=1e-6)
    assert abs(proba_NC[0, 0] - proba_NC[0, 1]) > 1e-4


def test_no_entailment_label(tiny_nli: Path, tmp_path: Path) -> None:
    names = {"0": "negative", "1": "neutral", "2": "positive"}
    folder = changed(tiny_nli, tmp_path / "x", id2label=names, label2id={})
    with pytest.raises(
        BackboneError, match="has no entailment label, only negative, neutral, positive"
    ):
        NliModel.open(str(folder), LABELS, HYPOTHESES, "cpu")


def test_a_classifier_without_its_weights(tiny_text: Path, tmp_path: Path) -> None:
    names = {"0": "entailment", "1": "contradiction"}
    folder = changed(tiny_text, tmp_path / "x", id2label=names, label2id={})
    with pytest.raises(BackboneError, match=r"lacks weights .* stay random: .*classifier"):
        NliModel.open(str(folder), LABELS, HYPOTHESES, "cpu")


def test_damaged_and_pickled(tiny_nli: Path, tmp_path: Path) -> None:
    folder = changed(tiny_nli, tmp_path / "x")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BackboneError, match="cannot be read"):
        NliModel.open(str(folder), LABELS, HYPOTHESES, "cpu")
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="cannot be read"):
        NliModel.open(str(folder), LABELS, HYPOTHESES, "cpu")
    with pytest.raises(BackboneError, match=r"NLI model: .*nowhere"):
        NliModel.open(str(tmp_path / "nowhere"), LABELS, HYPOTHESES, "cpu")

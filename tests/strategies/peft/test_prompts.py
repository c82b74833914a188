"""Learned tokens: room for them, what is pooled, what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run, UsageError, progress
from warmstart.models import load_model
from warmstart.strategies import make

QUICK = {"batch_size": 4, "schedule": "constant", "warmup": 0.0}
LONG = " ".join("abcdefghijklmnopqrstuvwxyz" * 3)


@pytest.mark.parametrize("method", ["prefix", "prompt", "ptuning"])
@pytest.mark.parametrize(("family", "limit"), [("bert", 40), ("roberta", 38), ("gpt2", 40)])
def test_texts_are_cut_where_positions_would_not_hold_both(
    method: str,
    family: str,
    limit: int,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "note", said.append)
    backbone = family_backbone(family)
    before = backbone.max_length
    view, _ = views["text"]
    model = make(method, {**QUICK, "tokens": 7}).fit(backbone, view, make_run(max_steps=1)).model
    cut = [text for text in said if "texts are cut" in text]
    assert len(cut) == 1
    assert f"texts are cut at {limit - 7} tokens instead of" in cut[0]
    assert backbone.max_length == before  # the caller's is as it was
    scores = model.proba_of([LONG])  # the longest text goes through
    assert np.isfinite(scores).all()
    loaded = load_model(model.save(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(loaded.proba_of([LONG]), scores, atol=1e-6)


def test_too_many_tokens_are_refused(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = views["text"]
    with pytest.raises(NotApplicable, match=r"leaves 5 of the 40 positions.*at most 32 tokens"):
        make("prompt", {"tokens": 35}).fit(family_backbone("bert"), view, make_run())
    with pytest.raises(UsageError, match=r"prefix\.tokens must be at least 1"):
        make("prefix", {"tokens": 0})


def test_counts_and_what_is_pooled(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    """Prefix: tokens · layers · 2 · width; prompt: tokens · width; the mean is over the text."""
    backbone = family_backbone("bert", max_length=20)
    view, _ = views["text"]
    prefix = make("prefix", {**QUICK, "tokens": 4}).fit(backbone, view, make_run(max_steps=1))
    assert prefix.values["adapter_parameters"] == 4 * 3 * 2 * 32
    prompt = make("prompt", {**QUICK, "tokens": 4}).fit(backbone, view, make_run(max_steps=1))
    assert prompt.values["adapter_parameters"] == 4 * 32
    assert prompt.rates[0]["group"] == "prompt adapter"
    encoder = prompt.model.encoder
    batch = encoder.preprocess(["a b c", "d"])
    network: Any = encoder.module
    with torch.inference_mode():
        words = network.embeddings.word_embeddings(batch["input_ids"])
        virtual = encoder.prompt["default"].embedding.weight.expand(2, -1, -1)
        mask = torch.cat([torch.ones(2, 4), batch["attention_mask"].float()], dim=1)
        inputs = torch.cat([virtual, words], dim=1)
        hidden = network(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        wanted = torch.stack([hidden[0, 4 : 4 + 5].mean(0), hidden[1, 4 : 4 + 3].mean(0)])
        torch.testing.assert_close(encoder(batch), wanted)


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_ptuning_saves_the_embeddings_alone(
    network: str,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file

    view, test = views["text"]
    settings = {**QUICK, "tokens": 4, "width": 6, "network": network}
    backbone = family_backbone("distilbert", max_length=20)
    model = make("ptuning", settings).fit(backbone, view, make_run(max_steps=2)).model
    folder = model.save(tmp_path / "m")
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {
        "prompt_embeddings": (4, 32)
    }
    loaded = load_model(folder, device="cpu")
    np.testing.assert_allclose(loaded.proba(test), model.proba(test), atol=1e-6)

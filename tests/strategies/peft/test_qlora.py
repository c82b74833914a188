"""QLoRA: a clear refusal without CUDA; the path to four bits with a stand-in for the package."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run
from warmstart.models import adapters_quantized as quantized
from warmstart.models import missing_for_4bit, quantize
from warmstart.strategies import make


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized.util, "find_spec", lambda _: None)


def test_what_is_missing_is_said(
    no_cuda: None,
    no_package: None,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
) -> None:
    view, _ = views["text"]
    message = r"qlora needs a CUDA device .* and the package bitsandbytes \(pip install.*lora"
    with pytest.raises(NotApplicable, match=message):
        make("qlora").check(family_backbone("bert"), view)
    with pytest.raises(NotApplicable, match=message):
        make("qlora").fit(family_backbone("bert"), view, make_run())
    with pytest.raises(NotApplicable, match=message):
        make("qlora").measure(family_backbone("bert"), view, make_run())
    with pytest.raises(NotApplicable, match="lora trains the same adapter without it"):
        quantize(family_backbone("bert").load(device="cpu"), torch.device("cpu"))


def test_each_lack_alone(monkeypatch: pytest.MonkeyPatch, no_package: None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert missing_for_4bit() == "the package bitsandbytes (pip install bitsandbytes)"
    monkeypatch.setattr(quantized.util, "find_spec", lambda _: object())
    assert missing_for_4bit() is None
    assert missing_for_4bit(torch.device("cpu")) == "to run on CUDA (the device is cpu)"
    assert missing_for_4bit(torch.device("cuda")) is None


def test_families_without_linear_layers_are_refused(
    family_backbone: Callable[..., Backbone], views: Any
) -> None:
    for family, kind in (("resnet", "image"), ("gpt2", "text")):
        with pytest.raises(NotApplicable, match="no linear layers that can be brought to 4 bits"):
            make("qlora").check(family_backbone(family), views[kind][0])


class _Params4bit(nn.Parameter):
    """Remembers how it was asked for; keeps the values as they are."""

    def __new__(cls, data: torch.Tensor, requires_grad: bool = False, **kinds: Any) -> Any:
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.kinds = kinds  # type: ignore[attr-defined]
        return made


class Linear4bit(nn.Linear):
    def __init__(self, inputs: int, outputs: int, bias: bool = True, **kinds: Any) -> None:
        super().__init__(inputs, outputs, bias)
        self.kinds = kinds


def test_linear_layers_of_the_blocks_become_4bit(
    monkeypatch: pytest.MonkeyPatch, family_backbone: Callable[..., Backbone]
) -> None:
    stand_in = types.ModuleType("bitsandbytes")
    stand_in.nn = types.SimpleNamespace(Linear4bit=Linear4bit, Params4bit=_Params4bit)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", stand_in)
    monkeypatch.setattr(quantized, "missing_for_4bit", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    encoder = family_backbone("bert").load(device="cpu")
    batch = encoder.preprocess(["a b c"])
    with torch.inference_mode():
        before = encoder(batch)
    done = quantize(encoder, torch.device("cpu"))
    assert len(done) == 3 * 6
    network: Any = encoder.module
    for path in done:
        layer = network.get_submodule(path)
        assert isinstance(layer, Linear4bit)
        assert layer.kinds["quant_type"] == "nf4"
        assert layer.kinds["compute_dtype"] == torch.bfloat16
        assert layer.weight.kinds == {"compress_statistics": True, "quant_type": "nf4"}
        assert not layer.weight.requires_grad
    assert type(network.pooler.dense) is nn.Linear  # outside the blocks
    assert network.is_loaded_in_4bit
    with torch.inference_mode():
        assert torch.equal(encoder(batch), before)

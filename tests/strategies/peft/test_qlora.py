"""QLoRA: a true reason where it cannot run; four bits, with the package and with a stand-in."""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.backbones import Backbone, backbone, blueprint, count_weights, embed_inputs
from warmstart.core import NotApplicable, Run
from warmstart.models import adapters_quantized as quantized
from warmstart.models import load_model, missing_for_4bit, quantize
from warmstart.models.adapters import network_fingerprint
from warmstart.planning import count_training
from warmstart.strategies import make
from warmstart.strategies.peft import merge

BNB = importlib.util.find_spec("bitsandbytes") is not None
with_package = pytest.mark.skipif(not BNB, reason="bitsandbytes is not installed")
CPU = torch.device("cpu")
# Dettmers et al. 2023, QLoRA, appendix E
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    """What was found of a device in one test is not known in another."""
    quantized._fault.cache_clear()
    yield
    quantized._fault.cache_clear()


def test_a_missing_package_is_said(
    monkeypatch: pytest.MonkeyPatch,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
) -> None:
    monkeypatch.setattr(quantized, "_installed", lambda: False)
    assert missing_for_4bit() == "the package bitsandbytes (pip install 'warmstart[qlora]')"
    view, _ = views["text"]
    message = r"qlora needs the package bitsandbytes \(pip install.*lora"
    with pytest.raises(NotApplicable, match=message):
        make("qlora").check(family_backbone("bert"), view)
    with pytest.raises(NotApplicable, match=message):
        make("qlora").fit(family_backbone("bert"), view, make_run())
    with pytest.raises(NotApplicable, match=message):
        make("qlora").measure(family_backbone("bert"), view, make_run())
    with pytest.raises(NotApplicable, match="lora trains the same adapter without it"):
        quantize(family_backbone("bert").load(device="cpu"), CPU)


def test_a_device_that_fails_a_trial_is_refused_in_the_package_s_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("no kernel for quantize_4bit on cpu")

    stand_in = types.SimpleNamespace(nn=types.SimpleNamespace(Linear4bit=fail))
    monkeypatch.setattr(quantized, "_package", lambda: stand_in)
    monkeypatch.setattr(quantized, "_installed", lambda: True)
    monkeypatch.setattr(quantized, "_version", lambda: "0.42.0")
    assert missing_for_4bit(CPU) == (
        "a bitsandbytes that computes on this device (cpu), and the one here (0.42.0) fails: no "
        "kernel for quantize_4bit on cpu"
    )


def test_families_without_linear_layers_are_refused(
    family_backbone: Callable[..., Backbone], views: Any
) -> None:
    for family, kind in (("resnet", "image"), ("gpt2", "text")):
        with pytest.raises(NotApplicable, match="no linear layers that can be brought to 4 bits"):
            make("qlora").check(family_backbone(family), views[kind][0])


def test_four_bits_that_do_not_come_back_are_refused(
    monkeypatch: pytest.MonkeyPatch, wide: Backbone
) -> None:
    def garbled(data: torch.Tensor, _: Any) -> torch.Tensor:
        return data.flip(0)

    layers = types.SimpleNamespace(Linear4bit=Linear4bit, Params4bit=_Params4bit)
    functions = types.SimpleNamespace(dequantize_4bit=garbled)
    stand_in = types.SimpleNamespace(nn=layers, functional=functions)
    monkeypatch.setattr(quantized, "_package", lambda: stand_in)
    monkeypatch.setattr(quantized, "_version", lambda: "0.50.2")
    monkeypatch.setattr(quantized, "missing_for_4bit", lambda _: None)
    message = r"0\.50\.2 does not give the weights of encoder\.layer\.0\..*query back"
    with pytest.raises(NotApplicable, match=message):
        quantize(wide.load(device="cpu"), CPU)


class _Params4bit(nn.Parameter):
    """Remembers how it was asked for; keeps the values as they are."""

    def __new__(cls, data: torch.Tensor, requires_grad: bool = False, **kinds: Any) -> Any:
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.kinds = kinds
        made.quant_state = None
        return made


class Linear4bit(nn.Linear):
    def __init__(self, inputs: int, outputs: int, bias: bool = True, **kinds: Any) -> None:
        super().__init__(inputs, outputs, bias)
        self.kinds = kinds


def test_linear_layers_of_the_blocks_become_4bit(
    monkeypatch: pytest.MonkeyPatch, wide: Backbone
) -> None:
    layers = types.SimpleNamespace(Linear4bit=Linear4bit, Params4bit=_Params4bit)
    same = types.SimpleNamespace(dequantize_4bit=lambda data, _: data)
    monkeypatch.setattr(
        quantized, "_package", lambda: types.SimpleNamespace(nn=layers, functional=same)
    )
    monkeypatch.setattr(quantized, "missing_for_4bit", lambda _: None)
    encoder = wide.load(device="cpu")
    batch = encoder.preprocess(["a b c"])
    with torch.inference_mode():
        before = encoder(batch)
    done = quantize(encoder, CPU)
    assert len(done) == 2 * 5
    network: Any = encoder.module
    for path in done:
        layer = network.get_submodule(path)
        assert isinstance(layer, Linear4bit)
        assert layer.kinds["quant_type"] == "nf4"
        assert layer.kinds["compute_dtype"] == torch.float32
        assert layer.support_avx512bf16_for_cpu is False
        assert layer.weight.kinds == {"compress_statistics": True, "quant_type": "nf4"}
        assert not layer.weight.requires_grad
    # blocks of 64 do not fill its rows of 96
    assert type(network.encoder.layer[0].output.dense) is nn.Linear
    assert network.is_loaded_in_4bit
    with torch.inference_mode():
        assert torch.equal(encoder(batch), before)


def test_products_are_in_what_a_device_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantized._compute_type(CPU) == torch.float32
    for has, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert quantized._compute_type(torch.device("cuda")) == expected


@pytest.fixture
def wide(wide_text: Path) -> Backbone:
    return backbone(str(wide_text))


@with_package
def test_four_bits_are_near_the_weights_and_stay(wide: Backbone) -> None:
    """NF4: a block of 64 is its largest weight (kept in 8 bits) times the nearest of 16 values."""
    encoder = wide.load(device="cpu")
    whole = {name: p.detach().clone() for name, p in encoder.module.named_parameters()}
    counts = {name: p.numel() for name, p in whole.items()}
    done = quantize(encoder, CPU)
    assert [path for path in done if "block" not in path and "layer.0" in path] == [
        f"encoder.layer.0.{name}"
        for name in (
            "attention.self.query", "attention.self.key", "attention.self.value",
            "attention.output.dense", "intermediate.dense",
        )
    ]  # fmt: skip
    import bitsandbytes as bnb

    for path in done:
        weight: Any = encoder.module.get_submodule(path).weight
        assert weight.dtype == torch.uint8
        state = weight.quant_state
        back = bnb.functional.dequantize_4bit(weight.data, state).reshape(-1).split(64)
        largest = bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        blocks = whole[f"{path}.weight"].reshape(-1).split(64)
        for found, block, scale in zip(back, blocks, largest.tolist(), strict=True):
            assert scale == pytest.approx(float(block.abs().max()), rel=0.02)
            nearest = [
                min(NF4, key=lambda value, share=share: abs(value - share))
                for share in (block / block.abs().max()).tolist()
            ]
            torch.testing.assert_close(found, scale * torch.tensor(nearest))
    assert {n: count_weights(p) for n, p in encoder.module.named_parameters()} == counts
    before = network_fingerprint(encoder.module)
    with torch.inference_mode():
        first = encoder(encoder.preprocess(["a b c"]))
        assert torch.equal(encoder(encoder.preprocess(["a b c"])), first)
    assert network_fingerprint(encoder.module) == before, "a pass rewrites no weight"
    scales = encoder.module.get_submodule(done[0]).weight.quant_state.absmax
    scales.add_(1)
    assert network_fingerprint(encoder.module) != before, "scales are part of it"


@with_package
def test_an_adapter_on_four_bits_learns_saves_and_loads_to_the_same_bits(
    wide: Backbone, views: Any, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    view, test = views["text"]
    settings = {"epochs": 2, "rank": 2, "rate": 0.02}
    fitted = make("qlora", settings).fit(wide, view, make_run())
    quantised = wide.load(device="cpu")
    quantize(quantised, CPU)
    model: Any = fitted.model
    assert model.adapted.base_fingerprint() == network_fingerprint(quantised.module)
    inputs = test.inputs()
    assert (embed_inputs(model.adapted, inputs) != embed_inputs(quantised, inputs)).any()
    assert {row["group"]: row["parameters"] for row in fitted.rates}["block.0"] == sum(
        p.numel() for _, p in wide.load(device="cpu").groups.parameters("block.0")
    )
    folder = model.save(tmp_path / "model")
    assert model.facts()["adapter"]["quantized"]
    again = load_model(folder, device="cpu")
    assert (again.proba(test) == model.proba(test)).all()
    with pytest.raises(NotApplicable, match="4-bit base cannot be merged exactly"):
        merge(model, inputs)


def test_counting_knows_four_bits(wide_text: Path) -> None:
    """Two blocks of 4 · 64 · 64 + 96 · 64 weights; the layer of 96 inputs stays in float32."""
    plain, packed = (
        count_training(blueprint(wide_text), make(name, {"rank": 2}), batch_sizes=())
        for name in ("lora", "qlora")
    )
    count = 2 * (4 * 64 * 64 + 96 * 64)
    size = count // 2 + count // 64 + 4 * 2 * 5
    assert plain.memory.weights - packed.memory.weights == 4 * count - size
    assert plain.memory.total - packed.memory.total == 4 * count - size
    assert plain.trained == packed.trained
    assert any(f"{count:,} of the base's weights take {size:,} bytes" in n for n in packed.notes)

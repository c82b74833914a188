"""Merging: equal logits, the formulas by hand, and the original bits back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone, embed_inputs
from warmstart.backbones.families import FAMILIES
from warmstart.core import NotApplicable, Run, RunError, UsageError
from warmstart.models import AdaptedModel, EncoderModel, load_model
from warmstart.models.adapters import network_fingerprint
from warmstart.strategies import make, merge, unmerge
from warmstart.strategies.peft import PLACES, works_on

QUICK = {"batch_size": 4, "schedule": "constant", "warmup": 0.0}
FAMILY_CASES = [
    (family, method, settings)
    for family in PLACES
    for method, settings in (
        ("lora", {"targets": "auto"}),
        ("lora", {"targets": "all"}),
        ("ia3", {}),
    )
    if method in works_on(family)
]


def adapted(
    family: str, method: str, settings: dict[str, Any], backbone: Backbone, views: Any, run: Run
) -> tuple[AdaptedModel, Any]:
    """A fitted model whose adapter was then made large, and some inputs."""
    kind = "text" if FAMILIES[family].modality == "text" else "image"
    view, test = views[kind]
    model = make(method, {**QUICK, **settings}).fit(backbone, view, run).model
    assert isinstance(model, AdaptedModel)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.adapted.adapter_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            size = 0.05 if "magnitude" in name else 0.2
            # the tiny EfficientNet's norms blow changes up ten million times
            parameter.add_((0.002 if family == "efficientnet" else size) * noise)
    return model, test


@pytest.mark.parametrize(
    ("family", "method", "settings"),
    FAMILY_CASES,
    ids=["-".join([f, m, *s.values()]) for f, m, s in FAMILY_CASES],
)
def test_every_family_merges_and_unmerges(
    family: str,
    method: str,
    settings: dict[str, Any],
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
) -> None:
    backbone = family_backbone(family)
    run = make_run(max_steps=1)
    model, test = adapted(family, method, settings, backbone, views, run)
    inputs = test.inputs(list(range(3)))
    before_NC = model.proba_of(inputs)
    state = model.adapted.base_fingerprint()
    base = backbone.load(device="cpu")
    merged = merge(model, inputs, tolerance=1e-3)  # these random networks are ill-conditioned
    assert type(merged) is EncoderModel
    assert set(dict(merged.encoder.module.named_parameters())) == set(
        dict(base.module.named_parameters())
    )
    np.testing.assert_allclose(merged.proba_of(inputs), before_NC, atol=1e-4)
    np.testing.assert_array_equal(model.proba_of(inputs), before_NC)  # the given one is untouched
    assert network_fingerprint(merged.encoder.module) != state

    back = unmerge(merged)
    assert back.adapted.base_fingerprint() == state == network_fingerprint(base.module)
    np.testing.assert_allclose(back.proba_of(inputs), before_NC, atol=1e-7)
    with pytest.raises(UsageError, match="unmerged already"):
        unmerge(merged)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rank": 3, "alpha": 5.0},
        {"rslora": True, "rank": 4},
        {"dora": True},
        {"dora": True, "rslora": True, "rank": 4},
    ],
    ids=str,
)
def test_the_formula_for_linear_layers(
    settings: dict[str, Any],
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
) -> None:
    run = make_run(max_steps=1)
    model, test = adapted("bert", "lora", settings, family_backbone("bert"), views, run)
    merged = merge(model, test.inputs())
    rank = settings.get("rank", 8)
    alpha = settings.get("alpha", 2 * rank)
    scale = alpha / (math.sqrt(rank) if settings.get("rslora") else rank)
    layers = [
        f"encoder.layer.{i}.attention.self.{part}" for i in range(3) for part in ("query", "value")
    ]
    for path in layers:
        layer: Any = model.adapted.module.get_submodule(path)
        a_RI = layer.lora_A["default"].weight.detach().double()
        b_OR = layer.lora_B["default"].weight.detach().double()
        weight_OI = layer.base_layer.weight.detach().double().clone()
        for o in range(weight_OI.shape[0]):
            for i in range(weight_OI.shape[1]):
                weight_OI[o, i] += scale * sum(b_OR[o, r] * a_RI[r, i] for r in range(rank))
        if settings.get("dora"):  # Liu et al. 2024, equation 5: m · V / ‖V‖ by output
            length_O = layer.lora_magnitude_vector["default"].weight.detach().double()
            for o in range(weight_OI.shape[0]):
                weight_OI[o] *= length_O[o] / weight_OI[o].square().sum().sqrt()
        found_OI = merged.encoder.module.get_submodule(path).weight.detach().double()
        np.testing.assert_allclose(found_OI.numpy(), weight_OI.numpy(), atol=1e-5)


def test_a_known_answer() -> None:
    """W = 0, A = (1, 2), B = (3, 0)ᵀ, alpha 4, r 1: W + 4·B·A = ((12, 24), (0, 0))."""
    from torch import nn

    from warmstart.backbones import backbone as open_backbone
    from warmstart.models import Head, HeadShape, attach_peft

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.last = nn.Linear(2, 2, bias=False)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(x)
            return result

    def read(inputs: Any) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor([[float(text.count(c)) for c in "ab"] for text in inputs])}

    from peft import LoraConfig

    groups = {"first": ["first"], "last": ["last"]}
    own = open_backbone(module=Net(), processor=read, modality="text", groups=groups)
    encoder = attach_peft(
        own.load(device="cpu"), LoraConfig(r=1, lora_alpha=4, target_modules=["last"])
    )
    layer: Any = encoder.module.get_submodule("last")
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.lora_B["default"].weight.copy_(torch.tensor([[3.0], [0.0]]))
    model = AdaptedModel(own, Head(HeadShape(dimension=2, classes=2)), ("x", "y"), encoder=encoder)
    merged = merge(model, ["ab", "bb"])
    expected = torch.tensor([[12.0, 24.0], [0.0, 0.0]])
    assert torch.equal(merged.encoder.module.get_submodule("last").weight, expected)
    np.testing.assert_array_equal(embed_inputs(merged.encoder, ["abb"]), [[60.0, 0.0]])


def test_the_formula_for_convolutions(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    run = make_run(max_steps=1)
    source = family_backbone("resnet")
    model, test = adapted("resnet", "lora", {"rank": 2}, source, views, run)
    merged = merge(model, test.inputs(), tolerance=1e-3)
    seen = set()
    for path, layer in model.adapted.module.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        a_RIHW = layer.lora_A["default"].weight.detach().double()
        b_OR = layer.lora_B["default"].weight.detach().double()[:, :, 0, 0]
        change = torch.zeros_like(layer.base_layer.weight, dtype=torch.float64)
        for o in range(change.shape[0]):
            for r in range(2):
                change[o] += 2.0 * b_OR[o, r] * a_RIHW[r]
        wanted = layer.base_layer.weight.detach().double() + change
        found = merged.encoder.module.get_submodule(path).weight.detach().double()
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-5)
        seen.add(tuple(change.shape[2:]))
    assert seen == {(1, 1), (3, 3)}


def test_the_formula_for_ia3(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    run = make_run(max_steps=1)
    model, test = adapted("bert", "ia3", {}, family_backbone("bert"), views, run)
    merged = merge(model, test.inputs())
    block: Any = model.adapted.module.get_submodule("encoder.layer.0")
    new: Any = merged.encoder.module.get_submodule("encoder.layer.0")
    key, feed = block.attention.self.key, block.output.dense
    factor_O1 = key.ia3_l["default"].detach()
    torch.testing.assert_close(new.attention.self.key.weight, key.base_layer.weight * factor_O1)
    torch.testing.assert_close(
        new.attention.self.key.bias, key.base_layer.bias * factor_O1.flatten()
    )
    factor_1I = feed.ia3_l["default"].detach()
    torch.testing.assert_close(new.output.dense.weight, feed.base_layer.weight * factor_1I)
    torch.testing.assert_close(new.output.dense.bias, feed.base_layer.bias)


def test_what_cannot_be_merged_is_refused(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    backbone = family_backbone("bert")
    for method, settings in (
        ("prefix", {"tokens": 2}), ("prompt", {"tokens": 2}), ("adapter", {"width": 2}),
    ):  # fmt: skip
        model, _ = adapted("bert", method, settings, backbone, views, make_run(max_steps=1))
        with pytest.raises(NotApplicable, match=f"{method} cannot be merged.*lora and ia3 can"):
            merge(model)
    lora, test = adapted("bert", "lora", {"rank": 2}, backbone, views, make_run(max_steps=1))
    with pytest.raises(UsageError, match="at least one input"):
        merge(lora, [])
    with pytest.raises(RunError, match=r"merging changes logits by .* is refused"):
        merge(lora, test.inputs(), tolerance=1e-12)
    lora.quantized = True
    with pytest.raises(NotApplicable, match="4-bit base cannot be merged exactly"):
        merge(lora)
    with pytest.raises(UsageError, match="not merged in this process"):
        unmerge(EncoderModel(backbone, lora.head, lora.label_names))


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_fit_can_end_merged_and_needs_no_base(
    method: str,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    view, test = views["text"]
    settings = {**QUICK, "merge": True, "epochs": 2}
    fitted = make(method, settings).fit(family_backbone("roberta"), view, make_run())
    assert type(fitted.model) is EncoderModel
    assert fitted.values["merged"] is True
    folder = fitted.model.save(tmp_path / "model")
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "adapter").exists()
    loaded = load_model(folder, device="cpu")
    assert type(loaded) is EncoderModel
    np.testing.assert_allclose(loaded.proba(test), fitted.model.proba(test), atol=1e-6)

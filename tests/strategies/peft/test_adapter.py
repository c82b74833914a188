"""Bottlenecks: the formula by hand, where they sit, that they start as the identity."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone, embed_inputs
from warmstart.core import Run, UsageError
from warmstart.models import BottleneckShape, attach_bottlenecks
from warmstart.models.adapters_bottleneck import Bottleneck, put_bottlenecks
from warmstart.strategies import make


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_formula(activation: Any) -> None:
    part = Bottleneck(3, 2, activation=activation, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    x_BTD = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2))
    part.requires_grad_(False)
    found = part(x_BTD)
    down, up = part.down.weight.double(), part.up.weight.double()
    for b in range(2):
        for t in range(4):
            inner = []
            for k in range(2):
                z = float(part.down.bias[k]) + sum(
                    float(down[k, d]) * float(x_BTD[b, t, d]) for d in range(3)
                )
                normal = 0.5 * (1 + torch.erf(torch.tensor(z / 2**0.5)).item())
                inner.append(max(z, 0.0) if activation == "relu" else z * normal)
            for d in range(3):
                y = float(x_BTD[b, t, d]) + float(part.up.bias[d])
                y += sum(float(up[d, k]) * inner[k] for k in range(2))
                assert float(found[b, t, d]) == pytest.approx(y, abs=1e-5)


def test_a_known_answer_and_maps() -> None:
    """Down (1, 1), up (1, 2)ᵀ, relu: (1, 2) -> (1, 2) + 3 · (1, 2) = (4, 8)."""
    part = Bottleneck(2, 1, activation="relu")
    with torch.no_grad():
        part.down.weight.fill_(1.0)
        part.up.weight.copy_(torch.tensor([[1.0], [2.0]]))
    assert part(torch.tensor([[1.0, 2.0]])).tolist() == [[4.0, 8.0]]
    maps = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 5)
    found = part(maps)
    assert found.shape == maps.shape
    assert torch.equal(found, torch.tensor([4.0, 8.0]).view(1, 2, 1, 1).expand(1, 2, 3, 5))


@pytest.mark.parametrize(
    ("family", "count"),
    [("bert", 6), ("albert", 2), ("gpt2", 6), ("swin", 8), ("resnet", 4), ("efficientnet", 8)],
)
def test_where_they_sit_and_that_they_start_as_the_identity(
    family: str,
    count: int,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
) -> None:
    backbone = family_backbone(family)
    kind = "text" if backbone.modality == "text" else "image"
    view, test = views[kind]
    late = make_run(deadline=0.0)  # no step
    fitted = make("adapter", {"width": 5}).fit(backbone, view, late)
    assert fitted.values["adapted_layers"] == count
    shape = fitted.model.adapted.shape
    weights = sum(2 * d * 5 + d + 5 for d in shape.places.values())
    assert fitted.values["adapter_parameters"] == weights
    inputs = test.inputs(list(range(3)))
    untouched = embed_inputs(backbone.load(device="cpu"), inputs)
    np.testing.assert_array_equal(embed_inputs(fitted.model.encoder, inputs), untouched)


def test_copies_have_bottlenecks_of_their_own(family_backbone: Callable[..., Backbone]) -> None:
    shape = BottleneckShape(places={"encoder.layer.1.output.dense": 32}, width=2)
    encoder = attach_bottlenecks(family_backbone("bert").load(device="cpu"), shape)
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        for _, parameter in other.adapter_parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    batch = encoder.preprocess(["a b"])
    with torch.inference_mode():
        assert not torch.allclose(encoder(batch), other(batch))
    assert encoder.base_fingerprint() == other.base_fingerprint()


def test_mistakes(family_backbone: Callable[..., Backbone]) -> None:
    network = family_backbone("bert").load(device="cpu").module
    shape = BottleneckShape(places={"encoder.layer.1.output.dence": 32}, width=2)
    with pytest.raises(UsageError, match=r'Did you mean "encoder\.layer\.1\.output\.dense"'):
        put_bottlenecks(network, shape)
    with pytest.raises(UsageError, match=r"adapter\.width must be at least 1"):
        make("adapter", {"width": 0})
    with pytest.raises(UsageError, match=r"adapter\.activation must be 'gelu' or 'relu'"):
        make("adapter", {"activation": "tanh"})

"""Heads: vectors to logits, the same start from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from warmstart.core import Streams, UsageError
from warmstart.models import Head, HeadShape

LINEAR = HeadShape(dimension=5, classes=3)
MLP = HeadShape(dimension=5, classes=3, hidden=7, dropout=0.5)


@pytest.mark.parametrize(
    ("shape", "kind", "sizes"),
    [
        (LINEAR, "linear", {"output.weight": (3, 5), "output.bias": (3,)}),
        (
            MLP,
            "mlp",
            {
                "hidden.weight": (7, 5), "hidden.bias": (7,),
                "output.weight": (3, 7), "output.bias": (3,),
            },
        ),
    ],
)  # fmt: skip
def test_shapes(shape: HeadShape, kind: str, sizes: dict[str, tuple[int, ...]]) -> None:
    head = Head(shape)
    assert shape.kind == kind
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == sizes
    assert head(torch.zeros(4, 5)).shape == (4, 3)


@pytest.mark.parametrize("shape", [LINEAR, MLP])
def test_the_start_is_a_function_of_the_seed_alone(shape: HeadShape) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = Head(shape, Streams(3)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    other, third = Head(shape, Streams(3)).state_dict(), Head(shape, Streams(4)).state_dict()
    for key, value in one.items():
        assert torch.equal(value, other[key])
        assert torch.equal(value, third[key]) == key.endswith("bias")


def test_the_start_is_pinned() -> None:
    weight = Head(LINEAR, Streams(0)).output.weight.detach()
    expected = [-0.010424, -0.028151, -0.009423, -0.005263, 0.001612]
    assert [round(float(value), 6) for value in weight[0]] == expected


def test_the_start_has_the_stated_spread() -> None:
    head = Head(HeadShape(dimension=400, classes=300, hidden=900), Streams(0))
    assert head.hidden is not None
    assert float(head.output.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(head.hidden.weight.detach().std()) == pytest.approx(400**-0.5, rel=0.02)
    assert not head.output.bias.any()
    assert not head.hidden.bias.any()


def test_linear_known_answer() -> None:
    head = Head.linear(np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([0.5, 0.0]))
    vectors_ND = np.array([[3.0, 4.0], [0.0, 0.0]])
    logits = np.array([[11.5, -4.0], [0.5, 0.0]])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    proba_NC = head.proba(vectors_ND)
    assert proba_NC.dtype == np.float64
    np.testing.assert_allclose(proba_NC, expected, rtol=1e-6)
    assert not head.training


def test_normalised_heads_read_directions() -> None:
    head = Head.linear(np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2), normalize=True)
    logits_BC = head(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(logits_BC, expected)


def test_mlp_slow_twin() -> None:
    head = Head(MLP, Streams(0)).eval()
    assert head.hidden is not None
    vectors_ND = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    inner = vectors_ND @ head.hidden.weight.detach().numpy().T
    inner = torch.nn.functional.gelu(torch.from_numpy(inner)).numpy()
    logits = inner @ head.output.weight.detach().numpy().T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.proba(vectors_ND), expected, rtol=1e-5)


def test_dropout_only_while_training() -> None:
    head = Head(MLP, Streams(0)).train()
    vectors_ND = np.ones((50, 5), dtype=np.float32)
    proba_NC = head.proba(vectors_ND)
    assert head.training  # as it was
    np.testing.assert_allclose(proba_NC, proba_NC[:1].repeat(50, 0), rtol=1e-6)
    logits_BC = head(torch.from_numpy(vectors_ND))
    assert not torch.allclose(logits_BC, logits_BC[0].expand_as(logits_BC))


def test_probabilities_of_huge_logits_are_finite() -> None:
    head = Head.linear(np.array([[1e4], [-1e4]]), np.zeros(2))
    np.testing.assert_array_equal(head.proba(np.array([[1.0]])), [[1.0, 0.0]])
    assert head.proba(np.zeros((0, 1))).shape == (0, 2)


def test_settings_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"head has no setting `hiden`\. Did you mean \"hidden\""):
        HeadShape.parse({"dimension": 3, "classes": 2, "hiden": 4}, "head")
    with pytest.raises(UsageError, match=r"head\.dimension is required\. head\.classes"):
        HeadShape.parse({}, "head")
    for values in ({"dimension": 0}, {"classes": 0}, {"hidden": 0}, {"dropout": 1.0}):
        with pytest.raises(ValidationError):
            HeadShape(**{"dimension": 3, "classes": 2, **values})

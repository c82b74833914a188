"""The line between two sets of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from warmstart.core import NotApplicable, Streams, UsageError
from warmstart.models import Head, HeadShape, WeightPath, interpolate_head


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).train()
        for _ in range(seed):
            made(torch.randn(4, 2, 3, 3))
        return made.eval()


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_every_weight_and_statistic_lies_on_the_line(share: float) -> None:
    start, tuned = network(1), network(3)
    before, after = values(start), values(tuned)
    found = WeightPath(start, tuned).at(share).state_dict()
    for key, value in found.items():
        if key.endswith("num_batches_tracked"):
            assert int(value) == (3 if share else 1)
            continue
        slow = torch.tensor([
            (1 - share) * float(a) + share * float(b)
            for a, b in zip(before[key].flatten(), after[key].flatten(), strict=True)
        ]).reshape(value.shape)  # fmt: skip
        torch.testing.assert_close(value, slow)
        if share in (0.0, 1.0):
            assert torch.equal(value, (before, after)[int(share)][key])
    assert all(torch.equal(value, after[key]) for key, value in tuned.state_dict().items())


def test_points_in_any_order_are_the_same() -> None:
    start, tuned = network(1), network(2)
    path = WeightPath(start, tuned)
    first = values(path.at(0.3))
    path.at(1.0)
    path.at(0.0)
    again = values(path.at(0.3))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_equal_tensors_are_held_once() -> None:
    start, tuned = network(1), network(1)
    with torch.no_grad():
        tuned[2].weight.add_(1.0)
    path = WeightPath(start, tuned)
    assert path.bytes == 2 * 3 * 4
    assert start[0].weight.data_ptr() == tuned[0].weight.data_ptr()
    assert start[1].running_mean.data_ptr() == tuned[1].running_mean.data_ptr()
    assert start[2].weight.data_ptr() != tuned[2].weight.data_ptr()


def test_other_architectures_are_refused() -> None:
    with pytest.raises(NotApplicable, match="Merge adapters"):
        WeightPath(network(1), nn.Sequential(nn.Conv2d(2, 3, 1)))
    with pytest.raises(NotApplicable, match="same shapes and types"):
        WeightPath(nn.Linear(2, 3), nn.Linear(3, 3))
    with pytest.raises(UsageError, match=r"in \[0, 1\], got 1.5"):
        WeightPath(network(1), network(2)).at(1.5)


def test_heads() -> None:
    one = Head.linear(torch.ones(3, 2).numpy(), torch.zeros(3).numpy())
    other = Head(HeadShape(dimension=2, classes=3, dropout=0.1), Streams(0))
    found = interpolate_head(one, other, 0.25)
    torch.testing.assert_close(found.output.weight, 0.75 + 0.25 * other.output.weight)
    assert found.shape == other.shape
    assert not found.training
    assert torch.equal(interpolate_head(one, other, 1.0).output.weight, other.output.weight)
    mlp = Head(HeadShape(dimension=2, classes=3, hidden=4), Streams(0))
    with pytest.raises(NotApplicable, match="head=linear"):
        interpolate_head(one, mlp, 0.5)

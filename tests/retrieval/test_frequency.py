"""Frequencies counted and estimated in a stream."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from warmstart.core import Streams, UsageError
from warmstart.retrieval.frequency import StreamingFrequency, item_counts


def slow_gaps(batches: list[list[int]], rate: float) -> dict[int, float]:
    """The running mean gap of each item, item by item in plain Python."""
    last: dict[int, int] = {}
    gap: dict[int, float] = {}
    count: dict[int, int] = {}
    for step, batch in enumerate(batches, start=1):
        for item in set(batch):
            count[item] = count.get(item, 0) + 1
            weight = max(rate, 1 / count[item])
            here = step - last.get(item, 0)
            gap[item] = gap.get(item, 0.0) + weight * (here - gap.get(item, 0.0))
            last[item] = step
    return gap


def stream(probability: list[float], batches: int, size: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.choice(len(probability), size, p=probability).tolist() for _ in range(batches)
    ]


def test_item_counts() -> None:
    assert item_counts(np.array([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]


def test_against_a_slow_twin() -> None:
    batches = stream([0.5, 0.3, 0.15, 0.05], 60, 3)
    frequency = StreamingFrequency(1000, hashes=2, rate=0.1)
    for batch in batches:
        frequency.update(torch.tensor(batch))
    found = frequency.log_probability(torch.arange(4))
    for item, gap in slow_gaps(batches, 0.1).items():
        assert found[item].item() == pytest.approx(-math.log(gap), abs=1e-4)


def test_known_gap() -> None:
    """An item of every third batch has a gap of 3 and a chance of a third."""
    frequency = StreamingFrequency(64)
    for step in range(1, 31):
        frequency.update(torch.tensor([7] if step % 3 == 0 else [1, 1]))
    assert frequency.log_probability(torch.tensor([7])).exp().item() == pytest.approx(1 / 3)


def test_converges_to_the_chance_that_a_batch_shows_an_item() -> None:
    probability = [0.55, 0.25, 0.1, 0.06, 0.04]
    frequency = StreamingFrequency(4096, hashes=2, rate=0.002)
    for batch in stream(probability, 4000, 4):
        frequency.update(torch.tensor(batch))
    found = frequency.log_probability(torch.arange(5)).exp().tolist()
    expected = [1 - (1 - p) ** 4 for p in probability]
    assert found == pytest.approx(expected, rel=0.15)


def test_follows_a_drift() -> None:
    frequency = StreamingFrequency(64, rate=0.1)
    for step in range(400):
        frequency.update(torch.tensor([1] if step % 10 == 0 else [2]))
    before = frequency.log_probability(torch.tensor([1])).exp().item()
    for step in range(200):
        frequency.update(torch.tensor([1] if step % 2 == 0 else [2]))
    after = frequency.log_probability(torch.tensor([1])).exp().item()
    assert before == pytest.approx(0.1, rel=0.02)
    assert after == pytest.approx(0.5, rel=0.02)


def test_several_hashes_undo_collisions() -> None:
    """In a crowded array a rare item shares slots; more hashes bring it nearer the truth."""
    probability, names = [0.01] * 100, np.random.default_rng(5).integers(0, 2**31 - 1, 100)
    batches = stream(probability, 1500, 2, seed=1)
    errors: list[float] = []
    for hashes in (1, 4):
        frequency = StreamingFrequency(150, hashes=hashes, streams=Streams(3))
        for batch in batches:
            frequency.update(torch.from_numpy(names[batch]))
        found = frequency.log_probability(torch.from_numpy(names)).exp()
        truth = 1 - 0.99**2
        errors.append(float((found / truth - 1).abs().mean()))
        assert float(found.mean()) > truth  # a collision only ever raises the estimate
    assert errors[1] < errors[0] / 1.5


def test_items_never_shown() -> None:
    frequency = StreamingFrequency(1000)
    assert frequency.log_probability(torch.tensor([5])).item() == 0.0
    for _ in range(9):
        frequency.update(torch.tensor([1]))
    assert frequency.log_probability(torch.tensor([5])).exp().item() == pytest.approx(0.1)


def test_a_checkpoint_keeps_the_stream() -> None:
    one, other = StreamingFrequency(64), StreamingFrequency(64)
    batches = stream([0.5, 0.3, 0.2], 20, 2)
    for batch in batches[:10]:
        one.update(torch.tensor(batch))
    tensors: dict[str, Tensor] = {key: value.clone() for key, value in one.named_buffers()}
    for key, buffer in other.named_buffers():
        buffer.copy_(tensors[key])
    for batch in batches[10:]:
        one.update(torch.tensor(batch))
        other.update(torch.tensor(batch))
    items = torch.arange(3)
    assert torch.equal(one.log_probability(items), other.log_probability(items))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "at least 1 slot and 1 hash, got 0 and 2"),
        ({"hashes": 0}, "got 65536 and 0"),
        ({"rate": 0.0}, "rate must be above 0 and at most 1, got 0.0"),
        ({"rate": 1.5}, "got 1.5"),
    ],
)
def test_refuses(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StreamingFrequency(**settings)

"""The order of rows is a function of (seed, epoch, row id)."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import Streams, UsageError
from warmstart.training import BatchOrder

IDS = [f"row-{place}" for place in range(103)]


def order(ids: list[str] = IDS, batch: int = 8, seed: int = 0, **changes: object) -> BatchOrder:
    return BatchOrder(ids, batch, streams=Streams(seed), **changes)  # type: ignore[arg-type]


def flat(batches: list[np.ndarray]) -> list[int]:
    return [int(row) for batch in batches for row in batch]


@pytest.mark.parametrize("lengths", [None, [place * 7 % 13 for place in range(103)]])
def test_each_row_once_and_a_function_of_seed_and_epoch(lengths: list[int] | None) -> None:
    first = order(lengths=lengths)
    assert sorted(flat(first.batches(0))) == list(range(103))
    assert len(first.batches(0)) == len(first) == 13
    assert flat(first.batches(4)) == flat(order(lengths=lengths).batches(4))
    assert flat(first.batches(0)) != flat(first.batches(1))
    assert flat(first.batches(0)) != flat(order(lengths=lengths, seed=1).batches(0))


def test_order_follows_the_id_not_the_place() -> None:
    forwards = [IDS[row] for row in flat(order().batches(2))]
    turned = IDS[::-1]
    backwards = [turned[row] for row in flat(order(turned).batches(2))]
    assert forwards == backwards


def test_more_rows_keep_the_order_of_the_others() -> None:
    few = [IDS[row] for row in flat(order(IDS[:50]).batches(0))]
    all_of_them = [IDS[row] for row in flat(order().batches(0))]
    assert few == [name for name in all_of_them if name in set(few)]


def test_every_place_is_as_likely() -> None:
    ids = IDS[:10]
    firsts = [flat(order(ids, 1, seed).batches(0))[0] for seed in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 28  # chi-squared, 9 degrees, p = 0.001


def test_bucketing_leaves_little_padding() -> None:
    generator = np.random.default_rng(0)
    ids = [str(place) for place in range(3200)]
    lengths = generator.integers(4, 128, size=3200)

    def padded(batches: list[np.ndarray]) -> int:
        return sum(int(lengths[batch].max()) * len(batch) for batch in batches)

    plain = padded(order(ids, 16).batches(0))
    bucketed_order = order(ids, 16, lengths=lengths)
    bucketed = bucketed_order.batches(0)
    assert padded(bucketed) < 1.06 * lengths.sum() < 0.7 * plain
    means = [lengths[batch].mean() for batch in bucketed]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2  # the batches are shuffled
    sets = {frozenset(batch.tolist()) for batch in bucketed}
    later = {frozenset(batch.tolist()) for batch in bucketed_order.batches(1)}
    assert len(sets & later) == 0


def test_unshuffled() -> None:
    assert flat(order(shuffle=False).batches(0)) == list(range(103))
    lengths = [5, 1, 3, 1]
    held = order(IDS[:4], 2, shuffle=False, lengths=lengths)
    assert [batch.tolist() for batch in held.batches(0)] == [[1, 3], [2, 0]]


def test_drop_last() -> None:
    assert [len(batch) for batch in order(drop_last=True).batches(0)] == [8] * 12
    bucketed = order(drop_last=True, lengths=list(range(103)))
    assert [len(batch) for batch in bucketed.batches(3)] == [8] * len(bucketed)
    assert len(order(IDS[:3], drop_last=True)) == 1  # fewer rows than a batch are still used


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match="batch_size must be at least 1"):
        order(batch=0)
    with pytest.raises(UsageError, match="no rows"):
        order([])
    with pytest.raises(UsageError, match="2 values for 3 rows"):
        order(IDS[:3], lengths=[1, 2])

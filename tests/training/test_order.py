"""The order of rows is a function of (seed, epoch, row id)."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import Streams, UsageError
from warmstart.training import BatchOrder, oversampled_counts

IDS = [f"row-{place}" for place in range(103)]


def order(ids: list[str] = IDS, batch: int = 8, seed: int = 0, **changes: object) -> BatchOrder:
    return BatchOrder(ids, batch, streams=Streams(seed), **changes)


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


def test_even_batches_leave_no_lone_row() -> None:
    assert [len(b) for b in order(IDS[:33], 16).batches(0)] == [16, 16, 1]
    even = order(IDS[:33], 16, even=True)
    assert [len(b) for b in even.batches(0)] == [11, 11, 11]
    assert flat(even.batches(3)) == flat(order(IDS[:33], 16).batches(3))
    assert len(even) == 3
    assert even.fingerprint != order(IDS[:33], 16).fingerprint
    for rows in range(2, 100):
        sizes = [len(b) for b in order(IDS[:rows], 16, even=True).batches(1)]
        assert sum(sizes) == rows
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == -(-rows // 16)
    whole = order(IDS[:33], 16, even=True, drop_last=True)
    assert [len(b) for b in whole.batches(0)] == [16, 16]


def test_oversampled_counts() -> None:
    labels = [0] * 16 + [1] * 4 + [7]
    assert oversampled_counts(labels, 0.0) == {0: 16, 1: 4, 7: 1}
    assert oversampled_counts(labels, 1.0) == {0: 16, 1: 16, 7: 16}
    assert oversampled_counts(labels, 0.5) == {0: 16, 1: 8, 7: 4}  # n · sqrt(16 / n)


@pytest.mark.parametrize("lengths", [None, [place * 7 % 13 for place in range(103)]])
def test_oversampling_repeats_the_rare_classes(lengths: list[int] | None) -> None:
    labels = np.array([0] * 80 + [1] * 20 + [2] * 3)
    made = order(labels=labels, oversample=1.0, lengths=lengths)
    assert len(made) == len(made.batches(0)) == 240 // 8
    for epoch in range(3):
        rows = flat(made.batches(epoch))
        counts = np.bincount(rows, minlength=103)
        assert np.bincount(labels[rows]).tolist() == [80, 80, 80]
        assert (counts[:80] == 1).all()
        assert (counts[80:100] == 4).all()
        assert sorted(counts[100:]) == [26, 27, 27]
        assert rows == flat(order(labels=labels, oversample=1.0, lengths=lengths).batches(epoch))
    whose = {
        int(np.argmin(np.bincount(flat(made.batches(e)), minlength=103)[100:])) for e in range(9)
    }
    assert len(whose) > 1  # the row that comes once less changes


def test_oversampling_keeps_the_order_of_the_first_copies() -> None:
    plain = flat(order().batches(1))
    twice = flat(order(labels=[0] * 102 + [1], oversample=1.0).batches(1))
    assert [row for row in twice if row != 102] == [row for row in plain if row != 102]
    places = np.flatnonzero(np.array(twice) == 102)
    assert len(places) == 102
    assert np.diff(places).max() < 30  # spread over the epoch


def test_oversampling_is_part_of_the_fingerprint() -> None:
    labels = [0] * 100 + [1] * 3
    prints = {order().fingerprint, order(labels=labels).fingerprint}
    assert len(prints) == 1
    prints |= {order(labels=labels, oversample=s).fingerprint for s in (0.5, 1.0)}
    assert len(prints) == 3


def test_oversampling_refuses() -> None:
    with pytest.raises(UsageError, match="oversample must be between 0 and 1, got 2"):
        order(labels=[0] * 103, oversample=2)
    with pytest.raises(UsageError, match="a label for each of the 103 rows, got none"):
        order(oversample=0.5)
    with pytest.raises(UsageError, match="shuffle=True"):
        order(labels=[0] * 103, oversample=0.5, shuffle=False)


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match="batch_size must be at least 1"):
        order(batch=0)
    with pytest.raises(UsageError, match="no rows"):
        order([])
    with pytest.raises(UsageError, match="2 values for 3 rows"):
        order(IDS[:3], lengths=[1, 2])

"""Named streams: a function of seed and name alone."""

from __future__ import annotations

import numpy as np
import torch

from warmstart.core import Streams


def test_pinned_seeds() -> None:
    assert Streams(0).seed("order", 3) == 5593290341763788041
    assert Streams(42).seed("head") == 3372961086565649194
    assert Streams(0).child("arm", "probe").seed("order") == 5558796307380031971


def test_first_draws_are_pinned() -> None:
    assert Streams(0).numpy("order").integers(0, 1000, 4).tolist() == [454, 143, 748, 92]
    drawn = torch.randint(0, 1000, (4,), generator=Streams(0).torch("order"))
    assert drawn.tolist() == [715, 230, 250, 879]


def test_streams_are_told_apart() -> None:
    seeds = {
        Streams(seed).seed(*names)
        for seed in (0, 1, 2)
        for names in [(), ("a",), ("b",), ("a", "b"), ("ab",), ("a", 1), ("a", "1"), (1, "a")]
    }
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    child = Streams(0).child("a")
    assert child.seed("b") != Streams(0).seed("a", "b")
    assert child.seed("b") == Streams(0).child("a").seed("b")


def test_a_new_consumer_shifts_no_old_stream() -> None:
    alone = Streams(7).numpy("order").random(5)
    streams = Streams(7)
    streams.numpy("newcomer").random(100)
    streams.torch("order")
    streams.child("order").numpy("order").random()
    np.testing.assert_array_equal(streams.numpy("order").random(5), alone)
    np.testing.assert_array_equal(streams.numpy("order").random(5), alone)  # starts afresh


def test_no_global_generator_is_touched() -> None:
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    streams = Streams(0)
    streams.numpy("x").random()
    torch.rand(3, generator=streams.torch("x"))
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


def test_neighbouring_seeds_are_uncorrelated() -> None:
    draws = np.stack([Streams(seed).numpy("x").normal(size=2000) for seed in range(6)])
    off = np.corrcoef(draws) - np.eye(6)
    assert np.abs(off).max() < 0.1

"""Samplers draw as often as they say, and a mixture of them estimates the full softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import NotApplicable, UsageError
from warmstart.objectives import sampled_softmax
from warmstart.retrieval.frequency import StreamingFrequency
from warmstart.retrieval.negatives import (
    Candidates,
    InBatch,
    Known,
    Mixture,
    Rows,
    Sampler,
    StreamedBatch,
    Uniform,
    split_draws,
)
from warmstart.retrieval.negatives_hard import Mined, SameTags, Viewed, mine

ITEMS, USERS = 12, 4
COUNTS = torch.tensor([40, 20, 10, 8, 6, 5, 4, 3, 2, 1, 1, 0])
ALLOWED = np.array([True] * 11 + [False])  # the last item belongs to the future
TAGS = [["a"], ["a", "b"], ["b"], ["b", "c"], ["c"], ["a", "c"], [], ["d"], ["d"], ["e"], [], ["a"]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: int, seed: int = 0) -> Rows:
    """Rows whose items come as often as in training."""
    targets = torch.multinomial(COUNTS.float(), rows, replacement=True, generator=seeded(seed))
    return Rows(torch.randint(0, USERS, (rows,), generator=seeded(seed + 1)), targets)


def viewed() -> Viewed:
    users = np.array([0, 0, 0, 1, 1, 2, 2, 0])
    items = np.array([1, 2, 3, 4, 4, 5, 11, 1])
    positive = np.array([False, False, False, False, False, False, False, True])
    return Viewed(users, items, positive, n_users=USERS, n_items=ITEMS, allowed_I=ALLOWED)


def mined() -> Mined:
    found = Mined(USERS, 3, allowed_I=ALLOWED)
    pool = torch.tensor([[1, 2, 3], [4, 5, 0], [0, 0, 0], [8, 0, 0]])
    found.fill(pool.int(), torch.tensor([3, 2, 0, 1]).int())
    return found


def samplers() -> dict[str, Sampler]:
    return {
        "in-batch": InBatch.counted(COUNTS),
        "uniform": Uniform(torch.arange(11), ITEMS),
        "viewed": viewed(),
        "tags": SameTags(TAGS, allowed_I=ALLOWED),
        "mined": mined(),
    }


@pytest.mark.parametrize("name", ["uniform", "viewed", "tags", "mined"])
def test_draws_come_as_often_as_said(name: str) -> None:
    sampler = samplers()[name]
    rows = Rows(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 4, 6, 8]))
    draws = sampler.draw(rows, 40_000, seeded())
    everything = torch.arange(ITEMS)
    said = sampler.log_q(rows, everything).exp().expand(4, -1)
    torch.testing.assert_close(said.sum(dim=1), torch.ones(4))
    for row in range(4):
        mine = draws if draws.ndim == 1 else draws[row]
        share = torch.bincount(mine, minlength=ITEMS) / len(mine)
        torch.testing.assert_close(share, said[row], rtol=0.1, atol=0.004)
        assert share[11] == 0.0  # an item of the future is never a negative
    assert said[:, 11].sum() == 0.0


@pytest.mark.parametrize("name", ["in-batch", "uniform", "viewed", "tags", "mined"])
def test_each_row_can_ask_for_its_own_items(name: str) -> None:
    sampler, rows = samplers()[name], batch(6)
    own = torch.randint(0, ITEMS, (6, 5), generator=seeded(7))
    everything = sampler.log_q(rows, torch.arange(ITEMS)).expand(6, -1)
    expected = everything.gather(1, own)
    torch.testing.assert_close(sampler.log_q(rows, own).expand(6, -1), expected)


@pytest.mark.parametrize("name", ["in-batch", "uniform", "viewed", "tags", "mined"])
def test_draws_are_a_function_of_the_generator(name: str) -> None:
    sampler, rows = samplers()[name], batch(6)
    first, again, other = (sampler.draw(rows, 4, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_in_batch_draws_are_rows_of_the_batch() -> None:
    sampler, rows = InBatch.counted(COUNTS), batch(50)
    assert torch.equal(sampler.draw(rows, 50, seeded()), rows.targets_N)
    assert torch.equal(sampler.draw(rows, 80, seeded()), rows.targets_N)
    some = sampler.draw(rows, 20, seeded())
    left = torch.bincount(rows.targets_N, minlength=ITEMS) - torch.bincount(some, minlength=ITEMS)
    assert len(some) == 20
    assert bool((left >= 0).all())
    share = sampler.log_q(rows, torch.arange(ITEMS)).exp()[0]
    torch.testing.assert_close(share, COUNTS / COUNTS.sum())
    assert sampler.expected(rows, 50) == pytest.approx(49)


def test_tags_by_hand() -> None:
    """Item 1 has tags a and b; a: items 0, 1, 5 (11 is of the future); b: items 1, 2, 3."""
    rows = Rows(torch.tensor([0]), torch.tensor([1]))
    found = SameTags(TAGS, allowed_I=ALLOWED).log_q(rows, torch.arange(ITEMS)).exp()[0]
    expected = [1 / 6, 1 / 3, 1 / 6, 1 / 6, 0, 1 / 6, 0, 0, 0, 0, 0, 0]
    assert found.tolist() == pytest.approx(expected)


def test_viewed_leaves_out_what_was_completed() -> None:
    """User 0 viewed 1, 2 and 3 and completed 1; user 3 viewed nothing and draws among all."""
    rows = Rows(torch.tensor([0, 3]), torch.tensor([1, 1]))
    found = viewed().log_q(rows, torch.arange(ITEMS)).exp()
    assert torch.nonzero(found[0])[:, 0].tolist() == [2, 3]
    assert found[1, :11].tolist() == pytest.approx([1 / 11] * 11)


def test_without_views_that_is_said() -> None:
    events = np.array([0, 1]), np.array([1, 2])
    for positive in (np.array([True, True]), np.array([False, True])):
        items = events[1] if positive.all() else np.array([2, 2])
        with pytest.raises(NotApplicable, match="viewed but not completed"):
            Viewed(
                np.array([1, 1]) if not positive.all() else events[0], items, positive,
                n_users=2, n_items=3, allowed_I=np.ones(3, dtype=bool),
            )  # fmt: skip


def test_without_shared_tags_that_is_said() -> None:
    for tags in ([[], [], []], [["a"], ["b"], ["c"]]):
        with pytest.raises(NotApplicable, match="no two do"):
            SameTags(tags, allowed_I=np.ones(3, dtype=bool))


def test_known_pairs() -> None:
    known = Known(torch.tensor([0, 0, 2, 0]), torch.tensor([5, 1, 3, 5]), ITEMS)
    users = torch.tensor([2, 0, 1])
    found = known.has(users, torch.tensor([3, 5, 1]))
    assert found.tolist() == [[True, False, False], [False, True, True], [False] * 3]
    own = known.has(users, torch.tensor([[3, 0], [1, 2], [1, 3]]))
    assert own.tolist() == [[True, False], [True, False], [False, False]]
    offsets, items = known.items_of(users)
    assert offsets.tolist() == [0, 1, 3, 3]
    assert items.tolist() == [3, 1, 5]
    nothing = Known(torch.zeros(0), torch.zeros(0), ITEMS)
    assert not bool(nothing.has(users, torch.tensor([1])).any())
    assert nothing.items_of(users)[0].tolist() == [0, 0, 0, 0]


def test_split_draws() -> None:
    assert split_draws({"a": 0.5, "b": 0.5}, 10) == {"a": 5, "b": 5}
    assert split_draws({"a": 2.0, "b": 1.0}, 10) == {"a": 7, "b": 3}
    assert split_draws({"a": 1.0, "b": 1.0, "c": 1.0}, 11) == {"a": 4, "b": 4, "c": 3}
    with pytest.raises(UsageError, match="at least 2, one for each sampler in the mixture, got 1"):
        split_draws({"a": 1.0, "b": 1.0}, 1)


# The toy catalogue: loss and gradient of the mixture against the exact softmax.


def exact(scores: Tensor, rows: Rows, known: Known) -> Tensor:
    """The softmax over the target and every item that is allowed and not known."""
    hidden = known.has(rows.users_N, torch.arange(ITEMS)) | ~torch.from_numpy(ALLOWED)
    hidden[torch.arange(len(rows)), rows.targets_N] = False
    return functional.cross_entropy(
        scores.masked_fill(hidden, float("-inf")), rows.targets_N, reduction="none"
    )


def losses(scores: Tensor, rows: Rows, drawn: Candidates) -> Tensor:
    shared = scores[:, drawn.shared_K]
    own = scores.gather(1, drawn.own_NM)
    positive = scores.gather(1, rows.targets_N[:, None])[:, 0]
    return sampled_softmax(
        positive, torch.cat([shared, own], dim=1),
        masked_BK=drawn.masked_NC, log_weight_BK=drawn.log_weight_NC,
    )  # fmt: skip


def toy_problem(shares: Mapping[str, float], *, corrected: bool = True) -> tuple[float, float]:
    """Distance of mixture and exact softmax: in the loss, and in the gradient by its length.

    The rows that are judged are those of user and item 0 to 3, each time in another batch whose
    other rows come as items occur. The draws of all batches make one large sample.
    """
    judged = Rows(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 3, 6, 8]))
    known = Known(torch.tensor([0, 0, 1, 3, 3]), torch.tensor([0, 2, 3, 8, 7]), ITEMS)
    mixture = Mixture(samplers(), shares, known=known, corrected=corrected)
    parts = []
    for seed in range(BATCHES):
        more = batch(196, seed=1000 + seed)
        rows = Rows(
            torch.cat([judged.users_N, more.users_N]), torch.cat([judged.targets_N, more.targets_N])
        )
        parts.append(mixture.draw(rows, 400, seeded(seed)))
    items = [torch.cat([p.shared_K.expand(4, -1), p.own_NM[:4]], dim=1) for p in parts]
    weights = [torch.zeros(1) if p.log_weight_NC is None else p.log_weight_NC[:4] for p in parts]
    scores = torch.randn(4, ITEMS, generator=seeded(2)).requires_grad_()
    truth = exact(scores, judged, known)
    found = sampled_softmax(
        scores.gather(1, judged.targets_N[:, None])[:, 0],
        scores.gather(1, torch.cat(items, dim=1)),
        masked_BK=torch.cat([p.masked_NC[:4] for p in parts], dim=1),
        log_weight_BK=torch.cat([w.expand_as(i) for w, i in zip(weights, items, strict=True)], 1)
        - math.log(BATCHES),
    )
    (wanted,) = torch.autograd.grad(truth.sum(), scores)
    (got,) = torch.autograd.grad(found.sum(), scores)
    return float((found - truth).detach().abs().max()), float((got - wanted).norm() / wanted.norm())


BATCHES = 150
SHARES: dict[str, Mapping[str, float]] = {
    "in-batch": {"in-batch": 1.0},
    "uniform": {"uniform": 1.0},
    "in-batch and uniform": {"in-batch": 0.5, "uniform": 0.5},
    "in-batch and mined": {"in-batch": 0.5, "mined": 0.5},
    "in-batch and viewed": {"in-batch": 0.5, "viewed": 0.5},
    "uniform and tags": {"uniform": 0.3, "tags": 0.7},
    "all": {"in-batch": 1.0, "uniform": 1.0, "viewed": 1.0, "tags": 1.0, "mined": 1.0},
}


@pytest.fixture(scope="module")
def small_draws() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", list(SHARES))
@pytest.mark.usefixtures("small_draws")
def test_corrected_mixtures_converge_to_the_full_softmax(name: str) -> None:
    loss, gradient = toy_problem(SHARES[name])
    assert loss < 0.05
    assert gradient < 0.05


@pytest.mark.parametrize("name", ["in-batch", "in-batch and mined", "all"])
@pytest.mark.usefixtures("small_draws")
def test_without_the_correction_they_do_not(name: str) -> None:
    loss, gradient = toy_problem(SHARES[name], corrected=False)
    assert loss > 1.0
    assert gradient > 0.15


def test_weights_are_those_of_the_whole_mixture() -> None:
    """By hand: 4 in-batch and 4 mined draws; a mined item in the batch is expected from both."""
    rows = Rows(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3]))
    mixture = Mixture(samplers(), {"in-batch": 0.5, "mined": 0.5})
    drawn = mixture.draw(rows, 8, seeded())
    assert drawn.shared_K.tolist() == [0, 1, 2, 3]
    assert drawn.own_NM.shape == (4, 4)
    assert drawn.draws == 8
    assert drawn.log_weight_NC is not None
    # item 1 for user 0: 4 · 3/4 in-batch draws at 20 of 100, and 4 mined draws at 1 of 3
    expected = -math.log(3 * 0.2 + 4 / 3)
    assert drawn.log_weight_NC[0, 1].item() == pytest.approx(expected, rel=1e-5)
    # item 1 for user 1, whose pool does not hold it
    assert drawn.log_weight_NC[1, 1].item() == pytest.approx(-math.log(3 * 0.2), rel=1e-5)


def test_own_items_and_known_positives_are_masked() -> None:
    rows = Rows(torch.tensor([0, 1]), torch.tensor([0, 1]))
    known = Known(torch.tensor([0]), torch.tensor([1]), ITEMS)
    drawn = Mixture(samplers(), {"in-batch": 1.0}, known=known).draw(rows, 2, seeded())
    assert drawn.masked_NC.tolist() == [[True, True], [False, True]]
    free = Mixture(samplers(), {"in-batch": 1.0}).draw(rows, 2, seeded())
    assert free.masked_NC.tolist() == [[True, False], [False, True]]


def test_streamed_frequencies_estimate_the_full_softmax() -> None:
    """Frequencies that nobody counted: after enough batches the loss is that of counted ones."""
    frequency = StreamingFrequency(4096, rate=0.002)
    for seed in range(2000):
        frequency.update(batch(8, seed=seed).targets_N)
    judged = Rows(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 3, 6, 8]))
    known = Known(torch.zeros(0), torch.zeros(0), ITEMS)
    scores = torch.randn(4, ITEMS, generator=seeded(2))
    mixture = Mixture({"in-batch": StreamedBatch(frequency)}, {"in-batch": 1.0}, known=known)
    sums = torch.zeros(4)
    for seed in range(2000):
        rows = batch(8, seed=5000 + seed)
        mixed = Rows(rows.users_N[:4], judged.targets_N)
        drawn = mixture.draw(rows, 8, seeded(seed))
        own = drawn.shared_K
        assert len(torch.unique(own)) == len(own)
        assert drawn.log_weight_NC is not None
        mask = mixed.targets_N[:, None] == own[None, :]
        mine = Candidates(own, drawn.own_NM[:4], mask, drawn.log_weight_NC[:4], len(own))
        found = losses(scores, mixed, mine)
        positive = scores.gather(1, mixed.targets_N[:, None])[:, 0]
        sums += (found + positive).exp() - positive.exp()
    truth = exact(scores, judged, known)
    positive = scores.gather(1, judged.targets_N[:, None])[:, 0]
    expected = (truth + positive).exp() - positive.exp()
    torch.testing.assert_close(sums / 2000, expected, rtol=0.1, atol=0.0)


def test_mining_against_a_slow_twin() -> None:
    generator = np.random.default_rng(0)
    users = functional.normalize(torch.from_numpy(generator.normal(size=(5, 4))), dim=1)
    items = functional.normalize(torch.from_numpy(generator.normal(size=(ITEMS, 4))), dim=1)
    taken = torch.tensor([3, 0, 7, -1, 2])
    known = Known(torch.tensor([0, 0, 1, 4]), torch.tensor([3, 5, 0, 2]), ITEMS)
    pool, sizes = mine(
        lambda start, stop: users[start:stop], items, taken, known, size=4,
        allowed_I=torch.from_numpy(ALLOWED), margin=0.1, block=2,
    )  # fmt: skip
    scores = (users @ items.T).tolist()
    for user in range(5):
        wanted = []
        if taken[user] >= 0:
            limit = scores[user][int(taken[user])] - 0.1
            has = {3, 5} if user == 0 else {1: {0}, 4: {2}}.get(user, set())
            open_items = [
                item for item in range(ITEMS)
                if ALLOWED[item] and item not in has and scores[user][item] <= limit
            ]  # fmt: skip
            wanted = sorted(open_items, key=lambda item: -scores[user][item])[:4]
        assert pool[user, : sizes[user]].tolist() == wanted
    assert sizes.tolist()[3] == 0
    assert sizes.sum() > 0


def test_before_mining_everything_is_drawn() -> None:
    fresh = Mined(USERS, 3, allowed_I=ALLOWED)
    rows = Rows(torch.tensor([0, 1]), torch.tensor([1, 1]))
    found = fresh.log_q(rows, torch.arange(ITEMS)).exp()
    assert found[0, :11].tolist() == pytest.approx([1 / 11] * 11)
    assert set(fresh.draw(rows, 2000, seeded()).flatten().tolist()) == set(range(11))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"in-bach": 1.0}, '"in-bach" is unknown. Did you mean "in-batch"'),
        ({"uniform": 0.0}, "the share of uniform must be above 0, got 0"),
        ({"uniform": float("nan")}, "above 0, got nan"),
        ({}, "no sampler was named"),
    ],
)
def test_wrong_shares(shares: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Mixture(samplers(), shares)


def test_wrong_settings() -> None:
    with pytest.raises(UsageError, match="at least one item"):
        Uniform(torch.zeros(0, dtype=torch.long), 3)
    with pytest.raises(UsageError, match="pools must hold at least 1 item, got 0"):
        Mined(3, 0, allowed_I=ALLOWED)
    with pytest.raises(UsageError, match=r"margin must be at least 0, got -0.1"):
        mine(
            lambda start, stop: torch.zeros(1), torch.zeros(1, 1), torch.zeros(1),
            Known(torch.zeros(0), torch.zeros(0), 1), size=1,
            allowed_I=torch.ones(1, dtype=torch.bool), margin=-0.1,
        )  # fmt: skip

"""Retrieval losses against slow twins, known answers, another library, and the full softmax."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import UsageError
from warmstart.objectives import (
    accidental_hits,
    bounded_temperature,
    frequency_temperature,
    info_nce,
    log_expected_draws,
    mutual_information_bound,
    sampled_softmax,
    unbounded_temperature,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_info_nce(
    users: Tensor,
    items: Tensor,
    temperature: float,
    masked: list[list[bool]] | None = None,
    log_q: list[float] | None = None,
) -> float:
    def unit(vector: list[float]) -> list[float]:
        length = math.sqrt(sum(x * x for x in vector))
        return [x / length for x in vector]

    rows = [unit(vector) for vector in users.tolist()]
    columns = [unit(vector) for vector in items.tolist()]
    total = 0.0
    for b, user in enumerate(rows):
        score = [
            sum(x * y for x, y in zip(user, item, strict=True)) / temperature for item in columns
        ]
        whole = math.exp(score[b])
        for k, value in enumerate(score):
            if k == b or (masked is not None and masked[b][k]):
                continue
            weight = 1.0
            if log_q is not None:
                weight = 1.0 / ((len(rows) - 1) * math.exp(log_q[k]))
            whole += weight * math.exp(value)
        total += -math.log(math.exp(score[b]) / whole)
    return total / len(rows)


def test_info_nce_known_answers() -> None:
    """Equal scores everywhere: each of B items is as likely, so the loss is log B."""
    ones = torch.ones(5, 3)
    assert info_nce(ones, ones).item() == pytest.approx(math.log(5))
    assert info_nce(ones, ones, symmetric=True).item() == pytest.approx(math.log(5))
    apart = torch.eye(2)
    expected = math.log(1 + math.exp(-1 / 0.5))
    assert info_nce(apart, 3 * apart, temperature=0.5).item() == pytest.approx(expected)
    everything = torch.ones(5, 5, dtype=torch.bool)
    assert info_nce(ones, ones, masked_BB=everything).item() == pytest.approx(0.0, abs=1e-6)


def test_info_nce_against_a_slow_twin() -> None:
    users, items = drawn(6, 4), drawn(6, 4, seed=1)
    masked = torch.rand(6, 6, generator=torch.Generator().manual_seed(2)) < 0.3
    log_q = torch.log(torch.tensor([0.3, 0.2, 0.2, 0.1, 0.1, 0.1]))
    plain = info_nce(users, items, temperature=0.3)
    assert plain.item() == pytest.approx(slow_info_nce(users, items, 0.3), rel=1e-5)
    hidden = info_nce(users, items, temperature=0.3, masked_BB=masked)
    assert hidden.item() == pytest.approx(
        slow_info_nce(users, items, 0.3, masked.tolist()), rel=1e-5
    )
    weighed = info_nce(users, items, temperature=0.3, masked_BB=masked, log_q_B=log_q)
    assert weighed.item() == pytest.approx(
        slow_info_nce(users, items, 0.3, masked.tolist(), log_q.tolist()), rel=1e-5
    )
    both = info_nce(users, items, temperature=0.3, symmetric=True, masked_BB=masked)
    back = slow_info_nce(items, users, 0.3, masked.T.tolist())
    forth = slow_info_nce(users, items, 0.3, masked.tolist())
    assert both.item() == pytest.approx((forth + back) / 2, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.07, 0.5])
@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_equals_sentence_transformers(temperature: float, symmetric: bool) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim

    model: Any = torch.nn.Identity()
    settings: dict[str, Any] = {"scale": 1 / temperature, "similarity_fct": cos_sim}
    if symmetric:
        settings |= {
            "directions": ("query_to_doc", "doc_to_query"),
            "partition_mode": "per_direction",
        }
    theirs = MultipleNegativesRankingLoss(model, **settings)
    users = drawn(9, 16).float().requires_grad_()
    items = drawn(9, 16, seed=1).float().requires_grad_()
    expected = theirs.compute_loss_from_embeddings([users, items], torch.zeros(9))
    expected_gradient = torch.autograd.grad(expected, (users, items))
    found = info_nce(users, items, temperature=temperature, symmetric=symmetric)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, other in zip(
        torch.autograd.grad(found, (users, items)), expected_gradient, strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_sampled_softmax_against_a_slow_twin() -> None:
    positive, candidates = drawn(4), drawn(4, 6, seed=1)
    masked = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.4
    weight = drawn(6, seed=4)
    found = sampled_softmax(positive, candidates, masked_BK=masked, log_weight_BK=weight)
    for b in range(4):
        whole = math.exp(positive[b])
        for k in range(6):
            if not masked[b, k]:
                whole += math.exp(weight[k]) * math.exp(candidates[b, k])
        assert found[b].item() == pytest.approx(math.log(whole) - positive[b].item())


def test_a_row_without_negatives_teaches_nothing() -> None:
    positive = torch.zeros(2, requires_grad=True)
    candidates = torch.ones(2, 3, requires_grad=True)
    masked = torch.tensor([[True] * 3, [False] * 3])
    losses = sampled_softmax(positive, candidates, masked_BK=masked)
    losses.sum().backward()
    assert losses[0].item() == 0.0
    assert candidates.grad is not None
    assert candidates.grad[0].abs().sum() == 0.0
    assert torch.isfinite(candidates.grad).all()


def test_accidental_hits() -> None:
    targets = torch.tensor([3, 5])
    shared = torch.tensor([3, 5, 7])
    known = torch.tensor([[False, False, True], [False, False, False]])
    expected = torch.tensor([[True, False, True], [False, True, False]])
    assert torch.equal(accidental_hits(targets, shared, known), expected)
    own = torch.tensor([[3, 1], [2, 5]])
    expected = torch.tensor([[True, False], [False, True]])
    assert torch.equal(accidental_hits(targets, own), expected)


def test_log_expected_draws() -> None:
    often = torch.log(torch.tensor([0.5, 0.5, 0.0]))
    rarely = torch.log(torch.tensor([0.1, 0.2, 0.7]))
    found = log_expected_draws([often, rarely], [10, 30]).exp()
    assert found.tolist() == pytest.approx([8.0, 11.0, 21.0], rel=1e-5)
    only = log_expected_draws([often, rarely], [10, 0]).exp()
    assert only.tolist() == pytest.approx([5.0, 5.0, 0.0])
    with pytest.raises(UsageError, match="number of draws for each sampler, got 1 for 2"):
        log_expected_draws([often, rarely], [1])
    with pytest.raises(UsageError, match="got 0 draws"):
        log_expected_draws([often], [0])


def test_the_sign_of_the_correction() -> None:
    """Of two negatives with the same score the one that is drawn rarely counts more."""
    scores = torch.zeros(1, 2, requires_grad=True)
    log_q = torch.log(torch.tensor([0.9, 0.1]))
    weight = -log_expected_draws([log_q], [2])
    sampled_softmax(torch.zeros(1), scores, log_weight_BK=weight).sum().backward()
    assert scores.grad is not None
    common, rare = scores.grad[0].tolist()
    assert rare == pytest.approx(9 * common, rel=1e-4)
    assert common > 0


def test_corrected_draws_estimate_the_full_softmax() -> None:
    """By enumeration: the weighted sum over one draw has the full sum as its expectation."""
    scores, target = drawn(5), 2
    q = torch.tensor([0.4, 0.3, 0.1, 0.15, 0.05], dtype=torch.float64)
    expectation = 0.0
    for item in range(5):
        if item != target:
            weight = -log_expected_draws([torch.log(q)], [1])[item]
            loss = sampled_softmax(
                scores[target][None], scores[item][None, None], log_weight_BK=weight
            )
            others = math.exp(loss.item() + scores[target].item()) - math.exp(scores[target].item())
            expectation += q[item].item() * others
    full = sum(math.exp(scores[item]) for item in range(5) if item != target)
    assert expectation == pytest.approx(full)


def test_mutual_information_bound() -> None:
    """Vectors that tell nothing: loss log(K + 1), bound 0. Vectors that tell all: log(K + 1)."""
    ones = torch.ones(8, 2)
    assert mutual_information_bound(info_nce(ones, ones).item(), 7) == pytest.approx(0.0, abs=1e-6)
    assert mutual_information_bound(0.0, 7) == pytest.approx(math.log(8))
    with pytest.raises(UsageError, match="candidates must be at least 0"):
        mutual_information_bound(0.0, -1)


def test_mutual_information_stays_below_the_truth() -> None:
    """Users and items that share one of four values know log 4 nats of one another."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 4, (400,), generator=generator)
    vectors = functional.one_hot(kinds, 4).float()
    found = mutual_information_bound(info_nce(vectors, vectors, temperature=0.05).item(), 399)
    assert math.log(4) - 0.1 < found <= math.log(4) + 1e-3


def test_learned_temperatures_stay_within_bounds() -> None:
    for start in (0.011, 0.07, 0.99):
        raw = torch.tensor(unbounded_temperature(start))
        assert bounded_temperature(raw).item() == pytest.approx(start, rel=1e-4)
    assert bounded_temperature(torch.tensor(50.0)).item() == pytest.approx(1.0)
    assert bounded_temperature(torch.tensor(-50.0)).item() == pytest.approx(0.01)
    raw = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bounded_temperature, (raw,))
    for wrong in (0.01, 1.0, 2.0):
        with pytest.raises(UsageError, match="must start between"):
            unbounded_temperature(wrong)


def test_temperature_by_frequency() -> None:
    counts = torch.tensor([0, 9, 99])
    typical = math.log(10)
    found = frequency_temperature(counts, typical, 0.1, 0.5)
    assert found.tolist() == pytest.approx([0.1 / math.sqrt(10), 0.1, 0.1 * math.sqrt(10)])
    assert frequency_temperature(counts, typical, 0.1, 0.0).tolist() == pytest.approx([0.1] * 3)
    assert frequency_temperature(counts, typical, 0.5, 2.0).tolist() == pytest.approx(
        [0.01, 0.5, 1.0]
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_above_0_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be above 0"):
        info_nce(torch.ones(2, 2), torch.ones(2, 2), temperature=temperature)

"""The towers: unit vectors, nothing seen of the future, ids that can be done without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import Streams, UsageError
from warmstart.retrieval.sequences import WindowBatch
from warmstart.retrieval.towers import ItemTower, Temperature, Towers, TowerShape, UserTower

SHAPE = TowerShape(items=10, features=5, width=8, layers=2, heads=2, history=6)


def towers(**changes: object) -> Towers:
    return Towers(SHAPE.model_copy(update=changes), streams=Streams(1)).eval()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def windows(items: list[list[int]], asked: list[tuple[int, int]], users: list[int]) -> WindowBatch:
    width = max(1, *(len(row) for row in items))
    padded = torch.tensor([row + [-1] * (width - len(row)) for row in items])
    return WindowBatch(
        padded, torch.tensor(users), torch.tensor([row for row, _ in asked]),
        torch.tensor([place for _, place in asked]), torch.full((len(asked),), -1),
        torch.arange(len(items)),
    )  # fmt: skip


def test_item_vectors_have_unit_length() -> None:
    known = torch.tensor([True, False, True])
    found = towers().items(torch.tensor([1, 2, 3]), drawn(3, 5), known)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    nothing = towers(features=0).items(torch.tensor([1, 2]), None, torch.tensor([False, False]))
    assert nothing.norm(dim=1).tolist() == pytest.approx([1.0] * 2)
    zeros = towers(items=0).items(None, torch.zeros(2, 5), torch.tensor([True, True]))
    assert zeros.norm(dim=1).tolist() == pytest.approx([1.0] * 2)


def test_the_id_of_an_unseen_item_does_not_matter() -> None:
    tower = towers().items
    text = drawn(1, 5).expand(4, 5)
    codes = torch.tensor([1, 2, 3, 4])
    found = tower(codes, text, torch.tensor([True, True, False, False]))
    assert not torch.allclose(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])
    torch.testing.assert_close(tower(None, text[:1], torch.tensor([False]))[0], found[2])


def test_id_dropout_takes_ids_away_while_training_only() -> None:
    tower = towers(id_dropout=0.4).items
    codes, known = torch.arange(10).repeat(300), torch.ones(3000, dtype=torch.bool)
    text = torch.zeros(3000, 5)
    own = tower(codes, text, known)
    without = tower(codes, text, ~known)
    tower.train()
    torch.manual_seed(0)
    found = tower(codes, text, known)
    taken = (found == without).all(dim=1)
    kept = (found == own).all(dim=1)
    assert bool((taken | kept).all())
    assert float(taken.float().mean()) == pytest.approx(0.4, abs=0.04)


def test_ids_and_what_stands_for_them_both_learn() -> None:
    tower = towers(id_dropout=0.5).items.train()
    torch.manual_seed(0)
    codes = torch.arange(10).repeat(20)
    found = tower(codes, drawn(200, 5), torch.ones(200, dtype=torch.bool))
    (found * drawn(200, 8, seed=1)).sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_the_future_does_not_reach_the_past() -> None:
    tower = towers().users
    vectors = functional.normalize(drawn(2, 6, 8), dim=-1)
    row, place = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 3, 2, 6])
    before = tower(vectors, row, place)
    changed = vectors.clone()
    changed[0, 3:] = 0.0
    changed[1, 2:] = 1.0
    after = tower(changed, row, place)
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[3], after[3])
    changed = vectors.clone()
    changed[0, 2] = 0.0
    assert not torch.allclose(tower(changed, row, place)[1], before[1])


def test_padding_does_not_matter() -> None:
    model, items = towers(), functional.normalize(drawn(10, 8), dim=1)
    alone = model.user_vectors(windows([[3, 4]], [(0, 2), (0, 1)], [0]), items)
    beside = model.user_vectors(
        windows([[3, 4], [1, 2, 5, 6, 7, 8]], [(0, 2), (0, 1)], [0, 1]), items
    )
    torch.testing.assert_close(alone, beside)


def test_the_order_of_events_matters() -> None:
    model, items = towers(), functional.normalize(drawn(10, 8), dim=1)
    found = model.user_vectors(windows([[3, 4], [4, 3]], [(0, 2), (1, 2)], [0, 1]), items)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_a_user_without_history_has_a_vector() -> None:
    model, items = towers(), functional.normalize(drawn(10, 8), dim=1)
    found = model.user_vectors(windows([[], [5]], [(0, 0), (1, 0)], [-1, -1]), items)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * 2)
    torch.testing.assert_close(found[0], found[1])


def test_attributes_reach_the_vector_and_unknown_users_have_none() -> None:
    model, items = towers(profile=3), functional.normalize(drawn(10, 8), dim=1)
    profile = drawn(2, 3, seed=2)
    asked = windows([[5], [5], [5], [5]], [(row, 1) for row in range(4)], [0, 1, -1, 2])
    found = model.user_vectors(asked, items, profile)
    assert not torch.allclose(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])
    zeros = model.user_vectors(asked, items, torch.zeros(2, 3))
    torch.testing.assert_close(zeros[0], found[2])


@torch.no_grad()
def test_attention_against_a_slow_twin() -> None:
    """One block by plain loops: causal, scaled by the root of a head's width."""
    tower = UserTower(SHAPE.model_copy(update={"layers": 1}), Streams(2)).eval()
    vectors = functional.normalize(drawn(1, 3, 8), dim=-1)
    found = tower(vectors, torch.tensor([0]), torch.tensor([3]))[0]
    states = torch.cat([tower.start[None], tower.input(vectors[0]) * math.sqrt(8)])
    states = states + tower.places[:4]
    block = tower.blocks[0]
    packed = block.attention_in(block.attention_norm(states))
    query, key, value = packed.split(8, dim=1)
    mixed = torch.zeros(4, 8)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        for now in range(4):
            scores = [float(query[now, part] @ key[then, part]) / 2 for then in range(now + 1)]
            weights = [math.exp(score) for score in scores]
            for then, weight in enumerate(weights):
                mixed[now, part] += weight / sum(weights) * value[then, part]
    states = states + block.attention_out(mixed)
    inner = functional.gelu(block.inner_in(block.inner_norm(states)))
    states = states + block.inner_out(inner)
    expected = functional.normalize(tower.output(tower.norm(states[3])), dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_places_alone_are_as_in_the_whole() -> None:
    """One place a row at most, as serving asks, goes another way than all places of all rows."""
    tower = towers().users
    vectors = drawn(5, 6, 8)
    rows, places = torch.tensor([0, 1, 2, 4, 3]), torch.tensor([0, 6, 3, 1, 5])
    few = tower(vectors, rows, places)
    whole = tower(vectors, rows.repeat(2), places.repeat(2))[:5]
    torch.testing.assert_close(few, whole, atol=1e-6, rtol=0)
    assert tower(vectors, rows[:0], places[:0]).shape == (0, 8)
    twice = tower(vectors, rows[[1, 1]], places[[1, 2]])
    torch.testing.assert_close(twice[0], whole[1], atol=1e-6, rtol=0)
    changed = vectors.clone()
    changed[2, 3:] = 9.0  # after the place that is asked
    torch.testing.assert_close(tower(changed, rows, places)[2], few[2], atol=1e-6, rtol=0)


def test_start_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = Towers(SHAPE), Towers(SHAPE), Towers(SHAPE, streams=Streams(5))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, left), (_, right) in zip(
        one.named_parameters(), same.named_parameters(), strict=True
    ):
        assert torch.equal(left, right), name
    assert not torch.equal(one.users.start, other.users.start)


def test_every_parameter_is_in_one_group() -> None:
    model = Towers(SHAPE, learn_temperature=True)
    groups = model.parameter_groups()
    assert list(groups) == ["items", "users", "temperature"]
    named = [name for members in groups.values() for name, _ in members]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert list(Towers(SHAPE).parameter_groups()) == ["items", "users"]


def test_temperature() -> None:
    assert float(Temperature(0.05)()) == pytest.approx(0.05)
    learned = Temperature(0.05, learned=True)
    assert learned().item() == pytest.approx(0.05)
    optimizer = torch.optim.SGD(learned.parameters(), lr=100.0)
    for _ in range(50):
        optimizer.zero_grad()
        (-learned()).backward()
        optimizer.step()
    assert 0.9 < learned().item() <= 1.0
    with pytest.raises(UsageError, match=r"temperature must be 0.01 to 1, got 0.001"):
        Temperature(0.001)


def test_refuses() -> None:
    with pytest.raises(UsageError, match="got neither"):
        ItemTower(TowerShape(items=0, features=0), Streams(0))
    with pytest.raises(UsageError, match="multiple of heads, got width=9 and heads=2"):
        UserTower(TowerShape(items=3, features=0, width=9), Streams(0))
    with pytest.raises(UsageError, match="trained on given vectors"):
        towers().items(torch.tensor([1]), None, torch.tensor([True]))

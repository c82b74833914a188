"""Ranks against a full sort in plain Python; ties and NaN count against the model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.core import DataError, UsageError
from warmstart.evaluation import (
    RankingTask,
    Ranks,
    all_future_task,
    next_item_task,
    rank_targets,
    ranking,
)

from .ranking_events import Given, events, random_events

ITEMS = 7
AWKWARD = [0.0, 0.0, 1.0, -1.0, 2.5, math.nan, math.inf, -math.inf, -0.0]


def make_task(kind: str, seed: int = 0, n_items: int = ITEMS) -> RankingTask:
    past = events(random_events(seed, 12, 4, n_items, 0, 9), 4, n_items)
    future = [*random_events(seed + 1, 14, 4, n_items, 10, 19), (0, n_items - 1, 30)]
    if all(item != n_items - 1 for item in past.item_N):
        return (next_item_task if kind == "next_item" else all_future_task)(
            past, events(future, 4, n_items)
        )
    return make_task(kind, seed + 2, n_items)


def lists(task: RankingTask, q: int) -> tuple[set[int], list[int]]:
    """Seen items and targets of a query."""
    queries, targets = task.queries, task.targets
    seen = queries.items_H[queries.offsets_Q1[q] : queries.offsets_Q1[q + 1]]
    mine = targets.items[targets.offsets_Q1[q] : targets.offsets_Q1[q + 1]]
    return set(seen.tolist()), mine.tolist()


def slow_ranks(scores: list[list[float]], task: RankingTask, pool: list[bool]) -> list[int]:
    """Sort every list in full; among equals the target comes last, NaN comes first."""
    found = []
    for q in range(len(task)):
        seen, targets = lists(task, q)
        for target in targets:
            mine = scores[q][target]
            if math.isnan(mine) or not pool[target]:
                found.append(len(pool))
                continue
            others = [i for i in range(len(pool)) if pool[i] and i not in seen and i not in targets]
            rows = [
                (-math.inf if math.isnan(scores[q][i]) else -scores[q][i], 0)
                if not math.isnan(scores[q][i])
                else (-math.inf, -1)
                for i in others
            ]
            order = sorted([*rows, (-mine, 1)])
            found.append(order.index((-mine, 1)) + 1)
    return found


def slow_shown(scores: list[list[float]], task: RankingTask, pool: list[bool], k: int) -> list[int]:
    """Items of each query's first K; meant for scores without ties."""
    counts = [0] * len(pool)
    for q in range(len(task)):
        seen, _ = lists(task, q)
        usable = [
            i
            for i in range(len(pool))
            if pool[i]
            and i not in seen
            and not math.isnan(scores[q][i])
            and scores[q][i] > -math.inf
        ]
        for i in sorted(usable, key=lambda i: -scores[q][i])[:k]:
            counts[i] += 1
    return counts


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["next_item", "all_future"]), seed=st.integers(0, 30))
def test_ranks_equal_a_full_sort(data: st.DataObject, kind: str, seed: int) -> None:
    task = make_task(kind, seed)
    values = st.one_of(st.sampled_from(AWKWARD), st.floats(-2, 2, width=16))
    row = st.lists(values, min_size=ITEMS, max_size=ITEMS)
    scores = data.draw(st.lists(row, min_size=len(task), max_size=len(task)))
    pool = data.draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS)))
    block = data.draw(st.integers(1, 9))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    found = rank_targets(
        Given(np.array(scores, dtype=dtype)), task, ITEMS, block=block, candidates=pool, ks=()
    )
    assert found.rank_P.tolist() == slow_ranks(scores, task, pool or [True] * ITEMS)
    lost = sum(math.isnan(scores[q][i]) for q in range(len(task)) for i in lists(task, q)[1])
    assert found.unscored == lost


@pytest.mark.parametrize("kind", ["next_item", "all_future"])
@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_rows_beyond_a_cache_are_ranked_alike(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that end within a block, and the masks that blocks share."""
    task = make_task(kind, 8)
    scores = np.random.default_rng(3).choice(AWKWARD, size=(len(task), ITEMS))
    wanted = slow_ranks(scores.tolist(), task, [True] * ITEMS)
    monkeypatch.setattr(ranking, "_CACHED", rows * ITEMS)
    for block in (1, 3, 5, 64):
        found = rank_targets(Given(scores), task, ITEMS, block=block)
        assert found.rank_P.tolist() == wanted
        half = rank_targets(Given(torch.tensor(scores).bfloat16()), task, ITEMS, block=block)
        assert half.rank_P.tolist() == wanted, "no NumPy type: compared by torch"
        assert all((half.shown[k] == found.shown[k]).all() for k in found.shown)


@pytest.mark.parametrize("kind", ["next_item", "all_future"])
@pytest.mark.parametrize("value", [0.0, 1.0, math.inf, -math.inf])
def test_equal_scores_have_the_worst_rank(kind: str, value: float) -> None:
    task = make_task(kind)
    found = rank_targets(Given(np.full((len(task), ITEMS), value)), task, ITEMS)
    worst = []
    for q in range(len(task)):
        seen, targets = lists(task, q)
        worst += [ITEMS - len(seen) - len(targets) + 1] * len(targets)
    assert found.rank_P.tolist() == worst
    assert found.unscored == 0


@pytest.mark.parametrize("kind", ["next_item", "all_future"])
def test_without_a_number_every_target_is_last(kind: str) -> None:
    task = make_task(kind)
    found = rank_targets(Given(np.full((len(task), ITEMS), np.nan)), task, ITEMS)
    assert set(found.rank_P.tolist()) == {ITEMS}
    assert set(found.position_P.tolist()) == {ITEMS}
    assert found.unscored == len(task.targets.items)
    assert not any(count.any() for count in found.shown.values())


def test_a_perfect_recommender_is_first() -> None:
    for kind in ("next_item", "all_future"):
        task = make_task(kind)
        scores = np.zeros((len(task), ITEMS))
        scores[task.targets.rows, task.targets.items] = 1.0
        found = rank_targets(Given(scores), task, ITEMS)
        assert set(found.rank_P.tolist()) == {1}
        assert found.position_P.tolist() == [
            1 + j for n in task.targets.lengths_Q for j in range(n)
        ]


def test_places_count_the_other_targets() -> None:
    task = all_future_task(
        events([(0, 0, 1)], 1, 6), events([(0, 1, 9), (0, 2, 9), (0, 3, 9)], 1, 6)
    )
    # The order of the unseen: 3, 4, 1, 5, 2.
    found = rank_targets(Given(np.array([[9.0, 3.0, 1.0, 5.0, 4.0, 2.0]])), task, 6)
    assert found.rank_P.tolist() == [2, 3, 1]
    assert found.position_P.tolist() == [3, 5, 1]
    columns = found.columns()
    assert columns["item"].tolist() == [1, 2, 3]
    assert columns["position"].tolist() == [3, 5, 1]
    assert columns["user"].tolist() == columns["query"].tolist() == [0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(["next_item", "all_future"]))
def test_items_shown_equal_a_full_sort(seed: int, kind: str) -> None:
    task = make_task(kind, seed % 20)
    rng = np.random.default_rng(seed)
    scores = np.array([rng.permutation(ITEMS) for _ in range(len(task))], dtype=np.float64)
    scores[rng.random(scores.shape) < 0.15] = np.nan
    scores[rng.random(scores.shape) < 0.15] = -np.inf
    pool = (rng.random(ITEMS) < 0.8).tolist()
    found = rank_targets(Given(scores), task, ITEMS, block=3, candidates=pool, ks=(1, 3, 50))
    assert found.pool == sum(pool)
    for k in (1, 3, 50):
        assert found.shown[k].tolist() == slow_shown(scores.tolist(), task, pool, k)


def forms(scores: np.ndarray) -> dict[str, Any]:
    read_only = scores.copy()
    read_only.flags.writeable = False
    return {
        "float64": scores,
        "float32": scores.astype(np.float32),
        "integers": scores.astype(np.int64),
        "columns first": np.asfortranarray(scores),
        "backwards": scores[:, ::-1].copy()[:, ::-1],
        "read only": read_only,
        "torch": torch.from_numpy(scores),
        "torch half": torch.from_numpy(scores).half(),
        "torch bfloat16": torch.from_numpy(scores).bfloat16(),
        "torch integers": torch.from_numpy(scores).long(),
        "with a gradient": torch.from_numpy(scores.copy()).requires_grad_(),
        "transposed": torch.from_numpy(scores.T.copy()).T,
    }


def test_every_form_of_scores_gives_the_same_ranks() -> None:
    task = make_task("next_item")
    scores = np.random.default_rng(0).integers(0, 50, (len(task), ITEMS)).astype(np.float64)
    wanted = slow_ranks(scores.tolist(), task, [True] * ITEMS)
    for form, given_scores in forms(scores).items():
        found = rank_targets(Given(given_scores), task, ITEMS, block=4)
        assert found.rank_P.tolist() == wanted, form


def test_one_row_for_all_is_allowed() -> None:
    task = make_task("next_item")
    row = np.arange(ITEMS, dtype=np.float32)
    wide = np.broadcast_to(row, (len(task), ITEMS))
    assert rank_targets(Given(wide), task, ITEMS).rank_P.tolist() == slow_ranks(
        wide.tolist(), task, [True] * ITEMS
    )


def test_the_scores_given_stay_as_they_were() -> None:
    task = make_task("all_future")
    scores = np.random.default_rng(0).normal(size=(len(task), ITEMS))
    before = scores.copy()
    rank_targets(Given(scores), task, ITEMS)
    assert np.array_equal(scores, before)


def test_a_recommender_is_asked_for_a_block_at_a_time() -> None:
    task = make_task("next_item")
    recommender = Given(np.zeros((len(task), ITEMS)))
    rank_targets(recommender, task, ITEMS, block=4)
    assert max(recommender.asked) == 4
    assert sum(recommender.asked) == len(task)


def test_large_catalogue_with_many_targets_in_blocks() -> None:
    rng = np.random.default_rng(3)
    past = events(random_events(5, 400, 20, 300, 0, 50), 20, 300)
    future = events(random_events(6, 600, 20, 300, 50, 90), 20, 300)
    task = all_future_task(past, future)
    scores = rng.normal(size=(len(task), 300)).round(1)
    wanted = slow_ranks(scores.tolist(), task, [True] * 300)
    for block in (1, 3, 7, 64):
        found = rank_targets(Given(scores), task, 300, block=block)
        assert found.rank_P.tolist() == wanted


def refused(scores: Any, task: RankingTask, **settings: Any) -> Ranks:
    return rank_targets(Given(scores), task, settings.pop("n_items", ITEMS), **settings)


def test_refusals() -> None:
    task = make_task("next_item")
    good = np.zeros((len(task), ITEMS))
    with pytest.raises(UsageError, match="block must be at least 1, got 0"):
        refused(good, task, block=0)
    with pytest.raises(UsageError, match="list lengths of at least 1, got 0"):
        refused(good, task, ks=(0, 5))
    with pytest.raises(UsageError, match="the 7 items of the task, got 8"):
        refused(good, task, n_items=8)
    with pytest.raises(DataError, match=r"given: scores must have the shape \(\d+, 7\)"):
        refused(good[:, 1:], task)
    with pytest.raises(DataError, match="real numbers, got <U"):
        refused(good.astype(str), task)
    with pytest.raises(DataError, match="real numbers, got bool"):
        refused(good.astype(bool), task)
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(DataError, match="real numbers, got torch"):
            refused(torch.from_numpy(good).to(dtype), task)
    for mask in ([True] * 6, [1] * 7):
        with pytest.raises(DataError, match="true or false for each of the 7 items"):
            refused(good, task, candidates=mask)

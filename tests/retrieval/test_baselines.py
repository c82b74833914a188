"""What every baseline promises, and each one's formula against a plain loop."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from warmstart.core import NotApplicable, Run, UsageError
from warmstart.evaluation import Queries, measure_ranking, next_item_task, rank_targets
from warmstart.retrieval import (
    BASELINES,
    Als,
    Baseline,
    Ease,
    ItemKnn,
    Popularity,
    Random,
    RecentPopularity,
    make_baseline,
)
from warmstart.retrieval import knn as knn_module
from warmstart.retrieval.baselines import register

from .events import events, part, parted, tastes

HISTORIES = [[0, 3, 6, 9], [], [1], [29, 2, 2, 5, 8, 11], [0, 1, 2]]


def queries() -> Queries:
    return Queries.of(HISTORIES, users=[0, 1, 2, -1, 4], time=2000)


def fitted(name: str, data: Any, **settings: Any) -> Any:
    if name == "als":
        pytest.importorskip("implicit")
    return make_baseline(name, settings).fit(data)


def wants(data: Any) -> np.ndarray:
    """Which user has which item."""
    table = np.zeros((data.n_users, data.n_items))
    table[data.user_N, data.item_N] = 1.0
    return table


# --- what holds for each -------------------------------------------------------------------------


def test_the_registry_goes_from_chance_to_the_strongest() -> None:
    names = ["random", "popularity", "recent-popularity", "item-knn", "ease", "als"]
    assert list(BASELINES) == names
    assert all(issubclass(cls, Baseline) and cls.name == name for name, cls in BASELINES.items())
    with pytest.raises(UsageError, match='Did you mean "item-knn"'):
        make_baseline("itemknn")
    with pytest.raises(UsageError, match=r"ease\.l2 must be above 0, got -1"):
        make_baseline("ease", {"l2": -1})
    with pytest.raises(UsageError, match="ease has no setting `lambda`"):
        make_baseline("ease", {"lambda": 3})

    class Another(Popularity):
        name = "popularity"

    with pytest.raises(UsageError, match="'popularity' is already registered by Popularity"):
        register(Another)


@pytest.mark.parametrize("name", BASELINES)
def test_scores_of_every_item_for_every_query(name: str) -> None:
    data = tastes()
    recommender = fitted(name, data)
    assert recommender.name == name
    scores = np.asarray(recommender.scores(queries()))
    assert scores.shape == (len(HISTORIES), data.n_items)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", BASELINES)
def test_blocks_do_not_change_scores(name: str) -> None:
    recommender = fitted(name, tastes())
    whole = np.asarray(recommender.scores(queries()))
    for start in range(0, len(HISTORIES), 2):
        block = queries().block(start, min(start + 2, len(HISTORIES)))
        assert np.asarray(recommender.scores(block)) == pytest.approx(
            whole[start : start + 2], abs=1e-5
        )


@pytest.mark.parametrize("name", BASELINES)
def test_a_fit_repeats_itself_and_takes_its_seed_from_the_run(name: str, tmp_path: Path) -> None:
    data, kind = tastes(), BASELINES[name]
    first, again = (np.asarray(fitted(name, data).scores(queries())) for _ in range(2))
    assert np.array_equal(first, again)
    if name in ("random", "als"):
        other = np.asarray(kind().fit(data, Run(tmp_path, seed=1)).scores(queries()))
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "random"])
def test_no_history_is_answered_by_popularity(name: str) -> None:
    data = tastes()
    scores = np.asarray(fitted(name, data).scores(queries()))
    assert scores[1].tolist() == np.bincount(data.item_N, minlength=data.n_items).tolist()


@pytest.mark.parametrize("name", BASELINES)
def test_only_positive_events_are_counted(name: str) -> None:
    data = tastes()
    noise = np.random.default_rng(0).random(len(data.user_N)) < 0.3
    kept = part(data, ~noise)
    data.positive_N = ~noise
    ours, wanted = (np.asarray(fitted(name, one).scores(queries())) for one in (data, kept))
    assert ours == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", ["item-knn", "ease", "als"])
def test_tastes_are_found(name: str) -> None:
    split = parted(tastes(3, n_users=90))
    task = next_item_task(split.fitted, split.test)
    settings = {"factors": 4} if name == "als" else {}
    found = {
        one: measure_ranking(
            rank_targets(fitted(one, split.fitted, **options), task, task.n_items), task, ["MRR"]
        )["MRR"]
        for one, options in ((name, settings), ("popularity", {}), ("random", {}))
    }
    assert found[name] > 1.3 * found["popularity"] > 1.3 * found["random"]


@pytest.mark.parametrize("name", BASELINES)
def test_the_grid_begins_with_the_default_and_fits(name: str) -> None:
    kind = BASELINES[name]
    grid = kind.grid()
    assert grid[0] == kind()
    assert len(set(grid)) == len(grid)
    data = tastes(n_users=12)
    before = fitted(name, data)
    for one in grid[1:]:
        like = one.fit_like(before, grid[0], data)
        assert np.array_equal(like.scores(queries()), one.fit(data).scores(queries()))


# --- chance and popularity -----------------------------------------------------------------------


def test_random_is_uniform_and_differs_between_queries() -> None:
    data = tastes()
    many = Queries.of([[]] * 4000, users=range(4000), time=5)
    scores = np.asarray(Random().fit(data).scores(many))
    places = (scores[:, :1] < scores).sum(axis=1)
    counts = np.bincount(places, minlength=data.n_items)
    expected = 4000 / data.n_items
    assert ((counts - expected) ** 2 / expected).sum() < 58.3  # chi-square, 29 df, p = 0.001
    later = Queries.of([[]] * 2, users=[7, 7], time=6)
    assert not np.array_equal(Random().fit(data).scores(later)[0], scores[7])
    longer = Queries.of([[], [3]], users=[7, 7], time=5)
    first, second = np.asarray(Random().fit(data).scores(longer))
    assert np.array_equal(first, scores[7])
    assert not np.array_equal(first, second)


def test_popularity_counts() -> None:
    data = tastes()
    wanted = Counter(data.item_N.tolist())
    scores = Popularity().fit(data).scores(queries())
    assert all(row.tolist() == [wanted[i] for i in range(data.n_items)] for row in scores)


@pytest.mark.parametrize("count", [1, 50, 10_000])
def test_recent_popularity_counts_the_end(count: int) -> None:
    data = tastes()
    wanted = Counter(data.item_N[-count:].tolist())
    scores = RecentPopularity(events=count).fit(data).scores(queries())
    assert scores[0].tolist() == [wanted[i] for i in range(data.n_items)]


# --- item-kNN ------------------------------------------------------------------------------------


def slow_knn(data: Any, history: list[int], shrinkage: float, kept: int, last: int) -> list[float]:
    having: dict[int, set[int]] = {i: set() for i in range(data.n_items)}
    for user, item in zip(data.user_N.tolist(), data.item_N.tolist(), strict=True):
        having[item].add(user)
    scores = [0.0] * data.n_items
    for mine in set(history[-last:]):
        near = {}
        for other in range(data.n_items):
            below = math.sqrt(len(having[mine]) * len(having[other])) + shrinkage
            if other != mine and below:
                near[other] = len(having[mine] & having[other]) / below
        bar = sorted(near.values(), reverse=True)[min(kept, len(near)) - 1]
        for other, cosine in near.items():
            scores[other] += cosine if cosine >= bar else 0.0
    return scores


@pytest.mark.parametrize(("shrinkage", "kept", "last"), [(10, 30, 20), (0, 4, 3), (2.5, 1, 1)])
def test_knn_equals_a_loop(
    shrinkage: float, kept: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = part(tastes(2), tastes(2).item_N != 7)  # one item that nobody has
    wanted = [slow_knn(data, h, shrinkage, kept, last) for h in HISTORIES if h]
    asked = [q for q, h in enumerate(HISTORIES) if h]
    settings = ItemKnn(shrinkage=shrinkage, neighbours=kept, last=last)
    for dense in (knn_module._DENSE, 0):
        monkeypatch.setattr(knn_module, "_DENSE", dense)
        for cells in (knn_module._CELLS, 70):  # rows made at once: all, and two
            monkeypatch.setattr(knn_module, "_CELLS", cells)
            recommender: Any = settings.fit(data)
            assert sparse.issparse(recommender.weights_II) == (dense == 0)
            assert recommender.scores(queries())[asked] == pytest.approx(np.array(wanted), abs=1e-5)


def test_knn_by_hand() -> None:
    data = events([(0, 0, 1), (0, 1, 2), (1, 0, 3), (1, 1, 4), (2, 0, 5), (2, 2, 6)], 3, 4)
    scores = ItemKnn(shrinkage=1.0).fit(data).scores(Queries.of([[0], [1]]))
    below_01, below_02 = math.sqrt(6) + 1, math.sqrt(3) + 1
    assert scores[0] == pytest.approx([0, 2 / below_01, 1 / below_02, 0])
    assert scores[1] == pytest.approx([2 / below_01, 0, 0, 0])


def test_knn_with_all_neighbours_is_for_small_catalogues() -> None:
    large = events([(0, 0, 1), (0, 1, 2)], 1, 20_001)
    with pytest.raises(NotApplicable, match=r"20,001 items are more than 20,000\. Set item-knn"):
        ItemKnn(neighbours=None).fit(large)
    few: Any = ItemKnn().fit(large)
    assert few.scores(Queries.of([[0]]))[0, 1] == pytest.approx(1 / 11)
    assert sparse.issparse(few.weights_II)


# --- EASE ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.5, 20.0, 500.0])
def test_ease_is_the_constrained_minimum(l2: float) -> None:
    """Each column is a ridge regression on the other items: solved one by one."""
    data = tastes(1)
    table = wants(data)
    wanted = np.zeros((data.n_items, data.n_items))
    for item in range(data.n_items):
        others = [i for i in range(data.n_items) if i != item]
        x = table[:, others]
        wanted[others, item] = np.linalg.solve(
            x.T @ x + l2 * np.eye(len(others)), x.T @ table[:, item]
        )
    recommender: Any = Ease(l2=l2).fit(data)
    assert recommender.weights_II == pytest.approx(wanted, abs=1e-5)
    scores = recommender.scores(queries())
    assert scores[4] == pytest.approx(wanted[[0, 1, 2]].sum(axis=0), abs=1e-5)
    short = Ease(l2=l2, last=2).fit(data).scores(queries())
    assert short[3] == pytest.approx(wanted[[8, 11]].sum(axis=0), abs=1e-5)


def test_ease_refuses_a_catalogue_too_large_to_invert() -> None:
    with pytest.raises(NotApplicable, match=r"30 items are more than ease\.max_items, 29"):
        Ease(max_items=29).fit(tastes())
    assert Ease(max_items=30).fit(tastes()).name == "ease"


def test_ease_says_when_it_cannot_invert() -> None:
    same = events([(u, i, u) for u in range(5) for i in range(3)], 5, 3)
    with pytest.raises(NotApplicable, match=r"at ease\.l2 = 1e-300"):
        Ease(l2=1e-300).fit(same)


# --- ALS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [None, 2])
def test_als_folds_a_history_in_by_least_squares(last: int | None) -> None:
    pytest.importorskip("implicit")
    settings = Als(factors=6, regularization=0.3, alpha=4.0, last=last)
    recommender: Any = settings.fit(tastes())
    items_IF = np.asarray(recommender.model.item_factors, dtype=np.float64)
    scores = recommender.scores(queries())
    for q, history in enumerate(HISTORIES):
        if not history:
            continue
        confidence = np.ones(len(items_IF))
        confidence[history[-last:] if last else history] = 4.0
        wanted = (confidence > 1).astype(float)
        left = items_IF.T @ (confidence[:, None] * items_IF) + 0.3 * np.eye(6)
        user = np.linalg.solve(left, items_IF.T @ (confidence * wanted))
        assert scores[q] == pytest.approx(items_IF @ user, abs=1e-4)


def test_als_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "implicit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "implicit", None)
    for call in (Als().check, Als().fit):
        with pytest.raises(NotApplicable, match=r"pip install 'warmstart\[als\]'"):
            call(tastes())

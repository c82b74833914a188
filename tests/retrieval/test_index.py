"""The item index: every engine gives what a plain dictionary would, whatever is changed."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmstart.core import DataError, NotApplicable, UsageError
from warmstart.retrieval.index import (
    ENGINES,
    HNSW,
    IVFPQ,
    Engine,
    FaissIndex,
    Flat,
    ItemId,
    ItemIndex,
    IVFFlat,
    engine_from,
)

ROWS, D = 2000, 16
SMALL: dict[str, Engine] = {
    "flat": Flat(),
    "hnsw": HNSW(neighbours=16, building=60, searching=200),
    "ivf-flat": IVFFlat(lists=16, probes=16),
    "ivf-pq": IVFPQ(lists=16, probes=16, codes=4, refine=32),
    "ivf-pq, 4 bits": IVFPQ(lists=16, probes=16, codes=4, bits=4, refine=32),
    "ivf-pq, by queries": IVFPQ(lists=16, probes=16, codes=4, bits=4, refine=32, query_aware=True),
}


def unit(rows: int, seed: int = 0) -> np.ndarray:
    rows_ND = np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def names(rows: int) -> list[ItemId]:
    """Text and whole numbers in turn."""
    return [row if row % 2 else f"item {row}" for row in range(rows)]


def slow_search(
    items: dict[ItemId, np.ndarray],
    query_D: np.ndarray,
    k: int,
    exclude: set[ItemId] = frozenset(),
    allow: set[ItemId] | None = None,
) -> list[tuple[float, ItemId]]:
    """The twin: a dictionary, a loop, a sort."""
    scored = [
        (float(vector_D.astype(np.float64) @ query_D.astype(np.float64)), item)
        for item, vector_D in items.items()
        if item not in exclude and (allow is None or item in allow)
    ]
    return sorted(scored, key=lambda pair: -pair[0])[:k]


def pq_rows() -> int:
    """IVF-PQ learns 256 code words, for which it needs 39 rows each."""
    return 39 * 256


@pytest.fixture(scope="module", params=sorted(SMALL))
def built(request: pytest.FixtureRequest) -> tuple[FaissIndex, dict[ItemId, np.ndarray]]:
    rows = pq_rows() if request.param.startswith("ivf-pq") else ROWS
    items = dict(zip(names(rows), unit(rows), strict=True))
    index = FaissIndex.build(
        list(items),
        np.stack(list(items.values())),
        tower="t",
        engine=SMALL[request.param],
        queries_QD=unit(50, seed=8) if request.param.endswith("queries") else None,
    )
    return index, items


def test_each_engine_finds_nearly_all_with_true_scores(
    built: tuple[FaissIndex, dict[ItemId, np.ndarray]],
) -> None:
    index, items = built
    queries_QD = unit(20, seed=1)
    scores_QK, found = index.search(queries_QD, 20)
    assert scores_QK.shape == (20, 20)
    assert scores_QK.dtype == np.float32
    hits = 0
    for query_D, scores_K, ids in zip(queries_QD, scores_QK, found, strict=True):
        assert len(set(ids)) == 20
        assert all(np.diff(scores_K) <= 0)
        expected = [float(items[item] @ query_D) for item in ids]
        np.testing.assert_allclose(scores_K, expected, atol=1e-5)
        hits += len({item for _, item in slow_search(items, query_D, 20)} & set(ids))
    assert hits / 400 >= (1.0 if index.engine.kind in ("flat", "ivf-flat") else 0.95)


def test_excluded_and_allowed(built: tuple[FaissIndex, dict[ItemId, np.ndarray]]) -> None:
    index, items = built
    query_QD = unit(1, seed=2)
    _, plain = index.search(query_QD, 30)
    exclude = set(plain[0][:10])
    _, without = index.search(query_QD, 20, exclude=[*exclude, "unknown", 10**9])
    assert not exclude & set(without[0])
    assert len(set(without[0])) == 20
    allow = {item for item in items if isinstance(item, int)}
    _, some = index.search(query_QD, 20, allow=allow, exclude=exclude)
    twin = slow_search(items, query_QD[0], 20, exclude, allow)
    assert some[0] == [item for _, item in twin]  # so few are compared exactly
    chosen = index.select([*allow, "unknown"])
    assert len(chosen) == len(allow)
    assert index.search(query_QD, 20, allow=chosen, exclude=exclude)[1] == some


def test_items_like_an_item_are_those_of_its_vector_without_it(
    built: tuple[FaissIndex, dict[ItemId, np.ndarray]],
) -> None:
    index, items = built
    asked = list(items)[7]
    vector_1D = index.vectors([asked])
    scores_QK, found = index.search(vector_1D, 12, exclude=[asked])
    scores_K, ids = index.similar(asked, 12)
    assert (ids, asked in ids) == (found[0], False)
    np.testing.assert_array_equal(scores_K, scores_QK[0])
    allow = set(ids[3:9])
    assert index.similar(asked, 12, exclude=[ids[4], "unknown"], allow=allow)[1] == [
        item for item in ids[3:9] if item != ids[4]
    ]
    with pytest.raises(DataError, match="unknown"):
        index.similar("unknown", 3)
    with pytest.raises(UsageError, match="at least 1"):
        index.similar(asked, 0)


def test_many_excluded_are_masked_in_the_engine(
    built: tuple[FaissIndex, dict[ItemId, np.ndarray]],
) -> None:
    index, items = built
    query_QD = unit(1, seed=3)
    exclude = {item for _, item in slow_search(items, query_QD[0], 600)}
    _, found = index.search(query_QD, 10, exclude=exclude)
    assert not exclude & set(found[0])
    assert len(set(found[0])) == 10


def test_large_selections_are_filtered_in_the_engine(
    built: tuple[FaissIndex, dict[ItemId, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, items = built
    monkeypatch.setattr("warmstart.retrieval.index.state.EXACT_ALLOWED", 50)
    query_QD = unit(1, seed=4)
    allow = {item for item in items if isinstance(item, int)}
    _, found = index.search(query_QD, 10, allow=allow)
    twin = [item for _, item in slow_search(items, query_QD[0], 10, allow=allow)]
    assert set(found[0]) <= allow
    assert len(set(found[0]) & set(twin)) >= 9


def test_more_than_there_are(built: tuple[FaissIndex, dict[ItemId, np.ndarray]]) -> None:
    index, items = built
    scores_QK, found = index.search(unit(2, seed=5), 10**6)
    assert scores_QK.shape == (2, len(items))
    assert set(found[0]) == set(items) == set(index.ids)
    _, few = index.search(unit(1, seed=5), 50, allow=["item 0", 1, 3])
    assert set(few[0]) == {"item 0", 1, 3}
    assert index.search(unit(1), 5, exclude=list(items))[1] == [[]]
    assert index.search(unit(1), 5, allow=[])[1] == [[]]
    assert index.search(np.empty((0, D), np.float32), 5)[1] == []


def test_an_engine_that_finds_too_few_is_helped() -> None:
    """One list is read, and it does not hold 300 rows: the rest is compared exactly."""
    rows_ND = unit(ROWS)
    index = FaissIndex.build(range(ROWS), rows_ND, tower="t", engine=IVFFlat(lists=32, probes=1))
    items: dict[ItemId, np.ndarray] = dict(enumerate(rows_ND))
    query_QD = unit(1, seed=6)
    _, found = index.search(query_QD, 300)
    assert found[0] == [item for _, item in slow_search(items, query_QD[0], 300)]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-flat"])
def test_changes_are_those_of_a_dictionary(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random changes with thresholds so low that rows are folded in and the engine rebuilt."""
    monkeypatch.setattr("warmstart.retrieval.index.faiss_index.PENDING_ROWS", 40)
    monkeypatch.setattr("warmstart.retrieval.index.faiss_index.DEAD_ROWS", 60)
    monkeypatch.setattr("warmstart.retrieval.index.faiss_index.DEAD_SHARE", 0.1)
    draw = np.random.default_rng(7)
    items = dict(zip(names(1300), unit(1300), strict=True))
    index = FaissIndex.build(
        list(items), np.stack(list(items.values())), tower="t", engine=SMALL[kind]
    )
    first = index._state.searcher
    fresh = 1300
    for step in range(60):
        count = int(draw.integers(1, 15))
        some = [list(items)[at] for at in draw.choice(len(items), count, replace=False)]
        vectors_ND = unit(count, seed=100 + step)
        if step % 3 == 0:
            new = names(fresh + count)[fresh:]
            fresh += count
            index.add(new, vectors_ND)
            items.update(zip(new, vectors_ND, strict=True))
        elif step % 3 == 1:
            index.update(some, vectors_ND)
            items.update(zip(some, vectors_ND, strict=True))
        else:
            index.delete(some)
            for item in some:
                del items[item]
        check_twin(index, items, k=12, seed=step)
    assert index._state.searcher is not first
    assert len(index) == len(items)
    assert set(index.ids) == set(items)


def check_twin(index: FaissIndex, items: dict[ItemId, np.ndarray], k: int, seed: int) -> None:
    queries_QD = unit(2, seed=1000 + seed)
    exclude = set(list(items)[:5])
    scores_QK, found = index.search(queries_QD, k, exclude=exclude)
    for query_D, scores_K, ids in zip(queries_QD, scores_QK, found, strict=True):
        twin = slow_search(items, query_D, k, exclude)
        assert len(ids) == len(set(ids)) == len(twin)
        assert all(item in items and item not in exclude for item in ids)
        expected = [float(items[item] @ query_D) for item in ids]
        np.testing.assert_allclose(scores_K, expected, atol=1e-5)
        least = 0.75 if index.engine.kind == "hnsw" else 1.0
        assert len(set(ids) & {item for _, item in twin}) >= least * len(twin)


ids_or_numbers = st.one_of(st.integers(0, 12), st.text("ab", min_size=0, max_size=2))


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "update", "delete"]), ids_or_numbers, st.integers(0, 99)),
        max_size=40,
    ),
    st.integers(1, 30),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_changes_from_nothing(changes: list[tuple[str, ItemId, int]], k: int) -> None:
    """From an empty index, ids that collide all the time, and refusals that change nothing."""
    index = FaissIndex.build([], np.empty((0, D)), tower="t", engine="flat")
    items: dict[ItemId, np.ndarray] = {}
    for verb, item, seed in changes:
        vector_1D = unit(1, seed=seed)
        if (verb == "add") == (item in items):
            with pytest.raises(DataError, match="index has"):
                index.delete([item]) if verb == "delete" else getattr(index, verb)(
                    [item], vector_1D
                )
        elif verb == "delete":
            index.delete([item])
            del items[item]
        else:
            getattr(index, verb)([item], vector_1D)
            items[item] = vector_1D[0]
        assert len(index) == len(items)
        assert (item in index) == (item in items)
    query_QD = unit(1, seed=500)
    _, found = index.search(query_QD, k)
    twin = slow_search(items, query_QD[0], k)
    assert len(found[0]) == len(twin)
    assert set(found[0]) <= set(items)
    exact = sorted((float(items[item] @ query_QD[0]) for item in found[0]), reverse=True)
    np.testing.assert_allclose(exact, [score for score, _ in twin], atol=1e-5)


def test_a_change_is_all_or_nothing() -> None:
    index = FaissIndex.build(["a", "b"], unit(2), tower="t", engine="flat")
    before = index.search(unit(1), 5)
    bad_2D = unit(2)
    bad_2D[1, 0] = np.nan
    for change in (
        lambda: index.add(["c", "a"], unit(2)),
        lambda: index.add(["c", "c"], unit(2)),
        lambda: index.add(["c", "d"], bad_2D),
        lambda: index.update(["a", "z"], unit(2)),
        lambda: index.delete(["a", "z"]),
        lambda: index.delete(["a", "a"]),
    ):
        with pytest.raises(DataError):
            change()
    with pytest.raises(UsageError, match="1 ids came with 2"):
        index.add(["c"], unit(2))
    assert index.ids == ("a", "b")
    np.testing.assert_array_equal(index.search(unit(1), 5)[0], before[0])


def test_numbers_and_text_are_different_items() -> None:
    index = FaissIndex.build([1, "1"], unit(2), tower="t", engine="flat")
    np.testing.assert_array_equal(index.vectors(["1"]), unit(2)[1:])
    index.delete([1])
    assert index.ids == ("1",)
    assert 1 not in index
    assert "1" in index


def test_vectors_come_back_from_both_places() -> None:
    index = FaissIndex.build(range(5), unit(5), tower="t", engine="flat")
    index.add(["new"], unit(1, seed=9))
    wanted = index.vectors([3, "new", 0])
    np.testing.assert_array_equal(wanted, [unit(5)[3], unit(1, seed=9)[0], unit(5)[0]])
    with pytest.raises(DataError, match="no item 'gone'"):
        index.vectors([3, "gone"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "at least 1, got 0"),
        ({"k": 2.0}, "got 2.0"),
        ({"k": True}, "got True"),
        ({"k": 1, "tower": "other"}, "tower other and the index from tower t"),
        ({"k": 1, "queries_QD": np.zeros((1, D + 1))}, r"\(N, 16\), got shape \(1, 17\)"),
        ({"k": 1, "allow": 5}, "list of ids or a selection"),
        ({"k": 1, "exclude": "a"}, "as a list"),
        ({"k": 1, "allow": "a"}, "as a list"),
    ],
)
def test_searches_that_are_refused(arguments: dict[str, Any], words: str) -> None:
    index = FaissIndex.build(["a"], unit(1), tower="t", engine="flat")
    with pytest.raises(UsageError, match=words):
        index.search(**{"queries_QD": unit(1), **arguments})


def test_queries_without_meaning_are_refused() -> None:
    index = FaissIndex.build(["a"], unit(1), tower="t", engine="flat")
    with pytest.raises(DataError, match="row 0"):
        index.search(np.full((1, D), np.nan), 1)


def test_building_is_checked() -> None:
    with pytest.raises(DataError, match="'a' comes twice"):
        FaissIndex.build(["a", "b", "a"], unit(3), tower="t")
    with pytest.raises(UsageError, match=r'"hsnw".*Did you mean "hnsw"'):
        FaissIndex.build(["a"], unit(1), tower="t", engine="hsnw")
    with pytest.raises(NotApplicable, match="needs 1,248 rows"):
        FaissIndex.build(["a"], unit(1), tower="t", engine=IVFFlat(lists=32))
    with pytest.raises(NotApplicable, match="divide the dimension 16, got codes 5"):
        FaissIndex.build(["a"], unit(1), tower="t", engine=IVFPQ(codes=5))
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        FaissIndex.build(["a"], unit(1), tower="t", engine="flat", threads=0)
    with pytest.raises(
        UsageError, match=r"hnsw.searching must be at least 1 and at most 65,536, got 0"
    ):
        engine_from("hnsw", {"searching": 0})


def test_too_few_rows_left_for_the_engine_become_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmstart.retrieval.index.faiss_index.DEAD_ROWS", 0)
    engine = IVFFlat(lists=4, probes=4)
    index = FaissIndex.build(range(160), unit(160), tower="t", engine=engine)
    index.delete(range(100))
    assert index.engine == Flat()
    assert index.ids == tuple(range(100, 160))
    index.rebuild()
    _, found = index.search(unit(160)[150:151], 1)
    assert found == [[150]]


def test_searches_see_one_state_while_another_thread_changes() -> None:
    """Two items are always updated together: an answer has both old vectors or both new ones."""
    one_1D, two_1D = unit(2, seed=11)[:1], unit(2, seed=11)[1:]
    index = FaissIndex.build(["a", "b"], np.concatenate([one_1D, one_1D]), tower="t", engine="flat")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            index.update(["a", "b"], np.concatenate([two_1D, two_1D]))
            index.update(["a", "b"], np.concatenate([one_1D, one_1D]))

    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(500):
            scores_QK, found = index.search(one_1D, 2)
            assert set(found[0]) == {"a", "b"}
            assert scores_QK[0, 0] == pytest.approx(scores_QK[0, 1], abs=1e-6)
    finally:
        stop.set()
        writer.join()


def test_it_is_an_item_index() -> None:
    index: ItemIndex = FaissIndex.build(["a"], unit(1), tower="t", engine="flat")
    assert index.name == "unsaved"
    assert (index.tower, index.dimension, len(index)) == ("t", D, 1)


def test_engines_are_registered_by_their_names() -> None:
    assert set(ENGINES) == {engine.kind for engine in SMALL.values()}
    for engine in SMALL.values():
        assert engine_from(engine.kind, engine.model_dump()) == engine
        assert engine.megabytes(1000, D) > 0


def test_one_thread_a_search() -> None:
    index = FaissIndex.build(["a"], unit(1), tower="t", engine="flat", threads=3)
    index.search(unit(1), 1)
    assert faiss.omp_get_max_threads() == 3
    index.threads = 1
    index.search(unit(1), 1)
    assert faiss.omp_get_max_threads() == 1

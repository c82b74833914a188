"""Choosing an engine by measurement, and building from blocks with a stop in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, RunError, UsageError
from warmstart.retrieval.index import (
    IVFPQ,
    FaissIndex,
    IVFFlat,
    Target,
    Vectors,
    build_index,
    choose,
    exact_top,
)
from warmstart.retrieval.index.choosing import _without, recall_of

D = 16


def clusters(rows: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    middle_CD = draw.standard_normal((30, D))
    rows_ND = middle_CD[draw.integers(0, 30, rows)] + 0.3 * draw.standard_normal((rows, D))
    unit_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(unit_ND, dtype=np.float32)


def rows_of(count: int, dimension: int = 128) -> Vectors:
    """So many rows that take no memory."""
    return Vectors((np.broadcast_to(np.float32(0), (count, dimension)),), dimension)


def test_recall_is_counted() -> None:
    exact = np.array([[1, 2], [3, 4]])
    recall, error = recall_of(np.array([[2, 9, 1], [-1, -1, -1]]), exact)
    assert recall == 0.5
    assert error == pytest.approx(0.5 / 2**0.5)  # 1 and 0: a deviation of .5, over two queries
    assert recall_of(np.empty((2, 0)), np.empty((2, 0))) == (1.0, 0.0)


def test_the_exact_engine_is_taken_when_it_is_fast_enough() -> None:
    vectors = Vectors((clusters(400),), D)
    choice = choose(vectors, Target(p99_ms=1000))
    assert choice.engine.kind == "flat"
    assert choice.met
    assert [trial.engine for trial in choice.trials] == ["flat"]
    assert choice.trials[0].recall == 1.0


def test_nothing_to_choose_for() -> None:
    index = FaissIndex.build([], np.empty((0, D)), tower="t")
    assert index.engine.kind == "flat"
    assert index.search(clusters(1), 3)[1] == [[]]


def test_everything_is_tried_for_the_trade_off() -> None:
    vectors = Vectors((clusters(2500),), D)
    choice = choose(vectors, Target(recall=0.9, p99_ms=1000, k=10), thorough=True)
    kinds = [trial.engine for trial in choice.trials]
    assert sorted(set(kinds)) == ["flat", "hnsw", "ivf-flat", "ivf-pq"]
    assert {t.settings["bits"] for t in choice.trials if t.engine == "ivf-pq"} == {4}
    assert choice.engine.kind == "flat"
    for kind in ("hnsw", "ivf-flat"):
        recalls = [t.recall for t in choice.trials if t.engine == kind and t.recall is not None]
        assert recalls == sorted(recalls)  # more effort, not less found
    tried = [trial for trial in choice.trials if trial.reason is None]
    assert all(trial.p99_ms and trial.p50_ms and trial.p50_ms <= trial.p99_ms for trial in tried)
    kept = choice.to_json()
    assert kept["trials"][0]["engine"] == "flat"
    assert kept["target"] == {"recall": 0.9, "p99_ms": 1000.0, "k": 10}


def test_bytes_need_more_rows_than_half_bytes() -> None:
    """A dimension that cannot be cut into twice as many pieces has codes of 8 bits."""
    vectors = Vectors((np.ascontiguousarray(clusters(2500)[:, : D - 1]),), D - 1)
    choice = choose(vectors, Target(recall=0.9, p99_ms=1000, k=10), thorough=True)
    (pq,) = [trial for trial in choice.trials if trial.engine == "ivf-pq"]
    assert pq.recall is None
    assert pq.reason is not None
    assert "9,984 rows" in pq.reason


def test_efforts_of_half_bytes_grow() -> None:
    """None comes after one that does as much in lists and in candidates."""
    ladder = IVFPQ.ladder(rows_of(1_000_000))
    settings = [engine.model_dump() for engine in ladder]
    assert {(one["lists"], one["bits"], one["codes"]) for one in settings} == {(1024, 4, 32)}
    pairs = [(one["probes"], one["refine"]) for one in settings]
    for place, (probes, refine) in enumerate(pairs):
        assert not any(p >= probes and r >= refine for p, r in pairs[:place])
    assert pairs[0] == (64, 4)
    assert pairs[-1] == (1024, 48)
    order = [engine.model_dump() for engine in IVFPQ.ladder(rows_of(1_000_000), 10)]
    places = {(one["probes"], one["refine"]): place for place, one in enumerate(order)}
    assert places[64, 48] < places[768, 4]  # few nearest rows make candidates cheap
    few = IVFPQ.ladder(rows_of(2_500))
    assert max(engine.model_dump()["refine"] for engine in few) == 48
    assert {engine.model_dump()["refine"] for engine in IVFPQ.ladder(rows_of(1_300), 1000)} == {4}


def test_without_the_time_for_the_exact_engine_another_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock that makes the exact engine slow, the fastest with the recall is chosen."""
    speed = {"flat": 9.0, "hnsw": 3.0, "ivf-flat": 2.0, "ivf-pq": 4.0}
    monkeypatch.setattr(
        "warmstart.retrieval.index.choosing._times",
        lambda engine, *_: np.full(10, speed[engine.kind]),
    )
    vectors = Vectors((clusters(2500),), D)
    choice = choose(vectors, Target(recall=0.5, p99_ms=5))
    assert choice.engine.kind == "ivf-flat"
    assert choice.met
    hopeless = choose(vectors, Target(recall=0.5, p99_ms=0.5))
    assert not hopeless.met
    assert hopeless.engine.kind == "ivf-flat"  # it reaches the recall, nearest to the time
    found, ids = hopeless.searcher.search(clusters(1, seed=2), 5)
    assert found.shape == ids.shape == (1, 5)


def test_items_that_ask_take_the_effort_that_finds_as_much(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Users who all ask for what lies in a few lists, items from all over."""
    monkeypatch.setattr("warmstart.retrieval.index.choosing.ENGINES", {"ivf-flat": IVFFlat})
    draw, asked_for = np.random.default_rng(0), np.eye(D, dtype=np.float32)[0]
    rows_ND = draw.standard_normal((4000, D)).astype(np.float32)
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    rows_ND[:300] += 3 * asked_for
    users_QD = asked_for + 0.1 * draw.standard_normal((60, D))
    target = Target(recall=0.9, k=20)
    index = FaissIndex.build(range(4000), rows_ND, tower="t", target=target, queries_QD=users_QD)
    assert index.choice is not None
    similar = index.choice["similar"]
    assert similar["effort"] > 1
    assert similar["recall_low"] >= 0.9
    assert similar["p99_ms"] > 0
    assert similar["meets"] == (similar["p99_ms"] <= target.p99_ms)
    index.save(tmp_path / "index")
    loaded = FaissIndex.load(tmp_path / "index")
    asked = range(0, 4000, 40)
    _, exact_QK = exact_top(rows_ND[::40], Vectors((rows_ND,), D), 21)
    _, plain = loaded.search(rows_ND[::40], 21)
    shares = []
    for item, nearest_K, few in zip(asked, exact_QK, plain, strict=True):
        wanted = [row for row in nearest_K.tolist() if row != item][:20]
        found = loaded.similar(item, 20)[1]
        shares.append([len({*wanted} & {*found}) / 20, len({*wanted} & {*few}) / 20])
    more, less = np.mean(shares, axis=0)
    assert more > max(0.9, less)
    assert choose(Vectors((rows_ND,), D), target).similar is None  # items are all that asked
    loaded.rebuild(IVFFlat(lists=16, probes=16))
    assert loaded.choice is None  # what was measured is that of another engine


def test_effort_that_finds_no_more_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items whose recall stands still from twice the effort on, below the target."""
    monkeypatch.setattr("warmstart.retrieval.index.choosing.ENGINES", {"ivf-flat": IVFFlat})
    rows_ND = clusters(3000)
    taken: list[float] = []

    def search(self: IVFFlat, index: Any, vectors: Vectors, asked_QD: Any, k: int, **more: Any):
        scores_QK, rows_QK = exact_top(asked_QD, vectors, k)
        effort = more.get("effort", 1.0)
        taken.append(effort)
        if len(asked_QD) == 200:
            rows_QK[:, k // 2 :] = -1 if effort < 2 else rows_QK[:, k // 2 : k // 2 + 1]
        return scores_QK, rows_QK

    monkeypatch.setattr(IVFFlat, "search", search)
    found = choose(
        Vectors((rows_ND,), D), Target(recall=0.9, k=20), queries_QD=clusters(50, seed=4)
    ).similar
    assert found is not None
    assert (found.effort, found.meets) == (2.0, False)
    assert {one for one in taken if one > 1} == {2.0, 3.0, 4.0, 6.0, 8.0}


def test_the_item_that_asks_is_no_answer() -> None:
    rows_Q = np.array([7, 8])
    found_QK = np.array([[3, 7, 5], [1, 2, 9]])
    assert _without(rows_Q, found_QK).tolist() == [[3, 5], [1, 2]]


def test_measured_recall_is_that_of_real_queries() -> None:
    """Queries that are given are the ones that are asked."""
    vectors = Vectors((clusters(1500),), D)
    queries_QD = clusters(37, seed=3)
    assert choose(vectors, Target(p99_ms=1000), queries_QD=queries_QD).queries == 37


@pytest.mark.parametrize("settings", [{"recall": 0}, {"recall": 1.1}, {"p99_ms": 0}, {"k": 0}])
def test_targets_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"target\.\w+ must be"):
        Target.parse(settings, "target")


class Catalogue:
    """Blocks of rows; `stop` breaks off at a row; `asked` keeps where each reading began."""

    def __init__(self, rows: int = 250, size: int = 20, stop: int | None = None) -> None:
        self.ids = [f"i{row}" for row in range(rows)]
        self.vectors_ND = clusters(rows)
        self.size = size
        self.stop = stop
        self.asked: list[int] = []
        self.made = 0

    def __call__(self, start: int) -> Iterator[tuple[list[str], np.ndarray]]:
        self.asked.append(start)
        for at in range(start, len(self.ids), self.size):
            if self.stop is not None and at >= self.stop:
                raise KeyboardInterrupt
            self.made += len(self.ids[at : at + self.size])
            yield self.ids[at : at + self.size], self.vectors_ND[at : at + self.size]


def build(folder: Path, blocks: Any, **settings: Any) -> FaissIndex:
    return build_index(
        folder, blocks, **{"tower": "t", "engine": "flat", "shard_rows": 50, **settings}
    )


def test_a_build_in_one_go(tmp_path: Path) -> None:
    catalogue = Catalogue()
    index = build(tmp_path / "index", catalogue)
    assert list(index.ids) == catalogue.ids
    np.testing.assert_array_equal(index.vectors(catalogue.ids), catalogue.vectors_ND)
    assert FaissIndex.load(tmp_path / "index", tower="t").name == index.name
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_build_that_was_stopped_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", Catalogue(stop=140))
    assert not (tmp_path / "index").exists()
    catalogue = Catalogue()
    index = build(tmp_path / "index", catalogue)
    assert catalogue.asked == [120]  # two shards of 60 rows were whole
    assert catalogue.made == 130
    assert list(index.ids) == catalogue.ids
    np.testing.assert_array_equal(index.vectors(catalogue.ids), catalogue.vectors_ND)


def test_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", Catalogue(stop=200))
    shard = tmp_path / "index.partial" / "00001.npy"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    catalogue = Catalogue()
    index = build(tmp_path / "index", catalogue)
    assert catalogue.asked == [60]
    np.testing.assert_array_equal(index.vectors(catalogue.ids), catalogue.vectors_ND)


def test_a_shard_without_its_record_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", Catalogue(stop=200))
    (tmp_path / "index.partial" / "00002.json").unlink()
    catalogue = Catalogue()
    build(tmp_path / "index", catalogue)
    assert catalogue.asked == [120]


def test_another_tower_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", Catalogue(stop=140))
    catalogue = Catalogue()
    index = build(tmp_path / "index", catalogue, tower="other")
    assert catalogue.asked == [0]
    assert index.tower == "other"


def test_a_build_that_fails_while_publishing_keeps_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FaissIndex, "save", broken)
        with pytest.raises(OSError, match="No space"):
            build(tmp_path / "index", Catalogue())
    catalogue = Catalogue()
    build(tmp_path / "index", catalogue)
    assert catalogue.asked == [250]
    assert catalogue.made == 0


def test_blocks_that_cannot_be_used(tmp_path: Path) -> None:
    bad_ND = clusters(3)
    bad_ND[2, 0] = np.nan
    with pytest.raises(DataError, match="'c'"):
        build(tmp_path / "a", lambda _: [(["a", "b", "c"], bad_ND)])
    with pytest.raises(DataError, match="'a' comes twice"):
        build(tmp_path / "b", lambda _: [(["a"], clusters(1)), (["a"], clusters(1))])
    with pytest.raises(UsageError, match=r"\(N, 16\)"):
        build(tmp_path / "c", lambda _: [(["a"], clusters(1)), (["b"], np.zeros((1, 3)))])
    with pytest.raises(DataError, match="no items"):
        build(tmp_path / "d", lambda _: [])
    with pytest.raises(UsageError, match="shard_rows must be at least 1, got 0"):
        build(tmp_path / "e", Catalogue(), shard_rows=0)
    (tmp_path / "f").mkdir()
    with pytest.raises(RunError, match="exists already"):
        build(tmp_path / "f", Catalogue())

"""Lists and codes that are learned where users' queries tell items apart."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from warmstart.core import DataError, NotApplicable, RunError, UsageError
from warmstart.retrieval.index import IVFPQ, FaissIndex, Vectors, exact_top
from warmstart.retrieval.index.choosing import recall_of
from warmstart.retrieval.index.weighing import (
    QUERIES_SHARE,
    item_map,
    query_map,
    query_weights,
)

ROWS, D = 6000, 16
AWARE = IVFPQ(lists=64, probes=8, codes=4, bits=4, refine=6, query_aware=True)


def items(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    rows_ND = np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def users(count: int = 400, seed: int = 1) -> np.ndarray:
    """Queries that share a direction, as those of a user tower do."""
    queries_QD = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    queries_QD[:, 3] += 8.0
    return queries_QD / np.linalg.norm(queries_QD, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index() -> FaissIndex:
    return FaissIndex.build(range(ROWS), items(), tower="t", engine=AWARE, queries_QD=users())


def recall(index: FaissIndex, queries_QD: np.ndarray, rows_ND: np.ndarray, k: int = 50) -> float:
    _, found = index.search(queries_QD, k)
    _, exact_QK = exact_top(queries_QD, Vectors((rows_ND,), D), k)
    return recall_of(np.array(found), exact_QK)[0]


def test_weights_are_the_mean_of_squares_and_a_share_of_all_directions() -> None:
    queries_QD = users(7)
    slow_DD = np.zeros((D, D))
    for query_D in queries_QD.astype(np.float64):
        for one in range(D):
            for other in range(D):
                slow_DD[one, other] += query_D[one] * query_D[other] / 7
    slow_DD = QUERIES_SHARE * slow_DD / slow_DD.trace() + (1 - QUERIES_SHARE) * np.eye(D) / D
    np.testing.assert_allclose(query_weights(queries_QD), slow_DD, atol=1e-7)
    assert np.trace(query_weights(100 * queries_QD)) == pytest.approx(1)
    np.testing.assert_allclose(query_weights(np.zeros((3, D))), (1 - QUERIES_SHARE) * np.eye(D) / D)


def test_known_weights() -> None:
    """One query along one of two axes: its share, and half of the rest."""
    expected = [[QUERIES_SHARE + (1 - QUERIES_SHARE) / 2, 0], [0, (1 - QUERIES_SHARE) / 2]]
    np.testing.assert_allclose(query_weights(np.array([[3.0, 0.0]])), expected)


def test_scores_stay_and_distances_are_weighed() -> None:
    rows_ND, queries_QD = items(500), users(20)
    weights_DD = query_weights(queries_QD)
    vectors = Vectors((rows_ND,), D, weights_DD)
    turn_DD = item_map(vectors, rows_ND, pieces=8)
    turned_ND, turned_QD = rows_ND @ turn_DD.T, query_map(vectors, turn_DD, queries_QD)
    np.testing.assert_allclose(turned_QD @ turned_ND.T, queries_QD @ rows_ND.T, atol=2e-5)
    apart_ND = (rows_ND[1:] - rows_ND[:-1]).astype(np.float64)
    weighed_N = np.einsum("nd,de,ne->n", apart_ND, weights_DD, apart_ND)
    found_N = np.square(turned_ND[1:] - turned_ND[:-1]).sum(axis=1)
    np.testing.assert_allclose(found_N, weighed_N, rtol=1e-4)


def test_pieces_have_equally_much_to_tell() -> None:
    """The product of the variances of its axes is nearly the same in each piece."""
    wide_ND = items() * np.geomspace(1, 0.05, D).astype(np.float32)
    vectors = Vectors((wide_ND,), D, np.eye(D) / D)
    turned_ND = wide_ND @ item_map(vectors, wide_ND, pieces=4).T
    told_P = np.log(turned_ND.var(axis=0)).reshape(4, 4).sum(axis=1)
    in_order_P = np.sort(np.log(wide_ND.var(axis=0)))[::-1].reshape(4, 4).sum(axis=1)
    assert np.ptp(told_P) < 0.1 * np.ptp(in_order_P)


def test_more_is_found_for_users_with_the_same_effort(index: FaissIndex) -> None:
    """Beside the same lists and codes with every direction counted alike."""
    rows_ND, held_QD = items(), users(200, seed=5)
    alike = Vectors((rows_ND,), D, np.eye(D) / D)
    _, found_QK = AWARE.search(AWARE.build(alike, 0), alike, held_QD, 50)
    _, exact_QK = exact_top(held_QD, alike, 50)
    without, _ = recall_of(found_QK, exact_QK)
    assert recall(index, held_QD, rows_ND) > without + 0.05


def test_the_lists_read_are_those_of_the_largest_inner_products(index: FaissIndex) -> None:
    """With as many candidates as rows, all that is found lies in the lists that a twin names."""
    state, queries_QD = index._state, users(30, seed=6)
    lists = faiss.downcast_index(state.searcher.index)
    turn = faiss.downcast_VectorTransform(state.searcher.chain.at(0))
    turn_DD = faiss.vector_to_array(turn.A).reshape(D, D)
    centres_LD = lists.quantizer.reconstruct_n(0, lists.nlist)
    rows_of_list = [
        faiss.rev_swig_ptr(lists.invlists.get_ids(one), lists.invlists.list_size(one)).copy()
        for one in range(lists.nlist)
    ]
    for query_1D in queries_QD[:, None]:
        turned_D = np.linalg.inv(turn_DD.astype(np.float64)).T @ query_1D[0]
        scores_L = [float(centre_D @ turned_D) for centre_D in centres_LD]
        read = sorted(range(lists.nlist), key=lambda one: -scores_L[one])[: AWARE.probes]
        within = {int(row) for one in read for row in rows_of_list[one]}
        every = AWARE.model_copy(update={"refine": 64})
        _, found_QK = every.search(state.searcher, state.vectors, query_1D, 90)
        found = set(found_QK[0].tolist()) - {-1}
        scores_N = items() @ query_1D[0]
        best = sorted(within, key=lambda row: -scores_N[row])
        assert found <= within
        assert len(found & set(best[:90])) >= 88  # codes are coarse


def test_rows_may_be_filtered(index: FaissIndex) -> None:
    held_QD = users(5, seed=7)
    allow = range(0, ROWS, 3)
    gone = list(range(0, ROWS, 30))
    _, found = index.search(held_QD, 20, allow=allow, exclude=gone)
    assert all(row % 3 == 0 and row % 30 for row in np.ravel(found).tolist())
    bits = np.packbits(np.arange(ROWS) % 3 == 0, bitorder="little")
    selector = faiss.IDSelectorBitmap(bits)
    state = index._state
    _, rows_QK = AWARE.search(state.searcher, state.vectors, held_QD, 20, selector, effort=100.0)
    assert (rows_QK % 3 == 0).all()


def test_whole_bytes_are_refused() -> None:
    with pytest.raises(UsageError, match="query_aware needs bits 4"):
        IVFPQ.parse({"query_aware": True, "bits": 8}, "ivf-pq")


def test_every_other_query_weighs(index: FaissIndex) -> None:
    np.testing.assert_array_equal(index._state.vectors.weights_DD, query_weights(users()[1::2]))
    one = FaissIndex.build(range(ROWS), items(), tower="t", engine="flat", queries_QD=users(1))
    assert one._state.vectors.weights_DD is None
    bad_QD = users(4)
    bad_QD[2, 0] = np.nan
    with pytest.raises(DataError, match="row 2"):
        FaissIndex.build(range(ROWS), items(), tower="t", engine="flat", queries_QD=bad_QD)


def test_without_queries_it_cannot_be_built() -> None:
    with pytest.raises(NotApplicable, match="Give queries"):
        FaissIndex.build(range(ROWS), items(), tower="t", engine=AWARE)


@pytest.mark.parametrize("known", [True, False])
def test_auto_tries_it_where_queries_are_known(known: bool) -> None:
    vectors = Vectors((items(),), D, query_weights(users()) if known else None)
    assert {engine.model_dump()["query_aware"] for engine in IVFPQ.ladder(vectors)} == {known}


def test_it_is_kept_and_built_again(index: FaissIndex, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index.save(folder)
    held_QD = users(20, seed=5)
    was = recall(index, held_QD, items())
    _, before = index.search(held_QD, 20)
    loaded = FaissIndex.load(folder)
    assert loaded.search(held_QD, 20)[1] == before
    assert isinstance(loaded._state.searcher, faiss.IndexPreTransform)
    (folder / "engine" / "engine.faiss").unlink()
    again = FaissIndex.load(folder)  # learned from the same rows and weights
    assert recall(again, held_QD, items()) == pytest.approx(was, abs=0.05)
    loaded.add(["new"], held_QD[:1])
    loaded.save(folder, replace=True)
    found = FaissIndex.load(folder)
    assert found.search(held_QD[:1], 3)[1][0][0] == "new"
    found.delete([*range(3000)])  # so many that the engine is built anew
    assert isinstance(found._state.searcher, faiss.IndexPreTransform)
    assert found._state.vectors.weights_DD is not None


@pytest.mark.parametrize("wrong", [np.eye(D - 1), np.eye(D, dtype=np.float32)])
def test_damaged_weights_are_named(
    index: FaissIndex, tmp_path: Path, wrong: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    index.save(folder)
    np.save(folder / "weights.npy", wrong)
    with pytest.raises(RunError, match=r"weights\.npy"):
        FaissIndex.load(folder)
    kept = {"kind": "item-index", "checksum": "0" * 64}
    monkeypatch.setattr("warmstart.retrieval.index.folder.verify_manifest", lambda _: kept)
    with pytest.raises(RunError, match=r"weights\.npy is .* index\.json says"):
        FaissIndex.load(folder)


def test_an_engine_of_the_other_sort_does_not_fit(index: FaissIndex) -> None:
    plain = AWARE.model_copy(update={"query_aware": False})
    vectors = Vectors((items(),), D)
    built = plain.build(vectors, 0)
    assert plain.fits(built)
    assert not AWARE.fits(built)
    assert AWARE.fits(index._state.searcher)
    assert not plain.fits(index._state.searcher)
    assert not AWARE.model_copy(update={"lists": 32}).fits(index._state.searcher)

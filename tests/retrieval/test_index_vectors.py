"""Vectors in shards, the exact answer, ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, UsageError
from warmstart.retrieval.index.ids import plain_id, plain_ids
from warmstart.retrieval.index.vectors import (
    LARGEST,
    Vectors,
    best_of,
    checked_vectors,
    exact_top,
)


def slow_top(
    queries_QD: np.ndarray, rows_ND: np.ndarray, k: int, allowed: set[int]
) -> list[list[int]]:
    """A plain loop: every inner product in turn, equal ones in the order of the rows."""
    answers = []
    for query_D in queries_QD:
        scores = [
            (-sum(float(a) * float(b) for a, b in zip(query_D, row_D, strict=True)), row)
            for row, row_D in enumerate(rows_ND)
            if row in allowed
        ]
        answers.append([row for _, row in sorted(scores)[:k]])
    return answers


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> tuple[Vectors, np.ndarray]:
    """Three shards that are read seven rows, three queries at a time."""
    monkeypatch.setattr("warmstart.retrieval.index.vectors.ROWS", 7)
    monkeypatch.setattr("warmstart.retrieval.index.vectors.QUERIES", 3)
    # Whole numbers: inner products are exact, and many are equal.
    rows_ND = np.random.default_rng(0).integers(-3, 4, (40, 5)).astype(np.float32)
    return Vectors((rows_ND[:11], rows_ND[11:11], rows_ND[11:38], rows_ND[38:]), 5), rows_ND


@pytest.mark.parametrize("k", [1, 4, 12, 100])
def test_exact_top_is_the_slow_twin(shards: tuple[Vectors, np.ndarray], k: int) -> None:
    vectors, rows_ND = shards
    queries_QD = np.random.default_rng(1).integers(-3, 4, (8, 5)).astype(np.float32)
    allowed_N = np.random.default_rng(2).random(40) < 0.6
    for mask_N in (None, allowed_N):
        scores_QK, rows_QK = exact_top(queries_QD, vectors, k, mask_N)
        eligible = set(range(40)) if mask_N is None else set(np.flatnonzero(mask_N).tolist())
        slow = slow_top(queries_QD, rows_ND, k, eligible)
        assert rows_QK.shape == (8, min(k, len(eligible)))
        for query_D, scores_K, rows_K, expected in zip(
            queries_QD, scores_QK, rows_QK, slow, strict=True
        ):
            # Among equal scores at the end of the list any may be taken.
            np.testing.assert_array_equal(scores_K, rows_ND[expected] @ query_D)
            np.testing.assert_array_equal(scores_K, rows_ND[rows_K] @ query_D)
            assert len(set(rows_K.tolist())) == len(rows_K)
            assert set(rows_K.tolist()) <= eligible


def test_known_answer() -> None:
    vectors = Vectors((np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32),), 2)
    scores_QK, rows_QK = exact_top(np.array([[1, 0]], np.float32), vectors, 2)
    assert rows_QK.tolist() == [[0, 2]]
    np.testing.assert_allclose(scores_QK, [[1.0, 0.6]])


def test_exact_top_of_nothing() -> None:
    empty = Vectors((np.empty((0, 3), np.float32),), 3)
    scores_QK, rows_QK = exact_top(np.zeros((2, 3), np.float32), empty, 5)
    assert scores_QK.shape == rows_QK.shape == (2, 0)


def test_shards_are_one_array(shards: tuple[Vectors, np.ndarray]) -> None:
    vectors, rows_ND = shards
    assert len(vectors) == 40
    np.testing.assert_array_equal(vectors.whole(), rows_ND)
    wanted = np.array([39, 0, 11, 10, 38, 0])
    np.testing.assert_array_equal(vectors.take(wanted), rows_ND[wanted])
    starts = [(start, len(block)) for start, block in vectors.blocks()]
    assert sum(rows for _, rows in starts) == 40
    assert all(rows <= 7 for _, rows in starts)
    longer = vectors.extended(rows_ND[:2])
    np.testing.assert_array_equal(longer.take(np.array([40, 41])), rows_ND[:2])


def test_inner_products_are_read_where_the_rows_lie(shards: tuple[Vectors, np.ndarray]) -> None:
    """Over the shards' ends too, and in memory that a file is mapped to."""
    vectors, rows_ND = shards
    query_D = np.linspace(-1, 2, rows_ND.shape[1]).astype(np.float32)
    for wanted in (np.arange(40), np.array([0, 10, 11, 38, 39]), np.array([], dtype=np.int64)):
        np.testing.assert_allclose(
            vectors.inner(query_D, wanted), rows_ND[wanted] @ query_D, rtol=1e-5, atol=1e-5
        )
    for outside in ([-1, 0], [3, 40]):
        with pytest.raises(IndexError, match="of 40"):
            vectors.inner(query_D, np.array(outside))


def test_best_of_merges_two_rankings() -> None:
    one = (np.array([[5.0, 3.0, 1.0]]), np.array([[7, 8, 9]]))
    other = (np.array([[4.0, 3.0]]), np.array([[1, 2]]))
    scores, rows = best_of(one, other, 4)
    assert scores.tolist() == [[5.0, 4.0, 3.0, 3.0]]
    assert rows.tolist() == [[7, 1, 2, 8]]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ([[1.0, np.nan]], DataError, "'a'"),
        ([[np.inf, 0.0]], DataError, "'a'"),
        ([[2 * LARGEST, 0.0]], DataError, "at most 1e\\+15"),
        ([[1.0, 2.0, 3.0]], UsageError, r"\(N, 2\), got shape \(1, 3\)"),
        ([1.0, 2.0], UsageError, "shape"),
        ([["x", "y"]], UsageError, "numbers"),
        ([[1.0, 2.0], [1.0, 2.0]], UsageError, "1 ids came with 2 vectors"),
    ],
)
def test_vectors_that_cannot_be_used(values: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        checked_vectors(values, 2, "Vectors", ["a"])


def test_ids_keep_their_type() -> None:
    found = plain_ids([1, "1", np.int64(7), np.str_("x"), -3, 2**70, "Ä"])
    assert found == [1, "1", 7, "x", -3, 2**70, "Ä"]
    assert [type(item) for item in found] == [int, str, int, str, int, int, str]


@pytest.mark.parametrize("value", [True, 1.0, None, b"x", ("a",), np.float32(1), np.bool_(True)])
def test_ids_of_other_types_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="text or a whole number"):
        plain_id(value)


def test_ids_that_are_no_list_or_no_text() -> None:
    with pytest.raises(UsageError, match="as a list"):
        plain_ids("abc")
    with pytest.raises(DataError, match="UTF-8"):
        plain_id("\ud800")

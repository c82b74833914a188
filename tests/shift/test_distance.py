"""All distances in one call, the plane, and how large a distance is in words."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from warmstart.shift import (
    DISTANCES,
    Estimate,
    distance,
    how_large,
    measure_distances,
    principal_plane,
    proxy_a_distance,
    size_words,
)


def draw(n: int, d: int = 5, seed: int = 0, by: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) + by


def test_names_that_others_rely_on() -> None:
    for name in ("proxy_a_distance", "mmd"):
        found = getattr(distance, name)(draw(40), draw(40, seed=1))
        assert isinstance(found.value, float)
        low, high = found.interval
        assert low <= found.value <= high


def test_all_distances_come_in_their_order_with_interval_and_yardstick() -> None:
    found = measure_distances(draw(80), draw(90, seed=1, by=1.0), permutations=19)
    assert [one.name for one in found] == [n for n in DISTANCES if n != "word_divergence"]
    for one in found:
        assert one.rows == (80, 90)
        assert one.interval is not None
        assert one.interval[0] <= one.value <= one.interval[1]
        assert one.halves is not None
        assert one.method
    some = measure_distances(draw(80), draw(90, seed=1), names=("mmd", "coral"), permutations=19)
    assert [one.name for one in some] == ["mmd", "coral"]
    assert measure_distances(draw(9), draw(9, seed=1), names=("coral",), halves=0)[0].halves is None


def test_the_plane_is_that_of_scikit_learn() -> None:
    x, y = draw(60), draw(40, seed=1, by=0.8)
    found = principal_plane(x, y)
    pca = PCA(n_components=2).fit(np.concatenate([x, y]))
    assert found.shares == pytest.approx(tuple(pca.explained_variance_ratio_))
    np.testing.assert_allclose(np.abs(found.source_N2), np.abs(pca.transform(x)), atol=1e-9)
    np.testing.assert_allclose(np.abs(found.target_M2), np.abs(pca.transform(y)), atol=1e-9)


def test_the_plane_shows_a_draw_of_many_rows() -> None:
    found = principal_plane(draw(50), draw(9, seed=1), most=20)
    assert found.source_N2.shape == (20, 2)
    assert found.target_M2.shape == (9, 2)
    whole = principal_plane(draw(50), draw(9, seed=1))
    np.testing.assert_allclose(found.source_N2, whole.source_N2[found.source_at_N])
    flat = principal_plane(np.ones((4, 1)), np.ones((3, 1)))
    assert flat.shares == (0.0, 0.0)
    assert not flat.source_N2.any()


def estimate(
    value: float, halves: float | None, interval: tuple[float, float] | None = (0.5, 9.0)
) -> Estimate:
    return Estimate(name="coral", value=value, halves=halves, interval=interval, rows=(9, 9))


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (estimate(5.0, None), ""),
        (estimate(5.0, 1.0), "5.0 times"),
        (estimate(500.0, 1.0), "500 times"),
        (estimate(5.0, 5.0), "no larger"),
        (estimate(5.0, 1.0, (0.0, 9.0)), "no larger"),
        (estimate(5.0, -0.1), "larger"),
        (estimate(5.0, 2.0, None), "2.5 times"),
    ],
)
def test_size_in_words(one: Estimate, words: str) -> None:
    assert size_words(one) == words


def test_sentences_name_numbers() -> None:
    near = proxy_a_distance(draw(300), draw(300, seed=1), halves=20)
    said = how_large([near])
    assert "no better than random halves" in said[0]
    assert "no shift is seen" in said[1]
    grades = {"a small shift": 0.25, "a clear shift": 1.0, "a large shift": 2.0}
    for words, by in grades.items():
        other = proxy_a_distance(draw(600, 1), draw(600, 1, seed=1, by=by), halves=5)
        assert how_large([other])[0].endswith(f"{words}.")
    far = proxy_a_distance(draw(60), draw(60, seed=1, by=9.0), halves=5)
    assert "100.0 % right" in how_large([far])[0]
    assert "hardly overlap" in how_large([far])[0]
    assert "1 of 1 distances are larger" in how_large([far])[1]
    assert how_large([estimate(5.0, None)]) == ()

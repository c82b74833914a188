"""Episodes: what is drawn, what it is worth, and that it is a function of seed and number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, Streams, UsageError
from warmstart.strategies import EpisodeScore, episode_scores, evaluate_episodes
from warmstart.strategies.fewshot.episodes import draw_episode, eligible


def clusters(classes: int, rows: int, spread: float, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, 16))
    labels = np.repeat(np.arange(classes), rows)
    return centres[labels] + spread * generator.normal(size=(len(labels), 16)), labels


def test_an_episode_has_the_classes_and_rows_that_it_should() -> None:
    labels = np.repeat(np.arange(8), [3, 4, 10, 20, 30, 5, 6, 7])
    rows = eligible(labels, 3)
    assert sorted(rows) == [1, 2, 3, 4, 5, 6, 7], "three rows leave none to be judged on"
    for number in range(50):
        one = draw_episode(rows, Streams(0), number, way=4, shots=3, queries=5)
        assert len(set(one.classes_W.tolist())) == 4
        assert one.support_S.shape == (12,)
        np.testing.assert_array_equal(one.support_labels_S, np.repeat(np.arange(4), 3))
        every = [*one.support_S, *one.query_Q]
        assert len(set(every)) == len(every), "no row is learned from and judged on"
        np.testing.assert_array_equal(one.classes_W[one.support_labels_S], labels[one.support_S])
        np.testing.assert_array_equal(one.classes_W[one.query_labels_Q], labels[one.query_Q])
        expected = [min(5, len(rows[name]) - 3) for name in one.classes_W.tolist()]
        assert np.bincount(one.query_labels_Q).tolist() == expected


def test_an_episode_is_a_function_of_seed_and_number() -> None:
    rows = eligible(np.repeat(np.arange(6), 9), 2)

    def draw(seed: int, number: int) -> list[int]:
        one = draw_episode(rows, Streams(seed), number, way=3, shots=2, queries=4)
        return [*one.classes_W.tolist(), *one.support_S.tolist(), *one.query_Q.tolist()]

    assert draw(1, 5) == draw(1, 5)
    assert draw(1, 5) != draw(1, 6)
    assert draw(1, 5) != draw(2, 5)
    fewer, more = (
        episode_scores(*clusters(6, 9, 1.0), way=3, shots=2, episodes=n, seed=3) for n in (10, 20)
    )
    assert fewer != more
    assert fewer == episode_scores(*clusters(6, 9, 1.0), way=3, shots=2, episodes=10, seed=3)


@pytest.mark.parametrize("head", ["prototypes", "knn", "logistic"])
def test_known_answers(head: Any) -> None:
    """Clusters far apart are always told; labels that say nothing are guessed: 1 in `way`."""
    vectors, labels = clusters(7, 10, 0.05)
    sure = episode_scores(vectors, labels, shots=2, queries=5, episodes=20, head=head)
    assert (sure.accuracy, sure.low, sure.high) == (1.0, 1.0, 1.0)
    noise = np.random.default_rng(1).normal(size=(400, 16))
    names = np.arange(400) % 8
    chance = episode_scores(noise, names, way=4, shots=3, episodes=100, head=head)
    assert chance.low < 0.25 + 0.02
    assert chance.high > 0.25 - 0.02


def test_the_interval_by_hand() -> None:
    vectors, labels = clusters(6, 12, 1.2)
    hits: list[float] = []

    def classify(support: Any, names: Any, query: Any) -> Any:
        """The slow twin of `prototypes`, which also counts."""
        answers = []
        for row in query:
            best, chosen = -2.0, -1
            for name in range(names.max() + 1):
                unit = [v / np.linalg.norm(v) for v in support[names == name]]
                mean = sum(unit) / len(unit)
                cosine = float(row @ mean / np.linalg.norm(row) / np.linalg.norm(mean))
                if cosine > best:
                    best, chosen = cosine, name
            answers.append(chosen)
        return np.array(answers)

    twin = episode_scores(vectors, labels, shots=3, queries=4, episodes=30, head=classify)
    fast = episode_scores(vectors, labels, shots=3, queries=4, episodes=30)
    assert twin == fast
    rows = eligible(labels, 3)
    for number in range(30):
        one = draw_episode(rows, Streams(0), number, way=5, shots=3, queries=4)
        answers = classify(vectors[one.support_S], one.support_labels_S, vectors[one.query_Q])
        hits.append(float(np.mean(answers == one.query_labels_Q)))
    half = 1.959963984540054 * np.std(hits, ddof=1) / np.sqrt(30)
    assert fast.accuracy == pytest.approx(np.mean(hits))
    assert fast.high - fast.accuracy == pytest.approx(half)
    assert 0.3 < fast.accuracy < 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": 1}, "way must be at least 2, got 1"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"episodes": 1}, "episodes must be at least 2, got 1"),
        ({"head": "prototype"}, 'Did you mean "prototypes"'),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        episode_scores(*clusters(6, 9, 1.0), **settings)


def test_too_few_classes_are_told_with_the_cure() -> None:
    with pytest.raises(DataError, match="need 5 classes of 10 rows or more; 0 have that many"):
        episode_scores(*clusters(6, 9, 1.0), shots=9)


def test_of_a_data_set(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Any]
) -> None:
    view, _ = text_view
    found = evaluate_episodes(opened(tiny_text), view.train, way=2, shots=5, episodes=20)
    assert isinstance(found, EpisodeScore)
    assert (found.way, found.shots, found.episodes) == (2, 5, 20)
    assert 0.0 <= found.low <= found.accuracy <= found.high <= 1.0

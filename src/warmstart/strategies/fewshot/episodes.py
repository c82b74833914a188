"""Episodes: small tasks of N classes and K rows a class, drawn again and again from labelled rows.

They answer what a set of features is worth with few labels, over many draws of classes and rows;
and meta-learning trains on them. An episode is a function of (seed, number) alone.

Source: Vinyals et al. 2016, Matching Networks, section 2.2; Snell et al. 2017, Prototypical
Networks, section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import Config, DataError, Streams, UsageError, nearest, progress
from warmstart.data import Dataset

from ..logistic import fit_logistic

__all__ = [
    "Classify",
    "Episode",
    "EpisodeScore",
    "draw_episode",
    "episode_scores",
    "evaluate_episodes",
]

Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(support vectors (S, D), their classes (S,) from 0, query vectors (Q, D)) -> classes (Q,)."""
_Z = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Episode:
    """One small task.

    Attributes:
        classes_W: The classes drawn, in the order of their numbers 0..W-1 within the episode.
        support_S: Row numbers to learn from, `shots` of each class, class after class.
        support_labels_S: Their classes within the episode.
        query_Q: Row numbers to answer, none of them in the support.
        query_labels_Q: Their classes within the episode.
    """

    classes_W: np.ndarray
    support_S: np.ndarray
    support_labels_S: np.ndarray
    query_Q: np.ndarray
    query_labels_Q: np.ndarray


class EpisodeScore(Config):
    """Accuracy over episodes.

    Attributes:
        way: Classes an episode.
        shots: Support rows a class.
        queries: Query rows a class at most.
        episodes: How many were drawn.
        accuracy: Mean over episodes of the share of right queries.
        low: Lower bound of its 95 % interval: mean - 1.96 · standard deviation / √episodes.
        high: Upper bound. Both are cut at 0 and 1, and tell of the draw of episodes from these
            rows; other rows of the same kind vary more.
    """

    way: int
    shots: int
    queries: int
    episodes: int
    accuracy: float
    low: float
    high: float


def draw_episode(
    rows_by_class: dict[int, np.ndarray],
    streams: Streams,
    number: int,
    *,
    way: int,
    shots: int,
    queries: int,
) -> Episode:
    """The episode of this number: classes without repetition, then rows without repetition.

    Args:
        rows_by_class: Class to its row numbers, each with more than `shots` rows.
        streams: Source of the seed.
        number: Of the episode.
        way: Classes W, at most as many as there are.
        shots: Support rows a class.
        queries: Query rows a class at most; a class with fewer left gives those.
    """
    generator = streams.numpy("episode", number)
    names = sorted(rows_by_class)
    classes_W = generator.permutation(np.asarray(names, dtype=np.int64))[:way]
    support, query = [], []
    for name in classes_W.tolist():
        rows = generator.permutation(rows_by_class[name])[: shots + queries]
        support.append(rows[:shots])
        query.append(rows[shots:])
    return Episode(
        classes_W,
        np.concatenate(support),
        np.repeat(np.arange(way), shots),
        np.concatenate(query),
        np.repeat(np.arange(way), [len(rows) for rows in query]),
    )


def eligible(labels_N: np.ndarray, shots: int) -> dict[int, np.ndarray]:
    """Classes with more than `shots` rows, and their row numbers."""
    found = {int(name): np.flatnonzero(labels_N == name) for name in np.unique(labels_N)}
    return {name: rows for name, rows in found.items() if name >= 0 and len(rows) > shots}


def episode_scores(
    vectors_ND: np.ndarray,
    labels_N: np.ndarray,
    *,
    way: int = 5,
    shots: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    head: str | Classify = "prototypes",
) -> EpisodeScore:
    """Accuracy of a head on fixed vectors over random episodes, with its 95 % interval.

    Args:
        vectors_ND: One vector a row.
        labels_N: Class of each row; -1 (unknown) is left out.
        way: Classes an episode, 2 to as many as have more than `shots` rows.
        shots: Support rows a class.
        queries: Query rows a class at most.
        episodes: How many to draw, 2 or more. 600 is the custom of the literature.
        seed: Root seed; episode i is the same whatever the head and however many are drawn.
        head: `prototypes`, `knn` (the nearest support row), `logistic`, or a function of your own.

    Raises:
        UsageError: For settings that make no sense, or an unknown head.
        DataError: When fewer than `way` classes have enough rows.
    """
    _check(way, shots, queries, episodes)
    classify = head if callable(head) else _head(head)
    rows_by_class = eligible(np.asarray(labels_N), shots)
    if len(rows_by_class) < way:
        raise DataError(
            f"{way}-way {shots}-shot episodes need {way} classes of {shots + 1} rows or more; "
            f"{len(rows_by_class)} have that many. Lower way or shots."
        )
    streams = Streams(seed)
    accuracies = np.empty(episodes)
    numbers = progress.track(range(episodes), "Episodes", unit="episodes")
    for number in numbers:
        one = draw_episode(rows_by_class, streams, number, way=way, shots=shots, queries=queries)
        answers_Q = classify(vectors_ND[one.support_S], one.support_labels_S,
                             vectors_ND[one.query_Q])  # fmt: skip
        accuracies[number] = np.mean(answers_Q == one.query_labels_Q)
    mean = float(accuracies.mean())
    half = _Z * float(accuracies.std(ddof=1)) / episodes**0.5
    return EpisodeScore(
        way=way, shots=shots, queries=queries, episodes=episodes, accuracy=mean,
        low=max(0.0, mean - half), high=min(1.0, mean + half),
    )  # fmt: skip


def evaluate_episodes(
    backbone: Backbone,
    dataset: Dataset,
    *,
    way: int = 5,
    shots: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    head: str | Classify = "prototypes",
) -> EpisodeScore:
    """`episode_scores` of a data set under a backbone, its vectors taken through the cache.

    Raises:
        UsageError: As `episode_scores`.
        DataError: As `episode_scores`.
    """
    vectors_ND = backbone.features(dataset.without_labels()).vectors_ND
    return episode_scores(
        vectors_ND, dataset.labels_N, way=way, shots=shots, queries=queries, episodes=episodes,
        seed=seed, head=head,
    )  # fmt: skip


def _check(way: int, shots: int, queries: int, episodes: int) -> None:
    for setting, value, least, usual in (
        ("way", way, 2, "5"),
        ("shots", shots, 1, "1 or 5"),
        ("queries", queries, 1, "15"),
        ("episodes", episodes, 2, "600"),
    ):
        if value < least:
            raise UsageError(
                f"episodes: {setting} must be at least {least}, got {value}. Usual: {usual}."
            )


def _head(name: str) -> Classify:
    heads: dict[str, Classify] = {
        "prototypes": _by_prototypes,
        "knn": _by_nearest,
        "logistic": _by_logistic,
    }
    if name not in heads:
        raise UsageError(f"episodes: there is no head {name!r}.{nearest(name, heads)}")
    return heads[name]


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND: np.ndarray = vectors_ND / np.maximum(norms_N1, 1e-12)
    return unit_ND


def _by_prototypes(
    support_SD: np.ndarray, labels_S: np.ndarray, query_QD: np.ndarray
) -> np.ndarray:
    """Cosine to the mean unit vector of each class, as the strategy `prototypes`."""
    unit_SD = _unit(support_SD)
    means_WD = np.stack([unit_SD[labels_S == c].mean(axis=0) for c in range(labels_S.max() + 1)])
    answers_Q: np.ndarray = (_unit(query_QD) @ _unit(means_WD).T).argmax(axis=1)
    return answers_Q


def _by_nearest(support_SD: np.ndarray, labels_S: np.ndarray, query_QD: np.ndarray) -> np.ndarray:
    answers_Q: np.ndarray = labels_S[(_unit(query_QD) @ _unit(support_SD).T).argmax(axis=1)]
    return answers_Q


def _by_logistic(support_SD: np.ndarray, labels_S: np.ndarray, query_QD: np.ndarray) -> np.ndarray:
    """Logistic regression with the penalty 1/S, scikit-learn's default on unit-length vectors."""
    fit = fit_logistic(support_SD, labels_S, int(labels_S.max()) + 1, l2=1.0 / len(labels_S))
    answers_Q: np.ndarray = (query_QD @ fit.weight_CD.T + fit.bias_C).argmax(axis=1)
    return answers_Q

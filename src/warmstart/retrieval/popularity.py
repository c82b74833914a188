"""What needs no history: chance, what everybody took, and what everybody took lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from warmstart.core import Run, Streams
from warmstart.evaluation import Events, Queries, Recommender, popularity, positives

from .baselines import Baseline, register

__all__ = ["Popularity", "Random", "RecentPopularity"]


@dataclass(frozen=True)
class _Fixed:
    """The same scores for every query."""

    name: str
    scores_I: NDArray[np.float32]

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        return np.broadcast_to(self.scores_I, (len(queries), len(self.scores_I)))


@dataclass(frozen=True)
class _Chance:
    """Scores that hash the query and the item, so that neither blocks nor their order matter."""

    name: str
    seed: int
    n_items: int

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        state_Q = np.full(len(queries), self.seed, dtype=np.uint64)
        for part_Q in (queries.user_Q, queries.time_Q, queries.lengths_Q):
            state_Q = _mixed(state_Q ^ part_Q.astype(np.int64).view(np.uint64))
        items_I = _mixed(np.arange(self.n_items, dtype=np.uint64))
        bits_QI = _mixed(state_Q[:, None] ^ items_I)
        return (bits_QI >> np.uint64(40)).astype(np.float32)  # 24 bits: exact


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014, figure 17)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@register
class Random(Baseline):
    """A random order of the items for every query: what chance gives."""

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random"

    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Draw a seed."""
        streams = Streams(0) if run is None else run.streams
        return _Chance(self.name, streams.seed("random baseline"), past.n_items)


@register
class Popularity(Baseline):
    """Items by the number of their positive events."""

    name: ClassVar[str] = "popularity"
    title: ClassVar[str] = "Popularity"

    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Count."""
        return _Fixed(self.name, popularity(past).astype(np.float32))


@register
class RecentPopularity(Baseline):
    """Items by the number of their positive events among the newest.

    Attributes:
        events: How many of the newest positive events are counted; all where there are fewer.
    """

    name: ClassVar[str] = "recent-popularity"
    title: ClassVar[str] = "Recent popularity"
    events: PositiveInt = 10_000

    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Count the end of the events."""
        item_N = positives(past)[1][-self.events :]
        counts_I = np.bincount(item_N, minlength=past.n_items)
        return _Fixed(self.name, counts_I.astype(np.float32))

    @classmethod
    def grid(cls) -> tuple[Self, ...]:
        """From the last thousand events to the last hundred thousand."""
        return tuple(cls(events=n) for n in (10_000, 1_000, 3_000, 30_000, 100_000))

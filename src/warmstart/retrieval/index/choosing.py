"""Which engine: tried on the vectors themselves, judged by measured recall and latency.

Recall is the part of the exact k nearest items that an engine finds, over all queries; it counts as
reached when it is so two standard errors below what was measured. Latency is the time of one query
at a time on one thread. The exact engine is taken when it is fast enough; else the fastest that
reaches the recall.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from warmstart.core import Config, NotApplicable, Streams
from warmstart.core.progress import note, task

from .engine import BUILD_THREADS, Engine, use_threads
from .engines import ENGINES, Flat
from .vectors import Vectors, checked_vectors, exact_top

__all__ = ["Choice", "Similar", "Target", "Trial", "choose", "recall_of"]

QUERIES = 500
ITEMS = 200
"""Items that are asked as queries, where the effort was chosen with others."""
_EFFORTS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
HARDLY = 0.002
"""So much more recall is not worth a further effort where the target is out of reach."""
TIMED_SECONDS = 2.0
TIMED_LEAST = 30
HOPELESS = 4.0
"""An engine so many times slower than the target is not asked for still more effort."""


class Target(Config):
    """What an engine has to reach.

    Attributes:
        recall: Part of the exact `k` nearest items that are found.
        p99_ms: 99th percentile of the time of one query on one thread, milliseconds.
        k: How many nearest items recall looks at.
    """

    recall: float = Field(default=0.95, gt=0, le=1)
    p99_ms: float = Field(default=5.0, gt=0)
    k: int = Field(default=100, ge=1, le=10_000)


class Trial(Config):
    """One setting that was tried, or an engine that was not.

    Attributes:
        engine: Its kind.
        settings: Its settings.
        recall: Part of the exact answer that it found, in [0, 1].
        recall_low: Two standard errors over the queries below that; the target is judged by it.
        p50_ms: Median time of a query.
        p99_ms: 99th percentile.
        build_seconds: Time to build the engine; one build serves all efforts of its kind.
        megabytes: Memory of the engine, about.
        meets: Whether recall and p99 reach the target.
        reason: Why it was not tried; None where it was, and the measurements are None otherwise.
    """

    engine: str
    settings: dict[str, bool | int] = Field(default_factory=dict)
    recall: float | None = None
    recall_low: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    build_seconds: float | None = None
    megabytes: float | None = None
    meets: bool = False
    reason: str | None = None


class Similar(Config):
    """What items find that are asked as queries themselves, with the chosen engine.

    Attributes:
        effort: How many times the engine's own effort they take.
        recall: Part of the exact answer that they find, themselves left out, in [0, 1].
        recall_low: Two standard errors below that; the target is judged by it.
        p99_ms: 99th percentile of the time of one item, milliseconds.
        meets: Whether recall and p99 reach the target.
    """

    effort: float = Field(ge=1)
    recall: float
    recall_low: float
    p99_ms: float
    meets: bool


@dataclass(frozen=True)
class Choice:
    """What `choose` found.

    Attributes:
        engine: Settings of the engine to use.
        met: Whether it reaches the target; else it comes nearest.
        target: What was asked for.
        trials: Everything that was tried, in order.
        searcher: The chosen engine as it was built.
        rows: Items it was measured on.
        queries: Queries it was measured with.
        similar: What items find that are asked as queries; None where items were all that asked.
    """

    engine: Engine
    met: bool
    target: Target
    trials: tuple[Trial, ...]
    searcher: faiss.Index
    rows: int
    queries: int
    similar: Similar | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the built engine, as JSON has it."""
        return {
            "engine": self.engine.kind,
            "settings": self.engine.model_dump(),
            "met": self.met,
            "target": self.target.model_dump(),
            "rows": self.rows,
            "queries": self.queries,
            "similar": None if self.similar is None else self.similar.model_dump(),
            "trials": [trial.model_dump() for trial in self.trials],
        }


@dataclass(frozen=True)
class _Candidate:
    engine: Engine
    trial: Trial
    searcher: faiss.Index


@dataclass(frozen=True)
class _Task:
    vectors: Vectors
    queries_QD: np.ndarray
    exact_QK: np.ndarray
    target: Target
    seed: int
    thorough: bool


def choose(
    vectors: Vectors,
    target: Target | None = None,
    *,
    queries_QD: np.ndarray | None = None,
    seed: int = 0,
    thorough: bool = False,
) -> Choice:
    """Find the engine for these vectors by trying.

    Args:
        vectors: Item vectors.
        target: What to reach.
        queries_QD: Queries to measure with, best those of real users: queries that lie off the
            items are harder. None: items with noise of half their spread.
        seed: Root of the draws.
        thorough: Try every engine and every effort, for a plot of the trade-off; else stop at the
            exact engine when it is fast enough, and at each engine's first effort that suffices.

    Returns:
        The choice with the table of what was tried.
    """
    target = target or Target()
    by_users = queries_QD is not None
    if queries_QD is None:
        queries_QD = _noisy_items(vectors, seed)
    else:
        queries_QD = checked_vectors(queries_QD, vectors.dimension, "Queries")[:QUERIES]
    use_threads(BUILD_THREADS)
    _, exact_QK = exact_top(queries_QD, vectors, target.k)
    work = _Task(vectors, queries_QD, exact_QK, target, seed, thorough)
    trials: list[Trial] = []
    best: _Candidate | None = None
    with task("choosing the index engine", total=len(ENGINES), unit="engines") as bar:
        for kind in ENGINES:
            bar.describe(f"choosing the index engine: {kind}")
            try:
                for candidate in _try_engine(kind, work):
                    trials.append(candidate.trial)
                    best = _better(best, candidate, target)
            except NotApplicable as reason:
                trials.append(Trial(engine=kind, reason=str(reason)))
            bar.advance()
            if best is not None and best.trial.meets and kind == Flat.kind and not thorough:
                break
    assert best is not None  # flat fits everything
    if not best.trial.meets:
        note(
            f"No engine reaches recall {target.recall:g} within {target.p99_ms:g} ms; "
            f"{best.engine.kind} comes nearest: recall {best.trial.recall:.3f}, p99 "
            f"{best.trial.p99_ms:.1f} ms."
        )
    met = best.trial.meets
    rows, queries = len(vectors), len(queries_QD)
    similar = _similar(best, work) if by_users and best.engine.kind != Flat.kind else None
    return Choice(best.engine, met, target, tuple(trials), best.searcher, rows, queries, similar)


def recall_of(found_QK: np.ndarray, exact_QK: np.ndarray) -> tuple[float, float]:
    """Part of the exact answers (Q, K) among those found (Q, any), and its standard error.

    The error is over queries. 1 and 0 where there are no answers.
    """
    if not exact_QK.size:
        return 1.0, 0.0
    pairs = zip(found_QK, exact_QK, strict=True)
    hits_Q = np.array([len(np.intersect1d(found, exact)) for found, exact in pairs])
    recall_Q = hits_Q / exact_QK.shape[1]
    return float(recall_Q.mean()), float(recall_Q.std() / len(recall_Q) ** 0.5)


def _try_engine(kind: str, work: _Task) -> list[_Candidate]:
    """Build once, then ask with growing effort until it suffices or is hopeless."""
    ladder = ENGINES[kind].ladder(work.vectors, work.target.k)
    start = time.perf_counter()
    searcher = ladder[0].build(work.vectors, work.seed)
    seconds = time.perf_counter() - start
    candidates: list[_Candidate] = []
    for engine in ladder:
        trial = _measure(engine, searcher, work, seconds)
        candidates.append(_Candidate(engine, trial, searcher))
        low, p99 = trial.recall_low or 0.0, trial.p99_ms or 0.0
        if low >= (0.999 if work.thorough else work.target.recall):
            break
        if p99 > HOPELESS * work.target.p99_ms and not work.thorough:
            break
    return candidates


def _measure(engine: Engine, searcher: faiss.Index, work: _Task, build_seconds: float) -> Trial:
    k = min(work.target.k, len(work.vectors))
    use_threads(BUILD_THREADS)
    if k:
        _, found_QK = engine.search(searcher, work.vectors, work.queries_QD, k)
        recall, error = recall_of(found_QK, work.exact_QK)
        with threadpool_limits(1, "blas"):
            times = _times(engine, searcher, work.vectors, work.queries_QD, k)
    else:
        recall, error, times = 1.0, 0.0, np.zeros(1)
    p50, p99 = (float(value) for value in np.percentile(times, [50, 99]))
    return Trial(
        engine=engine.kind,
        settings=engine.model_dump(),
        recall=recall,
        recall_low=recall - 2 * error,
        p50_ms=p50,
        p99_ms=p99,
        build_seconds=build_seconds,
        megabytes=engine.megabytes(len(work.vectors), work.vectors.dimension),
        meets=recall - 2 * error >= work.target.recall and p99 <= work.target.p99_ms,
    )


def _similar(best: _Candidate, work: _Task) -> Similar:
    """The least effort at which items asked as queries find as much as users shall.

    Else the least beyond which they find hardly more.
    """
    engine, vectors, target = best.engine, work.vectors, work.target
    rows_Q = _some_rows(vectors, Streams(work.seed).numpy("items asked as queries"), ITEMS)
    items_QD, k = vectors.take(rows_Q), min(target.k + 1, len(vectors))
    use_threads(BUILD_THREADS)
    _, exact_QK = exact_top(items_QD, vectors, k)
    wanted_QK = _without(rows_Q, exact_QK)
    tried: list[tuple[float, float, float]] = []
    for effort in _EFFORTS:
        _, found_QK = engine.search(best.searcher, vectors, items_QD, k, effort=effort)
        recall, error = recall_of(_without(rows_Q, found_QK), wanted_QK)
        tried.append((effort, recall, recall - 2 * error))
        if tried[-1][2] >= target.recall:
            break
    else:  # none reaches it: what finds hardly more is not worth its time
        most = max(recall for _, recall, _ in tried)
        tried = [one for one in tried if one[1] >= most - HARDLY][:1]
    chosen, recall, low = tried[-1]
    with threadpool_limits(1, "blas"):
        times = _times(engine, best.searcher, vectors, items_QD, k, chosen)
    p99_ms = float(np.percentile(times, 99))
    meets = low >= target.recall and p99_ms <= target.p99_ms
    return Similar(effort=chosen, recall=recall, recall_low=low, p99_ms=p99_ms, meets=meets)


def _without(rows_Q: np.ndarray, found_QK: np.ndarray) -> np.ndarray:
    """Answers (Q, K - 1) without the items themselves that asked; the last one goes otherwise."""
    own_QK = found_QK == rows_Q[:, None]
    own_QK[~own_QK.any(axis=1), -1] = True
    kept: np.ndarray = found_QK[~own_QK].reshape(len(found_QK), -1)
    return kept


def _times(
    engine: Engine,
    searcher: faiss.Index,
    vectors: Vectors,
    queries_QD: np.ndarray,
    k: int,
    effort: float = 1.0,
) -> np.ndarray:
    """Milliseconds of single queries on one thread: all of them, or two seconds' worth."""
    use_threads(1)
    times: list[float] = []
    begin = time.perf_counter()
    for number in range(len(queries_QD)):
        start = time.perf_counter()
        engine.search(searcher, vectors, queries_QD[number : number + 1], k, effort=effort)
        end = time.perf_counter()
        if number >= 3:  # the first ones warm caches
            times.append(1000 * (end - start))
        if end - begin > TIMED_SECONDS and len(times) >= TIMED_LEAST:
            break
    return np.array(times or [1000 * (time.perf_counter() - begin)])


def _better(best: _Candidate | None, new: _Candidate, target: Target) -> _Candidate:
    if best is None:
        return new
    return max(best, new, key=lambda candidate: _merit(candidate, target))


def _merit(candidate: _Candidate, target: Target) -> tuple[float, ...]:
    """What meets the target first, then what reaches the recall, then what comes near it."""
    trial = candidate.trial
    low, p99 = trial.recall_low or 0.0, trial.p99_ms or 0.0
    if low < target.recall:
        return (0, low, -p99)
    exact = trial.meets and candidate.engine.kind == Flat.kind
    return (2 if trial.meets else 1, float(exact), -p99)


def _noisy_items(vectors: Vectors, seed: int) -> np.ndarray:
    """Items with noise of half their spread, as long as the items were."""
    draw = Streams(seed).numpy("queries")
    items_QD = vectors.take(_some_rows(vectors, draw, QUERIES))
    spread = float(items_QD.std()) if items_QD.size else 0.0
    noisy_QD = items_QD + 0.5 * spread * draw.standard_normal(items_QD.shape)
    length_Q1 = np.linalg.norm(noisy_QD, axis=1, keepdims=True)
    wanted_Q1 = np.linalg.norm(items_QD, axis=1, keepdims=True)
    scaled_QD = noisy_QD * (wanted_Q1 / np.maximum(length_Q1, 1e-12))
    return np.ascontiguousarray(scaled_QD, dtype=np.float32)


def _some_rows(vectors: Vectors, draw: np.random.Generator, count: int) -> np.ndarray:
    drawn_N = draw.choice(len(vectors), min(count, len(vectors)), replace=False)
    return np.sort(drawn_N)

"""Golden queries: a hundred with their exact answers, asked of what was written or read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from warmstart.core import Config, RunError, Streams, read_json, write_json

from .ids import ItemId
from .state import State
from .vectors import exact_top

__all__ = ["Golden", "WrongEngine", "read_array"]

QUERIES = 100
NEAREST = 10


class WrongEngine(RunError):
    """The engine finds fewer of the golden answers than it did when it was built."""


class _Answers(Config):
    """golden.json."""

    ids: tuple[tuple[ItemId, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    recall: float


@dataclass(frozen=True)
class Golden:
    """Queries with their exact answers.

    Attributes:
        queries_GD: Live items with a little noise, so that near neighbours matter.
        ids: The nearest items of each, best first.
        scores_GK: Their inner products.
        recall: Part of them that the engine found when this was made.
    """

    queries_GD: np.ndarray
    ids: tuple[tuple[ItemId, ...], ...]
    scores_GK: np.ndarray
    recall: float

    @classmethod
    def of(cls, state: State, seed: int) -> Golden:
        """Draw queries and answer them by comparing every row."""
        live_N = np.flatnonzero(state.alive_M)
        draw = Streams(seed).numpy("golden queries")
        rows_G = draw.choice(live_N, min(QUERIES, len(live_N)), replace=False)
        taken_GD = state.vectors.take(np.sort(rows_G))
        spread = float(taken_GD.std()) if taken_GD.size else 0.0
        noise_GD = draw.standard_normal(taken_GD.shape) * 0.1 * spread
        queries_GD = np.asarray(taken_GD + noise_GD, dtype=np.float32)
        scores_GK, rows_GK = exact_top(queries_GD, state.vectors, NEAREST, state.alive_M)
        ids = tuple(tuple(state.ids[row] for row in rows) for rows in rows_GK.tolist())
        return cls(queries_GD, ids, scores_GK, _recall(state, queries_GD, rows_GK))

    def write(self, folder: Path) -> None:
        """Write golden_queries.npy and golden.json."""
        np.save(folder / "golden_queries.npy", self.queries_GD)
        scores = tuple(tuple(row) for row in self.scores_GK.tolist())
        answers = _Answers(ids=self.ids, scores=scores, recall=self.recall)
        write_json(folder / "golden.json", answers.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path, dimension: int) -> Golden:
        """Read what `write` wrote.

        Raises:
            RunError: When the two files do not fit one another.
        """
        queries_GD = read_array(folder / "golden_queries.npy")
        try:
            kept = _Answers.model_validate(read_json(folder / "golden.json"))
            scores_GK = np.array(kept.scores, dtype=np.float32)
            if not len(queries_GD):
                scores_GK = scores_GK.reshape(0, 0)
        except (ValidationError, ValueError):
            raise RunError(f"{folder / 'golden.json'} is of another version.") from None
        right = queries_GD.ndim == 2 and queries_GD.shape[1] == dimension
        if not right or len(kept.ids) != len(queries_GD):
            raise RunError(
                f"{folder} does not fit together: {len(kept.ids)} golden answers for queries of "
                f"shape {queries_GD.shape} and dimension {dimension}. Index the items again."
            )
        return cls(queries_GD, kept.ids, scores_GK, kept.recall)

    def check_vectors(self, folder: Path, state: State) -> np.ndarray:
        """Compare every row again, and the rows of the kept ids.

        Returns:
            The rows (G, K) of the exact answers.

        Raises:
            RunError: When the vectors or their ids are not those that were kept.
        """
        scores_GK, rows_GK = exact_top(self.queries_GD, state.vectors, NEAREST, state.alive_M)
        tolerance = 1e-4 * max(1.0, float(np.abs(self.scores_GK).max(initial=0.0)))

        def same(one: np.ndarray, other: np.ndarray) -> bool:
            return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=tolerance)

        right = same(scores_GK, self.scores_GK) and all(
            all(item in state for item in ids) and same(state.vectors_of(ids) @ query_D, kept_K)
            for ids, query_D, kept_K in zip(self.ids, self.queries_GD, self.scores_GK, strict=True)
        )
        if not right:
            raise RunError(
                f"{folder} does not answer its golden queries: its vectors and its ids do not fit "
                "together. Index the items again."
            )
        return rows_GK

    def check_engine(self, folder: Path, state: State, rows_GK: np.ndarray, slack: float) -> None:
        """Ask the engine.

        Args:
            folder: Named in the message.
            state: What is asked.
            rows_GK: What `check_vectors` returned.
            slack: How much recall it may have lost.

        Raises:
            WrongEngine: When it finds fewer of the exact answers than that.
        """
        recall = _recall(state, self.queries_GD, rows_GK)
        if recall < self.recall - slack - 1e-9:
            raise WrongEngine(
                f"The engine of {folder} finds {recall:.3f} of the golden answers; it found "
                f"{self.recall:.3f} when it was built."
            )


def read_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """An array of an .npy file, never of pickled objects.

    Raises:
        RunError: When it cannot be read, naming the file.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{path} cannot be read: {error}. Index the items again.") from None
    return array


def _recall(state: State, queries_GD: np.ndarray, rows_GK: np.ndarray) -> float:
    """Part of the exact answers that the engine finds; 1 where there is nothing to find."""
    if not rows_GK.size:
        return 1.0
    _, found_GK = state.search(queries_GD, rows_GK.shape[1], (), None)
    pairs = zip(found_GK.tolist(), rows_GK.tolist(), strict=True)
    return sum(len(set(found) & set(exact)) for found, exact in pairs) / rows_GK.size

"""How far rows lie from those that a model was trained on.

Two scores, each larger for a stranger row:

- `mahalanobis`: the distance to the nearest class mean under the shared covariance of the classes
  (Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples, NeurIPS 2018).
- `knn`: the distance of unit vectors to the k-th nearest of kept training rows (Sun et al.,
  Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022).

Statistics are those of training rows; how far is far is told by validation rows, which took no part
in them.

The relative Mahalanobis distance (Ren et al., A Simple Fix to Mahalanobis Distance, 2021) is not
among them. It takes off the distance under the covariance of all rows, and what is left lies in the
C - 1 directions that part the classes: with two classes it calls rows of another domain familiar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from warmstart.core import DataError, NotApplicable, Streams, UsageError, nearest

from .familiarity_alarm import Alarm, set_alarm
from .familiarity_gaussian import Gaussian, fit_gaussian

__all__ = [
    "FAMILIARITY_METHODS",
    "Familiarity",
    "FamiliarityMethod",
    "fit_familiarity",
    "kept_rows",
    "neighbour_distance",
]

FamiliarityMethod = Literal["mahalanobis", "knn"]
FAMILIARITY_METHODS: tuple[FamiliarityMethod, ...] = ("mahalanobis", "knn")

MOST_ROWS = 2000
_MOST_BYTES = 6 << 20  # of kept rows
_NEIGHBOURS = 10
_QUERIES = 1024


@dataclass(frozen=True)
class Familiarity:
    """What a run keeps of its training rows' vectors.

    Attributes:
        classes: Means of the classes and the covariance around them.
        rows_MD: Training rows that neighbours are sought among, float32.
        reference_RD: Rows that stand for what the model saw, for a two-sample test, float32: the
            training rows again, or held-out rows where training moved the training rows' vectors.
        neighbours: k of `knn`.
        calibration: Scores of the validation rows by method, sorted.
        counts: Training rows of each class by name.
    """

    classes: Gaussian
    rows_MD: np.ndarray
    reference_RD: np.ndarray
    neighbours: int
    calibration: Mapping[str, np.ndarray]
    counts: Mapping[str, int]

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(self.rows_MD.shape[1])

    def scores(
        self, vectors_ND: np.ndarray, method: FamiliarityMethod = "mahalanobis"
    ) -> np.ndarray:
        """How far each row lies from the training rows (N,), float64; larger is farther.

        Args:
            vectors_ND: Rows as the run's model embeds them.
            method: Which score.

        Raises:
            DataError: For vectors of another width, or numbers that are not finite.
            UsageError: For an unknown method.
        """
        check_method(method)
        found = np.asarray(vectors_ND)
        if found.ndim != 2 or found.shape[1] != self.dimension:
            raise DataError(
                f"familiarity: vectors must have {self.dimension} dimensions, as the training "
                f"rows' have; got shape {found.shape}."
            )
        if not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise DataError(f"familiarity: row {row} holds a number that is not finite.")
        if method == "knn":
            return neighbour_distance(found, self.rows_MD, self.neighbours)
        distance_N: np.ndarray = np.sqrt(self.classes.squared_distances(found).min(axis=1))
        return distance_N

    def alarm(self, rate: float | None = None, method: FamiliarityMethod = "mahalanobis") -> Alarm:
        """The threshold for a false-alarm rate, set on the validation rows' scores.

        Args:
            rate: In (0, 1); None for 1 %, or the lowest that the validation rows can state.
            method: Which score.

        Raises:
            UsageError: For an unknown method, or a rate that these rows cannot state.
        """
        check_method(method)
        return set_alarm(self.calibration[method], rate)


def check_method(method: str) -> None:
    """Refuse an unknown score.

    Raises:
        UsageError: With the nearest.
    """
    if method not in FAMILIARITY_METHODS:
        raise UsageError(
            f"familiarity method {method!r} is unknown.{nearest(method, FAMILIARITY_METHODS)}"
        )


def fit_familiarity(
    train_ND: np.ndarray,
    labels_N: np.ndarray,
    validation_MD: np.ndarray,
    *,
    label_names: Sequence[str],
    counts: Mapping[str, int] | None = None,
    reference_RD: np.ndarray | None = None,
    seed: int = 0,
) -> Familiarity:
    """Statistics of training rows, and the scores of validation rows.

    Args:
        train_ND: Vectors of training rows.
        labels_N: Their classes.
        validation_MD: Vectors of rows that the model was not trained on, in the same space.
        label_names: Names of the classes.
        counts: Training rows of each class, where `train_ND` are a draw from them.
        reference_RD: Rows for a two-sample test, where these must not be training rows.
        seed: Of the draw of kept rows.

    Raises:
        NotApplicable: With fewer than two training rows, no validation row, or rows that do not
            vary.
    """
    if len(train_ND) < 2 or not len(validation_MD):
        raise NotApplicable(
            f"{len(train_ND)} training and {len(validation_MD)} validation rows are too few for "
            "statistics of them"
        )
    streams = Streams(seed).child("familiarity")
    train = np.asarray(train_ND, dtype=np.float32)
    reference = train if reference_RD is None else np.asarray(reference_RD, dtype=np.float32)
    rows_MD = train[kept_rows(len(train), train.shape[1], streams.numpy("rows"))]
    named = counts or {
        name: int((np.asarray(labels_N) == i).sum()) for i, name in enumerate(label_names)
    }
    made = Familiarity(
        classes=fit_gaussian(train, np.asarray(labels_N)),
        rows_MD=rows_MD,
        reference_RD=rows_MD
        if reference_RD is None
        else reference[kept_rows(len(reference), train.shape[1], streams.numpy("reference"))],
        neighbours=min(_NEIGHBOURS, len(rows_MD)),
        calibration={},
        counts=dict(named),
    )
    held = np.asarray(validation_MD, dtype=np.float32)
    told: dict[str, np.ndarray] = {
        name: np.sort(made.scores(held, name)) for name in FAMILIARITY_METHODS
    }
    return replace(made, calibration=told)


def kept_rows(rows: int, dimension: int, generator: np.random.Generator) -> np.ndarray:
    """Which rows are kept, in order: all, or a draw of what a few MB hold, 2,000 at most."""
    most = min(MOST_ROWS, max(2, _MOST_BYTES // (4 * dimension)))
    return np.sort(generator.permutation(rows)[:most])


def neighbour_distance(vectors_ND: np.ndarray, rows_MD: np.ndarray, k: int) -> np.ndarray:
    """Distance (N,) of each vector to the k-th nearest row, all brought to unit length.

    |x - y| = √(2 - 2 cos), in [0, 2]; a vector of zeros has a cosine of 0 with everything.
    """
    rows_DM = _unit(rows_MD).T
    found_N = np.empty(len(vectors_ND))
    for start in range(0, len(vectors_ND), _QUERIES):
        cosine_BM = _unit(vectors_ND[start : start + _QUERIES]) @ rows_DM
        nearest_B = -np.partition(-cosine_BM, k - 1, axis=1)[:, k - 1]
        found_N[start : start + _QUERIES] = np.sqrt(np.maximum(2 - 2 * nearest_B, 0.0))
    return found_N


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    wide_ND = np.asarray(vectors_ND, dtype=np.float64)
    length_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    unit_ND: np.ndarray = np.divide(
        wide_ND, length_N1, out=np.zeros_like(wide_ND), where=length_N1 > 0
    )
    return unit_ND

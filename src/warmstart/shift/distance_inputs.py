"""What every distance begins and ends with: two sets that can be compared, and an estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from warmstart.core import Config, DataError, UsageError

__all__ = [
    "Estimate",
    "Floats",
    "Ints",
    "at_least",
    "equal_rows",
    "grouped_folds",
    "shared_rows",
    "two_sets",
]

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
_BLOCK = 8192


class Estimate(Config):
    """A distance between two sets of rows.

    Attributes:
        name: Which distance: `mmd`, `coral`, ...
        value: The distance as measured on all rows.
        interval: 95 % interval for the distance between what the rows were drawn from; None where
            there are too few rows, or none was asked for.
        method: How the interval came about.
        rows: Rows of the source and of the target.
        halves: The yardstick: the largest distance among random halvings of the source. None where
            it was not asked for.
        parts: What the value is made of, where it is a sum.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    method: str = ""
    rows: tuple[int, int]
    halves: float | None = None
    parts: dict[str, float] = Field(default_factory=dict)


def two_sets(source_ND: npt.ArrayLike, target_MD: npt.ArrayLike, who: str) -> tuple[Floats, Floats]:
    """Both sets as float arrays of equal width, all numbers finite.

    Args:
        source_ND: Vectors of the source, at least two rows.
        target_MD: Vectors of the target, at least two rows.
        who: Which distance asks, for messages.

    Raises:
        DataError: Naming the set, the row and the cure.
    """
    source, target = _one_set(source_ND, "source", who), _one_set(target_MD, "target", who)
    if source.shape[1] != target.shape[1]:
        raise DataError(
            f"{who}: source vectors have {source.shape[1]} dimensions and target vectors "
            f"{target.shape[1]}. Embed both with the same backbone, depth and pooling."
        )
    if source.dtype != target.dtype:
        source, target = source.astype(np.float64), target.astype(np.float64)
    return source, target


def _one_set(rows: npt.ArrayLike, name: str, who: str) -> Floats:
    try:
        found = np.asarray(rows)
    except ValueError as error:
        raise DataError(f"{who}: the {name}'s rows differ in length: {error}.") from None
    if found.ndim != 2 or found.dtype.kind not in "fiub":
        raise DataError(
            f"{who}: the {name} must be an array of numbers, one row a vector; got shape "
            f"{found.shape} of {found.dtype}."
        )
    if len(found) < 2 or found.shape[1] < 1:
        raise DataError(
            f"{who}: the {name} must have at least 2 rows and 1 dimension, got {found.shape[0]} x "
            f"{found.shape[1]}. A distance between sets needs a set on either side."
        )
    dtype = np.float32 if found.dtype in (np.float16, np.float32) else np.float64
    found = found.astype(dtype, copy=False)
    finite_N = np.isfinite(found).all(axis=1)
    if not finite_N.all():
        row = int(np.flatnonzero(~finite_N)[0])
        raise DataError(
            f"{who}: row {row} of the {name} holds a number that is not finite "
            f"({int((~finite_N).sum())} such rows). Leave these rows out, or look at what made "
            "them."
        )
    return found


def at_least(who: str, name: str, value: float, least: float, typical: str) -> None:
    """Refuse a setting below its range.

    Raises:
        UsageError: With who, the range, what came, and typical values.
    """
    if not value >= least:
        raise UsageError(
            f"{who}.{name} must be at least {least:g}, got {value!r}. Typical values: {typical}."
        )


def equal_rows(rows_ND: Floats) -> Ints:
    """A number for each row as it comes, the same for rows that are equal (-0.0 being 0.0).

    Rows are told apart by a hash of 64 bits first (a random sum of their words, exact whole-number
    arithmetic); rows of one hash are then compared as they are.
    """
    words = np.uint32 if rows_ND.dtype == np.float32 else np.uint64
    generator = np.random.default_rng(0)
    factor_D = generator.integers(0, 2**63, rows_ND.shape[1], dtype=np.uint64) * np.uint64(2) + 1
    hash_N = np.empty(len(rows_ND), dtype=np.uint64)
    for start in range(0, len(rows_ND), _BLOCK):
        at = slice(start, start + _BLOCK)
        plain_BD = np.ascontiguousarray(rows_ND[at]) + rows_ND.dtype.type(0)  # -0.0 becomes 0.0
        hash_N[at] = np.einsum("nd,d->n", plain_BD.view(words).astype(np.uint64), factor_D)
    _, first_N, number_N = np.unique(hash_N, return_index=True, return_inverse=True)
    rank_G = np.argsort(np.argsort(first_N))  # numbered as they come, not by their hashes
    number_N, first_N = rank_G[number_N.reshape(-1)].astype(np.int64), np.sort(first_N)
    other_N = np.flatnonzero(np.arange(len(rows_ND)) != first_N[number_N])
    if len(other_N):
        same_N = (rows_ND[other_N] == rows_ND[first_N[number_N[other_N]]]).all(axis=1)
        clash_N = other_N[~same_N]  # unequal rows of one hash, once in 2^64: each on its own
        number_N[clash_N] = len(first_N) + np.arange(len(clash_N))
    return number_N


def shared_rows(number_N: Ints, n_source: int) -> int:
    """Target rows that equal a source row.

    Args:
        number_N: `equal_rows` of the source's rows and then the target's.
        n_source: How many of them are the source's.
    """
    return int(np.isin(number_N[n_source:], number_N[:n_source]).sum())


def grouped_folds(
    number_N: Ints, strata_N: Ints, folds: int, generator: np.random.Generator
) -> Ints:
    """Fold of each row: equal rows share one, and each stratum is dealt evenly.

    Args:
        number_N: Which rows are equal, from `equal_rows`.
        strata_N: What is to be spread evenly: the side a row is of, or its class.
        folds: How many.
        generator: Who deals.

    Returns:
        (N,) numbers in [0, folds). A stratum with fewer distinct rows than folds is in some only.
    """
    groups = int(number_N.max()) + 1
    first_G = np.full(groups, len(number_N), dtype=np.int64)
    np.minimum.at(first_G, number_N, np.arange(len(number_N)))
    stratum_G = strata_N[first_G]
    order_G = generator.permutation(groups)
    order_G = order_G[np.argsort(stratum_G[order_G], kind="stable")]
    fold_G = np.empty(groups, dtype=np.int64)
    fold_G[order_G] = np.arange(groups) % folds
    return fold_G[number_N]

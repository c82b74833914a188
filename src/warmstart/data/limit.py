"""A smaller data set that keeps the shares of classes and parts."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from warmstart.core.errors import UsageError
from warmstart.core.progress import note
from warmstart.core.rng import Streams
from warmstart.data.dataset import Dataset

__all__ = ["limit_rows", "rank", "rank_key", "shares"]


def rank_key(seed: int, *names: str) -> bytes:
    """A key with which `rank` orders ids at random; an appended row moves no other."""
    return Streams(seed).seed(*names).to_bytes(8, "big")


def rank(key: bytes, row_id: str) -> bytes:
    """The place of one id in the random order of that key."""
    return blake2b(row_id.encode("utf-8", "surrogatepass"), key=key, digest_size=16).digest()


def shares(sizes: list[int], total: int, least: list[int]) -> list[int]:
    """Divide `total` in proportion to `sizes`, at least `least` each, never more than there is.

    Largest remainder; where `total` cannot give every `least`, those are not kept.

    >>> shares([70, 20, 10], 10, [2, 2, 2])
    [6, 2, 2]
    """
    floor = [min(m, n) for m, n in zip(least, sizes, strict=True)]
    if sum(floor) > total:
        floor = [0] * len(sizes)
    ideal = np.asarray(sizes, dtype=np.float64) * total / max(sum(sizes), 1)
    given = floor[:]
    while sum(given) < total:
        lack = [i - g if g < n else -np.inf for i, g, n in zip(ideal, given, sizes, strict=True)]
        best = int(np.argmax(lack))
        if lack[best] == -np.inf:
            break
        step = max(1, min(int(lack[best]), sizes[best] - given[best], total - sum(given)))
        given[best] += step
    return given


def limit_rows(dataset: Dataset, limit: int, seed: int) -> Dataset:
    """At most `limit` rows, drawn by class and given part in proportion; rows keep their order.

    Each class keeps two training rows or more where `limit` allows (four where the parts are
    still to be made).
    """
    if limit < 2:
        raise UsageError(f"limit must be at least 2, got {limit}.")
    if limit >= len(dataset):
        return dataset
    parts = dataset.parts or [""] * len(dataset)
    strata: dict[tuple[str, int], list[int]] = {}
    for i, (part, label) in enumerate(zip(parts, dataset.labels_N.tolist(), strict=True)):
        strata.setdefault((part, label), []).append(i)
    keys = sorted(strata)
    wanted = {"": 4, "train": 2, "test": 1, "validation": 1}
    taken = shares(
        [len(strata[key]) for key in keys], limit, [wanted.get(key[0], 1) for key in keys]
    )
    ids = dataset.ids
    key = rank_key(seed, "limit")
    chosen: list[int] = []
    for stratum, n in zip(keys, taken, strict=True):
        ordered = sorted(strata[stratum], key=lambda i: rank(key, ids[i]))
        chosen.extend(ordered[:n])
    note(
        f"{dataset.source}: {len(chosen)} of {len(dataset)} rows are used (limit={limit}), "
        "drawn in proportion to the classes."
    )
    return dataset.select(sorted(chosen))

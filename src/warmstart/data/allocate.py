"""Which bundle of rows goes to which part: by class, by group, or the first few of each class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from warmstart.data.limit import rank, rank_key

__all__ = ["assign_by_class", "assign_groups", "bundles", "first_shots"]

P = TypeVar("P", bound=str)
Unit = tuple[int, ...]


def bundles(rows: Sequence[int], keys: Sequence[Sequence[str]], ids: Sequence[str]) -> list[Unit]:
    """Rows joined when they share a value of any key, directly or through others.

    Returns tuples of row positions, each sorted by id, the tuples sorted by their first id, so
    that the order of the rows plays no part.
    """
    parent = {i: i for i in rows}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for values in keys:
        first: dict[str, int] = {}
        for i in rows:
            j = first.setdefault(values[i], i)
            if j != i:
                parent[root(i)] = root(j)
    members: dict[int, list[int]] = defaultdict(list)
    for i in rows:
        members[root(i)].append(i)
    units = [tuple(sorted(unit, key=lambda i: ids[i])) for unit in members.values()]
    return sorted(units, key=lambda unit: ids[unit[0]])


def assign_by_class(
    units: Sequence[Unit],
    labels: Sequence[int],
    *,
    names: Sequence[str],
    wanted: Mapping[P, float],
    ids: Sequence[str],
    seed: int,
) -> list[P]:
    """A part for each unit, so that every class has the wanted shares.

    Units of a class are taken in their random order: the held-out parts are filled to their
    quota, the rest trains. What rounding loses in one class is made up in the next, so the parts
    have the wanted sizes over all classes too. A unit of several labels counts as its commonest.
    """
    train, *held = wanted
    by_class: dict[int, list[int]] = defaultdict(list)
    for u, unit in enumerate(units):
        counts = Counter(labels[i] for i in unit)
        by_class[min(counts, key=lambda c: (-counts[c], c))].append(u)
    chosen: list[P] = [train] * len(units)
    carry = dict.fromkeys(held, 0.0)
    for label in sorted(by_class, key=lambda c: names[c]):
        members = by_class[label]
        key = rank_key(seed, "split")
        members.sort(key=lambda u: rank(key, ids[units[u][0]]))
        quota = _quotas(len(members), sum(len(units[u]) for u in members), wanted, held, carry)
        for u in members:
            for part in reversed(held):  # test first: it must not depend on validation
                if 0 < len(units[u]) <= quota[part]:
                    chosen[u] = part
                    quota[part] -= len(units[u])
                    break
    return chosen


def _quotas(
    n_units: int, n_rows: int, wanted: Mapping[P, float], held: Sequence[P], carry: dict[P, float]
) -> dict[P, int]:
    """Rows of one class for each held-out part; `carry` takes what rounding left over."""
    quota = dict.fromkeys(held, 0)
    if n_units <= 2:
        return quota
    spare = n_units - 2  # two units train whatever the fractions say
    for part in reversed(held):
        ideal = wanted[part] * n_rows
        rows = max(1, round(ideal + carry[part])) if spare > 0 else 0
        quota[part] = min(rows, max(n_rows - 2, 0))
        carry[part] += ideal - quota[part]
        spare -= 1
    return quota


def assign_groups(
    units: Sequence[Unit],
    labels: Sequence[int],
    *,
    n_classes: int,
    wanted: Mapping[P, float],
    ids: Sequence[str],
    seed: int,
) -> list[P]:
    """A part for each whole unit, the class shares kept as well as whole units allow.

    Greedy, largest unit first: each goes where it least adds to the squared distance, relative to
    the target, between the class counts of the parts and the wanted counts.
    """
    parts = list(wanted)
    counts_UC = np.zeros((len(units), n_classes))
    for u, unit in enumerate(units):
        for i in unit:
            counts_UC[u, labels[i]] += 1
    shares_P = np.asarray([wanted[part] for part in parts])
    target_PC = np.maximum(shares_P[:, None] * counts_UC.sum(0)[None, :], 1e-9)
    have_PC = np.zeros_like(target_PC)
    used_P = np.zeros(len(parts), dtype=np.int64)
    key = rank_key(seed, "split", "group")
    order = sorted(range(len(units)), key=lambda u: (-len(units[u]), rank(key, ids[units[u][0]])))
    chosen: list[P] = [parts[0]] * len(units)
    for position, u in enumerate(order):
        counts_C = counts_UC[u]
        cost_P = (counts_C * (counts_C + 2 * (have_PC - target_PC)) / target_PC).sum(1)
        empty_P = used_P == 0
        if len(order) - position <= int(empty_P.sum()):  # every part gets a unit
            cost_P = np.where(empty_P, cost_P, np.inf)
        best = int(np.argmin(cost_P))
        have_PC[best] += counts_C
        used_P[best] += 1
        chosen[u] = parts[best]
    return chosen


def first_shots(
    rows: Sequence[int],
    labels: Sequence[int],
    *,
    contents: Sequence[str],
    ids: Sequence[str],
    shots: int,
    seed: int,
) -> list[int]:
    """The first `shots` rows of distinct content of each class, in their random order."""
    key = rank_key(seed, "shots")
    taken: Counter[int] = Counter()
    seen: set[str] = set()
    chosen = []
    for i in sorted(rows, key=lambda i: rank(key, ids[i])):
        if taken[labels[i]] < shots and contents[i] not in seen:
            taken[labels[i]] += 1
            seen.add(contents[i])
            chosen.append(i)
    return chosen

"""Groups that are compared, and what is said of those that are not."""

from __future__ import annotations

import polars as pl
import pytest

from warmstart.core import progress
from warmstart.evaluation import next_item_task, rank_targets
from warmstart.retrieval import Popularity
from warmstart.workflow.retrieval_groups import group_gaps

from ..retrieval.towerkit import chains, halves

USERS = 60


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def asked(users: pl.DataFrame) -> tuple[list[str], list[str]]:
    """By what groups are compared, and what is noted."""
    past, future = halves(chains(n_users=USERS))
    task = next_item_task(past, future)
    ranks = rank_targets(Popularity().fit(past), task, task.n_items)
    notes = Notes()
    with progress.use(notes):  # type: ignore[arg-type]
        found = group_gaps(ranks, task, "HR@10", users=users, tags=None)
    return [name for name, _ in found], notes.told


def table(**columns: object) -> pl.DataFrame:
    return pl.DataFrame({"user_id": [f"u{u}" for u in range(USERS)], **columns})


def test_attributes_with_many_values_are_named() -> None:
    team = ["red" if u % 2 else "blue" for u in range(USERS)]
    found, told = asked(table(town=[f"town {u % 25}" for u in range(USERS)], team=team))
    assert found == ["team"]
    (line,) = told
    assert line.startswith("Whether groups by town are served alike is not told: it has 25 values")
    assert line.endswith("24 at most are compared. Join them into fewer.")
    few = [f"town {u % 2}" if u else None for u in range(USERS)]
    assert asked(table(town=few, team=team)) == (["town", "team"], [])


@pytest.mark.parametrize("extra", [0, 2])
def test_attributes_after_the_sixth_are_named(extra: int) -> None:
    columns = {f"a{n}": [(u >> n) % 2 for u in range(USERS)] for n in range(3)}
    columns |= {f"b{n}": [(u + n) % 2 for u in range(USERS)] for n in range(3 + extra)}
    found, told = asked(table(**columns))
    assert found == list(columns)[:6]
    assert [line.split()[3] for line in told] == list(columns)[6:]
    assert not extra or "6 attributes are compared, and these came first: a0, a1, a2, b0" in told[0]

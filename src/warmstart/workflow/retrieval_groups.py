"""Groups of users and items that a recommender should serve alike: which, and how far apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl

from warmstart.core import DataError, progress
from warmstart.evaluation import (
    FairnessGap,
    RankingTask,
    Ranks,
    fairness,
    item_labels,
    user_labels,
)

__all__ = ["group_gaps"]

_GROUPS = 12
_ATTRIBUTES = 6


def group_gaps(
    ranks: Ranks,
    questions: RankingTask,
    metric: str,
    *,
    users: pl.DataFrame | None,
    tags: Sequence[Sequence[str]] | None,
) -> list[tuple[str, FairnessGap]]:
    """Gaps between groups by attributes of users and by tags of items.

    What has too few users to be judged is left out, and so are attributes with many values and
    those after the sixth; that is said.

    Args:
        ranks: Of the recommender.
        questions: What was asked.
        metric: By which groups are compared.
        users: A row a user, in the order of their codes: user_id and attributes.
        tags: The tags of each item.
    """
    labelled = [(name, user_labels(questions, values)) for name, values in _attributes(users)]
    if tags is not None:
        labelled.append(("tag", _tag_labels(tags, questions)))
    found = []
    for name, labels in labelled:
        try:
            found.append((name, fairness(ranks, questions, labels, metric)))
        except DataError as error:
            _left_out(name, str(error).rstrip("."))
    return found


def _tag_labels(tags: Sequence[Sequence[str]], questions: RankingTask) -> list[object]:
    """The commonest tags of each target's item."""
    counts = Counter(tag for item in questions.targets.items for tag in tags[item])
    common = {tag for tag, _ in counts.most_common(_GROUPS)}
    return item_labels(
        questions, [tuple(tag for tag in row if tag in common) or None for row in tags]
    )


def _attributes(users: pl.DataFrame | None) -> list[tuple[str, list[object]]]:
    """User attributes with few values; numbers are cut into quarters."""
    if users is None:
        return []
    found: list[tuple[str, list[object]]] = []
    for name in users.columns:
        if name == "user_id":
            continue
        column = users[name]
        different = column.drop_nulls().n_unique()
        if len(found) == _ATTRIBUTES:
            _left_out(name, f"{_ATTRIBUTES} attributes are compared, and these came first: "
                      f"{', '.join(one for one, _ in found)}")  # fmt: skip
            continue
        if column.dtype.is_numeric() and different > _GROUPS:
            edges = np.unique(np.nanquantile(column.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
            values = [None if v is None else _quarter(float(v), edges) for v in column.to_list()]
        elif different <= 2 * _GROUPS:
            values = [None if v is None else str(v) for v in column.to_list()]
        else:
            _left_out(name, f"it has {different:,} values, and {2 * _GROUPS} at most are compared. "
                      "Join them into fewer")  # fmt: skip
            continue
        found.append((name, list(values)))
    return found


def _left_out(name: str, why: str) -> None:
    progress.note(f"Whether groups by {name} are served alike is not told: {why}.")


def _quarter(value: float, edges: np.ndarray) -> str:
    place = int(np.searchsorted(edges, value, side="right"))
    if place == 0:
        return f"under {edges[0]:g}"
    if place == len(edges):
        return f"{edges[-1]:g} and over"
    return f"{edges[place - 1]:g} to {edges[place]:g}"

"""The two sides of a shift: read, checked against one another, their classes and times matched."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from warmstart.core import DataError, progress
from warmstart.data import Dataset

from .prepare import Source, as_dataset

__all__ = ["Classes", "check_pair", "read_side", "times_of"]

_MOST_CLASSES = 100


def read_side(
    data: Source,
    side: str,
    reading: Mapping[str, Any],
    own: Mapping[str, Any] | None = None,
) -> Dataset:
    """Read one side; labels may be absent.

    A target without the source's label column counts as unlabelled, and so does a side whose label
    column holds hardly any value twice.

    Args:
        data: Anything that `read` takes.
        side: `source` or `target`.
        reading: Options of `read` for both sides.
        own: Options for this side alone, which come first.

    Raises:
        DataError: For data that cannot be read, or a single row.
    """
    own = own or {}
    given = {**reading, **own}
    column = given.get("label")
    try:
        found = as_dataset(data, need_label=False, **given)
    except DataError as error:
        shared = side == "target" and column and "label" not in own
        if not shared or f"has no column {column!r} (label=" not in str(error):
            raise
        found = as_dataset(data, need_label=False, **{**given, "label": None})
        found = replace(found.without_labels(), label_names=())
        progress.note(
            f"{found.source} has no column {column!r}, so its rows count as unlabelled. Name its "
            "own label column with target_label (--target-label)."
        )
    if len(found) < 2:
        raise DataError(
            f"{found.source} has {len(found)} row. A distance between sets needs at least 2 on "
            "either side; some hundreds make it precise."
        )
    known = int((found.labels_N >= 0).sum())
    names = len(found.label_names)
    if names > max(_MOST_CLASSES, known / 10) or names * 2 > max(known, 50):
        progress.note(
            f"{found.source}: {names} different labels in {known} rows are hardly classes, so "
            "they are left aside. Name another column with label=NAME (--label NAME)."
        )
        found = replace(found.without_labels(), label_names=())
    return found


def check_pair(first: Dataset, second: Dataset) -> None:
    """Refuse sides that have no distance: of two kinds, or with the same rows.

    Raises:
        DataError: Naming both.
    """
    if first.modality != second.modality:
        raise DataError(
            f"{first.source} holds {first.modality} and {second.source} holds {second.modality}. "
            "Distances are between sets of one kind."
        )
    if set(first.contents) == set(second.contents):
        raise DataError(
            f"{first.source} and {second.source} hold the same {len(set(first.contents))} "
            "different rows, so there is no shift to measure. Give two different sets."
        )


@dataclass(frozen=True)
class Classes:
    """Labels of both sides, counted in the source's classes.

    Attributes:
        names: The source's classes.
        ours_N: Class of each source row, -1 unknown; None without any class.
        theirs_M: Class of each target row, -1 unknown; None without any class.
        foreign: Target classes that the source lacks, and their rows.
    """

    names: tuple[str, ...] = ()
    ours_N: np.ndarray | None = None
    theirs_M: np.ndarray | None = None
    foreign: Mapping[str, int] | None = None

    @classmethod
    def of(cls, first: Dataset, second: Dataset) -> Classes:
        """Match classes by name."""
        names = first.label_names
        if not names:
            return cls()
        place = {name: number for number, name in enumerate(names)}
        new = np.array([*(place.get(name, -1) for name in second.label_names), -1], dtype=np.int64)
        counts = second.class_counts
        foreign = {name: n for name, n in counts.items() if n and name not in place}
        return cls(names, first.labels_N, new[second.labels_N], foreign)


def times_of(rows: Dataset, column: str | None) -> list[Any] | None:
    """Times of the rows as values that sort, None where a cell is empty; None without a column.

    Raises:
        DataError: For a column that is not there, or a value that is no time.
    """
    if column is None:
        return None
    found = [
        None if value in (None, "") else _time(value, rows.source, column)
        for value in rows.column(column)
    ]
    if len({type(value) for value in found if value is not None}) > 1:
        raise DataError(
            f"{rows.source}: column {column!r} mixes dates and numbers, which have no order."
        )
    return found


def _time(value: Any, source: str, column: str) -> Any:
    if isinstance(value, datetime.datetime):
        moment = value
    elif isinstance(value, datetime.date):
        moment = datetime.datetime(value.year, value.month, value.day)
    elif isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            raise DataError(
                f"{source}: {value!r} in column {column!r} is no date. Write dates as 2024-05-31 "
                "or 2024-05-31T12:00:00."
            ) from None
    else:
        return float(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)

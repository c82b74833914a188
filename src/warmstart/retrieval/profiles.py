"""Users' attributes as numbers: what a user tower is told of a user beside the history.

The code (which values have a place of their own, what a typical number is) is learned from users
with training events alone. Every attribute has a place for a missing value, and a category one for
values that training never saw, so any user can be coded at any time, also one of whom nothing is
known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from warmstart.core import Config, UsageError, nearest, progress

__all__ = ["ProfileCode", "ProfileColumn", "learn_profiles", "value_name"]

_MOST_VALUES = 50  # values of a category with a place of their own
_LEAST_USERS = 3  # users that such a value must have
_FEW_INTEGERS = 25  # whole numbers of at most so many values are names (occupation 0 to 20)
_BINS = 5
_FAR = 3.0  # standard deviations beyond which a number counts no further


class ProfileColumn(Config):
    """How one attribute is coded.

    A category: a 1 at its value, at `other` or at `missing`. A number: the standardised value, a 1
    at its bin, a 1 at `missing`.

    Attributes:
        name: Column of the users table.
        kind: `category` or `number`.
        values: Values of a category with a place of their own.
        mean: Of a number, over the users with training events.
        scale: Its standard deviation there, above 0.
        edges: Where its bins end, rising; a value at an edge lies above it.
    """

    name: str
    kind: Literal["category", "number"]
    values: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    edges: tuple[float, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """What each of its numbers stands for."""
        if self.kind == "category":
            own = [*self.values, "(other)", "(missing)"]
        else:
            own = ["(value)", *(f"bin {place + 1}" for place in range(len(self.edges) + 1))]
            own.append("(missing)")
        return tuple(f"{self.name}: {place}" for place in own)

    def code(self, values: Sequence[Any]) -> np.ndarray:
        """Values as numbers (N, places), float32; what is null, blank or no number is missing."""
        found_NP = np.zeros((len(values), len(self.places)), dtype=np.float32)
        if self.kind == "category":
            place = {value: index for index, value in enumerate(self.values)}
            for row, value in enumerate(values):
                name = value_name(value)
                found_NP[row, -1 if name is None else place.get(name, len(place))] = 1.0
            return found_NP
        for row, value in enumerate(values):
            number = _number(value)
            if number is None:
                found_NP[row, -1] = 1.0
                continue
            found_NP[row, 0] = min(_FAR, max(-_FAR, (number - self.mean) / self.scale))
            found_NP[row, 1 + int(np.searchsorted(self.edges, number, side="right"))] = 1.0
        return found_NP


class ProfileCode(Config):
    """How users are coded, attribute by attribute.

    Attributes:
        columns: In the order of the users table.
    """

    columns: tuple[ProfileColumn, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """What each of the P numbers stands for."""
        return tuple(place for column in self.columns for place in column.places)

    def encode(self, users: pl.DataFrame) -> np.ndarray:
        """Users as numbers (U, P), float32.

        Args:
            users: A table with the attributes; a column that it does not have is missing.
        """
        parts = [
            column.code(
                users[column.name].to_list()
                if column.name in users.columns
                else [None] * users.height
            )
            for column in self.columns
        ]
        found_UP: np.ndarray = np.concatenate(parts, axis=1)
        return found_UP

    def of(self, attributes: Mapping[str, Any] | None = None) -> np.ndarray:
        """One user (P): what is not told is missing.

        Raises:
            UsageError: As `check`.
        """
        told = dict(attributes or {})
        self.check(told)
        found_P: np.ndarray = np.concatenate(
            [column.code([told.get(column.name)])[0] for column in self.columns]
        )
        return found_P

    def check(self, attributes: Mapping[str, Any]) -> None:
        """Refuse what the towers cannot read.

        A name that training never saw is none of that: it has a place of its own.

        Raises:
            UsageError: For an attribute that the towers do not read, or a number that is none.
        """
        columns = {column.name: column for column in self.columns}
        for name, value in attributes.items():
            if name not in columns:
                raise UsageError(
                    f"the towers read no attribute {name!r} of users.{nearest(name, columns)}"
                )
            blank = value_name(value) is None
            if columns[name].kind == "number" and not blank and _number(value) is None:
                raise UsageError(
                    f"the attribute {name!r} of users is a number such as "
                    f"{columns[name].mean:.4g}, got {value!r}. Leave it out where it is not known."
                )


def learn_profiles(users: pl.DataFrame, trained: np.ndarray) -> ProfileCode | None:
    """How users are coded, by those with training events.

    A column is left out where it would tell nothing (one value) or next to nothing (names of which
    hardly any two users share one), and that is said.

    Args:
        users: The users table in the order of user codes: `user_id`, then attributes.
        trained: Codes of the users with training events.

    Returns:
        None where no column is left.
    """
    rows = users[np.unique(np.asarray(trained, dtype=np.int64)).tolist()]
    columns: list[ProfileColumn] = []
    silent: list[str] = []
    for name in users.columns:
        if name == "user_id":
            continue
        found = _learn(rows[name])
        if found is None:
            silent.append(name)
        else:
            columns.append(found)
    if silent:
        progress.note(
            f"Users' attributes that the towers do not read: {', '.join(silent)} (one value, too "
            "many values, or neither number nor text)."
        )
    return ProfileCode(columns=tuple(columns)) if columns else None


def _learn(column: pl.Series) -> ProfileColumn | None:
    """One attribute; None where it tells nothing."""
    kind = column.dtype
    if not (kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Categorical, pl.Enum)):
        return None
    values = column.to_list()
    if kind.is_numeric():
        numbers = [number for number in map(_number, values) if number is not None]
        different = len(set(numbers))
        few = different <= _FEW_INTEGERS and 4 * different <= len(numbers)
        if not (kind.is_integer() and few):
            return _number_column(column.name, numbers, len(values))
    return _category_column(column.name, values)


def _number_column(name: str, numbers: list[float], rows: int) -> ProfileColumn | None:
    if not numbers or (len(set(numbers)) == 1 and len(numbers) == rows):
        return None
    values = np.array(numbers, dtype=np.float64)
    inner = np.quantile(values, [place / _BINS for place in range(1, _BINS)])
    edges = tuple(sorted({float(edge) for edge in inner if edge > values.min()}))
    return ProfileColumn(
        name=name, kind="number", mean=float(values.mean()),
        scale=float(values.std()) or 1.0, edges=edges,
    )  # fmt: skip


def _category_column(name: str, values: list[Any]) -> ProfileColumn | None:
    counts = Counter(value_name(value) for value in values)
    missing = counts.pop(None, 0)
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0] or ""))
    kept = [value for value, count in ranked[:_MOST_VALUES] if value and count >= _LEAST_USERS]
    covered = sum(counts[value] for value in kept)
    if not kept or 2 * covered < len(values) - missing:
        return None
    if covered == len(values) and len(kept) == 1:
        return None
    return ProfileColumn(name=name, kind="category", values=tuple(kept))


def value_name(value: Any) -> str | None:
    """A value as it is called, the same whatever the column's type; None where it is missing.

    Args:
        value: Of an attribute.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 3 is 3 whether the column has gaps or not
    return str(value).strip() or None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None

"""From label cells to class names: what counts as missing, how names are ordered and replaced."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warmstart.core.errors import DataError, UsageError, nearest

__all__ = [
    "LabelNames",
    "check_classes",
    "label_text",
    "name_classes",
    "natural_key",
    "plain_integers",
]

LabelNames = Sequence[str] | Mapping[Any, str]

MISSING = frozenset(("", "nan", "<na>", "#n/a", "n/a", "null"))
"""Cells that stand for no label, in any case. "none" and "NA" are kept: both are real classes."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_PIECES = re.compile(r"(\d+)")

MANY_REALS = 20
MANY_INTEGERS = 100


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts "2" before "10" and "img2" before "img10"; ties by the plain text."""
    pieces = tuple(
        (0, int(piece), "") if piece.isdecimal() and len(piece) < 1000 else (1, 0, piece.lower())
        for piece in _PIECES.split(name)
        if piece
    )
    return (*pieces, (2, 0, name))


def label_text(value: Any) -> str | None:
    """The class a cell names, or None where it names none.

    Integral floats lose their ".0"; surrounding spaces are dropped. Raises ValueError with the
    reason for a value that is no class, such as a list.
    """
    if value is None:
        return None
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, list | tuple | dict | set):
        raise ValueError(
            f"the label is a {type(value).__name__}; one class a row is needed "
            "(several labels a row are not supported)."
        )
    text = str(value).strip()
    return None if text.lower() in MISSING else text


def plain_integers(labels: Sequence[str | None]) -> list[str | None]:
    """Turn "1.0" into "1" when every label is a number, as tables write integers beside gaps."""
    known = {label for label in labels if label is not None}
    if not all(_NUMBER.fullmatch(label) for label in known):
        return list(labels)
    plain = {
        label: _WHOLE.sub(r"\1", label) if _WHOLE.fullmatch(label) else label for label in known
    }
    return [None if label is None else plain[label] for label in labels]


def check_classes(labels: Sequence[str], source: str, column: str) -> None:
    """Refuse one class only, numbers to be estimated, and a column that is no label."""
    counts = Counter(labels)
    if len(counts) == 1:
        raise DataError(
            f"{source}: every row has the label {next(iter(counts))!r}. Two classes or more are "
            "needed to classify."
        )
    numeric = all(_NUMBER.fullmatch(label) for label in counts)
    real = numeric and any(not _WHOLE.fullmatch(n) and not n.lstrip("+-").isdigit() for n in counts)
    whole = numeric and not real
    if (real and len(counts) > MANY_REALS) or (
        whole and len(counts) > max(MANY_INTEGERS, len(labels) / 5)
    ):
        raise DataError(
            f"{source}: the label column {column!r} holds {len(counts)} different numbers. "
            "Regression is not supported: name a column of classes with label=NAME (--label NAME), "
            "or turn the numbers into classes first."
        )
    if len(labels) >= 50 and len(counts) * 2 > len(labels):
        raise DataError(
            f"{source}: the label column {column!r} holds {len(counts)} different values in "
            f"{len(labels)} rows, so it can hardly be a class. Name another with label=NAME "
            "(--label NAME)."
        )


def name_classes(
    raw: Iterable[str], label_names: LabelNames | None, *, ordered: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names in their order, and the class index of every raw value.

    The order is natural (2 before 10), or `ordered` where the data states one. `label_names` as
    a list gives the new names in that order; as a mapping, raw value to name (two raw values may
    share one). Raises UsageError where it does not fit the values.
    """
    present = set(raw)
    values = [v for v in ordered if v in present] or sorted(present, key=natural_key)
    if label_names is None:
        names = {value: value for value in values}
    elif isinstance(label_names, Mapping):
        given = {str(label_text(key)): str(name) for key, name in label_names.items()}
        absent = [value for value in values if value not in given]
        if absent:
            raise UsageError(
                f"label_names has no name for the label {absent[0]!r}." + nearest(absent[0], given)
            )
        names = {value: given[value] for value in values}
    else:
        listed = [str(name) for name in label_names]
        if len(listed) != len(values) or len(set(listed)) != len(listed) or "" in listed:
            shown = ", ".join(values[:10]) + (", ..." if len(values) > 10 else "")
            raise UsageError(
                f"label_names must be {len(values)} different names, none empty, one for each of "
                f"{shown} in this order; got {len(listed)}: {', '.join(listed[:10])}."
            )
        names = dict(zip(values, listed, strict=True))
    order = tuple(dict.fromkeys(names[value] for value in values))
    place = {name: i for i, name in enumerate(order)}
    return order, {value: place[names[value]] for value in values}

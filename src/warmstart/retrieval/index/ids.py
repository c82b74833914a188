"""Item ids as the user has them: text stays text, whole numbers stay whole numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from warmstart.core import DataError, UsageError

__all__ = ["ItemId", "first_repeated", "plain_id", "plain_ids", "some_ids"]

ItemId = str | int


def plain_id(value: Any) -> ItemId:
    """An id as `str` or `int`; NumPy's own kinds become Python's.

    Raises:
        UsageError: For any other type (also True and False, which equal 1 and 0), and for text that
            is not UTF-8.
    """
    if isinstance(value, str):
        if not value.isascii():
            _check_utf8(value)
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise UsageError(
        f"An item id must be text or a whole number, got {value!r} ({type(value).__name__}). "
        "Give it as text: str(id)."
    )


def plain_ids(values: Iterable[Any]) -> list[ItemId]:
    """Ids as a list of `str` and `int`, in order; repeated ones stay.

    Raises:
        UsageError: As `plain_id`; also for one text given where a list of ids is meant.
    """
    if isinstance(values, str | bytes):
        raise UsageError(f"Item ids must come as a list, got {values!r}: write [{values!r}].")
    return [plain_id(value) for value in values]


def first_repeated(ids: Iterable[ItemId]) -> ItemId | None:
    """The first id that came before, or None."""
    seen: set[ItemId] = set()
    for item in ids:
        if item in seen:
            return item
        seen.add(item)
    return None


def some_ids(ids: Iterable[ItemId]) -> str:
    """A few ids for a message: `"a", "b" and 3 more`."""
    known = list(ids)
    shown = ", ".join(repr(item) for item in known[:3])
    return shown + (f" and {len(known) - 3} more" if len(known) > 3 else "")


def _check_utf8(value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"The item id {value!r} cannot be written as UTF-8. Repair it at its source."
        ) from None

"""Ids of users and items: any type becomes text, text becomes a number in order of first sight."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from warmstart.core.errors import DataError
from warmstart.data.labels import MISSING

__all__ = [
    "MAX_LENGTH",
    "Canonical",
    "Codebook",
    "all_floats",
    "canonical",
    "id_fault",
    "id_text",
    "id_texts",
    "without_fraction",
]

MAX_LENGTH = 1000
"""Characters of an id; a longer one is a text that slipped into the wrong column."""

_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_EXACT = 2.0**53
_WHOLE = re.compile(r"(-?\d+)\.0+")

CodeArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Canonical:
    """Ids as they are kept.

    Attributes:
        ids: Each id once, in order of first sight.
        code_R: The id's code for each raw text, -1 where the text names none.
        faults: Raw texts that cannot be ids, with the reason.
        note: A sentence for the user, or empty.
    """

    ids: list[str]
    code_R: CodeArray
    faults: dict[int, str]
    note: str


class Codebook:
    """Numbers texts in order of first sight, block by block; an empty cell is -1."""

    def __init__(self) -> None:
        self._known = pl.DataFrame(schema={"text": pl.String, "code": pl.Int32})

    def __len__(self) -> int:
        return self._known.height

    @property
    def texts(self) -> list[str]:
        """The texts, by code."""
        return self._known["text"].to_list()

    def encode(self, cells: pl.Series) -> CodeArray:
        """The code of each cell; texts not met before get new ones."""
        here = pl.DataFrame({"text": cells.unique(maintain_order=True).drop_nulls()})
        met = self._known.join(here, on="text", how="inner")  # hashes the block, not the book
        fresh = here.with_row_index("place").join(met, on="text", how="anti").sort("place")
        codes = np.arange(len(self), len(self) + fresh.height, dtype=np.int32)
        added = pl.DataFrame({"text": fresh["text"], "code": codes})
        self._known = pl.concat([self._known, added])
        pages = pl.concat([met, added])
        return (
            cells.replace_strict(pages["text"], pages["code"], default=-1, return_dtype=pl.Int32)
            .fill_null(-1)
            .to_numpy()
            .astype(np.int32)
        )


def id_texts(cells: pl.Series, column: str, file: str) -> tuple[pl.Series, pl.Series | None]:
    """A column of ids as text, and where a number is no whole number, so that it cannot be an id.

    Raises:
        DataError: For a column whose type cannot hold ids.
    """
    kind = cells.dtype
    if kind in (pl.String, pl.Categorical, pl.Enum, pl.Null) or kind.is_integer():
        return cells.cast(pl.String), None
    if kind.is_float():
        number = pl.col("number")
        broken = ((number != number.floor()) | (number.abs() >= _EXACT)).fill_null(False)
        frame = pl.DataFrame({"number": cells.cast(pl.Float64).fill_nan(None)}).select(
            text=pl.when(~broken).then(number).cast(pl.Int64).cast(pl.String), broken=broken
        )
        return frame["text"], frame["broken"] if frame["broken"].any() else None
    raise DataError(
        f"{file}: the column {column!r} is of the type {kind}; ids must be text or whole numbers."
    )


def canonical(texts: list[str]) -> Canonical:
    """Drop spaces around ids and find the texts that name nothing.

    Where every id is written as a float (`12.0`, as tables write integers beside gaps), all lose
    the `.0`.
    """
    stripped = [text.strip() for text in texts]
    named = [text for text in stripped if text.lower() not in MISSING]
    floats = all_floats(named)
    place: dict[str, int] = {}
    code_R = np.full(len(texts), -1, dtype=np.int32)
    faults: dict[int, str] = {}
    for raw, text in enumerate(stripped):
        if text.lower() in MISSING:
            continue
        fault = id_fault(text)
        if fault:
            faults[raw] = fault
            continue
        kept = without_fraction(text) if floats else text
        code_R[raw] = place.setdefault(kept, len(place))
    note = 'are written as "12.0" and read as "12"' if floats else ""
    return Canonical(list(place), code_R, faults, note)


def all_floats(ids: Sequence[str]) -> bool:
    """Whether every id is a whole number written as a float."""
    return bool(ids) and all(_WHOLE.fullmatch(text) for text in ids)


def without_fraction(text: str) -> str:
    """`12.0` as `12`; any other text as it is."""
    return _WHOLE.sub(r"\1", text)


def id_fault(text: str) -> str:
    """Why a text can be no id, as the end of a sentence; empty where it can."""
    if len(text) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH:,} characters"
    return "holds a control character" if _CONTROL.search(text) else ""


def id_text(value: Any) -> str | None:
    """One cell of a table's id column as text, None where it names nothing.

    Raises:
        ValueError: With the end of a sentence that says why it can be no id.
    """
    if value is None:
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if not value.is_integer() or abs(value) >= _EXACT:
            raise ValueError(f"{value!r} is no whole number")
        return str(int(value))
    if not isinstance(value, str | int):
        raise ValueError(f"is a {type(value).__name__}, not text or a whole number")
    text = str(value).strip()
    fault = id_fault(text)
    if fault:
        raise ValueError(f"{text[:60]!r} {fault}")
    return None if text.lower() in MISSING else text

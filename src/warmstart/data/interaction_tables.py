"""Tables of items and users: ids checked, columns given their meaning, the item's text composed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from warmstart.core.errors import DataError
from warmstart.data.interaction_columns import (
    DESCRIPTION_NAMES,
    IMAGE_NAMES,
    ITEM_NAMES,
    TAG_NAMES,
    TITLE_NAMES,
    USER_NAMES,
    by_name,
    id_column,
)
from warmstart.data.interaction_ids import all_floats, id_text, without_fraction
from warmstart.data.interaction_sources import USER_TAGS
from warmstart.data.labels import MISSING
from warmstart.data.rejects import Rejects
from warmstart.data.tables import Table

__all__ = ["ITEM_COLUMNS", "IdTable", "bare_items", "item_table", "user_table"]

ITEM_COLUMNS = ("item_id", "title", "description", "tags", "image", "text")
"""Columns that every table of items has; a user's further column never has one of these names."""

_REFERENCE = frozenset(
    ["id", "ids", "url", "urls", "uri", "link", "links", "href", "path", "file", "filename",
     "image", "images", "img", "poster", "thumbnail", "backdrop", "isbn", "asin", "sku", "barcode",
     "ean", "upc", "uuid", "hash", "slug"]
)  # fmt: skip
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_UNIT = "\x1f"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class IdTable:
    """A table whose first column is a unique id, with sentences about how it was read."""

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()


def item_table(table: Table, rejects: Rejects, folder: Path, said: str | None) -> IdTable:
    """The catalogue in the file's order: `ITEM_COLUMNS`, then the table's own further columns.

    Args:
        table: As it was read.
        rejects: Takes rows whose id is empty or stands twice, and images that cannot be used; an
            item whose image was rejected stays, without it.
        folder: What image paths are relative to, and must lie in.
        said: The interactions' name of the column of ids.
    """
    names = list(table.columns)
    key = id_column(names, ITEM_NAMES, table.file, "item", said)
    ids, rows, notes = _unique_ids(table, key, "item", rejects)
    taken = [key]
    cells: dict[str, list[Any]] = {"item_id": ids}
    found: dict[str, str | None] = {}
    for meaning, wanted in (
        ("title", TITLE_NAMES),
        ("description", DESCRIPTION_NAMES),
        ("tags", TAG_NAMES),
        ("image", IMAGE_NAMES),
    ):
        found[meaning] = by_name(names, wanted, taken)
        taken += [name] if (name := found[meaning]) is not None else []
    column = {
        meaning: [None] * len(rows) if name is None else [table.columns[name][i] for i in rows]
        for meaning, name in found.items()
    }
    cells["title"] = [_sentence(value) for value in column["title"]]
    cells["description"] = [_sentence(value) for value in column["description"]]
    cells["tags"], how = _tags(column["tags"])
    cells["image"], about_images = _images(table, rows, column["image"], folder, rejects)
    further = _further(table, rows, taken, ITEM_COLUMNS)
    read = {n: s for n, s in further.items() if _is_text(n, s)}
    cells["text"] = _texts(cells, read)
    notes += [how] * bool(how) + about_images + [_about_text(found, list(read), list(further))]
    columns = {name: _column(name, values) for name, values in cells.items()}
    frame = pl.DataFrame({**columns, **further}).select(*ITEM_COLUMNS, *further)
    return IdTable(frame, tuple(notes))


def bare_items(ids: Sequence[str]) -> pl.DataFrame:
    """A catalogue of which nothing but the ids is known."""
    empty: list[None] = [None] * len(ids)
    columns = {"item_id": list(ids), "title": empty, "description": empty}
    return pl.DataFrame(
        {**columns, "tags": [[] for _ in ids], "image": empty, "text": [""] * len(ids)},
        schema={name: pl.List(pl.String) if name == "tags" else pl.String for name in ITEM_COLUMNS},
    )


def user_table(table: Table, rejects: Rejects, said: str | None) -> IdTable:
    """The users in the file's order: `user_id`, then their attributes as numbers or text."""
    key = id_column(list(table.columns), USER_NAMES, table.file, "user", said)
    ids, rows, notes = _unique_ids(table, key, "user", rejects)
    frame = pl.DataFrame(
        {"user_id": ids, **_further(table, rows, [key], ("user_id",))},
        schema_overrides={"user_id": pl.String},
    )
    return IdTable(frame, tuple(notes))


def _unique_ids(
    table: Table, key: str, what: str, rejects: Rejects
) -> tuple[list[str], list[int], list[str]]:
    """Ids that name one row each, the positions of these rows, and notes."""
    texts: dict[int, str] = {}
    for i, value in enumerate(table.columns[key]):
        try:
            text = id_text(value)
            fault = "" if text is not None else f"the {what} id (column {key!r}) is empty."
        except ValueError as error:
            text, fault = None, f"the {what} id (column {key!r}) {error}."
        if text is None:
            rejects.reject(table.file, table.at[i], fault, unit=table.unit)
        else:
            texts[i] = text
    notes = []
    if all_floats(list(texts.values())):
        texts = {i: without_fraction(text) for i, text in texts.items()}
        notes.append(f'{table.file}: the ids are written as "12.0" and read as "12".')
    first: dict[str, int] = {}
    for i, text in texts.items():
        if first.setdefault(text, i) != i:
            at = table.at[first[text]]
            reason = f"the {what} id {text!r} stands at {table.unit} {at} already."
            rejects.reject(table.file, table.at[i], reason, unit=table.unit)
    if not first:
        raise DataError(f"{table.file} has no usable rows.")
    return list(first), list(first.values()), notes


# --- columns -------------------------------------------------------------------------------------


def _further(
    table: Table, rows: Sequence[int], taken: Sequence[str], reserved: Sequence[str]
) -> dict[str, pl.Series]:
    """The user's own columns under their own names, unless one of ours has that name."""
    further: dict[str, pl.Series] = {}
    for name, values in table.columns.items():
        if name in taken:
            continue
        target = f"{name}_original" if name in reserved else name
        further[target] = _typed(target, [values[i] for i in rows])
    return further


def _typed(name: str, values: list[Any]) -> pl.Series:
    """Whole numbers, numbers, lists of text or text, as all the values allow.

    Numbers with leading zeros (post codes) stay text.
    """
    if any(isinstance(value, list | tuple) for value in values):
        lists = [[str(v) for v in value] if isinstance(value, list | tuple) else [] if value is None
                 else [str(value)] for value in values]  # fmt: skip
        return _lists(name, lists)
    texts = [_cell(value) for value in values]
    texts = [None if text is None or text.lower() in MISSING else text for text in texts]
    known = [text for text in texts if text is not None]
    if known and all(_INTEGER.fullmatch(text) for text in known):
        return pl.Series(name, [None if t is None else int(t) for t in texts], dtype=pl.Int64)
    padded = any(re.match(r"[+-]?0\d", text) for text in known)
    if known and not padded and all(_NUMBER.fullmatch(text) for text in known):
        numbers = [None if t is None else float(t) for t in texts]
        if all(number is None or math.isfinite(number) for number in numbers):
            return pl.Series(name, numbers, dtype=pl.Float64)
    return pl.Series(name, texts, dtype=pl.String)


def _column(name: str, values: list[Any]) -> pl.Series:
    """One of our own columns: texts, or the lists of tags."""
    return _lists(name, values) if name == "tags" else pl.Series(name, values, dtype=pl.String)


def _lists(name: str, values: Sequence[Sequence[str]]) -> pl.Series:
    """Lists of texts, by way of one text a row: polars reads nested lists one by one."""
    joined = [_UNIT.join(v.replace(_UNIT, " ") for v in row) if row else None for row in values]
    cut = pl.col(name).str.split(_UNIT)
    none = pl.lit(pl.Series([[]], dtype=pl.List(pl.String)))
    frame = pl.DataFrame({name: pl.Series(name, joined, dtype=pl.String)})
    return frame.select(pl.when(cut.is_null()).then(none).otherwise(cut).alias(name)).to_series()


def _cell(value: Any) -> str | None:
    """A cell as text; None where it is empty."""
    if value is None:
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).strip().encode("utf-8", "replace").decode() or None


def _sentence(value: Any) -> str | None:
    """A title or description on one line; lists are joined."""
    if isinstance(value, list | tuple):
        value = " ".join(str(v) for v in value if v is not None)
    text = _cell(value)
    return None if text is None else " ".join(text.split()) or None


# --- tags ----------------------------------------------------------------------------------------


def _tags(values: Sequence[Any]) -> tuple[list[list[str]], str]:
    """Each item's tags without repeats, and how they were told apart where that was a guess."""
    listed = [_listed(value) for value in values]
    texts = [value for value in listed if isinstance(value, str)]
    mark = next((m for m in "|;," if any(m in text for text in texts)), None)
    how = ""
    if mark is None and any(" " in text for text in texts) and _share_words(texts):
        mark = " "
        how = "Tags are separated by spaces: their words recur in many combinations."
    tags: list[list[str]] = []
    for value in listed:
        parts = value if isinstance(value, list) else value.split(mark) if mark else [value]
        clean = (" ".join(part.split()) for part in parts)
        tags.append(list(dict.fromkeys(p for p in clean if p and p != "(no genres listed)")))
    return tags, how


def _listed(value: Any) -> list[str] | str:
    """A list as it is, or one written as JSON or Python; any other cell as text."""
    if isinstance(value, list | tuple):
        return [str(v) for v in value if v is not None]
    text = _cell(value) or ""
    if text.startswith("[") and text.endswith("]"):
        try:
            inner = json.loads(text)
        except (ValueError, RecursionError):
            quoted = [a or b for a, b in _QUOTED.findall(text)]
            return quoted or [part.strip() for part in text[1:-1].split(",")]
        return [str(v) for v in inner if v is not None]
    return text


def _share_words(texts: Sequence[str]) -> bool:
    """Whether words recur in other combinations, so that each is a tag of its own."""
    combinations = set(texts)
    words = {word for text in combinations for word in text.split()}
    return 2 * len(words) <= len(combinations)


# --- images --------------------------------------------------------------------------------------


def _images(
    table: Table, rows: Sequence[int], values: Sequence[Any], folder: Path, rejects: Rejects
) -> tuple[list[str | None], list[str]]:
    """Paths relative to the folder, with `/`; None where there is none. Nothing is opened."""
    images: list[str | None] = []
    addresses = 0
    root = folder.resolve()
    for i, value in zip(rows, values, strict=True):
        text = _cell(value) if isinstance(value, str) else None
        fault = ""
        if text is not None and _ADDRESS.match(text):
            addresses, text = addresses + 1, None
        if value is not None and not isinstance(value, str):
            fault = f"the image must be a path, got {type(value).__name__}."
        elif text is not None:
            text, fault = _inside(text, root)
        if fault:
            rejects.reject(table.file, table.at[i], fault, unit=table.unit)
        images.append(None if fault else text)
    notes = []
    if addresses:
        notes.append(f"{addresses:,} images are addresses; only files are read.")
    return images, notes


def _inside(text: str, root: Path) -> tuple[str | None, str]:
    """The path relative to the folder, or why it cannot be used."""
    if "\0" in text:
        return None, "the image path holds a NUL character."
    try:
        real = (root / text).resolve()
        if not real.is_relative_to(root):
            return None, f"the image {text} lies outside the folder {root}; move it inside."
        if not real.is_file():
            return None, f"the image {text} does not exist in {root}."
    except (OSError, RuntimeError) as error:
        return None, f"the image {text[:200]} cannot be read ({error})."
    return real.relative_to(root).as_posix(), ""


# --- text ----------------------------------------------------------------------------------------


def _is_text(name: str, values: pl.Series) -> bool:
    """Whether a further column tells an encoder something: no ids, paths or addresses."""
    words = {word.lower() for word in _WORDS.findall(name)}
    if name == USER_TAGS or words & _REFERENCE or values.null_count() == len(values):
        return False
    if values.dtype != pl.String:
        return True
    some = values.drop_nulls().head(100).to_list()
    return not all(_ADDRESS.match(text) for text in some)


def _texts(cells: dict[str, list[Any]], read: dict[str, pl.Series]) -> list[str]:
    """What an encoder reads of each item: title, tags, further columns with names, description."""
    labels = [" ".join(_WORDS.findall(name)).lower() or name for name in read]
    columns = [values.to_list() for values in read.values()]
    texts = []
    for i, title in enumerate(cells["title"]):
        parts = [title or "", ", ".join(cells["tags"][i])]
        for label, values in zip(labels, columns, strict=True):
            value = values[i]
            if isinstance(value, list):
                value = ", ".join(value) or None
            if value is not None:
                text = f"{value:g}" if isinstance(value, float) else str(value)
                parts.append(f"{label}: {text.replace('|', ', ')}")
        parts.append(cells["description"][i] or "")
        texts.append(_sentences(parts))
    return texts


def _sentences(parts: Sequence[str]) -> str:
    """The parts one after another, each closed by a full stop where it has no mark of its own."""
    filled = [part.rstrip(" .") for part in parts if part.rstrip(" .")]
    closed = [part if part.endswith(("!", "?", "…")) else f"{part}." for part in filled]
    return " ".join(closed).removesuffix(".")


def _about_text(found: dict[str, str | None], read: list[str], further: list[str]) -> str:
    used = [name for key in ("title", "tags") if (name := found[key])] + read
    used += [name for name in [found["description"]] if name]
    unread = [name for name in further if name not in read]
    if not used:
        return "Items have no text: no column of the items table says anything in words."
    left = f"; not read as text: {', '.join(unread)}" if unread else ""
    return f"An item's text is made of {', '.join(used)}{left}."

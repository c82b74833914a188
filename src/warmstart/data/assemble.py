"""From raw tables to a Dataset: check every row, name the classes, give each row its id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.core.errors import DataError, UsageError
from warmstart.core.progress import note
from warmstart.data.dataset import (
    RESERVED,
    Dataset,
    Modality,
    about_group,
    content_hash,
    from_columns,
    image_source,
)
from warmstart.data.images import UnreadableImageError, inspect_all
from warmstart.data.labels import (
    LabelNames,
    check_classes,
    label_text,
    name_classes,
    plain_integers,
)
from warmstart.data.meaning import Columns, part_name
from warmstart.data.rejects import Rejects
from warmstart.data.tables import Table

__all__ = ["Settings", "assemble"]

_ID_LENGTH = 16

MAX_BLANK_SHARE = 0.05
"""Rows without a text are left out, counted and shown, up to this share; beyond, an error."""


@dataclass(frozen=True)
class Settings:
    """What the caller of `read` decided that is not a column name."""

    source: str
    label_names: LabelNames | None = None
    max_pixels: int = 100_000_000
    need_label: bool = True
    need_classes: bool = True
    group: str | None = None


@dataclass
class _Row:
    """A row on its way: where it lay (table index, index in the table) and what it means."""

    table: Table
    i: int
    cell: Any
    label: str | None
    part: str | None
    content: str = ""
    size: tuple[int, int] | None = None

    @property
    def place(self) -> int:
        return self.table.at[self.i]


def assemble(
    tables: Sequence[Table], columns: Columns, settings: Settings, rejects: Rejects
) -> Dataset:
    """Build the Dataset. Bad rows go to `rejects`; what concerns all rows is a DataError."""
    rows = _meaningful_rows(tables, columns, settings, rejects)
    rows = _check_ids(rows, columns, rejects)
    if columns.modality == "image":
        rows = _check_images(rows, settings, rejects)
    else:
        for row in rows:
            row.content = content_hash(row.cell)
    rows = _check_parts(rows, settings, rejects)
    rejects.announce()
    if not rows:
        reason = f" ({len(rejects.items)} rows were left out as bad)" if rejects.items else ""
        raise DataError(f"{settings.source} has no usable rows{reason}.")
    label_names, index = _classes(rows, tables, columns, settings)
    data: dict[str, Sequence[Any]] = {"id": _ids(rows, columns)}
    data[columns.modality] = [row.cell for row in rows]
    data["label"] = [-1 if row.label is None else index[row.label] for row in rows]
    data["content"] = [row.content for row in rows]
    if any(row.part for row in rows):
        data["split"] = [row.part for row in rows]
    data.update(_further_columns(rows, columns, settings))
    return from_columns(
        data,
        label_names=label_names,
        modality=columns.modality,
        source=settings.source,
        skipped=rejects.items,
        max_pixels=settings.max_pixels,
    )


# --- rows ----------------------------------------------------------------------------------------


def _meaningful_rows(
    tables: Sequence[Table], columns: Columns, settings: Settings, rejects: Rejects
) -> list[_Row]:
    rows: list[_Row] = []
    blank: list[_Row] = []
    stripped = 0
    for table in tables:
        inputs = table.columns[columns.input]
        labels = table.columns.get(columns.label) if columns.label else None
        parts = table.columns[columns.part] if columns.part else None
        groups = table.columns.get(settings.group) if settings.group else None
        classes = table.classes.get(columns.label) if columns.label else None
        for i in range(len(table)):
            row = _Row(table, i, None, None, table.part)
            if _is_blank(inputs[i]):
                blank.append(row)
                continue
            try:
                row.cell = _input(inputs[i], columns.input, columns.modality, table.folder)
                if labels is not None:
                    row.label = _label(labels[i], classes)
                    stripped += isinstance(labels[i], str) and labels[i] != labels[i].strip()
                if row.label is None and settings.need_label:
                    raise ValueError(f"the label (column {columns.label!r}) is empty or NaN.")
                if parts is not None:
                    row.part = _part(parts[i], columns.part)
                if groups is not None and (groups[i] is None or groups[i] == ""):
                    raise ValueError(f"the group (column {settings.group!r}) is empty.")
            except ValueError as error:
                rejects.reject(table.file, row.place, str(error), unit=table.unit)
                continue
            rows.append(row)
    _leave_out_blank(blank, len(rows), columns, rejects)
    if stripped:
        note(f"{settings.source}: spaces around the label were dropped in {stripped} rows.")
    raw = plain_integers([row.label for row in rows])
    for row, label in zip(rows, raw, strict=True):
        row.label = label
    return rows


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _leave_out_blank(
    blank: Sequence[_Row], n_rows: int, columns: Columns, rejects: Rejects
) -> None:
    """A few rows without an input are left out and shown; many mean that something is wrong."""
    few = len(blank) <= MAX_BLANK_SHARE * (n_rows + len(blank))
    reason = f"the {columns.modality} (column {columns.input!r}) is empty."
    for row in blank:
        if few:
            rejects.leave_out(row.table.file, row.place, reason, unit=row.table.unit)
        else:
            rejects.reject(row.table.file, row.place, reason, unit=row.table.unit)


def _input(value: Any, column: str, modality: Modality, folder: Path) -> Any:
    """The text, or the image cell; ValueError with the reason where there is none."""
    if modality == "text":
        if not isinstance(value, str):
            raise ValueError(
                f"the text (column {column!r}) must be text, got {type(value).__name__}."
            )
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("the text holds half of a surrogate pair.") from None
        return value
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        if isinstance(value.get("bytes"), bytes):
            return {"bytes": value["bytes"], "path": value.get("path")}
        value = value.get("path")
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if not isinstance(value, str):
        raise ValueError(f"the image (column {column!r}) must be a path or bytes.")
    value = value.strip()
    if "://" in value:
        raise ValueError(f"the image {value} is an address; images are read from files only.")
    if "\0" in value:
        raise ValueError("the image path holds a NUL character.")
    return str((folder / value).absolute())


def _label(value: Any, classes: tuple[str, ...] | None) -> str | None:
    if classes is None or not isinstance(value, int):
        return label_text(value)
    if value == -1:  # Hugging Face's mark for an unknown label
        return None
    if not 0 <= value < len(classes):
        raise ValueError(f"the label {value} lies outside the {len(classes)} named classes.")
    return classes[value]


def _part(value: Any, column: str | None) -> str:
    part = part_name(value)
    if part is None:
        raise ValueError(
            f"the part (column {column!r}) must be train, validation or test, got {value!r}."
        )
    return part


def _check_ids(rows: list[_Row], columns: Columns, rejects: Rejects) -> list[_Row]:
    """Where the data has an id column: no id is empty, none stands twice in one file."""
    if columns.id is None or any(columns.id not in row.table.columns for row in rows):
        return rows
    seen: dict[tuple[str, str], _Row] = {}
    kept = []
    for row in rows:
        value = row.table.columns[columns.id][row.i]
        if value is None or str(value).strip() == "":
            reason = "the id is empty."
        else:
            first = seen.setdefault((row.table.file, str(value)), row)
            if first is row:
                kept.append(row)
                continue
            reason = f"the id {value!r} stands at {row.table.unit} {first.place} already."
        rejects.reject(row.table.file, row.place, reason, unit=row.table.unit)
    return kept


def _check_images(rows: list[_Row], settings: Settings, rejects: Rejects) -> list[_Row]:
    facts = inspect_all([image_source(row.cell) for row in rows], settings.max_pixels)
    kept = []
    for row, found in zip(rows, facts, strict=True):
        if not isinstance(found, UnreadableImageError):
            row.content, row.size = found.content, (found.width, found.height)
            kept.append(row)
        elif not row.table.file:  # an image folder: the image is the place
            rejects.reject(str(row.cell), None, str(found))
        else:
            path = row.cell if isinstance(row.cell, str) else "the image"
            rejects.reject(row.table.file, row.place, f"{path}: {found}", unit=row.table.unit)
    return kept


def _check_parts(rows: list[_Row], settings: Settings, rejects: Rejects) -> list[_Row]:
    """A given test or validation row must have a label that the given training rows have."""
    known = {row.label for row in rows if row.part == "train"}
    if not settings.need_label or not known:
        if settings.need_label and any(row.part for row in rows):
            raise DataError(f"{settings.source} has no training rows.")
        return rows
    kept = []
    for row in rows:
        if row.label in known:
            kept.append(row)
            continue
        reason = f"the label {row.label!r} stands in {row.part} but in no training row."
        place = row.place if row.table.file else None
        rejects.reject(row.table.file or str(row.cell), place, reason, unit=row.table.unit)
    return kept


# --- columns -------------------------------------------------------------------------------------


def _classes(
    rows: Sequence[_Row], tables: Sequence[Table], columns: Columns, settings: Settings
) -> tuple[tuple[str, ...], dict[str, int]]:
    raw = [row.label for row in rows if row.label is not None]
    if settings.need_label and settings.need_classes:
        check_classes(raw, settings.source, columns.label or "label")
    ordered: Sequence[str] = ()
    if columns.label:
        ordered = next((t.classes[columns.label] for t in tables if columns.label in t.classes), ())
    return name_classes(raw, settings.label_names, ordered=ordered)


def _ids(rows: Sequence[_Row], columns: Columns) -> list[str]:
    """The user's ids; else image paths; else content hashes with a count.

    Appended rows leave the ids of earlier rows as they were.
    """
    if columns.id is not None and all(columns.id in row.table.columns for row in rows):
        own = [str(row.table.columns[columns.id][row.i]) for row in rows]
        if len(set(own)) == len(own):
            return own
        named = [
            f"{row.part or row.table.file}/{value}" for row, value in zip(rows, own, strict=True)
        ]
        if len(set(named)) == len(named):
            note("The same ids stand in several parts, so the part's name is put before each id.")
            return named
        raise DataError("Ids stand twice within one part: make the id column unique.")
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        base = row.content[:_ID_LENGTH]
        if isinstance(row.cell, str) and columns.modality == "image":
            base = _relative(row)
        if row.part and row.table.file:
            base = f"{row.part}/{base}"
        seen[base] += 1
        ids.append(base if seen[base] == 1 else f"{base}#{seen[base]}")
    return ids


def _relative(row: _Row) -> str:
    path = Path(row.cell)
    try:
        return path.relative_to(row.table.folder.absolute()).as_posix()
    except ValueError:
        return path.as_posix()


def _check_group(group: str | None, columns: Columns, names: Iterable[str]) -> None:
    """Refuse a group that is the input, the label or the part itself, or has a name of ours."""
    if group is None:
        return
    roles = {columns.input: columns.modality, columns.label: "label", columns.part: "split"}
    used = {*roles, columns.id}
    if group in roles:
        further = [name for name in names if name not in used]
        raise UsageError(about_group(group, roles[group], further))
    if group in RESERVED and group not in used:
        raise UsageError(
            f"group={group!r}: warmstart has a column of that name itself; rename yours."
        )


def _further_columns(
    rows: Sequence[_Row], columns: Columns, settings: Settings
) -> dict[str, list[Any]]:
    """The user's own columns, under their own names unless a Dataset's column has that name."""
    used = {columns.input, columns.label, columns.part, columns.id}
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row.table.columns))
    _check_group(settings.group, columns, names)
    further: dict[str, list[Any]] = {}
    for name in names:
        keep = name == settings.group and name not in RESERVED
        if name in used and not keep:
            continue
        target = f"{name}_original" if name in RESERVED else name
        values = [
            row.table.columns[name][row.i] if name in row.table.columns else None for row in rows
        ]
        further[target] = values
    if columns.modality == "image" and not {"width", "height"} & set(further):
        further["width"] = [row.size[0] if row.size else None for row in rows]
        further["height"] = [row.size[1] if row.size else None for row in rows]
    return further

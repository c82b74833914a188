"""The rows of a classification task: ids, inputs, labels and content hashes, held by Arrow."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from warmstart.core.errors import DataError, UsageError, nearest
from warmstart.core.fingerprint import fingerprint
from warmstart.data.images import MAX_PIXELS, ImageSource, UnreadableImageError, inspect, open_rgb

if TYPE_CHECKING:
    import datasets
    import numpy.typing as npt
    from PIL import Image

__all__ = [
    "RESERVED",
    "Dataset",
    "Modality",
    "Skipped",
    "about_group",
    "arrow_column",
    "content_hash",
    "from_columns",
    "from_inputs",
]

Modality = Literal["text", "image"]

RESERVED = ("id", "text", "image", "label", "content", "split")
"""Columns that a Dataset defines; a user's further column never has one of these names."""

UNKNOWN = -1
_ROLES = {
    "id": "the rows' ids", "text": "the texts", "image": "the images", "label": "the labels",
    "content": "hashes of the rows", "split": "the parts",
}  # fmt: skip


def about_group(group: str, role: str, others: Iterable[str]) -> str:
    """Why a column cannot divide rows into groups, and which others there are.

    Args:
        group: Name of the column.
        role: What it is: one of `RESERVED`.
        others: Further columns of the user's own.
    """
    others = sorted(others)
    have = f" Further columns here: {', '.join(others)}." if others else " There is none here."
    return (
        f"group={group!r} is the column of {_ROLES[role]}. A group is another column, whose equal "
        f"values say that rows belong together: a site, a person, a day.{have}"
    )


@dataclass(frozen=True)
class Skipped:
    """A row that was left out because the user asked for it: where it lay, and why.

    `row` counts from 1: lines in text formats (the header is line 1), data rows elsewhere (`unit`
    says which); None where the whole file is meant, as with an image.
    """

    file: str
    row: int | None
    reason: str
    unit: str = "line"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows with stable ids, label names, modality and a fingerprint. Never changed in place.

    `rows` has the columns id, text or image, label (int64, -1 unknown), content (blake2b of the
    text's UTF-8 or of the image file's bytes, 32 hex digits), split where the data gives one, and
    the user's own further columns. An image is an absolute path or a struct of bytes and path.
    """

    rows: datasets.Dataset
    label_names: tuple[str, ...]
    modality: Modality
    source: str
    skipped: tuple[Skipped, ...] = ()
    max_pixels: int = field(default=MAX_PIXELS)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.source!r}, {len(self)} {self.modality} rows, "
            f"{len(self.label_names)} classes)"
        )

    @property
    def user_columns(self) -> tuple[str, ...]:
        """Names of the columns that the user knows: without the ids and hashes made here."""
        return tuple(name for name in self.column_names if name not in ("id", "content"))

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns, the user's own included."""
        return tuple(self.rows.column_names)

    def column(self, name: str) -> list[Any]:
        """All values of one column, in row order. Raises DataError with the nearest name."""
        if name not in self.rows.column_names:
            raise DataError(
                f"{self.source} has no column {name!r}." + nearest(name, self.user_columns)
            )
        values: list[Any] = _arrow(self.rows.select_columns([name])).column(0).to_pylist()
        return values

    @cached_property
    def _ids(self) -> tuple[str, ...]:
        return tuple(self.column("id"))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {row_id: i for i, row_id in enumerate(self._ids)}

    @cached_property
    def _contents(self) -> tuple[str, ...]:
        return tuple(self.column("content"))

    @property
    def ids(self) -> list[str]:
        """Row ids, in row order."""
        return list(self._ids)

    @property
    def contents(self) -> list[str]:
        """Content hashes, in row order: equal content, equal hash."""
        return list(self._contents)

    @cached_property
    def labels_N(self) -> npt.NDArray[np.int64]:
        """Label index of every row, -1 where unknown. Read-only."""
        labels_N = np.asarray(self.column("label"), dtype=np.int64)
        labels_N.setflags(write=False)
        return labels_N

    @property
    def parts(self) -> list[str] | None:
        """The part (train, validation, test) that the data gives each row, or None."""
        return self.column("split") if "split" in self.rows.column_names else None

    @cached_property
    def fingerprint(self) -> str:
        """Changes when an id, a content, a label or a label name changes; 32 hex digits."""
        return fingerprint(
            "dataset", self.modality, self._ids, self._contents, self.labels_N, self.label_names
        )

    @property
    def class_counts(self) -> dict[str, int]:
        """Rows of each class, in the order of `label_names`; rows of unknown label not counted."""
        counts = Counter(self.labels_N.tolist())
        return {name: counts.get(i, 0) for i, name in enumerate(self.label_names)}

    def inputs(self, indices: Sequence[int] | None = None) -> list[Any]:
        """Texts, or images decoded now to RGB, of the given rows (all rows by default).

        Raises DataError naming the file when an image can no longer be read.
        """
        if indices is None:
            column = _arrow(self.rows.select_columns([self.modality])).column(0)
        else:
            chosen = [int(i) for i in indices]
            if not chosen:
                return []
            column = _arrow(self.rows.select_columns([self.modality]), chosen).column(0)
        values: list[Any] = column.to_pylist()
        if self.modality == "text":
            return values
        return [self._open(value) for value in values]

    def _open(self, cell: str | Mapping[str, Any]) -> Image.Image:
        source = image_source(cell)
        try:
            return open_rgb(source, self.max_pixels)
        except UnreadableImageError as error:
            name = str(source) if isinstance(source, Path) else f"an image of {self.source}"
            raise DataError(f"{name}: {error} It was readable when the data was read.") from error

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Dataset:
        """The rows at these positions, in this order, in storage of their own.

        No other row can be reached through the result, so that a part of a split shows nothing of
        the others.
        """
        chosen_N = np.asarray([int(i) for i in indices], dtype=np.int64)
        outside = (chosen_N < 0) | (chosen_N >= len(self))
        if outside.any():
            raise IndexError(f"row {int(chosen_N[outside][0])} of {len(self)}")
        table = _arrow(self.rows).take(pa.array(chosen_N))
        mark = fingerprint("select", self.rows._fingerprint, chosen_N)
        return replace(self, rows=_to_rows(table, self.rows.features, mark))

    def take_ids(self, ids: Sequence[str]) -> Dataset:
        """The rows with these ids, in this order. Raises DataError naming an id that is absent."""
        absent = [row_id for row_id in ids if row_id not in self._index]
        if absent:
            raise DataError(
                f"{self.source} has no row with id {absent[0]!r} ({len(absent)} of {len(ids)} ids "
                "are absent). Was the file changed since the split was made?"
            )
        return self.select([self._index[row_id] for row_id in ids])

    def without_labels(self) -> Dataset:
        """The same rows in storage of their own, every label -1."""
        table = _arrow(self.rows)
        at = table.column_names.index("label")
        unknown = pa.array(np.full(len(self), UNKNOWN, dtype=np.int64))
        table = table.set_column(at, "label", unknown)
        mark = fingerprint("without_labels", self.fingerprint)
        return replace(self, rows=_to_rows(table, self.rows.features, mark))

    def relabel(self, label_names: Sequence[str]) -> Dataset:
        """The same rows with labels counted in `label_names`, as a saved model orders them.

        Raises DataError naming a class of these rows that `label_names` lacks.
        """
        names = tuple(label_names)
        place = {name: i for i, name in enumerate(names)}
        used = sorted(set(self.labels_N.tolist()) - {UNKNOWN})
        for i in used:
            if self.label_names[i] not in place:
                raise DataError(
                    f"{self.source} has the label {self.label_names[i]!r}, which the model does "
                    "not know." + nearest(self.label_names[i], names)
                )
        new = {i: place[self.label_names[i]] for i in used} | {UNKNOWN: UNKNOWN}
        labels_N = np.asarray([new[i] for i in self.labels_N.tolist()], dtype=np.int64)
        table = _arrow(self.rows)
        table = table.set_column(table.column_names.index("label"), "label", pa.array(labels_N))
        mark = fingerprint("relabel", self.fingerprint, names)
        rows = _to_rows(table, self.rows.features, mark)
        return replace(self, rows=rows, label_names=names)


def image_source(cell: str | Mapping[str, Any]) -> ImageSource:
    """A cell of the image column as a path or as bytes."""
    if isinstance(cell, str):
        return Path(cell)
    data = cell.get("bytes")
    return data if isinstance(data, bytes) else Path(str(cell.get("path")))


def content_hash(data: str | bytes) -> str:
    """Hash of a text's UTF-8 or of a file's bytes, 32 hex digits."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def from_columns(
    columns: Mapping[str, Sequence[Any]],
    *,
    label_names: Sequence[str],
    modality: Modality,
    source: str,
    skipped: Sequence[Skipped] = (),
    max_pixels: int = MAX_PIXELS,
) -> Dataset:
    """A Dataset from columns that are complete and checked already; ids must be unique."""
    import datasets

    ids = list(columns["id"])
    if len(set(ids)) != len(ids):
        twice = next(row_id for row_id, n in Counter(ids).items() if n > 1)
        raise DataError(f"{source}: the id {twice!r} stands for more than one row.")
    arrays: dict[str, pa.Array] = {}
    kinds: dict[str, Any] = {}
    for name, values in columns.items():
        if name == "image" and any(isinstance(v, Mapping) for v in values):
            kinds[name] = datasets.Image(decode=False)
            arrays[name] = pa.array(
                list(values), type=pa.struct({"bytes": pa.binary(), "path": pa.string()})
            )
            continue
        arrays[name] = (
            pa.array(np.asarray(values, dtype=np.int64))
            if name == "label"
            else arrow_column(values)
        )
    arrays = {name: _storable(name, array) for name, array in arrays.items()}
    table = pa.table(arrays)
    features = datasets.Features.from_arrow_schema(table.schema)
    features.update(kinds)
    mark = fingerprint("rows", source, ids)
    return Dataset(
        rows=_to_rows(table, features, mark),
        label_names=tuple(label_names),
        modality=modality,
        source=source,
        skipped=tuple(skipped),
        max_pixels=max_pixels,
    )


def from_inputs(
    inputs: Sequence[Any], modality: Modality, *, max_pixels: int = MAX_PIXELS
) -> Dataset:
    """Unlabelled rows from texts, or from image paths and PIL images, as `predict` takes them.

    Ids are the positions "0", "1", ... since the caller's order is what names a row here.
    """
    if isinstance(inputs, str | bytes | Path):
        raise UsageError(f"Inputs must be a list, got one {type(inputs).__name__}: put it in [ ].")
    columns: dict[str, list[Any]] = {"id": [str(i) for i in range(len(inputs))]}
    cells: list[Any] = []
    contents: list[str] = []
    for i, value in enumerate(inputs):
        cell, content = _input_cell(value, modality, i, max_pixels)
        cells.append(cell)
        contents.append(content)
    columns[modality] = cells
    columns["label"] = [UNKNOWN] * len(cells)
    columns["content"] = contents
    return from_columns(
        columns, label_names=(), modality=modality, source="inputs", max_pixels=max_pixels
    )


def _input_cell(value: Any, modality: Modality, i: int, max_pixels: int) -> tuple[Any, str]:
    from PIL import Image

    if modality == "text":
        if not isinstance(value, str):
            raise DataError(f"Input {i} must be a text, got {type(value).__name__}.")
        return _encodable(value, i), content_hash(value)
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.convert("RGB").save(buffer, format="PNG")
        data = buffer.getvalue()
        return {"bytes": data, "path": None}, content_hash(data)
    if not isinstance(value, bytes | str | Path):
        raise DataError(
            f"Input {i} must be an image: a path, bytes or a PIL image, got {type(value).__name__}."
        )
    source: ImageSource = value if isinstance(value, bytes) else Path(value).absolute()
    try:
        found = inspect(source, max_pixels)
    except UnreadableImageError as error:
        raise DataError(
            f"Input {i} ({value if not isinstance(value, bytes) else 'bytes'}): {error}"
        ) from error
    cell = (
        {"bytes": source, "path": None}
        if isinstance(source, bytes)
        else {"bytes": None, "path": str(source)}
    )
    return cell, found.content


def _encodable(text: str, i: int) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"Input {i} holds a half of a surrogate pair, not valid text.") from error
    return text


def arrow_column(values: Sequence[Any]) -> pa.Array:
    """An Arrow array of these values; values that fit no single type become their text."""
    texts = [v for v in values if v is not None]
    if texts and all(isinstance(v, str) for v in texts):
        return pa.array(list(values), type=pa.large_string())
    try:
        array = pa.array(list(values))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        array = None
    if array is None:
        return pa.array([None if v is None else str(v) for v in values], type=pa.large_string())
    if pa.types.is_null(array.type):
        return array.cast(pa.large_string())
    return array


def _storable(name: str, array: pa.Array) -> pa.Array:
    """The array, or its values as text when its type has no equal among `datasets` features."""
    import datasets

    schema = pa.schema([pa.field(name, array.type)])
    try:
        if datasets.Features.from_arrow_schema(schema).arrow_schema.field(name).type == array.type:
            return array
    except (KeyError, TypeError, ValueError, pa.ArrowException):
        pass
    return pa.array(
        [None if v is None else str(v) for v in array.to_pylist()], type=pa.large_string()
    )


def _arrow(rows: datasets.Dataset, indices: list[int] | None = None) -> pa.Table:
    """Rows as an Arrow table with the selection applied."""
    if getattr(rows, "_indices", None) is None:  # no selection pending: the table as it lies
        table = rows.data.table
        return table if indices is None else table.take(pa.array(indices, type=pa.int64()))
    shaped = rows.with_format("arrow")
    table = shaped[:] if indices is None else shaped[indices]
    assert isinstance(table, pa.Table)
    return table


def _to_rows(table: pa.Table, features: Any, mark: str) -> datasets.Dataset:
    import datasets

    table = table.replace_schema_metadata(None)
    return datasets.Dataset(
        datasets.table.InMemoryTable(table),
        info=datasets.DatasetInfo(features=datasets.Features(features)),
        fingerprint=mark[:16],
    )

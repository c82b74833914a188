"""Table files (CSV, TSV, JSON lines, JSON, Parquet) as named columns with the place of each row."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from warmstart.core.errors import DataError
from warmstart.core.progress import note
from warmstart.data.rejects import Rejects

__all__ = ["SUFFIXES", "Table", "is_table", "read_table"]

SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet", ".pq")

_MAX_CELL = 1 << 26
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Table:
    """Rows of one file or one part of a hub data set, before their meaning is known.

    `at[i]` is the place of row i counted from 1: its first line in text formats, else its number.
    `classes` names the values of a column that a Hugging Face ClassLabel describes.
    """

    file: str
    unit: Literal["line", "row"]
    columns: dict[str, list[Any]]
    at: list[int]
    folder: Path
    part: str | None = None
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.at)


def is_table(path: Path) -> bool:
    """Whether the name ends as a table format that can be read."""
    return path.suffix.lower() in SUFFIXES


def read_table(path: Path, rejects: Rejects, *, part: str | None = None) -> Table:
    """Read one table file. Every failure is a DataError that names the file and the place."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path} is no table: the name must end in {', '.join(SUFFIXES)}, got {suffix!r}."
        )
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise DataError(f"{path} is no ordinary file. Write the table to one first.")
    try:
        if suffix in (".parquet", ".pq"):
            table = _read_parquet(path)
        else:
            data = path.read_bytes()
            if not data.strip():
                raise DataError(f"{path} is empty.")
            text = _decode(path, data, rejects)
            if suffix in (".jsonl", ".ndjson", ".json"):
                table = _read_json(path, text, rejects)
            else:
                table = _read_delimited(path, text, rejects)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not len(table) and not rejects.items:
        raise DataError(f"{path} has no rows.")
    table.part = part
    return table


def _decode(path: Path, data: bytes, rejects: Rejects) -> str:
    """UTF-8 with or without a mark; with skip_bad foreign bytes become surrogates, found later."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16 text. Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        start = error.start + offset
        if not rejects.skip:
            line = data.count(b"\n", 0, start) + 1
            raise DataError(
                f"{path}, line {line}: byte 0x{data[start]:02x} is not UTF-8. Save the file as "
                "UTF-8, or leave such rows out with skip_bad=True (--skip-bad)."
            ) from error
        return data[offset:].decode("utf-8", errors="surrogateescape")


# --- delimited text ------------------------------------------------------------------------------


def _read_delimited(path: Path, text: str, rejects: Rejects) -> Table:
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _sniff(text)
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        rows = list(_records(path, text, delimiter, rejects, quoted=True))
    except _UnclosedQuoteError as error:
        if delimiter != "\t":
            raise DataError(str(error)) from error
        rows = list(_records(path, text, delimiter, rejects, quoted=False))
        note(f'{path}: quotation marks do not pair, so " is read as an ordinary character.')
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise DataError(f"{path} is empty.")
    header = _header(path, rows[0][1])
    columns: dict[str, list[Any]] = {name: [] for name in header}
    at: list[int] = []
    filled = list(columns.values())
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            rejects.reject(
                str(path),
                line,
                f"the row has {len(cells)} {'field' if len(cells) == 1 else 'fields'}, the header "
                f"has {len(header)}.",
            )
            continue
        if any(_SURROGATE.search(cell) for cell in cells):
            rejects.reject(str(path), line, "the row holds bytes that are not UTF-8.")
            continue
        at.append(line)
        for column, cell in zip(filled, cells, strict=True):
            column.append(cell)
    return Table(str(path), "line", columns, at, path.parent)


class _UnclosedQuoteError(Exception):
    pass


def _records(
    path: Path, text: str, delimiter: str, rejects: Rejects, *, quoted: bool
) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each record; blank lines are passed over."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise _UnclosedQuoteError(
                    f"{path}, line {line}: a quotation mark is opened in this row and never "
                    f"closed, so the rest of the file ({reader.line_num - line + 1} lines) cannot "
                    'be told apart. Close it, or double it ("") where it belongs to the text.'
                ) from error
            if quoted and delimiter == "\t":
                raise _UnclosedQuoteError(str(error)) from error
            reason = f"the row is no valid CSV ({error})."
            if line == 1:
                raise DataError(f"{path}, line 1: {reason}") from error
            rejects.reject(str(path), line, reason)
            continue
        if cells:
            yield line, cells


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() or f"column_{i + 1}" for i, cell in enumerate(cells)]
    for name in names:
        if _SURROGATE.search(name):
            raise DataError(f"{path}, line 1: the header holds bytes that are not UTF-8.")
        if names.count(name) > 1:
            raise DataError(f"{path}, line 1: the header has the column {name!r} twice.")
    return names


def _sniff(text: str) -> str:
    """The delimiter among , ; tab | that parts the header and the first rows alike."""
    head = text[:65_536]
    if len(head) < len(text):
        head = head[: head.rfind("\n") + 1] or head
    best, width = ",", 1
    for delimiter in ",;\t|":
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
        counts: list[int] = []
        try:
            for cells in reader:
                if cells:
                    counts.append(len(cells))
                if len(counts) == 20:
                    break
        except csv.Error:
            pass
        if not counts or counts[0] < 2:
            continue
        if delimiter == ",":  # the name says so; another one only where the header lacks commas
            return ","
        agree = sum(n == counts[0] for n in counts) / len(counts)
        if agree > 0.5 and counts[0] > width:
            best, width = delimiter, counts[0]
    return best


# --- JSON ----------------------------------------------------------------------------------------


def _read_json(path: Path, text: str, rejects: Rejects) -> Table:
    records: list[tuple[int, Any]]
    unit: Literal["line", "row"]
    if text.lstrip()[:1] == "[":
        unit = "row"
        value = _parse(text)
        if isinstance(value, _NotJson):
            raise DataError(f"{path}: the file is no valid JSON ({value.reason}).")
        records = list(enumerate(value, start=1))
    else:
        unit = "line"
        records = [
            (line, _parse(raw)) for line, raw in enumerate(text.split("\n"), start=1) if raw.strip()
        ]
    kept: list[dict[str, Any]] = []
    at: list[int] = []
    names: dict[str, None] = {}
    for place, value in records:
        reason = _json_fault(value)
        if reason:
            rejects.reject(str(path), place, reason, unit=unit)
            continue
        kept.append(value)
        at.append(place)
        names.update(dict.fromkeys(value))
    columns = {name: [record.get(name) for record in kept] for name in names}
    return Table(str(path), unit, columns, at, path.parent)


@dataclass(frozen=True)
class _NotJson:
    reason: str


def _parse(raw: str) -> Any:
    try:
        return json.loads(raw)
    except RecursionError:
        return _NotJson("nested too deeply")
    except ValueError as error:
        return _NotJson(str(error))


def _json_fault(value: Any) -> str:
    if isinstance(value, _NotJson):
        return f"the row is no valid JSON ({value.reason})."
    if not isinstance(value, dict):
        kind = type(value).__name__
        return f'the row must be an object such as {{"text": ..., "label": ...}}, got {kind}.'
    if any(isinstance(v, str) and _SURROGATE.search(v) for v in value.values()) or any(
        _SURROGATE.search(k) for k in value
    ):
        return "the row holds bytes that are not UTF-8, or half of a surrogate pair."
    return ""


# --- Parquet -------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path} is not a file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    try:
        arrow = pq.ParquetFile(path).read()
        names = arrow.column_names
        if len(set(names)) != len(names):
            raise DataError(f"{path} has two columns of one name.")
        columns = {name: arrow.column(name).to_pylist() for name in names}
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as Parquet: {reason}") from error
    classes = _hf_classes(arrow.schema.metadata or {})
    at = list(range(1, arrow.num_rows + 1))
    return Table(str(path), "row", columns, at, path.parent, classes=classes)


def _hf_classes(metadata: dict[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Class names that Hugging Face datasets keeps in a Parquet file's metadata."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: tuple(str(n) for n in kind["names"])
            for name, kind in features.items()
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}

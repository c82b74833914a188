"""An interactions file as a stream of blocks: columns of text or of Parquet's types, with places.

A block holds some hundred thousand rows, so that a file of any length passes through the same
memory. Structure is checked before anything is parsed: every line must have as many fields as the
header, and be UTF-8.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from warmstart.core.errors import DataError
from warmstart.data.interaction_rejects import RowFaults

__all__ = ["Block", "EventFile", "blocks", "column_names"]

BLOCK_BYTES = 16 * 2**20
BLOCK_ROWS = 2**19
_MAX_LINE = 2**26
_SURROGATE = re.compile("[\ud800-\udfff]")
_RAGGED = "rows with too many or too few fields"
_FOREIGN = "rows that are not UTF-8"

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EventFile:
    """How a file of events is written.

    Attributes:
        path: The file.
        separator: Between fields, one character or `::`; the empty string means Parquet.
        names: The columns of a file without a header.
        quoted: Whether `"` may enclose a field.
        typed: Whether the header gives each name a type, as RecBole does: `item_id:token`.
    """

    path: Path
    separator: str = ","
    names: tuple[str, ...] | None = None
    quoted: bool = True
    typed: bool = False

    @property
    def parquet(self) -> bool:
        """Whether it is Parquet."""
        return not self.separator

    @property
    def unit(self) -> str:
        """What a place counts, from 1."""
        return "row" if self.parquet else "line"


@dataclass(frozen=True)
class Block:
    """Some rows: the wanted columns in the order asked for, and the place of each row."""

    frame: pl.DataFrame
    at_N: IntArray


def column_names(file: EventFile) -> list[str]:
    """Names of the columns, by a look at the beginning of the file.

    Raises:
        DataError: When there is no header, or a name stands twice.
    """
    path = file.path
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise DataError(f"{path} is no ordinary file. Write the events to one first.")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.")
        names = _parquet_names(path) if file.parquet else _header(file)[0]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: the header has the column {name!r} twice.")
    return names


def blocks(file: EventFile, columns: Sequence[str], faults: RowFaults) -> Iterator[Block]:
    """The rows of a file, block by block in file order; rows of a wrong form go to `faults`.

    Raises:
        DataError: When the file cannot be read, or at the first bad row unless they are left out.
    """
    try:
        if file.parquet:
            yield from _parquet_blocks(file.path, columns)
        else:
            yield from _text_blocks(file, columns, faults)
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error.strerror or error}.") from error


# --- Parquet -------------------------------------------------------------------------------------


def _parquet_names(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return [str(name) for name in pq.read_schema(path).names]
    except (pa.ArrowException, ValueError) as error:
        raise _bad_parquet(path, error) from error


def _bad_parquet(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{path} cannot be read as Parquet: {reason}")


def _parquet_blocks(path: Path, columns: Sequence[str]) -> Iterator[Block]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 1
    try:
        with pq.ParquetFile(path) as source:
            for batch in source.iter_batches(batch_size=BLOCK_ROWS, columns=list(columns)):
                frame = pl.from_arrow(pa.Table.from_batches([batch]))
                assert isinstance(frame, pl.DataFrame)
                yield Block(frame.select(columns), np.arange(row, row + frame.height))
                row += frame.height
    except (pa.ArrowException, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise _bad_parquet(path, error) from error


# --- delimited text ------------------------------------------------------------------------------


def _header(file: EventFile) -> tuple[list[str], int]:
    """Column names, and the number of bytes before the first row of data."""
    with file.path.open("rb") as handle:
        raw = handle.readline(_MAX_LINE)
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file.path} is UTF-16 text. Save it as UTF-8.")
    mark = 3 if raw.startswith(b"\xef\xbb\xbf") else 0
    line = raw[mark:].rstrip(b"\r\n")
    if b"\r" in line:
        raise DataError(
            f"{file.path}: lines end with carriage returns alone. Save it with line feeds."
        )
    if file.names is not None:
        return list(file.names), mark
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(
            f"{file.path}, line 1: the header holds bytes that are not UTF-8."
        ) from None
    if file.quoted and '"' in text:
        cells = next(csv.reader([text], delimiter=file.separator))
    else:
        cells = text.split(file.separator)
    if file.typed:
        cells = [cell.rpartition(":")[0] or cell for cell in cells]
    names = [cell.strip() or f"column_{i + 1}" for i, cell in enumerate(cells)]
    return names, len(raw)


def _text_blocks(file: EventFile, columns: Sequence[str], faults: RowFaults) -> Iterator[Block]:
    names, start = _header(file)
    line = 1 if file.names is not None else 2
    with file.path.open("rb") as handle:
        handle.seek(start)
        rest = b""
        while True:
            chunk = handle.read(BLOCK_BYTES)
            data = rest + chunk
            cut = data.rfind(b"\n") + 1 if chunk else len(data)
            if not cut and len(data) > _MAX_LINE:
                raise DataError(f"{file.path}, line {line}: the line is longer than 64 MiB.")
            data, rest = data[:cut], data[cut:]
            if file.quoted and b'"' in data:  # from here on fields may hold separators and lines
                handle.seek(-len(data) - len(rest), io.SEEK_CUR)
                yield from _quoted_blocks(file, handle, line, names, columns, faults)
                return
            if data:
                block, n_lines = _plain_block(file, data, line, names, columns, faults)
                line += n_lines
                if len(block.at_N):
                    yield block
            if not chunk:
                return


def _plain_block(
    file: EventFile,
    data: bytes,
    line: int,
    names: Sequence[str],
    columns: Sequence[str],
    faults: RowFaults,
) -> tuple[Block, int]:
    """Whole lines without quotation marks, and how many there are. `line` is the first one's."""
    separator = file.separator
    if len(separator) > 1:
        data, separator = data.replace(separator.encode(), b"\x1f"), "\x1f"
    if not data.endswith(b"\n"):
        data += b"\n"
    bytes_B = np.frombuffer(data, dtype=np.uint8)
    ends_L = np.flatnonzero(bytes_B == ord("\n"))
    starts_L = np.concatenate(([0], ends_L[:-1] + 1))
    fields_L = 1 + np.add.reduceat(bytes_B == ord(separator), starts_L, dtype=np.int64)
    lengths_L = ends_L - starts_L
    blank_L = (lengths_L == 0) | ((lengths_L == 1) & (bytes_B[starts_L] == ord("\r")))
    ragged_L = ~blank_L & (fields_L != len(names))
    ragged = np.flatnonzero(ragged_L)
    faults.take(
        line + ragged,
        _RAGGED,
        lambda i: f"the row has {fields_L[ragged[i]]} fields, not {len(names)}.",
    )
    foreign_L = _not_utf8(data, ends_L) & ~ragged_L
    _reject_foreign(line + np.flatnonzero(foreign_L), faults)
    keep_L = ~(blank_L | ragged_L | foreign_L)
    if not keep_L.all():
        pairs = zip(starts_L[keep_L].tolist(), ends_L[keep_L].tolist(), strict=True)
        data = b"".join(data[a : b + 1] for a, b in pairs)
    at_N = line + np.flatnonzero(keep_L)
    frame = _parse(data, separator, len(names), [names.index(name) for name in columns], columns)
    if frame.height != len(at_N):
        raise DataError(
            f"{file.path}: {len(at_N)} lines from line {line} on gave {frame.height} rows."
        )
    return Block(frame, at_N), len(ends_L)


def _parse(
    data: bytes, separator: str, width: int, wanted: Sequence[int], columns: Sequence[str]
) -> pl.DataFrame:
    """Fields as text; an empty field is null."""
    everything = {f"column_{i}": pl.String for i in range(width)}
    if not data:
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    order = sorted(set(wanted))  # polars keeps the file's order of columns
    frame = pl.read_csv(
        data,
        has_header=False,
        schema=everything,
        separator=separator,
        quote_char=None,
        columns=order,
    )
    names = {f"column_{i}": name for i, name in zip(wanted, columns, strict=True)}
    return frame.rename(names).select(columns)


def _not_utf8(data: bytes, ends_L: IntArray) -> npt.NDArray[np.bool_]:
    """Whether each line holds bytes that are not UTF-8."""
    foreign_L = np.zeros(len(ends_L), dtype=bool)
    if data.isascii():
        return foreign_L
    start = 0
    while start < len(data):
        try:
            data[start:].decode("utf-8")
            break
        except UnicodeDecodeError as error:
            bad = int(np.searchsorted(ends_L, start + error.start))
            foreign_L[bad] = True
            start = int(ends_L[bad]) + 1
    return foreign_L


def _reject_foreign(at_N: IntArray, faults: RowFaults) -> None:
    faults.take(at_N, _FOREIGN, "the row holds bytes that are not UTF-8.")


def _quoted_blocks(
    file: EventFile,
    handle: BinaryIO,
    line: int,
    names: Sequence[str],
    columns: Sequence[str],
    faults: RowFaults,
) -> Iterator[Block]:
    """The rest of a file in which quotation marks stand, by the csv module."""
    wanted = [names.index(name) for name in columns]
    schema = dict.fromkeys(columns, pl.String)
    cells: list[list[str]] = [[] for _ in columns]
    at: list[int] = []

    def block() -> Block:
        frame = pl.DataFrame([[cell or None for cell in c] for c in cells], schema=schema)
        return Block(frame, np.asarray(at, dtype=np.int64))

    for place, record in _records(file, handle, line, faults):
        if len(record) != len(names):
            reason = f"the row has {len(record)} fields, not {len(names)}."
            faults.take([place], _RAGGED, reason)
            continue
        if any(not cell.isascii() and _SURROGATE.search(cell) for cell in record):
            _reject_foreign(np.asarray([place]), faults)
            continue
        for column, i in zip(cells, wanted, strict=True):
            column.append(record[i])
        at.append(place)
        if len(at) == BLOCK_ROWS:
            yield block()
            cells = [[] for _ in columns]
            at = []
    if at:
        yield block()


def _records(
    file: EventFile, handle: BinaryIO, line: int, faults: RowFaults
) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each record; blank lines are passed over."""
    text = io.TextIOWrapper(handle, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=file.separator, strict=True)
    try:
        while True:
            place = line + reader.line_num
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise DataError(
                        f"{file.path}, line {place}: a quotation mark is opened in this row and "
                        "never closed, so the rest of the file cannot be told apart. Close it, or "
                        'double it ("") where it belongs to the text.'
                    ) from error
                faults.take([place], _RAGGED, f"the row is no valid CSV ({error}).")
                continue
            if cells:
                yield place, cells
    finally:
        text.detach()

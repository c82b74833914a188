"""Bad rows: an error that names file and row, or a counted skip where the user asked for it."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.core.errors import DataError
from warmstart.core.progress import note
from warmstart.data.dataset import Skipped
from warmstart.data.filenames import printable

__all__ = ["Rejects"]

_SHOWN = 3


class Rejects:
    """Collects bad rows when `skip` is set; otherwise the first one raises DataError."""

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self._items: list[Skipped] = []

    def reject(self, file: str, row: int | None, reason: str, *, unit: str = "line") -> None:
        """Take one bad row: `reason` is a sentence; `unit` says what `row` counts (line or row)."""
        file = printable(file)
        if not self.skip:
            where = file if row is None else f"{file}, {unit} {row}"
            raise DataError(
                f"{where}: {reason} Repair it, or leave such rows out with skip_bad=True "
                "(--skip-bad)."
            )
        self._items.append(Skipped(file, row, reason, unit))

    def leave_out(self, file: str, row: int | None, reason: str, *, unit: str = "line") -> None:
        """Leave a row out whether or not `skip` is set; it is counted and shown all the same."""
        self._items.append(Skipped(file, row, reason, unit))

    @property
    def items(self) -> tuple[Skipped, ...]:
        """The rows left out so far."""
        return tuple(self._items)

    def announce(self) -> None:
        """Tell the user how many rows were left out, and the first of them."""
        if self._items:
            note(summary(self._items))


def summary(items: Sequence[Skipped]) -> str:
    """One line: how many rows were left out, the first few with their place and reason."""
    files = {item.file for item in items}
    of = f" of {items[0].file}" if len(files) == 1 and items[0].row is not None else ""
    shown = "; ".join(
        f"{_place(item, with_file=not of)}: {item.reason.rstrip('.')}" for item in items[:_SHOWN]
    )
    more = f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"Left out {len(items)} bad {'row' if len(items) == 1 else 'rows'}{of}: {shown}{more}."


def _place(item: Skipped, *, with_file: bool) -> str:
    row = None if item.row is None else f"{item.unit} {item.row}"
    return " ".join(part for part in (item.file if with_file else None, row) if part)

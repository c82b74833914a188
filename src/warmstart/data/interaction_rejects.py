"""Bad events: the first is an error with its place, or all are counted and some are listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from warmstart.data.rejects import Rejects

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["LISTED", "RowFaults"]

LISTED = 1000
"""Rows of one kind of fault that are listed; all are counted. Millions of events can be bad."""


class RowFaults:
    """Takes the bad rows of one file in bulk and keeps their number by kind."""

    def __init__(self, file: str, unit: str, rejects: Rejects) -> None:
        self._file = file
        self.unit = unit
        self._rejects = rejects
        self.counts: Counter[str] = Counter()

    def take(
        self,
        at_N: npt.NDArray[np.int64] | Sequence[int],
        kind: str,
        reason: str | Callable[[int], str],
    ) -> None:
        """Reject the rows at these places (ascending).

        Args:
            at_N: Lines or rows, counted from 1.
            kind: Names the fault where faults are counted: `times that cannot be read`.
            reason: A sentence, or a function from the position in `at_N` to one.

        Raises:
            DataError: For the first row, unless bad rows are to be left out.
        """
        for i, place in enumerate(at_N):
            if self.counts[kind] + i >= LISTED:
                break
            text = reason if isinstance(reason, str) else reason(i)
            self._rejects.reject(self._file, int(place), text, unit=self.unit)
        self.counts[kind] += len(at_N)

    def notes(self) -> Iterable[str]:
        """One sentence with the number of rows left out by kind, or nothing."""
        total = sum(self.counts.values())
        if not total:
            return ()
        kinds = "; ".join(f"{kind}: {n:,}" for kind, n in self.counts.most_common() if n)
        capped = any(n > LISTED for n in self.counts.values())
        listed = f" The first {LISTED:,} of a kind are listed." if capped else ""
        what = "row was" if total == 1 else "rows were"
        return (f"{self._file}: {total:,} bad {what} left out ({kinds}).{listed}",)

"""Which events say yes: all, those of some kinds, or those with a rating or weight in a range."""

from __future__ import annotations

import operator
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from warmstart.core.errors import DataError, UsageError, nearest

__all__ = ["about_kinds", "positives"]

_SHOWN = 5

_TERM = re.compile(r"(rating|weight)\s*(>=|<=|>|<|==|=)\s*([+-]?\d+(?:\.\d+)?)", re.IGNORECASE)
_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
    "==": operator.eq, "=": operator.eq,
}  # fmt: skip


def positives(
    wanted: Sequence[str] | str | None,
    n: int,
    *,
    event_N: npt.NDArray[np.integer[Any]] | None,
    event_names: Sequence[str],
    numbers: Mapping[str, npt.NDArray[np.float32] | None],
    file: str,
) -> npt.NDArray[np.bool_]:
    """Whether each event is a positive.

    Args:
        wanted: None for all; names of events; or comparisons such as `rating>=4`. Several terms
            (a list, or separated by commas) are joined by "or". A missing number is no positive.
        n: How many events there are.
        event_N: The kind of each event, if the file tells.
        event_names: By kind.
        numbers: `rating` and `weight`, None where the file has none.
        file: For messages.

    Raises:
        UsageError: For a term that fits nothing in the file.
        DataError: When no event is a positive.
    """
    if wanted is None:
        return np.ones(n, dtype=bool)
    listed = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    terms = [str(term).strip() for term in listed]
    if not terms or "" in terms:
        raise UsageError(
            f"positive must name events or compare a number (rating>=4), got {wanted!r}."
        )
    yes_N = np.zeros(n, dtype=bool)
    for term in terms:
        compared = _TERM.fullmatch(term)
        if compared:
            what, sign, number = compared.groups()
            values_N = numbers.get(what.lower())
            if values_N is None:
                what = what.lower()
                raise UsageError(
                    f"positive={term!r}: {file} has no column of {what}s that can be told by its "
                    f"name. Say which with {what}=NAME (--{what} NAME)."
                )
            with np.errstate(invalid="ignore"):
                yes_N |= _SIGNS[sign](values_N, np.float32(number))
            continue
        if event_N is None:
            raise UsageError(
                f"positive={term!r} names an event, but {file} has no column of events. Say which "
                "with event=NAME (--event NAME), or compare a number, as in rating>=4."
            )
        if term not in event_names:
            raise UsageError(
                f"positive={term!r}: {file} has no such event." + nearest(term, event_names)
            )
        yes_N |= event_N == list(event_names).index(term)
    if not yes_N.any():
        raise DataError(f"{file}: no event is a positive by positive={wanted!r}.")
    return yes_N


def about_kinds(
    wanted: Sequence[str] | str | None,
    event_N: npt.NDArray[np.integer[Any]] | None,
    event_names: Sequence[str],
) -> list[str]:
    """A sentence where events of several kinds all count as positives since nobody chose."""
    if wanted is not None or event_N is None or len(event_names) < 2:
        return []
    counts_K = np.bincount(event_N, minlength=len(event_names))
    shown = [int(kind) for kind in np.argsort(-counts_K, kind="stable")[:_SHOWN]]
    listed = [f"{event_names[kind]} {counts_K[kind]:,}" for kind in shown]
    listed += ["..."] if len(event_names) > _SHOWN else []
    return [
        f"Events are of {len(event_names):,} kinds ({', '.join(listed)}), and every one counts as "
        "a positive. Say which do with positive= (--positive "
        f"{shlex.quote(event_names[shown[-1]])})."
    ]

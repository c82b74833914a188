"""The errors that a user can meet. Each carries the exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "BackboneError",
    "DataError",
    "Interrupted",
    "NotApplicable",
    "OutOfMemory",
    "RunError",
    "UsageError",
    "WarmstartError",
    "nearest",
    "tells_out_of_memory",
]


class WarmstartError(Exception):
    """Something the user can act on: the message says who, what is allowed, what came, the cure."""

    exit_code: int = 1


class UsageError(WarmstartError):
    """A setting or an argument is not usable."""

    exit_code = 2


class DataError(WarmstartError):
    """The data cannot be used as it is."""

    exit_code = 3


class BackboneError(WarmstartError):
    """A pretrained model cannot be found, read or divided into layer groups."""

    exit_code = 4


class RunError(WarmstartError):
    """A run folder, checkpoint or cache is damaged, incomplete or of another version."""

    exit_code = 5


class NotApplicable(WarmstartError):
    """A strategy cannot work on this task; the message is the reason."""

    exit_code = 6


class OutOfMemory(WarmstartError):
    """The work does not fit into the memory of the device or the machine."""


class Interrupted(WarmstartError):
    """The work was stopped from outside and can be resumed.

    Attributes:
        exit_code: 130 after Ctrl-C (SIGINT), 143 after SIGTERM.
    """

    exit_code = 130

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(name: str, options: Iterable[str]) -> str:
    """Say which of `options` is closest to `name`, and what there is.

    Returns:
        A sentence or two with a leading space, or the empty string when there are no options.
    """
    known = sorted(str(option) for option in options)
    if not known:
        return ""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.55)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"{hint} Available: {shown}."


_FULL = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def tells_out_of_memory(who: str) -> Iterator[None]:
    """Turn every form of a full memory into `OutOfMemory`; also a decorator.

    Python has `MemoryError`; torch has an error of its own on CUDA and a plain RuntimeError on
    other devices, which only its words tell from others.

    Args:
        who: Begins the message: `Training`.

    Raises:
        OutOfMemory: With the cure.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip()
        if not isinstance(error, MemoryError) and not any(sign in text.lower() for sign in _FULL):
            raise
        first = text.splitlines()[0].rstrip(".") if text else type(error).__name__
        raise OutOfMemory(
            f"{who} ran out of memory: lower batch_size, image size or max_length. ({first}.)"
        ) from error

"""Progress bars and visible notes: library code reports here, whoever shows it decides how.

Without anyone listening, bars go to tqdm when standard error is a terminal and notes go to the log.
The command line installs its own reporter with `use`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

__all__ = ["Reporter", "Task", "muted", "note", "task", "track", "use"]

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Task(Protocol):
    """One bar."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""

    def describe(self, text: str) -> None:
        """Show another text beside the bar."""


class Reporter(Protocol):
    """Whoever shows progress."""

    def task(self, description: str, total: int | None, unit: str) -> AbstractContextManager[Task]:
        """Open a bar; it closes with the context."""

    def note(self, message: str) -> None:
        """Show a line that the user should see."""


class _TqdmTask:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, n: int = 1) -> None:
        self._bar.update(n)

    def describe(self, text: str) -> None:
        self._bar.set_description(text)


class _Default:
    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Task]:
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()
        with tqdm(total=total, desc=description, unit=f" {unit}", disable=quiet) as bar:
            yield _TqdmTask(bar)

    def note(self, message: str) -> None:
        _log.info(message)


_reporter: ContextVar[Reporter | None] = ContextVar("warmstart_reporter", default=None)
_default = _Default()


@contextmanager
def use(reporter: Reporter) -> Iterator[None]:
    """Send progress and notes to `reporter` inside the context."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


class _Muted:
    """Another reporter's bars; notes go to the log alone."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    def task(self, description: str, total: int | None, unit: str) -> AbstractContextManager[Task]:
        return self._inner.task(description, total, unit)

    def note(self, message: str) -> None:
        _log.info(message)


@contextmanager
def muted() -> Iterator[None]:
    """Inside the context notes go to the log alone: for work that is repeated many times."""
    with use(_Muted(_current())):
        yield


def task(
    description: str, total: int | None = None, unit: str = "rows"
) -> AbstractContextManager[Task]:
    """Open a progress bar.

    Args:
        description: What is being done: `Embedding`.
        total: Units in all, None when unknown.
        unit: What is counted.
    """
    return _current().task(description, total, unit)


def track(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "rows"
) -> Iterator[T]:
    """Iterate over `items` under a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with task(description, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def note(message: str) -> None:
    """Show the user a line: a skip, a fall-back, a choice made for them."""
    _current().note(message)


def _current() -> Reporter:
    return _reporter.get() or _default

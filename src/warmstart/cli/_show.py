"""What the command line prints with: notes on standard error, answers on standard output."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from warmstart.core import progress

__all__ = ["answer", "fail", "notes_and_bars", "print_json"]

_errors = Console(stderr=True, highlight=False)


class _Bar:
    def __init__(self, bars: Progress, number: Any) -> None:
        self._bars = bars
        self._number = number

    def advance(self, n: int = 1) -> None:
        self._bars.advance(self._number, n)

    def describe(self, text: str) -> None:
        self._bars.update(self._number, description=text)


class _Reporter:
    """Bars for a terminal; where standard error is none, one line as each piece of work begins."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._open: Progress | None = None

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[_Bar]:
        if self._open is not None:
            number = self._open.add_task(description, total=total)
            try:
                yield _Bar(self._open, number)
            finally:
                self._open.remove_task(number)
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeRemainingColumn(),
        )  # fmt: skip
        bars = Progress(
            *columns,
            console=_errors,
            transient=True,
            disable=self._quiet or not _errors.is_terminal,
        )
        with bars:
            self._open = bars
            try:
                yield _Bar(bars, bars.add_task(description, total=total))
            finally:
                self._open = None

    def note(self, message: str) -> None:
        if not self._quiet:
            _errors.print(message, style="dim", markup=False, soft_wrap=True)


@contextmanager
def notes_and_bars(*, quiet: bool) -> Iterator[None]:
    """Show progress and notes on standard error; with `quiet`, neither."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=_errors, show_time=False, show_path=False)],
    )
    warnings.simplefilter("ignore", FutureWarning)
    with progress.use(_Reporter(quiet)):
        yield


def answer(renderable: Any) -> None:
    """Print a table, or a text as it stands, on standard output."""
    console = Console(highlight=False)
    if isinstance(renderable, str):
        console.print(renderable, markup=False, soft_wrap=True)
    else:
        console.print(renderable)


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write(text + "\n")


def fail(error: BaseException, *, as_json: bool, code: int | None = None) -> int:
    """Say what went wrong; the exit code to leave with."""
    exit_code = code if code is not None else int(getattr(error, "exit_code", 1))
    if as_json:
        kind = type(error).__name__
        print_json({"error": {"type": kind, "message": str(error), "exit_code": exit_code}})
    else:
        _errors.print("Error:", style="bold red", end=" ")
        _errors.print(str(error), markup=False, soft_wrap=True)
    return exit_code

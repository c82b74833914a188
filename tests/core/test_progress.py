"""Whoever listens hears every step, every note, and only inside their context."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from warmstart.core import progress


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[progress.Task]:
        self.heard.append(("open", description, total, unit))
        try:
            yield self
        finally:
            self.heard.append(("close",))

    def advance(self, n: int = 1) -> None:
        self.heard.append(("advance", n))

    def describe(self, text: str) -> None:
        self.heard.append(("describe", text))

    def note(self, message: str) -> None:
        self.heard.append(("note", message))


def test_a_task_reaches_the_listener() -> None:
    listener = Listener()
    with progress.use(listener), progress.task("Embedding", 10) as bar:
        bar.advance(4)
        bar.describe("Embedding rows")
        progress.note("3 rows skipped")
    assert listener.heard == [
        ("open", "Embedding", 10, "rows"),
        ("advance", 4),
        ("describe", "Embedding rows"),
        ("note", "3 rows skipped"),
        ("close",),
    ]


def test_track_counts_finished_items() -> None:
    listener = Listener()
    with progress.use(listener):
        walk = progress.track([1, 2, 3], "Reading", unit="files")
        assert listener.heard == []  # nothing is shown before the first item is asked for
        assert next(walk) == 1
        assert listener.heard == [("open", "Reading", 3, "files")]
        assert list(walk) == [2, 3]
    assert listener.heard[1:] == [("advance", 1)] * 3 + [("close",)]


def test_track_over_an_iterator_knows_no_total() -> None:
    listener = Listener()
    with progress.use(listener):
        assert list(progress.track(iter("ab"), "x")) == ["a", "b"]
        assert list(progress.track(iter("ab"), "x", total=2)) == ["a", "b"]
    assert [item[2] for item in listener.heard if item[0] == "open"] == [None, 2]


def test_a_bar_closes_when_the_work_fails() -> None:
    listener = Listener()
    with progress.use(listener), pytest.raises(TypeError, match="unsupported operand"):
        sum(progress.track([1, "bad"], "x"))
    walk = progress.track([1, 2], "x")
    with progress.use(listener):
        next(walk)
        walk.close()
    assert [item[0] for item in listener.heard].count("open") == 2
    assert [item[0] for item in listener.heard].count("close") == 2


def test_listeners_nest_and_leave() -> None:
    outer, inner = Listener(), Listener()
    with progress.use(outer):
        with contextlib.suppress(ValueError), progress.use(inner):
            progress.note("inner")
            raise ValueError
        progress.note("outer")
    progress.note("nobody")
    assert (inner.heard, outer.heard) == ([("note", "inner")], [("note", "outer")])


def test_without_a_listener_notes_are_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="warmstart"):
        progress.note("3 rows skipped")
        assert list(progress.track(range(3), "x")) == [0, 1, 2]
        with progress.task("x") as bar:
            bar.advance()
            bar.describe("y")
    assert [record.message for record in caplog.records] == ["3 rows skipped"]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")  # no terminal, no bar

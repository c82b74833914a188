"""Exit codes, and the nearest name."""

from __future__ import annotations

import pytest

from warmstart.core import (
    BackboneError,
    DataError,
    Interrupted,
    NotApplicable,
    RunError,
    UsageError,
    WarmstartError,
    nearest,
)


def test_exit_codes_differ_and_are_pinned() -> None:
    kinds = [WarmstartError, UsageError, DataError, BackboneError, RunError, NotApplicable]
    assert [kind.exit_code for kind in kinds] == [1, 2, 3, 4, 5, 6]
    assert all(issubclass(kind, WarmstartError) for kind in kinds)
    assert Interrupted("x").exit_code == 130
    assert Interrupted("x", 143).exit_code == 143
    assert Interrupted.exit_code == 130  # an instance's code stays its own


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lable", ["text", "label"], ' Did you mean "label"? Available: label, text.'),
        ("zzz", ["text", "label"], " Available: label, text."),
        ("x", [], ""),
        ("Label", iter(["label"]), ' Did you mean "label"? Available: label.'),
    ],
)
def test_nearest(name: str, options: list[str], expected: str) -> None:
    assert nearest(name, options) == expected


def test_a_long_list_is_cut() -> None:
    message = nearest("n07", [f"n{i:02}" for i in range(30)])
    assert message.startswith(' Did you mean "n07"? Available: n00, n01')
    assert message.endswith("n19, ....")

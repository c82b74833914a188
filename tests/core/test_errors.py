"""Exit codes, and the nearest name."""

from __future__ import annotations

import pytest

from warmstart.core import (
    BackboneError,
    DataError,
    Interrupted,
    NotApplicable,
    OutOfMemory,
    RunError,
    UsageError,
    WarmstartError,
    nearest,
    tells_out_of_memory,
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


class FullError(RuntimeError):
    """As torch's own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        FullError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_full_memory_is_told_with_its_cure(error: Exception) -> None:
    @tells_out_of_memory("Training")
    def work() -> None:
        raise error

    with pytest.raises(
        OutOfMemory, match="Training ran out of memory: lower batch_size, image size or max_length"
    ) as caught:
        work()
    assert caught.value.__cause__ is error
    assert "More" not in str(caught.value)


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes"), tells_out_of_memory("Training"):
        raise RuntimeError("shapes do not fit")

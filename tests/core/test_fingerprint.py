"""Fingerprints: known answers that must never move, and values that must differ."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.core import fingerprint, hash_file

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.binary(max_size=4)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3)
)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), "cae66941d9efbd404e4d88758ea67670"),
        (("a",), "09fb92e4319037e087c97cd57a695467"),
        ((1, "1", 1.0, True, None, b"1"), "70b165783a44a117a1bff1a206d29d18"),
        ((["x", (2, 3)], {"b": 1, "a": [2.5]}), "f930045aa4d1255b6bcdd32913d8659d"),
        ((np.arange(6, dtype=np.int64).reshape(2, 3),), "61566063875b59321f8eea49345425c7"),
        ((Path("a/b"), "हिन्दी"), "53c5af684ebaa4a65b7377c60a0248bb"),
    ],
)
def test_known_answers(parts: tuple[Any, ...], expected: str) -> None:
    assert fingerprint(*parts) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("ab",)),
        ((["a", "b"],), ("a", "b")),
        (([["a"], "b"],), ([["a", "b"]],)),
        ((1,), ("1",)),
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((0,), (None,)),
        (("",), (None,)),
        (("a",), (b"a",)),
        (("a",), (Path("a"),)),
        (({1: "x"},), ({"1": "x"},)),
        (({"a": 1, "b": 2},), ({"a": 2, "b": 1},)),
        (({},), ([],)),
        ((np.zeros(4),), (np.zeros((2, 2)),)),
        ((np.zeros(4, np.float32),), (np.zeros(4, np.int32),)),
        ((0.0,), (-0.0,)),
    ],
)
def test_what_differs(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert fingerprint(*one) != fingerprint(*other)


def test_what_is_equal() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({1: "x", "1": "y"}) == fingerprint({"1": "y", 1: "x"})
    assert fingerprint([1, 2]) == fingerprint((1, 2))
    assert fingerprint(np.int32(3), np.bool_(True), np.str_("a")) == fingerprint(3, True, "a")
    wide = np.arange(12.0).reshape(3, 4)
    assert fingerprint(wide.T) == fingerprint(np.ascontiguousarray(wide.T))


@settings(max_examples=200, deadline=None)
@given(VALUES, VALUES)
def test_equal_exactly_when_the_values_are(one: Any, other: Any) -> None:
    # repr tells 1 from True and from "1", which == does not
    def order(value: Any) -> str:
        if isinstance(value, dict):
            return repr([(key, order(value[key])) for key in sorted(value)]) + "d"
        return repr([order(item) for item in value]) if isinstance(value, list) else repr(value)

    assert (fingerprint(one) == fingerprint(other)) == (order(one) == order(other))


@pytest.mark.parametrize(
    ("value", "named"), [({1, 2}, "set"), (object(), "object"), (np.array([{}]), "object array")]
)
def test_no_stable_form(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"no stable form for {named}"):
        fingerprint("x", [value])


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(256)) * 5000)
    assert hash_file(path) == hash_file(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()

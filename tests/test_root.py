"""The package root: verbs on first use, and `shift` as a verb and a package at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

ORDERS = [
    "from warmstart.shift import mmd; import warmstart as ws; verb = ws.shift; mmd",
    "from warmstart import shift as verb; import warmstart.shift.distance as d; d.mmd",
]
CALL = """
from warmstart.core import UsageError
try:
    verb("a.csv", permutations=1)
except UsageError as error:
    assert "shift.permutations" in str(error)
else:
    raise SystemExit(1)
"""


@pytest.mark.parametrize("order", ORDERS)
def test_shift_is_a_verb_and_a_package_in_any_order(order: str) -> None:
    code = order.replace("; ", "\n") + CALL
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_names_are_told() -> None:
    import warmstart

    with pytest.raises(AttributeError, match="no attribute 'shfit'"):
        _ = warmstart.shfit
    assert "shift" in dir(warmstart)


def test_the_package_is_there_beside_the_verb() -> None:
    import warmstart
    import warmstart.shift.distance
    from warmstart.shift import proxy_a_distance

    assert callable(warmstart.shift)
    assert warmstart.shift.distance.proxy_a_distance is proxy_a_distance
    assert callable(warmstart.read)

"""`warmstart drift` and `predict --flag-unfamiliar`, as a shell sees them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

ALIEN = "text\n" + "".join(f"zebra oboe {word} quartz {word}\n" for word in "abcdefghijklmnopqrst")


@pytest.fixture
def fitted(call: Any, table: Path, tiny_text: Path) -> Any:
    """A run on 60 sentences, and other rows beside it."""
    done = call("fit", table, "--backbone", tiny_text, "--strategy", "probe", "--controls", "none",
                "--out", "runs/a", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done
    Path("alien.csv").write_text(ALIEN)
    return call


def test_drift_is_told_and_may_fail(fitted: Any) -> None:
    found = fitted("drift", "runs/a", "alien.csv", "--permutations", 199, "--out", "d.html")
    assert found.code == 0
    assert "Drift: " in found.out
    assert "Written: d.html" in found.out
    assert "drift since training" in Path("d.html").read_text()
    failed = fitted("drift", "runs/a", "alien.csv", "--permutations", 199, "--fail-on-drift")
    assert failed.code == 8
    assert failed.out == found.out.replace("Written: d.html\n", "")
    told = fitted(
        "drift", "runs/a", "alien.csv", "--permutations", 199, "--fail-on-drift", "--json"
    )
    assert told.code == 8
    values = json.loads(told.out)
    assert values["task_type"] == "drift"
    assert values["found"] is True
    assert values["command"].startswith("warmstart drift runs/a alien.csv")


def test_the_runs_own_kind_does_not_fail(fitted: Any, table: Path) -> None:
    calm = fitted("drift", "runs/a", table, "--permutations", 199, "--fail-on-drift", "--json")
    assert calm.code == 0, "its own rows"
    values = json.loads(calm.out)
    assert values["found"] is False
    assert values["seen"] == {"train": 42, "validation": 9}


def test_flags_are_shown_and_written(fitted: Any) -> None:
    found = fitted("predict", "runs/a", "alien.csv", "--flag-unfamiliar", "--out", "o.csv")
    assert found.code == 0
    assert "of 20 rows" in found.out
    assert "are unfamiliar" in found.out
    with Path("o.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["unfamiliar"] for row in rows} <= {"true", "false"}
    values = json.loads(fitted("predict", "runs/a", "alien.csv", "--flag-unfamiliar", "--json").out)
    assert [row["unfamiliar"] for row in values] == [row["unfamiliar"] == "true" for row in rows]
    plain = json.loads(fitted("predict", "runs/a", "alien.csv", "--json").out)
    assert set(plain[0]) == {"id", "input", "label", "score", "scores"}
    assert "unfamiliar" not in fitted("predict", "runs/a", "alien.csv").out


def test_mistakes_are_told_with_their_exit_codes(fitted: Any) -> None:
    for words, code, message in (
        (("drift", "runs/a", "alien.csv", "--false-alarms", 0.01), 2, "at least 0.1 here"),
        (("drift", "runs/a", "alien.csv", "--familiarity", "cosine"), 2, "Available: knn"),
        (("drift", "runs/a", "alien.csv", "--level", 2), 2, "drift.level must be above 0"),
        (("drift", "runs/a", "alien.csv", "--out", "d.txt"), 2, "must end in .html"),
        (("drift", "runs/a", "gone.csv"), 3, "gone.csv"),
        (("drift", "runs/b", "alien.csv"), 5, "does not exist"),
        (("predict", "runs/a", "alien.csv", "--false-alarms", 0.2), 2, "--flag-unfamiliar"),
    ):
        found = fitted(*words)
        assert found.code == code, found
        assert message in " ".join(found.err.split()), found

"""Calling the command line in this process, as a shell would see it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from warmstart.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """`call("fit", path, "--json")`: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["warmstart", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        found = capsys.readouterr()
        assert "Traceback" not in found.out + found.err
        return Outcome(code, found.out, found.err)

    return run


@pytest.fixture
def table(topics_csv: Path) -> Path:
    return topics_csv

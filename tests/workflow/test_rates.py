"""The learning-rate finder as a verb and as a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmstart.core import NotApplicable, UsageError
from warmstart.workflow import rates, write_rates


def test_rates_of_the_whole_and_by_group(table: Path, tiny_text: Path, tmp_path: Path) -> None:
    found = rates(table, backbone=tiny_text, steps=12, by_group=True, device="cpu",
                  settings={"rules": "stem=frozen"})  # fmt: skip
    assert found[0].group is None
    names = [sweep.group for sweep in found[1:]]
    assert "stem" not in names
    assert names[-1] == "head"
    assert all(len(sweep.rates) <= 12 for sweep in found)
    write_rates(found, tmp_path / "rates.svg")
    assert (tmp_path / "rates.svg").read_text().startswith("<svg")
    again = rates(table, backbone=tiny_text, steps=12, device="cpu",
                  settings={"rules": "stem=frozen"})  # fmt: skip
    assert again[0].losses == found[0].losses


def test_what_has_no_rate(table: Path, tiny_text: Path, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"probe has no learning rate.* lora, .*finetune"):
        rates(table, backbone=tiny_text, strategy="probe")
    with pytest.raises(UsageError, match=r"must end in \.svg"):
        write_rates((), tmp_path / "rates.png")
    with pytest.raises(UsageError, match="steps"):
        rates(table, backbone=tiny_text, steps=3)


def test_the_command(
    table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from warmstart.cli import main

    out = tmp_path / "rates.svg"
    words = ["rates", str(table), "--backbone", str(tiny_text), "--steps", "10", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["warmstart", *words, "--out", str(out), "--json"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert len(found["sweeps"]) == 1
    assert out.is_file()

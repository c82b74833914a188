"""Predictions and features as files; features that are not computed twice; what `info` tells."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from warmstart.backbones import Encoder, FeatureCache, backbone
from warmstart.core import RunError, UsageError, WarmstartError
from warmstart.models import Prediction
from warmstart.workflow import (
    FinishedRun,
    Predictions,
    check_predictions_path,
    embed,
    info,
    write_features,
    write_predictions,
)

FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\tx", "\r=1", "plain, with comma",
            'a "quote"', "two\nlines", "x\r=1+1", ""]  # fmt: skip


@pytest.fixture
def answers() -> Predictions:
    one = Prediction(label="=good", score=0.75, scores={"=good": 0.75, "bad": 0.25})
    return Predictions(ids=tuple(str(i) for i in range(len(FORMULAS))), inputs=tuple(FORMULAS),
                       answers=(one,) * len(FORMULAS))  # fmt: skip


def test_csv_cells_are_inert(answers: Predictions, tmp_path: Path) -> None:
    write_predictions(answers, path := tmp_path / "out.csv")
    with path.open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["id", "input", "label", "score"]
    assert len(rows) == len(FORMULAS) + 1
    for row, text in zip(rows[1:], FORMULAS, strict=True):
        assert row[1].removeprefix("'") == text
        assert row[2:] == ["'=good", "0.75"]
        assert not row[1].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_other_formats_keep_texts_as_they_are(answers: Predictions, tmp_path: Path) -> None:
    write_predictions(answers, tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert [row["input"] for row in rows] == FORMULAS
    assert rows[0]["scores"] == {"=good": 0.75, "bad": 0.25}
    write_predictions(answers, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == rows
    write_predictions(answers, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["input"] for row in found] == FORMULAS
    assert {row["label"] for row in found} == {"=good"}
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.json or \.parquet"):
        write_predictions(answers, tmp_path / "out.xlsx")
    check_predictions_path(Path("out.JSONL"))
    assert not list(tmp_path.glob("*.tmp"))


def test_embedding_twice_runs_the_network_once(
    table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = backbone(str(tiny_text), cache=FeatureCache(tmp_path / "cache"))
    first = embed(table, backbone=source)
    assert first.vectors_ND.shape == (80, 24)

    def forward(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network ran again")

    monkeypatch.setattr(Encoder, "forward_many", forward)
    second = embed(table, backbone=source)
    np.testing.assert_array_equal(first.vectors_ND, second.vectors_ND)
    assert embed(table, backbone=source, limit=20).vectors_ND.shape == (20, 24)
    with pytest.raises(AssertionError, match="ran again"):
        embed(table, backbone=source, depth=1)


def test_embedding_needs_no_labels(tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text("text\nan apple\na car\n")
    assert len(embed(tmp_path / "bare.csv", backbone=tiny_text).ids) == 2


def test_features_as_files(table: Path, tiny_text: Path, tmp_path: Path) -> None:
    found = embed(table, backbone=tiny_text)
    write_features(found, tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), found.vectors_ND)
    assert json.loads((tmp_path / "v.ids.json").read_text()) == list(found.ids)
    write_features(found, tmp_path / "v.parquet")
    rows = pq.read_table(tmp_path / "v.parquet")
    assert rows.column("id").to_pylist() == list(found.ids)
    np.testing.assert_array_equal(np.array(rows.column("vector").to_pylist(), np.float32),
                                  found.vectors_ND)  # fmt: skip
    with pytest.raises(UsageError, match=r"\.npy or \.parquet"):
        write_features(found, tmp_path / "v.pkl")


def test_info_tells_what_it_is(run: FinishedRun, table: Path, tiny_text: Path) -> None:
    assert info(run.folder)["kind"] == "run"
    assert info(str(run.folder))["verdict"]["best"] == run.best
    told = info(tiny_text)
    assert told["kind"] == "backbone"
    assert sum(g["parameters"] for g in told["groups"]) == told["parameters"]
    data = info(table)
    assert not {"id", "content"} & set(data["columns"])
    assert (data["kind"], data["rows"]) == ("data", 80)
    assert data["split"] == {"train": 56, "validation": 12, "test": 12}
    here = info()
    assert here["kind"] == "installation"
    assert "probe" in here["strategies"]
    json.dumps([told, data, here])


@pytest.mark.parametrize("target", ["no-such-file.csv", "no/such/folder/at all", "./nothing"])
def test_info_on_nothing_is_an_error_in_a_sentence(target: str) -> None:
    with pytest.raises(WarmstartError, match=r"\w+ .*\."):
        info(target)


def test_a_slip_beside_runs_is_no_hub_id(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.workflow import info as module

    (tmp_path / "runs" / "reviews").mkdir(parents=True)

    def asked(source: str, allow_bin: bool) -> dict[str, Any]:
        return {"kind": "backbone", "name": source, "allow_bin": allow_bin}

    monkeypatch.setattr(sys.modules[module.__module__], "_backbone", asked)
    with pytest.raises(RunError, match=r"runs/reviws does not exist: .*\"reviews\".* hub id"):
        info("runs/reviws")
    assert info("owner/model")["name"] == "owner/model"
    (tmp_path / "facebook").mkdir()
    assert info("facebook/dinov2-small")["kind"] == "backbone", "a default is known"
    assert info("owner/model", allow_bin=True)["allow_bin"]


def test_a_strategy_without_a_docstring_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.strategies import Probe

    monkeypatch.setattr(Probe, "__doc__", "")
    assert info()["strategies"]["probe"] == Probe.title

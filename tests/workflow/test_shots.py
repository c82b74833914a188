"""`compare` with shots: the folder, the resumed run, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from warmstart.core import DataError, RunError, UsageError, verify_manifest
from warmstart.strategies import Fitted, Prototypes, strategy_class
from warmstart.strategies.registry import SPECTRUM
from warmstart.workflow import compare, open_run


class Cut(Prototypes):
    """Class means that are interrupted when asked to."""

    name: ClassVar[str] = "cut"
    fits: ClassVar[list[tuple[int, int]]] = []
    stop: ClassVar[tuple[int, int] | None] = None

    def fit(self, backbone: Any, view: Any, run: Any) -> Fitted:
        mark = (len(view.train) // 2, run.seed)
        type(self).fits.append(mark)
        if mark == type(self).stop:
            raise KeyboardInterrupt
        return super().fit(backbone, view, run)


@pytest.fixture(autouse=True)
def fresh() -> None:
    Cut.fits.clear()
    Cut.stop = None


@pytest.fixture
def again(table: Path, tiny_text: Path, tmp_path: Path) -> Any:
    def go(**settings: Any) -> Any:
        values: dict[str, Any] = {
            "strategies": ["zero-shot", Cut(), "knn"], "shots": (1, 4), "draws": 2,
            "budget": "none", "backbone": tiny_text, "device": "cpu", "out": tmp_path / "run",
        }  # fmt: skip
        return compare(table, **(values | settings))

    return go


def test_a_run_of_shots(again: Any) -> None:
    run = again(shots="1,4,64")
    verify_manifest(run.folder)
    found = run.results["shots"]
    assert (found["k"], found["draws"]) == ([1, 4], 2)
    assert [one["k"] for one in found["left_out"]] == [64]
    assert "distinct training rows" in found["left_out"][0]["reason"]
    assert any("k = 64 is left out" in text for text in run.verdict["sentences"])
    assert [arm["name"] for arm in found["arms"]] == ["zero-shot", "cut", "knn"]
    assert run.results["arms"] == []
    assert run.best is None
    with pytest.raises(RunError, match="kept no model"):
        run.predict(["apple"])
    rows = pq.read_table(run.folder / "predictions.parquet").to_pylist()
    split = json.loads((run.folder / "split.json").read_text())
    assert {row["id"] for row in rows} == set(split["test"]), "test rows and no others"
    for arm in found["arms"]:
        for cell in arm["cells"]:
            for draw, value in enumerate(cell["values"]):
                mine = [
                    r
                    for r in rows
                    if (r["arm"], r["k"], r["draw"]) == (arm["name"], cell["k"], draw)
                ]
                hits = [r["truth"] == r["predicted"] for r in mine]
                assert value == pytest.approx(sum(hits) / len(hits))
    assert (run.folder / "README.md").read_text().count("|") > 10
    assert "labelled rows a class" in run.report.read_text()
    assert not (run.folder / "cells").exists()
    assert open_run(run.folder).results["shots"] == found


def test_an_interrupted_table_goes_on(again: Any, tmp_path: Path) -> None:
    Cut.stop = (4, 0)
    with pytest.raises(KeyboardInterrupt):
        again()
    assert Cut.fits == [(1, 0), (4, 0)]
    assert (tmp_path / "run.partial").is_dir()
    with pytest.raises(RunError, match="unfinished run of other settings"):
        again(draws=3)
    Cut.stop = None
    Cut.fits.clear()
    run = again()
    assert Cut.fits == [(4, 0), (1, 1), (4, 1)], "what was finished is not fitted again"
    whole = again(out=tmp_path / "whole")
    values = [[c["values"] for arm in r.results["shots"]["arms"] for c in arm["cells"]]
              for r in (run, whole)]  # fmt: skip
    assert values[0] == values[1]


def test_the_defaults_of_each_modality(
    table: Path, pictures: Path, tiny_text: Path, tiny_resnet: Path, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {"shots": 2, "draws": 1, "device": "cpu"}
    text = compare(table, backbone=tiny_text, out=tmp_path / "t", budget="none", **shared)
    found = {arm["name"]: arm["cells"] for arm in text.results["shots"]["arms"]}
    assert list(found) == ["zero-shot", "prototypes", "knn", "probe", "setfit"]
    assert all(cell["value"] is not None for cells in found.values() for cell in cells)
    image = compare(pictures, backbone=tiny_resnet, out=tmp_path / "i", budget="10m", **shared)
    arms = image.results["shots"]["arms"]
    assert [arm["name"] for arm in arms] == ["zero-shot", "prototypes", "knn", "probe"]
    assert arms[0]["cells"][0]["value"] is None
    assert "does not embed text" in arms[0]["cells"][0]["reason"]
    assert str(compare(table, strategies=["knn"], backbone=tiny_text, **shared).folder) == (
        "runs/shots-topics"
    )


def test_all_names_every_strategy_of_the_modality(again: Any) -> None:
    run = again(strategies=["all"], shots=1, draws=1, budget="3s")
    found = [arm["name"] for arm in run.results["shots"]["arms"]]
    assert found == [name for name in SPECTRUM if "text" in strategy_class(name).modalities]
    assert {"zero-shot", "lora", "scratch", "tfidf"} < set(found)
    assert "cnn" not in found


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"draws": 0}, UsageError, "draws must be 1 to 1000, got 0"),
        ({"shots": "many"}, UsageError, "shots must be whole numbers"),
        ({"keep_models": True}, UsageError, "keeps no model"),
        ({"shots": 1000}, DataError, "no number of shots in 1000 can be drawn"),
        ({"metric": "accurate"}, UsageError, 'Did you mean "accuracy"'),
        ({"strategies": ["knnn"]}, UsageError, 'Did you mean "knn"'),
    ],
)
def test_what_cannot_work_is_told_before_any_fit(
    again: Any, settings: dict[str, Any], error: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        again(**settings)
    assert not list(tmp_path.glob("run*"))

"""What the verbs are told reaches the work, or is refused before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from warmstart.core import DataError, RunError, UsageError
from warmstart.data import Dataset, read
from warmstart.workflow import FinishedRun, compare, embed, evaluate, fit, plan, predict
from warmstart.workflow.prepare import as_backbone, as_dataset, prepare


@pytest.fixture
def rows(table: Path) -> Dataset:
    return read(table)


@pytest.fixture
def fitted(table: Path, tiny_text: Path, tmp_path: Path) -> FinishedRun:
    return fit(
        table, backbone=tiny_text, strategy="probe", controls="none", out=tmp_path / "fitted"
    )


@pytest.mark.parametrize("source", ["path", "rows"])
def test_a_misspelt_option_is_told_with_the_nearest(
    source: str, table: Path, rows: Dataset, tiny_text: Path
) -> None:
    data: Any = table if source == "path" else rows
    with pytest.raises(
        UsageError, match=r"strategie= is no option. Did you mean strategies= or strategy=\?"
    ):
        fit(data, backbone=tiny_text, strategie="probe")
    with pytest.raises(UsageError, match=r"txt= is no option. Did you mean text="):
        plan(data, txt="text")


def test_rows_of_another_kind_are_refused_before_they_are_read(
    fitted: FinishedRun, rows: Dataset
) -> None:
    with pytest.raises(UsageError, match='Did you mean "accuracy"'):
        evaluate(fitted, rows, metric="acuracy")


def test_limit_holds_for_a_dataset(
    rows: Dataset, fitted: FinishedRun, tiny_text: Path, tmp_path: Path
) -> None:
    assert len(as_dataset(rows, limit=20)) == 20
    assert as_dataset(rows) is rows
    assert as_dataset(rows, limit=30, seed=1).ids == read(rows.source, limit=30, seed=1).ids
    assert len(predict(fitted, rows, limit=10).ids) == 10
    assert evaluate(fitted, rows, limit=10).n == 10
    assert len(embed(rows, backbone=tiny_text, limit=10).ids) == 10
    assert plan(rows, limit=20, quick=True) != plan(rows, quick=True)
    run = fit(
        rows, backbone=tiny_text, strategy="probe", controls="none", limit=40, out=tmp_path / "fit"
    )
    assert run.results["data"]["rows"] == 40
    run = compare(rows, backbone=tiny_text, strategies=["probe"], limit=40, seeds=1,
                  out=tmp_path / "compare")  # fmt: skip
    assert run.results["data"]["rows"] == 40


@pytest.mark.parametrize("verb", [fit, compare, plan, embed])
def test_options_that_a_dataset_cannot_take_are_refused(verb: Any, rows: Dataset) -> None:
    with pytest.raises(UsageError, match=r"text=, label_names= cannot apply to the Dataset"):
        verb(rows, text="title", label_names=["a", "b"], skip_bad=False, image=None)


def test_options_that_a_finished_run_cannot_use_are_refused(
    rows: Dataset, fitted: FinishedRun
) -> None:
    for verb in (predict, evaluate):
        with pytest.raises(UsageError, match="skip_bad= cannot apply"):
            verb(fitted, rows, skip_bad=True)
    with pytest.raises(UsageError, match="limit= cannot apply to a list of inputs"):
        predict(fitted, ["a plum"], limit=3)
    with pytest.raises(DataError, match='Did you mean "site"'):
        plan(rows, group="sites")


def test_an_unknown_tracker_is_told_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match='Did you mean "wandb"'):
        prepare("no/such/table.csv", trackers=["wandbb"])


@pytest.mark.parametrize(
    ("verb", "asked", "message"),
    [
        (fit, {"strategy": "lor"}, 'Did you mean "lora"'),
        (fit, {"strategy": "lora", "settings": {"rank": 0}}, "lora.rank must be at least 1"),
        (fit, {"strategy": "probe:l2=2"}, r"'probe', and its settings .* settings=\{...\}.*--set"),
        (fit, {"controls": "some"}, "controls 'some' is unknown"),
        (fit, {"metric": "acuracy"}, 'Did you mean "accuracy"'),
        (compare, {"strategies": ["all", "prob"]}, 'Did you mean "probe"'),
        (compare, {"strategies": ["lora:rank=0"]}, "lora.rank must be at least 1"),
        (compare, {"metric": "log_loss"}, "metric 'log_loss' cannot decide"),
        (compare, {"shots": "1,2", "strategies": ["knn:k=0"]}, "knn.k must be above 0"),
    ],
)
def test_settings_are_told_before_anything_is_read(
    verb: Any, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        verb("no/such/table.csv", **asked)


@pytest.mark.parametrize("asked", [{"strategy": "probe"}, {"strategy": None}])
def test_a_taken_folder_is_told_before_anything_is_read(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="exists already"):
        fit("no/such/table.csv", out=tmp_path / "taken", **asked)
    with pytest.raises(RunError, match="exists already"):
        compare("no/such/table.csv", out=tmp_path / "taken")


def test_the_device_reaches_the_model(
    fitted: FinishedRun, table: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.workflow import runs

    asked: list[str] = []
    real = runs.load_model

    def load(folder: Path, *, device: str = "auto") -> Any:
        asked.append(device)
        return real(folder, device=device)

    monkeypatch.setattr(runs, "load_model", load)
    predict(fitted.folder, ["a plum"], device="cpu")
    evaluate(fitted, table, device="cpu")
    predict(fitted, ["a plum"])
    predict(fitted, ["a pear"])
    assert asked == ["cpu", "cpu", "auto"], "an opened run keeps its model"
    for work in (lambda: predict("no/run", ["x"], device="gpu"),
                 lambda: evaluate("no/run", table, device="gpu"),
                 lambda: embed("no.csv", device="gpu")):  # fmt: skip
        with pytest.raises(UsageError, match="device 'gpu' is unknown"):
            work()
    assert len(embed(table, backbone=tiny_text, device="cpu").ids) == 80


def test_pickled_weights_need_a_word(tiny_text: Path, table: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    from warmstart.core import BackboneError
    from warmstart.workflow import info

    old = tmp_path / "old-bert"
    shutil.copytree(tiny_text, old)
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    for work in (lambda: as_backbone(old, "text"), lambda: info(old),
                 lambda: embed(table, backbone=old)):  # fmt: skip
        with pytest.raises(BackboneError, match="--allow-bin"):
            work()
    new = embed(table, backbone=tiny_text)
    assert embed(table, backbone=old, allow_bin=True).vectors_ND == pytest.approx(new.vectors_ND)
    assert info(old, allow_bin=True)["kind"] == "backbone"
    run = fit(
        table, backbone=old, allow_bin=True, strategy="probe", controls="none", out=tmp_path / "run"
    )
    assert run.best == "probe"
    assert not list(run.folder.rglob("*.bin"))

"""From data to a run folder and back: fit, compare, predict, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import warmstart as ws
from warmstart.backbones import backbone
from warmstart.core import (
    DataError,
    NotApplicable,
    RunError,
    UsageError,
    verify_manifest,
    write_json,
    write_manifest,
)
from warmstart.data import Dataset, View, read
from warmstart.strategies import Fitted, Probe
from warmstart.workflow import (
    DEFAULT_ARMS,
    FinishedRun,
    compare,
    evaluate,
    fit,
    open_run,
    plan,
    predict,
)

FILES = {
    "manifest.json", "predictions.parquet", "metrics.jsonl", "results.json", "report.html",
    "README.md", "split.json", "settings.json", "model/warmstart.json",
}  # fmt: skip


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_folder_holds_what_the_design_says(run: FinishedRun) -> None:
    found = files_of(run.folder)
    assert found >= FILES
    assert not any("partial" in name or name.endswith((".tmp", ".lock", ".bin", ".pkl", ".pt"))
                   for name in found)  # fmt: skip
    assert not any("checkpoints" in name for name in found)
    manifest = verify_manifest(run.folder)
    assert manifest["task_type"] == "classify"
    assert set(manifest["files"]) == found - {"manifest.json"}
    for name in found:
        if name.endswith("results.json") or name == "model/warmstart.json":
            values = json.loads((run.folder / name).read_text())
            assert values["format_version"] == 1
            assert values["task_type"] == "classify"


def test_results_say_everything(run: FinishedRun) -> None:
    results = run.results
    assert set(results) >= {
        "format_version", "task_type", "created", "warmstart", "command", "machine", "data",
        "backbone", "audit", "settings", "embedding", "arms", "pairs", "verdict",
    }  # fmt: skip
    assert [arm["name"] for arm in results["arms"]] == [
        "zero-shot", "probe", "finetune:epochs=1", "tfidf",
    ]  # fmt: skip
    for arm in results["arms"]:
        assert set(arm) >= {
            "name", "label", "role", "status", "settings", "seeds", "scores", "validation",
            "trainable_parameters", "total_parameters", "seconds", "peak_memory_bytes",
            "size_bytes", "latency_ms", "epochs", "cost", "history", "rates", "notes", "chosen",
        }  # fmt: skip
        assert arm["status"] == "done"
        assert set(arm["scores"]["metrics"]) >= {
            "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss", "ece",
        }  # fmt: skip
        assert "top3_accuracy" not in arm["scores"]["metrics"], "two classes have no top three"
        main = arm["scores"]["metrics"]["accuracy"]
        assert 0 <= main["low"] <= main["value"] <= main["high"] <= 1
    assert len(results["pairs"]) == 6
    assert results["data"]["split"]["train"] == 56
    assert results["verdict"]["best"] == run.best
    json.dumps(results, allow_nan=False)


def test_every_held_out_row_is_kept(run: FinishedRun, table: Path) -> None:
    rows = pq.read_table(run.folder / "predictions.parquet").to_pylist()
    parts = json.loads((run.folder / "split.json").read_text())
    truth = dict(zip((data := read(table)).ids, data.column("label"), strict=True))
    for arm in run.results["arms"]:
        for part in ("validation", "test"):
            own = [r for r in rows if r["arm"] == arm["name"] and r["part"] == part]
            assert sorted(r["id"] for r in own) == sorted(parts[part])
            right = np.mean([r["truth"] == r["predicted"] for r in own])
            shown = (arm["scores"]["metrics"]["accuracy"]["value"] if part == "test"
                     else arm["validation"])  # fmt: skip
            assert right == pytest.approx(shown)
            for row in own:
                assert row["truth"] == data.label_names[truth[row["id"]]]
                assert sum(row["scores"]) == pytest.approx(1)


def test_logs_name_their_arm(run: FinishedRun) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["arm"] for line in lines} == {"finetune:epochs=1"}
    assert {line["seed"] for line in lines} == {0}


def test_the_kept_model_is_the_one_that_was_scored(run: FinishedRun, table: Path) -> None:
    rows = pq.read_table(run.folder / "predictions.parquet").to_pylist()
    kept = {r["id"]: r for r in rows if r["arm"] == run.best and r["part"] == "test"}
    data = read(table).take_ids(list(kept))
    scores_NC = open_run(run.folder).model.proba(data.without_labels())
    expected_NC = np.array([kept[row_id]["scores"] for row_id in data.ids])
    np.testing.assert_allclose(scores_NC, expected_NC, atol=1e-5)


def test_report_and_card_are_whole(run: FinishedRun) -> None:
    page = run.report.read_text()
    assert "</html>" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for arm in run.results["arms"]:
        assert arm["label"] in page
    assert (run.folder / "README.md").read_text().startswith("---")


def test_fit_predict_evaluate(table: Path, minilm: str, tmp_path: Path) -> None:
    fitted = fit(table, backbone=minilm, out=tmp_path / "fit", strategy="probe", controls="none")
    assert fitted.best == "probe"
    answers = fitted.predict(["a ripe plum and cherry", "the old truck and a tram"])
    assert [a.label for a in answers] == ["fruit", "vehicle"]
    assert fitted.predict("my pear")[0].label == "fruit"
    assert fitted.predict([]) == []
    new = tmp_path / "new.csv"
    new.write_text("text,label\nsweet banana,fruit\nfast motorbike,vehicle\nold bicycle,vehicle\n")
    scores = evaluate(fitted, new)
    assert scores.main.value >= 2 / 3
    assert scores.n == 3
    found = predict(fitted.folder, new)
    assert found.inputs == ("sweet banana", "fast motorbike", "old bicycle")
    direct = fitted.predict(list(found.inputs))
    assert [a.label for a in direct] == [a.label for a in found.answers]
    assert [a.score for a in direct] == pytest.approx([a.score for a in found.answers], abs=1e-6)
    assert "probe" in repr(fitted)
    new.write_text("text,label\nsweet banana,fruit\n")
    assert evaluate(fitted, new).n == 1, "one row of one class is enough for a finished model"


def test_the_one_liner_follows_the_plan(table: Path, minilm: str) -> None:
    run = ws.fit(table, quick=True)
    recommended = ws.plan(table, quick=True)
    assert recommended.strategy == "zero-shot", "56 labels are few and the names speak"
    assert run.results["plan"]["strategy"] == run.best == recommended.strategy
    assert run.folder == Path("runs/fit-topics")
    assert run.predict(["a grape"])[0].label == "fruit"


def test_images_by_a_resnet_and_a_vit(
    pictures: Path, tiny_resnet: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    run = compare(pictures, backbone=tiny_resnet, seeds=2, budget="2m", out=tmp_path / "compare",
                  strategies=["probe", "finetune:epochs=2", "cnn:epochs=2:image_size=16"],
                  keep_models=True)  # fmt: skip
    assert {arm["status"] for arm in run.results["arms"]} <= {"done", "shortened"}
    assert [arm["seeds"] for arm in run.results["arms"]] == [1, 2, 2]
    for arm in ("probe", "finetune_epochs=2", "cnn_epochs=2_image_size=16"):
        assert (run.folder / "arms" / arm / "model" / "warmstart.json").is_file()
    found = predict(run, pictures)
    assert len(found.answers) == 40
    assert Path(found.inputs[0]).suffix == ".png"
    one = next((pictures / "red").glob("*.png"))
    assert run.predict([one])[0].label == predict(run, one).answers[0].label
    vit = fit(pictures, backbone=tiny_vit, strategy="probe", controls="none", out=tmp_path / "vit")
    assert evaluate(vit, pictures).main.value > 0.8


def test_default_arms_of_images_replace_what_cannot_work(
    pictures: Path, tiny_resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULT_ARMS, "image", ("zero-shot", "probe"))
    run = compare(pictures, backbone=tiny_resnet, seeds=1, out=tmp_path / "run")
    assert [(arm["name"], arm["status"]) for arm in run.results["arms"]] == [
        ("zero-shot", "not applicable"), ("prototypes", "done"), ("probe", "done"),
    ]  # fmt: skip
    assert "does not embed text" in run.results["arms"][0]["reason"]


class Spy(Probe):
    """A probe that keeps what it was shown."""

    name: ClassVar[str] = "spy"
    seen: ClassVar[list[View]] = []

    def fit(self, backbone: Any, view: View, run: Any) -> Fitted:
        type(self).seen.append(view)
        return super().fit(backbone, view, run)


def test_test_rows_never_reach_a_strategy(table: Path, tiny_text: Path, tmp_path: Path) -> None:
    Spy.seen.clear()
    run = compare(table, backbone=tiny_text, strategies=[Spy()], seeds=1, out=tmp_path / "run")
    parts = json.loads((run.folder / "split.json").read_text())
    (view,) = Spy.seen
    assert set(view.train.ids) == set(parts["train"])
    assert set(view.validation.ids) == set(parts["validation"])
    # Not through the storage below either.
    for dataset in (view.train, view.validation):
        stored = set(dataset.rows.data.column("id").to_pylist())
        assert not stored & set(parts["test"])


def test_models_are_asked_without_labels(
    table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.models import EncoderModel

    asked: list[bool] = []
    real = EncoderModel.proba

    def proba(self: EncoderModel, dataset: Dataset) -> np.ndarray:
        asked.append(bool((dataset.labels_N < 0).all()))
        return real(self, dataset)

    monkeypatch.setattr(EncoderModel, "proba", proba)
    run = fit(table, backbone=tiny_text, strategy="probe", controls="none", out=tmp_path / "run")
    evaluate(run, table)
    assert len(asked) == 3
    assert all(asked)


def test_a_reason_is_the_error_where_the_only_arm_cannot_work(
    tmp_path: Path, tiny_text: Path
) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("text,label\n" + "".join(f"row {i} of it,{i % 2}\n" for i in range(30)))
    with pytest.raises(NotApplicable, match="say nothing"):
        fit(path, strategy="zero-shot", controls="none", backbone=tiny_text, out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"No arm could be run. zero-shot: .*tfidf|cnn"):
        compare(path, strategies=["zero-shot", "cnn"], backbone=tiny_text, out=tmp_path / "run2")
    assert plan(path, quick=True).strategy == "prototypes"
    named = fit(path, strategy="zero-shot", controls="none", backbone=tiny_text,
                out=tmp_path / "run3", label_names=["even", "odd"])  # fmt: skip
    assert set(named.predict("row 2")[0].scores) == {"even", "odd"}


def test_labels_and_rows_that_a_model_does_not_know(
    run: FinishedRun, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("text,label\nrain,weather\nplum,fruit\n")
    with pytest.raises(DataError, match="weather"):
        evaluate(run, path)
    with pytest.raises(DataError, match=r"is one for texts, but .* holds images"):
        predict(run, pictures)
    with pytest.raises(DataError, match=r"is one for texts, but .* holds images"):
        evaluate(run, pictures)
    with pytest.raises(UsageError, match=r"metric|accuracy"):
        evaluate(run, path, metric="acuracy", label_names=["fruit", "vehicle"])
    with pytest.raises(UsageError, match="user= cannot apply to a run that classifies"):
        evaluate(run, path, user="site")


def test_groups_are_scored_and_kept_whole(table: Path, tiny_text: Path, tmp_path: Path) -> None:
    run = compare(table, backbone=tiny_text, strategies=["probe"], group="site", seeds=1,
                  out=tmp_path / "run")  # fmt: skip
    by_group = run.arm()["scores"]["by_group"]
    assert by_group
    sites = dict(zip((data := read(table)).ids, data.column("site"), strict=True))
    parts = json.loads((run.folder / "split.json").read_text())
    held = [{sites[i] for i in parts[p]} for p in ("train", "validation", "test")]
    assert not held[0] & held[1] | held[0] & held[2] | held[1] & held[2]
    assert set(by_group) == held[2]


def test_open_run_tells_what_is_wrong(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        open_run(tmp_path / "nothing")
    with pytest.raises(RunError, match="no finished warmstart folder"):
        open_run(tmp_path)
    (tmp_path / "half.partial").mkdir()
    with pytest.raises(RunError, match="unfinished"):
        open_run(tmp_path / "half")
    with pytest.raises(RunError, match="no arm 'cnn'"):
        run.arm("cnn")
    strange = tmp_path / "strange"
    strange.mkdir()
    write_json(strange / "results.json", {"verdict": [], "arms": {}})
    write_manifest(strange)
    with pytest.raises(RunError, match=r"results\.json holds no results of a run"):
        open_run(strange).verdict  # noqa: B018


@pytest.mark.parametrize("victim", ["results.json", "model/head.safetensors", "split.json",
                                    "predictions.parquet", "report.html"])  # fmt: skip
def test_a_flipped_bit_is_noticed(
    table: Path, tiny_text: Path, tmp_path: Path, victim: str
) -> None:
    run = fit(table, backbone=tiny_text, strategy="probe", controls="none", out=tmp_path / "run")
    path = run.folder / victim
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(bytes(raw))
    with pytest.raises(RunError, match=path.name):
        open_run(run.folder)


def test_seeds_and_metrics_are_checked(table: Path, tiny_text: Path) -> None:
    with pytest.raises(UsageError, match="seeds must be at least 1, got 0"):
        compare(table, backbone=tiny_text, seeds=0)
    with pytest.raises(UsageError, match="budget"):
        compare(table, backbone=tiny_text, budget="soon")
    with pytest.raises(UsageError, match="acuracy"):
        compare(table, backbone=tiny_text, strategies=["probe"], metric="acuracy")


def test_shots_and_limit(table: Path, tiny_text: Path, tmp_path: Path) -> None:
    run = fit(
        table,
        backbone=tiny_text,
        strategy="probe",
        controls="none",
        shots=4,
        out=tmp_path / "shots",
    )
    assert run.results["data"]["split"]["train"] == 8
    run = fit(
        table,
        backbone=tiny_text,
        strategy="probe",
        controls="none",
        limit=40,
        out=tmp_path / "limit",
    )
    assert run.results["data"]["rows"] == 40


class Worse(Probe):
    """A probe whose head was turned round: it is wrong wherever the probe is right."""

    name: ClassVar[str] = "worse"
    title: ClassVar[str] = "Worse"

    def fit(self, backbone: Any, view: View, run: Any) -> Fitted:
        fitted = super().fit(backbone, view, run)
        with torch.no_grad():
            for parameter in fitted.model.head.parameters():
                parameter.neg_()
        return fitted


def test_a_model_that_is_worse_than_a_control_is_not_kept(
    table: Path, tiny_text: Path, tmp_path: Path
) -> None:
    run = fit(table, backbone=tiny_text, strategy=Worse(), out=tmp_path / "run")
    names = [arm["name"] for arm in run.results["arms"]]
    assert names == ["worse", "zero-shot", "probe", "tfidf"]
    assert [arm["role"] for arm in run.results["arms"]] == ["arm", *["control"] * 3]
    assert run.best != "worse"
    assert run.verdict["asked"] == "worse"
    first = run.verdict["sentences"][0]
    assert first.startswith("Worse was asked for, but ")
    assert "on the validation rows, by which the model is chosen" in first
    assert any("backbone" in step for step in run.verdict["next"])
    values = {arm["name"]: arm["validation"] for arm in run.results["arms"] if "validation" in arm}
    assert values[run.best or ""] == max(values.values())
    told = [p.label for p in run.predict(["a ripe plum", "a fast train"])]
    assert set(told) <= set(run.model.label_names)
    beaten = {item["control"] for item in run.verdict["below_control"] if item["arm"] == "worse"}
    assert "probe" in beaten


def test_the_model_that_was_asked_for_wins_where_validation_sees_no_difference(
    table: Path, tiny_text: Path, tmp_path: Path
) -> None:
    class Same(Probe):
        name: ClassVar[str] = "same"
        title: ClassVar[str] = "The same"

    run = fit(table, backbone=tiny_text, strategy=Same(), out=tmp_path / "run", controls="cheap")
    values = {arm["name"]: arm["validation"] for arm in run.results["arms"] if "validation" in arm}
    assert values["same"] == values["probe"]
    if values["same"] == max(values.values()):
        assert run.best == "same"
        assert "against" in run.verdict["sentences"][0]


def test_controls_are_chosen(table: Path, tiny_text: Path, pictures: Path, tiny_vit: Path,
                             tmp_path: Path) -> None:  # fmt: skip
    quick = {"epochs": 1}
    full = fit(table, backbone=tiny_text, strategy="partial", settings=quick, controls="full",
               out=tmp_path / "full")  # fmt: skip
    assert [arm["name"] for arm in full.results["arms"]][1:] == [
        "zero-shot", "probe", "tfidf", "scratch"
    ]  # fmt: skip
    none = fit(table, backbone=tiny_text, strategy="probe", controls="none", out=tmp_path / "none")
    assert [arm["name"] for arm in none.results["arms"]] == ["probe"]
    images = fit(pictures, backbone=tiny_vit, strategy="probe", out=tmp_path / "images")
    scored = [arm["name"] for arm in images.results["arms"] if "scores" in arm]
    assert scored == ["probe", "prototypes"]
    with pytest.raises(UsageError, match="controls 'most' is unknown"):
        fit(table, backbone=tiny_text, controls="most")


def test_a_network_of_ones_own_answers_where_it_was_fitted(pictures: Path, tmp_path: Path) -> None:
    """Its code is in no folder; the run that fit returns still knows it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep = nn.Linear(3, 8), nn.Linear(8, 8)

        def forward(self, colour: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.deep(self.stem(colour).tanh())
            return found

    def colours(images: Any) -> dict[str, torch.Tensor]:
        pixels = [torch.tensor(i.resize((1, 1)).getpixel((0, 0))) / 255.0 for i in images]
        return {"colour": torch.stack(pixels)}

    torch.manual_seed(0)
    groups = {"stem": ["stem"], "deep": ["deep"]}
    own = backbone(module=Net(), processor=colours, groups=groups, modality="image")
    run = fit(pictures, backbone=own, strategy="probe", controls="none", out=tmp_path / "own")
    paths = sorted(map(str, pictures.rglob("*.png")))[:3]
    labels = [answer.label for answer in run.predict(paths)]
    assert labels == [answer.label for answer in predict(run, paths, device="cpu").answers]
    with pytest.raises(RunError, match="its code is not stored"):
        open_run(run.folder).predict(paths)
    again = open_run(run.folder, code={"module": Net(), "processor": colours, "groups": groups})
    assert [answer.label for answer in again.predict(paths)] == labels

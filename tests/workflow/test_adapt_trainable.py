"""`adapt` with a part of the encoder that learns: what moves, what is kept, what goes on."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from warmstart.backbones import backbone, state_hash
from warmstart.core import RunError, UsageError
from warmstart.data import read
from warmstart.models import AdaptedModel, EncoderModel
from warmstart.shift import TARGET_IMAGES, DomainInputs, Mmd
from warmstart.training import LoopState
from warmstart.workflow import adapt, open_run, predict

QUICK = ["source-only:epochs=2:width=8:rate=1e-2", "mmd:epochs=2:width=8:rate=1e-2:snapshots=2"]


@pytest.fixture(scope="session")
def pair(domains: Callable[[int, int], tuple[Path, Path]]) -> tuple[Path, Path]:
    """60 labelled sentences, and 50 others with words in front."""
    return domains(60, 50)


@pytest.fixture(scope="session", params=["lora", "last:1", "all"])
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
    pair: tuple[Path, Path], tiny_text: Path,
) -> Any:  # fmt: skip
    return adapt(*pair, methods=QUICK, trainable=request.param, backbone=tiny_text, seeds=1,
                 device="cpu", out=tmp_path_factory.mktemp("runs") / "adapted")  # fmt: skip


def test_the_kept_model_holds_what_the_encoder_learned(
    run: Any, tiny_text: Path, pair: tuple[Path, Path]
) -> None:
    part = run.results["adaptation"]["trainable"]
    model = open_run(run.folder).model
    assert isinstance(model, AdaptedModel if part == "lora" else EncoderModel)
    assert model.tuned
    plain, tuned = backbone(tiny_text).load(), model.encoder
    names = plain.groups.names
    if part != "lora":
        moved = {n for n in names if state_hash(plain, [n]) != state_hash(tuned, [n])}
        assert moved == (set(names) if part == "all" else {names[-1]})
    rows = pq.read_table(run.folder / "predictions.parquet").to_pylist()
    kept = {r["id"]: r["scores"] for r in rows
            if (r["part"], r["arm"]) == ("target", run.best)}  # fmt: skip
    target = read(pair[1]).take_ids(list(kept))
    proba_NC = model.proba(target.without_labels())
    np.testing.assert_array_equal(proba_NC, [kept[i] for i in target.ids], "the same bits")
    untouched_ND = backbone(tiny_text).features(target).vectors_ND
    assert np.abs(model.proba_and_vectors(target)[1] - untouched_ND).max() > 1e-4
    assert predict(run.folder, ["photo of a plum"]).answers[0].label in ("fruit", "vehicle")


def test_statistics_of_an_encoder_that_learned_from_the_target(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    """It moved the rows it learned from: held-out ones set the threshold, or there is none."""
    settings: dict[str, Any] = {
        "methods": QUICK, "keep": QUICK[1], "trainable": "last:1", "backbone": tiny_text,
        "seeds": 1, "device": "cpu",
    }  # fmt: skip
    run = adapt(*pair, out=tmp_path / "labelled", **settings)
    parts = json.loads((run.folder / "target_split.json").read_text())
    held = read(pair[1]).take_ids(parts["test"]).without_labels()
    vectors = run.model.proba_and_vectors(held)[1]
    np.testing.assert_allclose(run.familiarity.reference_RD, vectors, atol=1e-5)
    assert len(run.familiarity.rows_MD) == len(parts["adapt"])
    assert len(run.familiarity.calibration["knn"]) == len(parts["test"])
    bare = tmp_path / "bare.csv"
    lines = pair[1].read_text().splitlines()
    bare.write_text("\n".join(["text", *(line.rpartition(",")[0] for line in lines[1:])]) + "\n")
    none = adapt(pair[0], bare, out=tmp_path / "bare", **settings)
    with pytest.raises(RunError, match="adapt --trainable without labelled target rows"):
        none.unfamiliar(["photo of a plum"])


def test_results_say_what_learned_and_how_fast(run: Any) -> None:
    part = run.results["adaptation"]["trainable"]
    words = {"lora": "LoRA on the encoder", "last:1": "the last layer group",
             "all": "the whole encoder"}[part]  # fmt: skip
    for page in (run.report, run.folder / "README.md"):
        assert f"Beside bottleneck and head, {words} learned." in page.read_text()
    assert json.loads((run.folder / "settings.json").read_text())["trainable"] == part
    for arm in run.results["arms"]:
        assert arm["chosen"]["trainable"] == part
        assert arm["chosen"]["batch_size"] == 32
        rates = arm["chosen"]["rates"]
        assert rates["head"] == pytest.approx(1e-2)
        encoder = [rate for name, rate in rates.items() if name != "head"]
        if part == "all":
            assert encoder == pytest.approx([1e-2 / 3 / 2.6**k for k in (2, 1, 0)])
        elif part == "last:1":
            assert encoder == pytest.approx([1e-2 / 3])
        else:
            assert encoder == pytest.approx([1e-2, 1e-2])
        head = 24 * 8 + 8 + 8 * 2 + 2
        assert arm["trainable_parameters"] > head
        learned = arm["trainable_parameters"] - head
        total = backbone_size(run) + head + (learned if part == "lora" else 0)
        assert arm["total_parameters"] == total
    assert not list(run.folder.rglob("encoder.safetensors")), "weights are kept once"
    assert not list(run.folder.rglob("snapshots"))


def backbone_size(run: Any) -> int:
    return int(run.results["backbone"]["parameters"])


@pytest.mark.parametrize(
    "given", ["features:1", "last", "last:0", "last:x", "lora:2", "everything"]
)
def test_other_parts_are_refused_with_what_is_allowed(
    given: str, pair: tuple[Path, Path], tiny_text: Path
) -> None:
    with pytest.raises(UsageError, match="trainable must be features, lora, last:N") as caught:
        adapt(*pair, methods=QUICK, trainable=given, backbone=tiny_text)
    assert repr(given) in str(caught.value)


def test_all_groups_are_not_the_last_ones(pair: tuple[Path, Path], tiny_text: Path) -> None:
    with pytest.raises(UsageError, match=r"N between 1 and 2 .* 3 layer groups, got 3.*use all"):
        adapt(*pair, methods=QUICK, trainable="last:3", backbone=tiny_text)


def test_no_label_is_in_what_a_method_gets(
    pictures: Path, tiny_resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images lie in folders named by their class: no path is within reach either."""
    given: list[DomainInputs] = []
    real = Mmd.fit

    def fit(self: Mmd, rows: DomainInputs, run: Any) -> Any:
        given.append(rows)
        assert rows.target.inputs([0])[0].size == (24, 24)
        return real(self, rows, run)

    monkeypatch.setattr(Mmd, "fit", fit)
    made = adapt(pictures, pictures, methods=[*QUICK, "self-training:epochs=2:width=8"],
                 trainable="last:1", backbone=tiny_resnet, seeds=1, device="cpu",
                 out=tmp_path / "run")  # fmt: skip
    (rows,) = given
    assert (rows.target.labels_N == -1).all()
    assert set(rows.target.column_names) == {"id", "image", "label", "content"}
    said = json.dumps([rows.target.source, rows.target.ids, rows.target.contents])
    cells = rows.target.column("image")
    assert str(pictures) not in json.dumps([said, cells])
    images = tmp_path / "run.partial" / TARGET_IMAGES
    assert cells == [str(images / content) for content in rows.target.contents], "none in memory"
    assert not list(tmp_path.rglob(TARGET_IMAGES)), "only while the run lasts"
    assert all(arm["status"] == "done" for arm in made.results["arms"])
    assert predict(made.folder, pictures).answers


def test_one_tuned_encoder_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.workflow import adapt_results

    class Model:
        def __init__(self, seed: int) -> None:
            self.seed = seed

        def proba(self, rows: int) -> Any:
            return np.full((rows, 2), self.seed)

    made: list[weakref.ref[Model]] = []

    def model(_: Any, seed: int) -> Model:
        assert all(one() is None for one in made), "the one before is gone"
        found = Model(seed)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(adapt_results, "_model", model)
    fitted = [SimpleNamespace(named=SimpleNamespace(name=name), seeds=[1, 2]) for name in "ab"]
    rows = [SimpleNamespace(without_labels=lambda n=n: n) for n in (3, 5)]
    outcome: Any = SimpleNamespace(fitted=fitted)
    found = adapt_results._probabilities(outcome, rows)
    assert len(made) == 4
    assert [{name: p.shape for name, p in one.items()} for one in found] == [
        {"a": (2, n, 2), "b": (2, n, 2)} for n in (3, 5)
    ]
    assert found[1]["b"][:, 0, 0].tolist() == [1, 2]


class _StopError(Exception):
    """Stands for a process that was killed."""


def test_a_fit_that_was_killed_goes_on_to_the_same_bits(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.shift import adapt_train
    from warmstart.training import Checkpoints

    settings: dict[str, Any] = {"methods": QUICK, "trainable": "last:1", "backbone": tiny_text,
                                "seeds": 1, "device": "cpu"}  # fmt: skip
    monkeypatch.setattr(adapt_train, "Checkpoints", lambda **of: Checkpoints(every_steps=1, **of))
    whole = adapt(*pair, **settings, out=tmp_path / "whole")
    from warmstart.shift.tuning_course import TunedCourse

    real = TunedCourse.write
    written: list[int] = []

    def stopped(self: TunedCourse, epoch: int) -> Path:
        if epoch == 2 and not written and "mmd" in str(self._path(epoch)):
            written.append(epoch)
            raise _StopError
        return real(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(TunedCourse, "write", stopped)
        with pytest.raises(_StopError):
            adapt(*pair, **settings, out=tmp_path / "run")
    assert list((tmp_path / "run.partial").rglob("checkpoints"))
    resumed: list[bool] = []
    start = TunedCourse.validate

    def watched(self: TunedCourse, state: LoopState) -> Any:
        resumed.append(state.resumed)
        return start(self, state)

    monkeypatch.setattr(TunedCourse, "validate", watched)
    made = adapt(*pair, **settings, out=tmp_path / "run")
    assert resumed, "it goes on"
    assert all(resumed), "nothing begins anew"
    tables = [pq.read_table(one.folder / "predictions.parquet") for one in (whole, made)]
    assert tables[0].equals(tables[1])
    weights = [(one.folder / "model" / "model.safetensors").read_bytes() for one in (whole, made)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("at", "half"), [(1, False), (2, True), (2, False), (3, True), (3, False)])
def test_a_fit_that_was_killed_while_tidying_can_go_on(
    at: int, half: bool, pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each removal in turn is the last thing that the process did, or stopped half way."""
    settings: dict[str, Any] = {"methods": QUICK, "trainable": "last:1", "seeds": 1,
                                "backbone": tiny_text, "device": "cpu"}  # fmt: skip
    calls: list[Path] = []
    real = shutil.rmtree

    def killed(path: Path, **others: Any) -> None:
        if "mmd" not in str(path):  # source-only keeps one epoch, which it can write again
            real(path, **others)
            return
        calls.append(path)
        if half and len(calls) == at:
            for one in path.rglob("*.safetensors"):
                one.unlink()
        else:
            real(path, **others)
        if len(calls) == at:
            raise _StopError

    with monkeypatch.context() as patch:
        patch.setattr("warmstart.shift.adapt_seed.shutil", SimpleNamespace(rmtree=killed))
        with pytest.raises(_StopError):
            adapt(*pair, **settings, out=tmp_path / "run")
    names = ["checkpoints.old", "checkpoints.old", "snapshots"]
    assert [one.name for one in calls] == names[:at]
    made = adapt(*pair, **settings, out=tmp_path / "run")
    assert [arm["status"] for arm in made.results["arms"]] == ["done"] * 2
    assert not [*made.folder.rglob("checkpoints*"), *made.folder.rglob("snapshots")]


def test_a_run_that_was_killed_at_its_end_fits_nothing_again(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between a weights file and its manifest: the next call tidies up and publishes."""
    from warmstart.core import verify_manifest, write_manifest
    from warmstart.shift import read_method

    settings: dict[str, Any] = {"methods": QUICK[:1], "trainable": "last:1", "seeds": 1,
                                "backbone": tiny_text, "device": "cpu"}  # fmt: skip

    def killed(folder: Path, **_: Any) -> None:
        raise _StopError

    fits: list[Path] = []

    def once(folder: Path, **facts: Any) -> None:
        (killed if fits else write_manifest)(folder, **facts)
        fits.append(folder)

    with monkeypatch.context() as patch:
        patch.setattr("warmstart.shift.adapt_seed.write_manifest", once)
        with pytest.raises(_StopError):
            adapt(*pair, **settings, out=tmp_path / "run")
    assert not list((tmp_path / "run.partial").rglob("encoder.safetensors"))
    monkeypatch.setattr(sys.modules["warmstart.workflow.adapt"], "fit_method", killed)
    made = adapt(*pair, **settings, out=tmp_path / "run")
    (own,) = (made.folder / "arms").glob("*/seed-*")
    verify_manifest(own)
    assert read_method(own) is None, "its weights are in the model alone"
    assert predict(made.folder, ["photo of a plum"]).answers


def test_every_method_runs_on_an_encoder_that_learns(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    methods = [f"{name}:epochs=2:width=8:snapshots=1" for name in
               ("source-only", "coral", "dann", "cdan", "reweight", "label-shift",
                "self-training")]  # fmt: skip
    made = adapt(*pair, methods=methods, trainable="last:1", backbone=tiny_text, seeds=1,
                 device="cpu", out=tmp_path / "run")  # fmt: skip
    assert [arm["status"] for arm in made.results["arms"]] == ["done"] * 7
    chosen = {arm["name"].partition(":")[0]: arm["chosen"] for arm in made.results["arms"]}
    assert chosen["reweight"]["effective_rows"] > 0
    assert set(chosen["label-shift"]["class_shares"]) == {"source", "em", "bbse"}
    assert chosen["self-training"]["rounds"] >= 1

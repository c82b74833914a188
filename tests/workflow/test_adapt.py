"""`adapt` from two files to a run folder: nothing leaks, it goes on, predict and evaluate work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import warmstart as ws
from warmstart.core import DataError, Interrupted, RunError, UsageError, verify_manifest
from warmstart.data import read
from warmstart.shift import Dann, DomainVectors, SourceOnly
from warmstart.workflow import adapt, evaluate, open_run, predict
from warmstart.workflow import adapt as adapt_verb

QUICK = ["source-only:epochs=3:width=8", "mmd:epochs=4:width=8:snapshots=2",
         "label-shift:epochs=3:width=8"]  # fmt: skip
FILES = {
    "manifest.json", "predictions.parquet", "metrics.jsonl", "results.json", "report.html",
    "README.md", "split.json", "target_split.json", "contents.json", "settings.json",
    "model/warmstart.json",
}  # fmt: skip


@pytest.fixture(scope="session")
def pair(domains: Callable[[int, int], tuple[Path, Path]]) -> tuple[Path, Path]:
    """100 labelled sentences, and 80 others with a word in front."""
    return domains(100, 80)


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path], tiny_text: Path
) -> ws.workflow.FinishedRun:
    return adapt(*pair, methods=QUICK, backbone=tiny_text, seeds=2, device="cpu",
                 out=tmp_path_factory.mktemp("runs") / "adapted")  # fmt: skip


def test_the_folder_is_a_run_like_any_other(run: Any) -> None:
    found = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*") if p.is_file()}
    assert found >= FILES
    assert not any("checkpoints" in name or name.endswith((".pkl", ".pt", ".lock"))
                   for name in found)  # fmt: skip
    assert verify_manifest(run.folder)["task_type"] == "classify"
    results = run.results
    assert [arm["name"] for arm in results["arms"]] == QUICK
    assert [arm["role"] for arm in results["arms"]] == ["control", "arm", "arm"]
    assert all(arm["seeds"] == 2 for arm in results["arms"])
    found = results["adaptation"]
    assert found["target"]["rows"] == 80
    assert found["target"]["adapted_to"] + found["target"]["test"] == 80
    assert found["target"]["test"] == 24
    assert set(found["decision"]["mean_ranks"]) <= set(QUICK)
    assert run.best == found["decision"]["kept"]
    assert [(pair["a"], pair["b"]) for pair in results["pairs"]] == [
        (QUICK[1], QUICK[0]), (QUICK[2], QUICK[0])
    ]  # fmt: skip
    shares = found["shares"]
    assert set(shares) == {"source", "em", "bbse", "true"}
    assert sum(shares["em"].values()) == pytest.approx(1.0)
    json.dumps(results, allow_nan=False)


def test_predictions_are_those_of_the_kept_model(run: Any, pair: tuple[Path, Path]) -> None:
    rows = pq.read_table(run.folder / "predictions.parquet").to_pylist()
    parts = json.loads((run.folder / "target_split.json").read_text())
    assert not set(parts["adapt"]) & set(parts["test"])
    seed = run.results["adaptation"]["kept"]["seed"]
    kept = {r["id"]: r for r in rows
            if (r["part"], r["arm"], r["seed"]) == ("target", run.best, seed)}  # fmt: skip
    assert set(kept) == set(parts["test"])
    target = read(pair[1]).take_ids(list(kept))
    proba_NC = open_run(run.folder).model.proba(target.without_labels())
    expected_NC = np.array([kept[row_id]["scores"] for row_id in target.ids])
    np.testing.assert_allclose(proba_NC, expected_NC, atol=1e-5)
    for row in kept.values():
        assert row["truth"] in ("fruit", "vehicle")
    arm = run.arm()
    right = np.mean([row["truth"] == row["predicted"] for row in kept.values()])
    assert arm["kept"]["metrics"]["accuracy"] == pytest.approx(right)
    source = {r["id"] for r in rows if r["part"] == "source"}
    assert source == set(json.loads((run.folder / "split.json").read_text())["test"])


def test_predict_and_evaluate_read_it(run: Any, pair: tuple[Path, Path]) -> None:
    answers = predict(run.folder, ["photo of a plum", "photo of my car"]).answers
    assert {answer.label for answer in answers} <= {"fruit", "vehicle"}
    scored = evaluate(run.folder, pair[1])
    assert scored.n == 80
    assert scored.seen_in_training == 56, "rows that it was adapted to count as seen"
    assert "FinishedRun" in repr(run)


def test_the_run_keeps_statistics_of_the_target(
    run: Any, pair: tuple[Path, Path], topics: Callable[..., Any], tmp_path: Path
) -> None:
    kept = run.familiarity
    facts = json.loads((run.folder / "familiarity.json").read_text())
    assert facts["rows"] == "target"
    parts = json.loads((run.folder / "target_split.json").read_text())
    rows = read(pair[1]).take_ids(parts["adapt"])
    held = round(0.3 * len(set(rows.contents)))
    assert held <= len(kept.calibration["mahalanobis"]) < len(rows) / 2
    assert len(kept.rows_MD) + len(kept.calibration["mahalanobis"]) == len(rows)
    assert sum(kept.counts.values()) == len(kept.rows_MD)
    vectors_ND = run.model.proba_and_vectors(rows.without_labels())[1]
    known = {one.tobytes() for one in vectors_ND}
    assert all(one.tobytes() in known for one in kept.rows_MD), "no test row, no source row"
    texts, labels = topics(60, seed=7)
    like = [f"photo of {text}" for text in texts]
    alien = ["zebra oboe quartz jazz fjord lynx"] * 20
    assert run.unfamiliar(alien).count == 20
    assert run.unfamiliar(like).count < 12
    new = tmp_path / "new.csv"
    lines = [f"{text},{label}" for text, label in zip(like, labels, strict=True)]
    new.write_text("\n".join(["text,label", *lines]) + "\n")
    found = ws.drift(run.folder, new, permutations=119, device="cpu")
    assert found.results["run"]["test_rows"] == len(parts["test"])
    assert found.results["run"]["source"] == str(pair[1])
    names = [test.name for test in found.measured.tests]
    assert names == ["rows", "unfamiliar", "answers", "confidence", "accuracy"]


def test_a_report_and_a_card_tell_it(run: Any) -> None:
    page = run.report.read_text()
    assert "Chosen without target labels" in page
    assert "A-distance" in page
    assert "MMD (DAN)" in page
    card = (run.folder / "README.md").read_text()
    assert "## From the source to the target" in card
    assert "| method | mean rank |" in card


def test_without_target_labels_the_report_says_what_cannot_be_known(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.csv"
    lines = pair[1].read_text().splitlines()
    bare.write_text("\n".join(["text", *(line.rpartition(",")[0] for line in lines[1:])]) + "\n")
    made = adapt(pair[0], bare, methods=QUICK[:2], backbone=tiny_text, seeds=1, device="cpu",
                 out=tmp_path / "run")  # fmt: skip
    assert made.results["adaptation"]["target"]["adapted_to"] == 80
    assert made.results["adaptation"]["shares"]["true"] is None
    assert made.results["pairs"] == []
    assert not any("scores" in arm for arm in made.results["arms"])
    told = " ".join(made.verdict["sentences"])
    assert "cannot be known" in told
    assert "warmstart evaluate RUN LABELLED" in " ".join(made.verdict["next"])
    assert "no labels that could be reported on" in made.report.read_text()
    rows = pq.read_table(made.folder / "predictions.parquet").to_pylist()
    there = [row for row in rows if row["part"] == "target"]
    assert len(there) == 2 * 80
    assert all(row["truth"] is None for row in there)
    assert predict(made.folder, ["a pear"]).answers
    assert repr(made).startswith("FinishedRun")
    # source-only learned nothing of the target: its answers there are as good as held-out ones
    found = ws.drift(made.folder, pair[1], permutations=119, device="cpu")
    assert [one.name for one in found.measured.tests] == [
        "rows", "unfamiliar", "answers", "confidence"
    ]  # fmt: skip
    assert "adapting" in made.results["adaptation"]["decision"]
    assert not made.results["adaptation"]["decision"]["adapting"]
    other = adapt(pair[0], bare, methods=QUICK[:2], backbone=tiny_text, seeds=1, device="cpu",
                  keep=QUICK[1], out=tmp_path / "kept")  # fmt: skip
    found = ws.drift(other.folder, pair[1], permutations=119, device="cpu")
    assert [one.name for one in found.measured.tests] == ["rows", "unfamiliar"]
    assert any("answers and confidence are not tested" in one for one in found.sentences)
    assert found.measured.accuracy is None


def test_labels_of_the_target_change_nothing_but_the_report(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    """The same rows with every label turned round: the same split, heads, choice and answers."""
    turned = tmp_path / "gadgets.csv"
    swap = {"fruit": "vehicle", "vehicle": "fruit", "label": "label"}
    lines = [line.rpartition(",") for line in pair[1].read_text().splitlines()]
    turned.write_text("\n".join(f"{text},{swap[label]}" for text, _, label in lines) + "\n")
    made = [
        adapt(
            pair[0],
            target,
            methods=QUICK,
            backbone=tiny_text,
            seeds=1,
            device="cpu",
            out=tmp_path / f"run{k}",
        )
        for k, target in enumerate((pair[1], turned))
    ]
    one, other = (json.loads((m.folder / "target_split.json").read_text()) for m in made)
    assert one == other
    assert made[0].results["adaptation"]["decision"] == made[1].results["adaptation"]["decision"]
    tables = [pq.read_table(m.folder / "predictions.parquet").to_pylist() for m in made]
    assert [row["scores"] for row in tables[0]] == [row["scores"] for row in tables[1]]
    truths = [[row["truth"] for row in table if row["part"] == "target"] for table in tables]
    assert all(a != b for a, b in zip(*truths, strict=True))
    heads = [(m.folder / "model" / "head.safetensors").read_bytes() for m in made]
    assert heads[0] == heads[1]


def test_labels_never_reach_a_method(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[DomainVectors] = []
    real = SourceOnly.fit

    def fit(self: SourceOnly, rows: DomainVectors, run: Any) -> Any:
        given.append(rows)
        return real(self, rows, run)

    monkeypatch.setattr(SourceOnly, "fit", fit)
    made = adapt(*pair, methods=QUICK[:1], backbone=tiny_text, seeds=1, device="cpu",
                 out=tmp_path / "run")  # fmt: skip
    (rows,) = given
    assert len(rows.target_ids_U) == 56
    parts = json.loads((made.folder / "target_split.json").read_text())
    contents = dict(zip((data := read(pair[1])).ids, data.contents, strict=True))
    shown = {row_id.partition("-")[0] for row_id in rows.target_ids_U}
    assert shown == {contents[row_id] for row_id in parts["adapt"]}
    assert not shown & {contents[row_id] for row_id in parts["test"]}


def test_an_interrupted_run_goes_on(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [*QUICK[:1], "dann:epochs=2:width=8"]
    settings: dict[str, Any] = {"methods": methods, "backbone": tiny_text, "seeds": 1,
                                "device": "cpu"}  # fmt: skip
    whole = adapt(*pair, **settings, out=tmp_path / "whole")
    fits: list[str] = []
    real = Dann.fit

    def stopped(self: Dann, rows: DomainVectors, run: Any) -> Any:
        raise Interrupted("stopped by the test")

    with monkeypatch.context() as patch:
        patch.setattr(Dann, "fit", stopped)
        with pytest.raises(Interrupted):
            adapt(*pair, **settings, out=tmp_path / "run")
    assert (tmp_path / "run.partial" / "arms").is_dir()
    with pytest.raises(RunError, match="unfinished"):
        open_run(tmp_path / "run")
    source_fit = SourceOnly.fit

    def counted(self: SourceOnly, rows: DomainVectors, run: Any) -> Any:
        fits.append("source-only")
        return source_fit(self, rows, run)

    monkeypatch.setattr(SourceOnly, "fit", counted)
    monkeypatch.setattr(Dann, "fit", real)
    made = adapt(*pair, **settings, out=tmp_path / "run")
    assert fits == [], "what had ended is not done again"
    heads = [(m.folder / "model" / "head.safetensors").read_bytes() for m in (made, whole)]
    assert heads[0] == heads[1]


def test_source_rows_that_tell_the_answers_are_dropped(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both.csv"
    both.write_text(pair[0].read_text() + "\n".join(pair[1].read_text().splitlines()[1:]) + "\n")
    made = adapt(both, pair[1], methods=QUICK[:1], backbone=tiny_text, seeds=1, device="cpu",
                 out=tmp_path / "run")  # fmt: skip
    split = made.results["data"]["split"]
    assert split["dropped"] > 0
    assert any("equal rows stand among the target's test rows" in note for note in split["notes"])
    contents = json.loads((made.folder / "contents.json").read_text())
    parts = json.loads((made.folder / "target_split.json").read_text())
    judged = set(read(pair[1]).take_ids(parts["test"]).contents)
    assert not judged & (set(contents["train"]) | set(contents["validation"]))


def test_a_targets_own_test_part_is_held_out(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    lines = pair[1].read_text().splitlines()[1:]
    given = tmp_path / "given"
    given.mkdir()
    for name, part in (("train", lines[:60]), ("test", lines[60:])):
        (given / f"{name}.csv").write_text("text,label\n" + "\n".join(part) + "\n")
    made = adapt(pair[0], given, methods=QUICK[:1], backbone=tiny_text, seeds=1, device="cpu",
                 out=tmp_path / "run")  # fmt: skip
    target = made.results["adaptation"]["target"]
    assert (target["adapted_to"], target["test"]) == (60, 20)
    assert "own test part (20 rows)" in target["notes"][0]


def test_classes_must_agree_by_name(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(pair[1].read_text().replace("vehicle\n", "vehicles\n"))
    with pytest.raises(DataError, match=r"wrong.csv has the class 'vehicles'.*\"vehicle\""):
        adapt(pair[0], wrong, backbone=tiny_text)
    with pytest.raises(UsageError, match="seeds must be 1 to 1000, got 0"):
        adapt(*pair, backbone=tiny_text, seeds=0)
    with pytest.raises(UsageError, match='Did you mean "dann"'):
        adapt(*pair, backbone=tiny_text, methods=["dan"])
    with pytest.raises(UsageError, match="acuracy"):
        adapt(*pair, backbone=tiny_text, metric="acuracy")
    assert adapt_verb is ws.adapt


def test_new_class_names_serve_both_domains(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(["text", *(f"my old plum {i}" for i in range(20))]) + "\n")
    for number, target in enumerate((pair[1], bare)):
        made = adapt(
            pair[0], target, methods=QUICK[:1], backbone=tiny_text, seeds=1, device="cpu",
            label_names=["eat", "drive"], out=tmp_path / f"run{number}",
        )  # fmt: skip
        assert made.results["data"]["label_names"] == ["eat", "drive"]
        assert made.results["adaptation"]["target"]["labelled"] == (80, 0)[number]


def test_images_too(pictures: Path, tiny_vit: Path, tmp_path: Path) -> None:
    made = adapt(pictures, pictures, methods=QUICK[:1], backbone=tiny_vit, seeds=1, device="cpu",
                 out=tmp_path / "run")  # fmt: skip
    assert made.results["data"]["modality"] == "image"
    assert predict(made.folder, pictures).answers

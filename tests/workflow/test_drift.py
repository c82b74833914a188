"""`drift` and `predict --flag-unfamiliar`: from a run folder and a file to answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import warmstart as ws
from warmstart.core import DataError, RunError, UsageError, write_manifest
from warmstart.data import read
from warmstart.workflow import FinishedRun, fit, open_run, predict, write_drift, write_predictions

QUICK: dict[str, Any] = {"permutations": 119, "device": "cpu"}
ALIEN = [f"zebra {word} oboe {word} quartz" for word in ("jazz", "fjord", "lynx", "gnu", "vex")]


def write(path: Path, texts: Any, labels: Any = None, **columns: Any) -> Path:
    rows = {"text": texts} | ({"label": labels} if labels is not None else {}) | columns
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(rows)
        writer.writerows(zip(*rows.values(), strict=True))
    return path


@pytest.fixture(scope="module")
def probe(
    tmp_path_factory: pytest.TempPathFactory, topics: Callable[..., Any], tiny_text: Path
) -> FinishedRun:
    """A probe on 900 sentences on fruit and vehicles; 135 validation rows."""
    folder = tmp_path_factory.mktemp("drift")
    table = write(folder / "topics.csv", *topics(900))
    return fit(table, strategy="probe", controls="none", backbone=tiny_text, device="cpu",
               out=folder / "run")  # fmt: skip


@pytest.fixture
def fresh(tmp_path: Path, topics: Callable[..., Any], probe: FinishedRun) -> Path:
    """Further rows of the same kind, none of them in the run."""
    known = set(json.loads((probe.folder / "contents.json").read_text())["train"])
    known |= set(json.loads((probe.folder / "contents.json").read_text())["validation"])
    texts, labels = topics(400, seed=9)
    whole = write(tmp_path / "whole.csv", texts, labels)
    new = [i for i, content in enumerate(read(whole).contents) if content not in known]
    return write(tmp_path / "fresh.csv", [texts[i] for i in new], [labels[i] for i in new])


# ------------------------------------------------------------------------- what the run keeps


def test_the_run_keeps_statistics_of_its_training_rows(probe: FinishedRun) -> None:
    kept = probe.familiarity
    manifest = json.loads((probe.folder / "manifest.json").read_text())["files"]
    assert {"familiarity.json", "familiarity.safetensors"} <= set(manifest)
    assert sum(kept.counts.values()) == len(json.loads((probe.folder / "split.json").read_text())
                                            ["train"])  # fmt: skip
    assert len(kept.calibration["mahalanobis"]) == 135
    split = json.loads((probe.folder / "split.json").read_text())
    rows = read(probe.results["data"]["source"]).take_ids(split["validation"])
    proba, vectors = probe.proba_and_vectors(rows.without_labels())
    np.testing.assert_array_equal(proba, probe.model.proba(rows))
    np.testing.assert_array_equal(proba, probe.model.head.proba(vectors))
    np.testing.assert_allclose(
        np.sort(kept.scores(vectors)), kept.calibration["mahalanobis"], rtol=1e-4
    )  # the loaded model's vectors are those of the cache
    assert kept.reference_RD is kept.rows_MD
    assert sum(p.stat().st_size for p in probe.folder.glob("familiarity.*")) < 8_000_000


@pytest.mark.parametrize("strategy", ["finetune", "tfidf"])
def test_models_that_move_their_vectors_or_have_none(
    strategy: str, table: Path, tiny_text: Path, tmp_path: Path, topics: Callable[..., Any]
) -> None:
    settings = {"epochs": 1} if strategy == "finetune" else None
    run = fit(table, strategy=strategy, settings=settings, controls="none", backbone=tiny_text,
              device="cpu", out=tmp_path / "run")  # fmt: skip
    kept = run.familiarity
    facts = json.loads((run.folder / "familiarity.json").read_text())
    split = json.loads((run.folder / "split.json").read_text())
    assert facts["vectors"] == {"finetune": "model", "tfidf": "backbone"}[strategy]
    if strategy == "finetune":
        held = read(table).take_ids([*split["validation"], *split["test"]]).without_labels()
        vectors = run.model.proba_and_vectors(held)[1]
        assert vectors is not None
        np.testing.assert_allclose(kept.reference_RD, vectors, atol=1e-5)
        assert len(kept.rows_MD) == len(split["train"])
    found = run.unfamiliar(topics(20, seed=4)[0])
    again = open_run(run.folder).unfamiliar(topics(20, seed=4)[0])
    assert found.scores == again.scores
    new = write(tmp_path / "new.csv", topics(30, seed=5)[0])
    assert 0 <= ws.drift(run, new, **QUICK).measured.unfamiliar.share <= 1


def test_pictures(pictures: Path, tiny_vit: Path, tmp_path: Path) -> None:
    run = fit(pictures, strategy="probe", backbone=tiny_vit, controls="none", device="cpu",
              out=tmp_path / "run")  # fmt: skip
    paths = sorted(str(path) for path in pictures.rglob("*.png"))
    assert len(run.unfamiliar(paths).flags) == 40
    found = predict(run, pictures, unfamiliar=True)
    assert found.unfamiliar is not None
    assert found.unfamiliar.alarm.rate == pytest.approx(1 / 7), "6 validation rows"


def test_the_cnn_has_vectors(pictures: Path, tiny_vit: Path, tmp_path: Path) -> None:
    run = fit(pictures, strategy="cnn", settings={"epochs": 1, "image_size": 16}, controls="none",
              backbone=tiny_vit, device="cpu", out=tmp_path / "run")  # fmt: skip
    assert run.familiarity.dimension == 256
    paths = sorted(str(path) for path in pictures.rglob("*.png"))
    rows = read(pictures)
    proba, vectors = run.proba_and_vectors(rows)
    np.testing.assert_array_equal(proba, run.model.proba(rows))
    logits = vectors @ run.model.head.weight.detach().numpy().T
    logits += run.model.head.bias.detach().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, expected, atol=1e-5)
    assert len(run.unfamiliar(paths[:3]).scores) == 3


def test_a_run_without_the_file_says_so(probe: FinishedRun, tmp_path: Path, fresh: Path) -> None:
    import shutil

    old = tmp_path / "old"
    shutil.copytree(probe.folder, old)
    for path in old.glob("familiarity.*"):
        path.unlink()
    (old / "manifest.json").unlink()
    write_manifest(old, task_type="classify")
    assert predict(old, fresh).unfamiliar is None
    for ask in (lambda: predict(old, fresh, unfamiliar=True), lambda: ws.drift(old, fresh)):
        with pytest.raises(RunError, match=r"keeps no statistics .* Fit it again"):
            ask()


def test_a_damaged_file_is_refused(probe: FinishedRun, tmp_path: Path, fresh: Path) -> None:
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(probe.folder, bad)
    path = bad / "familiarity.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 255
    path.write_bytes(bytes(raw))
    with pytest.raises(RunError, match=r"familiarity.safetensors"):
        ws.drift(bad, fresh, **QUICK)


# ---------------------------------------------------------------------------------- flagging rows


def test_unfamiliar_rows_are_flagged_and_others_hardly(probe: FinishedRun, fresh: Path) -> None:
    same = predict(probe, fresh, unfamiliar=True, false_alarms=0.05)
    assert same.unfamiliar is not None
    assert same.unfamiliar.count / len(same.ids) <= same.unfamiliar.alarm.high + 0.03
    assert f"{same.unfamiliar.count:,} of {len(same.ids)} rows" in same.unfamiliar.sentence
    assert "5 % would be flagged" in same.unfamiliar.sentence
    strange = predict(probe, ALIEN, unfamiliar=True, familiarity="knn")
    assert strange.unfamiliar is not None
    assert strange.unfamiliar.count >= 4
    assert strange.answers == predict(probe, ALIEN).answers
    assert probe.unfamiliar(ALIEN, method="knn") == strange.unfamiliar


def test_the_written_columns(probe: FinishedRun, tmp_path: Path) -> None:
    found = predict(probe, ALIEN, unfamiliar=True)
    assert found.unfamiliar is not None
    for name in ("a.csv", "a.jsonl", "a.json", "a.parquet"):
        write_predictions(found, tmp_path / name)
    with (tmp_path / "a.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["id", "input", "label", "score", "unfamiliar_score", "unfamiliar"]
    assert [row["unfamiliar"] == "true" for row in rows] == list(found.unfamiliar.flags)
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == json.loads((tmp_path / "a.json").read_text())
    for values in (table["unfamiliar_score"], [line["unfamiliar_score"] for line in lines]):
        assert tuple(values) == found.unfamiliar.scores
    assert tuple(table["unfamiliar"]) == found.unfamiliar.flags
    write_predictions(predict(probe, ALIEN), tmp_path / "plain.csv")
    assert (tmp_path / "plain.csv").read_text().startswith('"id","input","label","score"\n')


def test_what_cannot_be_flagged_is_refused(probe: FinishedRun) -> None:
    with pytest.raises(UsageError, match="false_alarms goes with unfamiliar"):
        predict(probe, ALIEN, false_alarms=0.05)
    with pytest.raises(UsageError, match=r"at least 0.0074 here, got 0.001.*needs 999"):
        predict(probe, ALIEN, unfamiliar=True, false_alarms=0.001)
    with pytest.raises(UsageError, match="method 'cosine' is unknown"):
        predict(probe, ALIEN, unfamiliar=True, familiarity="cosine")


# ------------------------------------------------------------------------------------------ drift


def test_rows_of_the_same_kind_do_not_drift(probe: FinishedRun, fresh: Path) -> None:
    found = ws.drift(probe, fresh, **QUICK)
    json.dumps(found.results)
    assert not found.found
    assert found.sentences[0].startswith("No drift seen")
    names = [one["name"] for one in found.results["tests"]]
    assert names == ["rows", "unfamiliar", "answers", "confidence", "accuracy"]
    test_rows = pq.read_table(probe.folder / "predictions.parquet").to_pandas()
    test_rows = test_rows[test_rows["part"] == "test"]
    right = (test_rows["truth"] == test_rows["predicted"]).mean()
    assert found.measured.accuracy is not None
    assert found.measured.accuracy.before == pytest.approx(right)
    answers = predict(probe, fresh)
    expected = np.mean([one.score for one in answers.answers])
    assert found.measured.confidence.after == pytest.approx(expected)
    told = dict(zip(answers.ids, (one.label for one in answers.answers), strict=True))
    rows = read(fresh)
    right_now = np.mean([told[key] == rows.label_names[label]
                         for key, label in zip(rows.ids, rows.labels_N, strict=True)])  # fmt: skip
    assert found.measured.accuracy.after == pytest.approx(right_now)
    train = {one["label"]: one["train"] for one in found.results["classes"]}
    assert train == pytest.approx({"fruit": 0.5, "vehicle": 0.5}, abs=0.01)
    assert sum(one["after"] for one in found.results["classes"]) == pytest.approx(1)


def test_rows_from_elsewhere_do(probe: FinishedRun, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    words = ["zebra", "oboe", "quartz", "jazz", "fjord", "lynx", "gnu", "vex"]
    texts = sorted({" ".join(generator.choice(words, 5)) for _ in range(60)})
    found = ws.drift(probe, write(tmp_path / "alien.csv", texts), **QUICK)
    assert found.found
    changed = {one["name"] for one in found.results["tests"] if one["changed"]}
    assert {"rows", "unfamiliar"} <= changed
    assert found.results["data"]["labelled"] == 0
    assert found.measured.accuracy is None


def test_seen_rows_and_unknown_labels_are_told(
    probe: FinishedRun, tmp_path: Path, topics: Callable[..., Any]
) -> None:
    texts, labels = topics(60)
    labels = ["weather" if i < 7 else label for i, label in enumerate(labels)]
    found = ws.drift(probe, write(tmp_path / "seen.csv", texts, labels), **QUICK)
    seen = found.results["seen"]
    assert seen["train"] + seen["validation"] > 30
    assert any(f"trained on {seen['train']} and chosen on" in one for one in found.sentences)
    assert found.results["foreign_classes"] == {"weather": 7}
    assert any("labels that the model does not know: weather (7)" in s for s in found.sentences)
    assert found.measured.accuracy is not None
    assert found.measured.accuracy.rows[1] == 53


def test_stretches_of_time(probe: FinishedRun, tmp_path: Path, fresh: Path) -> None:
    rows = read(fresh)
    texts = [*rows.inputs(range(40)), *(f"{ALIEN[i % 5]} {'jazz ' * (i // 5)}" for i in range(20))]
    dates = [f"2024-{1 + i // 10:02d}-01" for i in range(60)]
    path = write(tmp_path / "dated.csv", texts, when=dates)
    found = ws.drift(probe, path, date="when", windows=3, **QUICK)
    windows = found.results["windows"]
    assert [one["rows"] for one in windows] == [20, 20, 20]
    assert [one["first"][:10] for one in windows] == ["2024-01-01", "2024-03-01", "2024-05-01"]
    assert windows[2]["unfamiliar"] > windows[0]["unfamiliar"]
    shares = [one["unfamiliar"] * one["rows"] for one in windows]
    assert sum(shares) == pytest.approx(found.measured.unfamiliar.count)
    with pytest.raises(DataError, match=r"number of different times \(6\), got 7"):
        ws.drift(probe, path, date="when", windows=7, **QUICK)


def test_other_kinds_of_data_are_refused(probe: FinishedRun, pictures: Path) -> None:
    with pytest.raises(DataError, match=r"is one for texts, but .* holds images"):
        ws.drift(probe, pictures, **QUICK)
    with pytest.raises(DataError, match="has no column 'lable'"):
        ws.drift(probe, probe.results["data"]["source"], label="lable", **QUICK)


def test_files(probe: FinishedRun, fresh: Path, tmp_path: Path) -> None:
    found = ws.drift(probe, fresh, limit=40, **QUICK)
    assert found.results["data"]["rows"] == 40
    write_drift(found, tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text()) == found.results
    write_drift(found, tmp_path / "d.html")
    assert "drift since training" in (tmp_path / "d.html").read_text()
    with pytest.raises(UsageError, match=r"must end in .html .the report. or .json"):
        write_drift(found, tmp_path / "d.pdf")
    again = ws.drift(probe, fresh, limit=40, **QUICK)
    for key in ("tests", "distances", "unfamiliar", "classes", "plane", "sentences"):
        assert again.results[key] == found.results[key]

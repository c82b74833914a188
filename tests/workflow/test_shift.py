"""`shift`: from two sources to distances, diagnosis and files; what has no distance is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import warmstart as ws
from warmstart.core import DataError, NotApplicable, UsageError
from warmstart.data import read
from warmstart.shift import mmd
from warmstart.workflow import check_shift_path, embed, write_shift

QUICK = {"permutations": 19, "device": "cpu"}


def table(path: Path, rows: list[tuple[str, ...]], head: str = "text,label") -> Path:
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def pair(tmp_path: Path, topics: Callable[..., Any]) -> tuple[Path, Path]:
    """The same two topics; the target has other fillers, dates, and a class of its own."""
    texts, labels = topics(80)
    source = table(tmp_path / "source.csv", list(zip(texts, labels, strict=True)))
    rows = [
        (f"{text} red green this photo", label if i else "weather", f"2024-{1 + i // 10:02d}-01")
        for i, (text, label) in enumerate(zip(*topics(70, seed=1), strict=True))
    ]
    return source, table(tmp_path / "target.csv", rows, "text,label,when")


def test_everything_is_measured(pair: tuple[Path, Path], tiny_text: Path) -> None:
    found = ws.shift(*pair, backbone=tiny_text, **QUICK)
    values = found.results
    json.dumps(values)
    names = [one["name"] for one in values["distances"]]
    assert names == ["proxy_a_distance", "mmd", "coral", "frechet", "mean_covariance",
                     "sliced_wasserstein", "word_divergence"]  # fmt: skip
    assert all(one["title"] and one["meaning"] and one["interval"] for one in values["distances"])
    assert values["source"]["rows"] == 80
    assert values["target"]["labelled"] == 69
    assert values["foreign_classes"] == {"weather": 1}
    assert {one["label"] for one in values["per_class"]} == {"fruit", "vehicle"}
    assert found.diagnosis is not None
    assert found.diagnosis.findings[0].verdict == "yes"
    assert found.diagnosis.bound is not None
    assert {one["word"] for one in values["distances"][-1]["moved"]} >= {"red", "green", "photo"}
    assert len(values["plane"]["source"]) == 80
    assert any("classes that the source lacks: weather (1)" in s for s in found.sentences)
    assert "tells source from target" in found.sentences[0]


def test_vectors_are_those_of_embed(pair: tuple[Path, Path], tiny_text: Path) -> None:
    found = ws.shift(*pair, backbone=tiny_text, **QUICK)
    vectors = [embed(path, backbone=tiny_text).vectors_ND for path in pair]
    assert found.distances[1].value == mmd(*vectors, permutations=0).value
    deep = ws.shift(*pair, backbone=tiny_text, depth=1, **QUICK)
    assert deep.results["space"]["depth"] == 1
    assert deep.distances[1].value != found.distances[1].value


def test_per_class_distances_use_one_bandwidth(pair: tuple[Path, Path], tiny_text: Path) -> None:
    found = ws.shift(*pair, backbone=tiny_text, **QUICK)
    width = found.results["distances"][1]["by_bandwidth"][0]["bandwidth"]
    source, target = (read(path) for path in pair)
    vectors = [embed(path, backbone=tiny_text).vectors_ND for path in pair]
    ours = vectors[0][np.array(source.labels_N) == source.label_names.index("fruit")]
    theirs = vectors[1][np.array(target.labels_N) == target.label_names.index("fruit")]
    row = next(one for one in found.results["per_class"] if one["label"] == "fruit")
    assert row["value"] == pytest.approx(
        mmd(ours, theirs, bandwidths=(width,), permutations=0).value
    )
    assert row["rows"] == [len(ours), len(theirs)]


def test_dates_cut_the_target_into_stretches(pair: tuple[Path, Path], tiny_text: Path) -> None:
    found = ws.shift(*pair, backbone=tiny_text, date="when", windows=3, **QUICK)
    assert found.diagnosis is not None
    assert len(found.diagnosis.windows) == 3
    assert found.diagnosis.windows[0].first.startswith("2024-01-01")
    with pytest.raises(DataError, match="no column 'whn'"):
        ws.shift(*pair, backbone=tiny_text, date="whn", **QUICK)
    with pytest.raises(DataError, match="in column 'text' is no date"):
        ws.shift(*pair, backbone=tiny_text, date="text", **QUICK)
    with pytest.raises(UsageError, match="windows must be at least 2 with 10 labelled"):
        ws.shift(*pair, backbone=tiny_text, date="when", windows=30, **QUICK)


def test_dates_that_cannot_be_used_are_refused(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    texts = [(line.split(",")[0],) for line in pair[0].read_text().splitlines()[1:]]
    bare = table(tmp_path / "bare.csv", texts, "text")
    with pytest.raises(UsageError, match=r"\(--date\) needs a classifier .* Label source rows"):
        ws.shift(bare, pair[1], backbone=tiny_text, date="when", **QUICK)
    with pytest.raises(DataError, match="no column 'whn'"):
        ws.shift(bare, pair[1], backbone=tmp_path / "none", date="whn", **QUICK)
    vectors = tmp_path / "vectors.npy"
    np.save(vectors, embed(pair[0], backbone=tiny_text).vectors_ND)
    for reference in (None, vectors):
        with pytest.raises(UsageError, match=r"shift\.date .* got 'when' and no target"):
            ws.shift(pair[1], reference=reference, backbone=tiny_text, date="when", **QUICK)


def test_labels_are_optional_on_either_side(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    texts = [(line.split(",")[0],) for line in pair[1].read_text().splitlines()[1:]]
    bare = table(tmp_path / "bare.csv", texts, "text")
    found = ws.shift(pair[0], bare, backbone=tiny_text, **QUICK)
    assert found.diagnosis is not None
    assert [one.verdict for one in found.diagnosis.findings][2] == "cannot tell"
    assert found.diagnosis.label_shift is not None
    assert found.results["per_class"] == []
    named = ws.shift(pair[0], bare, label="label", backbone=tiny_text, **QUICK)
    assert named.results["target"]["labelled"] == 0
    with pytest.raises(DataError, match="no column 'lable'"):
        ws.shift(pair[0], bare, label="lable", backbone=tiny_text, **QUICK)
    turned = ws.shift(bare, pair[0], backbone=tiny_text, **QUICK)
    assert turned.diagnosis is not None
    assert turned.diagnosis.label_shift is None


def test_columns_of_the_target_may_have_other_names(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text(pair[1].read_text().replace("text,label", "words,kind", 1))
    found = ws.shift(pair[0], other, target_text="words", target_label="kind", backbone=tiny_text,
                     **QUICK)  # fmt: skip
    assert found.results["target"]["labelled"] == 69


def test_labels_that_are_hardly_classes_are_left_aside(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    rows = [(line.split(",")[0], f"id{i}") for i, line in
            enumerate(pair[1].read_text().splitlines()[1:])]  # fmt: skip
    found = ws.shift(table(tmp_path / "ids.csv", rows), pair[0], backbone=tiny_text, **QUICK)
    assert found.results["source"]["labelled"] == 0


def test_shared_rows_are_counted(pair: tuple[Path, Path], tiny_text: Path) -> None:
    lines = pair[0].read_text().splitlines()
    mixed = pair[0].with_name("mixed.csv")
    mixed.write_text(
        "\n".join([lines[0], *lines[1:6], *(line.rsplit(",", 1)[0] for line in
                                            pair[1].read_text().splitlines()[1:])]) + "\n"
    )  # fmt: skip
    found = ws.shift(pair[0], mixed, backbone=tiny_text, **QUICK)
    assert found.results["shared"] == 5
    assert found.results["distances"][0]["shared"] == 5
    assert any("5 rows stand on both sides" in sentence for sentence in found.sentences)


def test_a_reference_takes_the_sources_place(
    pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    vectors = [embed(path, backbone=tiny_text).vectors_ND for path in pair]
    np.save(tmp_path / "ref.npy", vectors[0])
    found = ws.shift(pair[1], reference=tmp_path / "ref.npy", backbone=tiny_text, **QUICK)
    assert found.distances[1].value == mmd(*vectors, permutations=0).value
    assert found.results["source"]["rows"] == 80
    assert found.diagnosis is not None
    assert [one.verdict for one in found.diagnosis.findings] == ["yes"] + ["cannot tell"] * 2
    np.save(tmp_path / "narrow.npy", vectors[0][:, :5])
    with pytest.raises(DataError, match="source vectors have 5 dimensions and target vectors 24"):
        ws.shift(pair[1], reference=tmp_path / "narrow.npy", backbone=tiny_text, **QUICK)
    with pytest.raises(UsageError, match="either a target or a reference"):
        ws.shift(*pair, reference=tmp_path / "ref.npy", backbone=tiny_text, **QUICK)


def test_pretraining_statistics_where_a_network_has_them(
    tiny_resnet: Path, tiny_vit: Path, tiny_text: Path, pictures: Path, pair: tuple[Path, Path]
) -> None:
    found = ws.shift(pictures, backbone=tiny_resnet, **QUICK)
    assert [one.name for one in found.distances] == ["batch_norm"]
    assert found.diagnosis is None
    assert len(found.results["distances"][0]["layers"]) > 3
    assert "in units of their variance" in found.sentences[0]
    with pytest.raises(NotApplicable, match="has no batch normalisation"):
        ws.shift(pictures, backbone=tiny_vit, **QUICK)
    with pytest.raises(NotApplicable, match="keeps no statistics of the texts"):
        ws.shift(pair[0], backbone=tiny_text, **QUICK)


def test_images(tiny_vit: Path, pictures: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for name in ("blue", "red"):
        (tmp_path / "dark" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 40, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "dark" / name / f"{i}.png")
    found = ws.shift(pictures, tmp_path / "dark", backbone=tiny_vit, **QUICK)
    assert len(found.distances) == 6
    assert found.distances[0].value > 1


def test_what_has_no_distance_is_refused(
    pair: tuple[Path, Path], tiny_text: Path, pictures: Path, tmp_path: Path
) -> None:
    def refused(source: Any, target: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            ws.shift(source, target, backbone=tiny_text, **QUICK)

    refused(pair[0], pair[0], "hold the same 80 different rows")
    copy = tmp_path / "copy.csv"
    lines = pair[0].read_text().splitlines()
    copy.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    refused(pair[0], copy, "hold the same 80 different rows")
    refused(pair[0], pictures, "holds text and .* holds image")
    refused(pair[0], table(tmp_path / "one.csv", [("alone", "x")]), "one.csv has 1 row. A distance")
    refused(table(tmp_path / "none.csv", []), pair[0], "none.csv")
    with pytest.raises(UsageError, match=r"shift.permutations must be at least 19, got 5"):
        ws.shift(*pair, backbone=tiny_text, permutations=5)
    with pytest.raises(UsageError, match="device 'gpu' is unknown"):
        ws.shift(*pair, backbone=tiny_text, device="gpu")


def test_files(pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path) -> None:
    found = ws.shift(*pair, backbone=tiny_text, limit=40, **QUICK)
    assert found.results["source"]["rows"] == 40
    write_shift(found, tmp_path / "shift.json")
    assert json.loads((tmp_path / "shift.json").read_text()) == found.results
    write_shift(found, tmp_path / "shift.html")
    assert "Both sets in one plane" in (tmp_path / "shift.html").read_text()
    with pytest.raises(UsageError, match=r"must end in .html .the report. or .json"):
        check_shift_path(tmp_path / "shift.pdf")


def test_the_command(
    pair: tuple[Path, Path], tiny_text: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from warmstart.cli import main

    words = ["shift", *map(str, pair), "--backbone", str(tiny_text), "--permutations", "19"]

    def call(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["warmstart", *words, *more])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    code, out, _ = call("--out", "shift.html")
    assert code == 0
    assert "Proxy A-distance" in out
    assert "Written: shift.html" in out
    assert "warmstart shift" in Path("shift.html").read_text()
    code, out, err = call("--json", "--date", "when", "--windows", "2")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["diagnosis"]["windows"]) == 2
    assert call("--out", "shift.txt")[0] == 2
    Path("own.json").write_text("[]")
    words[1] = "own.json"
    code, _, err = call("--out", "own.json")
    assert code == 2
    assert "is the file that is read" in err

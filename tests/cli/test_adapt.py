"""`warmstart adapt` from a shell: its answer, its JSON, its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

METHODS = "source-only:epochs=2:width=8,mmd:epochs=2:width=8:snapshots=1"


@pytest.fixture
def pair(topics: Any, tmp_path: Path) -> tuple[Path, Path]:
    texts, labels = topics(120)
    found = []
    for name, part in (("films", slice(0, 80)), ("gadgets", slice(80, 120))):
        path = tmp_path / f"{name}.csv"
        lines = [f"{t},{n}" for t, n in zip(texts[part], labels[part], strict=True)]
        path.write_text("text,label\n" + "\n".join(lines) + "\n")
        found.append(path)
    return found[0], found[1]


def test_it_answers_people_and_programs(
    call: Any, pair: tuple[Path, Path], tiny_text: Path, tmp_path: Path
) -> None:
    words = ("adapt", "--source", pair[0], "--target", pair[1], "--backbone", tiny_text,
             "--methods", METHODS, "--seeds", 1, "--device", "cpu")  # fmt: skip
    found = call(*words)
    assert found.code == 0, found.err
    said = " ".join(found.out.split())
    assert "Mean rank" in said
    assert "kept" in said
    assert "labelled target rows, looked at only now" in said
    assert "Model: runs/adapt-films-to-gadgets/model" in said
    assert "12 target rows are held out for the final report" in found.err
    spoken = call(*words, "--json", "--out", "runs/b")
    assert spoken.code == 0
    assert spoken.err == ""
    told = json.loads(spoken.out)
    assert told["folder"] == "runs/b"
    assert told["adaptation"]["decision"]["kept"] == told["verdict"]["best"]
    assert told["command"].startswith("warmstart adapt --source")
    again = call(*words, "--out", "runs/b")
    assert again.code == 5
    assert "exists already" in again.err
    assert call("predict", "runs/b", pair[1]).code == 0
    assert call("evaluate", "runs/b", pair[1]).code == 0
    shown = call("info", "runs/b")
    assert shown.code == 0
    assert "Source only" in shown.out


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--methods": "dnan"}, 2, 'Did you mean "dann"'),
        ({"--methods": "dann:weight=-1"}, 2, "dann.weight must be at least 0"),
        ({"--trainable": "head"}, 2, "trainable must be features, lora, last:N"),
        ({"--methods": ","}, 2, "methods names none"),
        ({"--target": "gadget.csv"}, 3, 'Did you mean "gadgets.csv"'),
        ({"--source": "nothing.csv"}, 3, "nothing.csv does not exist"),
        ({"--target-label": "stars"}, 3, "no column 'stars'"),
        ({"--metric": "acuracy"}, 2, 'Did you mean "accuracy"'),
        ({"--device": "gpu"}, 2, "device 'gpu' is unknown"),
    ],
)
def test_errors_are_sentences(
    call: Any, pair: tuple[Path, Path], tiny_text: Path, changes: dict[str, str], code: int,
    message: str,
) -> None:  # fmt: skip
    options = {"--source": "films.csv", "--target": "gadgets.csv", "--backbone": str(tiny_text)}
    words = [word for option in (options | changes).items() for word in option]
    found = call("adapt", *words)
    assert (found.code, message in " ".join(found.err.split())) == (code, True), found.err
    assert json.loads(call("adapt", *words, "--json").out)["error"]["exit_code"] == code
    assert not list(Path("runs").glob("*"))


def test_source_and_target_are_needed(call: Any) -> None:
    assert call("adapt", "--source", "films.csv").code == 2

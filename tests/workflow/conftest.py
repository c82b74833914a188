"""A finished run to look at, and a place to run in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmstart.workflow import FinishedRun, compare


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Default folders are made in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, topics: Callable[..., Any]) -> Path:
    """80 sentences on fruit and vehicles, with a site column."""
    texts, labels = topics(80)
    path = tmp_path_factory.mktemp("tables") / "topics.csv"
    rows = [f"{t},{n},s{i % 5}" for i, (t, n) in enumerate(zip(texts, labels, strict=True))]
    path.write_text("text,label,site\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, table: Path, minilm: str) -> FinishedRun:
    """MiniLM on the table: probe, fine-tuning for a pass, and the cheap control."""
    folder = tmp_path_factory.mktemp("runs") / "topics"
    arms = ["zero-shot", "probe", "finetune:epochs=1", "tfidf"]
    return compare(table, strategies=arms, seeds=1, budget="5m", out=folder, backbone=minilm,
                   device="cpu", group=None)  # fmt: skip


@pytest.fixture(scope="session")
def domains(
    tmp_path_factory: pytest.TempPathFactory, topics: Callable[..., Any]
) -> Callable[[int, int], tuple[Path, Path]]:
    """Writes labelled sentences, and others with words in front: (source, target)."""

    def write(sources: int, targets: int) -> tuple[Path, Path]:
        texts, labels = topics(sources + targets)
        folder = tmp_path_factory.mktemp("domains")
        paths = folder / "films.csv", folder / "gadgets.csv"
        parts = slice(0, sources), slice(sources, None)
        for path, part, front in zip(paths, parts, ("", "photo of "), strict=True):
            lines = [f"{front}{t},{n}" for t, n in zip(texts[part], labels[part], strict=True)]
            path.write_text("text,label\n" + "\n".join(lines) + "\n")
        return paths

    return write

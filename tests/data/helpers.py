"""Small data sets written to disk for the tests of `warmstart.data`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from warmstart.core import progress
from warmstart.data import Dataset, from_columns
from warmstart.data.dataset import content_hash


class Notes:
    """A progress reporter that keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Notes]:
        yield self

    def advance(self, n: int = 1) -> None: ...

    def describe(self, text: str) -> None: ...

    def note(self, message: str) -> None:
        self.lines.append(message)


@contextmanager
def notes() -> Iterator[list[str]]:
    reporter = Notes()
    with progress.use(reporter):
        yield reporter.lines


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def rows(texts: Sequence[str], labels: Sequence[int], **further: Sequence[object]) -> Dataset:
    """A text data set in memory; ids are the texts with their position among equals."""
    seen: dict[str, int] = {}
    ids = []
    for text in texts:
        seen[text] = seen.get(text, 0) + 1
        ids.append(f"{text}#{seen[text]}")
    return from_columns(
        {
            "id": ids,
            "text": list(texts),
            "label": list(labels),
            "content": [content_hash(text) for text in texts],
            **further,
        },
        label_names=tuple(f"c{i}" for i in range(max(labels) + 1)),
        modality="text",
        source="memory",
    )

"""Views of tiny data and runs for the strategies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from warmstart.backbones import Backbone, FeatureCache, backbone
from warmstart.core import Run
from warmstart.data import Dataset, View, read, split


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """A run in a folder of its own; on the CPU, so that equal seeds give equal bits."""
    count = iter(range(1000))

    def make(seed: int = 0, **settings: Any) -> Run:
        return Run(tmp_path / f"run-{next(count)}", seed=seed, device="cpu", **settings)

    return make


def text_data(texts: list[str], labels: list[str]) -> Dataset:
    """A text data set in memory."""
    return read(datasets.Dataset.from_dict({"text": texts, "label": labels}))


@pytest.fixture(scope="session")
def as_text() -> Callable[[list[str], list[str]], Dataset]:
    """`as_text(texts, labels)`: a data set in memory."""
    return text_data


@pytest.fixture(scope="session")
def text_view(topics: Callable[..., Any]) -> tuple[View, Dataset]:
    """48 sentences on fruit and vehicles: a view, and test rows without labels."""
    data = text_data(*topics(48))
    parts = split(data)
    return parts.view(data), parts.test_rows(data)


@pytest.fixture(scope="session")
def image_view(pictures: Path) -> tuple[View, Dataset]:
    """40 reddish and bluish images."""
    data = read(pictures)
    parts = split(data)
    return parts.view(data), parts.test_rows(data)


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    """A backbone with a cache of the session."""

    def make(source: Path | str, **settings: Any) -> Backbone:
        cache = FeatureCache(tmp_path_factory.getbasetemp() / "strategy-cache")
        return backbone(str(source), cache=cache, **settings)

    return make

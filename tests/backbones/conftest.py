"""Folders of tiny models, made once a session and never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .tiny import make_folder


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`family_folder("bert")`: a saved tiny model."""
    root = tmp_path_factory.mktemp("families")
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_folder(root, family)
        return made[family]

    return get

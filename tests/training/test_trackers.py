"""Trackers only when asked for; a missing package is a clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from warmstart.core import UsageError
from warmstart.training import check_trackers, trackers


def test_unknown_and_missing(monkeypatch: Any) -> None:
    assert check_trackers(()) == ()
    with pytest.raises(UsageError, match='Did you mean "tensorboard"'):
        check_trackers(["tensorbord"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        check_trackers(["wandb"])


def test_tensorboard_gets_the_values(toy: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    plain = toy(tmp_path / "plain", checkpoints=None, epochs=1)
    assert not (tmp_path / "plain" / "trackers").exists()
    toy(tmp_path / "asked", checkpoints=None, epochs=1, run={"trackers": ("tensorboard",)})
    written = list((tmp_path / "asked" / "trackers").rglob("events.out.tfevents*"))
    assert written
    assert sum(path.stat().st_size for path in written) > 100
    assert plain.history.steps == 5

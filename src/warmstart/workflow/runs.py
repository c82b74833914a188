"""A finished run as a value: its results, its model, and predictions from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from warmstart.core import RunError, read_json, verify_manifest
from warmstart.models import Model, Prediction, load_model

from .folders import partial_of

__all__ = ["FinishedRun", "open_run"]


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run folder that was read back.

    Attributes:
        folder: Where it lies.
        device: Where the model is put: `auto`, `cpu`, `cuda`, `mps`.
    """

    folder: Path
    device: str = "auto"

    @cached_property
    def results(self) -> dict[str, Any]:
        """results.json."""
        values: dict[str, Any] = read_json(self.folder / "results.json")
        return values

    @property
    def verdict(self) -> dict[str, Any]:
        """What was best, what is as good for less, what lost."""
        values: dict[str, Any] = self.results["verdict"]
        return values

    @property
    def best(self) -> str | None:
        """The arm whose model was kept."""
        name: str | None = self.verdict["best"]
        return name

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.folder / "report.html"

    def arm(self, name: str | None = None) -> dict[str, Any]:
        """One arm's part of the results, the kept one's by default."""
        wanted = name or self.best
        for arm in self.results["arms"]:
            if arm["name"] == wanted:
                found: dict[str, Any] = arm
                return found
        raise RunError(f"{self.folder} has no arm {wanted!r}.")

    @cached_property
    def model(self) -> Model:
        """The kept model, loaded on first use."""
        if not (self.folder / "model").is_dir():
            raise RunError(f"{self.folder} kept no model: no arm ended within its budget.")
        return load_model(self.folder / "model", device=self.device)

    def predict(self, inputs: Sequence[Any] | str) -> list[Prediction]:
        """Classify texts, or images given as paths or PIL images."""
        return self.model.predict(inputs)

    def __repr__(self) -> str:
        arm = self.arm() if self.best else None
        if arm is None or "scores" not in arm:
            return f"FinishedRun({str(self.folder)!r})"
        scores = arm["scores"]
        value = scores["metrics"][scores["primary"]]["value"]
        return (
            f"FinishedRun({str(self.folder)!r}, best={self.best}, {scores['primary']}={value:.3f})"
        )


def open_run(folder: str | Path, *, device: str = "auto") -> FinishedRun:
    """Read a run folder after checking every file against its manifest.

    Args:
        folder: The run's folder.
        device: Where its model is put on first use: `auto`, `cpu`, `cuda`, `mps`.

    Raises:
        RunError: When it is unfinished, damaged, or no run at all.
    """
    folder = Path(folder)
    partial = partial_of(folder)
    if not folder.exists() and partial.exists():
        raise RunError(f"{folder} is unfinished ({partial}): repeat its command to go on.")
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist. Name a run folder, such as runs/fit-reviews.")
    verify_manifest(folder)
    return FinishedRun(folder, device)

"""A finished run as a value: its results, its model, and predictions from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from warmstart.core import RunError, read_json, verify_manifest
from warmstart.models import MODEL_FILE, Model, Prediction, load_model

from .folders import partial_of

__all__ = ["FinishedRun", "check_run"]


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run folder that was read back.

    Attributes:
        folder: Where it lies.
        device: Where the model is put: `auto`, `cpu`, `cuda`, `mps`.
        code: `module`, `processor` and `groups` of a network of the user's own, which no folder
            holds; empty otherwise.
    """

    folder: Path
    device: str = "auto"
    code: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def results(self) -> dict[str, Any]:
        """results.json."""
        path = self.folder / "results.json"
        values: dict[str, Any] = read_json(path)
        held = {"arms": list, "verdict": dict}
        if not isinstance(values, dict) or not all(
            isinstance(values.get(name), kind) for name, kind in held.items()
        ):
            raise RunError(f"{path} holds no results of a run: arms and a verdict are missing.")
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
        facts = read_json(self.folder / "model" / MODEL_FILE)
        code = self.code if isinstance(facts, dict) and facts.get("module") else {}
        return load_model(self.folder / "model", device=self.device, **code)

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


def check_run(folder: Path) -> dict[str, Any]:
    """Check every file of a run folder against its manifest.

    Returns:
        The manifest.

    Raises:
        RunError: When it is unfinished, damaged, or no run at all.
    """
    partial = partial_of(folder)
    if not folder.exists() and partial.exists():
        raise RunError(f"{folder} is unfinished ({partial}): repeat its command to go on.")
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist. Name a run folder, such as runs/fit-reviews.")
    return verify_manifest(folder)

"""A finished run as a value: its results, its model, and predictions from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import RunError, read_json, verify_manifest
from warmstart.data import Dataset, from_inputs
from warmstart.evaluation import Familiarity, FamiliarityMethod
from warmstart.models import MODEL_FILE, Model, Prediction, load_model

from .familiar import Unfamiliar, flag, open_familiarity, reopen_backbone
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

    @cached_property
    def familiarity(self) -> Familiarity:
        """Statistics of the training rows, by which unfamiliar rows are told.

        Raises:
            RunError: When the run keeps none, or files are damaged.
        """
        return open_familiarity(self.folder)

    @cached_property
    def _borrowed(self) -> Backbone:
        """The untouched backbone, whose vectors serve a model that has none."""
        return reopen_backbone(self.results["backbone"], self.code, self.device)

    def predict(self, inputs: Sequence[Any] | str) -> list[Prediction]:
        """Classify texts, or images given as paths or PIL images."""
        return self.model.predict(inputs)

    def proba_and_vectors(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities (N, C), and the vectors (N, D) that `familiarity` is about."""
        proba_NC, vectors_ND = self.model.proba_and_vectors(dataset)
        if vectors_ND is None:
            vectors_ND = self._borrowed.features(dataset.without_labels()).vectors_ND
        return proba_NC, vectors_ND

    def unfamiliar(
        self,
        inputs: Sequence[Any],
        *,
        false_alarms: float | None = None,
        method: FamiliarityMethod = "mahalanobis",
    ) -> Unfamiliar:
        """Flag texts, or images, that are far from the training rows.

        Args:
            inputs: Texts, or images given as paths or PIL images.
            false_alarms: Share of rows like the training rows that may be flagged; None for 1 %,
                or the lowest that the run's validation rows can state.
            method: `mahalanobis` or `knn`, see `evaluation.familiarity`.

        Raises:
            RunError: When the run keeps no statistics of its training rows.
            UsageError: For a rate that its validation rows cannot state.
        """
        kept = self.familiarity
        kept.alarm(false_alarms, method)  # a mistake is told before the model runs
        vectors_ND = self.proba_and_vectors(from_inputs(inputs, self.model.modality))[1]
        return flag(kept, vectors_ND, false_alarms=false_alarms, method=method)

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
    if folder.is_file():
        raise RunError(
            f"{folder} is a file. Name a run folder, such as runs/fit-reviews, before the data."
        )
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist. Name a run folder, such as runs/fit-reviews.")
    return verify_manifest(folder)

"""One arm of a comparison: run a seed, keep what it gave on disk, read it back on resume."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from warmstart.backbones import Backbone
from warmstart.core import (
    Config,
    Run,
    RunError,
    UsageError,
    read_json,
    verify_manifest,
    write_json,
    write_manifest,
)
from warmstart.data import Dataset, View
from warmstart.models import Model, load_model
from warmstart.strategies import Strategy, make

from .meter import Meter, folder_bytes, latency_ms

__all__ = ["Arm", "SeedResult", "Status", "parse_arms", "run_seed"]

Status = Literal["done", "shortened", "cut", "not applicable", "failed"]


@dataclass(frozen=True)
class Arm:
    """A strategy under the name that the table shows.

    Attributes:
        name: `probe`, or `probe:depth=auto` when settings differ from the defaults.
        strategy: The strategy itself.
    """

    name: str
    strategy: Strategy

    @property
    def folder_name(self) -> str:
        """The name as a folder."""
        return re.sub(r"[^A-Za-z0-9_.=-]+", "_", self.name)


def parse_arms(texts: Sequence[str | Strategy]) -> list[Arm]:
    """Read arms such as `probe`, `probe:depth=auto:head=mlp` or strategy values.

    Raises:
        UsageError: For an unknown strategy or setting, or the same arm twice.
    """
    arms: list[Arm] = []
    for text in texts:
        if isinstance(text, Strategy):
            changed = text.model_dump(exclude_defaults=True)
            name = ":".join([text.name, *(f"{k}={v}" for k, v in changed.items())])
            arms.append(Arm(name, text))
            continue
        name, *settings = text.strip().split(":")
        values: dict[str, str] = {}
        for setting in settings:
            key, sign, value = setting.partition("=")
            if not sign:
                raise UsageError(f"arm {text!r}: {setting!r} is not a setting; write key=value.")
            values[key] = value
        arms.append(Arm(text.strip(), make(name, values)))
    names = [arm.name for arm in arms]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"An arm was named twice: {', '.join(sorted(twice))}.")
    return arms


class SeedResult(Config):
    """What one seed of one arm gave, but for its probabilities, which lie beside it.

    Attributes:
        seed: The training seed.
        status: done; shortened: fewer steps than its default length, by the budget; cut: stopped
            by the budget before one pass over the training rows, or by its deadline.
        epochs: Passes over the training rows.
        seconds: Wall time of the fit.
        seconds_estimated: What the measured steps had promised.
        peak_memory_bytes: Peak while fitting.
        trainable_parameters: Weights that were learned.
        total_parameters: Weights in all.
        size_bytes: The saved model folder (first seed only).
        latency_ms: Median time for one input (first seed only).
        history: One dictionary an epoch.
        rates: The table of groups and rates.
        notes: Sentences for the reader.
        values: What was chosen on the way.
    """

    seed: int
    status: Status
    epochs: float
    seconds: float
    seconds_estimated: float | None
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int
    size_bytes: int | None
    latency_ms: float | None
    history: tuple[dict[str, Any], ...]
    rates: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    values: dict[str, Any]


RESULT_FILE, PROBA_FILE = "result.json", "proba.safetensors"


def read_seed(folder: Path) -> tuple[SeedResult, np.ndarray, np.ndarray] | None:
    """A finished seed: its result, validation (M, C) and test (N, C) probabilities, or None."""
    if not (folder / RESULT_FILE).is_file():
        return None
    try:
        verify_manifest(folder)
    except RunError:
        return None
    tensors = load_file(folder / PROBA_FILE)
    result = SeedResult.parse(read_json(folder / RESULT_FILE), str(folder / RESULT_FILE))
    return result, tensors["validation"], tensors["test"]


def run_seed(
    arm: Arm,
    backbone: Backbone,
    view: View,
    test: Dataset,
    run: Run,
    *,
    estimated: float | None,
    full_steps: int | None,
    keep_model: bool,
) -> tuple[SeedResult, np.ndarray, np.ndarray]:
    """Fit one seed, predict validation and test rows, and keep all of it in the run's folder.

    Args:
        arm: What to fit.
        backbone: Where it starts.
        view: Training and validation rows.
        test: Test rows without labels.
        run: Folder, seed, deadline, step limit.
        estimated: Seconds that the budget foresaw.
        full_steps: Steps of the strategy's default length, to tell whether it was shortened.
        keep_model: Whether to save the model beside (the first seed's is kept).

    Raises:
        NotApplicable: When the strategy cannot work here.
    """
    with Meter(run.device) as meter:
        fitted = arm.strategy.fit(backbone, view, run)
    model = fitted.model
    validation_MC, test_NC = model.proba(view.validation.without_labels()), model.proba(test)
    size = latency = None
    if keep_model:
        target = run.folder.parent / "model"
        size = save_model(model, target)
        sample = test.inputs(range(min(8, len(test))))
        latency = latency_ms(model, sample)
    shortened = run.max_steps is not None and full_steps is not None and run.max_steps < full_steps
    result = SeedResult(
        seed=run.seed,
        status=_status(fitted.stopped, fitted.epochs, shortened),
        epochs=fitted.epochs,
        seconds=meter.seconds,
        seconds_estimated=estimated,
        peak_memory_bytes=meter.peak_bytes,
        trainable_parameters=fitted.trainable_parameters,
        total_parameters=model.parameters,
        size_bytes=size,
        latency_ms=latency,
        history=tuple(fitted.history),
        rates=tuple(fitted.rates),
        notes=tuple(fitted.notes),
        values=_json_values(fitted.values),
    )
    save_file({"validation": validation_MC, "test": test_NC}, run.folder / PROBA_FILE)
    write_json(run.folder / RESULT_FILE, result.model_dump())
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    write_manifest(run.folder, task_type="classify")
    return result, validation_MC, test_NC


def _status(stopped: str, epochs: float, shortened: bool) -> Status:
    if stopped == "deadline" or (shortened and epochs < 1):
        return "cut"
    return "shortened" if shortened and stopped != "early" else "done"


def save_model(model: Model, target: Path) -> int:
    """Save a model into a folder of its own, whole or not at all; bytes on disk."""
    from warmstart.core import publishing

    with publishing(target, replace=True, task_type="classify") as folder:
        model.save(folder)
    return folder_bytes(target)


def kept_model(folder: Path, device: str = "auto") -> Model:
    """The model that an arm kept."""
    verify_manifest(folder)
    return load_model(folder, device=device)


def _json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}

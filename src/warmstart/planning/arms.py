"""One arm of a comparison: run a seed, keep what it gave on disk, read it back on resume."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from warmstart.backbones import Backbone
from warmstart.core import (
    Config,
    Meter,
    Run,
    RunError,
    UsageError,
    fingerprint,
    publishing,
    read_json,
    verify_manifest,
    write_json,
    write_manifest,
)
from warmstart.data import Dataset, View
from warmstart.models import Model
from warmstart.strategies import Cost, Role, Strategy, make

from .meter import folder_bytes, latency_ms

__all__ = [
    "Allowance",
    "Arm",
    "SeedResult",
    "Status",
    "allow",
    "full_seconds",
    "kept_allowance",
    "parse_arms",
    "read_seed",
    "run_seed",
]

Status = Literal["done", "shortened", "cut", "not applicable", "failed"]


@dataclass(frozen=True)
class Arm:
    """A strategy under the name that the table shows.

    Attributes:
        name: `probe`, or `probe:depth=auto` when settings differ from the defaults.
        strategy: The strategy itself.
        control: Whether it only stands beside what was asked for.
    """

    name: str
    strategy: Strategy
    control: bool = False

    @property
    def role(self) -> Role:
        """`arm`, or `control`: by its kind, or since it stands beside another."""
        return "control" if self.control else self.strategy.role

    @property
    def title(self) -> str:
        """How sentences call it: the strategy's title, and what was set otherwise."""
        return self.strategy.titled(self.strategy.title)

    @property
    def folder_name(self) -> str:
        """The name as a folder; where letters had to give way, with a mark of its own."""
        plain = self.name.replace(":", "_")
        safe = re.sub(r"[^A-Za-z0-9_.=-]+", "_", plain)[:80]
        return safe if safe == plain else f"{safe}-{fingerprint(self.name)[:8]}"


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


class Allowance(Config):
    """What the budget grants a training.

    It is kept beside the training, so that a resumed one takes the steps that it set out to take.

    Attributes:
        max_steps: Optimiser steps; None for the strategy's full length.
        full_steps: Steps of the full length.
        estimated: Seconds that the measured steps promise for what is granted.
        seconds_full: Seconds that they promise for the full length.
        full_epochs: Passes over the training rows of the full length.
        peak_bytes: Most memory in use during the measured steps.
    """

    max_steps: int | None = None
    full_steps: int | None = None
    estimated: float | None = None
    seconds_full: float | None = None
    full_epochs: int | None = None
    peak_bytes: int | None = None

    @property
    def shortened(self) -> bool:
        """Whether the full length does not fit."""
        return self.max_steps is not None

    def words(self) -> str:
        """What to tell the user."""
        if self.full_steps is None or self.estimated is None:
            return "."
        if self.max_steps is not None:
            return f": {self.max_steps} of {self.full_steps} steps, as the budget allows."
        return f": up to {self.full_steps} steps, about {self.estimated:.0f} s without early stop."


MARGIN = 1.15  # what a measured step promises, and what the clock may add


def full_seconds(cost: Cost | None) -> float:
    """Time for the full length, with the margin."""
    return MARGIN * cost.seconds if cost else 0.0


def allow(cost: Cost | None, seconds: float | None) -> Allowance:
    """Steps that fit into `seconds`; no limit where the full length does."""
    if cost is None:
        return Allowance()
    full = cost.epochs * cost.steps_per_epoch
    whole = Allowance(
        full_steps=full, estimated=cost.seconds, seconds_full=cost.seconds,
        full_epochs=cost.epochs, peak_bytes=cost.peak_bytes or None,
    )  # fmt: skip
    if seconds is None or seconds >= full_seconds(cost):
        return whole
    steps = max(1, cost.steps_within(seconds / MARGIN))
    return whole.model_copy(update={"max_steps": steps, "estimated": cost.seconds * steps / full})


def kept_allowance(folder: Path, fresh: Allowance) -> Allowance:
    """The allowance in the folder, or else `fresh`, which is put there."""
    path = folder / "allowance.json"
    if path.is_file():
        return Allowance.parse(read_json(path), str(path))
    write_json(path, fresh.model_dump())
    return fresh


class SeedResult(Config):
    """What one seed of one arm gave, but for its probabilities, which lie beside it.

    Attributes:
        seed: The training seed.
        status: done; shortened: fewer steps than its default length, by the budget; cut: stopped
            by the budget before one pass over the training rows, or by its deadline.
        epochs: Passes over the training rows.
        seconds: Wall time of the fit.
        allowance: What the budget granted.
        peak_memory_bytes: Peak while fitting.
        trainable_parameters: Weights that were learned.
        total_parameters: Weights in all.
        size_bytes: The saved model folder, where this seed's model was saved.
        latency_ms: Median time for one input, where this seed's model was saved.
        opens_with: Classes of other libraries that open the saved folder.
        history: One dictionary an epoch.
        rates: The table of groups and rates.
        notes: Sentences for the reader.
        values: What was chosen on the way.
    """

    seed: int
    status: Status
    epochs: float
    seconds: float
    allowance: Allowance
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int
    size_bytes: int | None
    latency_ms: float | None
    opens_with: tuple[str, ...]
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
    allowance: Allowance,
    keep: Callable[[np.ndarray], bool],
) -> tuple[SeedResult, np.ndarray, np.ndarray]:
    """Fit one seed, predict validation and test rows, and keep all of it in the run's folder.

    Args:
        arm: What to fit.
        backbone: Where it starts.
        view: Training and validation rows.
        test: Test rows without labels.
        run: Folder, seed, deadline, step limit.
        allowance: What the budget granted.
        keep: Told the validation probabilities, says whether this seed's model is saved.

    Raises:
        NotApplicable: When the strategy cannot work here.
    """
    with Meter(run.device) as meter:
        fitted = arm.strategy.fit(backbone, view, run)
    model = fitted.model
    with Meter(run.device) as predicting:
        validation_MC = model.proba(view.validation.without_labels())
        test_NC = model.proba(test)
    seconds = max(meter.seconds, fitted.seconds)
    peak = meter.peak_bytes
    if arm.strategy.uses_features:  # vectors of another space than the shared one are made here
        seconds += predicting.seconds
        peak = max(peak, predicting.peak_bytes)
    kept = keep(validation_MC)
    size = save_model(model, run.folder.parent / "model") if kept else None
    latency = latency_ms(model, test.inputs(range(min(8, len(test))))) if kept else None
    result = SeedResult(
        seed=run.seed,
        status=_status(fitted.stopped, fitted.epochs, allowance.shortened),
        epochs=fitted.epochs,
        seconds=seconds,
        allowance=allowance,
        peak_memory_bytes=peak,
        trainable_parameters=fitted.trainable_parameters,
        total_parameters=model.parameters,
        size_bytes=size,
        latency_ms=latency,
        opens_with=model.opens_with if kept else (),
        history=tuple(_finite(epoch) for epoch in fitted.history),
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
    with publishing(target, replace=True, task_type="classify") as folder:
        model.save(folder)
    return folder_bytes(target)


def _finite(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's values with None where JSON has no number: a gradient's norm may overflow."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in epoch.items()
    }


def _json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}

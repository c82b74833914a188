"""Reduce on plateau: the one schedule that depends on validation, so it is a callback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from warmstart.core import UsageError, nearest, progress

from .state import Callback, LoopState

__all__ = ["ReduceOnPlateau"]


class ReduceOnPlateau(Callback):
    """Multiply every rate by `factor` when validation has not improved for long.

    The ratios between the groups stay as they are, and a schedule by step (warm-up) goes on on top
    of it. Everything it changes lies in the optimisers' groups and in its own state, which
    checkpoints keep, so a resumed fit takes the steps of the uninterrupted one.

    Same rule as `torch.optim.lr_scheduler.ReduceLROnPlateau` with a relative threshold, whose
    patience counts one less.

    Attributes:
        multiplier: What the base rates have been multiplied with so far, in (0, 1].
        best: The best value so far, None before the first evaluation.
    """

    def __init__(
        self,
        metric: str = "validation_loss",
        *,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.3,
        patience: int = 1,
        threshold: float = 1e-4,
        cooldown: int = 0,
        floor: float = 1e-3,
    ) -> None:
        """Choose what is watched.

        Args:
            metric: Key of what the evaluation returns.
            mode: Whether less or more is better.
            factor: By what the rates are multiplied, in (0, 1).
            patience: Evaluations without improvement before the rates fall, at least 1. Take less
                than early stopping's, or the fit ends before a lower rate can help.
            threshold: Share of the best value by which another must be better to count.
            cooldown: Evaluations after a fall that are not counted.
            floor: Lowest multiplier, in [0, 1).
        """
        if mode not in ("min", "max"):
            raise UsageError(f'reduce on plateau: mode must be "min" or "max", got {mode!r}.')
        for name, value, right, allowed in (
            ("factor", factor, 0.0 < factor < 1.0, "between 0 and 1; typical: 0.1 to 0.5"),
            ("patience", patience, patience >= 1, "at least 1; typical: 1 to 3"),
            ("threshold", threshold, 0.0 <= threshold < 1.0, "in [0, 1); typical: 1e-4"),
            ("cooldown", cooldown, cooldown >= 0, "at least 0; typical: 0"),
            ("floor", floor, 0.0 <= floor < 1.0, "in [0, 1); typical: 1e-3"),
        ):
            if not right:
                raise UsageError(f"reduce on plateau: {name} must be {allowed}, got {value}.")
        self.multiplier = 1.0
        self.best: float | None = None
        self._metric, self._mode = metric, mode
        self._factor, self._floor = factor, floor
        self._patience, self._threshold, self._cooldown = patience, threshold, cooldown
        self._waited = self._resting = 0

    def on_evaluate(self, state: LoopState, metrics: Mapping[str, float]) -> None:
        """Count, and lower the rates when it has been too long."""
        if self._metric not in metrics:
            raise UsageError(
                f'reduce on plateau watches "{self._metric}".{nearest(self._metric, metrics)}'
            )
        value = metrics[self._metric]
        if self._better(value):
            self.best, self._waited = value, 0
        else:
            self._waited += 1
        if self._resting:
            self._resting -= 1
            self._waited = 0
        if self._waited >= self._patience:
            self._fall(state)
            self._waited, self._resting = 0, self._cooldown

    def state_dict(self) -> dict[str, Any]:
        """The count; the lowered rates are kept with the optimisers."""
        return {
            "best": self.best, "waited": self._waited, "resting": self._resting,
            "multiplier": self.multiplier,
        }  # fmt: skip

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose optimisers hold the lowered rates already."""
        self.best, self.multiplier = values["best"], values["multiplier"]
        self._waited, self._resting = values["waited"], values["resting"]

    def _better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        if self._mode == "min":
            return value < self.best - self._threshold * abs(self.best)
        return value > self.best + self._threshold * abs(self.best)

    def _fall(self, state: LoopState) -> None:
        lowered = max(self.multiplier * self._factor, self._floor)
        if lowered >= self.multiplier:
            return
        ratio, self.multiplier = lowered / self.multiplier, lowered
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] *= ratio
                if "initial_lr" in group:
                    group["initial_lr"] *= ratio
        progress.note(
            f"{state.name}: {self._metric} has not improved since {self.best:.4g}; rates are now "
            f"{lowered:.2g} of what they were at the start."
        )

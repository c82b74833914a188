"""Callbacks that most fits use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from warmstart.core import UsageError, nearest

from .state import Callback, LoopState

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Keep the weights that did best on validation; stop when they have not improved for long.

    At the end of the fit the best weights and buffers are put back, whatever ended it.

    Attributes:
        best: The best value so far, None before the first evaluation.
    """

    def __init__(
        self,
        metric: str = "validation_loss",
        *,
        mode: Literal["min", "max"] = "min",
        patience: int | None = 3,
        min_delta: float = 0.0,
        skip_frozen: bool = False,
    ) -> None:
        """Choose what is watched.

        Args:
            metric: Key of what the evaluation returns.
            mode: Whether less or more is better.
            patience: Evaluations without improvement before the fit stops; None never stops it and
                only keeps the best weights.
            min_delta: By how much a value must be better to count.
            skip_frozen: Leave out parameters that no optimiser holds (see `Checkpoints`).
        """
        if mode not in ("min", "max"):
            raise UsageError(f'early stopping: mode must be "min" or "max", got {mode!r}.')
        if patience is not None and patience < 1:
            raise UsageError(
                f"early stopping: patience must be at least 1, got {patience}. Typical: 2 to 5; "
                "None only keeps the best weights."
            )
        self.best: float | None = None
        self._metric = metric
        self._sign = 1.0 if mode == "min" else -1.0
        self._patience = patience
        self._min_delta = min_delta
        self._skip_frozen = skip_frozen
        self._waited = 0
        self._weights: dict[str, Tensor] = {}

    def on_evaluate(self, state: LoopState, metrics: Mapping[str, float]) -> None:
        """Keep the weights when they are better; count when they are not."""
        if self._metric not in metrics:
            raise UsageError(
                f'early stopping watches "{self._metric}".{nearest(self._metric, metrics)}'
            )
        value = metrics[self._metric]
        better = self.best is None or self._sign * (self.best - value) > self._min_delta
        if math.isnan(value):
            better = False
        if better:
            self.best, self._waited = value, 0
            self._keep(state)
            return
        self._waited += 1
        if self._patience is not None and self._waited >= self._patience:
            state.stop("early")

    def on_end(self, state: LoopState) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for key, tensor in self._tensors(state).items():
                if key in self._weights:
                    tensor.copy_(self._weights[key])
        self._weights = {}

    def state_dict(self) -> dict[str, Any]:
        """The best value and its weights."""
        return {"best": self.best, "waited": self._waited, "weights": dict(self._weights)}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self._waited = values["best"], values["waited"]
        self._weights = dict(values["weights"])

    def _keep(self, state: LoopState) -> None:
        """Copy the weights as they are now."""
        self._weights = {
            key: tensor.detach().to("cpu", copy=True)
            for key, tensor in self._tensors(state).items()
        }
        state.best_epoch = state.epoch + 1 if state.step else 0  # 0: the start
        state.best_step = state.step

    def _tensors(self, state: LoopState) -> dict[str, Tensor]:
        return state.tensors(self._skip_frozen)

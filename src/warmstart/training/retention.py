"""An old task watched beside the new one, and a budget for what it may lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from warmstart.core import UsageError, nearest, progress
from warmstart.evaluation import check_budget

from .callbacks import EarlyStopping
from .loaders import Loader
from .state import EvaluateFunction, LoopState
from .supervised import Classifier, evaluation

__all__ = ["RETAINED", "Retained", "WithinBudget"]

RETAINED = "retained_"


class _Old(nn.Module):
    """The encoder in training under the old task's head."""

    def __init__(self, model: Classifier, head: nn.Module) -> None:
        super().__init__()
        self._model = [model]  # not a submodule: modes and devices are the loop's affair
        self._head = head

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self._head(self._model[0].vectors(inputs))
        return logits


class Retained:
    """Evaluates the old task: the encoder as it is now, under the old task's fixed head.

    Its values are called `retained_loss`, `retained_accuracy` and `retained_macro_f1` beside the
    new task's, in the log and in the history.

    The head is no part of the fit: it never moves, and no checkpoint holds it.
    """

    def __init__(
        self, loader: Loader, head: nn.Module, *, classes: int, module: str = "model"
    ) -> None:
        """Fix the old task.

        Args:
            loader: Labelled rows of the old task, not shuffled.
            head: Vectors (B, D) to logits of the old classes.
            classes: Number of old classes.
            module: Name of the `Classifier` in the loop's modules.
        """
        self._head = head.eval()
        self._module = module
        self._evaluate = evaluation(loader, classes=classes, module="old", prefix=RETAINED)

    def __call__(self, state: LoopState) -> Mapping[str, float]:
        """The old task's metrics with the encoder as it is; it must be in evaluation mode."""
        model = state.plain[self._module]
        assert isinstance(model, Classifier)
        old = _Old(model, self._head.to(state.device))
        return self._evaluate(replace(state, plain={"old": old}))

    def beside(self, evaluate: EvaluateFunction) -> EvaluateFunction:
        """An evaluation function that tells the new task's metrics and the old one's."""

        def both(state: LoopState) -> Mapping[str, float]:
            return {**evaluate(state), **self(state)}

        return both


class WithinBudget(EarlyStopping):
    """Early stopping among the weights that forget no more than the budget.

    The best weights are those of the best watched value whose old task has lost at most `budget`
    points; where none has, those that lost least, and a note says so. The fit also stops when the
    budget was exceeded for `budget_patience` evaluations in a row. The comparison is of measured
    values; how sure they are is told by `evaluation.measure_forgetting` at the end.

    Takes the place of `EarlyStopping`. The old task is measured once before the first step, to
    know what there is to lose; a resumed fit remembers it.

    Attributes:
        before: The old task's value before training; None until the fit starts.
        drop: Points lost by the weights that are kept; None before the first evaluation.
    """

    def __init__(
        self,
        retained: Retained,
        budget: float,
        *,
        metric: str = "validation_loss",
        mode: Literal["min", "max"] = "min",
        patience: int | None = 3,
        budget_patience: int = 2,
        old_metric: str = f"{RETAINED}accuracy",
        before: float | None = None,
        skip_frozen: bool = False,
    ) -> None:
        """Set the budget.

        Args:
            retained: The old task; its `beside` must be the fit's evaluation function.
            budget: Points (hundredths) that the old task may lose, from 0 to 100.
            metric: Key of what decides among the weights within the budget.
            mode: Whether less or more of it is better.
            patience: Evaluations without a better value before the fit stops; None for never.
            budget_patience: Evaluations in a row above the budget before the fit stops.
            old_metric: Which of the old task's metrics the budget is for; more is better.
            before: The old task's value before all training, where this fit does not begin with
                the untouched weights.
            skip_frozen: As for `EarlyStopping`.
        """
        super().__init__(metric, mode=mode, patience=patience, skip_frozen=skip_frozen)
        check_budget(budget)
        if budget_patience < 1:
            raise UsageError(f"budget_patience must be at least 1, got {budget_patience}.")
        self.before = before
        self.drop: float | None = None
        self._retained = retained
        self._budget = budget
        self._old_metric = old_metric
        self._budget_patience = budget_patience
        self._above = 0

    def on_start(self, state: LoopState) -> None:
        """Measure the old task while the weights are untouched."""
        if self.before is not None:
            return
        for module in state.plain.values():
            module.eval()
        self.before = self._old(self._retained(state))

    def on_evaluate(self, state: LoopState, metrics: Mapping[str, float]) -> None:
        """Keep the weights when they are better within the budget; count when they are not."""
        if self._metric not in metrics:
            raise UsageError(
                f'the budget watches "{self._metric}".{nearest(self._metric, metrics)}'
            )
        assert self.before is not None
        drop = 100.0 * (self.before - self._old(metrics))
        inside = drop <= self._budget + 1e-9
        self._above = 0 if inside else self._above + 1
        if self._better_than_kept(metrics[self._metric], drop, inside):
            self.best, self.drop, self._waited = metrics[self._metric], drop, 0
            self._keep(state)
        elif inside:
            self._waited += 1
        if self._above >= self._budget_patience:
            progress.note(
                f"{state.name}: the old task has lost {drop:.1f} points, more than the budget of "
                f"{self._budget:g}, in {self._above} evaluations in a row; training stops."
            )
            state.stop("early")
        elif self._patience is not None and self._waited >= self._patience:
            state.stop("early")

    def on_end(self, state: LoopState) -> None:
        """Put the kept weights back."""
        if self.drop is not None and self.drop > self._budget + 1e-9:
            progress.note(
                f"{state.name}: no evaluation was within the budget of {self._budget:g} points; "
                f"kept are the weights that lost least ({self.drop:.1f}). Lower the rate, freeze "
                "more groups, or pull towards the start (L2-SP, EWC)."
            )
        super().on_end(state)

    def state_dict(self) -> dict[str, Any]:
        """The base value, the count and the kept weights."""
        own = {"before": self.before, "drop": self.drop, "above": self._above}
        return {**super().state_dict(), **own}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(values)
        self.before, self.drop, self._above = values["before"], values["drop"], values["above"]

    def _old(self, metrics: Mapping[str, float]) -> float:
        if self._old_metric not in metrics:
            raise UsageError(
                f'the budget is for "{self._old_metric}".{nearest(self._old_metric, metrics)} '
                "Evaluate with retained.beside(...)."
            )
        return metrics[self._old_metric]

    def _better_than_kept(self, value: float, drop: float, inside: bool) -> bool:
        if math.isnan(value):
            return False
        if self.best is None or self.drop is None:
            return True
        kept_inside = self.drop <= self._budget + 1e-9
        if inside != kept_inside:
            return inside
        if not inside:
            return drop < self.drop
        return self._sign * (self.best - value) > self._min_delta

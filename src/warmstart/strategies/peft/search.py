"""The rank that validation asks for: 1, 2, 4, ... while the loss falls by more than its noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import Run, progress
from warmstart.data import View
from warmstart.evaluation import compare_arms

from ..base import Fitted

__all__ = ["LARGEST", "gain_and_noise", "search_rank"]

LARGEST = 64


class _Ranked(Protocol):
    """A strategy with a rank."""

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        """The same settings with some changed."""


def search_rank(strategy: _Ranked, backbone: Backbone, view: View, run: Run) -> Fitted:
    """Fit with rank 1, 2, 4, ... up to 64 and keep the last that was worth it.

    Doubling is worth it when the mean validation log loss falls by more than the standard error of
    that fall, by the bootstrap of the paired rows (the one-standard-error rule of Breiman et al.
    1984, section 3.4.3). The fits share their seed. Test rows are never seen. The search also ends
    when the run's time or steps are used up.

    Args:
        strategy: With any rank.
        backbone: The base.
        view: Training and validation rows.
        run: Each rank trains in a folder of its own below it, so that a killed search resumes.
    """
    best: Fitted | None = None
    kept_MC = np.zeros(0)
    trail: list[dict[str, Any]] = []
    rank, used, seconds, epochs = 1, 0, 0.0, 0.0
    reason = f"the largest rank, {LARGEST}, was reached"
    while rank <= LARGEST:
        left = None if run.max_steps is None else run.max_steps - used
        if best is not None and (run.out_of_time() or (left is not None and left < _steps(best))):
            reason = "time or steps were used up"
            break
        fitted = _fit(strategy, rank, backbone, view, run.child(f"rank-{rank}", max_steps=left))
        used += _steps(fitted)
        seconds += fitted.seconds
        epochs += fitted.epochs
        proba_MC = fitted.model.proba(view.validation.without_labels())
        entry = {"rank": rank, **_quality(proba_MC, view.validation.labels_N)}
        trail.append(entry)
        if best is not None:
            gain, noise = gain_and_noise(kept_MC, proba_MC, view.validation.labels_N)
            entry |= {"gain": gain, "noise": noise}
            if not gain > noise:
                reason = f"rank {rank} gained {gain:.4f}, not more than its noise of {noise:.4f}"
                break
        best, kept_MC = fitted, proba_MC
        rank *= 2
    assert best is not None
    note = (
        f"Rank {best.values['rank']} was chosen on validation log loss: "
        + ", ".join(f"{entry['rank']}: {entry['log_loss']:.4f}" for entry in trail)
        + f"; {reason}."
    )
    progress.note(note)
    values = {**best.values, "rank_trail": trail}
    return replace(
        best, values=values, notes=(*best.notes, note), seconds=seconds, epochs=epochs
    )  # fmt: skip


def gain_and_noise(
    before_MC: np.ndarray, after_MC: np.ndarray, labels_M: np.ndarray
) -> tuple[float, float]:
    """By how much the mean log loss fell, and the standard error of that over the same rows."""
    pair = compare_arms(before_MC, after_MC, labels_M, metric="log_loss")
    return pair.difference, (pair.high - pair.low) / (2 * 1.96)


def _fit(strategy: _Ranked, rank: int, backbone: Backbone, view: View, run: Run) -> Fitted:
    plain = {"merge": False} if hasattr(strategy, "merge") else {}
    progress.note(f"Trying rank {rank}.")
    fitted: Fitted = strategy.model_copy(update={"rank": rank, **plain}).fit(backbone, view, run)
    return fitted


def _quality(proba_MC: np.ndarray, labels_M: np.ndarray) -> dict[str, float]:
    picked_M = proba_MC[np.arange(len(labels_M)), labels_M]
    return {
        "log_loss": float(-np.log(np.maximum(picked_M, 1e-300)).mean()),
        "accuracy": float((proba_MC.argmax(axis=1) == labels_M).mean()),
    }


def _steps(fitted: Fitted) -> int:
    return int(fitted.history[-1]["step"]) if fitted.history else 0

"""Writes down what the loop does: running means, metrics.jsonl, trackers, the history."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import Tensor

from warmstart.core import WarmstartError

from .engine import Engine
from .history import History
from .state import LoopState

__all__ = ["Diverged", "Scribe"]


class Diverged(WarmstartError):
    """A loss became infinite or not a number."""

    exit_code = 7


class Scribe:
    """Means of what steps record, since the last line and since the epoch began.

    Values stay on the device until a line is due, so that recording does not wait for it.
    """

    def __init__(self, state: LoopState, engine: Engine, log_every: int) -> None:
        self._state = state
        self._engine = engine
        self._log_every = log_every
        self._waiting: list[list[dict[str, Tensor | float]]] = []
        self._line: dict[str, list[float]] = {}
        self._epoch: dict[str, list[float]] = {}
        self._seconds = 0.0
        self._began = time.monotonic()
        self._rate = 0.0
        engine.accelerator.init_trackers("warmstart", config={"fit": state.name})

    @property
    def open_epoch(self) -> bool:
        """Whether steps were taken that no epoch record covers yet."""
        records = self._state.records
        return self._state.step > (records[-1]["step"] if records else 0)

    def step(self, recorded: list[dict[str, Tensor | float]], rate: float) -> None:
        """Take what one optimiser step recorded; write a line when it is due."""
        self._waiting.append(recorded)
        self._rate = rate
        if self._state.step % self._log_every == 0:
            self.gather()
            self._write("train", {**_means(self._line), "rate": rate})
            self._line = {}

    def evaluation(self) -> None:
        """Write the last evaluation."""
        self._write("evaluation", self._state.metrics)

    def epoch(self) -> None:
        """Close the epoch: record it, write it, tell the callbacks, go to the next."""
        self.gather()
        state = self._state
        means = {f"train_{key}": value for key, value in _means(self._epoch).items()}
        record = {
            "epoch": float(state.epoch + 1), "step": float(state.step), "seconds": self.seconds(),
            **means, **(state.metrics if state.judged == state.step else {}), "rate": self._rate,
        }  # fmt: skip
        state.records.append(record)
        self._epoch = {}
        self._write("epoch", {key: record[key] for key in record if key not in ("epoch", "step")})
        for callback in state.callbacks:
            callback.on_epoch_end(state, record)
        state.epoch += 1

    def gather(self) -> None:
        """Bring the waiting values over from the device.

        Raises:
            Diverged: When a loss is infinite or not a number.
        """
        first = self._state.step - len(self._waiting) + 1
        for step, recorded in enumerate(self._waiting, start=first):
            sums: dict[str, float] = {}
            for values in recorded:
                for key, value in values.items():
                    sums[key] = sums.get(key, 0.0) + float(value)
            for key, value in sums.items():
                if key.endswith("loss") and not math.isfinite(value):
                    raise Diverged(self._told(key, value, step))
                for total in (self._line, self._epoch):
                    pair = total.setdefault(key, [0.0, 0.0])
                    pair[0] += value
                    pair[1] += 1.0
        self._waiting = []

    def refuse_divergence(self) -> None:
        """At the end: what was kept must have had a validation loss.

        Raises:
            Diverged: When it is infinite or not a number, and no better weights were kept.
        """
        loss = self._state.metrics.get("validation_loss", 0.0)
        if self._state.best_step is None and not math.isfinite(loss):
            raise Diverged(self._told("validation_loss", loss, self._state.step))

    def seconds(self) -> float:
        """Wall time of the fit over all its sessions."""
        return self._seconds + time.monotonic() - self._began

    def history(self) -> History:
        """The record of the fit so far."""
        state = self._state
        return History(
            name=state.name,
            epochs=tuple(dict(record) for record in state.records),
            best_epoch=state.best_epoch,
            best_step=state.best_step,
            steps=state.step,
            seconds=self.seconds(),
            stopped=state.stopped or "finished",
        )

    def state_dict(self) -> dict[str, Any]:
        """Running means and time, for a checkpoint."""
        self.gather()
        return {
            "line": self._line, "epoch": self._epoch, "seconds": self.seconds(), "rate": self._rate
        }  # fmt: skip

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from saved means and time."""
        self._line, self._epoch = values["line"], values["epoch"]
        self._seconds, self._rate = values["seconds"], values["rate"]
        self._began = time.monotonic()

    def _told(self, key: str, value: float, step: int) -> str:
        rates = [
            float(group["lr"])
            for optimizer in self._state.optimizers.values()
            for group in optimizer.param_groups
        ]
        return (
            f"{self._state.title} diverged: {key.replace('_', ' ')} is {value} at step {step}. The "
            f"usual cause is a learning rate that is too high; the highest here is "
            f"{max(rates, default=0.0):.2g}. Lower it tenfold (--set rate=...), or see what the "
            "loss bears with `warmstart rates`. Weights or inputs with such values do the same."
        )

    def _write(self, kind: str, values: dict[str, float]) -> None:
        state = self._state
        if state.rank != 0:
            return
        place = {"epoch": state.epoch + 1, "step": state.step}
        state.run.log(kind=kind, fit=state.name, **place, **_finite(values))
        if self._engine.accelerator.trackers:
            shown = {f"{state.name}/{kind}/{key}": value for key, value in values.items()}
            self._engine.accelerator.log(shown, step=state.step)


def _means(totals: dict[str, list[float]]) -> dict[str, float]:
    return {key: total / count for key, (total, count) in totals.items()}


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}

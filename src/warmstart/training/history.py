"""What a fit did: one record an epoch, the best one, and why it ended."""

from __future__ import annotations

from typing import Literal

from warmstart.core import Config

__all__ = ["History", "Stopped"]

Stopped = Literal["finished", "early", "deadline", "max_steps"]


class History(Config):
    """The record of one fit.

    Attributes:
        name: Of the fit (a stage of unfreezing has its own).
        epochs: One record an epoch: `epoch` (from 1), `step`, `seconds`, the mean of each training
            value as `train_...`, and what the evaluation returned. A fit stopped inside an epoch
            ends with a record of the part it did.
        best_epoch: The epoch whose weights were kept, or None without a best.
        best_step: The optimiser step of those weights.
        steps: Optimiser steps done.
        seconds: Wall time, over all sessions of a resumed fit.
        stopped: `finished` all epochs, `early` by a callback, or cut by the run's `deadline` or
            `max_steps`.
    """

    name: str = "fit"
    epochs: tuple[dict[str, float], ...] = ()
    best_epoch: int | None = None
    best_step: int | None = None
    steps: int = 0
    seconds: float = 0.0
    stopped: Stopped = "finished"

    @property
    def cut(self) -> bool:
        """Whether a limit of the run ended the fit before its time."""
        return self.stopped in ("deadline", "max_steps")

    def curve(self, key: str) -> list[float]:
        """One value for each epoch that recorded `key`."""
        return [record[key] for record in self.epochs if key in record]

    def then(self, later: History) -> History:
        """This history continued by a later fit; epochs, steps and seconds count on."""
        last = self.epochs[-1]["epoch"] if self.epochs else 0
        shifted = tuple(
            {
                **record,
                "epoch": record["epoch"] + last,
                "step": record["step"] + self.steps,
                "seconds": record["seconds"] + self.seconds,
            }
            for record in later.epochs
        )
        return History(
            name=self.name,
            epochs=self.epochs + shifted,
            best_epoch=_after(self.best_epoch, later.best_epoch, int(last)),
            best_step=_after(self.best_step, later.best_step, self.steps),
            steps=self.steps + later.steps,
            seconds=self.seconds + later.seconds,
            stopped=later.stopped,
        )


def _after(mine: int | None, later: int | None, shift: int) -> int | None:
    """Where the best lies in both: 0 in the later one is its start, so mine stays the best."""
    if later is None:
        return None
    return mine if later == 0 else later + shift

"""Writes and reads the loop's checkpoints, and turns a waiting signal into a clean stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch

from warmstart.core import Interrupted, RunError, fingerprint, progress, read_json, write_json

from .checkpoints import Checkpoints, Saved, load_newest, save
from .engine import Engine
from .feed import Feed
from .interruption import Signals
from .scribe import Scribe
from .state import LoopState

__all__ = ["Keeper"]


class Keeper:
    """The state of a whole fit, to and from disk.

    Attributes:
        done: Whether the checkpoint that was read is of a fit that had ended.
        closed: Whether the fit has ended, so that a signal saves nothing more.
    """

    def __init__(
        self,
        policy: Checkpoints | None,
        state: LoopState,
        engine: Engine,
        *,
        feed: Feed,
        scribe: Scribe,
        signals: Signals,
    ) -> None:
        self.done = False
        self.closed = False
        self._policy = policy
        self._state = state
        self._engine = engine
        self._feed = feed
        self._scribe = scribe
        self._signals = signals
        if policy is not None:
            policy.reset_clock()

    @property
    def folder(self) -> Path:
        """Where the checkpoints of this fit lie."""
        return self._state.run.folder / "checkpoints" / self._state.name

    @property
    def signalled(self) -> bool:
        """Whether a signal waits."""
        return self._signals.received is not None

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one.

        Raises:
            RunError: When it belongs to other settings.
        """
        if self._policy is None:
            return
        run, start = self._state.run, self.folder / "start.json"
        saved = self._newest()
        if saved is None:
            if self._state.rank == 0:
                # A first session that was killed before its first checkpoint left lines.
                if start.exists():
                    run.truncate_log(int(read_json(start)["log_count"]))
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(start, {"log_count": run.log_count()})
            return
        if saved.values["setup"] != self._setup():
            raise RunError(
                f"{saved.path} belongs to a fit with other settings, data or model. Use the "
                "settings it was started with, or delete the folder to start again."
            )
        self._restore(saved.values)
        if self._state.rank == 0 and not self.done:
            run.truncate_log(saved.values["log_count"])
        if not self.done:
            progress.note(
                f"{self._state.title}: resumed at step {self._state.step} from {saved.path}."
            )

    def boundary(self) -> None:
        """Between two steps: stop for a waiting signal, write a checkpoint that is due."""
        if self.signalled:
            self.interrupt()
        if self._policy is not None and self._policy.due(self._state.step):
            self.save()

    def interrupt(self) -> NoReturn:
        """Write a checkpoint and raise `Interrupted`."""
        received = self._signals.received
        name = received.name if received is not None else "a signal"
        number = int(received) if received is not None else 2
        where = f"{self._state.title} was stopped by {name} at step {self._state.step}"
        if self._policy is None:
            raise Interrupted(f"{where}; it keeps no checkpoint.", 128 + number)
        if not self.closed:
            self.save()
        raise Interrupted(f"{where}; run it again to continue.", 128 + number)

    def save(self, done: bool = False) -> None:
        """Write a checkpoint now (the main process writes).

        Args:
            done: The fit has ended: the final weights are kept without the optimisers.
        """
        if self._policy is None or self.done:
            return
        self._scribe.gather()
        if self._state.rank == 0:
            save(self.folder, self._state.step, self._values(done), keep=self._policy.keep)
        self._policy.reset_clock()

    def _newest(self) -> Saved | None:
        # The main process tidies the folder before the others read it, and all have read it
        # before it writes there again.
        wait = self._engine.accelerator.wait_for_everyone
        main = self._state.rank == 0
        if not main:
            wait()
        saved = load_newest(self.folder, tidy=main)
        if main:
            wait()
        wait()
        return saved

    def _values(self, done: bool) -> dict[str, Any]:
        state, engine = self._state, self._engine
        assert self._policy is not None
        tensors = engine.tensors(self._policy.skip_frozen)
        scaler = engine.accelerator.scaler
        return {
            "setup": self._setup(),
            "done": done,
            "loop": {
                "epoch": state.epoch, "step": state.step, "judged": state.judged,
                "metrics": state.metrics, "records": state.records, "stopped": state.stopped,
                "best_epoch": state.best_epoch, "best_step": state.best_step,
            },
            "tensors": tensors,
            "trained": self._trained(),
            "optimizers": {
                name: {} if done else opt.state_dict() for name, opt in engine.optimizers.items()
            },
            "scaler": None if scaler is None else scaler.state_dict(),
            "feed": self._feed.state_dict(),
            "scribe": self._scribe.state_dict(),
            "callbacks": [callback.state_dict() for callback in state.callbacks],
            "log_count": state.run.log_count(),
        }  # fmt: skip

    def _restore(self, values: dict[str, Any]) -> None:
        state, engine = self._state, self._engine
        assert self._policy is not None
        with torch.no_grad():
            for key, tensor in engine.tensors(self._policy.skip_frozen).items():
                tensor.copy_(values["tensors"][key])
        trained = set(values["trained"])
        for name, module in engine.raw.items():
            for key, parameter in module.named_parameters():
                parameter.requires_grad_(f"{name}/{key}" in trained)
        for name, optimizer in engine.optimizers.items():
            if not values["done"]:
                optimizer.load_state_dict(values["optimizers"][name])
        if engine.accelerator.scaler is not None and values["scaler"] is not None:
            engine.accelerator.scaler.load_state_dict(values["scaler"])
        self._feed.load_state_dict(values["feed"])
        self._scribe.load_state_dict(values["scribe"])
        for callback, kept in zip(state.callbacks, values["callbacks"], strict=True):
            callback.load_state_dict(kept)
        self.done = bool(values["done"])
        for key, value in values["loop"].items():
            setattr(state, key, value)
        if state.stopped in ("deadline", "max_steps"):  # this session has its own limits
            state.stopped = None
        state.resumed = True

    def _trained(self) -> list[str]:
        return [
            f"{name}/{key}"
            for name, module in self._engine.raw.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    def _setup(self) -> str:
        state, engine = self._state, self._engine
        assert self._policy is not None
        shapes = [
            [key, list(tensor.shape), str(tensor.dtype)]
            for key, tensor in engine.tensors(self._policy.skip_frozen).items()
        ]
        groups = [
            [name, type(optimizer).__name__, [len(g["params"]) for g in optimizer.param_groups]]
            for name, optimizer in engine.optimizers.items()
        ]
        callbacks = [type(callback).__name__ for callback in state.callbacks]
        return fingerprint(
            state.name, state.run.seed, state.epochs, shapes, groups, callbacks,
            self._feed.describe(), [list(item) for item in engine.turns.items()],
        )  # fmt: skip

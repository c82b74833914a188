"""Signals wait for the next step boundary; random streams are private to the fit."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import torch

from warmstart.core import Streams, cuda_in_use

__all__ = ["Pause", "Signals", "catch_signals", "private_random_state", "seed_all"]


class Pause(Exception):
    """Raised inside an evaluation that a signal cut short."""


class Signals:
    """Remembers the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; a second Ctrl-C stops at once."""
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)

    def pause_point(self) -> None:
        """Raise `Pause` when a signal is waiting."""
        if self.received is not None:
            raise Pause


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Hold back SIGINT and SIGTERM inside the context; outside the main thread, do nothing."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signals.handle) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def private_random_state() -> Iterator[None]:
    """Give the global generators of python, numpy and torch back as they were."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if cuda_in_use() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def seed_all(streams: Streams, *names: str | int) -> None:
    """Seed the global generators, which dropout and user code draw from, for one step.

    What is drawn in a step is a function of the seed and the step: nothing has to be carried from
    step to step, and a resumed fit draws what the uninterrupted one draws.
    """
    seed = streams.seed(*names)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed keeps a stack trace per call
    if cuda_in_use():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)

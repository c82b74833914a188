"""What an arm costs: seconds, peak memory, latency, and money and CO₂ where prices are given."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from warmstart.core import Config, peak_memory_bytes, pick_device
from warmstart.models import Model

__all__ = ["Meter", "Prices", "folder_bytes", "latency_ms"]


class Prices(Config):
    """What the machine costs, as the user says.

    Attributes:
        price_per_hour: Money for an hour of the machine, in any currency.
        watts: Mean power draw under load.
        grams_per_kwh: CO₂ of the electricity in g/kWh. The default is the world's mean in 2023
            (Ember, Global Electricity Review 2024: 480 g/kWh); national grids range from 30 to 700.
    """

    price_per_hour: float | None = None
    watts: float | None = None
    grams_per_kwh: float = 480.0

    def cost(self, seconds: float) -> dict[str, float] | None:
        """Money and grams of CO₂ for so many seconds; None when nothing was given."""
        if self.price_per_hour is None and self.watts is None:
            return None
        values: dict[str, float] = {}
        if self.price_per_hour is not None:
            values["money"] = self.price_per_hour * seconds / 3600
        if self.watts is not None:
            values["co2_grams"] = self.watts * seconds / 3.6e6 * self.grams_per_kwh
        return values


class Meter:
    """Seconds and peak memory of what happens inside the context.

    On CUDA the peak is what the allocator gave out; on a CPU it is the resident set of the whole
    process, sampled twenty times a second, libraries included.
    """

    def __init__(self, device: str = "auto") -> None:
        self._device = pick_device(device)
        self.seconds = 0.0
        self.peak_bytes = 0

    def __enter__(self) -> Meter:
        if self._device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, peak_memory_bytes(self._device))
            if self._done.wait(0.05):
                self.peak_bytes = max(self.peak_bytes, peak_memory_bytes(self._device))
                return


def latency_ms(model: Model, inputs: Sequence[Any], repeats: int = 15) -> float:
    """Median milliseconds to answer one input, after three warm-up calls."""
    times = []
    for position in range(repeats + 3):
        item = inputs[position % len(inputs)]
        start = time.perf_counter()
        model.proba_of([item])
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]) * 1000)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

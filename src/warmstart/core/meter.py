"""Seconds and peak memory of a piece of work."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from .device import peak_memory_bytes, pick_device, synchronize

if TYPE_CHECKING:
    import torch

__all__ = ["Meter"]


class Meter:
    """Seconds and peak memory of what happens inside the context.

    On CUDA the peak is what torch's allocator gave out at most, and the clock stops when the device
    has done its work; elsewhere it is the resident set of the whole process, libraries included,
    looked at every `interval` seconds. On CUDA an inner meter starts the count of an outer one
    anew, so meters are not nested there.

    Attributes:
        seconds: Wall time, once the context is left.
        peak_bytes: Most memory in use, in bytes.
    """

    def __init__(self, device: str | torch.device = "auto", interval: float = 0.02) -> None:
        """Choose what is watched.

        Args:
            device: Whose memory counts.
            interval: Seconds between two looks at the resident set.
        """
        self.seconds = 0.0
        self.peak_bytes = 0
        self._device = pick_device(device) if isinstance(device, str) else device
        self._interval = interval
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Meter:
        if self._device.type == "cuda":
            import torch

            torch.cuda.init()  # type: ignore[no-untyped-call] # nothing to reset before it
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._look()
            self._ended.clear()
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:  # a device that failed may fail again, and hide what happened
            synchronize(self._device)
        self.seconds = time.perf_counter() - self._began
        if self._watcher is not None:
            self._ended.set()
            self._watcher.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, peak_memory_bytes(self._device))

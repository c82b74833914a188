"""Which device the work runs on, and what it is made of."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .errors import UsageError, nearest

if TYPE_CHECKING:
    import torch

__all__ = ["cuda_in_use", "describe_machine", "peak_memory_bytes", "pick_device", "synchronize"]


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: For an unknown device, or one this machine lacks.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"device {name!r} is unknown.{nearest(name, ['auto', 'cpu', 'cuda', 'mps'])}"
        ) from None
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, True):
        raise UsageError(f"device {name!r} was asked for, but torch sees none here. Use cpu.")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {name!r} cannot be used here ({first}). Use cpu.") from error
    return device


def cuda_in_use() -> bool:
    """Whether this process has begun to use CUDA; asking does not begin it."""
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it, so that a clock can be read."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Memory in use now: allocated at most since the last reset on CUDA, resident set on a CPU."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, device and the versions that results depend on."""
    import psutil
    import torch

    versions = {
        name: metadata.version(name)
        for name in ("torch", "transformers", "sentence-transformers", "datasets", "scikit-learn")
    }
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": versions,
    }

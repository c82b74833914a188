"""Checkpoints without pickle: tensors in safetensors, the rest in JSON, published whole.

A checkpoint is a folder `step-00000120` with `tensors.safetensors`, `state.json` and a manifest of
SHA-256 sums. It is written beside, flushed and renamed, so it is there whole or not at all; a
damaged one is noticed before anything is read from it, and the one before it is used.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from warmstart.core import (
    MANIFEST,
    RunError,
    UsageError,
    progress,
    publishing,
    read_json,
    sweep,
    verify_manifest,
    write_json,
)

__all__ = ["Checkpoints", "Saved", "load_newest", "pack", "save", "unpack"]

_log = logging.getLogger(__name__)


@dataclass
class Checkpoints:
    """When to write a checkpoint, and how many to keep.

    A signal (Ctrl-C, SIGTERM) and the end of the fit write one in any case.

    Attributes:
        every_seconds: Write when this long has passed since the last; None for never by time.
        every_steps: Write every so many optimiser steps; None for never by steps.
        keep: Finished checkpoints kept; 2 leaves one to fall back on.
        skip_frozen: Leave out parameters that no optimiser holds. Right where nothing else moves
            them (a frozen base under an adapter); wrong for a teacher that follows by averaging.
    """

    every_seconds: float | None = 120.0
    every_steps: int | None = None
    keep: int = 2
    skip_frozen: bool = False
    _last: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UsageError(f"checkpoints.keep must be at least 1, got {self.keep}. Usual: 2.")

    def due(self, step: int) -> bool:
        """Whether to write one after this many steps."""
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        waited = time.monotonic() - self._last
        return self.every_seconds is not None and waited >= self.every_seconds

    def reset_clock(self) -> None:
        """Count the seconds to the next one from now."""
        self._last = time.monotonic()


@dataclass(frozen=True)
class Saved:
    """What a checkpoint held, and where."""

    path: Path
    values: dict[str, Any]


def save(folder: Path, step: int, values: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Publish a checkpoint and drop the oldest beyond `keep`.

    Args:
        folder: Where the checkpoints of one fit lie.
        step: Optimiser steps done; names the checkpoint.
        values: Anything `pack` takes.
        keep: How many finished ones stay.

    Raises:
        RunError: When it cannot be written (the disk is full): the earlier ones are untouched.
    """
    final = folder / f"step-{step:08d}"
    tensors: dict[str, Tensor] = {}
    plain = pack(dict(values), tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with publishing(final, replace=True, kind="checkpoint", step=step) as temporary:
            save_file(_separate(tensors), temporary / "tensors.safetensors")
            write_json(temporary / "state.json", plain)
    except (OSError, RuntimeError) as error:  # safetensors reports a full disk as its own error
        raise RunError(
            f"{final} could not be written: {error}. Earlier checkpoints are intact; "
            "free some space and resume."
        ) from error
    for old in _finished(folder)[:-keep]:
        _remove(old)
    return final


def load_newest(folder: Path, *, tidy: bool = True) -> Saved | None:
    """The newest checkpoint that is whole, or None where none was ever finished.

    A damaged checkpoint is passed over with a note.

    Args:
        folder: Where the checkpoints of one fit lie.
        tidy: First sweep what killed saves left, and bring an old state that was set aside
            back. Of several processes only one may: it would take the others' files for torn.

    Raises:
        RunError: When there are checkpoints and every one is damaged.
    """
    if not folder.is_dir():
        return None
    if tidy:
        _tidy(folder)
    damage: list[str] = []
    for path in reversed(_finished(folder)):
        try:
            verify_manifest(path)
            plain = read_json(path / "state.json")
            return Saved(path, unpack(plain, load_file(path / "tensors.safetensors")))
        except RunError as error:
            damage.append(str(error))
            _log.warning("Checkpoint passed over: %s", error)
            progress.note(f"A checkpoint is damaged and passed over: {error}")
    if damage:
        raise RunError(
            f"every checkpoint in {folder} is damaged. {damage[0]} "
            "Delete the folder to start this fit again."
        )
    return None


def _tidy(folder: Path) -> None:
    for left in [*folder.glob(".step-*.tmp"), *folder.glob(".step-*.old")]:
        sweep(folder / left.name.split(".")[1])
    for left in folder.glob(".start.json.*.tmp"):
        left.unlink(missing_ok=True)
    for left in folder.glob("step-*"):
        if not (left / MANIFEST).exists():
            shutil.rmtree(left, ignore_errors=True)


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:  # noqa: PLR0911
    """Split nested values into JSON and tensors.

    Args:
        value: Dicts, lists, tuples, tensors, arrays, numbers, strings, booleans, None.
        tensors: Filled with the tensors, under the keys that the JSON refers to.
        path: Where `value` lies; names the tensors.

    Returns:
        JSON with `{"$tensor": key}` and the like in place of what JSON cannot say.

    Raises:
        UsageError: For a value of another kind, naming its place.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Tensor | np.ndarray):
        key = path or "value"
        if isinstance(value, Tensor):
            tensors[key] = value.detach()
            return {"$tensor": key}
        tensors[key] = torch.from_numpy(value)
        return {"$array": key}
    if isinstance(value, np.generic):
        return pack(value.item(), tensors, path)
    if isinstance(value, list | tuple):
        items = [pack(item, tensors, f"{path}/{place}") for place, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: pack(item, tensors, f"{path}/{key}") for key, item in value.items()}
        pairs = [
            [pack(key, tensors), pack(item, tensors, f"{path}/{key}")]
            for key, item in value.items()
        ]
        return {"$pairs": pairs}
    raise UsageError(
        f"a checkpoint cannot keep {path or 'value'}: it is a {type(value).__name__}. "
        "Use tensors, numbers, strings, lists and dicts."
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: PLR0911
    """Undo `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (tag, inner), *_ = value.items()
        if tag == "$tensor":
            return tensors[inner]
        if tag == "$array":
            return tensors[inner].numpy()
        if tag == "$float":
            return float(inner)
        if tag == "$tuple":
            return tuple(unpack(item, tensors) for item in inner)
        if tag == "$pairs":
            return {unpack(key, tensors): unpack(item, tensors) for key, item in inner}
    return {key: unpack(item, tensors) for key, item in value.items()}


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        storage = here.untyped_storage()
        whole = storage.nbytes() == here.numel() * here.element_size()
        if not whole or storage.data_ptr() in seen:
            here = here.clone()
        seen.add(here.untyped_storage().data_ptr())
        result[key] = here
    return result


def _finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / MANIFEST).exists())


def _remove(path: Path) -> None:
    """Delete a checkpoint, its manifest first: killed in between, it counts as never finished."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)

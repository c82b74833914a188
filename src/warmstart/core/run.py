"""The run that a strategy writes to: its folder, its seed, its log and its limits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .publish import write_atomic
from .rng import Streams

__all__ = ["Run"]


class Run:
    """Where one fit keeps its log and checkpoints, and how long it may take.

    Attributes:
        folder: The run's own folder while it is written.
        seed: Root of every random draw of this run.
        deadline: Value of `time.monotonic()` at which to stop, or None.
        max_steps: Optimiser steps at most, or None.
        device: Name of the device, or `auto`.
        trackers: Names of experiment trackers to report to as well.
        resumable: Whether an interrupted fit shall go on where it stopped; False for trials that
            nobody goes on with, which then write no checkpoint.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        seed: int = 0,
        deadline: float | None = None,
        max_steps: int | None = None,
        device: str = "auto",
        trackers: tuple[str, ...] = (),
        max_forgetting: float | None = None,
        resumable: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seed = int(seed)
        self.deadline = deadline
        self.max_steps = max_steps
        self.device = device
        self.trackers = trackers
        self.max_forgetting = max_forgetting
        self.resumable = resumable
        self.streams = Streams(self.seed)

    @property
    def log_path(self) -> Path:
        """The log: one JSON object a line."""
        return self.folder / "metrics.jsonl"

    def log(self, **values: object) -> None:
        """Append one line to metrics.jsonl, after cutting off a torn last line."""
        line = json.dumps(values, ensure_ascii=False, default=float)
        with self.log_path.open("ab+") as handle:
            _cut_torn_line(handle)
            handle.write(line.encode("utf-8") + b"\n")
            handle.flush()
            os.fsync(handle.fileno())

    def read_log(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl; a torn last line is left out."""
        if not self.log_path.exists():
            return []
        values: list[dict[str, Any]] = []
        for line in self.log_path.read_bytes().split(b"\n")[:-1]:
            try:
                values.append(json.loads(line))
            except ValueError:  # no JSON, or no UTF-8
                break
        return values

    def log_count(self) -> int:
        """How many whole lines the log has."""
        return len(self.read_log())

    def truncate_log(self, count: int) -> None:
        """Keep the first `count` lines: what came after the checkpoint will be logged again."""
        lines = self.read_log()[:count]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(self.log_path, text)

    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def again(self, **changes: Any) -> Run:
        """A run in the same folder, with the same log; settings stay unless changed."""
        return self.child("", **changes)

    def child(self, name: str, **changes: Any) -> Run:
        """A run in a folder below this one; settings stay unless changed."""
        settings: Mapping[str, Any] = {
            "seed": self.seed,
            "deadline": self.deadline,
            "max_steps": self.max_steps,
            "device": self.device,
            "trackers": self.trackers,
            "max_forgetting": self.max_forgetting,
            "resumable": self.resumable,
            **changes,
        }
        return Run(self.folder / name, **settings)


def _cut_torn_line(handle: BinaryIO) -> None:
    """Drop what a killed writer left after the last newline."""
    size = handle.seek(0, os.SEEK_END)
    if not size:
        return
    handle.seek(size - 1)
    if handle.read(1) == b"\n":
        return
    handle.seek(0)
    handle.truncate(handle.read().rfind(b"\n") + 1)
    handle.seek(0, os.SEEK_END)

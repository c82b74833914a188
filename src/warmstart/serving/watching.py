"""A pointer file names the folder to serve; when it changes, that folder is loaded and swapped in.

The file holds the name of a folder beside it. It is written whole (`point`), so a reader never sees
half a name. A folder that cannot be loaded leaves the old one in service and is tried again later.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warmstart.core import RunError, WarmstartError, write_atomic
from warmstart.core.progress import note

from .service import RecommendService
from .snapshot import Live

__all__ = ["Loader", "Watcher", "keep_from_collector", "point", "pointed"]

_log = logging.getLogger(__name__)
Loader = Callable[[Path], RecommendService]
NAME_BYTES = 1024
LONGEST_PAUSE = 60.0
COLLECT_SECONDS = 600.0


def point(pointer: Path | str, folder: Path | str) -> None:
    """Let a pointer file name a folder beside it.

    Raises:
        RunError: When the folder does not lie beside the file, or is not there.
    """
    pointer, folder = Path(pointer), Path(folder)
    if folder.resolve().parent != pointer.resolve().parent or not folder.is_dir():
        raise RunError(f"{pointer} can only name a folder that lies beside it, got {folder}.")
    write_atomic(pointer, folder.name + "\n")


def pointed(pointer: Path | str) -> Path:
    """The folder that a pointer file names.

    Raises:
        RunError: When the file is missing or unreadable, or names anything but a folder beside it.
    """
    pointer = Path(pointer)
    try:
        with pointer.open("rb") as handle:
            name = handle.read(NAME_BYTES).decode("utf-8").strip()
        folder = pointer.parent / name
        beside = bool(name) and folder.resolve().parent == pointer.resolve().parent
        if not beside or not folder.is_dir():
            raise RunError(f"{pointer} names {name!r}, which is no folder beside it.")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, a NUL in the name
        raise RunError(f"{pointer} cannot be read: {error}.") from None
    return folder


def keep_from_collector(collected: float) -> float:
    """Keep all that is there out of the passes of Python's collector.

    A pass over a million items stops every request for 0.2 s. What is kept out is freed all the
    same when nothing refers to it; rings of garbage that are kept out wait for the next call that
    collects, which one in `COLLECT_SECONDS` does.

    Args:
        collected: What the last call gave; minus infinity for the first.

    Returns:
        When garbage was collected last, by the monotonic clock.
    """
    if time.monotonic() - collected >= COLLECT_SECONDS:
        gc.unfreeze()
        gc.collect()
        collected = time.monotonic()
    gc.freeze()
    return collected


@contextmanager
def _no_collection() -> Iterator[None]:
    """Many new objects make Python's collector walk through all, and requests wait meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Watcher:
    """A thread that keeps `live` at what the pointer file names.

    Attributes:
        looked: Set when the first look is over, whatever it found.
    """

    def __init__(self, live: Live, pointer: Path, load: Loader, poll_seconds: float) -> None:
        self._live = live
        self._pointer = pointer
        self._load = load
        self._pause = poll_seconds
        self.looked = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warmstart-watcher", daemon=True)
        self._served: Path | None = None
        self._collected = -math.inf

    def start(self) -> None:
        """Begin; the first look is at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the load that is going on."""
        self._stop.set()
        self._thread.join(timeout=LONGEST_PAUSE)

    def look(self) -> bool:
        """Load and swap in what the pointer names, unless it is served already.

        Raises:
            RunError: When it cannot be loaded; the old snapshot stays.
        """
        folder = pointed(self._pointer)
        if folder == self._served:
            return False
        with _no_collection():
            self._live.reload(self._load(folder))
            self._collected = keep_from_collector(self._collected)
        self._served = folder
        return True

    def _run(self) -> None:
        pause = self._pause
        while not self._stop.is_set():
            try:
                self.look()
                pause = self._pause
            except WarmstartError as error:
                note(f"The service stays as it is: {error}")
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception:
                _log.exception("%s could not be loaded; the service stays as it is.", self._pointer)
                pause = min(2 * pause, LONGEST_PAUSE)
            self.looked.set()
            self._stop.wait(pause)

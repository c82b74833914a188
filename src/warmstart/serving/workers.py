"""Several processes behind one listening socket: Python's lock lets one process use about one core.

The parent listens and answers nothing. Each worker is a process of its own that is told over its
standard input what to serve, loads it, and accepts connections from the parent's socket. When the
parent is gone, standard input ends and the workers drain. A worker that dies is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from prometheus_client.multiprocess import mark_process_dead

from warmstart.core import RunError, UsageError
from warmstart.core.progress import note

from .metrics import FOLDER_VARIABLE, SHARED_VARIABLE
from .server import address_of, check_address, listen
from .settings import Settings

__all__ = ["Adopted", "adopt", "run_workers"]

POLL_SECONDS = 0.1
SHORT_SECONDS = 30.0
"""A worker that ends sooner has failed to start, or nearly."""
FAILURES = 3
"""So many such ends with none later between them, and the server gives up."""
GRACE_SECONDS = 5.0
"""So long after the time for draining, what still runs is killed."""


def run_workers(
    command: Sequence[str],
    spec: Mapping[str, Any],
    host: str,
    port: int,
    settings: Settings,
    workers: int,
) -> None:
    """Serve with several processes until SIGTERM or Ctrl-C; then let them drain, and return.

    Args:
        command: Starts a worker, which calls `adopt` and then serves with the listener it got.
        spec: What `adopt` gives the worker; JSON, sent over a pipe.
        host: Address to listen on. Any but a loopback address needs a key.
        port: TCP port; 0: any free one.
        settings: Limits and key; the workers are told of them by `spec`.
        workers: How many processes.

    Raises:
        UsageError: As `serve`, or where processes cannot share a socket.
        RunError: When workers end again and again soon after they were started.
    """
    if workers < 1:
        raise UsageError(f"serve.workers must be at least 1, got {workers}. Usual: one a core.")
    if os.name != "posix":
        raise UsageError(f"serve.workers above 1 needs Linux or macOS, this is {sys.platform}.")
    check_address(host, port, settings)
    with (
        listen(host, port) as listener,
        tempfile.TemporaryDirectory(prefix="warmstart-metrics-") as metrics,
    ):
        longest = settings.notice_seconds + settings.drain_seconds + GRACE_SECONDS
        crew = _Crew(command, spec, listener, metrics, longest)
        stopping: list[int] = []

        def asked(number: int, _: FrameType | None) -> None:
            stopping.append(number)  # an event's lock could be held by the very thread

        handled = (signal.SIGTERM, signal.SIGINT)
        before = [(number, signal.signal(number, asked)) for number in handled]
        try:
            crew.start(workers)
            note(f"Serving on {address_of(listener)} with {workers} workers")
            while not stopping:
                time.sleep(POLL_SECONDS)
                crew.look()
        finally:
            crew.end()
            for number, handler in before:
                signal.signal(number, handler)


class Adopted(NamedTuple):
    """What a worker was told.

    Attributes:
        spec: What to serve, as `run_workers` got it.
        listener: The socket to accept from.
        wait: Whether to accept only when the service is loaded: others answer meanwhile.
    """

    spec: dict[str, Any]
    listener: socket.socket
    wait: bool


def adopt() -> Adopted:
    """In a worker: what it was told, for `serve`.

    From then on the process is asked to drain when its standard input ends. Ctrl-C is left to the
    parent until the server has a handler for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told_by = sys.stdin.fileno()
    told = json.loads(sys.stdin.buffer.readline())
    listener = socket.socket(fileno=told["socket"])
    listener.set_inheritable(False)

    def outlive() -> None:
        while os.read(told_by, 4096):  # no buffer: its lock would be held when the process ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=outlive, name="warmstart-parent", daemon=True).start()
    return Adopted(told["spec"], listener, told["wait"])


class _Crew:
    """The workers of one server."""

    def __init__(
        self,
        command: Sequence[str],
        spec: Mapping[str, Any],
        listener: socket.socket,
        metrics: str,
        longest: float,
    ) -> None:
        self._command = list(command)
        self._listener = listener
        self._told = {"socket": listener.fileno(), "spec": dict(spec)}
        self._metrics = metrics
        self._longest = longest
        self._running: dict[subprocess.Popen[bytes], float] = {}
        self._failures = 0

    def start(self, count: int, *, wait: bool = False) -> None:
        told = json.dumps({**self._told, "wait": wait}).encode() + b"\n"
        for _ in range(count):
            worker = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                pass_fds=[self._listener.fileno()],
                env={**os.environ, FOLDER_VARIABLE: self._metrics, SHARED_VARIABLE: "1"},
            )
            self._running[worker] = time.monotonic()
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended at once; `look` finds it
                worker.stdin.write(told)
                worker.stdin.flush()

    def look(self) -> None:
        """Replace the workers that have ended.

        Raises:
            RunError: When they end again and again.
        """
        for worker, started in list(self._running.items()):
            code = worker.poll()
            if code is None:
                continue
            self._forget(worker)
            short = time.monotonic() - started < SHORT_SECONDS
            self._failures = self._failures + 1 if short else 0
            if self._failures >= FAILURES:
                raise RunError(
                    f"{FAILURES} workers ended soon after their start, the last with exit code "
                    f"{code}; what they printed says why. The server ends."
                )
            note(f"A worker ended with exit code {code}; another one is started.")
            self.start(1, wait=True)

    def end(self) -> None:
        """Ask all to drain, and wait. Who connects now is refused, not left waiting."""
        self._listener.close()
        for worker in self._running:
            worker.terminate()
        latest = time.monotonic() + self._longest
        for worker in list(self._running):
            try:
                worker.wait(timeout=max(0.1, latest - time.monotonic()))
            except subprocess.TimeoutExpired:
                note("A worker did not end in time and was killed.")
                worker.kill()
                worker.wait()
            self._forget(worker)

    def _forget(self, worker: subprocess.Popen[bytes]) -> None:
        del self._running[worker]
        mark_process_dead(worker.pid, self._metrics)  # type: ignore[no-untyped-call]
        assert worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.close()

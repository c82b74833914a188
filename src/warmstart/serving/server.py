"""uvicorn around the app: on loopback unless there is a key; it goes without losing an answer."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from warmstart.core import UsageError
from warmstart.core.progress import note

from .app import State, app
from .service import RecommendService
from .settings import KEY_VARIABLE, Settings, is_loopback
from .watching import Loader, keep_from_collector

__all__ = ["address_of", "check_address", "listen", "serve"]

_log = logging.getLogger(__name__)
HEADER_SECONDS = 15.0
"""A connection that has sent no whole request head by then is closed."""
HEADER_BYTES = 65_536
"""A longer head closes the connection: httptools itself would gather it for ever."""
CONNECTIONS = 4096
BACKLOG = 1024
SWITCH_SECONDS = 0.001
"""How long a thread may keep Python's lock from others; the usual 5 ms is half an answer's time."""


def serve(
    service: RecommendService | None,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    *,
    current: Path | str | None = None,
    load: Loader | None = None,
    listener: socket.socket | None = None,
    wait: bool = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then answer what was accepted, and return.

    Args:
        service: What to serve; None: what `current` names.
        host: Address to listen on. Any but a loopback address needs a key.
        port: TCP port; 0: any free one.
        settings: Limits and key; None: defaults, with the key from the environment.
        current: A pointer file; when it changes, the folder it names is swapped in.
        load: Makes a service of such a folder.
        listener: In a worker, the socket to accept from (`workers.adopt`), in place of host and
            port.
        wait: Whether nothing is accepted before the service is loaded.

    Raises:
        UsageError: For a public address without a key, or a port that cannot be had.
        RunError: When the service's index belongs to another item tower.
    """
    settings = settings or Settings.from_environment()
    if listener is None:
        check_address(host, port, settings)
    made = app(service, settings, current=current, load=load, wait=wait)
    told = listener is None
    listener = listener or listen(host, port)
    config = uvicorn.Config(
        made,
        http=_Patient,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    keep_from_collector(-math.inf)
    # Requests are many and small, and share the cores by threads and processes of their own.
    with listener, threadpool_limits(1, "blas"):
        _Server(config, made, told).run([listener])


def check_address(host: str, port: int, settings: Settings) -> None:
    """Only loopback without a key.

    Raises:
        UsageError: For a public address without a key, or a port that cannot be.
    """
    if settings.key is None and not is_loopback(host):
        raise UsageError(
            f"serve.host {host!r} can be reached from other machines and there is no API key. Set "
            f"{KEY_VARIABLE} (16 characters or more), or listen on 127.0.0.1."
        )
    if not 0 <= port <= 65535:
        raise UsageError(f"serve.port must be from 0 to 65535, got {port}.")


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        UsageError: When the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
        # Connections inherit it. asyncio sets it only on sockets that name their protocol, and
        # without it an answer's body waits 40 ms for the acknowledgement of its head.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    except OSError as error:
        raise UsageError(
            f"The server cannot listen on {host}:{port}: {error.strerror or error}. Name another "
            "port, or 0 for any free one."
        ) from None


def address_of(listener: socket.socket) -> str:
    """Where a browser finds what listens there."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


class _Server(uvicorn.Server):
    """Drains first: 503 for new requests, an answer for those accepted, then the socket closes."""

    def __init__(self, config: uvicorn.Config, made: FastAPI, told: bool) -> None:
        super().__init__(config)
        self._told = told
        self._state: State = made.state.warmstart
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listener in sockets or [] if self._told else []:
            note(f"Serving on {address_of(listener)}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain; a second Ctrl-C ends at once."""
        if self._state.live.draining:
            if sig == signal.SIGINT:
                self.should_exit = self.force_exit = True
            return
        self._state.live.draining = True
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._exit_later)

    def _exit_later(self) -> None:
        assert self._loop is not None
        self._loop.call_later(self._state.settings.notice_seconds, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


class _Patient(HttpToolsProtocol):
    """Closes a connection whose request head does not come, or does not end.

    uvicorn itself would wait for ever.
    """

    _head: asyncio.TimerHandle | None = None
    _gathered = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """A head that has come ends the wait; a part of one begins it, or is already too long."""
        super().data_received(data)
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy:
            self._stop_waiting()
            return
        self._gathered += len(data)
        if self._gathered > HEADER_BYTES:
            self._stop_waiting()
            self._close()
        elif self._head is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._head = self.loop.call_later(HEADER_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        self._gathered = 0
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _close(self) -> None:
        self._head = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

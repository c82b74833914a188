"""What a request passes before its route: counted, host and key checked, body read within limits.

Plain ASGI, so that a body is bounded while it arrives, whatever its headers claim.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ServingError
from .metrics import Metrics
from .settings import Settings, is_loopback
from .snapshot import Live

__all__ = ["HEALTH", "Bounded", "Guarded", "Observed"]

HEALTH = frozenset({"/healthz", "/readyz"})
"""Routes that need no key and answer while the server drains."""
GONE = 499
"""Counted for a client that went away before its answer, as nginx does; never sent."""
_READ_OUT, _READ_OUT_SECONDS = 1 << 20, 1.0
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Observed:
    """Counts and times each request, and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, metrics: Metrics, live: Live) -> None:
        self._app = app
        self._metrics = metrics
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = GONE

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": self._headers(message)}
            await send(message)

        self._metrics.running.inc()
        try:
            await self._app(scope, receive, seen)
        except BaseException:
            status = 500
            raise
        finally:
            self._metrics.running.dec()
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - start
            self._metrics.answered(scope["method"], route, status, seconds)

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        headers = [*message.get("headers", ()), *_HEADERS]
        names = {name.lower() for name, _ in headers}
        if b"cache-control" not in names:
            headers.append((b"cache-control", b"no-store"))
        if self._live.draining and b"connection" not in names:
            headers.append((b"connection", b"close"))
        return headers


async def _read_out(receive: Receive) -> None:
    """Read the rest of a request whose connection will be closed behind the answer.

    What arrives at a closed socket resets the connection, and the answer may be lost with it.
    """
    left = _READ_OUT
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READ_OUT_SECONDS):
            while left > 0:
                message = await receive()
                if not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))


class Guarded:
    """Refuses a wrong key (without a key: a foreign Host), and new work while the server drains.

    The key comes as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of HTTP
    Basic, which browsers ask for by themselves.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, live: Live) -> None:
        self._app = app
        self._metrics = metrics
        self._live = live
        self._hosts = frozenset(host.lower() for host in settings.hosts)
        key = settings.key
        self._digest = None if key is None else _digest(key.get_secret_value().encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                self._metrics.refused(refusal.code)
                if self._live.draining:  # every answer then closes its connection
                    await _read_out(receive)
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServingError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._digest is None and not self._is_host(headers.get(b"host", b"")):
            return ServingError(
                421, "wrong_host", "Without an API key this server answers on loopback names only."
            )
        if scope["path"] in HEALTH:
            return None
        if self._digest is not None and not self._is_key(headers):
            page = scope["path"] == "/" and b"text/html" in headers.get(b"accept", b"")
            scheme = "Basic" if page else "Bearer"
            return ServingError(
                401,
                "wrong_key",
                "Send the API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                headers={"WWW-Authenticate": f'{scheme} realm="warmstart"'},
            )
        if self._live.draining:
            again = {"Retry-After": "1", "Connection": "close"}
            return ServingError(503, "draining", "The server is shutting down.", headers=again)
        return None

    def _is_host(self, value: bytes) -> bool:
        host = value.decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return is_loopback(name) or name in self._hosts

    def _is_key(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"x-api-key", b"")
        scheme, _, rest = headers.get(b"authorization", b"").strip().partition(b" ")
        if scheme.lower() == b"bearer":
            given = rest.strip()
        elif scheme.lower() == b"basic":
            given = _password(rest)
        return self._digest is not None and hmac.compare_digest(_digest(given), self._digest)


class Bounded:
    """Reads the body before the route does: 413 when it is too large, 408 when it is too slow."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._limit = settings.max_body_bytes
        self._seconds = settings.body_seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            late = f"The body did not arrive within {self._seconds:g} s."
            await self._refuse(ServingError(408, "slow_body", late), scope, receive, send)
            return
        except ServingError as refusal:
            await self._refuse(refusal, scope, receive, send)
            return
        if body is None:  # the client has gone
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._limit:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._limit:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> ServingError:
        return ServingError(
            413, "body_too_large", f"The body may have {self._limit:,} bytes at most."
        )

    async def _refuse(
        self, refusal: ServingError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer and close: the rest of the body is not read."""
        self._metrics.refused(refusal.code)
        refusal.headers["Connection"] = "close"
        await refusal.response()(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, and then what the server says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def _password(value: bytes) -> bytes:
    """The password of HTTP Basic credentials; empty when they cannot be read."""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _digest(key: bytes) -> bytes:
    """Of one length, so that comparing tells nothing of the key's."""
    return hashlib.sha256(key).digest()

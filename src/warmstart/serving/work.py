"""Where computing happens: a few threads, a short queue, a deadline. Never the event loop.

What does not fit into the queue is refused at once; what has waited past its deadline is not begun.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .errors import ServingError
from .metrics import Metrics

__all__ = ["Work"]

_T = TypeVar("_T")


class _Late(Exception):
    """The deadline passed before a thread was free."""


class Work:
    """A bounded executor; `run` is called on the event loop alone."""

    def __init__(
        self, threads: int, waiting: int, deadline_seconds: float, metrics: Metrics, name: str
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"warmstart-{name}")
        self._room = threads + waiting
        self._seconds = deadline_seconds
        self._metrics = metrics
        self._inside = 0

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Compute in a thread.

        Raises:
            ServingError: 429 when the queue is full, or when the deadline passed in the queue; 503
                when it passed while computing.
        """
        if self._inside >= self._room:
            raise self._overloaded("queue_full")
        begun: list[float] = []
        deadline = time.monotonic() + self._seconds

        def work() -> _T:
            if time.monotonic() >= deadline:
                raise _Late
            begun.append(time.monotonic())
            return function(*arguments)

        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._inside += 1
        self._metrics.accepted.inc()
        future.add_done_callback(self._left)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(future)
        except (_Late, TimeoutError):
            if not begun:
                raise self._overloaded("late") from None
            self._metrics.refused("slow")
            message = f"The answer took longer than {self._seconds:g} s."
            raise ServingError(503, "too_slow", message, headers={"Retry-After": "1"}) from None

    def close(self) -> None:
        """Wait for the work that was accepted."""
        self._pool.shutdown(wait=True)

    def _left(self, future: asyncio.Future[Any]) -> None:
        self._inside -= 1
        self._metrics.accepted.dec()
        if not future.cancelled():
            future.exception()  # seen, also when nobody waits any more

    def _overloaded(self, reason: str) -> ServingError:
        self._metrics.refused(reason)
        message = "The server has too much to do. Try again in a second."
        return ServingError(429, "overloaded", message, headers={"Retry-After": "1"})

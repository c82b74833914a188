"""What the server tells Prometheus, in a registry of its own.

Where several processes serve (`workers`), each writes its numbers to a folder that all share, and
whichever is asked tells the sums; the process's own memory and time are then left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

__all__ = ["CONTENT_TYPE", "FOLDER_VARIABLE", "SHARED_VARIABLE", "Metrics"]

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client reads it when it is imported."""
SHARED_VARIABLE = "WARMSTART_SHARED_METRICS"
"""Set by `workers`, since the other may be there for other programs."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Metrics:
    """Counters, gauges and histograms of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._shared = SHARED_VARIABLE in os.environ
        self._served: tuple[str, str, str] | None = None
        if not self._shared:
            ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "warmstart_http_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "warmstart_http_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._steps = Histogram(
            "warmstart_step_duration_seconds",
            "Time of a step of an answer: user_tower, search.",
            ["step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.running = Gauge(
            "warmstart_http_requests_in_progress",
            "Requests that are being answered.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.accepted = Gauge(
            "warmstart_work_accepted",
            "Requests that a thread works on or that wait for one.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self._refused = Counter(
            "warmstart_http_refused_requests_total",
            "Requests refused, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._items = Gauge(
            "warmstart_index_items",
            "Items served.",
            multiprocess_mode="livemostrecent",
            registry=self.registry,
        )
        self._info = Gauge(
            "warmstart_snapshot_info",
            "What is served; the value is 1, and 0 of what was served before by several workers.",
            ["model", "index", "tower"],
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self._since = Gauge(
            "warmstart_snapshot_start_timestamp_seconds",
            "When what is served was put in place, seconds since 1970.",
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self._swaps = Counter(
            "warmstart_snapshot_swaps_total",
            "Snapshots put in place (done) or found unusable (failed).",
            ["result"],
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._steps.labels(name).observe(time.perf_counter() - start)

    def swapped(self, model: str, index: str, tower: str, items: int) -> None:
        """Tell what is served from now on."""
        if self._served is not None and self._shared:
            self._info.labels(*self._served).set(0)  # what is shared cannot be taken back
        elif self._served is not None:
            self._info.remove(*self._served)
        self._served = (model, index, tower)
        self._info.labels(model, index, tower).set(1)
        self._items.set(items)
        self._since.set_to_current_time()
        self._swaps.labels("done").inc()

    def swap_failed(self) -> None:
        """Count a snapshot that could not be put in place."""
        self._swaps.labels("failed").inc()

    def text(self) -> bytes:
        """The exposition format."""
        if not self._shared:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)

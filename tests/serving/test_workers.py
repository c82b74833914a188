"""Several processes behind one socket: who answers, who is replaced, who outlives whom."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from warmstart.core import UsageError
from warmstart.serving import Settings, point, run_workers

from .test_process import BODY, Server
from .test_swap import check_one_version


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path, "2")
    try:
        running.wait()
        yield running
    finally:
        for worker in workers(running):
            worker.kill()
        running.process.kill()
        running.process.communicate()


def workers(server: Server) -> list[psutil.Process]:
    if not psutil.pid_exists(server.process.pid):
        return []
    return psutil.Process(server.process.pid).children()


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(server: Server, times: int) -> None:
    for _ in range(times):
        with closing(server.connect()) as connection:
            assert server.request(connection, "POST", "/v1/recommend", BODY)[0] == 200


def test_metrics_are_those_of_all_workers(server: Server) -> None:
    eventually(lambda: len(workers(server)) == 2)
    ask(server, 30)
    with closing(server.connect()) as connection:
        told = server.request(connection, "GET", "/metrics")[1].decode()
    count = re.search(
        r'^warmstart_http_requests_total\{.*route="/v1/recommend".*\} (.*)$', told, re.M
    )
    assert count is not None
    assert float(count[1]) == 30
    running = re.search(r"^warmstart_http_requests_in_progress (.*)$", told, re.M)
    assert running is not None
    assert float(running[1]) == 1  # the one that asks
    assert re.search(r'^warmstart_snapshot_info\{.*model="model-a".*\} 1\.0$', told, re.M)


def test_a_worker_that_dies_is_replaced(server: Server) -> None:
    first = workers(server)[0]
    first.kill()
    eventually(
        lambda: len(workers(server)) == 2 and first.pid not in [w.pid for w in workers(server)]
    )
    server.wait()
    ask(server, 10)
    server.process.send_signal(signal.SIGTERM)
    out = server.process.communicate(timeout=60)[0]
    assert "A worker ended with exit code -9; another one is started." in out
    assert server.process.returncode == 0, out


def test_workers_end_when_their_parent_is_gone(server: Server) -> None:
    """Killed, it can tell them nothing: they see that their input ends, and drain."""
    left = workers(server)
    server.process.kill()
    server.process.wait()
    gone, alive = psutil.wait_procs(left, timeout=60)
    assert len(gone) == 2
    assert not alive


def test_workers_that_cannot_start_end_the_server(tmp_path: Path) -> None:
    server = Server(tmp_path, "2", "fails")
    out = server.process.communicate(timeout=120)[0]
    assert server.process.returncode == 1
    assert "3 workers ended soon after their start, the last with exit code 3" in out


def test_each_answer_is_of_one_version(server: Server, tmp_path: Path) -> None:
    """Workers take a new version up each for itself; an answer never holds two."""

    def version() -> str:
        with closing(server.connect()) as connection:
            body = server.request(connection, "POST", "/v1/recommend", BODY)[1]
        return check_one_version(json.loads(body))

    assert version() == "a"
    point(server.pointer, tmp_path / "v-b")
    time.sleep(2)  # twenty looks
    assert {version() for _ in range(20)} == {"b"}


def test_who_connects_while_workers_drain_is_refused(server: Server) -> None:
    """A balancer then asks elsewhere; a connection that nobody accepts would only wait."""
    held = server.connect()  # keeps its worker from ending at once
    server.request(held, "GET", "/healthz")
    server.process.send_signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            server.ask_once("/healthz")
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    eventually(refused)
    held.close()
    assert server.process.wait(timeout=60) == 0


def test_a_swap_leaves_the_old_version_at_zero(server: Server, tmp_path: Path) -> None:
    point(server.pointer, tmp_path / "v-b")

    def served() -> dict[str, str]:
        with closing(server.connect()) as connection:
            told = server.request(connection, "GET", "/metrics")[1].decode()
        line = r'^warmstart_snapshot_info\{.*model="(model-.)".*\} (.*)$'
        return dict(re.findall(line, told, re.M))

    eventually(lambda: served() == {"model-a": "0.0", "model-b": "1.0"})


def test_no_worker_is_no_server() -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        run_workers([], {}, "127.0.0.1", 0, Settings(), 0)


@pytest.mark.parametrize(
    ("host", "port", "words"), [("0.0.0.0", 8000, "no API key"), ("127.0.0.1", 70000, "65535")]
)
def test_addresses_are_checked_before_anything_starts(host: str, port: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run_workers([], {}, host, port, Settings(), 2)


def test_where_sockets_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(UsageError, match="Linux or macOS"):
        run_workers([], {}, "127.0.0.1", 0, Settings(), 2)

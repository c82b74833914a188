"""A real server in a process of its own: swapped under load, stopped under load."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from warmstart.core import UsageError
from warmstart.serving import Settings, point, serve
from warmstart.serving.settings import KEY_FILE_VARIABLE, KEY_VARIABLE, is_loopback, read_key

from .fakes import KEY, Fake, make
from .test_swap import check_one_version

SCRIPT = Path(__file__).with_name("process.py")


class Server:
    """The process, and requests to it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.pointer = folder / "current"
        for name in ("v-a", "v-b"):
            (folder / name).mkdir()
        point(self.pointer, folder / "v-a")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.port), str(self.pointer), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[0])
            try:
                if self.ask_once("/readyz") == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError("the server did not become ready")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask_once(self, path: str) -> int:
        with closing(self.connect()) as connection:
            return self.request(connection, "GET", path)[0]

    @staticmethod
    def request(
        connection: http.client.HTTPConnection, method: str, path: str, body: object = None
    ) -> tuple[int, bytes]:
        raw = None if body is None else json.dumps(body).encode()
        connection.request(method, path, raw, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path, *getattr(request, "param", ()))
    try:
        running.wait()
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


BODY = {"user": 7, "k": 5, "exclude_seen": False}


@pytest.mark.parametrize("server", [(), ("2",)], indirect=True, ids=["one process", "two workers"])
def test_swapped_and_stopped_under_load(server: Server, tmp_path: Path) -> None:
    """Four clients ask all the time; ten swaps; then SIGTERM. Nothing fails, nothing is mixed."""
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    stopping = threading.Event()

    def ask() -> None:
        with closing(server.connect()) as connection:
            ask_on(connection)

    def ask_on(connection: http.client.HTTPConnection) -> None:
        while True:
            try:
                status, body = server.request(connection, "POST", "/v1/recommend", BODY)
            except ConnectionRefusedError:
                if not stopping.is_set():
                    wrong.append("refused")
                return
            except (OSError, http.client.HTTPException) as error:
                wrong.append(f"{type(error).__name__}: {error}")
                return
            if status == 503 and stopping.is_set():
                seen["told to go"] += 1
                return
            if status != 200:
                wrong.append(f"{status}: {body!r}")
                return
            seen[check_one_version(json.loads(body))] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for turn in range(10):
        point(server.pointer, tmp_path / ("v-b" if turn % 2 == 0 else "v-a"))
        time.sleep(0.15)
    stopping.set()
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(timeout=30)
    out = server.process.communicate(timeout=30)[0]
    assert wrong == []
    assert seen["a"] > 5
    assert seen["b"] > 5
    assert seen["told to go"] == 4
    assert server.process.returncode == 0, out
    assert "gone" in out
    assert "Traceback" not in out


def test_bytes_that_are_no_http(server: Server) -> None:
    for raw in (b"\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"G" * 100_000):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(100)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    chunked = (
        b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(chunked)
        status = b""
        try:
            for _ in range(2000):
                connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        except OSError:
            pass  # the server has answered and closed
        try:
            status = connection.recv(100)
        except OSError:
            status = b"HTTP/1.1 413"  # the answer was lost with the reset
        assert status.startswith(b"HTTP/1.1 413")
    assert server.ask_once("/healthz") == 200


def talk(*messages: bytes) -> list[bytes]:
    """What a server answers to each message on a connection of its own, until it closes it."""
    import asyncio

    import uvicorn

    from warmstart.serving import server

    async def run() -> list[bytes]:
        made = make()
        config = uvicorn.Config(
            made, port=0, http=server._Patient, ws="none", log_config=None, lifespan="on"
        )
        running = uvicorn.Server(config)
        task = asyncio.create_task(running._serve())
        while not running.started:
            await asyncio.sleep(0.01)
        port = running.servers[0].sockets[0].getsockname()[1]
        answers = []
        for message in messages:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(message)
            try:
                answers.append(await asyncio.wait_for(reader.read(), 10))
            except ConnectionResetError:  # closed before all was read
                answers.append(b"")
            writer.close()
        running.should_exit = True
        await task
        return answers

    return asyncio.run(run())


WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a request never comes."""
    monkeypatch.setattr("warmstart.serving.server.HEADER_SECONDS", 0.2)
    silent, half, whole = talk(b"", b"GET /healthz HT", WHOLE)
    assert silent == half == b""
    assert whole.startswith(b"HTTP/1.1 200")


def test_an_endless_head_is_closed() -> None:
    """Long before its time is up; a head of half that length is read."""
    line, field = WHOLE.split(b"\r\n", 1)
    endless = line + b"\r\n" + b"X-Filler: 0123456789\r\n" * 10_000
    long = line + b"\r\nX-Filler: " + b"0" * 30_000 + b"\r\n" + field
    closed, whole = talk(endless, long)
    assert closed == b""
    assert whole.startswith(b"HTTP/1.1 200")


# --- where it listens ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "localhost.x"])
def test_a_public_address_without_a_key_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="there is no API key"):
        serve(Fake(), host, 0, Settings())


def test_loopback_addresses() -> None:
    assert all(
        is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]")
    )


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(Fake(), "127.0.0.1", port, Settings())
    with pytest.raises(UsageError, match="from 0 to 65535, got 70000"):
        serve(Fake(), "127.0.0.1", 70000, Settings())


def test_the_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    assert read_key({}) is None
    assert read_key({KEY_VARIABLE: KEY}) == KEY
    assert read_key({KEY_FILE_VARIABLE: str(path)}) == KEY
    settings = Settings.from_environment({KEY_VARIABLE: KEY}, threads=3)
    assert settings.key is not None
    assert settings.key.get_secret_value() == KEY
    assert settings.threads == 3
    given = Settings.from_environment({KEY_VARIABLE: KEY}, key="another-key-of-some-length")
    assert given.key is not None
    assert given.key.get_secret_value() == "another-key-of-some-length"


@pytest.mark.parametrize("key", ["", "short", "with blanks in the key", "k" * 15, "ключ" * 8])
def test_a_weak_key_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 16 ASCII characters"):
        read_key({KEY_VARIABLE: key})
    with pytest.raises(UsageError, match="cannot be read"):
        read_key({KEY_FILE_VARIABLE: str(tmp_path / "missing")})


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"serving\.max_k must be at least 1 and at most 10,000, got 0"
    ):
        Settings.from_environment({}, max_k=0)
    with pytest.raises(UsageError, match="no setting `max_kk`"):
        Settings.from_environment({}, max_kk=5)

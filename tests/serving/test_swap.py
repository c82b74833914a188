"""A swap is whole: no answer fails, none mixes two snapshots, and no broken one is served."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import socket
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from warmstart.core import RunError
from warmstart.serving import Settings, app, point, pointed
from warmstart.serving.metrics import Metrics
from warmstart.serving.server import listen
from warmstart.serving.snapshot import Live, Snapshot
from warmstart.serving.watching import Watcher, keep_from_collector

from .fakes import Fake, call, is_error, make, opened


def check_one_version(answer: dict[str, Any]) -> str:
    """The version of an answer, all parts of which must carry it."""
    version = str(answer["model"]).removeprefix("model-")
    assert answer["index"] == f"index-{version}"
    assert answer["items"]
    for item in answer["items"]:
        assert item["id"].startswith(f"{version}-")
        assert item["title"].startswith(f"{version} ")
    return version


def test_swaps_under_load_fail_and_mix_nothing() -> None:
    services = [Fake("a"), Fake("b")]

    async def run() -> set[str]:
        made = make(services[0], waiting=200)
        live = made.state.warmstart.live
        seen: set[str] = set()
        async with opened(made) as client:
            stop = asyncio.Event()

            async def swap() -> None:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    await asyncio.to_thread(live.reload, services[turn % 2])
                    await asyncio.sleep(0.005)

            async def ask() -> None:
                for _ in range(40):
                    body = {"user": 7, "k": 8, "exclude_seen": False}
                    response = await client.post("/v1/recommend", json=body)
                    assert response.status_code == 200, response.text
                    seen.add(check_one_version(response.json()))

            swapping = asyncio.create_task(swap())
            await asyncio.gather(*(ask() for _ in range(6)))
            stop.set()
            await swapping
        return seen

    assert asyncio.run(run()) == {"a", "b"}


def test_the_old_snapshot_goes() -> None:
    live = Live(Metrics())
    live.reload(Fake("a"))
    old = weakref.ref(live.snapshot)
    live.reload(Fake("b"))
    assert old() is None  # at once, without a pass of the collector


def test_what_stays_is_kept_from_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ring:
        def __init__(self) -> None:
            self.me = self

    try:
        collected = keep_from_collector(-math.inf)
        assert gc.get_freeze_count() > 0
        ring = weakref.ref(Ring())
        assert keep_from_collector(collected) == collected
        gc.collect()
        assert ring() is not None  # kept out before it was seen to be garbage
        monkeypatch.setattr("warmstart.serving.watching.COLLECT_SECONDS", 0.0)
        assert keep_from_collector(collected) > collected
        assert ring() is None
    finally:
        gc.unfreeze()


def test_the_collector_rests_while_a_snapshot_is_loaded(tmp_path: Path) -> None:
    states = []

    def load(folder: Path) -> Fake:
        states.append(gc.isenabled())
        if len(states) == 2:
            raise RunError("torn")
        return Fake("a")

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    watcher = Watcher(Live(Metrics()), tmp_path / "current", load, 1.0)
    point(tmp_path / "current", tmp_path / "a")
    watcher.look()
    assert gc.isenabled()
    point(tmp_path / "current", tmp_path / "b")
    with pytest.raises(RunError, match="torn"):
        watcher.look()
    assert gc.isenabled()
    assert states == [False, False]


def test_connections_send_at_once() -> None:
    """Without it the body of an answer waits for the acknowledgement of its head."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_snapshot_of_two_towers_is_refused_and_the_old_one_stays() -> None:
    metrics = Metrics()
    live = Live(metrics)
    live.reload(Fake("a"))
    wrong = Fake("b")
    wrong.tower = "tower-c"
    with pytest.raises(RunError, match="tower-c"):
        live.reload(wrong)
    assert live.snapshot is not None
    assert live.snapshot.model == "model-a"
    assert 'warmstart_snapshot_swaps_total{result="failed"} 1.0' in metrics.text().decode()


def test_filters_are_kept_and_bounded() -> None:
    snapshot = Snapshot(Fake())
    one = snapshot.selection(["blue", "round"], False)
    assert snapshot.selection(["round", "blue", "blue"], False) is one
    assert snapshot.selection(["round", "blue"], True) is not one
    for number in range(100):
        snapshot.selection([f"tag {number}"], False)
    assert len(snapshot._filters) == 64


# --- the pointer ---------------------------------------------------------------------------------


def folders(tmp_path: Path) -> Path:
    for name in ("v-a", "v-b"):
        (tmp_path / name).mkdir()
    return tmp_path / "current"


def test_a_pointer_names_a_folder_beside_it(tmp_path: Path) -> None:
    pointer = folders(tmp_path)
    point(pointer, tmp_path / "v-a")
    assert pointed(pointer) == tmp_path / "v-a"
    point(pointer, tmp_path / "v-b")
    assert pointed(pointer).name == "v-b"
    with pytest.raises(RunError, match="beside it"):
        point(pointer, tmp_path / "v-c")
    with pytest.raises(RunError, match="beside it"):
        point(pointer, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"..",
        b".",
        b"../x",
        b"/etc",
        b"v-a/..",
        b"v-a/inner",
        b"missing",
        b"v\0a",
        b"\xff",
        b"link",
    ],
)
def test_a_pointer_to_anywhere_else_is_refused(tmp_path: Path, content: bytes) -> None:
    pointer = folders(tmp_path)
    (tmp_path / "v-a" / "inner").mkdir()
    (tmp_path / "link").symlink_to(Path(os.sep) / "tmp")
    pointer.write_bytes(content)
    with pytest.raises(RunError, match="current"):
        pointed(pointer)


def test_a_missing_pointer_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="current cannot be read"):
        pointed(tmp_path / "current")


def load(folder: Path) -> Fake:
    return Fake(folder.name.removeprefix("v-"))


def test_a_look_loads_what_is_new_and_nothing_twice(tmp_path: Path) -> None:
    pointer = folders(tmp_path)
    point(pointer, tmp_path / "v-a")
    live = Live(Metrics())
    watcher = Watcher(live, pointer, load, poll_seconds=10)
    assert watcher.look()
    assert live.snapshot is not None
    assert live.snapshot.model == "model-a"
    assert not watcher.look()
    point(pointer, tmp_path / "v-b")
    assert watcher.look()
    assert live.snapshot.model == "model-b"


def test_what_cannot_be_loaded_leaves_the_old_one(tmp_path: Path) -> None:
    pointer = folders(tmp_path)
    (tmp_path / "v-broken").mkdir()
    point(pointer, tmp_path / "v-a")
    broken = [RunError("vectors-00000.npy is damaged."), ValueError("odd")]

    def load_or_not(folder: Path) -> Fake:
        if folder.name == "v-broken" and broken:
            raise broken.pop(0)
        return load(folder)

    made = app(None, Settings(poll_seconds=0.01), current=pointer, load=load_or_not)

    async def run() -> None:
        async with opened(made) as client:
            await _until(client, "model-a")
            point(pointer, tmp_path / "v-broken")
            await asyncio.sleep(0.03)
            assert (await client.get("/readyz")).status_code == 200
            await _until(client, "model-broken")  # tried again until it loads
            assert broken == []

    asyncio.run(run())


async def _until(client: Any, model: str) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        response = await client.get("/v1/catalogue")
        if response.status_code == 200 and response.json()["model"] == model:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{model} was not served")


def test_before_the_first_load_the_server_is_not_ready(tmp_path: Path) -> None:
    made = app(None, current=tmp_path / "current", load=load)
    assert is_error(call(made, "GET", "/readyz"), 503, "not_ready")
    made = app(None, current=tmp_path / "current", load=load)
    refused = call(made, "POST", "/v1/recommend", json={"history": []})
    assert is_error(refused, 503, "not_ready")
    assert refused.headers["retry-after"] == "1"

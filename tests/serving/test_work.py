"""Overload is refused at once, late work is not begun, what was accepted is answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import httpx
import pytest

from warmstart.serving.errors import ServingError
from warmstart.serving.metrics import Metrics
from warmstart.serving.work import Work

from .fakes import Fake, is_error, make, opened


def work_of(threads: int = 1, waiting: int = 1, seconds: float = 60.0) -> Work:
    return Work(threads, waiting, seconds, Metrics(), "test")


def refusal(work: Work, function: Callable[[], Any]) -> Any:
    async def one() -> ServingError:
        with pytest.raises(ServingError) as caught:
            await work.run(function)
        return caught.value

    return one()


def test_results_and_errors_come_back() -> None:
    work = work_of()
    assert asyncio.run(work.run(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(work.run(divmod, 7, 0))
    work.close()


def test_a_full_queue_refuses_at_once() -> None:
    hold = threading.Event()

    async def crowd() -> tuple[ServingError, float]:
        work = work_of(threads=1, waiting=1)
        inside = [asyncio.create_task(work.run(hold.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        start = time.perf_counter()
        error = await refusal(work, lambda: None)
        taken = time.perf_counter() - start
        hold.set()
        assert await asyncio.gather(*inside) == [True, True]
        assert await work.run(lambda: "again") == "again"
        work.close()
        return error, taken

    error, taken = asyncio.run(crowd())
    assert (error.status, error.code) == (429, "overloaded")
    assert error.headers == {"Retry-After": "1"}
    assert taken < 0.5


def test_work_that_waited_too_long_is_not_begun() -> None:
    hold = threading.Event()
    begun: list[str] = []

    async def late() -> tuple[ServingError, ServingError]:
        work = work_of(threads=1, waiting=5, seconds=0.1)
        first = asyncio.create_task(refusal(work, hold.wait))
        await asyncio.sleep(0.02)
        second = await refusal(work, lambda: begun.append("late"))
        hold.set()
        slow = await first
        work.close()  # the queue runs empty
        return slow, second

    slow, second = asyncio.run(late())
    assert (slow.status, slow.code) == (503, "too_slow")
    assert (second.status, second.code) == (429, "overloaded")
    assert begun == []


def test_a_place_is_taken_until_the_thread_is_free() -> None:
    """An answer that was given up still fills its place: the thread is not there for others."""
    hold = threading.Event()

    async def given_up() -> None:
        work = work_of(threads=1, waiting=0, seconds=0.05)
        assert (await refusal(work, hold.wait)).status == 503
        assert (await refusal(work, lambda: None)).status == 429
        hold.set()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if work._inside == 0:
                break
        assert await work.run(lambda: 1) == 1
        work.close()

    asyncio.run(given_up())


def test_the_event_loop_stays_free_while_threads_compute() -> None:
    async def both() -> float:
        hold = threading.Event()
        fake = Fake(before=hold.wait)
        async with opened(make(fake, threads=1)) as client:
            asked = asyncio.create_task(client.post("/v1/recommend", json={"history": ["a-1"]}))
            await asyncio.sleep(0.05)
            start = time.perf_counter()
            assert (await client.get("/healthz")).status_code == 200
            taken = time.perf_counter() - start
            hold.set()
            assert (await asked).status_code == 200
            return taken

    assert asyncio.run(both()) < 0.5


def test_three_times_what_it_can_do() -> None:
    """Only 200 and 429, refusals at once, and every accepted request answered."""

    async def crowd() -> list[tuple[httpx.Response, float]]:
        fake = Fake(before=lambda: time.sleep(0.02))
        made = make(fake, threads=1, waiting=4)
        async with opened(made) as client:

            async def one() -> tuple[httpx.Response, float]:
                start = time.perf_counter()
                response = await client.post("/v1/recommend", json={"history": ["a-1"]})
                return response, time.perf_counter() - start

            tasks = []
            for _ in range(60):
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(0.007)
            return list(await asyncio.gather(*tasks))

    answers = asyncio.run(crowd())
    statuses = [response.status_code for response, _ in answers]
    assert set(statuses) == {200, 429}
    for response, _ in answers:
        if response.status_code == 429:
            assert is_error(response, 429, "overloaded")
            assert response.headers["retry-after"] == "1"
    accepted = sorted(taken for response, taken in answers if response.status_code == 200)
    assert accepted[-1] < 2.0  # five places of 20 ms each, and room for a slow machine


def test_a_draining_server_refuses_new_work_and_answers_the_old() -> None:
    async def drain() -> None:
        hold = threading.Event()
        fake = Fake(before=hold.wait)
        made = make(fake)
        async with opened(made) as client:
            body = {"history": ["a-1"]}
            asked = asyncio.create_task(client.post("/v1/recommend", json=body))
            await asyncio.sleep(0.05)
            made.state.warmstart.live.draining = True
            refused = await client.post("/v1/recommend", json=body)
            assert is_error(refused, 503, "draining")
            assert refused.headers["connection"] == "close"
            assert "retry-after" in refused.headers
            ready = await client.get("/readyz")
            assert is_error(ready, 503, "draining")
            assert (await client.get("/healthz")).status_code == 200
            hold.set()
            answered = await asked
            assert answered.status_code == 200
            assert answered.headers["connection"] == "close"

    asyncio.run(drain())


def test_a_refusal_that_closes_the_connection_waits_for_the_body() -> None:
    """Bytes that arrive at a closed socket reset it, and the answer would be lost with it."""

    async def go() -> list[str]:
        made = make(Fake())
        made.state.warmstart.live.draining = True
        order: list[str] = []

        async def receive() -> dict[str, Any]:
            order.append("read")
            return {"type": "http.request", "body": b"x" * 10, "more_body": order.count("read") < 3}

        async def send(message: MutableMapping[str, Any]) -> None:
            order.append(str(message.get("status", "sent")))

        scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "query_string": b"",
                 "headers": [(b"host", b"localhost")], "scheme": "http"}  # fmt: skip
        await made(scope, receive, send)
        return order

    assert asyncio.run(go())[:4] == ["read", "read", "read", "503"]

"""Whatever is sent, the server answers as its own OpenAPI document says, and never with a 5xx.

`WARMSTART_CASES=1000 pytest tests/serving/test_schema_cases.py` (or `make fuzz`) draws more.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from warmstart.serving import messages

from .fakes import Fake, is_error, make, opened
from .schema_cases import Case, Operation, cases, operations, values

CASES = int(os.environ.get("WARMSTART_CASES", "50"))
OPERATIONS = operations(make().openapi())
USERS = ["u/1", 7, "empty"]
ABOUT = ["age", "team", "red"]  # which the document cannot name: they are the model's
KNOWN = [*(f"a-{row}" for row in range(12)), *USERS, "blue", "round", *ABOUT]


class Server:
    """An app that stays open, asked from outside its event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.client: httpx.AsyncClient = self._loop.run_until_complete(
            self._stack.enter_async_context(opened(make(Fake())))
        )

    def send(self, case: Case) -> httpx.Response:
        request = self.client.build_request(
            case.method, case.url, headers=dict(case.headers), content=case.content
        )
        return self._loop.run_until_complete(self.client.send(request))

    def close(self) -> None:
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def check(operation: Operation, case: Case, answer: httpx.Response) -> None:
    """The document's word is kept."""
    told = (case, answer.status_code, answer.text[:300])
    assert answer.status_code < 500, told
    if operation.path in {"/healthz", "/readyz"}:
        assert answer.status_code == 200, told
    empty = "//" in case.url or case.url.split("?")[0].endswith("/")  # no such route is documented
    assert answer.status_code in operation.statuses | ({404} if empty else set()), told
    refused = answer.status_code == 422 and answer.json()["error"]["code"] == "wrong_attributes"
    if case.allowed and not (refused and b"attributes" in (case.content or b"")):
        assert answer.status_code in {200, 404}, told
    if answer.status_code == 200:
        kind = answer.headers["content-type"]
        if operation.answer is not None:
            assert kind.startswith("application/json"), told
            getattr(messages, operation.answer).model_validate_json(answer.content)
    else:
        assert is_error(answer, answer.status_code), told


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_the_document_is_kept(server: Server, operation: Operation) -> None:
    asked = {"allowed": 0, "answered": 0, "attributes": 0}

    @seed(20261121)
    @settings(max_examples=CASES, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=cases(operation, USERS if "/users" in operation.path else KNOWN))
    def holds(case: Case) -> None:
        answer = server.send(case)
        check(operation, case, answer)
        asked["allowed"] += case.allowed
        asked["answered"] += answer.status_code == 200
        asked["attributes"] += answer.status_code == 200 and b"attributes" in (case.content or b"")

    holds()
    assert asked["allowed"], "requests that the document allows are among those drawn"
    if operation.path != "/v1/thumbnails/{code}":  # of items without pictures
        assert asked["answered"], "and some are answered"
    if operation.path == "/v1/recommend":
        assert asked["attributes"], "with attributes too"


def test_every_route_of_the_service_is_asked() -> None:
    found = {(one.method, one.path) for one in OPERATIONS}
    assert {("POST", "/v1/recommend"), ("POST", "/v1/similar"), ("GET", "/v1/items/search"),
            ("GET", "/v1/users"), ("GET", "/v1/users/{user_id}"), ("GET", "/v1/catalogue"),
            ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")} <= found  # fmt: skip


def test_drawn_bodies_are_those_that_the_schema_allows() -> None:
    """The generator itself: what it calls allowed has exactly one of user and history."""
    schema = next(one.body for one in OPERATIONS if one.path == "/v1/recommend")
    assert schema is not None

    @settings(max_examples=60, deadline=None, database=None)
    @given(body=values(schema, KNOWN), data=st.data())
    def holds(body: dict[str, object], data: st.DataObject) -> None:
        assert ("user" in body) != ("history" in body)
        assert set(body) <= set(schema["properties"])
        assert isinstance(body.get("k", 1), int)
        assert 1 <= body.get("k", 1) <= 500
        json.dumps(body)

    holds()
    with pytest.raises(AssertionError, match="pattern"):
        values({"type": "string", "pattern": "a+"})

"""No input gives a 500: every refusal is documented and has one form."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmstart.serving import Settings

from .fakes import KEY, call, get, is_error, make, opened, post

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body"),
        ({"user": "u/1", "history": []}, "body"),
        ({"history": "a-1"}, "history"),
        ({"history": None}, "history"),
        ({"user": None, "history": []}, "user"),
        ({"history": [None]}, "history.0"),
        ({"history": [1.5]}, "history.0"),
        ({"history": [True]}, "history.0"),
        ({"history": [["a"]]}, "history.0"),
        ({"history": ["x" * 300]}, "history.0"),
        ({"history": [2**63]}, "history.0"),
        ({"history": ["a-1"] * 11}, "history"),
        ({"history": [], "k": 0}, "k"),
        ({"history": [], "k": 101}, "k"),
        ({"history": [], "k": "5"}, "k"),
        ({"history": [], "k": 5.5}, "k"),
        ({"history": [], "k": None}, "k"),
        ({"history": [], "k": True}, "k"),
        ({"history": [], "tags": [1]}, "tags.0"),
        ({"history": [], "tags": ["t"] * 6}, "tags"),
        ({"history": [], "match": "some"}, "match"),
        ({"history": [], "exclude": ["a"] * 11}, "exclude"),
        ({"history": [], "exclude_seen": "yes"}, "exclude_seen"),
        ({"history": [], "attributes": []}, "attributes"),
        ({"history": [], "attributes": None}, "attributes"),
        ({"history": [], "attributes": {"team": ["red"]}}, "attributes.team"),
        ({"history": [], "attributes": {"team": "x" * 300}}, "attributes.team"),
        ({"history": [], "attributes": {"age": 1e300}}, "attributes.age"),
        ({"history": [], "attributes": {f"n{n}": 1 for n in range(4)}}, "attributes"),
        ({"history": [], "surprise": 1}, "surprise"),
        ([], "body"),
        ("text", "body"),
    ],
)
def test_fields_that_are_wrong_are_named(body: Any, where: str) -> None:
    response = post("/v1/recommend", body, max_history=10, max_k=100, max_tags=5, max_attributes=3)
    assert is_error(response, 422, "invalid_request")
    assert where in [detail["where"] for detail in response.json()["error"]["details"]]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b'{"history": ["\\ud800"]}',
        b'{"\\ud800": 1, "history": []}',
        b'{"history": [], "k": NaN}',
        b'{"history": [], "k": 1e999}',
        b'{"history": [], "k": ' + b"9" * 5000 + b"}",
        b'{"history": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"history": [], "history": 3}',
        b'{"history": [], "attributes": {"age": NaN}}',
        b'{"history": [], "attributes": {"age": 1e999}}',
        b'{"history": [], "attributes": {"age": ' + b"9" * 5000 + b"}}",
        b'{"history": [], "attributes": {"\\ud800": 1}}',
        b"\x00",
    ],
)
def test_bytes_that_are_no_request(raw: bytes) -> None:
    response = call(make(), "POST", "/v1/recommend", content=raw, headers=JSON)
    assert is_error(response, 422, "invalid_request")
    response.content.decode("ascii")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_only_json_is_read(kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    response = call(make(), "POST", "/v1/recommend", content=b"{}", headers=headers)
    assert is_error(response, 415, "not_json")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "no_route"),
        ("GET", "/v1/recommend", 405, "no_method"),
        ("POST", "/v1/catalogue", 405, "no_method"),
        ("GET", "/v1/users?limit=0", 422, "invalid_request"),
        ("GET", "/v1/users?limit=x", 422, "invalid_request"),
        ("GET", "/v1/items/search", 422, "invalid_request"),
        ("GET", "/v1/items/search?q=" + "x" * 300, 422, "invalid_request"),
        ("GET", "/v1/thumbnails/..%2f..%2fetc%2fpasswd", 404, None),
        ("GET", "/v1/thumbnails/abc", 404, "no_picture"),
        ("GET", "/docs", 404, "no_route"),
        ("BREW", "/v1/catalogue", 405, "no_method"),
    ],
)
def test_routes_and_queries(method: str, path: str, status: int, code: str | None) -> None:
    assert is_error(call(make(), method, path), status, code)


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["a-1", "a-2", "u/1", 7, "blue", "any"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(
    ["user", "history", "k", "tags", "match", "exclude", "exclude_seen", "attributes", "item", "x"]
)


@functools.cache
def shared() -> FastAPI:
    """One app for many cases."""
    return make()


@given(
    st.sampled_from(["/v1/recommend", "/v1/similar"]),
    st.one_of(anything, st.dictionaries(names, anything, max_size=5)),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_body_gives_a_500(path: str, body: Any) -> None:
    raw = json.dumps(body).encode()
    response = call(shared(), "POST", path, stays=True, content=raw, headers=JSON)
    assert response.status_code in (200, 404, 422)
    if response.status_code != 200:
        assert is_error(response, response.status_code)


@given(st.text(max_size=40), st.sampled_from(["/v1/users/{}", "/v1/thumbnails/{}", "/{}"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_path_gives_a_500(text: str, path: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))
    response = call(shared(), "GET", path.format(quoted), stays=True)
    assert response.status_code in (200, 404, 405)


# --- bodies --------------------------------------------------------------------------------------


def test_a_body_that_claims_to_be_too_large_is_not_read() -> None:
    response = post("/v1/recommend", {"history": ["x" * 3000]}, max_body_bytes=2000)
    assert is_error(response, 413, "body_too_large")
    assert response.headers["connection"] == "close"


def test_a_streamed_body_is_counted_while_it_arrives() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 1000
            yield b" " * 1000

    made = make(max_body_bytes=5000)
    response = call(made, "POST", "/v1/recommend", content=endless(), headers=JSON)
    assert is_error(response, 413, "body_too_large")
    assert sent < 10_000


def test_a_slow_body_is_refused() -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    made = make(body_seconds=0.1)
    response = call(made, "POST", "/v1/recommend", content=drip(), headers=JSON)
    assert is_error(response, 408, "slow_body")


# --- the key -------------------------------------------------------------------------------------


def guarded() -> FastAPI:
    return make(key=KEY)


ROUTES = [
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/catalogue"),
    ("GET", "/v1/users"),
    ("GET", "/v1/users/7"),
    ("GET", "/v1/items/search?q=a"),
    ("GET", "/v1/thumbnails/x"),
    ("POST", "/v1/recommend"),
    ("POST", "/v1/similar"),
    ("GET", "/nothing"),
]


def test_the_table_of_routes_is_whole() -> None:
    made = guarded()
    paths = {route.path for route in made.routes if hasattr(route, "path")}
    asked = {path.partition("?")[0] for _, path in ROUTES} | {"/healthz", "/readyz"}
    missing = {
        path for path in paths if not any(part.startswith(path.partition("{")[0]) for part in asked)
    }
    assert missing == set()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_health_needs_the_key(method: str, path: str) -> None:
    for headers in (
        {},
        {"X-API-Key": KEY + "x"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic !!!"},
        {"Authorization": f"Digest {KEY}"},
    ):
        response = call(guarded(), method, path, headers=headers)
        assert is_error(response, 401, "wrong_key")
        assert response.headers["www-authenticate"].startswith("Bearer")
    right = call(guarded(), method, path, headers={"X-API-Key": KEY})
    assert right.status_code != 401


def test_health_needs_no_key() -> None:
    assert call(guarded(), "GET", "/healthz").json() == {"status": "alive"}
    assert call(guarded(), "GET", "/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {KEY}",
        f"bearer  {KEY} ",
        "Basic " + base64.b64encode(f"anyone:{KEY}".encode()).decode(),
    ],
)
def test_ways_to_send_the_key(value: str) -> None:
    response = call(guarded(), "GET", "/v1/catalogue", headers={"Authorization": value})
    assert response.status_code == 200


def test_a_browser_is_asked_for_the_key() -> None:
    response = call(guarded(), "GET", "/", headers={"Accept": "text/html,*/*"})
    assert is_error(response, 401, "wrong_key")
    assert response.headers["www-authenticate"] == 'Basic realm="warmstart"'


def test_the_key_is_never_shown() -> None:
    kept = Settings.parse({"key": KEY}, "serving")
    assert KEY not in repr(kept)
    assert KEY not in kept.model_dump_json()


# --- hosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:8000", "[::1]:8000"])
def test_loopback_names_are_answered(host: str) -> None:
    assert call(make(), "GET", "/v1/catalogue", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil", "", "[::2]"]
)
def test_foreign_names_are_refused_without_a_key(host: str) -> None:
    response = call(make(), "GET", "/v1/catalogue", headers={"Host": host})
    assert is_error(response, 421, "wrong_host")


def test_names_that_are_allowed_or_come_with_a_key() -> None:
    named = make(hosts=("box.lan",))
    assert call(named, "GET", "/healthz", headers={"Host": "box.lan:1"}).status_code == 200
    headers = {"Host": "recommend.example", "X-API-Key": KEY}
    assert call(guarded(), "GET", "/v1/catalogue", headers=headers).status_code == 200


# --- what is documented --------------------------------------------------------------------------


def test_every_answer_is_documented() -> None:
    schema = get("/openapi.json").json()
    paths = schema["paths"]
    recommend = paths["/v1/recommend"]["post"]
    assert {"200", "401", "404", "413", "415", "422", "429", "503"} <= set(recommend["responses"])
    body = recommend["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["k"]["maximum"] == Settings().max_k
    assert body["properties"]["k"]["minimum"] == 1
    assert body["additionalProperties"] is False
    bounds = {"minimum": -9e18, "maximum": 9e18, "type": "integer"}
    for schema_of_id in (body["properties"]["user"], body["properties"]["history"]["items"]):
        assert bounds in schema_of_id["anyOf"]
    assert body["oneOf"] == [{"required": ["user"]}, {"required": ["history"]}]
    assert body["properties"]["history"]["maxItems"] == Settings().max_history
    refusal = recommend["responses"]["422"]["content"]["application/json"]["schema"]
    assert refusal == {"$ref": "#/components/schemas/ErrorAnswer"}
    assert "HTTPValidationError" not in json.dumps(schema)


def test_answers_are_not_kept_and_not_guessed() -> None:
    response = get("/v1/catalogue")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "server" not in response.headers


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    """The body never ends; the connection does."""

    async def gone() -> int:
        made = make()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "path": "/v1/recommend", "raw_path": b"/v1/recommend", "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "scheme": "http", "root_path": "", "client": ("127.0.0.1", 1), "server": None,
        }  # fmt: skip
        async with opened(made) as client:
            await made(scope, receive, send)
            assert (await client.get("/healthz")).status_code == 200
            counted = (await client.get("/metrics")).text
            assert 'status="499"' in counted
            assert 'status="500"' not in counted
        return len(sent)

    assert asyncio.run(gone()) == 0


def test_websockets_are_closed() -> None:
    async def one() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/", "headers": []}
        await make()(scope, receive, send)
        return sent

    assert asyncio.run(one()) == [{"type": "websocket.close", "code": 1003}]


def test_many_requests_at_once_are_all_answered() -> None:
    async def many() -> list[httpx.Response]:
        async with opened(make(waiting=100)) as client:
            body = {"history": ["a-1"]}
            asked = [client.post("/v1/recommend", json=body) for _ in range(50)]
            return list(await asyncio.gather(*asked))

    assert {response.status_code for response in asyncio.run(many())} == {200}


def test_whole_numbers_may_be_written_as_json_writes_them() -> None:
    answer = post("/v1/recommend", {"user": 7.0, "k": 3.0}).json()
    assert answer["user"] == 7
    assert len(answer["items"]) == 3

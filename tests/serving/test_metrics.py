"""What Prometheus reads."""

from __future__ import annotations

import asyncio
import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from .fakes import KEY, Fake, make, opened


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def after(requests: list[tuple[str, str, int]], **settings: object) -> tuple[str, httpx.Response]:
    async def run() -> tuple[str, httpx.Response]:
        made = make(**settings)
        async with opened(made) as client:
            key = {"X-API-Key": KEY}
            for method, path, status in requests:
                body = {"history": ["a-1"]} if method == "POST" else None
                sent = {} if status == 401 else key
                response = await client.request(method, path, json=body, headers=sent)
                assert response.status_code == status
            answer = await client.get("/metrics", headers=key)
            return answer.text, answer

    return asyncio.run(run())


def test_requests_are_counted_by_route_and_status() -> None:
    text, response = after(
        [
            ("POST", "/v1/recommend", 200),
            ("POST", "/v1/recommend", 200),
            ("GET", "/v1/users/7", 200),
            ("GET", "/v1/users/nobody", 404),
            ("GET", "/nowhere/12345", 404),
            ("BREW", "/v1/catalogue", 405),
            ("GET", "/v1/catalogue", 401),
        ],
        key=KEY,
    )
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = read(text)

    def requests(**labels: str) -> float:
        return found[("warmstart_http_requests_total", frozenset(labels.items()))]

    assert requests(method="POST", route="/v1/recommend", status="200") == 2
    assert requests(method="GET", route="/v1/users/{user_id:path}", status="404") == 1
    assert requests(method="GET", route="unmatched", status="404") == 1
    assert requests(method="GET", route="unmatched", status="401") == 1
    assert "BREW" not in text
    assert "12345" not in text
    assert "nobody" not in text
    timed = (
        "warmstart_http_request_duration_seconds_count",
        frozenset({("route", "/v1/recommend")}),
    )
    assert found[timed] == 2
    for step in ("user_tower", "search"):
        assert found[("warmstart_step_duration_seconds_count", frozenset({("step", step)}))] == 2
    refused = ("warmstart_http_refused_requests_total", frozenset({("reason", "wrong_key")}))
    assert found[refused] == 1
    assert found[("warmstart_index_items", frozenset())] == 60
    assert found[("warmstart_work_accepted", frozenset())] == 0
    served = {("model", "model-a"), ("index", "index-a"), ("tower", "tower-a")}
    assert found[("warmstart_snapshot_info", frozenset(served))] == 1


def test_a_swap_leaves_one_line_of_what_is_served() -> None:
    made = make(Fake("a"))
    shared = made.state.warmstart
    shared.live.reload(Fake("b"))
    lines = re.findall(r"^warmstart_snapshot_info\{.*\}.*$", shared.metrics.text().decode(), re.M)
    assert len(lines) == 1
    assert "model-b" in lines[0]


def test_names_and_units_are_those_that_promtool_asks_for() -> None:
    text, _ = after([("POST", "/v1/recommend", 200)], key=KEY)
    families = [
        family
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")  # the client library's own, one a series
    ]
    assert families
    for family in families:
        assert family.documentation, family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert family.type in {"counter", "gauge", "histogram"}
        assert not re.search(r"milli|micro|_ms$|_mb$|kilo|percent", family.name)
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        if family.type != "counter":
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        if family.name.startswith("warmstart") and "duration" in family.name:
            assert family.name.endswith("_seconds")


def test_two_apps_have_registries_of_their_own() -> None:
    one, other = make().state.warmstart, make().state.warmstart
    one.metrics.refused("x")
    assert "reason=" in one.metrics.text().decode()
    assert "reason=" not in other.metrics.text().decode()

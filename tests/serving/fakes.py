"""A service without a model: the user's vector is the mean of the history's item vectors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from warmstart.core import NotApplicable
from warmstart.retrieval import ProfileCode
from warmstart.retrieval.index import FaissIndex, ItemId
from warmstart.retrieval.profiles import ProfileColumn
from warmstart.serving import ItemCard, Settings, app

D = 8
ITEMS = 60
KEY = "a-key-of-sixteen-characters"
PROFILES = ProfileCode(
    columns=(
        ProfileColumn(name="age", kind="number", mean=33.5, scale=10.0, edges=(25.0, 45.0)),
        ProfileColumn(name="team", kind="category", values=("blue", "red")),
    )
)


def unit(rows: int, seed: int = 0) -> np.ndarray:
    rows_ND = np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def make_cards(version: str, items: int = ITEMS) -> dict[ItemId, ItemCard]:
    """Items `a-0`, `a-1`, ... of version `a`; every third is blue, every fifth round."""
    cards: dict[ItemId, ItemCard] = {}
    for row in range(items):
        tags = tuple(tag for tag, step in (("blue", 3), ("round", 5)) if row % step == 0)
        title = f"{version} item {row}" if row else f"{version} Amélie <b>& co</b>"
        cards[f"{version}-{row}"] = ItemCard(title, tags, f"Item number {row}.", None)
    return cards


@dataclass
class Fake:
    """Everything in it carries its version: model, index, item ids."""

    version: str = "a"
    items: int = ITEMS
    images: tuple[Path, ...] = ()
    before: Callable[[], object] = field(default=lambda: None)
    empty_allowed: bool = True
    profiles: ProfileCode | None = field(default_factory=lambda: PROFILES)

    def __post_init__(self) -> None:
        self.model = f"model-{self.version}"
        self.tower = f"tower-{self.version}"
        self.cards: Mapping[ItemId, ItemCard] = make_cards(self.version, self.items)
        seed = sum(self.version.encode())
        self.index = FaissIndex.build(
            self.cards, unit(self.items, seed), tower=self.tower, engine="flat"
        )
        self.index._name = f"index-{self.version}"
        ids = list(self.cards)
        self.histories: Mapping[ItemId, Sequence[ItemId]] = {
            "u/1": ids[:4],
            7: ids[3:9],
            "empty": [],
        }

    def user_vector(
        self,
        history: Sequence[ItemId],
        user: ItemId | None,
        attributes: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        self.before()
        if attributes is not None and self.profiles is not None:
            told_P = self.profiles.of(attributes)
            return np.asarray(told_P @ unit(len(told_P), 7), dtype=np.float32)
        if not history:
            if not self.empty_allowed:
                raise NotApplicable("The model needs a history of one item or more.")
            return np.full(D, D**-0.5, dtype=np.float32)
        mean_D = self.index.vectors(list(history)).mean(axis=0)
        return np.asarray(mean_D / np.linalg.norm(mean_D), dtype=np.float32)


def make(service: Any = None, **settings: Any) -> FastAPI:
    """An app of a fake, with a deadline that a slow machine keeps."""
    known = {"deadline_seconds": 60.0, "waiting": 200, **settings}
    return app(service or Fake(), Settings.parse(known, "serving"))


@asynccontextmanager
async def opened(made: FastAPI, *, stays: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running app, without a network."""
    async with nullcontext() if stays else made.router.lifespan_context(made):
        transport = httpx.ASGITransport(app=made, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


def call(
    made: FastAPI, method: str, path: str, *, stays: bool = False, **arguments: Any
) -> httpx.Response:
    """One request; an app that `stays` is not shut down after it."""

    async def one() -> httpx.Response:
        async with opened(made, stays=stays) as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(one())


def post(path: str, body: Any, service: Fake | None = None, **settings: Any) -> httpx.Response:
    """One POST to an app of its own."""
    return call(make(service, **settings), "POST", path, json=body)


def get(path: str, service: Fake | None = None, **settings: Any) -> httpx.Response:
    """One GET to an app of its own."""
    return call(make(service, **settings), "GET", path)


def is_error(response: httpx.Response, status: int, code: str | None = None) -> bool:
    """Whether an answer is a refusal in the one form."""
    problem = response.json()["error"]
    assert set(problem) == {"code", "message", "details"}
    assert problem["message"]
    assert all(set(detail) == {"where", "message"} for detail in problem["details"])
    assert response.status_code == status, (response.status_code, response.text)
    return code is None or problem["code"] == code

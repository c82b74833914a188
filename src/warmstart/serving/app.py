"""The FastAPI application: routes over one snapshot a request.

`from __future__ import annotations` is left out on purpose: the limits in the signatures are those
of the settings.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from warmstart.core import UsageError

from . import recommending
from .errors import ErrorAnswer, Json, QuickJson, ServingError, refusals, wrong_fields
from .gate import Bounded, Guarded, Observed
from .messages import (
    CatalogueAnswer,
    Health,
    ItemsAnswer,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
    UserAnswer,
    UsersAnswer,
    limited,
)
from .metrics import CONTENT_TYPE, Metrics
from .page import Page
from .service import RecommendService
from .settings import Settings
from .snapshot import Live, Snapshot
from .thumbnails import Thumbnails
from .watching import Loader, Watcher
from .work import Work

__all__ = ["State", "app"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T", bound=BaseModel)


class State:
    """What the routes of one app share; it is `app.state.warmstart`.

    Attributes:
        settings: Limits.
        metrics: What Prometheus is told.
        live: The snapshot; `live.reload(service)` swaps it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.live = Live(self.metrics)
        self.thumbnails = Thumbnails(
            settings.thumbnail_size, settings.max_pixels, settings.thumbnail_cache_bytes
        )
        self.work = Work(
            settings.threads, settings.waiting, settings.deadline_seconds, self.metrics, "work"
        )
        self.images = Work(
            1, settings.images_waiting, settings.image_seconds, self.metrics, "images"
        )

    def snapshot(self) -> Snapshot:
        """What this request is answered from.

        Raises:
            ServingError: 503 when nothing is loaded yet.
        """
        snapshot = self.live.snapshot
        if snapshot is None:
            self.metrics.refused("not_ready")
            again = {"Retry-After": "1"}
            raise ServingError(503, "not_ready", "The model is being loaded.", headers=again)
        return snapshot


def app(
    service: RecommendService | None,
    settings: Settings | None = None,
    *,
    current: Path | str | None = None,
    load: Loader | None = None,
    wait: bool = False,
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        service: What to serve; None: what `current` names, once it is loaded.
        settings: Limits and key.
        current: A pointer file (`point`); when it changes, the folder it names is swapped in.
        load: Makes a service of such a folder.
        wait: Whether to start only when the first folder is loaded or found unusable.

    Raises:
        UsageError: When there is neither a service nor a pointer, or a pointer without `load`.
        RunError: When the service's index belongs to another item tower.
    """
    if service is None and current is None:
        raise UsageError("serving.app needs a service, or current= and load=.")
    if (current is None) != (load is None):
        raise UsageError("serving.app needs current= and load= together.")
    state = State(settings or Settings())
    if service is not None:
        state.live.reload(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watcher = None
        if current is not None and load is not None:
            watcher = Watcher(state.live, Path(current), load, state.settings.poll_seconds)
            watcher.start()
            if wait:
                await asyncio.to_thread(watcher.looked.wait)
        try:
            yield
        finally:
            if watcher is not None:
                await asyncio.to_thread(watcher.stop)
            await asyncio.to_thread(state.work.close)
            await asyncio.to_thread(state.images.close)

    made = FastAPI(
        title="warmstart",
        description="Recommendations of one model over one index. Each answer names both.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    made.state.warmstart = state
    made.add_middleware(Bounded, settings=state.settings, metrics=state.metrics)
    made.add_middleware(Guarded, settings=state.settings, metrics=state.metrics, live=state.live)
    made.add_middleware(Observed, metrics=state.metrics, live=state.live)
    _add_errors(made)
    _add_answers(made, state)
    _add_lookups(made, state)
    _add_health(made, state)
    return made


def _add_errors(made: FastAPI) -> None:
    """Every error in one form."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServingError)
        return error.response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return wrong_fields(error.errors(), skip=1).response()

    async def plain(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "no_route", 405: "no_method"}.get(error.status_code, "refused")
        message = f"{error.detail}."
        return ServingError(
            error.status_code, code, message, headers=dict(error.headers or {})
        ).response()

    async def failed(_: Request, __: Exception) -> Response:
        return ServingError(500, "defect", "The server failed; its log says how.").response()

    made.add_exception_handler(ServingError, refused)
    made.add_exception_handler(RequestValidationError, invalid)
    made.add_exception_handler(HTTPException, plain)
    made.add_exception_handler(Exception, failed)


def _add_answers(made: FastAPI, state: State) -> None:
    """The routes that compute."""
    recommend_model = limited(RecommendRequest, state.settings)
    similar_model = limited(SimilarRequest, state.settings)

    @made.post(
        "/v1/recommend",
        summary="Items for a user or a history",
        responses={200: {"model": RecommendAnswer}, **refusals(404, 415, 429)},
        openapi_extra=_body(recommend_model),
    )
    async def recommend(request: Request) -> Response:
        body = await _parsed(request, recommend_model)
        snapshot = state.snapshot()
        answer = await state.work.run(recommending.recommend, snapshot, body, state.metrics)
        return QuickJson(answer)

    @made.post(
        "/v1/similar",
        summary="Items near an item",
        responses={200: {"model": SimilarAnswer}, **refusals(404, 415, 429)},
        openapi_extra=_body(similar_model),
    )
    async def similar(request: Request) -> Response:
        body = await _parsed(request, similar_model)
        snapshot = state.snapshot()
        answer = await state.work.run(recommending.similar, snapshot, body, state.metrics)
        return QuickJson(answer)


def _add_lookups(made: FastAPI, state: State) -> None:
    """The routes that look things up, for the page and for people."""
    longest = state.settings.max_text
    Text = Annotated[str, Query(max_length=longest)]
    Count = Annotated[int, Query(ge=1, le=200)]

    async def look(function: Callable[..., dict[str, Any]], *arguments: Any) -> Response:
        return Json(await state.work.run(function, state.snapshot(), *arguments))

    @made.get(
        "/v1/items/search",
        summary="Items by words of their title",
        responses={200: {"model": ItemsAnswer}, **refusals(429)},
    )
    async def find_items(q: Text, limit: Count = 12) -> Response:
        return await look(recommending.find_items, q, limit)

    @made.get(
        "/v1/users",
        summary="Known users by the beginning of their id",
        responses={200: {"model": UsersAnswer}, **refusals(429)},
    )
    async def find_users(q: Text = "", limit: Count = 12) -> Response:
        return await look(recommending.find_users, q, limit)

    @made.get(
        "/v1/users/{user_id:path}",
        summary="A known user's newest items",
        responses={200: {"model": UserAnswer}, **refusals(404, 429)},
    )
    async def user(user_id: str, limit: Count = 50) -> Response:
        return await look(recommending.user_history, user_id, limit)

    @made.get(
        "/v1/catalogue",
        summary="What is served",
        responses={200: {"model": CatalogueAnswer}, **refusals(429)},
    )
    async def catalogue() -> Response:
        return await look(recommending.catalogue)

    @made.get(
        "/v1/thumbnails/{code}",
        summary="A small picture of an item",
        responses={200: {"content": {"image/jpeg": {}}}, **refusals(404, 429)},
        response_class=Response,
    )
    async def thumbnail(code: str) -> Response:
        snapshot = state.snapshot()
        made = await state.images.run(state.thumbnails.jpeg, snapshot, code)
        kept = {"Cache-Control": "private, max-age=86400"}
        return Response(made, media_type="image/jpeg", headers=kept)


def _add_health(made: FastAPI, state: State) -> None:
    """The page, health and metrics."""
    page = Page()

    @made.get("/", include_in_schema=False)
    async def index() -> Response:
        return page.response()

    @made.get("/healthz", summary="Whether the process answers", responses={200: {"model": Health}})
    async def healthz() -> Response:
        return Json({"status": "alive"})

    @made.get(
        "/readyz",
        summary="Whether requests are accepted",
        responses={200: {"model": Health}, 503: {"model": ErrorAnswer}},
    )
    async def readyz() -> Response:
        if state.live.draining:
            raise ServingError(503, "draining", "The server is shutting down.")
        state.snapshot()
        return Json({"status": "ready"})

    @made.get(
        "/metrics",
        summary="For Prometheus",
        responses={200: {"content": {"text/plain": {}}}, **refusals()},
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type=CONTENT_TYPE)


async def _parsed(request: Request, model: type[_T]) -> _T:
    """The body as that model; pydantic reads the JSON itself, strictly.

    Raises:
        ServingError: 415 for another content type, 422 for what the model does not allow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ServingError(415, "not_json", "Send JSON with Content-Type: application/json.")
    raw = await request.body()
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        plain = error.errors(include_url=False, include_context=False, include_input=False)
        raise wrong_fields(plain) from None


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

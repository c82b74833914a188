"""From a request and one snapshot to an answer. Runs in a worker thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from warmstart.core import DataError, NotApplicable, UsageError
from warmstart.retrieval.index import ItemId, Selection

from .errors import Detail, ServingError
from .messages import RecommendRequest, SimilarRequest
from .metrics import Metrics
from .snapshot import Snapshot

__all__ = ["catalogue", "find_items", "find_users", "recommend", "similar", "user_history"]

DESCRIPTION = 400
"""Characters of a description in an answer."""
TAGS = 100


def recommend(snapshot: Snapshot, request: RecommendRequest, metrics: Metrics) -> dict[str, Any]:
    """Items for a known user or a raw history.

    Raises:
        ServingError: 404 for an unknown user, or a history of unknown items alone; 422 for
            attributes that the model does not read, and when it can say nothing about the history.
    """
    told = _told(snapshot, request.attributes)
    user: ItemId | None = None
    unknown: list[ItemId] = []
    if request.user is not None:
        user = _user(snapshot, request.user)
        history = list(snapshot.service.histories[user])
    else:
        history, unknown = _known(snapshot, request.history or [])
        if unknown and not history:
            raise ServingError(
                404,
                "unknown_items",
                "The catalogue has none of the items of the history.",
                details=[Detail(where="history", message=repr(item)) for item in unknown[:20]],
            )
    left_out, unknown_out = _known(snapshot, request.exclude)
    exclude = [*left_out, *(history if request.exclude_seen else [])]
    try:
        with metrics.step("user_tower"):
            vector_D = snapshot.service.user_vector(history, user, told)
        allow = _allowed(snapshot, request)
        with metrics.step("search"):
            scores_QK, found = snapshot.service.index.search(
                np.asarray(vector_D)[None, :], request.k, exclude=exclude, allow=allow,
                tower=snapshot.service.tower,
            )  # fmt: skip
    except (NotApplicable, DataError) as reason:
        raise ServingError(422, "no_vector", str(reason)) from None
    answer = _shown(snapshot, request, scores_QK[0], found[0])
    both = list(dict.fromkeys([*unknown, *unknown_out]))
    return {**_named(snapshot), "user": user, **answer, "unknown": both}


def similar(snapshot: Snapshot, request: SimilarRequest, metrics: Metrics) -> dict[str, Any]:
    """Items near an item.

    Raises:
        ServingError: 404 for an item that the index lacks.
    """
    item = snapshot.known_item(request.item)
    item = request.item if item is None else item
    if item not in snapshot.service.index:
        raise ServingError(404, "unknown_item", f"The index has no item {request.item!r}.")
    left_out, unknown = _known(snapshot, request.exclude)
    allow = _allowed(snapshot, request)
    with metrics.step("search"):
        found = snapshot.service.index.similar(item, request.k, exclude=left_out, allow=allow)
    answer = _shown(snapshot, request, *found)
    return {**_named(snapshot), "item": item, **answer, "unknown": unknown}


def find_items(snapshot: Snapshot, text: str, limit: int) -> dict[str, Any]:
    """Items by words of their title."""
    found = snapshot.titles.find(text, limit)
    return {**_named(snapshot), "items": [_item(snapshot, item) for item in found]}


def find_users(snapshot: Snapshot, beginning: str, limit: int) -> dict[str, Any]:
    """Users by the beginning of their id."""
    found = snapshot.users.find(beginning, limit)
    return {**_named(snapshot), "users": found, "total": len(snapshot.users)}


def user_history(snapshot: Snapshot, asked: ItemId, limit: int) -> dict[str, Any]:
    """The newest items of a known user.

    Raises:
        ServingError: 404 for an unknown user.
    """
    user = _user(snapshot, asked)
    history = snapshot.service.histories[user]
    newest = [_item(snapshot, item) for item in list(history)[::-1][:limit]]
    return {**_named(snapshot), "user": user, "history": newest, "total": len(history)}


def catalogue(snapshot: Snapshot) -> dict[str, Any]:
    """Counts, the commonest tags, and the attributes of users that the model reads."""
    tags = [{"tag": tag, "items": items} for tag, items in snapshot.tags.common(TAGS)]
    counts = {"items": len(snapshot.service.index), "users": len(snapshot.users)}
    profiles = snapshot.service.profiles
    attributes = [
        {
            "name": column.name,
            "kind": column.kind,
            "values": list(column.values),
            "typical": column.mean if column.kind == "number" else None,
        }
        for column in ([] if profiles is None else profiles.columns)
    ]
    return {**_named(snapshot), **counts, "tags": tags, "attributes": attributes}


def _allowed(snapshot: Snapshot, request: RecommendRequest | SimilarRequest) -> Selection | None:
    """The items with the asked tags; None where none are asked."""
    return snapshot.selection(request.tags, request.match == "all") if request.tags else None


def _shown(
    snapshot: Snapshot,
    request: RecommendRequest | SimilarRequest,
    scores_K: np.ndarray,
    found: Sequence[ItemId],
) -> dict[str, Any]:
    """Cards of what was found, with scores."""
    if not np.isfinite(scores_K).all():
        raise ValueError("The index gave a score that is no finite number.")
    scored = zip(found, scores_K.tolist(), strict=True)
    items = [{**_item(snapshot, item), "score": score} for item, score in scored]
    unknown = snapshot.tags.unknown(request.tags) if request.tags else []
    return {"items": items, "unknown_tags": unknown}


def _item(snapshot: Snapshot, item: ItemId) -> dict[str, Any]:
    card = snapshot.card(item)
    code = snapshot.picture(card)
    text = card.description
    return {
        "id": item,
        "title": card.title,
        "tags": list(card.tags),
        "description": text if len(text) <= DESCRIPTION else text[: DESCRIPTION - 1] + "…",
        "thumbnail": None if code is None else f"/v1/thumbnails/{code}",
    }


def _named(snapshot: Snapshot) -> dict[str, Any]:
    return {"model": snapshot.model, "index": snapshot.index}


def _known(snapshot: Snapshot, items: Sequence[ItemId]) -> tuple[list[ItemId], list[ItemId]]:
    """Items as the catalogue has them, and those that it lacks."""
    known: list[ItemId] = []
    unknown: list[ItemId] = []
    for item in items:
        form = snapshot.known_item(item)
        if form is None:
            unknown.append(item)
        else:
            known.append(form)
    return known, unknown


def _told(snapshot: Snapshot, attributes: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What a request tells of a user, if the model can read it; None where it tells nothing."""
    profiles = snapshot.service.profiles
    if attributes is None or (profiles is None and not attributes):
        return None
    if profiles is None:
        wrong = "this model reads no attributes of users. Leave them out."
    else:
        try:
            profiles.check(attributes)
            return attributes
        except UsageError as error:
            wrong = str(error)
    raise ServingError(
        422, "wrong_attributes", wrong, details=[Detail(where="attributes", message=wrong)]
    )


def _user(snapshot: Snapshot, asked: ItemId) -> ItemId:
    user = snapshot.known_user(asked)
    if user is None:
        raise ServingError(
            404, "unknown_user", f"There is no user {asked!r}. Send a history for a new user."
        )
    return user

"""Every refusal has one JSON form: `{"error": {"code", "message", "details"}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field
from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response

__all__ = ["Detail", "ErrorAnswer", "Json", "ServingError", "refusals", "wrong_fields"]


_BRANCH = re.compile(r"(constrained-)?(str|int)|function-before.*")
"""Pydantic's names of the branches of a union, in the place of an error."""


class Detail(BaseModel):
    """One mistake."""

    where: str = Field(description="Name of the field, such as history.3")
    message: str


class Problem(BaseModel):
    """What is wrong."""

    code: str = Field(description="For programs")
    message: str = Field(description="For people")
    details: list[Detail] = Field(default_factory=list)


class ErrorAnswer(BaseModel):
    """Body of every answer from 400 on."""

    error: Problem


class Json(Response):
    """JSON in ASCII: text that UTF-8 cannot write is escaped, never an error."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class QuickJson(Json):
    """The same in UTF-8, in a quarter of the time. Numbers must be finite: nobody looks again."""

    def render(self, content: Any) -> bytes:
        """The body."""
        try:
            return to_json(content)
        except PydanticSerializationError:  # a lone surrogate
            return super().render(content)


class ServingError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        code: For programs.
        message: For people.
        details: Field by field.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Sequence[Detail] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.headers = dict(headers or {})

    def response(self) -> Json:
        """The answer."""
        problem: dict[str, Any] = {"code": self.code, "message": self.message, "details": []}
        problem["details"] = [detail.model_dump() for detail in self.details]
        return Json({"error": problem}, self.status, self.headers)


_MEANINGS = {
    400: "The request cannot be read.",
    401: "The API key is missing or wrong.",
    404: "There is no such user, item or route.",
    405: "The route does not have this method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "The Host header names another host.",
    422: "A field is wrong.",
    429: "The server has too much to do; try again after Retry-After seconds.",
    500: "The server failed; this is a defect.",
    503: "The server is not ready, is shutting down, or took too long.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: the refusals that it can give, besides those of any route."""
    always = (400, 401, 408, 413, 421, 422, 503)
    return {
        status: {"model": ErrorAnswer, "description": _MEANINGS[status]}
        for status in sorted({*always, *statuses})
    }


def wrong_fields(errors: Sequence[Any], skip: int = 0) -> ServingError:
    """422 from pydantic's errors; what was sent is not repeated.

    Args:
        errors: `error.errors()` of a ValidationError.
        skip: Parts at the beginning of each location to leave out.
    """
    found: dict[str, dict[str, None]] = {}
    for item in errors:
        parts = [str(part) for part in item["loc"][skip:]]
        where = ".".join(part for part in parts if not _BRANCH.fullmatch(part)) or "body"
        found.setdefault(where[:200], {})[str(item["msg"]).removeprefix("Value error, ")] = None
    details = [
        Detail(where=where, message=", or: ".join(messages)[:300])
        for where, messages in list(found.items())[:20]
    ]
    first = f" {details[0].where}: {details[0].message}." if details else ""
    message = f"The request is not valid.{first}"
    return ServingError(422, "invalid_request", message, details=details)

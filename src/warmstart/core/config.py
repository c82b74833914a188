"""Settings as values: frozen pydantic models whose errors read like sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UsageError, nearest

__all__ = ["Config", "split_text"]

_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text",
    "tuple": "a list", "list": "a list", "dict": "a table such as {\"key\": \"value\"} in JSON",
}  # fmt: skip
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


class Config(BaseModel):
    """A frozen value; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], who: str) -> Self:
        """Validate `values` and speak in sentences about what is wrong with them.

        Args:
            values: Names and values as a user gave them; text is converted where that is exact.
            who: What the settings belong to, as the messages should call it: `probe`.

        Raises:
            UsageError: With one sentence a mistake, naming the setting, what came and what is
                allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = []
            wrong: dict[str, tuple[list[str], Any]] = {}
            for item in error.errors():
                where = ".".join(str(part) for part in _place(item["loc"], values)) or "settings"
                if item["type"] == "extra_forbidden":
                    lines.append(
                        f"{who} has no setting `{where}`.{nearest(where, cls.model_fields)}"
                    )
                elif item["type"] == "missing":
                    missing = ".".join(str(part) for part in item["loc"])
                    lines.append(f"{who}.{missing} is required.")
                elif item["type"] == "too_short" and where in wrong:
                    continue  # the items were refused one by one already
                else:  # each branch of a union has its own mistake
                    wrong.setdefault(where, ([], item["input"]))[0].append(_wanted(item))
            for where, (wanted, came) in wrong.items():
                allowed = " or ".join(dict.fromkeys(wanted)).replace(" or must be", " or")
                sign = "" if allowed.startswith("must") else ":"
                lines.append(f"{who}.{where}{sign} {allowed}, got {came!r}.")
            raise UsageError(" ".join(lines)) from None


def split_text(value: Any) -> Any:
    """`a|b|c`, or a JSON list, as a tuple of texts; other values as they are.

    For settings that hold several texts, which the command line gives as one.

    Raises:
        ValueError: For text that begins like a JSON list and is none.
    """
    if not isinstance(value, str):
        return value
    if not value.strip().startswith("["):
        return tuple(part.strip() for part in value.split("|"))
    try:
        return tuple(json.loads(value))
    except (ValueError, TypeError):
        raise ValueError('must be a list in JSON such as ["one", "two"], or one|two') from None


def _place(location: Sequence[int | str], values: Any) -> list[int | str]:
    """The part of an error's location that the user wrote; the rest names branches of unions."""
    place: list[int | str] = []
    for part in location:
        known = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list | tuple) and isinstance(part, int)
        )
        if not known:
            break
        place.append(part)
        values = values[part]
    return place


def _wanted(item: Any) -> str:
    """What is allowed: `must be at least 1`."""
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"must be {word} {context[key]:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    name, _, ending = kind.partition("_")
    if name in _KINDS and ending in ("parsing", "type", "from_float"):
        return f"must be {_KINDS[name]}"
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return message.replace("Input should be", "must be", 1)

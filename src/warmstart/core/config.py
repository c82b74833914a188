"""Settings as values: frozen pydantic models whose errors read like sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from .errors import UsageError, nearest

__all__ = ["Config", "split_text", "typical"]

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

    def titled(self, title: str) -> str:
        """A title with what is not as the defaults have it, as one would type it.

        Args:
            title: Of the whole: `LoRA` becomes `LoRA (rank 16, targets ["query"])`.
        """
        changed = self.model_dump(exclude_defaults=True)
        told = ", ".join(f"{name} {_typed(value)}" for name, value in changed.items())
        return f"{title} ({told})" if told else title

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
            usual: dict[str, str] = {}
            for item in error.errors():
                where = ".".join(str(part) for part in _place(item["loc"], values)) or "settings"
                if item["type"] == "extra_forbidden":
                    lines.append(
                        f"{who} has no setting `{where}`.{nearest(where, cls.model_fields)}"
                    )
                elif item["type"] == "missing":
                    missing = ".".join(str(part) for part in item["loc"])
                    lines.append(f"{who}.{missing} is required.")
                elif (
                    item["type"] == "too_short"
                    and item["input"]
                    and any(place == where or place.startswith(f"{where}.") for place in wrong)
                ):
                    continue  # the items were refused one by one already
                else:  # each branch of a union has its own mistake
                    field = _field(cls, item["loc"])
                    wrong.setdefault(where, ([], item["input"]))[0].append(_wanted(item, field))
                    extra = None if field is None else field.json_schema_extra
                    if isinstance(extra, dict) and "typical" in extra:
                        usual[where] = f" Typical values: {extra['typical']}."
            for where, (wanted, came) in wrong.items():
                allowed = " or ".join(dict.fromkeys(wanted)).replace(" or must be", " or")
                sign = "" if allowed.startswith("must") else ":"
                told = came if _is_number(came) else repr(came)
                lines.append(f"{who}.{where}{sign} {allowed}, got {told}.{usual.get(where, '')}")
            raise UsageError(" ".join(lines)) from None


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def typical(values: str) -> dict[str, Any]:
    """What `Field(json_schema_extra=…)` takes to say which values are usual: `typical("4 to 64")`.

    The sentence about a wrong value ends in them.
    """
    return {"typical": values}


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


def _field(model: type[BaseModel], location: Sequence[int | str]) -> FieldInfo | None:
    """The field that an error is about; the innermost one of models in models."""
    found = None
    for part in location:
        known = model.model_fields.get(part) if isinstance(part, str) else None
        if known is None:
            break
        found = known
        if not (isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel)):
            break
        model = known.annotation
    return found


def _ranges(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[dict[str, float]]:
    """The bounds of a type and of each type within it, by pydantic's name: `{"ge": 1}`."""
    bounds: dict[str, float] = {}
    for part in metadata:
        for one in part.metadata if isinstance(part, FieldInfo) else [part]:
            keys = (key for _, key in _BOUNDS.values() if hasattr(one, key))
            bounds |= {key: getattr(one, key) for key in keys}
    yield bounds
    yield from _ranges_within(annotation)


def _ranges_within(annotation: Any) -> Iterator[dict[str, float]]:
    inner = getattr(annotation, "__metadata__", None)
    if inner is not None:
        yield from _ranges(annotation.__origin__, inner)
        return
    for part in get_args(annotation):
        yield from _ranges_within(part)


def _range(key: str, bound: float, field: FieldInfo | None) -> str:
    """Both ends of the range that has this bound: `at least 1 and at most 10`."""
    every = [] if field is None else _ranges(field.annotation, field.metadata)
    bounds = next((found for found in every if found.get(key) == bound), {key: bound})
    return " and ".join(
        f"{word} {_number(bounds[name])}" for word, name in _BOUNDS.values() if name in bounds
    )


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _is_number(value: Any) -> bool:
    """Whether a text, as the command line gives them, is a number."""
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _wanted(item: Any, field: FieldInfo | None) -> str:
    """What is allowed: `must be at least 1 and at most 10`."""
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind in _BOUNDS:
        _, key = _BOUNDS[kind]
        return f"must be {_range(key, context[key], field)}"
    if kind == "too_short":
        least = context["min_length"]
        return f"must be a list of {least} or more"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    name, _, ending = kind.partition("_")
    if name in _KINDS and ending in ("parsing", "type", "from_float"):
        return f"must be {_KINDS[name]}"
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return message.replace("Input should be", "must be", 1)

"""Requests drawn from an application's own OpenAPI document: what it allows, and what it does not.

Only the words of JSON Schema that the document uses are understood; another one is an error, so
that a new kind of field cannot pass undrawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

Json = Mapping[str, Any]
_SAID = {"title", "description", "default", "type", "examples"}
_LETTERS = st.characters(exclude_categories=["Cs"])
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(_LETTERS, max_size=20)
    | st.sampled_from(
        ["", " ", "\0", "a" * 300, "../..", "%00", "null", "1e999", "'; --", "𝔘\u202e"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(_LETTERS, max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        method: In capitals.
        path: With names in braces.
        parameters: As the document has them.
        body: Schema of the JSON body; None without one.
        statuses: Those that it says it answers with.
        answer: Name of the model of a 200; None where it is no JSON.
    """

    method: str
    path: str
    parameters: tuple[Json, ...]
    body: Json | None
    statuses: frozenset[int]
    answer: str | None


@dataclass(frozen=True)
class Case:
    """A request, and whether the document allows it."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None
    allowed: bool


def operations(document: Json) -> list[Operation]:
    """Every operation of an OpenAPI document."""
    found = []
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            body = (told.get("requestBody") or {}).get("content", {}).get("application/json")
            schema = told["responses"]["200"].get("content", {}).get("application/json", {})
            name = schema.get("schema", {}).get("$ref", "").rpartition("/")[2]
            found.append(
                Operation(
                    method.upper(),
                    path,
                    tuple(told.get("parameters", ())),
                    None if body is None else body["schema"],
                    frozenset(int(status) for status in told["responses"]),
                    name or None,
                )
            )
    return found


def values(schema: Json, known: Sequence[Any] = ()) -> st.SearchStrategy[Any]:
    """Values that a schema allows.

    Args:
        schema: The schema.
        known: Texts and numbers that the service knows, which are drawn often where they fit.
    """
    if "oneOf" in schema:
        return _one_of_required(schema, known)
    if "anyOf" in schema:
        return st.one_of([values(part, known) for part in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    used = set(schema) - _SAID
    allowed, draw = _KINDS[schema["type"]]
    assert used <= allowed, f"{used - allowed} of the schema is not understood here"
    return draw(schema, known)


def _texts(schema: Json, known: Sequence[Any]) -> st.SearchStrategy[Any]:
    longest = schema.get("maxLength", 300)
    free = st.text(_LETTERS, min_size=schema.get("minLength", 0), max_size=longest)
    return _mostly([one for one in known if isinstance(one, str) and len(one) <= longest], free)


def _wholes(schema: Json, known: Sequence[Any]) -> st.SearchStrategy[Any]:
    low, high = int(schema.get("minimum", -(10**18))), int(schema.get("maximum", 10**18))
    free = st.integers(low, high) | st.sampled_from([low, high])
    return _mostly([one for one in known if isinstance(one, int) and low <= one <= high], free)


def _mostly(mine: Sequence[Any], free: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Known values three times out of four, where there are some."""
    if not mine:
        return free
    named = st.sampled_from(mine)
    return st.one_of(named, named, named, free)


def _arrays(schema: Json, known: Sequence[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values(schema["items"], known), max_size=min(schema.get("maxItems", 12), 12))


def _objects(schema: Json, known: Sequence[Any], required: Sequence[str]) -> st.SearchStrategy[Any]:
    fields = {name: values(part, known) for name, part in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: fields[name] for name in required},
        optional={name: one for name, one in fields.items() if name not in required},
    )


def _numbers(schema: Json, known: Sequence[Any]) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum", -1e18), schema.get("maximum", 1e18)
    return st.floats(low, high, allow_nan=False) | st.sampled_from([low, high, 0, 41])


def _named(schema: Json, known: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Objects whose names are free."""
    most = min(schema.get("maxProperties", 4), 4)
    names = _texts(schema.get("propertyNames", {}), known)
    return st.dictionaries(names, values(schema["additionalProperties"], known), max_size=most)


_KINDS: Mapping[str, tuple[set[str], Any]] = {
    "string": ({"maxLength", "minLength"}, _texts),
    "integer": ({"minimum", "maximum"}, _wholes),
    "number": ({"minimum", "maximum"}, _numbers),
    "null": (set(), lambda schema, known: st.none()),
    "boolean": (set(), lambda schema, known: st.booleans()),
    "array": ({"items", "maxItems"}, _arrays),
    "object": (
        {"properties", "required", "additionalProperties", "propertyNames", "maxProperties"},
        lambda schema, known: (
            _objects(schema, known, schema.get("required", ()))
            if "properties" in schema
            else _named(schema, known)
        ),
    ),
}


def _one_of_required(schema: Json, known: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Objects that have exactly one of several fields."""
    groups = [part["required"] for part in schema["oneOf"]]
    assert all(set(part) == {"required"} for part in schema["oneOf"]), schema["oneOf"]
    found = []
    for group in groups:
        others = {name for other in groups if other != group for name in other}
        left = {n: part for n, part in schema["properties"].items() if n not in others}
        needed = [*schema.get("required", ()), *group]
        found.append(_objects({"properties": left}, known, needed))
    return st.one_of(found)


@st.composite
def cases(draw: Any, operation: Operation, known: Sequence[Any]) -> Case:
    """A request of an operation: as the document allows it, or spoilt in one place or whole."""
    path, query, allowed = operation.path, [], True
    for parameter in operation.parameters:
        fits = draw(st.integers(0, 3)) > 0
        value = draw(values(parameter["schema"], known) if fits else JUNK)
        if parameter["in"] == "path":
            text = str(value)
            path = path.replace(f"{{{parameter['name']}}}", quote(text, safe=""))
            allowed &= fits and bool(text)
        elif fits and not parameter.get("required") and draw(st.booleans()):
            continue
        else:
            query.append(f"{parameter['name']}={quote(str(value), safe='')}")
            allowed &= fits
    url = f"{path}?{'&'.join(query)}" if query else path
    if operation.body is None:
        return Case(operation.method, url, {}, None, allowed)
    kind = "application/json"
    content, fits = draw(_contents(operation.body, known))
    if draw(st.integers(0, 19)) == 0:
        kind, fits = draw(st.sampled_from(["text/plain", "", "application/xml", "json"])), False
    return Case(operation.method, url, {"Content-Type": kind}, content, allowed and fits)


@st.composite
def _contents(draw: Any, schema: Json, known: Sequence[Any]) -> tuple[bytes, bool]:
    """A body, and whether the schema allows it."""
    import json

    how = draw(st.sampled_from(["fits", "fits", "fits", "spoilt", "junk", "torn", "bytes"]))
    if how == "bytes":
        return draw(st.binary(max_size=60)), False
    body = draw(JUNK if how == "junk" else values(schema, known))
    if how == "spoilt":
        body = dict(body)
        spot = draw(st.sampled_from([*schema["properties"], "unheard_of"]))
        body[spot] = draw(JUNK)
    text = json.dumps(body, ensure_ascii=draw(st.booleans()))
    if how == "torn":
        text = text[: draw(st.integers(0, max(0, len(text) - 1)))]
    return text.encode("utf-8", "surrogatepass"), how == "fits"

"""Settings as values: frozen, strict about names, and clear about what is wrong."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from warmstart.core import Config, UsageError


class Inner(Config):
    rank: Annotated[int, Field(ge=1)] = 8


class Settings(Config):
    name: str
    l2: float = 1.0
    head: Literal["linear", "mlp"] = "linear"
    inner: Inner = Inner()

    @field_validator("l2")
    @classmethod
    def _even(cls, value: float) -> float:
        if value < 0:
            raise ValueError("must be at least 0. Typical values: 0.01 to 10.")
        return value


def test_values_are_converted_where_that_is_exact() -> None:
    parsed = Settings.parse({"name": "a", "l2": "0.5", "inner": {"rank": "4"}}, "probe")
    assert parsed == Settings(name="a", l2=0.5, inner=Inner(rank=4))


def test_frozen() -> None:
    settings = Settings(name="a")
    with pytest.raises(ValidationError, match="frozen"):
        settings.l2 = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "a", "hed": 1},
            "probe has no setting `hed`. Did you mean \"head\"? Available: head, inner, l2, name.",
        ),
        ({}, "probe.name is required."),
        ({"name": "a", "l2": "much"}, "probe.l2: Input should be a valid number, unable to parse "
         "string as a number, got 'much'."),
        ({"name": "a", "l2": -1}, "probe.l2: must be at least 0. Typical values: 0.01 to 10, "
         "got -1."),
        ({"name": "a", "head": "deep"}, "probe.head: Input should be 'linear' or 'mlp', "
         "got 'deep'."),
        ({"name": "a", "inner": {"rank": 0}}, "probe.inner.rank: Input should be greater than or "
         "equal to 1, got 0."),
    ],
)  # fmt: skip
def test_messages(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.parse(values, "probe")
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Settings.parse({"l2": "x", "head": 3, "depth": 1}, "probe")
    for part in ("probe.name", "probe.l2", "probe.head", "`depth`"):
        assert part in str(caught.value)

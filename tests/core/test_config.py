"""Settings as values: frozen, strict about names, and clear about what is wrong."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    field_validator,
)

from warmstart.core import Config, UsageError, split_text, typical


class Inner(Config):
    rank: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        8, json_schema_extra=typical("4 to 64")
    )
    share: float = Field(0.5, gt=0, lt=1)


class Settings(Config):
    name: str
    l2: float = 1.0
    head: Literal["linear", "mlp"] = "linear"
    inner: Inner = Inner()
    depth: Literal["last"] | NonNegativeInt = "last"
    some: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"
    many: Annotated[tuple[PositiveFloat, ...], Field(min_length=1), BeforeValidator(split_text)] = (
        1.0,
    )

    @field_validator("l2")
    @classmethod
    def _even(cls, value: float) -> float:
        if value < 0:
            raise ValueError("must be at least 0. Typical values: 0.01 to 10.")
        return value


def test_values_are_converted_where_that_is_exact() -> None:
    parsed = Settings.parse({"name": "a", "l2": "0.5", "inner": {"rank": "4"}}, "probe")
    assert parsed == Settings(name="a", l2=0.5, inner=Inner(rank=4))


def test_a_text_holds_several_values() -> None:
    assert Settings.parse({"name": "a", "many": "1 | 2.5"}, "x").many == (1.0, 2.5)
    assert split_text("{}|this is {}") == ("{}", "this is {}")
    assert split_text((1, 2)) == (1, 2)


def test_frozen() -> None:
    settings = Settings(name="a")
    with pytest.raises(ValidationError, match="frozen"):
        settings.l2 = 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "a", "hed": 1},
            "probe has no setting `hed`. Did you mean \"head\"? Available: depth, head, inner, l2, "
            "many, name, some.",
        ),
        ({}, "probe.name is required."),
        ({"name": "a", "l2": "much"}, "probe.l2 must be a number, got 'much'."),
        ({"name": "a", "l2": -1}, "probe.l2 must be at least 0. Typical values: 0.01 to 10, "
         "got -1."),
        ({"name": "a", "head": "deep"}, "probe.head must be 'linear' or 'mlp', got 'deep'."),
        ({"name": "a", "depth": "x"}, "probe.depth must be 'last' or a whole number, got 'x'."),
        ({"name": "a", "depth": -1}, "probe.depth must be 'last' or at least 0, got -1."),
        ({"name": "a", "many": "1|x"}, "probe.many must be a number, got 'x'."),
        ({"name": "a", "many": (1, 0)}, "probe.many.1 must be above 0, got 0."),
        ({"name": "a", "many": [0]}, "probe.many.0 must be above 0, got 0."),
        ({"name": "a", "inner": {"rank": 0}}, "probe.inner.rank must be at least 1 and at most "
         "65,536 or 'auto', got 0. Typical values: 4 to 64."),
        ({"name": "a", "inner": {"rank": "70000"}}, "probe.inner.rank must be at least 1 and at "
         "most 65,536 or 'auto', got 70000. Typical values: 4 to 64."),
        ({"name": "a", "inner": {"share": 1.0}}, "probe.inner.share must be above 0 and below 1, "
         "got 1.0."),
        ({"name": "a", "some": []}, "probe.some must be 'all' or a list of 1 or more, got []."),
    ],
)  # fmt: skip
def test_messages(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.parse(values, "probe")
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Settings.parse({"l2": "x", "head": 3, "depht": 1}, "probe")
    for part in ("probe.name", "probe.l2", "probe.head", "`depht`"):
        assert part in str(caught.value)

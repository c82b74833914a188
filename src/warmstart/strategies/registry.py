"""Every strategy by its name, our own and those of other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar

from warmstart.core import UsageError, nearest

from .base import Strategy

__all__ = ["make", "names", "register", "strategy_class"]

S = TypeVar("S", bound=type[Strategy])
_STRATEGIES: dict[str, type[Strategy]] = {}
_seen_entry_points = False


def register(cls: S) -> S:
    """Add a strategy under its `name`; use it as a class decorator.

    Raises:
        UsageError: When the name is taken by another class.
    """
    known = _STRATEGIES.get(cls.name)
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise UsageError(f"strategy {cls.name!r} is already registered by {known.__module__}.")
    _STRATEGIES[cls.name] = cls
    return cls


def _all() -> dict[str, type[Strategy]]:
    global _seen_entry_points  # noqa: PLW0603 - entry points are read once, on first use
    if not _seen_entry_points:
        _seen_entry_points = True
        for point in metadata.entry_points(group="warmstart.strategies"):
            register(point.load())
    return _STRATEGIES


def names() -> list[str]:
    """Names of all strategies, in the order in which they were registered."""
    return list(_all())


def strategy_class(name: str) -> type[Strategy]:
    """The class of that name.

    Raises:
        UsageError: For an unknown name, with the nearest one.
    """
    if name not in _all():
        raise UsageError(f"There is no strategy {name!r}.{nearest(name, _all())}")
    return _all()[name]


def make(name: str, settings: Mapping[str, Any] | None = None) -> Strategy:
    """Build a strategy from its name and settings.

    Raises:
        UsageError: For an unknown name or a setting that it does not have.
    """
    return strategy_class(name).parse(settings or {}, name)

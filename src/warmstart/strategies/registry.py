"""Every strategy by its name, our own and those of other packages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar

from warmstart.core import UsageError, nearest, progress

from .base import Strategy

__all__ = ["SPECTRUM", "make", "names", "register", "strategy_class"]

# From nothing learned to everything, then the controls.
SPECTRUM = (
    "zero-shot", "prototypes", "knn", "maml", "probe", "prompt", "ptuning", "prefix", "ia3", "lora",
    "qlora", "adapter", "partial", "setfit", "lp-ft", "unfreeze", "finetune", "scratch", "tfidf",
    "cnn",
)  # fmt: skip

_log = logging.getLogger(__name__)
S = TypeVar("S", bound=type[Strategy])
_STRATEGIES: dict[str, type[Strategy]] = {}
_broken: dict[str, str] = {}  # name -> why its package's strategy is not there
_seen_entry_points = False


def register(cls: S) -> S:
    """Add a strategy under its `name`; use it as a class decorator.

    Raises:
        UsageError: When the name is taken by another class.
    """
    known = _STRATEGIES.get(cls.name)
    if known is not None and _place(known) != _place(cls):
        raise UsageError(
            f"strategy {cls.name!r} is already registered by {'.'.join(_place(known))}; "
            f"{'.'.join(_place(cls))} needs another name."
        )
    _STRATEGIES[cls.name] = cls
    return cls


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _all() -> dict[str, type[Strategy]]:
    global _seen_entry_points  # noqa: PLW0603 - entry points are read once, on first use
    if not _seen_entry_points:
        _seen_entry_points = True
        for point in metadata.entry_points(group="warmstart.strategies"):
            _take(point)
    return _STRATEGIES


def _take(point: metadata.EntryPoint) -> None:
    """Register what another package offers; where that fails, say so and go on without it."""
    try:
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, Strategy)):
            raise TypeError(f"{point.value} is no subclass of warmstart.strategies.Strategy")
        register(found)
    except Exception as error:
        package = point.dist.name if point.dist is not None else point.module
        reason = (
            f"strategy {point.name!r} of the package {package} cannot be used "
            f"({type(error).__name__}: {error}). Update or remove that package."
        )
        _broken[point.name] = reason
        _log.warning(reason)
        progress.note(f"Left out: {reason}")


def names() -> list[str]:
    """Names of all strategies: along the spectrum, then those of other packages as they came."""
    known = _all()
    return [*(name for name in SPECTRUM if name in known), *(n for n in known if n not in SPECTRUM)]


def strategy_class(name: str) -> type[Strategy]:
    """The class of that name.

    Raises:
        UsageError: For an unknown name, with the nearest one, or one whose package is broken, with
            the reason.
    """
    if name not in _all():
        if name in _broken:
            raise UsageError(_broken[name])
        plain, colon, _ = name.partition(":")
        if colon and plain in _all():
            raise UsageError(
                f"{name!r} is an arm of `compare` with settings of its own; one strategy is named "
                f"{plain!r}, and its settings are given apart: settings={{...}} in Python, --set "
                "KEY=VALUE on the command line."
            )
        raise UsageError(f"There is no strategy {name!r}.{nearest(name, _all())}")
    return _all()[name]


def make(name: str, settings: Mapping[str, Any] | None = None) -> Strategy:
    """Build a strategy from its name and settings.

    Raises:
        UsageError: For an unknown name or a setting that it does not have.
    """
    return strategy_class(name).parse(settings or {}, name)

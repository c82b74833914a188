"""Adapt a pretrained model to your data, and prove that it was worth it.

Example:
    >>> import warmstart as ws
    >>> run = ws.fit("reviews.csv")  # doctest: +SKIP
    >>> run.predict(["Works as promised."])  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .workflow import (
        adapt,
        backbone,
        compare,
        drift,
        embed,
        evaluate,
        fit,
        info,
        open_run,
        plan,
        predict,
        rank,
        rates,
        read,
        recommend,
        refresh,
        sample,
        shift,
    )

__all__ = [
    "__version__",
    "adapt",
    "backbone",
    "compare",
    "drift",
    "embed",
    "evaluate",
    "fit",
    "info",
    "open_run",
    "plan",
    "predict",
    "rank",
    "rates",
    "read",
    "recommend",
    "refresh",
    "sample",
    "shift",
]


def __getattr__(name: str) -> Any:
    """Import the verbs on first use, so that `import warmstart` costs nothing."""
    if name in __all__:
        from . import workflow

        return getattr(workflow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Verb(ModuleType):
    """A package that shares its name with a verb (`shift`), and can be called as such."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from . import workflow

        return getattr(workflow, self.__name__.rpartition(".")[2])(*args, **options)


class _Root(ModuleType):
    """The import system hands each package to its parent here; a verb's stays callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root

"""The contract of every way of adapting to an unlabelled target, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict

from warmstart.core import Config, Run, UsageError, nearest
from warmstart.models import Head

from .adapt_view import DomainVectors

__all__ = [
    "SOURCE_ONLY",
    "AdaptationMethod",
    "Adapted",
    "NamedMethod",
    "Snapshot",
    "make_method",
    "method_class",
    "method_names",
    "parse_methods",
    "register_method",
]

SOURCE_ONLY = "source-only"
ORDER = (SOURCE_ONLY, "mmd", "coral", "dann", "cdan", "reweight", "label-shift", "self-training")


@dataclass(frozen=True)
class Snapshot:
    """A head as it was after an epoch: something to choose among.

    Attributes:
        epoch: Counted from 1.
        head: Reads the raw vectors of the backbone, or of the encoder as it was then.
        own: The rows' vectors by the encoder as it was then; None where it is the backbone's.
        weights: File of the weights that the encoder had learned; None likewise.
    """

    epoch: int
    head: Head
    own: DomainVectors | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class Adapted:
    """What a method returns.

    Attributes:
        snapshots: One or more, in the order of their epochs.
        trainable_parameters: Weights that were learned, discriminators aside.
        history: One dictionary an epoch.
        values: What was found on the way: weights' effective sample size, class shares, rounds.
        notes: Sentences that the user should read.
        stopped: Why training ended: finished, early, deadline, max_steps.
        seconds: Wall time of the training.
    """

    snapshots: tuple[Snapshot, ...]
    trainable_parameters: int
    history: Sequence[dict[str, Any]] = ()
    values: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    stopped: str = "finished"
    seconds: float = 0.0


class AdaptationMethod(Config, ABC):
    """A way of carrying a labelled source over to an unlabelled target: settings and nothing else.

    `fit` sees labelled source vectors and unlabelled target vectors, and returns heads to choose
    among; it does not choose, since that takes a view of all methods together.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    name: ClassVar[str]
    title: ClassVar[str]
    aligns: ClassVar[bool] = False
    """Whether it makes the two domains look alike, which is harmful where class shares differ."""

    @abstractmethod
    def fit(self, rows: DomainVectors, run: Run) -> Adapted:
        """Learn from the rows.

        Args:
            rows: Labelled source and unlabelled target vectors; `DomainInputs` where the encoder
                may learn too.
            run: Where to log, the seed, and how long it may take.
        """


M = TypeVar("M", bound=type[AdaptationMethod])
_METHODS: dict[str, type[AdaptationMethod]] = {}


def register_method(cls: M) -> M:
    """Add a method under its `name`; use it as a class decorator.

    Raises:
        UsageError: When the name is taken by another class.
    """
    known = _METHODS.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    ):
        raise UsageError(
            f"adaptation method {cls.name!r} is already registered by {known.__module__}."
            f"{known.__qualname__}; {cls.__module__}.{cls.__qualname__} needs another name."
        )
    _METHODS[cls.name] = cls
    return cls


def method_names() -> list[str]:
    """Names of all methods, source-only first."""
    return [*(name for name in ORDER if name in _METHODS), *(n for n in _METHODS if n not in ORDER)]


def method_class(name: str) -> type[AdaptationMethod]:
    """The class of that name.

    Raises:
        UsageError: For an unknown name, with the nearest one.
    """
    if name not in _METHODS:
        raise UsageError(f"There is no adaptation method {name!r}.{nearest(name, _METHODS)}")
    return _METHODS[name]


def make_method(name: str, settings: Mapping[str, Any] | None = None) -> AdaptationMethod:
    """Build a method from its name and settings.

    Raises:
        UsageError: For an unknown name or a setting that it does not have.
    """
    return method_class(name).parse(settings or {}, name)


@dataclass(frozen=True)
class NamedMethod:
    """A method under the name that the table shows.

    Attributes:
        name: `reweight`, or `reweight:ratio=kmm` when settings differ from the defaults.
        method: The method itself.
    """

    name: str
    method: AdaptationMethod

    @property
    def title(self) -> str:
        """How sentences call it: the method's title, and what was set otherwise."""
        return self.method.titled(self.method.title)


def parse_methods(given: Sequence[str | AdaptationMethod] | None) -> list[NamedMethod]:
    """Read methods such as `dann`, `reweight:ratio=kmm` or values; source-only is always first.

    Args:
        given: Names or values; every registered method when None.

    Raises:
        UsageError: For an unknown method or setting, the same method twice, or an empty list.
    """
    wanted: Sequence[str | AdaptationMethod] = method_names() if given is None else given
    found: list[NamedMethod] = []
    for one in wanted:
        if isinstance(one, AdaptationMethod):
            changed = one.model_dump(exclude_defaults=True)
            name = ":".join([one.name, *(f"{key}={value}" for key, value in changed.items())])
            found.append(NamedMethod(name, one))
            continue
        name, *settings = one.strip().split(":")
        values: dict[str, str] = {}
        for setting in settings:
            key, sign, value = setting.partition("=")
            if not sign:
                raise UsageError(f"method {one!r}: {setting!r} is not a setting; write key=value.")
            values[key] = value
        found.append(NamedMethod(one.strip(), make_method(name, values)))
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"A method was named twice: {', '.join(twice)}.")
    if not found:
        raise UsageError(f"methods names none.{nearest('', method_names())}")
    if not any(one.method.name == SOURCE_ONLY for one in found):
        found.insert(0, NamedMethod(SOURCE_ONLY, make_method(SOURCE_ONLY)))
    return sorted(found, key=lambda one: one.method.name != SOURCE_ONLY)

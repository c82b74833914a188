"""The contract of every baseline: a frozen value whose `fit` returns a recommender.

A baseline has no towers and no vectors: it counts. It is what a trained model has to beat, so it is
tuned on validation like one, and a user without history is answered by popularity wherever the
method itself would have nothing to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar, cast

from pydantic import ConfigDict, PositiveInt

from warmstart.core import Config, Run, UsageError, nearest
from warmstart.evaluation import Events, Recommender

__all__ = ["BASELINES", "Baseline", "OfHistory", "make_baseline", "register", "told_settings"]

B = TypeVar("B", bound="type[Baseline]")
BASELINES: dict[str, type[Baseline]] = {}
"""Every baseline by its name, from the one that knows nothing to those that count the most."""
_ORDER = ("random", "popularity", "recent-popularity", "item-knn", "ease", "als")


class Baseline(Config, ABC):
    """A way of recommending by counting: hyperparameters and nothing else.

    A subclass names itself by class variables, says in `check` where it cannot work, learns in
    `fit`, and lists in `grid` what validation chooses from.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    name: ClassVar[str]
    title: ClassVar[str]

    def check(self, past: Events) -> None:
        """Refuse data on which this baseline cannot work.

        Raises:
            NotApplicable: With the reason.
        """

    @abstractmethod
    def fit(self, past: Events, run: Run | None = None) -> Recommender:
        """Count the positive events.

        Args:
            past: Events before the cut.
            run: Gives the seed; 0 without.

        Raises:
            NotApplicable: When `check` refuses the data.
        """

    @classmethod
    def grid(cls) -> tuple[Self, ...]:
        """The settings that `tune` tries, the default among them."""
        return (cls(),)

    def fit_like(
        self, fitted: Recommender, settings: Baseline, past: Events, run: Run | None = None
    ) -> Recommender:
        """As `fit`, on the same events as an earlier fit, whose work may be used again.

        Args:
            fitted: What the earlier fit gave.
            settings: With which settings.
            past: The same events.
            run: As for `fit`.
        """
        return self.fit(past, run)


class OfHistory(Baseline):
    """A baseline that looks at the newest events of a history, or at all of them.

    Its recommender is a dataclass with a field `last`, which may be changed without a new fit.
    """

    last: PositiveInt | None

    def fit_like(
        self, fitted: Recommender, settings: Baseline, past: Events, run: Run | None = None
    ) -> Recommender:
        """What was fitted, where the settings differ in the length of the history alone."""
        if isinstance(settings, type(self)) and self == settings.model_copy(
            update={"last": self.last}
        ):
            changed: Recommender = replace(cast(Any, fitted), last=self.last)
            return changed
        return self.fit(past, run)


def register(cls: B) -> B:
    """Add a baseline under its `name`; use it as a class decorator.

    Raises:
        UsageError: When the name is taken by another class.
    """
    known = BASELINES.get(cls.name)
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise UsageError(
            f"baseline {cls.name!r} is already registered by {known.__qualname__}; "
            f"{cls.__qualname__} needs another name."
        )
    BASELINES[cls.name] = cls
    for name in [
        *(n for n in _ORDER if n in BASELINES),
        *(n for n in BASELINES if n not in _ORDER),
    ]:
        BASELINES[name] = BASELINES.pop(name)
    return cls


def make_baseline(name: str, settings: Mapping[str, Any] | None = None) -> Baseline:
    """Build a baseline from its name and settings; see `told_settings`.

    Raises:
        UsageError: For an unknown name or a setting that it does not have.
    """
    if name not in BASELINES:
        raise UsageError(f"There is no baseline {name!r}.{nearest(name, BASELINES)}")
    return BASELINES[name].parse(told_settings(settings), name)


def told_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings as a user gave them: the word `none` stands for None."""
    return {
        key: None if isinstance(value, str) and value.lower() == "none" else value
        for key, value in (settings or {}).items()
    }

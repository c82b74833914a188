"""Who takes part in a contest of recommenders, and which metric may decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from warmstart.core import UsageError, nearest
from warmstart.evaluation import KS, ranking_metric
from warmstart.retrieval import (
    BASELINES,
    TRACKS,
    Baseline,
    HistoryMean,
    TwoTower,
    make_baseline,
    make_track,
)

__all__ = ["Contender", "check_deciding", "parse_contenders", "usual_metric"]


@dataclass(frozen=True)
class Contender:
    """A baseline or a track.

    Attributes:
        name: As the user wrote it, settings included.
        settings: The value.
        tuned: Whether a baseline's grid is tried; not where the user set something.
    """

    name: str
    settings: Baseline | HistoryMean | TwoTower
    tuned: bool = True

    @property
    def role(self) -> Literal["arm", "control"]:
        """A baseline is a control; a track is an arm."""
        return "control" if isinstance(self.settings, Baseline) else "arm"

    @property
    def title(self) -> str:
        """How tables call it."""
        told = self.settings.model_dump(include=set(self.settings.model_fields_set))
        if not told:
            return self.settings.title
        return f"{self.settings.title} ({', '.join(f'{k} {v}' for k, v in told.items())})"


def parse_contenders(texts: Sequence[str]) -> list[Contender]:
    """Read contenders such as `ease`, `item-knn:last=20` or `two-tower:width=64`.

    Raises:
        UsageError: For an unknown name or setting, or the same contender twice.
    """
    found: list[Contender] = []
    for text in texts:
        name, *parts = text.strip().split(":")
        values: dict[str, Any] = {}
        for part in parts:
            key, sign, value = part.partition("=")
            if not sign:
                raise UsageError(f"arm {text!r}: {part!r} is not a setting; write key=value.")
            values[key] = value
        if name not in BASELINES and name not in TRACKS:
            raise UsageError(
                f"There is no arm {name!r} for interactions." + nearest(name, [*TRACKS, *BASELINES])
            )
        made = (make_baseline if name in BASELINES else make_track)(name, values)
        found.append(Contender(text.strip(), made, tuned=not values))
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"An arm was named twice: {', '.join(twice)}.")
    return found


def usual_metric(n_items: int) -> str:
    """HR@100, or HR at the longest list that holds at most half of a small catalogue."""
    return f"HR@{max((k for k in KS if 2 * k <= n_items), default=1)}"


def check_deciding(metric: str, n_items: int) -> None:
    """Refuse a metric that cannot decide which arm is best.

    Args:
        metric: HR, Recall, NDCG or debiased_recall at one of the list lengths of tables, or MRR.
        n_items: I.

    Raises:
        UsageError: For another one, or a list that would hold the whole catalogue.
    """
    family, length = ranking_metric(metric, "metric")
    if family in ("coverage", "median_rank") or (length is not None and length not in KS):
        raise UsageError(
            f"metric {metric!r} cannot decide. Take HR, Recall, NDCG or debiased_recall at "
            f"{', '.join(map(str, KS))}, such as HR@10, or MRR."
        )
    if length is not None and length >= n_items:
        raise UsageError(
            f"metric {metric!r} is met by every list, for there are {n_items} items. Take a "
            "shorter one, such as HR@10, or MRR."
        )

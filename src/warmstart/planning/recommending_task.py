"""What contenders share, and what becomes of each: fits, scores and the outcome of a contest."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from warmstart.data import Interactions, TimeSplit
from warmstart.evaluation import (
    RankedPair,
    RankingScores,
    RankingTask,
    Ranks,
    Recommender,
    all_future_task,
    next_item_task,
    standard_slices,
)
from warmstart.retrieval import Content

from .budget import Budgeted
from .recommending_contenders import Contender

__all__ = ["Contest", "ContestTask", "Entry", "SeedFit"]

Status = Literal["done", "shortened", "cut", "failed", "not applicable"]


@dataclass(frozen=True)
class ContestTask(Budgeted):
    """What all contenders share.

    Attributes:
        split: Training and validation events.
        test: Events after the test cut, which only the questions at the end are made of.
        content: Texts, images and attributes.
        folder: The run's folder.
        primary: The metric that decides.
        budget: Seconds for everything.
        started: `time.monotonic()` at the start, less what earlier sessions took.
        seed: Root of every draw.
        device: Device name.
        block: Queries that are scored at once.
        trackers: Experiment trackers.
        seeds: Training seeds of each trained track, as far as the budget allows.
    """

    split: TimeSplit
    test: Interactions
    content: Content
    folder: Path
    primary: str = "HR@100"
    budget: float = float("inf")
    started: float = field(default_factory=time.monotonic)
    seed: int = 0
    device: str = "auto"
    block: int = 512
    trackers: tuple[str, ...] = ()
    seeds: int = 1

    @property
    def n_items(self) -> int:
        """I."""
        return self.split.train.n_items

    @cached_property
    def validation_task(self) -> RankingTask:
        """The next item, asked of the validation events."""
        return next_item_task(self.split.train, self.split.validation)

    @cached_property
    def next_item(self) -> RankingTask:
        """The next item, asked of the test events."""
        return next_item_task(self.split.fitted, self.test)

    @cached_property
    def all_future(self) -> RankingTask:
        """All later items, asked once a user at the test cut."""
        return all_future_task(self.split.fitted, self.test)

    @cached_property
    def slices(self) -> dict[str, list[str]]:
        """Slices of the next-item questions."""
        return standard_slices(self.next_item, self.split.fitted)

    @property
    def cold_P(self) -> list[bool]:
        """Which next-item targets are items that training never saw."""
        return [label == "cold" for label in self.slices["item"]]


@dataclass
class SeedFit:
    """One fit of a contender, from its settings to its ranks.

    Attributes:
        seed: The training seed.
        status: As of an entry.
        reason: Why it was cut or shortened.
        settings: As they were chosen.
        tried: A row for each setting that validation chose from.
        validation: Metrics on validation.
        recommender: What was ranked with; given up where another seed's is kept.
        ranks: Of the test questions, by kind.
        seconds: Of tuning and fitting.
        trainable: Weights that were learned.
        history: One dictionary an epoch.
        notes: Sentences for the reader.
    """

    seed: int
    status: Status = "done"
    reason: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    recommender: Recommender | None = None
    ranks: dict[str, Ranks] = field(default_factory=dict)
    seconds: float = 0.0
    trainable: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Entry:
    """What became of a contender.

    Attributes:
        contender: Which.
        status: done; shortened: the budget ended its search for the number of epochs early; cut:
            the budget ended before it had learned all events; failed; not applicable.
        reason: Why it was left out.
        fits: One a training seed; what needs no training has one.
        scores: By kind, over all seeds.
    """

    contender: Contender
    status: Status = "done"
    reason: str | None = None
    fits: list[SeedFit] = field(default_factory=list)
    scores: dict[str, RankingScores] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The contender's name."""
        return self.contender.name

    @property
    def judged(self) -> bool:
        """Whether it has scores that count."""
        return self.status in ("done", "shortened") and bool(self.scores)

    @property
    def kept(self) -> SeedFit | None:
        """The fit whose recommender is kept: the best on validation."""
        return next((fit for fit in self.fits if fit.recommender is not None), None)

    @property
    def recommender(self) -> Recommender | None:
        """What is kept of it."""
        return None if self.kept is None else self.kept.recommender

    @property
    def ranks(self) -> dict[str, tuple[Ranks, ...]]:
        """Kind to the ranks of the test questions, one entry a seed."""
        ranked = [fit for fit in self.fits if fit.ranks]
        kinds = ranked[0].ranks if ranked else {}
        return {kind: tuple(fit.ranks[kind] for fit in ranked) for kind in kinds}

    @property
    def validation(self) -> dict[str, float]:
        """Metrics on validation, the mean over seeds."""
        parts = [fit.validation for fit in self.fits if fit.validation]
        names = parts[0] if parts else {}
        return {name: sum(part[name] for part in parts) / len(parts) for name in names}

    @property
    def settings(self) -> dict[str, Any]:
        """As they were chosen, of the kept seed or else of the first."""
        shown = self.kept or (self.fits[0] if self.fits else None)
        return {} if shown is None else shown.settings

    @property
    def tried(self) -> list[dict[str, Any]]:
        """A row for each setting that validation chose from."""
        return self.fits[0].tried if self.fits else []

    @property
    def seconds(self) -> float:
        """Of tuning and fitting, of all seeds together."""
        return sum(fit.seconds for fit in self.fits)

    @property
    def trainable(self) -> int | None:
        """Weights that were learned."""
        return self.fits[0].trainable if self.fits else None

    @property
    def history(self) -> list[list[dict[str, Any]]]:
        """For each seed one dictionary an epoch; what has no epochs is left out."""
        return [fit.history for fit in self.fits if fit.history]

    @property
    def notes(self) -> list[str]:
        """Sentences for the reader, each once."""
        return list(dict.fromkeys(note for fit in self.fits for note in fit.notes))


@dataclass
class Contest:
    """The outcome.

    Attributes:
        entries: In the order in which they were named.
        best: The entry that is best on validation.
        kept: The trained model that is best on validation, which can be indexed and served.
        baseline: The best baseline on validation.
        lifts: Each arm minus that baseline, on the test questions.
        cold_lifts: On the questions whose answer is an item that training never saw: each trained
            track that reads texts or pictures minus each arm that ranks by content or popularity
            alone.
    """

    entries: list[Entry]
    best: Entry | None
    kept: Entry | None
    baseline: Entry | None
    lifts: list[tuple[str, str, RankedPair]]
    cold_lifts: list[tuple[str, str, RankedPair]] = field(default_factory=list)

"""What the arms of a comparison share, and what each of them gave."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import Config, RunError, WarmstartError, read_json, write_json
from warmstart.data import Dataset, View
from warmstart.evaluation import Scores, measure
from warmstart.strategies import Cost

from .arms import MARGIN, Arm, SeedResult, Status, full_seconds
from .budget import RESERVE, Budgeted
from .meter import Prices
from .verdict import Pair, Verdict

__all__ = ["ArmResult", "Comparison", "Embedding", "Task", "elapsed_clock", "enough_for"]

_CLOCK = "clock.json"
_KEPT_ROWS = 2000


class Embedding(Config):
    """What it took to embed all rows with the untouched backbone, for all arms together.

    Attributes:
        seconds: Wall time; where the vectors lay in the cache, what a timed sample promises.
        peak_bytes: Peak memory meanwhile.
        from_cache: Whether the vectors lay in the cache, so that the seconds are an estimate.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    from_cache: bool = False


@dataclass(frozen=True)
class Task(Budgeted):
    """What every arm of a comparison shares.

    Attributes:
        backbone: Where adaptation starts.
        view: Training and validation rows.
        test: Test rows, with labels; arms get them without.
        folder: Where arms keep their results while the comparison runs.
        primary: The metric that decides; higher is better.
        seeds: Training seeds for each seeded arm.
        first_seed: The first of them; the others count up from it.
        budget: Seconds for everything.
        started: `time.monotonic()` at the start, less what earlier sessions took.
        embedding: What the shared features took.
        device: Device name.
        prices: What the machine costs.
        group: Column for accuracy by group.
        trackers: Experiment trackers.
        asked: The arm that a fit was asked for; the others are its controls.
        max_forgetting: Points that the view's old task may lose.
    """

    backbone: Backbone
    view: View
    test: Dataset
    folder: Path
    primary: str
    seeds: int
    budget: float
    started: float
    first_seed: int = 0
    embedding: Embedding = field(default_factory=Embedding)
    device: str = "auto"
    prices: Prices = field(default_factory=Prices)
    group: str | None = None
    trackers: tuple[str, ...] = ()
    asked: str | None = None
    max_forgetting: float | None = None

    @property
    def kept_rows(self) -> int:
        """Rows that a trained model embeds when all is done, for what a run knows of its own kind.

        At most 2,000; under a budget no more than a twentieth of it pays for, yet 200.
        """
        if not self.limited or not self._row_seconds:
            return _KEPT_ROWS
        return max(200, min(_KEPT_ROWS, int(0.05 * self.budget / self._row_seconds)))

    @property
    def closing_seconds(self) -> float:
        """What the last arm leaves to do: predict held-out rows, save, judge all arms, embed some.

        By what embedding took a row, twice over for the held-out rows, and one hundredth of the
        budget.
        """
        held = len(self.view.validation) + len(self.test)
        again = min(self.kept_rows, len(self.view.train) + held)
        return self._row_seconds * (2.0 * held + 1.2 * again) + 0.01 * self.budget

    @property
    def predicting_seconds(self) -> float:
        """What an arm with an encoder of its own takes to predict the held-out rows."""
        return self._row_seconds * (len(self.view.validation) + len(self.test))

    @property
    def _row_seconds(self) -> float:
        """What embedding took a row."""
        rows = len(self.view.train) + len(self.view.validation) + len(self.test)
        return self.embedding.seconds / max(1, rows)

    def validation_value(self, proba_MC: np.ndarray) -> float:
        """The primary metric on the validation rows."""
        labels_M = self.view.validation.labels_N
        return measure(proba_MC, labels_M, [self.primary])[self.primary]


@dataclass
class ArmResult:
    """An arm with everything that was measured of it."""

    arm: Arm
    status: Status
    reason: str | None = None
    error: WarmstartError | None = None
    seeds: list[SeedResult] = field(default_factory=list)
    validation: list[np.ndarray] = field(default_factory=list)
    test: list[np.ndarray] = field(default_factory=list)
    scores: Scores | None = None
    validation_scores: Scores | None = None
    cost: Cost | None = None

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name

    def add(self, found: tuple[SeedResult, np.ndarray, np.ndarray]) -> None:
        """Take in one seed."""
        result, validation_MC, test_NC = found
        self.seeds.append(result)
        self.validation.append(validation_MC)
        self.test.append(test_NC)
        order: list[Status] = ["done", "shortened", "cut"]
        self.status = max((s.status for s in self.seeds), key=order.index)

    def lacking(self, task: Task) -> float | None:
        """Seconds beyond what it had for its full length; None where that was never measured.

        One that ran more slowly than it was timed is counted at the pace at which it ran.
        """
        if not self.seeds:
            return full_seconds(self.cost) + task.predicting_seconds if self.cost else None
        first = self.seeds[0]
        full, epochs = first.allowance.seconds_full, first.allowance.full_epochs
        if full is None:
            return None
        # below one pass what is paid once (loading, validation) would count many times
        paced = first.seconds * epochs / first.epochs if epochs and first.epochs >= 1 else 0.0
        return max(0.0, MARGIN * full - first.seconds, paced - first.seconds)

    def kept(self, task: Task) -> int:
        """Position of the seed whose model is kept: best on validation, the first among equals."""
        values = [task.validation_value(proba_MC) for proba_MC in self.validation]
        return values.index(max(values))

    def seconds(self, task: Task) -> float:
        """Mean seconds of a seed, the shared embedding included where the arm stands on it."""
        own = float(np.mean([s.seconds for s in self.seeds]))
        return own + (task.embedding.seconds if self.arm.strategy.uses_features else 0.0)

    def peak_bytes(self, task: Task) -> int:
        """Peak memory of its seeds, and of the shared embedding where it stands on it."""
        shared = task.embedding.peak_bytes if self.arm.strategy.uses_features else 0
        return max(shared, *(s.peak_memory_bytes for s in self.seeds))


def enough_for(limited: Sequence[ArmResult], task: Task, *, spent: float) -> float | None:
    """Seconds in which these arms could run their full length; None where that is not known.

    Args:
        limited: Arms that lack time.
        task: What they share.
        spent: Seconds that are gone, or given away.
    """
    lacking = [result.lacking(task) for result in limited]
    known = [seconds for seconds in lacking if seconds is not None]
    if not task.limited or len(known) < len(lacking):
        return None
    return spent + sum(known) / (1 - RESERVE)


@dataclass
class Comparison:
    """All arms, the pairs and the verdict."""

    arms: list[ArmResult]
    pairs: list[Pair]
    verdict: Verdict


@contextmanager
def elapsed_clock(folder: Path, started: float) -> Iterator[float]:
    """A start that counts the time of earlier sessions of the same run in.

    Args:
        folder: The run's folder while it is written.
        started: `time.monotonic()` when this session began.

    Yields:
        The moment at which the work would have begun without interruption.
    """
    path = folder / _CLOCK
    try:
        before = float(read_json(path)["seconds"]) if path.is_file() else 0.0
    except (RunError, KeyError, TypeError, ValueError):
        before = 0.0
    try:
        yield started - before
    finally:
        write_json(path, {"seconds": before + time.monotonic() - started})

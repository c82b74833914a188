"""The k-shot grid: the same draws of k rows a class for every arm, tested on the same rows.

A draw gives every row of the training part a place in a random order of its own; its k rows of a
class are the first k there, so k rows are among the k + 1 of the same draw. Arms meet the same rows
and are compared draw by draw. Nothing but the draw's rows and at most as many validation rows,
drawn alike from the validation part, reaches an arm: no large labelled set hides behind a small k.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import (
    BackboneError,
    DataError,
    NotApplicable,
    OutOfMemory,
    Run,
    Streams,
    UsageError,
    progress,
)
from warmstart.data import Dataset, View
from warmstart.data.allocate import first_shots
from warmstart.strategies import Strategy
from warmstart.training import Diverged

from .arms import Allowance, Arm, SeedResult, read_seed, run_seed
from .budget import Budgeted

__all__ = [
    "OUT_OF_TIME",
    "SHOTS",
    "Cell",
    "ShotTask",
    "Unserved",
    "draw_seed",
    "draw_view",
    "parse_shots",
    "run_shots",
    "serve",
]

SHOTS = (1, 2, 4, 8, 16, 32)
_MOST = 100_000
_MARGIN = 1.2  # what a clock may add to what the last cell of that size took
OUT_OF_TIME = "the budget ended"
_LEAVES_OUT = (NotApplicable, DataError, BackboneError, Diverged, OutOfMemory)


def parse_shots(value: str | int | Sequence[int]) -> tuple[int, ...]:
    """Numbers of rows a class, rising, from `1,4,16` or `[1,4,16]`, a number or a list.

    Raises:
        UsageError: For anything else, or a number outside 1 to 100,000.
    """
    parts: Sequence[object] = (
        [part.strip() for part in value.strip(" []").split(",") if part.strip()]
        if isinstance(value, str)
        else [value]
        if isinstance(value, int)
        else list(value)
    )
    try:
        found = sorted({int(str(part)) for part in parts})
    except ValueError:
        found = []
    if not found or found[0] < 1 or found[-1] > _MOST:
        raise UsageError(
            f"shots must be whole numbers from 1 to {_MOST}, got {value!r}. "
            f"Usual: {','.join(map(str, SHOTS))}."
        )
    return tuple(found)


@dataclass(frozen=True)
class ShotTask(Budgeted):
    """What all cells of the grid share.

    Attributes:
        backbone: Where every arm starts.
        view: The whole training and validation part, which cells draw from.
        test: Test rows with labels; arms get them without.
        folder: Where finished cells are kept while the grid runs.
        primary: The metric of the table.
        shots: The k that are tried.
        draws: Draws of each k.
        budget: Seconds for everything.
        started: `time.monotonic()` at the start, less what earlier sessions took.
        seed: Root of the draws.
        device: Device name.
        row_seconds: Seconds to embed one row, for arms that move the encoder.
        trackers: Experiment trackers.
    """

    backbone: Backbone
    view: View
    test: Dataset
    folder: Path
    primary: str
    shots: tuple[int, ...]
    draws: int
    budget: float
    started: float
    seed: int = 0
    device: str = "auto"
    row_seconds: float = 0.0
    trackers: tuple[str, ...] = ()


@dataclass
class Cell:
    """One arm on one draw of k rows a class.

    Attributes:
        arm: Which.
        k: Rows a class; 0 for an arm that reads none.
        draw: Number of the draw, from 0.
        result: What the fit gave, None where it was left out.
        reason: Why it was left out, or cannot count.
    """

    arm: Arm
    k: int
    draw: int
    result: SeedResult | None = None
    reason: str | None = None

    @property
    def counts(self) -> bool:
        """Whether the cell stands in the table."""
        return self.result is not None and self.result.status != "cut"

    def folder(self, task: ShotTask) -> Path:
        """Where it is kept."""
        return task.folder / "cells" / f"k-{self.k}" / f"draw-{self.draw}" / self.arm.folder_name

    def proba(self, task: ShotTask) -> np.ndarray:
        """Test probabilities (N, C)."""
        found = read_seed(self.folder(task))
        assert found is not None
        return found[2]


@dataclass(frozen=True)
class Unserved:
    """A k that the data cannot give, and why."""

    k: int
    reason: str


def _drawn(rows: Dataset, shots: int, seed: int) -> list[int]:
    return first_shots(
        range(len(rows)), rows.labels_N.tolist(), contents=rows.contents, ids=rows.ids,
        shots=shots, seed=seed,
    )  # fmt: skip


def draw_seed(task_seed: int, draw: int) -> int:
    """The seed of a draw."""
    return Streams(task_seed).seed("draw", draw)


def draw_view(view: View, k: int, seed: int) -> View:
    """K training rows of each class, and at most k validation rows of each."""
    return View(
        train=view.train.select(sorted(_drawn(view.train, k, seed))),
        validation=view.validation.select(sorted(_drawn(view.validation, k, seed))),
    )


def serve(
    view: View, shots: Sequence[int], draws: int, seed: int
) -> tuple[tuple[int, ...], list[Unserved]]:
    """Which k every class can give in every draw, and the others with the reason.

    Raises:
        DataError: When no k is left.
    """
    train, most = view.train, max(shots)
    labels = train.labels_N
    fewest: Counter[int] = Counter(dict.fromkeys(range(view.n_classes), most))
    for draw in range(draws):
        found = Counter(labels[_drawn(train, most, draw_seed(seed, draw))].tolist())
        for name in fewest:
            fewest[name] = min(fewest[name], found.get(name, 0))
    rarest = min(fewest, key=lambda name: fewest[name])
    held = fewest[rarest]
    rows = f"{held} distinct training row{'s' if held != 1 else ''}" if held else "no training row"
    reason = f"class {view.label_names[rarest]!r} has {rows}"
    unserved = [Unserved(k, reason) for k in shots if k > held]
    served = tuple(k for k in shots if k <= held)
    if not served:
        raise DataError(
            f"{train.source}: no number of shots in {', '.join(map(str, shots))} can be drawn: "
            f"{reason}. Name fewer shots, or leave that class out."
        )
    return served, unserved


@dataclass
class _Clock:
    """What cells took, to foretell the next of that arm and size."""

    taken: dict[tuple[str, int], float] = field(default_factory=dict)

    def expected(self, cell: Cell, view: View, task: ShotTask) -> float:
        """Seconds that a cell will take: as the last of its size, else from a few real steps."""
        known = self.taken.get((cell.arm.name, cell.k))
        if known is not None:
            return _MARGIN * known
        run = Run(cell.folder(task), seed=cell.draw, device=task.device)
        cost = cell.arm.strategy.measure(task.backbone, view, run)
        rows = len(task.test) + len(view.validation)
        own = cost.seconds if cost is not None else 0.0
        return _MARGIN * (own + rows * task.row_seconds)


def _quick(strategy: Strategy) -> bool:
    """Whether a strategy has no steps to measure."""
    return type(strategy).measure is Strategy.measure


def run_shots(arms: Sequence[Arm], task: ShotTask) -> list[Cell]:
    """Fit every arm on every draw; finished cells of an earlier session are read back.

    Arms that read no rows run once. Arms without training steps come next, their first draw
    whatever the budget; then the others, draw by draw, so that a budget that ends early leaves
    whole draws. A cell that would not end in time is left out and says so.

    Args:
        arms: What to compare.
        task: What they share.
    """
    cells = _cells(arms, task)
    clock = _Clock()
    views: dict[tuple[int, int], View] = {}
    test = task.test.without_labels()
    names = ", ".join(arm.name for arm in arms)
    progress.note(
        f"{len(cells)} fits: {names}; k = {', '.join(map(str, task.shots))} rows a class, "
        f"{task.draws} draw{'s' if task.draws != 1 else ''}."
    )
    noted: set[tuple[str, str]] = set()
    with progress.task("k-shot fits", total=len(cells), unit="fits") as bar:
        for cell in cells:
            bar.describe(_words(cell))
            _run(cell, task, test, clock, views)
            if cell.reason and (cell.arm.name, cell.reason) not in noted:
                noted.add((cell.arm.name, cell.reason))
                progress.note(f"{_words(cell)} is left out: {cell.reason}.".replace("..", "."))
            bar.advance()
    return cells


def _words(cell: Cell) -> str:
    if not cell.k:
        return cell.arm.title
    return f"{cell.arm.title}, k = {cell.k}, draw {cell.draw + 1}"


def _cells(arms: Sequence[Arm], task: ShotTask) -> list[Cell]:
    """All cells in the order of the work."""
    still = [Cell(arm, 0, 0) for arm in arms if not arm.strategy.learns]
    learning = [arm for arm in arms if arm.strategy.learns]
    parts = ([a for a in learning if _quick(a.strategy)],
             [a for a in learning if not _quick(a.strategy)])  # fmt: skip
    return still + [
        Cell(arm, k, draw)
        for part in parts
        for draw in range(task.draws)
        for k in task.shots
        for arm in part
    ]


def _run(
    cell: Cell, task: ShotTask, test: Dataset, clock: _Clock, views: dict[tuple[int, int], View]
) -> None:
    """Take a cell from disk, or fit it if there is time."""
    found = read_seed(cell.folder(task))
    if found is None:
        begin = time.monotonic()
        where = cell.k or task.shots[0], cell.draw
        if where not in views:
            views[where] = draw_view(task.view, where[0], draw_seed(task.seed, cell.draw))
        view = views[where]
        try:
            cell.arm.strategy.check(task.backbone, view)
            with progress.muted():
                if not _in_time(cell, view, task, clock):
                    cell.reason = OUT_OF_TIME
                    return
                found = run_seed(
                    cell.arm, task.backbone, view, test, _new_run(cell, task),
                    allowance=Allowance(), keep=lambda _: False,
                )  # fmt: skip
        except _LEAVES_OUT as error:
            cell.reason = str(error).rstrip(".")
            return
        clock.taken[cell.arm.name, cell.k] = time.monotonic() - begin
    cell.result = found[0]
    if cell.result.status == "cut":
        cell.reason = OUT_OF_TIME


def _in_time(cell: Cell, view: View, task: ShotTask, clock: _Clock) -> bool:
    """Whether a cell can be expected to end within the budget."""
    if not task.limited:
        return True
    if _quick(cell.arm.strategy):
        return task.left > 0 or cell.draw == 0
    return task.left > 0 and clock.expected(cell, view, task) <= task.left


def _new_run(cell: Cell, task: ShotTask) -> Run:
    deadline = time.monotonic() + max(task.left, 1.0) if task.limited else None
    return Run(
        cell.folder(task), seed=cell.draw, deadline=deadline, device=task.device,
        trackers=task.trackers,
    )  # fmt: skip

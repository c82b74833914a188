"""What a strategy will take on this device, from a few real steps, and what it took in the end."""

from __future__ import annotations

import time
from typing import Literal

from warmstart.backbones import Backbone
from warmstart.core import Config, NotApplicable, Run
from warmstart.data import View
from warmstart.strategies import Cost, Strategy

from .task import ArmResult, Task

__all__ = [
    "CostCheck",
    "Price",
    "check_cost",
    "duration",
    "price_of_cost",
    "price_of_features",
    "price_of_steps",
]


class Price(Config):
    """What a whole run of a strategy is expected to take on this device.

    Attributes:
        strategy: Its name.
        seconds: Wall time of the whole run at full length, without early stopping.
        epochs: Passes over the training rows at full length; None where it learns without passes.
        seconds_per_epoch: Of one pass, validation included.
        steps: Optimiser steps at full length.
        peak_bytes: Most memory in use during the measured steps: on CUDA what torch had allocated,
            else the resident set of the whole process; None where it was not watched.
        basis: What was timed: `steps`, optimiser steps; `rows`, embedding some rows.
        measuring: Seconds that the measuring took.
        bound: Whether it takes this at most: heavier steps than its own were timed.
    """

    strategy: str
    seconds: float
    epochs: int | None = None
    seconds_per_epoch: float | None = None
    steps: int | None = None
    peak_bytes: int | None = None
    basis: Literal["steps", "rows"] = "steps"
    measuring: float = 0.0
    bound: bool = False

    def words(self) -> str:
        """Time and memory in a sentence's part."""
        found = ("at most " if self.bound else "") + duration(self.seconds)
        if self.seconds_per_epoch is not None and self.epochs is not None:
            found += f" ({self.epochs} epochs of {duration(self.seconds_per_epoch)})"
        if self.peak_bytes:
            found += f", {self.peak_bytes / 1e6:,.0f} MB"
        return found


class CostCheck(Config):
    """What a fit was expected to take, and what it took.

    Attributes:
        strategy: Name of the arm.
        expected_seconds: For the epochs that were run.
        full_seconds: For the full length, which early stopping may leave unused.
        actual_seconds: Wall time of the fit.
        ratio: Actual over expected.
        expected_epochs: Of the full length; None where it learns without passes.
        actual_epochs: Passes that were made.
        expected_peak_bytes: From the measured steps, where it was watched.
        actual_peak_bytes: Of the fit.
        sentence: All of that in words.
    """

    strategy: str
    expected_seconds: float
    full_seconds: float
    actual_seconds: float
    ratio: float
    expected_epochs: int | None
    actual_epochs: float | None
    expected_peak_bytes: int | None
    actual_peak_bytes: int | None
    sentence: str


def price_of_steps(
    strategy: Strategy, backbone: Backbone, view: View, run: Run
) -> tuple[Price, Cost]:
    """Take a few real steps and extrapolate them to the whole run.

    Args:
        strategy: One that trains in steps.
        backbone: Where it starts.
        view: Training and validation rows.
        run: Seed and device; nothing is logged.

    Raises:
        NotApplicable: For a strategy that cannot work here, or takes no steps.
    """
    began = time.perf_counter()
    strategy.check(backbone, view)
    cost = strategy.measure(backbone, view, run)
    if cost is None:
        raise NotApplicable(f"{strategy.name} learns without steps, so there is none to time")
    return price_of_cost(strategy, cost, time.perf_counter() - began), cost


def price_of_cost(strategy: Strategy, cost: Cost, measuring: float = 0.0) -> Price:
    """The price of a whole run from timed steps.

    Args:
        strategy: One that trains in steps.
        cost: By steps of its own, or of another strategy that takes the same.
        measuring: Seconds that the timing took.
    """
    return Price(
        strategy=strategy.name, seconds=cost.seconds, epochs=cost.epochs,
        seconds_per_epoch=cost.seconds / cost.epochs, steps=cost.epochs * cost.steps_per_epoch,
        peak_bytes=cost.peak_bytes or None, measuring=measuring,
    )  # fmt: skip


def price_of_features(
    strategy: Strategy, seconds_per_row: float, rows: int, solving: float, peak_bytes: int | None
) -> Price:
    """The price of a strategy that stands on the untouched backbone's vectors.

    Args:
        strategy: Which.
        seconds_per_row: Of embedding, timed on some rows.
        rows: Training and validation rows.
        solving: Seconds that its head took on these rows.
        peak_bytes: Most memory in use meanwhile.
    """
    return Price(
        strategy=strategy.name, seconds=seconds_per_row * rows + solving, peak_bytes=peak_bytes,
        basis="rows",
    )  # fmt: skip


def check_cost(result: ArmResult, task: Task, price: Price | None = None) -> CostCheck | None:
    """Hold what an arm took against what was expected of it.

    Args:
        result: The arm, run.
        task: What arms share.
        price: What a plan had measured; used where the arm itself was not timed before.

    Returns:
        None where nothing was measured before the arm ran.
    """
    if not result.seeds:
        return None
    first = result.seeds[0]
    full, epochs, peak = first.allowance.seconds_full, None, first.allowance.peak_bytes
    embedded = False  # timed steps stand on vectors that are there already
    if full is not None:
        epochs = first.allowance.full_epochs
    elif price is not None:
        full, epochs, peak = price.seconds, price.epochs, price.peak_bytes
        embedded = price.basis == "rows"
    if full is None:
        return None
    run = first.epochs if epochs else None
    expected = full if not (epochs and run) else full * run / epochs
    own = first.seconds
    if embedded and result.arm.strategy.uses_features:
        own += task.embedding.seconds
        actual_peak = result.peak_bytes(task) or None
    else:
        actual_peak = max(seed.peak_memory_bytes for seed in result.seeds) or None
    return CostCheck(
        strategy=result.arm.strategy.name, expected_seconds=expected, full_seconds=full,
        actual_seconds=own, ratio=own / max(expected, 1e-9), expected_epochs=epochs,
        actual_epochs=run, expected_peak_bytes=peak, actual_peak_bytes=actual_peak,
        sentence=_sentence(expected, own, epochs, run, peak, actual_peak),
    )  # fmt: skip


def _sentence(
    expected: float,
    actual: float,
    epochs: int | None,
    run: float | None,
    peak: int | None,
    actual_peak: int | None,
) -> str:
    passes = ""
    if epochs and run:
        foreseen = "at most" if run <= epochs else "the foreseen"  # a search may go on
        passes = f" for {run:.3g} of {foreseen} {epochs} {'epoch' if epochs == 1 else 'epochs'}"
    before = after = ""
    if peak is not None and actual_peak is not None:
        before, after = (f" and {n / 1e6:,.0f} MB" for n in (peak, actual_peak))
    ratio = f"{actual / max(expected, 1e-9):.2g}"
    times = "as long as expected" if ratio == "1" else f"{ratio} times the time"
    return (
        f"Cost: {duration(expected)}{before} were expected{passes}, {duration(actual)}{after} were "
        f"taken ({times})."
    )


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes below two hours, hours beyond."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

"""What an advisor measured: values with a number, an interval where there is one, and their time.

`planning.why` explains a finished comparison; this is what is known before anything was trained at
full length. Nothing here has seen a test row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from warmstart.core import Config
from warmstart.evaluation import Paired

from .pricing import Price

__all__ = ["Gain", "Measured", "Missing", "Survey", "gain_error", "label_items", "wilson"]


class Measured(Config):
    """One piece of evidence.

    Attributes:
        name: What it is: `labels`, `probe`, `short_finetune`, ...
        value: Its number.
        interval: 95 % interval, where it has one.
        seconds: What it took to measure.
        text: A sentence with the number.
        details: Further numbers by name.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    seconds: float = 0.0
    text: str
    details: dict[str, Any] = Field(default_factory=dict)


class Missing(Config):
    """Evidence that could not be had.

    Attributes:
        name: What it would have been.
        text: Why not, and what would change that.
    """

    name: str
    text: str


class Gain(Config):
    """How far a way of adapting is ahead of the probe on the validation rows.

    Attributes:
        strategy: Which way.
        value: Its metric minus the probe's, both on the same rows.
        error: Standard error of that difference.
        share: How much of the way's full length was run, in (0, 1].
    """

    strategy: str
    value: float
    error: float
    share: float = 1.0


class Survey(Config):
    """All evidence on one data set and backbone.

    Attributes:
        labels: Labelled training rows N.
        metric: What accuracies and gains are measured by, higher is better.
        probe_error: One minus the probe's metric on the validation rows, at least 1 / (M + 2).
        guess: Metric of always naming the commonest class, on the same rows.
        probe_error_error: Standard error of the probe's error.
        exponent: By which power of the number of labels the probe's error falls, if measured.
        exponent_error: Its standard error.
        distance: -1 for a domain near the pretraining data, 1 for a far one, None if not known.
        gains: Measured differences to the probe.
        prices: What whole runs would take, by strategy.
        latency_ms: Median time for one input, if measured.
        items: Evidence in the order in which it was measured.
        missing: What could not be measured.
        left_out: Strategies that cannot be used here, and why.
        seconds: What all of it took.
    """

    labels: int
    metric: str = "accuracy"
    probe_error: float
    guess: float
    probe_error_error: float = 0.0
    exponent: float | None = None
    exponent_error: float = 0.0
    distance: float | None = None
    gains: tuple[Gain, ...] = ()
    prices: dict[str, Price] = Field(default_factory=dict)
    latency_ms: float | None = None
    items: tuple[Measured, ...] = ()
    missing: tuple[Missing, ...] = ()
    left_out: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0

    @property
    def head_start(self) -> float:
        """How far the probe is ahead of guessing, as a multiple of the probe's error."""
        return max(0.0, 1 - self.probe_error - self.guess) / self.probe_error

    def item(self, name: str) -> Measured | None:
        """A piece of evidence by its name."""
        return next((one for one in self.items if one.name == name), None)


def gain_error(paired: Paired) -> float:
    """Standard error of a paired difference, which small samples do not make zero.

    The bootstrap's own, but at least sqrt(d + 1) / (M + 2) with d rows on which the two differ:
    the error of a difference of proportions with half a row added to either side (Agresti and Min
    2005, Simple improved confidence intervals for comparing matched proportions). Nine rows without
    a difference are no proof of equality.
    """
    bootstrap = (paired.high - paired.low) / (2 * 1.96)
    return float(max(bootstrap, np.sqrt(paired.discordant + 1) / (paired.n + 2)))


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z2 = 1.96**2
    share = hits / rows
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    reach = 1.96 * np.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def label_items(counts: Sequence[int]) -> tuple[Measured, Measured]:
    """Number of labels, and how evenly they lie over the classes."""
    total = int(sum(counts))
    rarest = min(counts) / max(total, 1)
    uneven = max(counts) / max(min(counts), 1)
    return (
        Measured(name="labels", value=total, text=f"{total:,} labelled training rows."),
        Measured(
            name="balance", value=rarest,
            text=f"The rarest of {len(counts)} classes holds {rarest:.1%} of them ({min(counts)} "
            f"rows); the commonest has {uneven:.1f} times as many.",
        ),
    )  # fmt: skip

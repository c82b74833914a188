"""What is shared while measuring for a plan, and what was found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import Run
from warmstart.data import View
from warmstart.models import Model
from warmstart.strategies import Cost, Fitted

from .budget import Budgeted
from .evidence import Gain, Measured, Missing
from .pricing import Price

__all__ = ["Desk"]


@dataclass
class Desk(Budgeted):
    """The rows, the limits, and the evidence as it grows.

    Attributes:
        view: All training and validation rows.
        small: Those that are embedded within the time.
        probe_MC: The probe's probabilities on the validation rows: the zero of every gain.
        guess: What always naming the commonest class reaches there.
        left_out: Strategies that are out, with the reason.
        costs: Of strategies whose steps were timed, or that take the steps of one that was.
    """

    backbone: Backbone
    view: View
    small: View
    metric: str
    folder: Path
    device: str
    seed: int
    budget: float
    started: float
    distance: float | None = None
    reference: Path | None = None
    items: list[Measured] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    gains: list[Gain] = field(default_factory=list)
    prices: dict[str, Price] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    seconds_per_row: float = 0.0
    probe: Fitted | None = None
    probe_MC: np.ndarray | None = None
    probe_error: tuple[float, float] = (0.0, 0.0)
    guess: float = 0.0
    exponent: tuple[float, float] | None = None
    latency: float | None = None

    def run(self, name: str) -> Run:
        """A run of its own folder."""
        return Run(self.folder / name, seed=self.seed, device=self.device)

    def proba(self, model: Model) -> np.ndarray:
        """Probabilities on the validation rows, asked without labels."""
        return model.proba(self.small.validation.without_labels())

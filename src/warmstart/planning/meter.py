"""What an arm costs beside its time: latency, disk, and money and CO₂ where prices are given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from warmstart.core import Config
from warmstart.models import Model

__all__ = ["Prices", "folder_bytes", "latency_ms"]


class Prices(Config):
    """What the machine costs, as the user says.

    Attributes:
        price_per_hour: Money for an hour of the machine, in any currency.
        watts: Mean power draw under load.
        grams_per_kwh: CO₂ of the electricity in g/kWh. The default is the world's mean in 2023
            (Ember, Global Electricity Review 2024: 480 g/kWh); national grids range from 30 to 700.
    """

    price_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    watts: float | None = Field(None, ge=0, allow_inf_nan=False)
    grams_per_kwh: float = Field(480.0, ge=0, allow_inf_nan=False)

    def cost(self, seconds: float) -> dict[str, float] | None:
        """Money and grams of CO₂ for so many seconds; None when nothing was given."""
        if self.price_per_hour is None and self.watts is None:
            return None
        values: dict[str, float] = {}
        if self.price_per_hour is not None:
            values["money"] = self.price_per_hour * seconds / 3600
        if self.watts is not None:
            values["co2_grams"] = self.watts * seconds / 3.6e6 * self.grams_per_kwh
        return values


def latency_ms(model: Model, inputs: Sequence[Any], repeats: int = 15) -> float:
    """Median milliseconds to answer one input, after three warm-up calls."""
    times = []
    for position in range(repeats + 3):
        item = inputs[position % len(inputs)]
        start = time.perf_counter()
        model.proba_of([item])
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]) * 1000)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

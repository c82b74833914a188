"""Time as a setting: durations in words, input sizes that fit, and shares for the arms."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.backbones import Backbone, Encoder, embed_inputs
from warmstart.core import UsageError, WarmstartError, progress
from warmstart.data import Dataset

__all__ = [
    "RESERVE",
    "as_budget",
    "divide",
    "embedding_estimate",
    "fit_input_size",
    "parse_duration",
]

RESERVE = 0.1  # of the time left, for predicting, saving and timing
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_IMAGE_SIZES = (192, 160, 128, 96, 64)
_TEXT_LENGTHS = (192, 128, 96, 64)
_TRIAL = 16
# Embedding every row may take this share of the budget. Training passes 70 % of the rows forward
# and backward (about 3 forwards) for a few epochs in two arms, so more would leave them nothing.
_SHARE = 1 / 12


def parse_duration(text: str | float) -> float:
    """Seconds in a duration such as `45s`, `15m`, `1h30m`; a number alone is seconds.

    Raises:
        UsageError: For anything else, or for less than a second.
    """
    raw = str(text).strip().lower()
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", raw)
    values = match.groups() if match and raw else (None, None, None)
    seconds = sum(float(v) * _UNITS[u] for v, u in zip(values, "hms", strict=True) if v)
    if seconds < 1:
        raise UsageError(
            "budget must be a duration of a second or more, such as 90s, 15m or 1h30m (a number "
            f"alone is seconds), got {text!r}."
        )
    return seconds


def as_budget(seconds: float) -> str:
    """A budget of at least so much, in whole minutes, above ten in steps of five: `1h25m`."""
    minutes = math.ceil(seconds / 60)
    if minutes > 10:
        minutes = 5 * math.ceil(minutes / 5)
    hours, rest = divmod(minutes, 60)
    return f"{f'{hours}h' if hours else ''}{f'{rest}m' if rest or not hours else ''}"


def fit_input_size(
    backbone: Backbone, dataset: Dataset, budget: float
) -> tuple[Backbone, str | None]:
    """Choose an image size or text length with which the data can be worked through in time.

    A few rows are timed at the backbone's own size; only where all rows would take more than a
    twelfth of the budget is the next smaller size tried.

    Returns:
        The backbone with its size set, and a sentence when the size is not the backbone's own.
    """
    text = dataset.modality == "text"
    inputs = _spaced(dataset)
    encoder = backbone.load()
    own = _own_size(encoder, inputs, text)
    allowed = budget * _SHARE
    chosen = backbone
    seconds = _seconds_per_row(encoder, inputs) * len(dataset)
    for size in _TEXT_LENGTHS if text else _IMAGE_SIZES:
        if seconds <= allowed:
            break
        if size >= own:
            continue
        try:
            smaller = (
                backbone.with_settings(max_length=size)
                if text
                else backbone.with_settings(image_size=size)
            )
            seconds = _seconds_per_row(smaller.load(), inputs) * len(dataset)
        except (WarmstartError, RuntimeError, ValueError):
            break  # this network takes no other size
        chosen = smaller
    if chosen is backbone:
        return backbone, None
    what = f"{chosen.max_length} tokens" if text else f"{chosen.image_size} pixels"
    flag = "--max-length" if text else "--image-size"
    message = (
        f"Inputs are read at {what} instead of {own}: at full size the budget of "
        f"{budget / 60:.0f} min would not suffice on this device. Set {flag} to decide yourself."
    )
    progress.note(message)
    return chosen, message


def _own_size(encoder: Encoder, inputs: Sequence[Any], text: bool) -> int:
    """Tokens of the longest row, or pixels on a side, at the backbone's own setting."""
    if text:
        return max(encoder.lengths(inputs))
    return int(encoder.preprocess(inputs[:1])["pixel_values"].shape[-1])


def embedding_estimate(backbone: Backbone, dataset: Dataset) -> float:
    """Seconds that embedding every row anew would take, from a few evenly spaced ones."""
    return _seconds_per_row(backbone.load(), _spaced(dataset)) * len(dataset)


def _spaced(dataset: Dataset) -> list[Any]:
    """Inputs of a few rows, evenly spaced over the data."""
    count = min(_TRIAL, len(dataset))
    return dataset.inputs([int(i * len(dataset) / count) for i in range(count)])


def _seconds_per_row(encoder: Encoder, inputs: Sequence[Any]) -> float:
    """The better of two timed passes, for each row."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        embed_inputs(encoder, inputs)
        times.append(time.perf_counter() - start)
    return min(times) / len(inputs)


class Budgeted:
    """What has a budget and a start: how much of it is left.

    Attributes:
        budget: Seconds for everything.
        started: `time.monotonic()` at the start, less what earlier sessions took.
    """

    budget: float
    started: float

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.budget - (time.monotonic() - self.started)

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.budget < float("inf")


def divide(wanted: Mapping[str, float], available: float) -> dict[str, float]:
    """Share time among arms: who wants less than an equal share gets it all, the rest goes on.

    Args:
        wanted: Arm to seconds that it would take at full length.
        available: Seconds to share.

    Returns:
        Arm to seconds, at most what it wanted, in all at most `available` (max-min fairness).
    """
    shares: dict[str, float] = {}
    left = max(0.0, available)
    for position, name in enumerate(sorted(wanted, key=lambda n: wanted[n])):
        shares[name] = min(wanted[name], left / (len(wanted) - position))
        left -= shares[name]
    return {name: shares[name] for name in wanted}

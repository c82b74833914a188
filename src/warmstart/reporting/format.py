"""Numbers and names as people read them, the same in the terminal, the report and the card."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from warmstart.evaluation import METRICS, RANKING_METRICS

__all__ = [
    "clean",
    "count",
    "difference",
    "grams",
    "interval",
    "memory",
    "metric_title",
    "metric_value",
    "metric_words",
    "milliseconds",
    "money",
    "rate",
    "seconds",
    "share",
    "with_interval",
]

MISSING = "–"


def clean(text: object) -> str:
    """One printable line: control characters and marks that reorder text become visible.

    A class name from a data file may hold terminal escape sequences or right-to-left overrides.
    """
    found = []
    for letter in str(text):
        kind = unicodedata.category(letter)
        if letter in "\n\r\t\v\f\u2028\u2029":
            found.append(" ")
        elif (
            kind in {"Cc", "Cs"}
            or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        ):
            found.append("\ufffd")
        else:
            found.append(letter)
    return "".join(found)


def count(number: float | None) -> str:
    """23,400 as `23.4 k`; 22,713,216 as `22.7 M`; below a thousand as it is."""
    if number is None:
        return MISSING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return f"{_short(number / size)} {unit}"
    return f"{number:.0f}"


def share(part: float | None, whole: float | None) -> str:
    """A part of a whole in per cent; small shares keep a digit, and never read as 0 or 100."""
    if part is None or not whole:
        return MISSING
    value = part / whole
    if part == 0:
        return "0 %"
    if value < 0.001:
        return "<0.1 %"
    if value < 0.0995:
        return f"{value:.1%}".replace("%", " %")
    if part < whole and value > 0.995:
        return ">99 %"
    return f"{value:.0%}".replace("%", " %")


def seconds(value: float | None, *, short: bool = False) -> str:
    """Wall time: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`; short: `3m 20s`, `2h 5m`."""
    if value is None:
        return MISSING
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes = round(value / 60)
    if whole < 3600:
        large, small, units = whole // 60, whole % 60, ("min", "s")
    else:
        large, small, units = minutes // 60, minutes % 60, ("h", "min")
    if short:
        first, second = f"{large}{units[0][0]}", f"{small}{units[1][0]}"
    else:
        first, second = f"{large} {units[0]}", f"{small} {units[1]}"
    return f"{first} {second}" if small else first


def memory(number: float | None) -> str:
    """Bytes in decimal units: `86.7 MB`."""
    if number is None:
        return MISSING
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size * 0.9995:
            return f"{_short(number / size)} {unit}"
    return f"{number:.0f} B"


def milliseconds(value: float | None) -> str:
    """Latency a row: `0.12 ms`, `8.3 ms`, `140 ms`."""
    if value is None:
        return MISSING
    return f"{value:.2f} ms" if value < 0.995 else f"{_short(value)} ms"


def money(cost: Mapping[str, Any] | None) -> str:
    """What the arm cost, in the currency of the given price."""
    value = (cost or {}).get("money")
    if value is None:
        return MISSING
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def grams(cost: Mapping[str, Any] | None) -> str:
    """Its CO₂, in grams or kilograms."""
    value = (cost or {}).get("co2_grams")
    if value is None:
        return MISSING
    if value >= 999.5:
        return f"{_short(value / 1000)} kg"
    return f"{value:.0f} g" if value >= 9.95 else f"{value:.2g} g"


def rate(value: float | None) -> str:
    """A learning rate: `6.56e-05`."""
    return MISSING if value is None else f"{value:.2e}"


def metric_title(name: str) -> str:
    """A metric's name for a table head."""
    metric = METRICS.get(name)
    return metric.title if metric else clean(name).replace("_", " ")


def metric_words(name: str) -> str:
    """A metric's name within a sentence: accuracy, macro F1."""
    metric = METRICS.get(name)
    return metric.words if metric else clean(name).replace("_", " ")


def metric_value(name: str, value: float | None) -> str:
    """A metric: shares in per cent with one decimal (`87.3 %`), others with three."""
    if value is None:
        return MISSING
    return f"{value * 100:.1f} %" if _percent(name) else f"{value:.3f}"


def interval(name: str, low: float | None, high: float | None, dash: str = "–") -> str:
    """The bounds in the metric's unit, without the sign: `85.1–89.3`."""
    if low is None or high is None:
        return "no interval"
    if _percent(name):
        return f"{low * 100:.1f}{dash}{high * 100:.1f}"
    return f"{low:.3f}{dash}{high:.3f}"


def with_interval(name: str, score: Mapping[str, Any] | None, dash: str = "–") -> str:
    """A metric with its interval: `87.3 % (85.1–89.3)`."""
    if not score or score.get("value") is None:
        return MISSING
    shown = metric_value(name, score["value"])
    if score.get("low") is None or score.get("high") is None:
        return shown
    return f"{shown} ({interval(name, score['low'], score['high'], dash)})"


def difference(name: str, value: float | None) -> str:
    """A signed difference of two metric values: `+3.1 points`, `−0.042`."""
    if value is None:
        return MISSING
    shown = round(value * 100, 1) + 0.0 if _percent(name) else round(value, 3) + 0.0
    text = f"{shown:+.1f}" if _percent(name) else f"{shown:+.3f}"
    return text.replace("-", "−")


def _percent(name: str) -> bool:
    metric = METRICS.get(name) or RANKING_METRICS.get(name.partition("@")[0])
    return metric.percent if metric else False


def _short(value: float) -> str:
    """One decimal below a hundred, none above."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}"

"""What a plan must keep to: time, memory, latency, size on disk and licences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from warmstart.backbones import Card
from warmstart.core import Config, UsageError

from .budget import parse_duration
from .pricing import Price, duration

__all__ = ["Limits", "parse_latency", "parse_limits", "parse_size"]

_UNITS = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}


class Limits(Config):
    """Bounds that rule ways of adapting out; None for no bound.

    Attributes:
        seconds: Training may take so long.
        memory_bytes: And so much memory.
        latency_ms: An answer may take so long.
        size_bytes: The model may be so large on disk.
        licences: Licences that the weights may have; weights of another or of no stated licence
            are out.
    """

    seconds: float | None = Field(None, gt=0)
    memory_bytes: int | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, gt=0)
    size_bytes: int | None = Field(None, gt=0)
    licences: tuple[str, ...] = ()

    @property
    def need_measuring(self) -> tuple[str, ...]:
        """Options that cannot be judged without running the model."""
        given = {"--memory": self.memory_bytes, "--latency": self.latency_ms}
        return tuple(name for name, value in given.items() if value is not None)

    @property
    def need_a_backbone(self) -> bool:
        """Whether the backbone's card must be looked at."""
        return self.size_bytes is not None or bool(self.licences)

    def against_weights(self, card: Card, *, from_scratch: bool = False) -> str | None:
        """Why a model made of this backbone is out, or None.

        Args:
            card: The backbone's.
            from_scratch: Whether its architecture alone is used, with weights of one's own. The
                licence of the backbone's weights does not bind them then, but it must be stated.
        """
        size = card.size_bytes or 4 * card.parameters
        if self.size_bytes is not None and size > self.size_bytes:
            return (
                f"{card.name} takes {size / 2**20:,.1f} MiB on disk, and the model may take "
                f"{self.size_bytes / 2**20:,.1f} MiB"
            )
        if not self.licences:
            return None
        stated = (card.license or "").strip().lower()
        if not stated:  # its tokenizer and architecture come from there too
            return f"the card of {card.name} states no licence, so its origin is unclear"
        if from_scratch or stated in {one.lower() for one in self.licences}:
            return None
        return f"{card.name} is under {card.license}, which is none of {', '.join(self.licences)}"

    def against_latency(self, name: str, latency_ms: float | None) -> str | None:
        """Why a model that answers this fast is out, or None."""
        if self.latency_ms is None or latency_ms is None or latency_ms <= self.latency_ms:
            return None
        return (
            f"{name} takes {latency_ms:.1f} ms for one input here, and {self.latency_ms:g} ms are "
            "allowed"
        )

    def against_price(self, price: Price) -> str | None:
        """Why a training of this price is out, or None; so is one that is only bound above a limit.

        A bound tells what heavier steps take: the training may keep the limit, but nothing shows
        that it does.
        """
        unproven = ": its own steps were not timed, give --within more" if price.bound else ""
        if self.seconds is not None and price.seconds > self.seconds:
            takes = "may take up to" if price.bound else "would take"
            return (
                f"it {takes} {duration(price.seconds)}, and the budget is "
                f"{duration(self.seconds)}{unproven}"
            )
        if self.memory_bytes is not None and (price.peak_bytes or 0) > self.memory_bytes:
            peak = f"{(price.peak_bytes or 0) / 2**20:,.0f} MiB"
            steps = f"took {peak} in its measured steps"
            takes = f"may take up to {peak}" if price.bound else steps
            return f"it {takes}, and {self.memory_bytes / 2**20:,.0f} MiB are allowed{unproven}"
        return None

    def unjudged(
        self, price: Price | None = None, latency_ms: float | None = None
    ) -> tuple[str, ...]:
        """Options of which nothing measured tells whether they are kept.

        Args:
            price: What the chosen way would take, where that was measured.
            latency_ms: And what an answer takes.
        """
        unknown = {
            "--budget": self.seconds is not None and price is None,
            "--memory": self.memory_bytes is not None and (price is None or not price.peak_bytes),
            "--latency": self.latency_ms is not None and latency_ms is None,
        }
        return tuple(name for name, is_unknown in unknown.items() if is_unknown)


def parse_limits(
    *,
    budget: str | float | None = None,
    memory: str | int | None = None,
    latency: str | float | None = None,
    max_size: str | int | None = None,
    licence: str | Sequence[str] | None = None,
) -> Limits:
    """Bounds as they are written on the command line.

    Args:
        budget: `15m`, `2h` or seconds.
        memory: `4GB` or bytes.
        latency: `20ms`, `0.1s` or milliseconds.
        max_size: `1MB` or bytes.
        licence: Names divided by commas, or a list.

    Raises:
        UsageError: For what is none of that.
    """
    names = licence.split(",") if isinstance(licence, str) else licence or ()
    cleaned = tuple(name.strip() for name in names if name.strip())
    if licence is not None and not cleaned:
        raise UsageError(f"licence must name licences such as apache-2.0,mit, got {licence!r}.")
    return Limits(
        seconds=None if budget is None else parse_duration(budget),
        memory_bytes=None if memory is None else parse_size(memory, "memory"),
        latency_ms=None if latency is None else parse_latency(latency),
        size_bytes=None if max_size is None else parse_size(max_size, "max_size"),
        licences=cleaned,
    )


def parse_size(text: str | int, who: str) -> int:
    """Bytes in `1MB`, `500 KB`, `2GiB` or `1048576`; units are powers of 1024.

    Raises:
        UsageError: For anything else, or nothing at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", str(text).strip().lower())
    unit = (found[2].replace("i", "") if found else "?").rstrip("b")
    factor = _UNITS.get(unit + "b") if found else None
    value = int(float(found[1]) * factor) if found and factor else 0
    if value < 1:
        raise UsageError(f"{who} must be a size such as 500KB, 1MB or 2GB, got {text!r}.")
    return value


def parse_latency(text: str | float) -> float:
    """Milliseconds in `20ms`, `0.1s` or `20`.

    Raises:
        UsageError: For anything else, or no time at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", str(text).strip().lower())
    value = float(found[1]) * (1000 if found[2] == "s" else 1) if found else 0.0
    if value <= 0:
        raise UsageError(f"latency must be a time such as 20ms or 0.1s, got {text!r}.")
    return value

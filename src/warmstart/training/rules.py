"""Rules of learning: a pattern, and how fast what it matches is learned."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from warmstart.core import UsageError

__all__ = ["FROZEN", "Rule", "parse_rules"]

FROZEN: Literal["frozen"] = "frozen"
_SEPARATORS = re.compile(r"[|,;\n]+")
_FORMS = "Write PATTERN=1e-4, PATTERN=x0.1 or PATTERN=frozen."


@dataclass(frozen=True)
class Rule:
    """How fast the parameters that match are learned.

    Attributes:
        pattern: Shell pattern (`*`, `?`, `[...]`) on a group's name, a parameter's full name, or
            a path that leads to it: `layer1` reaches `layer1.0.conv1.weight`.
        rate: Multiplier of the base rate, or `frozen`.
        absolute: Whether `rate` is the learning rate itself and not a multiplier.
    """

    pattern: str
    rate: float | Literal["frozen"]
    absolute: bool = False

    def __str__(self) -> str:
        """The form that `parse_rules` reads."""
        if self.rate == FROZEN:
            return f"{self.pattern}={FROZEN}"
        return f"{self.pattern}={'' if self.absolute else 'x'}{self.rate:g}"

    def matches(self, group: str, name: str) -> bool:
        """Whether it speaks of a parameter, by its group and its full name."""
        return (
            fnmatchcase(group, self.pattern)
            or fnmatchcase(name, self.pattern)
            or fnmatchcase(name, f"{self.pattern}.*")
        )

    def value(self, base: float) -> float | None:
        """The learning rate that it gives; None for frozen.

        Args:
            base: What a multiplier multiplies.

        Raises:
            UsageError: For a rate below 0 or without end.
        """
        if self.rate in (FROZEN, 0):
            return None
        number = float(self.rate)
        if not number > 0 or math.isinf(number):
            kind = "rate" if self.absolute else "multiplier"
            raise UsageError(
                f'rule "{self.pattern}": the {kind} must be above 0, or "{FROZEN}", got {number}.'
            )
        return number if self.absolute else base * number


def parse_rules(text: str | Sequence[str]) -> tuple[Rule, ...]:
    """Read rules as people write them: `conv1=frozen, layer1=1e-6, fc=x3`.

    A number is the learning rate itself, `x` before it makes it a multiplier of the base rate, and
    `frozen` stops all learning. The first rule that matches a parameter counts.

    Args:
        text: Rules apart by commas, `|`, semicolons or lines; or one rule a text.

    Raises:
        UsageError: For a rule of another form, or none at all.
    """
    parts = _SEPARATORS.split(text) if isinstance(text, str) else list(text)
    rules = tuple(_parse(part.strip()) for part in parts if part.strip())
    if not rules:
        raise UsageError(f"rules is empty. {_FORMS}")
    return rules


def _parse(text: str) -> Rule:
    pattern, sign, value = (part.strip() for part in text.partition("="))
    if not sign or not pattern or not value:
        raise UsageError(f'"{text}" is no rule. {_FORMS}')
    if value == FROZEN:
        return Rule(pattern, FROZEN)
    try:
        rule = Rule(pattern, float(value.removeprefix("x")), absolute=not value.startswith("x"))
    except ValueError:
        raise UsageError(f'rule "{pattern}" has the rate "{value}". {_FORMS}') from None
    rule.value(1.0)
    return rule

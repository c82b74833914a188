"""What an audit says: sentences with a weight, and the numbers and rows behind them."""

from __future__ import annotations

from typing import Any, Literal

from warmstart.core.config import Config

__all__ = ["Audit", "Finding", "Severity"]

Severity = Literal["problem", "warning", "fact"]


class Finding(Config):
    """One sentence about the data, its weight, and the numbers and rows behind it.

    A problem makes results untrustworthy, a warning may, a fact is for orientation.
    """

    severity: Severity
    code: str
    message: str
    count: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.message


class Audit(Config):
    """All findings, with the class counts of the rows whose labels may be looked at.

    With a split, labels of test rows are not read: only `evaluation` does that.
    """

    rows: int
    classes: dict[str, int]
    parts: dict[str, int]
    findings: tuple[Finding, ...]

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == severity)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What makes results untrustworthy."""
        return self._of("problem")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What may harm."""
        return self._of("warning")

    @property
    def facts(self) -> tuple[Finding, ...]:
        """What is good to know."""
        return self._of("fact")

    @property
    def clean(self) -> bool:
        """Whether there is no problem and no warning."""
        return not self.problems and not self.warnings

    def find(self, code: str) -> Finding | None:
        """The finding with this code, or None."""
        return next((f for f in self.findings if f.code == code), None)

    def lines(self) -> list[str]:
        """Sentences for the terminal, the gravest first."""
        marks = {"problem": "Problem: ", "warning": "Warning: ", "fact": ""}
        ordered = (*self.problems, *self.warnings, *self.facts)
        return [f"{marks[f.severity]}{f.message}" for f in ordered]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")

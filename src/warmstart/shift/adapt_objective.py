"""What an adaptation method minimises, and what it sees of a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from warmstart.training import Callback, LoopState

if TYPE_CHECKING:
    from .adapt_course import Course

__all__ = ["Objective", "Seen"]


@dataclass(frozen=True)
class Seen:
    """One step's rows after the network; target parts are None where the method reads no target.

    Attributes:
        labels_N: Classes of the source rows.
        rows_N: Their positions in the source.
        source_NH: Their features.
        logits_NC: Their logits.
        rows_M: Positions of the target rows.
        target_MH: Their features.
        logits_MC: Their logits.
        progress: Share of the training that is done, in [0, 1).
    """

    labels_N: Tensor
    rows_N: Tensor
    source_NH: Tensor
    logits_NC: Tensor
    rows_M: Tensor | None
    target_MH: Tensor | None
    logits_MC: Tensor | None
    progress: float

    @property
    def target(self) -> tuple[Tensor, Tensor]:
        """Features and logits of the target rows, where the method asked for them."""
        assert self.target_MH is not None
        assert self.logits_MC is not None
        return self.target_MH, self.logits_MC


@dataclass
class Objective:
    """What a method minimises; by default the source's cross-entropy alone.

    Attributes:
        reads_target: Whether each step takes target rows too.
        modules: Further networks that learn, by name.
        callbacks: Further callbacks.
        values: For `Adapted.values`; callbacks may add to it.
        notes: For `Adapted.notes`.
    """

    reads_target: bool = False
    modules: dict[str, nn.Module] = field(default_factory=dict)
    callbacks: list[Callback] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def losses(self, seen: Seen, state: LoopState) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised."""
        return {"source": functional.cross_entropy(seen.logits_NC, seen.labels_N)}

    def attend(self, course: Course) -> None:
        """Told of the course before the first step, for callbacks that ask for target answers."""

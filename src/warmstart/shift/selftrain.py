"""Self-training: the surest target rows are learned from as if their predicted class were true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from warmstart.core import Run
from warmstart.training import Callback, LoopState

from .adapt_base import register_method
from .adapt_course import Course
from .adapt_objective import Objective, Seen
from .adapt_train import TrainedMethod
from .adapt_view import DomainVectors
from .selftrain_pseudo import pick_pseudo_labels

__all__ = ["Rounds", "SelfTraining"]


class Rounds(Callback):
    """Labels the target anew every few epochs, until the labels settle.

    Attributes:
        labels_U: Class of each target row, -1 where it is not learned from.
        count: Rounds so far.
        changes: Share of the target rows whose label changed, by round.
    """

    def __init__(
        self,
        rows: int,
        *,
        first: int,
        every: int,
        threshold: float,
        shares: tuple[float, float, float],
        balance: float,
        settled: float,
        values: dict[str, Any],
    ) -> None:
        """Set the rounds.

        Args:
            rows: Number U of target rows.
            first: Epoch after which the first labels are given.
            every: Epochs between two rounds.
            threshold: See `pick_pseudo_labels`.
            shares: Share of each class's rows in the first round, what each round adds, the most.
            balance: See `pick_pseudo_labels`.
            settled: Share of changed labels at which training stops, once shares are at their most.
            values: Told the rounds at the end.
        """
        self.labels_U = torch.full((rows,), -1, dtype=torch.int64)
        self.count = 0
        self.changes: list[float] = []
        self._first, self._every = first, every
        self._threshold, self._shares, self._balance = threshold, shares, balance
        self._settled = settled
        self._values = values
        self._course: Course | None = None

    def attend(self, course: Course) -> None:
        """Say whose answers become labels."""
        self._course = course

    def on_epoch_end(self, state: LoopState, record: Mapping[str, float]) -> None:
        """Give labels where a round is due."""
        epoch = int(record["epoch"])
        if epoch < self._first or (epoch - self._first) % self._every:
            return
        begin, step, most = self._shares
        share = min(most, begin + step * self.count)
        assert self._course is not None
        proba_UC = self._course.target_proba(state).double().cpu().numpy()
        found = torch.from_numpy(
            pick_pseudo_labels(
                proba_UC, threshold=self._threshold, share=share, balance=self._balance
            )
        )
        change = float((found != self.labels_U).float().mean())
        self.labels_U = found
        self.count += 1
        self.changes.append(change)
        if self.count > 1 and share >= most and change <= self._settled:
            state.stop("early")

    def on_end(self, state: LoopState) -> None:
        """Tell what the rounds came to."""
        self._values |= {
            "rounds": self.count,
            "labelled_rows": int((self.labels_U >= 0).sum()),
            "changed_share": [round(change, 4) for change in self.changes],
            "settled": bool(self.changes) and self.changes[-1] <= self._settled,
        }

    def state_dict(self) -> dict[str, Any]:
        """The labels and how they came about."""
        return {"labels": self.labels_U, "count": self.count, "changes": list(self.changes)}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.labels_U, self.count = values["labels"].clone(), values["count"]
        self.changes = list(values["changes"])


class _PseudoLabels(Objective):
    """Cross-entropy on the source, and on the target rows that have a label of the last round."""

    def __init__(self, rounds: Rounds, weight: float, values: dict[str, Any]) -> None:
        super().__init__(reads_target=True, callbacks=[rounds], values=values)
        self._rounds = rounds
        self._weight = weight

    def attend(self, course: Course) -> None:
        """Let the rounds ask this course."""
        self._rounds.attend(course)

    def losses(self, seen: Seen, state: LoopState) -> dict[str, Tensor]:
        found = {"source": functional.cross_entropy(seen.logits_NC, seen.labels_N)}
        assert seen.rows_M is not None
        _, logits_MC = seen.target
        labels_M = self._rounds.labels_U[seen.rows_M.cpu()].to(logits_MC.device)
        taken_M = labels_M >= 0
        losses_M = functional.cross_entropy(logits_MC, labels_M.clamp(min=0), reduction="none")
        # A batch with few labelled rows counts for little, as it should.
        found["target"] = self._weight * (losses_M * taken_M).mean()
        return found


@register_method
class SelfTraining(TrainedMethod):
    """Rounds of pseudo-labels: the model's surest answers on the target become training labels.

    It learns on the source first. Then every `every` epochs it labels the target anew: of each
    predicted class its surest rows, a larger share each round, no class more than `balance` times
    the smallest. It stops when the share is at its most and the labels settle.

    Needs: a source model that is right on most of its sure target rows; what it gets wrong, it
    learns by heart. Equals: source-only at weight 0. Pick when: classes are well apart in the
    target, though shifted.
    Source: Yarowsky 1995; Lee 2013 (pseudo-labels); the shares by class of Zou et al. 2018 (CBST).

    Attributes:
        threshold: Least probability of a label, in [0, 1].
        start_share: Of each predicted class's rows in the first round.
        add_share: What each round adds.
        most_share: At most.
        balance: How many times the smallest class's labels a class may have.
        weight: Of the target's loss.
        warm: Share of the epochs on the source alone, in (0, 1).
        every: Epochs between two rounds.
        settled: Share of changed labels at which training stops.
    """

    name: ClassVar[str] = "self-training"
    title: ClassVar[str] = "Self-training"
    threshold: float = Field(0.8, ge=0, le=1)
    start_share: float = Field(0.2, gt=0, le=1)
    add_share: float = Field(0.1, gt=0, le=1)
    most_share: float = Field(0.8, gt=0, le=1)
    balance: float = Field(3.0, ge=1)
    weight: NonNegativeFloat = 1.0
    warm: float = Field(0.3, gt=0, lt=1)
    every: PositiveInt = 2
    settled: float = Field(0.01, ge=0, lt=1)

    def _objective(self, rows: DomainVectors, run: Run) -> Objective:
        values: dict[str, Any] = {}
        rounds = Rounds(
            len(rows.target_UD),
            first=max(1, round(self.warm * self._epochs(rows))),
            every=self.every,
            threshold=self.threshold,
            shares=(min(self.start_share, self.most_share), self.add_share, self.most_share),
            balance=self.balance,
            settled=self.settled,
            values=values,
        )
        return _PseudoLabels(rounds, self.weight, values)

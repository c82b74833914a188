"""Progressive unfreezing: the head first, then one layer group after another, last to first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from warmstart.backbones import Backbone
from warmstart.core import Run, UsageError, nearest, progress, typical
from warmstart.data import View
from warmstart.training import (
    Classifier,
    History,
    announce,
    discriminative_rates,
    rate_table,
)

from .base import Cost, Fitted
from .recipe import Epochs, ScheduleName
from .registry import register
from .supervised import Job, groups_of, pull
from .trained import Replaying, fitted

__all__ = ["Stage", "Unfreeze", "planned_stages", "stages_by_group"]

_STAGE_STEPS = 20  # an `auto` stage lasts about so many steps


@dataclass(frozen=True)
class Stage:
    """A part of the training in which the same groups are frozen.

    Attributes:
        frozen: Names of the groups that do not move.
        epochs: Passes over the training rows at most.
    """

    frozen: tuple[str, ...]
    epochs: int


@register
class Unfreeze(Replaying):
    """Head first, then one more group a stage, from the last to the first, until all learn.

    Gradual unfreezing with discriminative rates and slanted triangular schedules after Howard and
    Ruder (ULMFiT, 2018, §3.3). What the groups that are still frozen put out is computed once and
    replayed. A stage that improves nothing on the validation loss leaves the weights as they were.
    Settings that are not named here are those of fine-tuning.

    Needs: some hundred labels. Pick when: fine-tuning all at once forgets or overfits.

    Attributes:
        epochs: Passes of the last stage at most, in which the most groups learn.
        stage_epochs: Passes of each stage before it, or `auto`: about 20 steps, 1 to 5 passes.
        by: `epochs`: a stage lasts so long; `plateau`: until the validation loss has not improved
            for `patience` passes, `stage_epochs` at most (10 where that is `auto`).
        groups_per_stage: How many groups begin to learn at once.
        until: How many backbone groups learn in the end, or `all`.
        plan: In place of all that, `{epoch: frozen groups}`: from each epoch on these groups are
            frozen (names or patterns, `*` for all of the backbone) and the others learn; the first
            epoch is 0, and `epochs` counts the whole.
    """

    name: ClassVar[str] = "unfreeze"
    title: ClassVar[str] = "Progressive unfreezing"
    rate: PositiveFloat = Field(5e-4, json_schema_extra=typical("2e-5 to 1e-3"))
    schedule: ScheduleName = "slanted-triangular"
    stage_epochs: Epochs | Literal["auto"] = "auto"
    by: Literal["epochs", "plateau"] = "epochs"
    groups_per_stage: PositiveInt = 1
    until: PositiveInt | Literal["all"] = "all"
    plan: dict[NonNegativeInt, tuple[str, ...]] | None = None
    _steps: ClassVar[int] = 200
    _least: ClassVar[int] = 2
    _most: ClassVar[int] = 10

    def check(self, backbone: Backbone, view: View) -> None:
        """The groups that are named must exist.

        Raises:
            UsageError: For a plan that cannot be followed, more groups than there are, or what
                fine-tuning refuses.
        """
        super().check(backbone, view)
        self.stages(backbone, view)

    def stages(self, backbone: Backbone, view: View) -> list[Stage]:
        """What is frozen for how long.

        Args:
            backbone: Whose layer groups.
            view: The rows, whose number decides what `auto` means.

        Raises:
            UsageError: See `check`.
        """
        names = backbone.group_names
        if self.plan is not None:
            return planned_stages(names, self.plan, self._epochs(backbone, view))
        if self.until != "all" and self.until > len(names):
            raise UsageError(
                f"unfreeze.until must be between 1 and {len(names)}, the number of layer groups, "
                f"or all; got {self.until}."
            )
        frozen = stages_by_group(
            names, self.groups_per_stage, len(names) if self.until == "all" else self.until
        )
        waiting = self._stage_epochs(backbone, view)
        last = Stage(frozen[-1], self._epochs(backbone, view))
        return [*(Stage(f, waiting) for f in frozen[:-1]), last]

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps with every group learning, and count the rest by share."""
        return self._shared_out(self._job(backbone, view, run).measure(), backbone, view)

    def cost_by(self, full: Cost, backbone: Backbone, view: View) -> Cost | None:
        """Its last stage takes fine-tuning's steps; the others are counted by share."""
        same = self._steps_as(full, backbone, view)
        return self._shared_out(full, backbone, view) if same else None

    def _shared_out(self, full: Cost, backbone: Backbone, view: View) -> Cost:
        """Steps of every stage, from steps with every group learning."""
        stages = self.stages(backbone, view)
        epochs = sum(stage.epochs for stage in stages)
        groups = len(backbone.group_names)
        floor = 0.05 if self._replays else 1 / 3  # a pass without gradient is a third
        work = 0.0
        for stage in stages:
            share = 1 - len(stage.frozen) / groups
            work += stage.epochs * (floor + (1 - floor) * share)
        return replace(full, seconds_per_step=full.seconds_per_step * work / epochs, epochs=epochs)

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train stage by stage; the best weights on the validation loss are kept."""
        self.check(backbone, view)
        encoder, head = self._parts(backbone, view, run)
        groups = groups_of(encoder, head)
        rates = discriminative_rates(groups, self.rate, self.factor, self.head_multiplier)
        stages = self.stages(backbone, view)
        recipe = self._recipe(backbone, view)
        steps = _share_out([s.epochs for s in stages], len(view.train), recipe.batch_size, run)
        old = self._old_task(backbone, view)
        self._announce(stages, groups, rates, nn.ModuleList([encoder, head]))
        start = pull(Classifier(encoder, head), recipe, old, run, copy_frozen=True)
        total: History | None = None
        told: list[dict[str, Any]] = []
        for place, stage in enumerate(stages):
            last = place == len(stages) - 1
            waits = last or self.by == "plateau"
            job = Job(
                encoder, head, rates, groups, view, run.again(max_steps=steps[place]),
                replace(recipe, patience=self.patience if waits else None),
                f"{self.title}, stage {place + 1} of {len(stages)}",
                stage.epochs, frozen=stage.frozen, stage=f"stage-{place + 1}",
                keep_start=place > 0, backbone=backbone if self._replays else None,
                rules=self._rules, base=self.rate, old=old, penalty=start, told="",
            )  # fmt: skip
            job.told = _told(stages, place, list(groups), job.table.trainable)
            history = job.train()
            total = history if total is None else total.then(history)
            lowest = min(history.curve("validation_loss"), default=None)
            told.append(
                {"frozen": len(stage.frozen), "epochs": len(history.epochs),
                 "steps": history.steps,
                 "best_validation_loss": None if lowest is None else round(lowest, 5)}
            )  # fmt: skip
            if history.stopped == "deadline":
                break
        assert total is not None
        if len(told) < len(stages):
            progress.note(f"{self.title}: the time was up in stage {len(told)} of {len(stages)}.")
        result = fitted(backbone, job, total)
        result = replace(result, values={**result.values, "stages": told})
        return self._finish(backbone, view, run, result)

    def _announce(
        self,
        stages: Sequence[Stage],
        groups: Mapping[str, Any],
        rates: Mapping[str, float],
        module: nn.Module,
    ) -> None:
        """Show one table for all stages: rates, and from which stage on each group learns."""
        never = {name for name in groups if all(name in stage.frozen for stage in stages)}
        table = rate_table(
            groups, self.rate, rules=self._rules, rates=rates, module=module, frozen=never,
            batch_norm=self.batch_norm,
        )  # fmt: skip
        announce(table, learns={name: _when(stages, name) for name in groups})

    def _stage_epochs(self, backbone: Backbone, view: View) -> int:
        if self.stage_epochs != "auto":
            return self.stage_epochs
        if self.by == "plateau":
            return 10
        per_epoch = -(-len(view.train) // self._recipe(backbone, view).batch_size)
        return min(5, max(1, round(_STAGE_STEPS / per_epoch)))


def stages_by_group(
    names: Sequence[str], groups_per_stage: int = 1, until: int | None = None
) -> list[tuple[str, ...]]:
    """Which groups are frozen in each stage: at first all, in the end all but the last `until`.

    Args:
        names: Layer groups, first to run first.
        groups_per_stage: How many begin to learn at once.
        until: How many learn in the end; all of them when None.
    """
    most = len(names) if until is None else until
    learning = [*range(0, most, groups_per_stage), most]
    return [tuple(names[: len(names) - count]) for count in learning]


def planned_stages(
    names: Sequence[str], plan: Mapping[int, Sequence[str]], epochs: int
) -> list[Stage]:
    """The stages of an explicit plan.

    Args:
        names: Layer groups of the backbone.
        plan: Frozen groups (names or patterns) from each epoch on.
        epochs: Passes in all.

    Raises:
        UsageError: For a plan that does not begin at 0 or goes beyond the last epoch, or a pattern
            that matches no group.
    """
    starts = sorted(plan)
    if not starts or starts[0] != 0:
        raise UsageError(
            f"unfreeze.plan must begin at epoch 0, got {starts or 'no epochs'}. "
            'Write {"0": ["*"], "2": ["stem"], "4": []}.'
        )
    if starts[-1] >= epochs:
        raise UsageError(
            f"unfreeze.plan changes what is frozen at epoch {starts[-1]}, but there are only "
            f"{epochs}. Set epochs to {starts[-1] + 1} or more."
        )
    stages = []
    for start, end in zip(starts, [*starts[1:], epochs], strict=True):
        for pattern in plan[start]:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"unfreeze.plan: {pattern!r} at epoch {start} matches no layer group."
                    f"{nearest(pattern, names)}"
                )
        frozen = [n for n in names if any(fnmatchcase(n, p) for p in plan[start])]
        stages.append(Stage(tuple(frozen), end - start))
    return stages


def _when(stages: Sequence[Stage], group: str) -> str:
    """In which stages a group learns, counted from 1."""
    learns = [place for place, stage in enumerate(stages, 1) if group not in stage.frozen]
    if not learns:
        return "never"
    if learns == list(range(learns[0], len(stages) + 1)):
        return f"from stage {learns[0]}"
    return f"stage {', '.join(map(str, learns))}"


def _told(stages: Sequence[Stage], place: int, names: Sequence[str], trainable: int) -> str:
    """One line on a stage: what begins to learn, what rests again, how much learns, how long."""
    now = [name for name in names if name not in stages[place].frozen]
    before = [] if place == 0 else [n for n in names if n not in stages[place - 1].frozen]
    joins = [name for name in now if name not in before]
    rests = [name for name in before if name not in now]
    changes = [f"{_listed(joins)} to learn"] if joins else []
    changes += [f"{_listed(rests)} to rest"] if rests else []
    epochs = stages[place].epochs
    return (
        f"Stage {place + 1} of {len(stages)}: {' and '.join(changes) or 'as before'}; "
        f"{trainable:,} parameters, {epochs} epoch{'s' if epochs > 1 else ''} at most."
    )


def _listed(names: Sequence[str]) -> str:
    begin = "begins" if len(names) == 1 else "begin"
    return f"{', '.join(names)} {begin}"


def _share_out(epochs: Sequence[int], rows: int, batch_size: int, run: Run) -> list[int | None]:
    """The step limit of each stage, in proportion to its length where the whole is limited."""
    full = [count * -(-rows // batch_size) for count in epochs]
    if run.max_steps is None or run.max_steps >= sum(full):
        return [None] * len(full)
    ends = [round(sum(full[: i + 1]) * run.max_steps / sum(full)) for i in range(len(full))]
    starts = [0, *ends[:-1]]
    return [max(1, end - start) for start, end in zip(starts, ends, strict=True)]

"""Training an encoder and a head on labelled rows: the common part of several strategies."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from warmstart.backbones import (
    Backbone,
    Encoder,
    FrozenLedger,
    batch_norms,
    freeze,
    unfreeze,
)
from warmstart.core import Run, pick_device, progress
from warmstart.data import View, parse_augmentation
from warmstart.models import AdaptedEncoder, Head
from warmstart.training import (
    Anchor,
    Callback,
    Checkpoints,
    Classifier,
    EarlyStopping,
    EvaluateFunction,
    History,
    LoopState,
    Penalty,
    RateSweep,
    RateTable,
    ReduceOnPlateau,
    Rule,
    Views,
    WithinBudget,
    announce,
    balanced_weights,
    classification_loaders,
    classification_step,
    default_workers,
    evaluation,
    find_rates,
    fit_loop,
    l2_sp,
    make_optimizer,
    make_schedule,
    measure_steps,
    oversampled_counts,
    rate_table,
    replay_prefix,
)

from .base import Cost
from .recipe import Recipe
from .retain import FISHER_ROWS, OldTask

__all__ = ["Job", "groups_of", "passes", "pull"]

_TIMED_ROWS = 8  # of the old task, to tell what its Fisher information will take


def groups_of(encoder: Encoder, head: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The backbone's layer groups in order, and the head as the last one."""
    groups = {name: list(encoder.groups.parameters(name)) for name in encoder.groups.names}
    return groups | {"head": [(f"head.{n}", p) for n, p in head.named_parameters()]}


def pull(
    classifier: Classifier,
    recipe: Recipe,
    old: OldTask | None,
    run: Run,
    *,
    copy_frozen: bool = False,
    fisher_rows: int = FISHER_ROWS,
) -> Penalty | None:
    """What holds the weights to their start: L2-SP, EWC, both or nothing.

    Args:
        classifier: As it is before the first step, with `requires_grad` as it will be trained.
        recipe: Says how hard each pulls.
        old: The old task, whose Fisher information EWC needs.
        run: For its random streams.
        copy_frozen: Whether frozen weights may learn later, in another stage.
        fisher_rows: Rows of the old task that EWC learns from at most.
    """
    terms: list[Penalty] = []
    if recipe.l2_sp or (recipe.ewc and old is not None):
        anchor = Anchor(classifier, copy_frozen=copy_frozen)
        if recipe.l2_sp:
            terms.append(l2_sp(anchor, alpha=recipe.l2_sp))
        if recipe.ewc and old is not None:
            terms.append(
                old.elastic(classifier, anchor, run.streams, strength=recipe.ewc, rows=fisher_rows)
            )
    if len(terms) < 2:
        return terms[0] if terms else None

    def both(state: LoopState) -> Tensor:
        return terms[0](state) + terms[1](state)

    return both


@dataclass
class Job:
    """One training: what moves, how fast, on which rows.

    Attributes:
        encoder: Anything with `preprocess` and `forward(batch) -> vectors (B, D)`.
        head: Vectors to logits.
        rates: Rate of each group, as `rate_table` takes them.
        groups: Ordered parameter groups, head last.
        view: Training and validation rows.
        run: Folder, seed and limits.
        recipe: Everything else.
        name: Shown on the progress bar.
        full_epochs: Passes over the training rows at most.
        frozen: Layer groups of the encoder that do not move; whether they did is checked by hash.
        stage: Name of its checkpoints where a fit has several stages.
        keep_start: Whether the start counts as a candidate for the best weights.
        backbone: Where the encoder came from, when its frozen groups may be computed once and
            replayed; None runs them in every step.
        lean: Whether checkpoints and the best weights leave out what no optimiser holds, as they
            do where groups are frozen.
        rules: Explicit rates, which go before `rates`.
        base: What the multipliers of rules multiply.
        old: The old task that is watched beside the new one.
        penalty: What holds the weights to their start; made from the recipe when None.
        told: A line that is shown before training in place of the table of rates.
    """

    encoder: Any
    head: Head
    rates: dict[str, float]
    groups: dict[str, list[tuple[str, nn.Parameter]]]
    view: View
    run: Run
    recipe: Recipe
    name: str
    full_epochs: int
    frozen: tuple[str, ...] = ()
    stage: str | None = None
    keep_start: bool = False
    backbone: Backbone | None = None
    lean: bool = False
    rules: Sequence[Rule] = ()
    base: float = 1.0
    old: OldTask | None = None
    penalty: Penalty | None = None
    told: str | None = None

    def __post_init__(self) -> None:
        self.table: RateTable = rate_table(
            self.groups,
            self.base,
            rules=self.rules,
            rates=self.rates | dict.fromkeys(self.frozen, 0.0),
            module=nn.ModuleList([self.encoder, self.head]),
            frozen=self.frozen if self.stage else (),  # a rule speaks of when a group's turn comes
            batch_norm=self.recipe.batch_norm,
        )
        self._replayed = False
        # an adapter lies within the groups of a base that it keeps still itself
        if isinstance(self.encoder, Encoder) and not isinstance(self.encoder, AdaptedEncoder):
            moving = {row.group for row in self.table.rows if not row.frozen}
            self.encoder.batch_norm = self.recipe.batch_norm
            self.frozen = tuple(n for n in self.encoder.groups.names if n not in moving)
            unfreeze(self.encoder, set(self.encoder.frozen) - set(self.frozen))
            freeze(self.encoder, self.frozen)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps that pass every training row once, oversampled ones more than once."""
        rows = len(self.view.train)
        if self.recipe.oversample:
            labels_N = self.view.train.labels_N
            rows = sum(oversampled_counts(labels_N, self.recipe.oversample).values())
        return math.ceil(rows / self.recipe.batch_size)

    def _loaders(self, *, replay: bool) -> tuple[Any, Any, Any]:
        """The encoder or what replays its frozen part, and both loaders."""
        device, recipe = pick_device(self.run.device), self.recipe
        settings: dict[str, Any] = {
            "batch_size": recipe.batch_size,
            "streams": self.run.streams,
            "num_workers": default_workers(device, self.view.train.modality),
            # a lone last row has no variance that batch normalisation could take
            "even": any(row.batch_norm == "train" for row in self.table.rows),
        }
        augment = parse_augmentation(recipe.augment) if recipe.augment else None
        # A mix of pixels, or rows that are drawn more than once, need the whole pass.
        pixels = recipe.mixup and self.view.train.modality == "image"
        whole = "oversample" if recipe.oversample else "mixup of pixels" if pixels else ""
        replay = replay and bool(self.frozen) and self.backbone is not None
        if replay and whole:
            progress.note(
                f"The frozen prefix is recomputed at every step: {whole} needs whole passes."
            )
        if replay and self.backbone is not None and not whole:
            self.encoder.to(device)  # what is kept is made where it will train
            views = None
            if augment is not None:
                views = Views(augment, augment.fingerprint, recipe.views)
            made = replay_prefix(
                self.backbone, self.encoder, self.view.train, self.view.validation,
                views=views, **settings,
            )  # fmt: skip
            if made is not None:
                self._replayed = True
                return made.module, made.train, made.validation
        loaders = classification_loaders(
            self.view.train, self.view.validation, self.encoder.preprocess,
            augment=augment, oversample=recipe.oversample, **settings,
        )  # fmt: skip
        return self.encoder, *loaders

    def _parts(self, *, replay: bool, penalty: Penalty | None = None) -> dict[str, Any]:
        """What the loop and the measurement both take."""
        recipe, labels_N = self.recipe, self.view.train.labels_N
        encoder, train, validation = self._loaders(replay=replay)
        decay = 0.0 if recipe.l2_sp else recipe.weight_decay  # or both would pull
        optimizer = make_optimizer(self.table, weight_decay=decay)
        classifier = Classifier(encoder, self.head)
        penalty = penalty or self.penalty or pull(classifier, recipe, self.old, self.run)
        classes = len(self.view.label_names)
        return {
            "step": classification_step(
                label_smoothing=recipe.label_smoothing,
                class_weights=balanced_weights(labels_N, classes).tolist()
                if recipe.balance
                else None,
                mixup=recipe.mixup,
                mix_at="vectors" if self._replayed else "auto",
                penalty=penalty,
            ),
            "modules": {"model": classifier},
            "optimizers": optimizer,
            "loaders": train,
            "run": self.run,
            "clip": recipe.clip,
            "validation": validation,
        }

    def train(self) -> History:
        """Run the loop; encoder and head hold the best weights afterwards.

        Raises:
            RunError: When something frozen moved.
        """
        if self.told is None:
            announce(self.table)
        else:
            progress.note(self.told)
        ledger = self._ledger()
        parts = self._parts(replay=True)
        validation = parts.pop("validation")
        steps = self.full_epochs * self.steps_per_epoch
        if self.run.max_steps is not None:
            steps = min(steps, self.run.max_steps)
        lean = self.lean or bool(self.frozen)
        evaluate, callbacks = self._watch(validation, lean=lean)
        plateau = self.recipe.schedule == "plateau"
        history = fit_loop(
            **parts,
            epochs=self.full_epochs,
            schedules=make_schedule(
                "constant" if plateau else self.recipe.schedule, steps, self.recipe.warmup
            ),
            evaluate=evaluate,
            evaluate_first=self.keep_start,
            callbacks=callbacks,
            checkpoints=Checkpoints(skip_frozen=lean) if self.run.resumable else None,
            name=self.stage or self.name,
            title=self.name,
        )
        if ledger is not None:
            ledger.check()
        return history

    def measure(self) -> Cost:
        """Time a few real steps on a copy, with nothing replayed: an upper bound where it is."""
        few, fisher = self._time_fisher()
        parts = self._parts(replay=False, penalty=few)
        del parts["validation"]
        cost = measure_steps(**parts)
        # Validation is forward only: a third of a step's work for each row.
        rows = len(self.view.validation) + (len(self.old.view.validation) if self.old else 0)
        overhead = cost.seconds * rows / self.recipe.batch_size / 3
        return Cost(
            cost.seconds, self.steps_per_epoch, self.full_epochs, overhead, cost.peak_bytes, fisher
        )  # fmt: skip

    def _time_fisher(self) -> tuple[Penalty | None, float]:
        """EWC's penalty from a few rows of the old task, and what all of its rows would take."""
        if not self.recipe.ewc or self.old is None or self.penalty is not None:
            return None, 0.0
        classifier = Classifier(self.encoder.to(pick_device(self.run.device)), self.head)
        rows = min(FISHER_ROWS, len(self.old.view.train))
        few = min(_TIMED_ROWS, rows)
        penalty, seconds = None, 0.0
        for count in (1, few):  # the first call also pays what is paid once
            begin = time.perf_counter()
            penalty = pull(classifier, self.recipe, self.old, self.run, fisher_rows=count)
            seconds = time.perf_counter() - begin
        return penalty, seconds / few * rows

    def sweep(self, *, groups: bool, steps: int) -> tuple[RateSweep, ...]:
        """Raise the rates on copies, with nothing replayed; see `training.find_rates`."""
        parts = self._parts(replay=False)
        del parts["validation"]
        return find_rates(**parts, base=self.base, groups=groups, steps=steps)

    def _ledger(self) -> FrozenLedger | None:
        if not isinstance(self.encoder, Encoder):
            return None
        single: list[tuple[str, Tensor]] = [
            member
            for row in self.table.rows
            if row.frozen and row.group not in self.frozen and row.group != "head"
            for member in row.members
        ]
        if self.encoder.batch_norm == "eval":
            single += [
                (f"{name}.{key}", statistic)
                for name, norm in batch_norms(self.encoder.module)
                for key, statistic in norm.named_buffers()
            ]
        if not (self.frozen or single):
            return None
        return FrozenLedger(self.encoder, self.frozen, single)

    def _watch(self, validation: Any, *, lean: bool) -> tuple[EvaluateFunction, list[Callback]]:
        """What is evaluated after each epoch, and who decides on it."""
        patience = self.recipe.patience
        evaluate = evaluation(validation, classes=len(self.view.label_names))
        best: Callback = EarlyStopping("validation_loss", patience=patience, skip_frozen=lean)
        if self.old is not None:
            watched = self.old.watch(self.encoder, self.run.streams)
            evaluate = watched.beside(evaluate)
            if self.run.max_forgetting is not None:
                best = WithinBudget(
                    watched, self.run.max_forgetting, patience=patience, skip_frozen=lean,
                    before=self.old.before,
                )  # fmt: skip
        callbacks = [best]
        if self.recipe.schedule == "plateau":
            callbacks.append(ReduceOnPlateau(patience=max(1, (patience or 4) // 2)))
        return evaluate, callbacks


def passes(history: History, job: Job) -> float:
    """Passes over the training rows that were made."""
    return history.steps / job.steps_per_epoch

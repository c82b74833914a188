"""One stage of a fit of two towers: what it minimises, who learns how fast, what is watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from warmstart.core import Run, fingerprint
from warmstart.training import (
    Callback,
    Checkpoints,
    EarlyStopping,
    EvaluateFunction,
    History,
    LoopState,
    RateTable,
    RowLoader,
    StepFunction,
    announce,
    fit_loop,
    make_optimizer,
    make_schedule,
)

from .content_settings import ContentSettings
from .fitting_average import Averaging
from .fitting_validation import held_out_loss, task_metrics
from .negatives_plan import Comparison
from .sequences import WindowRows
from .towers import Towers
from .two_tower_model import TwoTowerModel
from .two_tower_work import Work

if TYPE_CHECKING:
    from warmstart.evaluation import RankingTask

    from .two_tower import TwoTower

__all__ = ["Fit", "Stage", "Trained", "train_stage"]


@dataclass(frozen=True)
class Fit:
    """What all stages of a fit share.

    Attributes:
        work: Events and items.
        comparison: What positions are told apart from.
        modules: What is trained, by name; checkpoints keep all of it.
        run: Folder, seed, limits.
        validation: Task to keep the best epoch by.
        model: The recommender that these towers make.
        checkpoints: When to write them.
    """

    work: Work
    comparison: Comparison
    modules: Mapping[str, nn.Module]
    run: Run
    validation: RankingTask | None
    model: Callable[[Towers], TwoTowerModel]
    checkpoints: Checkpoints

    @property
    def towers(self) -> Towers:
        """The towers."""
        found = self.modules["towers"]
        assert isinstance(found, Towers)
        return found


@dataclass(frozen=True)
class Stage:
    """A part of the fit with its own step, rates and schedule.

    Attributes:
        name: Of its checkpoints.
        step: What is minimised.
        table: Who learns how fast.
        epochs: Passes at most.
        planned: Passes that the schedule is laid out over.
        patience: Rankings without a better value before it stops; None goes on to the end.
        judge_every: Epochs between two rankings of the validation task.
        callbacks: Before those of the comparison.
        before: Called before each evaluation.
        keep_start: Whether the weights at the start are kept where no epoch is better.
        skip_frozen: Whether checkpoints leave out what does not learn.
        transformer: Whether a pretrained transformer learns, whose rates are looked at.
        averages: Whether the running mean of the weights is kept up.
    """

    name: str
    step: StepFunction
    table: RateTable
    epochs: int
    planned: int
    patience: int | None
    judge_every: int = 1
    callbacks: Sequence[Callback] = ()
    before: Callable[[LoopState], None] | None = None
    keep_start: bool = False
    skip_frozen: bool = False
    transformer: bool = False
    averages: bool = False


@dataclass(frozen=True)
class Trained:
    """What came of all stages.

    Attributes:
        history: One record an epoch, over the stages.
        stages: What each stage did, where there are several.
        text_weights: Tuned weights of the text encoder; None where it stayed as it was.
    """

    history: History
    stages: list[dict[str, Any]] = field(default_factory=list)
    text_weights: dict[str, Tensor] | None = None


def train_stage(settings: TwoTower, fit: Fit, stage: Stage) -> History:
    """Train the modules in place; what is best on validation where that is to be kept."""
    work = fit.work
    streams = fit.run.streams.child("two-tower")
    rows = WindowRows(
        work.sequences, history=settings.history, stride=settings.stride, shift=settings.shift,
        shuffle_ties=settings.shuffle_ties, streams=streams, learned_P=work.learned_P,
        told=work.told,
    )  # fmt: skip
    loader = RowLoader(rows, settings.batch_size, streams=streams)
    loader.fingerprint = fingerprint(
        loader.fingerprint,
        rows.fingerprint,
        work.fingerprint,
        settings.model_dump_json(exclude={"popularity", *ContentSettings._fields}),
    )
    announce(stage.table, transformer=stage.transformer)
    evaluate, watched = _evaluation(settings, fit, stage)
    callbacks = [*stage.callbacks, *fit.comparison.callbacks]
    if stage.averages:
        callbacks.append(Averaging(settings.average))
    if settings.keep == "best":
        callbacks.append(
            EarlyStopping(
                watched, mode="min" if watched == "validation_loss" else "max",
                patience=stage.patience, skip_frozen=stage.skip_frozen,
            )
        )  # fmt: skip
    policy = fit.checkpoints
    if stage.skip_frozen:
        policy = Checkpoints(policy.every_seconds, policy.every_steps, policy.keep, True)
    return fit_loop(
        step=stage.step,
        modules=fit.modules,
        optimizers=make_optimizer(stage.table, weight_decay=settings.weight_decay),
        loaders=loader,
        run=fit.run,
        epochs=stage.epochs,
        schedules=make_schedule(settings.schedule, stage.planned * len(loader), settings.warmup),
        evaluate=evaluate,
        evaluate_first=stage.keep_start and evaluate is not None,
        callbacks=callbacks,
        clip=settings.clip,
        checkpoints=policy,
        name=stage.name,
    )


def _evaluation(settings: TwoTower, fit: Fit, stage: Stage) -> tuple[EvaluateFunction | None, str]:
    """What is looked at after each epoch, and the value by which the best one is told."""
    evaluate: EvaluateFunction | None = None
    watched = f"validation_{settings.metric}"
    if fit.validation is not None:
        evaluate = task_metrics(fit.validation, fit.model, every=stage.judge_every)
    elif settings.keep == "best":
        watched = "validation_loss"
        held = WindowRows(
            fit.work.sequences, history=settings.history, stride=settings.stride,
            learned_P=fit.work.held_P, told=fit.work.told,
        )  # fmt: skip
        evaluate = held_out_loss(held, fit.work.catalogue)
    if evaluate is None or stage.before is None:
        return evaluate, watched
    inner, before = evaluate, stage.before

    def prepared(state: LoopState) -> Mapping[str, float]:
        before(state)
        return inner(state)

    return prepared, watched

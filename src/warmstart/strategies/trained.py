"""What every way of training an encoder and a head shares: settings, the job, and the result."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from warmstart.backbones import Backbone, Encoder
from warmstart.core import Run, UsageError, typical
from warmstart.data import View, parse_augmentation
from warmstart.models import EncoderModel, Head, HeadShape
from warmstart.training import History, RateSweep, Rule, discriminative_rates, parse_rules

from .base import Cost, Fitted, Strategy
from .interpolate import interpolate
from .probe import convex_head
from .recipe import Epochs, Recipe, ScheduleName, epochs_for, smaller_batches
from .retain import OldTask, old_task
from .supervised import Job, groups_of, passes

__all__ = ["Replaying", "Trained", "fitted"]


class Trained(Strategy):
    """Settings and course of a training; subclasses say what starts where and what is frozen.

    Attributes:
        rate: Rate of the last backbone group.
        factor: By how much each earlier group learns more slowly.
        head_multiplier: The head's rate in units of `rate`.
        epochs: Passes over the training rows at most, or `auto` by their number.
        batch_size: Rows a step; halved for very small data until an epoch has eight steps, to 4 or,
            where batch normalisation takes its statistics from them, 16 rows.
        head: `linear` or `mlp`.
        hidden: Width of an `mlp` head.
        dropout: Before the head's layers, while training.
        schedule: Learning-rate schedule after the warm-up.
        warmup: Share of the steps that the rate rises.
        weight_decay: Decoupled weight decay, on matrices only.
        clip: Largest gradient norm.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        patience: Epochs without a better validation loss before training stops.
        rules: Explicit rates, the first match counts: `stem=frozen, block.0=1e-6, head=x3`. They
            go before the rates by depth.
        class_weights: `balanced` lets each class count the same in the loss.
        oversample: How far rare classes are brought to the largest one by repeating their rows,
            from 0 (not at all) to 1.
        mixup: Alpha of mixup, 0 for none; typical 0.1 to 0.4.
        augment: Random changes of training images: `crop,flip,rotate=15,jitter=0.2`; empty for
            none.
        views: Augmented views that are drawn up front where frozen groups are replayed.
        l2_sp: Pull of the backbone to its start (L2-SP), 0 for none; typical 0.01 to 1.
        ewc: Pull by what each weight meant to the rows to retain (EWC), 0 for none; typical 100
            to 10,000. Needs such rows.
        wise: Whether the result goes part of the way from the untouched model, as validation has
            it best (WiSE-FT); linear heads only.
        batch_norm: `train` takes mean and variance from each batch, `eval` keeps those of the
            pretraining while scale and shift learn.
    """

    rate: PositiveFloat = Field(1e-4, json_schema_extra=typical("1e-5 to 1e-3"))
    factor: float = Field(2.6, ge=1, le=100, json_schema_extra=typical("1 to 3"))
    head_multiplier: float = Field(3.0, ge=1, le=10, json_schema_extra=typical("1 to 10"))
    epochs: Epochs | Literal["auto"] = Field("auto", json_schema_extra=typical("3 to 20"))
    batch_size: PositiveInt = Field(16, json_schema_extra=typical("8 to 64"))
    head: Literal["linear", "mlp"] = "linear"
    hidden: int = Field(256, ge=1, le=65_536, json_schema_extra=typical("64 to 1,024"))
    dropout: float = Field(0.1, ge=0, lt=1, json_schema_extra=typical("0 to 0.5"))
    schedule: ScheduleName = "linear"
    warmup: float = Field(0.1, ge=0, lt=1, json_schema_extra=typical("0 to 0.2"))
    weight_decay: float = Field(0.01, ge=0, json_schema_extra=typical("0 to 0.1"))
    clip: PositiveFloat = Field(1.0, json_schema_extra=typical("0.5 to 5"))
    label_smoothing: float = Field(0.0, ge=0, lt=1, json_schema_extra=typical("0 to 0.1"))
    patience: PositiveInt = Field(3, json_schema_extra=typical("2 to 5"))
    rules: str = ""
    class_weights: Literal["none", "balanced"] = "none"
    oversample: float = Field(0.0, ge=0, le=1, json_schema_extra=typical("0, 0.5 or 1"))
    mixup: float = Field(0.0, ge=0, json_schema_extra=typical("0, or 0.1 to 0.4"))
    augment: str = ""
    views: int = Field(4, ge=1, le=1_000, json_schema_extra=typical("4 to 16"))
    l2_sp: float = Field(0.0, ge=0, json_schema_extra=typical("0, or 0.01 to 1"))
    ewc: float = Field(0.0, ge=0, json_schema_extra=typical("0, or 100 to 10,000"))
    wise: bool = False
    batch_norm: Literal["train", "eval"] = "train"

    _keep_start: ClassVar[bool] = False
    _steps: ClassVar[int] = 300
    _least: ClassVar[int] = 3
    _most: ClassVar[int] = 15

    def _random_seed(self, run: Run) -> int | None:
        return None

    @property
    def _replays(self) -> bool:
        """Whether what frozen groups put out may be computed once and replayed."""
        return False

    @property
    def _rules(self) -> tuple[Rule, ...]:
        return parse_rules(self.rules) if self.rules.strip() else ()

    def _old_task(self, backbone: Backbone, view: View) -> OldTask | None:
        """What must not get lost, as the untouched backbone serves it."""
        return None if view.retain is None else old_task(backbone, view.retain)

    def check(self, backbone: Backbone, view: View) -> None:
        """Settings must fit the rows and one another.

        Raises:
            UsageError: For augmentation of text, EWC without rows to retain, or interpolation
                towards a head that is not linear.
        """
        if self.augment:
            parse_augmentation(self.augment)
            if view.train.modality != "image":
                raise UsageError(
                    f"{self.name}.augment changes images; these rows are text. Leave it out, or "
                    "use mixup."
                )
        if self.ewc and view.retain is None:
            raise UsageError(
                f"{self.name}.ewc needs rows of the task that must not get lost: give --retain."
            )
        if self.wise and self.head != "linear":
            raise UsageError(f"{self.name}.wise needs a linear head, got head={self.head}.")

    def _frozen(self, encoder: Encoder) -> tuple[str, ...]:
        """Layer groups that do not move."""
        return ()

    def trains(self, encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
        """Everything in the groups that are not frozen."""
        frozen = set(self._frozen(encoder))
        names = [name for name in encoder.groups.names if name not in frozen]
        return [item for name in names for item in encoder.groups.parameters(name)]

    def _start_head(self, backbone: Backbone, view: View, run: Run, shape: HeadShape) -> Head:
        """The head that training begins with."""
        return Head(shape, run.streams)

    def _recipe(self, backbone: Backbone, view: View) -> Recipe:
        recipe = Recipe(
            batch_size=self.batch_size, schedule=self.schedule, warmup=self.warmup,
            weight_decay=self.weight_decay, clip=self.clip,
            label_smoothing=self.label_smoothing, patience=self.patience,
            balance=self.class_weights == "balanced", oversample=self.oversample,
            mixup=self.mixup, augment=self.augment, views=self.views, l2_sp=self.l2_sp,
            ewc=self.ewc, batch_norm=self.batch_norm,
        )  # fmt: skip
        own = self.batch_norm == "train" and backbone.has_batch_norm
        return smaller_batches(recipe, len(view.train), batch_norm=own)

    def _epochs(self, backbone: Backbone, view: View) -> int:
        if self.epochs != "auto":
            return self.epochs
        return epochs_for(
            len(view.train), self._recipe(backbone, view).batch_size,
            steps=self._steps, least=self._least, most=self._most,
        )  # fmt: skip

    def _parts(self, backbone: Backbone, view: View, run: Run) -> tuple[Encoder, Head]:
        """A fresh copy of the encoder, and the head."""
        encoder = backbone.load(random_seed=self._random_seed(run))
        return encoder, self._start_head(backbone, view, run, self._shape(encoder, view))

    def _shape(self, encoder: Encoder, view: View) -> HeadShape:
        return HeadShape(
            dimension=encoder.dimension,
            classes=len(view.label_names),
            hidden=self.hidden if self.head == "mlp" else None,
            dropout=self.dropout,
        )

    def _job(self, backbone: Backbone, view: View, run: Run) -> Job:
        encoder, head = self._parts(backbone, view, run)
        groups = groups_of(encoder, head)
        return Job(
            encoder, head,
            rates=discriminative_rates(groups, self.rate, self.factor, self.head_multiplier),
            groups=groups, view=view, run=run, recipe=self._recipe(backbone, view), name=self.title,
            full_epochs=self._epochs(backbone, view), frozen=self._frozen(encoder),
            keep_start=self._keep_start,
            backbone=backbone if self._replays else None,
            rules=self._rules, base=self.rate, old=self._old_task(backbone, view),
        )  # fmt: skip

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps."""
        return self._job(backbone, view, run).measure()

    def _steps_as(self, full: Cost, backbone: Backbone, view: View) -> bool:
        """Whether a step in which every group learns is the same as in `full`."""
        steps = math.ceil(len(view.train) / self._recipe(backbone, view).batch_size)
        changed = self.oversample or self.mixup or self.augment or self.l2_sp or self.ewc
        return steps == full.steps_per_epoch and not changed and self.head == "linear"

    def find_rates(
        self, backbone: Backbone, view: View, run: Run, *, groups: bool = False, steps: int = 100
    ) -> tuple[RateSweep, ...]:
        """Raise the rates step by step on a copy and see what the loss does.

        Args:
            backbone: The recipe to start from.
            view: Training and validation rows.
            run: Seed and device; nothing is logged.
            groups: Also each layer group on its own.
            steps: Steps of a sweep, 10 to 10,000.
        """
        return self._job(backbone, view, run).sweep(groups=groups, steps=steps)

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train, with the weights of the best validation loss kept."""
        self.check(backbone, view)
        job = self._job(backbone, view, run)
        return self._finish(backbone, view, run, fitted(backbone, job, job.train()))

    def _finish(self, backbone: Backbone, view: View, run: Run, result: Fitted) -> Fitted:
        """Go back part of the way to the untouched model, where that was asked for."""
        if not self.wise:
            return result
        tuned = result.model
        assert isinstance(tuned, EncoderModel)
        model, curve = interpolate(backbone, convex_head(backbone, view), tuned, view)
        chosen = next(point["share"] for point in curve if point["chosen"])
        values = {**result.values, "wise_share": chosen, "wise_curve": curve}
        return replace(result, model=model, values=values)


class Replaying(Trained):
    """A training with frozen groups, whose output is computed once.

    Attributes:
        prefix: `auto` computes the frozen groups once for each row and replays them; `off` runs
            them in every step.
    """

    prefix: Literal["auto", "off"] = "auto"

    @property
    def _replays(self) -> bool:
        return self.prefix == "auto"


def fitted(backbone: Backbone, job: Job, history: History) -> Fitted:
    """What came of a job, as a strategy returns it."""
    model = EncoderModel(backbone, job.head, job.view.label_names, encoder=job.encoder.eval())
    return Fitted(
        model,
        job.table.trainable,
        history=history.epochs,
        rates=[dict(row) for row in job.table.to_rows()],
        values={"best_epoch": history.best_epoch, "batch_size": job.recipe.batch_size},
        stopped=history.stopped,
        epochs=passes(history, job),
        seconds=history.seconds,
    )

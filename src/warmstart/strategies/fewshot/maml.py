"""A start from which a few gradient steps on a few rows are enough, learned over episodes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from warmstart.backbones import Backbone, Encoder
from warmstart.core import NotApplicable, Run, progress, typical
from warmstart.data import View
from warmstart.models import EncoderModel, Head, HeadShape
from warmstart.training import (
    Checkpoints,
    EarlyStopping,
    LoopState,
    RateTable,
    StepOutput,
    announce,
    fit_loop,
    make_optimizer,
    make_schedule,
    measure_steps,
    rate_table,
)

from ..base import Cost, Fitted, Strategy
from ..peft.adapter import Adapter
from ..peft.table import family_of, require
from ..recipe import Epochs
from ..registry import register
from .episodes import eligible
from .maml_adapter import AdapterJob, adapter_job
from .meta import EpisodeBatch, EpisodeLoader, MetaHead, Start

__all__ = ["Maml"]

_STEPS_A_PASS, _PASSES, _ADAPTER_PASSES = 25, 12, 4
_GRID = (0, 1, 2, 3, 5, 10, 20, 50, 100)


@register
class Maml(Strategy):
    """MAML over the backbone's head or adapters: a start from which few steps on few rows suffice.

    The backbone stays frozen. With `over=head` its vectors are computed once; what is meta-learned
    is a head with one hidden layer (its weights before any task, and the inner rates). With
    `over=adapter` it is bottleneck adapters in the backbone (Houlsby et al., 2019) below a linear
    head: many times slower, since every inner step passes the whole backbone. Both learn by
    episodes of the training rows: adapt to the support by `inner_steps`, judge on the queries, move
    the start (Finn et al., 2017). `order` first takes the inner gradients as constants, which is
    cheaper. At the end the start is adapted to all training rows, by as many steps as validation
    likes best (`inner_steps` where there is none).

    What it can give here: MAML was made for many tasks of different classes, and this task has one
    fixed set. Episodes draw classes, their order and rows anew, so the hidden layer learns which
    directions tell such classes apart after a few steps, not which class is which. The output layer
    therefore starts at the support's class means, or at zero, and never from memory. No class from
    outside is seen: expect it near prototypes and the probe, ahead of them where classes are many
    and rows few, and not a substitute for pretraining on other tasks.

    Needs: two rows or more in two classes or more. Pick when: many classes with some 5 to 50 rows.

    Attributes:
        over: `head` or `adapter`.
        order: `second` (through the inner gradients) or `first`.
        hidden: Width of the hidden layer of `over=head`.
        width: Length of the bottlenecks' inner vector, of `over=adapter`.
        start: Where the output layer starts in each task: `prototypes` or `zero`.
        way: Classes an episode, 2 or more, or `auto`: five, or as many as there are.
        shots: Support rows a class, or `auto`: half of a class's rows, five at most.
        queries: Query rows a class at most, 1 to 1,000.
        tasks: Episodes an outer step, 1 to 1,000.
        inner_steps: Gradient steps on the support, 1 to 50.
        inner_rate: Their rate at first.
        learn_rates: Whether a rate for each tensor is learned (Meta-SGD, Li et al., 2017).
        rate: Of the outer loop (AdamW).
        epochs: Passes of 25 outer steps at most, or `auto`: 12, and 4 over adapters.
        patience: Passes without a better validation loss before training stops.
    """

    name: ClassVar[str] = "maml"
    title: ClassVar[str] = "MAML"
    uses_features: ClassVar[bool] = True
    over: Literal["head", "adapter"] = "head"
    order: Literal["first", "second"] = "second"
    hidden: int = Field(64, ge=1, le=65_536, json_schema_extra=typical("32 to 256"))
    width: int = Field(16, ge=1, le=65_536, json_schema_extra=typical("8 to 64"))
    start: Start = "prototypes"
    way: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    shots: PositiveInt | Literal["auto"] = "auto"
    queries: int = Field(10, ge=1, le=1_000, json_schema_extra=typical("5 to 15"))
    tasks: int = Field(4, ge=1, le=1_000, json_schema_extra=typical("2 to 16"))
    inner_steps: int = Field(3, ge=1, le=50, json_schema_extra=typical("1 to 10"))
    inner_rate: PositiveFloat = 0.1
    learn_rates: bool = True
    rate: PositiveFloat = 1e-3
    epochs: Epochs | Literal["auto"] = "auto"
    patience: PositiveInt = 4

    def check(self, backbone: Backbone, view: View) -> None:
        """Episodes need classes with a row to learn from and one to be judged on.

        Raises:
            NotApplicable: When there are too few of them, or no adapters for the family.
        """
        self._shape(view)
        if self.over == "adapter":
            require(family_of(backbone), "adapter", name=backbone.name)

    def trains(self, encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
        """The adapters, after putting them in; nothing of the backbone with `over=head`."""
        if self.over == "head":
            return []
        return Adapter(width=self.width).trains(encoder)

    def _shape(self, view: View) -> tuple[int, int, dict[int, np.ndarray]]:
        """Way and shots, and the rows of the classes that have enough."""
        labels_N = view.train.labels_N
        counts = sorted((len(rows) for rows in eligible(labels_N, 1).values()), reverse=True)
        if len(counts) < 2:
            raise NotApplicable(
                "maml's episodes need two rows or more in two classes or more, "
                f"and {len(counts)} of {view.n_classes} classes have them; prototypes and knn work"
            )
        usual = max(1, min(5, int(np.median(counts)) // 2, counts[1] - 1))
        shots = usual if self.shots == "auto" else int(self.shots)
        rows = eligible(labels_N, shots)
        way = min(5, len(rows)) if self.way == "auto" else self.way
        if way < 2 or len(rows) < way:
            raise NotApplicable(
                f"maml's {max(way, 2)}-way {shots}-shot episodes need {max(way, 2)} classes of "
                f"{shots + 1} training rows or more, and {len(rows)} have them; lower way or shots"
            )
        return way, shots, rows

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps, and one adaptation to all rows."""
        job = self._job(backbone, view, run)
        cost = measure_steps(**job.parts)
        begin = time.perf_counter()
        job.judge()
        overhead = time.perf_counter() - begin
        return Cost(cost.seconds, _STEPS_A_PASS, self._passes, overhead, cost.peak_bytes)

    @property
    def _passes(self) -> int:
        usual = _PASSES if self.over == "head" else _ADAPTER_PASSES
        return usual if self.epochs == "auto" else self.epochs

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Meta-learn the start, adapt it to all training rows."""
        self.check(backbone, view)
        job = self._job(backbone, view, run)
        if self.over == "head":
            progress.note(
                f"The backbone {backbone.name} is frozen whole: its vectors are computed once, and "
                "the table below is that of the head."
            )
        announce(job.table)
        steps = self._passes * _STEPS_A_PASS
        if run.max_steps is not None:
            steps = min(steps, run.max_steps)
        judged = len(view.validation) > 0
        history = fit_loop(
            **job.parts,
            epochs=self._passes,
            schedules=make_schedule("cosine", steps, 0.1),
            evaluate=job.evaluate if judged else None,
            callbacks=[EarlyStopping("validation_loss", patience=self.patience, skip_frozen=True)]
            if judged
            else [],
            checkpoints=Checkpoints(skip_frozen=True),
            name=self.title,
        )
        model, taken = job.model()
        shown = {name: round(value, 5) for name, value in job.learner.shown_rates().items()}
        return Fitted(
            model,
            job.table.trainable + sum(p.numel() for p in model.head.output.parameters()),
            history=history.epochs,
            rates=[dict(row) for row in job.table.to_rows()],
            values={
                "way": job.way, "shots": job.shots, "steps_taken": taken, "inner_rates": shown,
                "best_epoch": history.best_epoch,
            },
            stopped=history.stopped,
            epochs=history.steps / _STEPS_A_PASS,
            seconds=history.seconds,
        )  # fmt: skip

    def _job(self, backbone: Backbone, view: View, run: Run) -> _Job | AdapterJob:
        way, shots, rows = self._shape(view)
        if self.over == "adapter":
            return adapter_job(
                backbone, view, run, rows_by_class=rows, width=self.width, way=way, shots=shots,
                queries=self.queries, tasks=self.tasks, start=self.start,
                inner_steps=self.inner_steps, inner_rate=self.inner_rate,
                second=self.order == "second", learn_rates=self.learn_rates, rate=self.rate,
                steps=_STEPS_A_PASS,
            )  # fmt: skip
        train_ND = torch.as_tensor(np.array(backbone.features(view.train).vectors_ND))
        held_MD = torch.as_tensor(np.array(backbone.features(view.validation).vectors_ND))
        mean_D = train_ND.mean(dim=0)
        scale = (train_ND - mean_D).square().mean().sqrt().clamp(min=1e-6)
        train_ND, held_MD = (train_ND - mean_D) / scale, (held_MD - mean_D) / scale
        shape = HeadShape(dimension=train_ND.shape[1], classes=view.n_classes, hidden=self.hidden)
        learner = MetaHead(
            Head(shape, run.streams), start=self.start, steps=self.inner_steps,
            rate=self.inner_rate, second=self.order == "second", learn_rates=self.learn_rates,
        )  # fmt: skip
        table = rate_table({"head": learner.learned()}, 1.0, rates={"head": self.rate})
        loader = EpisodeLoader(
            train_ND, view.train.labels_N, rows, way=way, shots=shots, queries=self.queries,
            tasks=self.tasks, steps=_STEPS_A_PASS, streams=run.streams,
        )  # fmt: skip
        parts: dict[str, Any] = {
            "step": _step,
            "modules": {"model": learner},
            "optimizers": make_optimizer(table, weight_decay=0.0),
            "loaders": loader,
            "run": run,
            "clip": 1.0,
            "mixed_precision": "no",  # the network is tiny, and its gradients are differentiated
        }
        return _Job(
            learner, table, parts, backbone, view.label_names, shape, way, shots, self.inner_steps,
            (train_ND, torch.as_tensor(np.array(view.train.labels_N))),
            (held_MD, torch.as_tensor(np.array(view.validation.labels_N))),
            (mean_D, scale),
        )  # fmt: skip


def _step(batch: EpisodeBatch, state: LoopState) -> StepOutput:
    loss, accuracy = state.modules["model"](batch)
    return StepOutput(loss, {"accuracy": accuracy})


@dataclass(frozen=True)
class _Job:
    """One meta-learning: the learner, its rows, and the way to the final head."""

    learner: MetaHead
    table: RateTable
    parts: dict[str, Any]
    backbone: Backbone
    label_names: tuple[str, ...]
    shape: HeadShape
    way: int
    shots: int
    inner_steps: int
    train: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    standard: tuple[Tensor, Tensor]

    def judge(self) -> None:
        """One adaptation to all rows, as it is made after every pass."""
        self.best(self.learner)

    def model(self) -> tuple[EncoderModel, int]:
        """The start adapted to all training rows, by the steps that validation likes best."""
        taken, now, _ = self.best(self.learner)
        return EncoderModel(self.backbone, self.head(now), self.label_names), taken

    def best(self, learner: MetaHead) -> tuple[int, dict[str, Tensor], dict[str, float]]:
        """Adapt to all training rows: steps taken, parameters, metrics on validation."""
        device = learner.log_scale.device
        x_ND, y_N = (value.to(device) for value in self.train)
        x_MD, y_M = (value.to(device) for value in self.held)
        grid = _GRID if len(y_M) else (self.inner_steps,)
        found: tuple[int, dict[str, Tensor], dict[str, float]] | None = None
        for steps, now in learner.path(x_ND, y_N, self.shape.classes, grid):
            with torch.no_grad():
                logits_MC = learner.logits(now, x_MD)
                loss = float(functional.cross_entropy(logits_MC, y_M)) if len(y_M) else 0.0
                hits = float((logits_MC.argmax(dim=1) == y_M).float().sum()) / max(1, len(y_M))
            if found is None or loss < found[2]["validation_loss"]:
                found = steps, now, {"validation_loss": loss, "validation_accuracy": hits}
        assert found is not None
        return found

    def evaluate(self, state: LoopState) -> Mapping[str, float]:
        """What the start is worth: validation metrics after adapting to the training rows."""
        learner = state.plain["model"]
        assert isinstance(learner, MetaHead)
        state.pause_point()
        return self.best(learner)[2]

    def head(self, now: dict[str, Tensor]) -> Head:
        """A head of these parameters that reads raw vectors: W' = W / s, b' = b - W'·mean."""
        head = Head(self.shape)
        head.load_state_dict({name: value.cpu() for name, value in now.items()})
        mean_D, scale = self.standard
        assert head.hidden is not None
        with torch.no_grad():
            head.hidden.weight.div_(scale)
            head.hidden.bias.sub_(head.hidden.weight @ mean_D)
        return head.eval()

"""Contrastive fine-tuning of the encoder on pairs, then a logistic head on its new vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat
from scipy.special import log_softmax

from warmstart.backbones import Backbone, Encoder, embed_inputs
from warmstart.core import NotApplicable, Run, typical
from warmstart.data import Dataset, View
from warmstart.models import EncoderModel, Head
from warmstart.models.encoder import RowInputs
from warmstart.objectives import cosine_pair_loss, supervised_contrastive
from warmstart.training import (
    Batch,
    Checkpoints,
    ExampleRows,
    LoopState,
    RateTable,
    StepFunction,
    StepOutput,
    announce,
    discriminative_rates,
    fit_loop,
    make_optimizer,
    make_schedule,
    measure_steps,
    rate_table,
)

from ..base import Cost, Fitted, Strategy
from ..logistic import L2_GRID, LogisticFit, fit_logistic
from ..recipe import Epochs, epochs_for
from ..registry import register
from .pairs import PairLoader

__all__ = ["SetFit", "pair_step"]

_STEPS, _MOST = 200, 20
_ENOUGH = 2  # validation rows a class from which on they choose the head's penalty


@register
class SetFit(Strategy):
    """Pull rows of one class together and push classes apart, then solve a linear head (SetFit).

    Each pass pairs every training row with a row of its class and with a row of another one; pairs
    are drawn when they are due and never listed. The whole encoder learns from them; a logistic
    regression on its new vectors is the head (Tunstall et al., 2022, Efficient Few-Shot Learning
    Without Prompts). The head's penalty has the lowest log loss on validation rows where there are
    two a class or more; with fewer it is 1 / N, as SetFit has it. Nothing else looks at them.

    Needs: two rows or more of each class (a lone row is paired with itself). Pick when: about 4 to
    64 labels a class and a sentence encoder; with one label a class, class means do as well.

    Attributes:
        loss: `cosine` (the pair's cosine against 1 or 0, as SetFit) or `supcon` (supervised
            contrastive over all rows of the batch, Khosla et al., 2020).
        temperature: Of `supcon`, 0.01 to 10.
        rate: Rate of the last backbone group.
        factor: By how much each earlier group learns more slowly; 1 for one rate, as SetFit.
        epochs: Passes, each with two pairs a row, or `auto`: about 200 steps, 1 to 20 passes.
        batch_size: Pairs a step, 2 or more; each is two rows.
        schedule: After the warm-up.
        warmup: Share of the steps that the rate rises.
        weight_decay: Decoupled, on matrices only.
        clip: Largest gradient norm.
        l2: Strength of the head's penalty, or `auto`.
    """

    name: ClassVar[str] = "setfit"
    title: ClassVar[str] = "SetFit"
    loss: Literal["cosine", "supcon"] = "cosine"
    temperature: float = Field(0.1, ge=0.01, le=10, json_schema_extra=typical("0.05 to 0.5"))
    rate: PositiveFloat = 2e-5
    factor: float = Field(1.0, ge=1, le=100, json_schema_extra=typical("1 to 3"))
    epochs: Epochs | Literal["auto"] = "auto"
    batch_size: int = Field(16, ge=2, json_schema_extra=typical("8 to 32"))
    schedule: Literal["linear", "cosine", "constant", "slanted-triangular", "one-cycle"] = "linear"
    warmup: float = Field(0.1, ge=0, lt=1, json_schema_extra=typical("0 to 0.2"))
    weight_decay: float = Field(0.01, ge=0, json_schema_extra=typical("0 to 0.1"))
    clip: PositiveFloat = 1.0
    l2: Annotated[float, Field(gt=0, le=1e9)] | Literal["auto"] = Field(
        "auto", json_schema_extra=typical("1e-4 to 10")
    )

    def check(self, backbone: Backbone, view: View) -> None:
        """Pairs of different classes need two of them.

        Raises:
            NotApplicable: When the training rows are of one class.
        """
        if len(np.unique(view.train.labels_N)) < 2:
            raise NotApplicable(
                "setfit pairs rows of different classes, and the training rows are of one class; "
                "zero-shot needs no rows"
            )

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps."""
        self.check(backbone, view)
        job = self._job(backbone, view, run)
        cost = measure_steps(**job.parts)
        return Cost(cost.seconds, len(job.loader), job.epochs, 0.0, cost.peak_bytes)

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train on pairs, embed the training rows anew, solve the head."""
        self.check(backbone, view)
        job = self._job(backbone, view, run)
        announce(job.table)
        steps = job.epochs * len(job.loader)
        if run.max_steps is not None:
            steps = min(steps, run.max_steps)
        history = fit_loop(
            **job.parts,
            epochs=job.epochs,
            schedules=make_schedule(self.schedule, steps, self.warmup),
            checkpoints=Checkpoints(),
            name=self.title,
        )
        encoder = job.encoder.eval()
        solved, chosen_on = self._solve(encoder, view)
        head = Head.linear(solved.weight_CD, solved.bias_C)
        size = sum(p.numel() for p in head.parameters())
        return Fitted(
            EncoderModel(backbone, head, view.label_names, encoder=encoder),
            job.table.trainable + size,
            history=history.epochs,
            rates=[dict(row) for row in job.table.to_rows()],
            values={
                "l2": solved.l2, "l2_chosen_on": chosen_on,
                "pairs": history.steps * self.batch_size,
            },
            stopped=history.stopped,
            epochs=history.steps / len(job.loader),
            seconds=history.seconds,
        )  # fmt: skip

    def _job(self, backbone: Backbone, view: View, run: Run) -> _Job:
        encoder = backbone.load()
        groups = {name: list(encoder.groups.parameters(name)) for name in encoder.groups.names}
        rates = discriminative_rates(groups, self.rate, self.factor)
        table = rate_table(groups, 1.0, rates=rates, module=encoder)
        rows = ExampleRows(view.train, encoder.preprocess, streams=run.streams)
        loader = PairLoader(rows, view.train.labels_N, self.batch_size, streams=run.streams)
        epochs = self.epochs
        if epochs == "auto":
            epochs = epochs_for(
                2 * len(view.train), self.batch_size, steps=_STEPS, least=1, most=_MOST
            )
        parts = {
            "step": pair_step(self.loss, self.temperature),
            "modules": {"model": encoder},
            "optimizers": make_optimizer(table, weight_decay=self.weight_decay),
            "loaders": loader,
            "run": run,
            "clip": self.clip,
        }
        return _Job(encoder, table, loader, epochs, parts)

    def _solve(self, encoder: Encoder, view: View) -> tuple[LogisticFit, str]:
        """The head, and what chose its penalty."""
        train, held, classes = view.train, view.validation, view.n_classes
        vectors_ND = _embed(encoder, train)

        def solve(l2: float) -> LogisticFit:
            return fit_logistic(vectors_ND, train.labels_N, classes, ids=train.ids, l2=l2)

        if self.l2 != "auto":
            return solve(float(self.l2)), "the settings"
        if len(held) < _ENOUGH * classes:
            return solve(1.0 / len(train)), "the number of rows"
        held_MD, truth_M = _embed(encoder, held), held.labels_N

        def loss(fit: LogisticFit) -> float:
            logp_MC = log_softmax(held_MD @ fit.weight_CD.T + fit.bias_C, axis=1)
            return -float(logp_MC[np.arange(len(truth_M)), truth_M].mean())

        return min((solve(l2) for l2 in L2_GRID), key=loss), "validation"


@dataclass(frozen=True)
class _Job:
    """What the loop and the measurement share."""

    encoder: Encoder
    table: RateTable
    loader: PairLoader
    epochs: int
    parts: dict[str, Any]


def pair_step(loss: Literal["cosine", "supcon"], temperature: float) -> StepFunction:
    """The loss of a batch of pairs: left rows first, then their partners.

    Args:
        loss: See `SetFit.loss`.
        temperature: Of `supcon`.
    """

    def step(batch: Batch, state: LoopState) -> StepOutput:
        vectors_BD = state.modules["model"](batch.inputs)
        if loss == "supcon":
            value = supervised_contrastive(vectors_BD, batch.labels_B, temperature=temperature)
            return StepOutput(value)
        left_PD, right_PD = vectors_BD.chunk(2)
        left_P, right_P = batch.labels_B.chunk(2)
        return StepOutput(cosine_pair_loss(left_PD, right_PD, left_P == right_P))

    return step


def _embed(encoder: Encoder, rows: Dataset) -> np.ndarray:
    return embed_inputs(encoder, RowInputs(rows))
